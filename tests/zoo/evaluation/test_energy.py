"""Synaptic operations counted one spike at a time, dense operations by formula, energy by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.zoo.spiking_fixtures import random_network, random_pixels, tiny_topology
from zoo.evaluation.energy import (
    dense_macs,
    footprint,
    macs_by_bits,
    modelled_energy,
    spiking_operations,
)
from zoo.networks.topology import IMAGE


def reached(
    height: int, width: int, y: int, x: int, kernel: int, stride: int, padding: int
) -> list[tuple[int, int]]:
    """Return the places of the kernel through which the input at (y, x) reaches an output."""
    rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    return [
        (i, j)
        for i in range(kernel)
        for j in range(kernel)
        if (y + padding - i) % stride == 0 and 0 <= (y + padding - i) // stride < rows
        if (x + padding - j) % stride == 0 and 0 <= (x + padding - j) // stride < columns
    ]


def synapses(counts: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> int:
    """Count every non-zero weight that each spike of counts `[C, H, W]` reaches."""
    channels, height, width = counts.shape
    total, used = 0, (weight != 0).sum(0)
    for y in range(height):
        for x in range(width):
            for i, j in reached(height, width, y, x, weight.shape[-1], stride, padding):
                total += sum(
                    int(counts[c, y, x]) * int(used[c, i, j])
                    for c in range(channels)
                    if counts[c, y, x]
                )
    return total


@pytest.mark.parametrize("neuron", ["if", "signed", "mixed"])
@pytest.mark.parametrize(("form", "side"), [("cifar", 7), ("imagenet", 13)])
def test_each_spike_meets_each_weight(form, side, neuron):
    net = tiny_topology(form)
    network = random_network(net, neuron=neuron)
    for layer in network.layers.values():
        layer.weight[
            torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(1)) < 0.3
        ] = 0
    network.head.weight[0, :3] = 0
    pixels = random_pixels(2, net.in_channels, side)
    network.image_table[:, ::3] = 0
    spikes = network.run(pixels, 6, snapshots=[6]).spikes[6]
    active = (network.pixels(pixels) != 0).sum(0)
    result = spiking_operations(network, spikes, 2, active)
    by_layer = {}
    for spec in net.layers:
        layer = network.layers[spec.name]
        source = active if spec.source == IMAGE else spikes[spec.source]
        total = synapses(source, layer.weight, spec.stride, spec.padding)
        if spec.shortcut is not None and layer.projection is not None:
            total += synapses(
                spikes[spec.shortcut.source], layer.projection, spec.shortcut.stride, 0
            )
        elif spec.shortcut is not None:
            step = spec.shortcut.stride
            total += int(spikes[spec.shortcut.source][:, ::step, ::step].sum())
        by_layer[spec.name] = total / 2
    head = int((network.head.weight != 0).sum())
    assert result.by_layer == pytest.approx(by_layer | {"fc": head})
    assert result.macs == pytest.approx(by_layer["conv1"] + head)
    assert result.acs == pytest.approx(sum(by_layer.values()) - by_layer["conv1"])
    assert head < network.head.weight.numel() and result.acs > 0


def test_dense_operations_of_odd_sizes():
    network = random_network(tiny_topology("imagenet"))
    # 13 x 13 -> 7 x 7 in the stem, pooled to 4 x 4; the strided block works on 2 x 2 behind its
    # 1 x 1.
    stem, block = 49 * 6 * 3 * 49, 16 * 4 * 6 + 4 * 4 * 4 * 9 + 4 * 9 * 4 + 4 * 9 * 6
    assert dense_macs(network, 13, 13) == stem + block + 4 * (4 * 9 + 4 * 4 * 9 + 9 * 4) + 9 * 4


@pytest.mark.parametrize(
    ("timesteps", "bits"),
    [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (15, 4), (16, 5), (255, 8), (256, 9)],
)
def test_the_rivals_bits(timesteps, bits):
    energy = modelled_energy(0, 0, 1e6, timesteps)
    assert energy["ann_quantised"] == pytest.approx(1e3 * (0.2 * bits / 8 + 0.1))
    assert energy["snn_float"] == energy["snn_int8"] == 0
    assert energy["ann_float"] == pytest.approx(4600)


def test_the_rival_of_a_mixed_network_has_the_bits_of_each_layer():
    network = random_network(tiny_topology("cifar"), neuron="mixed")
    macs = macs_by_bits(network, 7, 7)
    assert set(macs) == {kind.bits for kind in network.neurons.values()}
    assert sum(macs.values()) == dense_macs(network, 7, 7)
    # Layer by layer: the convolution reads spikes of its source, the stem's image goes with the
    # stem's own.
    bits = {name: kind.bits for name, kind in network.neurons.items()}
    first, second = network.topology.layers[:2]
    assert second.source == first.name and bits[first.name] == 2
    readers = [s for s in network.topology.layers if s.source in (IMAGE, first.name)]
    sizes = network.topology.sizes(7, 7)
    expected = sum(
        math.prod(sizes[s.name]) * network.layers[s.name].weight.numel() for s in readers
    )
    assert macs[2] == expected
    # T = 3: 3 * 3 + 1 levels take 4 bits.
    energy = modelled_energy(0, 0, {2: 1e6, 1: 2e6}, 3)["ann_quantised"]
    assert energy == pytest.approx(1e3 * (0.2 * 4 / 8 + 0.1) + 2e3 * (0.2 * 2 / 8 + 0.1))


def test_footprint_is_every_stored_byte():
    network = random_network(tiny_topology("cifar"))
    weights = 4 * 1 * 9 + 2 * 4 * 4 * 9 + 8 * 4 * 9 + 8 * 8 * 9
    # Bias rows 1 (stem) or 3, threshold and v_init; gains of 4 and 8 channels; head; table of
    # int16.
    wide = (4 * 3 + 4 * 5 + 4 * 5 + 8 * 5 + 8 * 5) + 4 + 8
    assert footprint(network) == weights + 4 * wide + 3 * 8 + 2 * 3 * 4 + 256 * 2
