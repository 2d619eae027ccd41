"""Synaptic operations as NeuroBench counts them, and the energy they are modelled to cost at 45 nm.

Definitions (NeuroBench 2.3, arXiv:2304.04640): an effective synaptic operation is a non-zero weight
that meets a non-zero input; with a binary or ternary input it is an accumulate (AC), otherwise a
multiply-accumulate (MAC). Bias, pooling and normalisation are not counted. Here, per image: every
layer behind the stem counts ACs; the stem sees a constant image, is computed once, and counts MACs
once; the classifier reads accumulated counts once and counts MACs. An identity shortcut is a
synapse too: one AC a spike. A layer behind max-pooling reads the spikes that it emits; behind an
average over the area, every spike of the area. A graded spike is as many binary ones, of weights 1,
2, 4, ..., as it has bits set, and as many ACs.

Energy is modelled, not measured: Horowitz, ISSCC 2014, 45 nm: float32 multiply 3.7 pJ, add 0.9 pJ;
int8 multiply 0.2 pJ, int32 add 0.1 pJ; a multiply by b bits costs b/8 of it. Moving data is not
counted, which favours the spiking network (arXiv:2409.08290). The fair rival of T timesteps of
binary spikes is an ANN with int8 weights and activations of ceil(log2(T + 1)) bits; of spikes of b
bits, ceil(log2(T (2**b - 1) + 1)); where layers differ, each activation has the bits of its layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.networks.resnet import identity_shortcut
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE

# Picojoule.
FLOAT_MAC, FLOAT_AC = 4.6, 0.9
INT8_MULTIPLY, INT32_ADD = 0.2, 0.1


@dataclass(frozen=True)
class Operations:
    """Operations of one image.

    Attributes:
        acs: accumulates.
        macs: multiply-accumulates.
        by_layer: of either, by layer; the classifier is "fc".
    """

    acs: float
    macs: float
    by_layer: dict[str, float]


def spiking_operations(
    network: SpikingResNet, spikes: Mapping[str, Tensor], images: int, active_pixels: Tensor
) -> Operations:
    """Return the effective operations per image of a run.

    Args:
        spikes: spikes per neuron `[C, H, W]` of each layer and pooling, summed over `images` images
            and the run's timesteps, on the network's device.
        active_pixels: how often each input pixel's table value was not zero `[C, H, W]`, over the
            same images, on the network's device.
    """
    return per_image(network, count_operations(network, spikes, active_pixels), images)


def count_operations(
    network: SpikingResNet, spikes: Mapping[str, Tensor], active_pixels: Tensor
) -> dict[str, int]:
    """Return the effective operations of each layer over all images of a run.

    Arguments are those of `spiking_operations`; sums over images may be added up.
    """
    counts: dict[str, Tensor] = {}
    for spec in network.topology.layers:
        layer = network.layers[spec.name]
        inputs = active_pixels if spec.source == IMAGE else spikes[spec.source]
        count = _meetings(inputs, layer.weight, spec.stride, spec.padding, spec.groups)
        if spec.shortcut is not None:
            inputs = spikes[spec.shortcut.source]
            if layer.projection is not None:
                side = spec.shortcut
                count = count + _meetings(inputs, layer.projection, side.stride, side.padding)
            else:
                count = count + identity_shortcut(inputs[None], spec.shortcut).sum()
        counts[spec.name] = count
    return whole_numbers(counts)


def whole_numbers(values: Mapping[str, Tensor]) -> dict[str, int]:
    """Return integer tensors without dimensions as numbers, with one copy from their device."""
    numbers = torch.stack(list(values.values())).cpu().tolist()
    return dict(zip(values, numbers, strict=True))


def per_image(network: SpikingResNet, counts: Mapping[str, int], images: int) -> Operations:
    """Return what `count_operations` counted over `images` images, for one image."""
    stem, head = network.topology.layers[0].name, float((network.head.weight != 0).sum().item())
    by_layer = {name: count / images for name, count in counts.items()}
    return Operations(
        sum(by_layer.values()) - by_layer[stem], by_layer[stem] + head, by_layer | {"fc": head}
    )


def _meetings(inputs: Tensor, weight: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """Return how often a non-zero weight meets an input, int64 without dimensions.

    Sums of integers, so exact on every device.

    Args:
        inputs: int64 `[C, H, W]`, how often each position has an input; on the weight's device.
        weight: `[Cout, C / groups, k, k]`.
    """
    kernel = weight.shape[-1]
    windows = F.pad(inputs, [padding] * 4).unfold(1, kernel, stride).unfold(2, kernel, stride)
    # All output channels at once: an input meets as many weights as channels have one there.
    weights = (weight != 0).unflatten(0, (groups, -1)).sum(1).flatten(0, 1)
    return (windows.sum((1, 2)) * weights).sum()


def fan_out(network: SpikingResNet, height: int, width: int) -> dict[str, Tensor]:
    """Return how many non-zero weights each output meets, int64 `[C, H, W]`.

    By layer and max-pooling, whose outputs are spikes, and of the image. Identity shortcuts are
    weights too; the classifier is left out, and so is what a max-pooling reads.

    Args:
        height, width: of the image.
    """
    net = network.topology
    sizes, device = net.sizes(height, width), network.device
    averages = {pool.name: pool for pool in net.pools if pool.kind == "average"}
    met = {
        name: torch.zeros((net.channels[name], *sizes[name]), dtype=torch.int64, device=device)
        for name in (IMAGE, *(s.name for s in net.layers), *(pool.name for pool in net.pools))
    }
    for spec in net.layers:
        layer = network.layers[spec.name]
        into = met[spec.source]
        into += _reached(into, layer.weight, spec.stride, spec.padding, spec.groups)
        if spec.shortcut is None:
            continue
        into, side = met[spec.shortcut.source], spec.shortcut
        if layer.projection is not None:
            into += _reached(into, layer.projection, side.stride, side.padding)
        else:
            into[:, :: side.stride, :: side.stride] += 1
    for name, pool in averages.items():  # every spike of the area is read
        met[pool.source] += met.pop(name)
    return met


def _reached(like: Tensor, weight: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """Return for each position of an input `[C, H, W]` the non-zero weights that meet it."""
    kernel = weight.shape[-1]
    rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in like.shape[1:])
    ones = torch.ones((1, len(weight), rows, columns), device=like.device, dtype=torch.float64)
    ragged = [
        n - ((have - 1) * stride - 2 * padding + kernel)
        for n, have in zip(like.shape[1:], (rows, columns), strict=True)
    ]
    met = F.conv_transpose2d(ones, (weight != 0).double(), None, stride, padding, ragged, groups)
    return met[0].round().long()


def dense_macs(network: SpikingResNet, height: int, width: int) -> float:
    """Return the ANN's multiply-accumulates for one image: every weight at every position.

    The ANN has one of what the spiking network has `stem` of.
    """
    return sum(macs_by_bits(network, height, width).values())


def macs_by_bits(network: SpikingResNet, height: int, width: int) -> dict[int, float]:
    """Return `dense_macs` by the bits of the spikes that stand for what they multiply.

    Those on the image, which no spikes stand for, go with the stem's own.
    """
    net, neurons = network.topology, network.neurons
    sizes, stem = net.sizes(height, width), net.layers[0].name
    total: defaultdict[int, float] = defaultdict(float)
    neurons[IMAGE] = neurons[stem]
    for spec in net.layers:
        rows, columns = (
            (n + 2 * spec.padding - spec.kernel) // spec.stride + 1 for n in sizes[spec.source]
        )
        copies = net.stem if stem in (spec.name, net.origin(spec.source)) else 1
        macs = rows * columns * network.layers[spec.name].weight.numel() / copies
        total[neurons[net.origin(spec.source)].bits] += macs
        projection = network.layers[spec.name].projection
        if projection is not None and spec.shortcut is not None:
            copies = net.stem if net.origin(spec.shortcut.source) == stem else 1
            macs = math.prod(sizes[spec.name]) * projection.numel() / copies
            total[neurons[net.origin(spec.shortcut.source)].bits] += macs
    total[neurons[net.layers[-1].name].bits] += network.head.weight.numel()
    return dict(total)


def modelled_energy(
    acs: float, macs: float, ann_macs: float | Mapping[int, float], timesteps: int
) -> dict[str, float]:
    """Return the energy per image in nanojoule, modelled at 45 nm.

    Args:
        ann_macs: the ANN's multiply-accumulates, by the bits of the spikes that stand for what they
            multiply (`macs_by_bits`); a number is of binary spikes.

    Returns:
        `snn_float` and `ann_float`: the field's usual model, 0.9 pJ an AC and 4.6 pJ a MAC.
        `snn_int8` and `ann_quantised`: int8 weights; the ANN's activations have
        ceil(log2(T (2**b - 1) + 1)) bits for spikes of b bits, which is as precise as T timesteps.
    """
    by_bits = ann_macs if isinstance(ann_macs, Mapping) else {1: ann_macs}

    def multiply(bits: int) -> float:
        levels = timesteps * (2**bits - 1) + 1
        return INT8_MULTIPLY * max(1, math.ceil(math.log2(levels))) / 8 + INT32_ADD

    return {
        "snn_float": (acs * FLOAT_AC + macs * FLOAT_MAC) / 1e3,
        "ann_float": sum(by_bits.values()) * FLOAT_MAC / 1e3,
        "snn_int8": (acs * INT32_ADD + macs * (INT8_MULTIPLY + INT32_ADD)) / 1e3,
        "ann_quantised": sum(macs * multiply(bits) for bits, macs in by_bits.items()) / 1e3,
    }


def footprint(network: SpikingResNet) -> int:
    """Return the bytes of every stored parameter, zeros included.

    NeuroBench's footprint; membranes live only while the network runs.
    """
    tensors: list[Tensor] = [
        network.image_table,
        network.head.weight,
        network.head.scale,
        network.head.bias,
    ]
    for layer in network.layers.values():
        tensors += [layer.weight, layer.bias, layer.threshold, layer.v_init]
        tensors += [extra for extra in (layer.gain, layer.projection) if extra is not None]
    return sum(t.numel() * t.element_size() for t in tensors)
