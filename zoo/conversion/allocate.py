"""Choose the bits of each layer's spikes by what rounding them costs, under a budget of operations.

Over T timesteps a neuron whose spikes have b bits can say N + 1 values, N = T (2**b - 1). Two
figures for each layer l and each b, from the ANN on calibration images:

    damage  D(l, b) = E (logits of the ANN with layer l alone rounded to N levels - its logits)^2
    cost    C(l, b) = T sum over neurons of E[bits set in a spike] times the synapses that read it

Damages are taken to add up, as errors that are independent do. Every layer begins with the fewest
bits; then the step that takes away most damage for each operation it costs is taken, again and
again, while the sum of all costs is at most `budget` times what it was at first (AdaFire, AAAI
2025, chooses the burst limits of its neurons by such a trade).

Nothing here knows which layers a network has. In residual networks the stem and the neurons behind
the sums, which every later block reads through identity shortcuts, come out first.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.conversion.methods.base import Job
from zoo.networks.pixels import image_table, look_up
from zoo.networks.quantise import quantise
from zoo.networks.resnet import activate, pool_activations, preactivation
from zoo.networks.topology import Layer, Topology
from zoo.progress import Progress

# Pixels of all images that damages are measured on: 128 images of CIFAR, at least 8 of ImageNet.
_PIXELS = 2**17
_FEWEST = 8


@dataclass(frozen=True)
class Choice:
    """The bits of each layer.

    Attributes:
        bits: by layer.
        cost: of all layers, relative to the fewest bits everywhere.
        damage: summed over layers, relative to the same.
    """

    bits: dict[str, int]
    cost: float
    damage: float


def choose_bits(
    job: Job,
    theta: Mapping[int, Mapping[str, Tensor]],
    sample: Mapping[str, Tensor],
    budget: float,
    only: Container[str] | None = None,
) -> Choice:
    """Return the bits of each layer's spikes.

    Args:
        theta: for each number of bits the thresholds `[C]` of each layer, as in `BuildSpec`.
        sample: activations of each layer, `[C, N]`.
        budget: synaptic operations, relative to those with the fewest bits everywhere.
        only: layers that may have more than the fewest bits; None for all.
    """
    net, timesteps = job.checkpoint.net, job.request.timesteps
    damage = measure_damage(job, theta, only)
    cost = estimate_cost(net, job.prep.input_size[1:], theta, sample, timesteps)
    bits = spend(damage, cost, budget)
    least = min(theta)

    def relative(table: Mapping[str, Mapping[int, float]]) -> float:
        first = sum(values[least] for values in table.values())
        return sum(table[name][b] for name, b in bits.items()) / max(first, 1e-12)

    return Choice(bits, relative(cost), relative(damage))


def spend(
    damage: Mapping[str, Mapping[int, float]],
    cost: Mapping[str, Mapping[int, float]],
    budget: float,
) -> dict[str, int]:
    """Return the bits of each layer that `budget` buys, best step for its operations first.

    Args:
        damage, cost: by layer and bits.
    """
    bits = {name: min(values) for name, values in damage.items()}
    spent = sum(cost[name][b] for name, b in bits.items())
    limit = budget * spent
    while True:
        best: tuple[float, str, int] | None = None
        for name, now in bits.items():
            for more in damage[name]:
                price = cost[name][more] - cost[name][now]
                gain = damage[name][now] - damage[name][more]
                if more <= now or gain <= 0 or spent + price > limit:
                    continue
                # A step that costs nothing, as one of the last layer's, which no synapse reads.
                worth = gain / max(price, 1e-9)
                if best is None or worth > best[0]:
                    best = (worth, name, more)
        if best is None:
            return bits
        _, name, more = best
        spent += cost[name][more] - cost[name][bits[name]]
        bits[name] = more


@torch.inference_mode()
def measure_damage(
    job: Job, theta: Mapping[int, Mapping[str, Tensor]], only: Container[str] | None = None
) -> dict[str, dict[int, float]]:
    """Return the mean squared error of the logits with one layer rounded, by layer and bits.

    Args:
        only: layers of which more than the fewest bits are tried; None for all.
    """
    net, params = job.checkpoint.net, job.checkpoint.params
    _, height, width = job.prep.input_size
    count = max(_FEWEST, _PIXELS // (height * width))
    image = look_up(image_table(job.mean, job.std, integer=False), job.pixels[:count])
    live = {net.layers[0].source: image}
    rounded: list[tuple[str, int, Tensor]] = []
    found: dict[str, dict[int, float]] = {}
    for index, layer in enumerate(net.layers):
        activation = _activation(layer, params, live)
        found[layer.name] = {}
        for bits, thresholds in theta.items():
            if bits > min(theta) and not (only is None or layer.name in only):
                continue
            levels = job.request.timesteps * (2**bits - 1)
            value = quantise(activation, thresholds[layer.name], levels)
            logits = _rest(net, params, dict(live), index, value)
            rounded.append((layer.name, bits, logits))
        _add(net, live, layer.name, activation)
        for name in net.released_after(index):
            del live[name]
        _report(job.report, index + 1, len(net.layers))
    exact = _logits(net, params, live)
    for name, bits, logits in rounded:
        found[name][bits] = (logits - exact).square().mean().item()
    return found


def estimate_cost(
    net: Topology,
    size: tuple[int, int],
    theta: Mapping[int, Mapping[str, Tensor]],
    sample: Mapping[str, Tensor],
    timesteps: int,
) -> dict[str, dict[int, float]]:
    """Return the synaptic operations that a layer's spikes cause, of one image, by layer and bits.

    Args:
        size: height and width of the images.
    """
    sizes = net.sizes(*size)
    found = {}
    for layer in net.layers:
        synapses = 0
        for reader in net.layers:
            size, width = sizes[reader.name], reader.out_channels
            if net.origin(reader.source) == layer.name:
                reach = (reader.kernel, reader.stride, reader.padding)
                taps = _taps(sizes[reader.source], size, *reach)
                synapses += layer.out_channels * width // reader.groups * taps
            side = reader.shortcut
            if side is not None and net.origin(side.source) == layer.name:
                if side.kind == "projection":
                    taps = _taps(sizes[side.source], size, side.kernel, side.stride, side.padding)
                    synapses += layer.out_channels * width * taps
                else:
                    synapses += layer.out_channels * size[0] * size[1]
        found[layer.name] = {
            bits: timesteps * synapses * _bits_set(sample[layer.name], thresholds[layer.name], bits)
            for bits, thresholds in theta.items()
        }
    return found


def _taps(
    size: tuple[int, int], out: tuple[int, int], kernel: int, stride: int, padding: int
) -> int:
    """Return how many taps of a convolution, over all its outputs, are not in the padding."""
    height, width = (
        sum(0 <= y * stride - padding + tap < n for y in range(m) for tap in range(kernel))
        for n, m in zip(size, out, strict=True)
    )
    return height * width


def _bits_set(sample: Tensor, theta: Tensor, bits: int) -> float:
    """Return the mean number of bits set in a spike of neurons whose activations are `[C, N]`.

    Between two levels a neuron's spikes are the one or the other, so that their mean is right.
    """
    most = 2**bits - 1
    level = (sample * (most / theta[:, None])).clamp_(0, most)
    whole = level.floor()
    share = level - whole
    set_in = torch.tensor([value.bit_count() for value in range(most + 2)], dtype=level.dtype)
    low, high = set_in[whole.long()], set_in[(whole + 1).clamp_max_(most).long()]
    return (low * (1 - share) + high * share).mean().item()


def _activation(layer: Layer, params: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor:
    source = live[layer.shortcut.source] if layer.shortcut else None
    return activate(layer, params, preactivation(layer, params, live[layer.source], source))


def _add(net: Topology, live: dict[str, Tensor], name: str, activation: Tensor) -> None:
    """Add a layer's output to `live`, and what poolings make of it."""
    live[name] = activation
    for pool in net.pools_behind(name):
        live[pool.name] = pool_activations(activation, pool)


def _rest(
    net: Topology,
    params: Mapping[str, Tensor],
    live: dict[str, Tensor],
    index: int,
    activation: Tensor,
) -> Tensor:
    """Return the logits when the layer at `index` has this output and later ones run on it."""
    for later in range(index, len(net.layers)):
        layer = net.layers[later]
        if later > index:
            activation = _activation(layer, params, live)
        _add(net, live, layer.name, activation)
        for name in net.released_after(later):
            del live[name]
    return _logits(net, params, live)


def _logits(net: Topology, params: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Tensor:
    pooled = live[net.output].mean((2, 3))
    return torch.nn.functional.linear(pooled, params["fc.weight"], params["fc.bias"])


def _report(report: Progress, done: int, total: int) -> None:
    report("measuring what rounding costs", done, total)
