"""A spiking layer on a CPU with compiled neurons; spikes are those of `SpikingConv`.

A convolution takes as many timesteps at once as leave currents in the cache, and the neurons of
those timesteps follow in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .compiled import CompiledNeuron
from .reference import Membrane, SpikingConv, convolve


def can_run(layer: SpikingConv) -> bool:
    """Return whether compiled neurons run a layer.

    Integer ones on a CPU; a float layer keeps the order in which torch rounds.
    """
    return layer.integer and layer.weight.device.type == "cpu"


def run_window(
    layer: SpikingConv,
    neuron: CompiledNeuron,
    x: Tensor,
    shortcut: Tensor | None,
    membrane: Membrane,
    window: int | None = None,
) -> Tensor:
    """Return what `layer.run(x, shortcut, membrane, window)` does."""
    rows = membrane.v.permute(0, 2, 3, 1)
    emitted = None if membrane.emitted is None else membrane.emitted.permute(0, 2, 3, 1)
    steps = len(x) if window is None else window
    main, projection = layer.convolutions(rows.dtype)
    threshold = layer.threshold.to(rows.dtype)
    index = torch.arange(membrane.t, membrane.t + steps).clamp_(max=len(layer.bias) - 1)
    bias = layer.bias[index].to(rows.dtype)
    gain = None if layer.gain is None or shortcut is None else layer.gain.to(rows.dtype)
    spikes = torch.empty((steps, *rows.shape), dtype=torch.uint8)
    group = layer.steps_at_once(membrane.v)
    for begin in range(0, steps, group):
        part = slice(begin, begin + group)
        currents = x if window is not None else convolve(main, x[part])
        projected = source = None
        if shortcut is not None and projection is not None:
            projected = _rows(convolve(projection, shortcut[part]))
        elif shortcut is not None:
            source = identity_source(layer, shortcut[part])
        neuron(
            rows,
            emitted,
            _rows(currents),
            projected,
            source,
            gain,
            bias[part],
            threshold,
            spikes[part],
            layer.max_level,
        )
    membrane.t += steps
    return spikes.movedim(-1, 2).view(torch.int8)


def count_spikes(
    layer: SpikingConv, neuron: CompiledNeuron, x: Tensor, shortcut: Tensor | None, timesteps: int
) -> Tensor:
    """Return what `layer.count(x, shortcut, timesteps)` does, for up to 255 timesteps."""
    dtype = layer.dtype(timesteps)
    main, projection = layer.convolutions(dtype, timesteps)
    currents = _rows(main(x))
    projected = source = None
    if shortcut is not None and projection is not None:
        projected = _rows(projection(shortcut))[None]
    elif shortcut is not None:
        source = identity_source(layer, shortcut[None])
    counts = torch.empty((1, *currents.shape), dtype=torch.uint8)
    neuron(
        None,
        None,
        currents[None],
        projected,
        source,
        None if source is None or layer.gain is None else layer.gain.to(dtype),
        layer.offset(timesteps).to(dtype)[None],
        layer.threshold.to(dtype),
        counts,
        timesteps,
    )
    return counts[0].movedim(-1, 1)


def identity_source(layer: SpikingConv, source: Tensor) -> Tensor:
    """Return the spikes that an identity shortcut adds, `[T, B, H, W, Cout]`, zeros in its pad."""
    stride, pad = layer.shortcut_stride, layer.shortcut_pad
    rows = source.movedim(2, -1)[:, :, ::stride, ::stride]
    return F.pad(rows, (pad, pad)) if pad else rows.contiguous()


def _rows(x: Tensor) -> Tensor:
    return x.movedim(-3, -1).contiguous()
