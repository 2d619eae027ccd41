"""Layers of other forms of ResNets: averaging projections, convolutions in groups, wide stages."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.kernel_fixtures import Shape
from tests.kernels.test_kernel import by_name, ints, run_random, shapes_of, shows_something
from zoo.kernels.spiking_conv import PackedMembrane, SpikingConv, unpack


def test_an_averaging_projection_by_hand(backend):
    """A 2x2 projection with stride 2, four taps of one weight."""
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.int8)
    layer = SpikingConv(
        nothing,
        ints(0).view(1, 1),
        ints(7),
        ints(0),
        stride=2,
        projection=torch.full((1, 1, 2, 2), 3, dtype=torch.int8),
        shortcut_stride=2,
    )
    x = torch.zeros(1, 1, 1, 3, 3, dtype=torch.int8)
    source = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    source, membrane = source.to(torch.int8).view(1, 1, 1, 4, 4), PackedMembrane()
    result = backend.layer(layer).run(backend.pack(x, False), backend.pack(source, False), membrane)
    # 2, 3, 0 and 1 spikes of the four: 6, 9, 0, 3.
    assert unpack(result).flatten().tolist() == [0, 1, 0, 0]
    assert membrane.v.flatten().tolist() == [6, 2, 0, 3]


def test_groups_by_hand(backend):
    """Each of two groups has two channels in and one out."""
    layer = SpikingConv(
        torch.tensor([[1, 2], [3, 4]], dtype=torch.int8).view(2, 2, 1, 1),
        ints(0, 0).view(1, 2),
        ints(3, 8),
        ints(0, 0),
        groups=2,
    )
    x = torch.tensor([1, 1, 1, 1], dtype=torch.int8).view(1, 1, 4, 1, 1)
    membrane = PackedMembrane()
    result = backend.layer(layer).run(backend.pack(x, False), None, membrane)
    assert unpack(result).flatten().tolist() == [1, 0]
    assert membrane.v.flatten().tolist() == [0, 7]


@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize(
    "shape",
    [
        *(shape for shape in shapes_of("resnet50d", 16) if shape.shortcut_kernel > 1),
        *(shape for shape in shapes_of("resnext50_32x4d", 16) if shape.groups > 1),
        Shape(3, 1, 6, 10, groups=2),
        Shape(3, 2, 8, 4, "projection", 5, 3, 3, groups=4),
        *(shape for shape in shapes_of("resnet18_cifar", 8) if shape.shortcut),
    ],
    **by_name,
)
def test_layers_of_other_forms(backend, shape, neuron):
    """2x2 projections, convolutions in groups, and the widest stage of the CIFAR form."""
    shows_something(
        run_random(backend, shape, neuron, neuron == "signed", timesteps=9, batch=1, size=(8, 8))
    )
