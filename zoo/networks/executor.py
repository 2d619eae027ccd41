"""Running the layers of a network over windows of timesteps, whatever the backend.

Within a window each layer takes all its timesteps at once, so only one window of spikes exists for
the layers that are still read, and one membrane per layer for the chunk of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.kernels.spiking_conv import PoolState
from zoo.networks.backends import LayerBackend
from zoo.networks.topology import IMAGE, Topology

OnSpikes = Callable[[str, Tensor], None]
Counts = dict[int, dict[str, Tensor]]


def run_causal(
    topology: Topology,
    backend: LayerBackend,
    x: Tensor,
    size: tuple[int, int],
    timesteps: int,
    *,
    window: int,
    snapshot_steps: Sequence[int] = (),
    on_spikes: OnSpikes | None = None,
) -> tuple[Tensor, Counts]:
    """Run a causal network on one chunk of images.

    Args:
        x: of `LayerBackend.stem_input`.
        size: height and width of the images.
        snapshot_steps: timesteps after which spikes per neuron are reported.
        on_spikes: called with each layer's name and a copy of its spikes, int8 `[T, B, C, H, W]`,
            in each window.

    Returns:
        Net spikes of the last layer summed over its area, integers `[T, B, C]`; and for each
        snapshot step, layer and pooling the spikes per neuron so far, int64 `[C, H, W]`.
    """
    sizes = topology.sizes(*size)
    names = [layer.name for layer in topology.layers]
    membranes = {name: backend.membrane(name, len(x), sizes[name], timesteps) for name in names}
    poolings = {pool.name: PoolState() for pool in topology.pools}
    counters: dict[str, Tensor] = {}
    if snapshot_steps:
        counted = (*names, *(pool.name for pool in topology.pools if pool.kind == "max"))
        counters = {name: backend.counter(name, sizes[name]) for name in counted}
    pooled, snapshots = [], {}
    for begin, end in windows(timesteps, window, snapshot_steps):
        more = end < timesteps
        states = membranes, poolings, counters
        last = run_layers(topology, backend, x, end - begin, more, *states, on_spikes)
        pooled.append(backend.pooled(last))
        if end in snapshot_steps:
            found = {name: backend.total(counter) for name, counter in counters.items()}
            snapshots[end] = found | _area_sums(topology, found)
    return torch.cat(pooled), snapshots


def run_layers(
    topology: Topology,
    backend: LayerBackend,
    x: Tensor,
    steps: int,
    more: bool,
    membranes: Mapping[str, Any],
    poolings: Mapping[str, PoolState],
    counters: Mapping[str, Tensor],
    on_spikes: OnSpikes | None,
) -> Any:
    """Run all layers through one window; return what the classifier reads, in the backend's form.

    Args:
        steps: timesteps of the window.
        more: whether another window follows.
        membranes, poolings: states of layers and poolings; updated in place.
        counters: spikes per neuron by layer and pooling, added to; what is missing is not counted.
    """
    out: dict[str, Any] = {}
    for index, layer in enumerate(topology.layers):
        stem = layer.source == IMAGE
        spikes = backend.spikes(
            layer.name,
            x if stem else out[layer.source],
            out[layer.shortcut.source] if layer.shortcut else None,
            membranes[layer.name],
            steps=steps if stem else None,
            more=more,
            counter=counters.get(layer.name),
        )
        if on_spikes is not None:
            on_spikes(layer.name, backend.dense(spikes))
        out[layer.name] = spikes
        for pool in topology.pools_behind(layer.name):
            state, counter = poolings[pool.name], counters.get(pool.name)
            out[pool.name] = backend.pool(pool, spikes, state, counter)
        for name in topology.released_after(index):
            out.pop(name, None)  # the image is not among them
    return out[topology.output]


def _area_sums(topology: Topology, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the spikes that go into each average, `[C, 1, 1]`."""
    return {
        pool.name: counts[pool.source].sum((1, 2), keepdim=True)
        for pool in topology.pools
        if pool.kind == "average"
    }


def run_layerwise(
    topology: Topology,
    backend: LayerBackend,
    x: Tensor,
    timesteps: int,
    *,
    count_spikes: bool = False,
    on_spikes: OnSpikes | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a layerwise network on one chunk of images.

    Args:
        x: of `LayerBackend.stem_input`: the stem's spike counts.
        on_spikes: called with each layer's name and a copy of its spike counts, `[B, C, H, W]`.

    Returns:
        Spikes of the last layer summed over its area, int64 `[B, C]`; and, with `count_spikes`,
        the spikes per neuron of each layer and pooling, int64 `[C, H, W]`.
    """
    out: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    for index, layer in enumerate(topology.layers):
        counts = x
        if layer.source != IMAGE:
            shortcut = out[layer.shortcut.source] if layer.shortcut else None
            counts = backend.counts(layer.name, out[layer.source], shortcut, timesteps)
        dense = backend.nchw(counts)
        if count_spikes:
            totals[layer.name] = dense.sum(0, dtype=torch.int64)
        if on_spikes is not None:
            on_spikes(layer.name, dense.clone())
        out[layer.name] = counts
        for pool in topology.pools_behind(layer.name):
            out[pool.name] = backend.pool_counts(pool, counts)
            if count_spikes and pool.kind == "max":
                dense = backend.nchw(out[pool.name])
                totals[pool.name] = dense.sum(0, dtype=torch.int64)
        for name in topology.released_after(index):
            out.pop(name, None)  # the image is not among them
    if count_spikes:
        totals |= _area_sums(topology, totals)
    return backend.nchw(out[topology.output]).sum((2, 3), dtype=torch.int64), totals


def windows(
    timesteps: int, window: int, snapshot_steps: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each window of a run, none of which crosses a snapshot step."""
    begin = 0
    while begin < timesteps:
        end = min([begin + window, timesteps, *(step for step in snapshot_steps if step > begin)])
        yield begin, end
        begin = end
