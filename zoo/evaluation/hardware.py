"""What a network asks of hardware: neurons, synapses, bit widths, memory and operations by layer.

A width is that of a two's complement number (of an unsigned one where nothing is negative). The
accumulator of a neuron holds its potential with the input of one timestep added, before the reset:
`worst` bounds it whatever the image, from the weights; `seen` is what images brought.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.artifact.results import Evaluation
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.evaluation.energy import count_operations, dense_macs, fan_out, footprint
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.observe import run_watched
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE
from zoo.progress import Progress

_BATCH = 64


@dataclass(frozen=True)
class LayerSheet:
    """One layer.

    Attributes:
        neuron: its model; `bits` those of its spike.
        synapses: non-zero weights between outputs that it reads and its neurons, an identity
            shortcut's among them: what an implementation without weight sharing stores.
        parameters: weights that are stored, zeros among them.
        fan_in: non-zero weights of a neuron in the middle of the layer, at most.
        fan_out: non-zero weights that one of its spikes meets, at most; of the last layer the
            classifier's.
        weight_bits, gain_bits, bias_bits, threshold_bits: that hold every value; gain is the weight
            of an identity shortcut, None without one.
        current_bits: that hold what one timestep can bring.
        accumulator_bits: worst case at the sheet's timesteps; `accumulator_seen` on images.
        memory: bytes of weights, biases and thresholds as the artifact's tensors hold them.
        state: bytes of potentials of `accumulator_bits`, one a neuron, and of a `signed` neuron's
            count of its spikes.
        operations: of one image, by timesteps: as `zoo eval` measured them, else as seen on images;
            None where there was neither.
    """

    name: str
    neuron: str
    bits: int
    neurons: int
    synapses: int
    parameters: int
    fan_in: int
    fan_out: int
    weight_bits: int
    gain_bits: int | None
    bias_bits: int
    threshold_bits: int
    current_bits: int
    accumulator_bits: int
    accumulator_seen: int | None
    memory: int
    state: int
    operations: dict[int, float] | None


@dataclass(frozen=True)
class Sheet:
    """A network.

    Attributes:
        timesteps: of the worst case and of what was seen.
        seen_on: the images of `accumulator_seen`, None where there were none.
        layers: in running order.
        neurobench: NeuroBench's names for what they call so (`zoo.evaluation.energy`), of one
            image; those of a run at the most timesteps measured.
    """

    timesteps: int
    seen_on: str | None
    layers: list[LayerSheet]
    neurobench: dict[str, Any]


@torch.inference_mode()
def hardware_sheet(
    network: SpikingResNet,
    timesteps: int,
    *,
    measured: Evaluation | None = None,
    images: ImageSet | None = None,
    progress: Progress | None = None,
) -> Sheet:
    """Return the hardware sheet of an int8 network.

    Args:
        timesteps: of the worst case of accumulators.
        measured: what `zoo eval` measured, for operations.
        images: to see what accumulators hold; a causal network alone.
        progress: called with a stage, images done and images in all.

    Raises:
        UsageError: a float32 network, or images for a layerwise one.
    """
    config = network.config
    if config is None or not network.integer:
        raise UsageError('a float32 network has no bit widths: convert with `numerics="int8"`')
    size = (config.preprocess.input_size[1], config.preprocess.input_size[2])
    seen: dict[str, int] = {}
    counted: dict[str, dict[int, float]] = {}
    if images is not None:
        seen, counted = _seen(network, images, timesteps, progress)
    met, synapses = fan_out(network, *size), _synapses(network, size)
    sizes = network.topology.sizes(*size)
    measured_of = {row.name: row.operations for row in measured.layers} if measured else {}
    head = int((network.head.weight != 0).sum(0).max())
    last = network.topology.layers[-1].name
    rows = []
    for spec in network.topology.layers:
        layer = network.layers[spec.name]
        neurons = spec.out_channels * sizes[spec.name][0] * sizes[spec.name][1]
        worst = _signed(layer.potential_bound(timesteps))
        state = worst + (timesteps.bit_length() if layer.neuron == "signed" else 0)
        out = int(met[spec.name].max()) + (head if spec.name == last else 0)
        rows.append(
            LayerSheet(
                name=spec.name,
                neuron=layer.neuron,
                bits=layer.bits,
                neurons=neurons,
                synapses=synapses[spec.name],
                parameters=layer.weight.numel()
                + sum(t.numel() for t in (layer.projection, layer.gain) if t is not None),
                fan_in=_fan_in(layer),
                fan_out=out,
                weight_bits=_width(layer.weight, layer.projection),
                gain_bits=None if layer.gain is None else _width(layer.gain),
                bias_bits=_width(layer.bias),
                threshold_bits=_width(layer.threshold),
                current_bits=_signed(layer.current_bound),
                accumulator_bits=worst,
                accumulator_seen=seen.get(spec.name),
                memory=sum(
                    t.numel() * t.element_size()
                    for t in (
                        layer.weight,
                        layer.bias,
                        layer.threshold,
                        layer.v_init,
                        layer.gain,
                        layer.projection,
                    )
                    if t is not None
                ),
                state=-(-neurons * state // 8),
                operations=measured_of.get(spec.name) or counted.get(spec.name),
            )
        )
    found = None if images is None else images.description
    return Sheet(timesteps, found, rows, _neurobench(network, size, measured))


def _neurobench(
    network: SpikingResNet, size: tuple[int, int], measured: Evaluation | None
) -> dict[str, Any]:
    weights = [
        t
        for layer in network.layers.values()
        for t in (layer.weight, layer.projection)
        if t is not None
    ] + [network.head.weight]
    zeros = sum(int((t == 0).sum()) for t in weights)
    facts: dict[str, Any] = {
        "Footprint": footprint(network),
        "ConnectionSparsity": zeros / sum(t.numel() for t in weights),
        "Dense": dense_macs(network, *size),
    }
    if measured is not None:
        best = measured.best
        facts |= {
            "ActivationSparsity": measured.activation_sparsity,
            "Effective_MACs": best.effective_macs,
            "Effective_ACs": best.effective_acs,
            "timesteps": best.timesteps,
        }
    return facts


def _synapses(network: SpikingResNet, size: tuple[int, int]) -> dict[str, int]:
    """Return by layer how many non-zero weights meet an output, each output counted once."""
    net, sizes = network.topology, network.topology.sizes(*size)

    def ones(name: str) -> Tensor:
        shape = (net.channels[name], *sizes[name])
        return torch.ones(shape, dtype=torch.int64, device=network.device)

    every = {spec.name: ones(spec.name) for spec in net.layers}
    for pool in net.pools:
        whole = every[pool.source].sum((1, 2), keepdim=True)
        every[pool.name] = ones(pool.name) if pool.kind == "max" else whole
    return count_operations(network, every, ones(IMAGE))


def _fan_in(layer: SpikingConv) -> int:
    rows = (layer.weight != 0).flatten(1).sum(1)
    if layer.projection is not None:
        rows = rows + (layer.projection != 0).flatten(1).sum(1)
    if layer.gain is not None:
        rows = rows + (layer.gain != 0)
    return int(rows.max())


def _seen(
    network: SpikingResNet, images: ImageSet, timesteps: int, progress: Progress | None
) -> tuple[dict[str, int], dict[str, dict[int, float]]]:
    """Return by layer the bits of the largest accumulator that images brought, and operations."""
    assert network.config is not None
    prep = Preprocess.of(network.config)
    fired: dict[tuple[str, int], Tensor] = {}
    bits: dict[str, int] = {}
    counts: dict[str, int] = {}

    def look(kind: str, name: str, first: int, values: Tensor) -> None:
        if (name, first) not in fired:
            fired[name, first] = values
            return
        other = fired.pop((name, first))
        spikes, potential = (values, other) if kind == "spikes" else (other, values)
        theta = network.layers[name].threshold.view(-1, 1, 1).to(torch.int64)
        before = potential + theta * spikes
        bits[name] = max(bits.get(name, 1), _width(before))

    for start in range(0, len(images), _BATCH):
        batch = images.batch(slice(start, start + _BATCH), prep)
        run_watched(network, batch, timesteps, look, what=("spikes", "potential"))
        active = (network.pixels(batch.to(network.device)) != 0).sum(0)
        spikes = network.run(batch, timesteps, snapshots=(timesteps,)).spikes[timesteps]
        for name, count in count_operations(network, spikes, active).items():
            counts[name] = counts.get(name, 0) + count
        if progress is not None:
            progress("watching accumulators", min(start + _BATCH, len(images)), len(images))
    return bits, {name: {timesteps: count / len(images)} for name, count in counts.items()}


def _width(*tensors: Tensor | None) -> int:
    """Return the bits of the narrowest integers that hold all values; unsigned if none is below 0.

    A signed width counts the sign.
    """
    present = [t for t in tensors if t is not None and t.numel()]
    low = min((int(t.min()) for t in present), default=0)
    high = max((int(t.max()) for t in present), default=0)
    if low >= 0:
        return max(1, high.bit_length())
    return max(max(high, 0).bit_length(), (-low - 1).bit_length()) + 1


def _signed(bound: int) -> int:
    """Return the bits of a signed integer that holds -bound to bound."""
    return bound.bit_length() + 1


def totals(sheet: Sheet) -> Mapping[str, int]:
    """Return the sums and largest widths over the layers."""
    rows = sheet.layers
    return {
        "neurons": sum(row.neurons for row in rows),
        "synapses": sum(row.synapses for row in rows),
        "parameters": sum(row.parameters for row in rows),
        "memory": sum(row.memory for row in rows),
        "state": sum(row.state for row in rows),
        "accumulator_bits": max(row.accumulator_bits for row in rows),
    }
