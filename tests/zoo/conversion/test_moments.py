"""Test thresholds from moments against samples of the distributions they stand for."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.spiking_fixtures import tiny_topology
from zoo.conversion import thresholds
from zoo.networks.architectures import topology
from zoo.networks.batchnorm import Moments


@pytest.mark.parametrize("levels", [4, 16, 32])
@pytest.mark.parametrize("mean", [-2.0, -1.0, 0.0, 0.5, 3.0])
def test_gaussian_is_what_least_squares_finds(mean, levels):
    """Compare errors on a sample, not thresholds: the error is flat about its minimum."""
    sample = (
        1.5 * torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0)) + mean
    ).clamp_min(0)

    def error(theta: torch.Tensor) -> float:
        return (
            ((sample * levels / theta + 0.5).floor().clamp(0, levels) * theta / levels - sample)
            .square()
            .mean()
            .item()
        )

    found = thresholds.gaussian(
        torch.tensor([mean]).double(), torch.tensor([1.5]).double(), levels
    ).float()
    best = thresholds.mmse(sample, levels, grid=200)
    assert error(found) <= 1.01 * error(best), (found, best)


def test_gaussian_scales_with_its_units():
    mean, std = torch.linspace(-40, 20, 61).double(), torch.ones(61).double()
    theta = thresholds.gaussian(mean, std, 16)
    assert (
        torch.isfinite(theta).all() and (theta.diff() >= 0).all() and (theta.diff()[2:] > 0).all()
    )
    torch.testing.assert_close(thresholds.gaussian(1e-3 * mean, 1e-3 * std, 16), 1e-3 * theta)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_moments_pass_through_relu_and_sums(shortcut):
    """Compare with independent draws, as the rule assumes: sums of normal and rectified values."""
    net = topology("resnet20", shortcut=shortcut)
    generator = torch.Generator().manual_seed(1)
    names = [layer.name for layer in net.layers]
    names += [
        f"{layer.name}.shortcut"
        for layer in net.layers
        if layer.shortcut and layer.shortcut.kind == "projection"
    ]
    channels = {layer.name: layer.out_channels for layer in net.layers}
    moments = {
        name: Moments(
            torch.randn(channels[name.removesuffix(".shortcut")], generator=generator),
            torch.rand(channels[name.removesuffix(".shortcut")], generator=generator) + 0.5,
        )
        for name in names
    }
    found = thresholds.from_moments(net, moments, 16)

    def draw(name: str) -> torch.Tensor:
        return moments[name].mean[:, None] + moments[name].std[:, None] * torch.randn(
            len(moments[name].mean), 20_000, generator=generator
        )

    source = draw("conv1").clamp_min(0)
    for layer in net.layers[:3]:
        z = draw(layer.name) + (source if layer.shortcut else 0)
        torch.testing.assert_close(
            found[layer.name],
            thresholds.gaussian(z.mean(1).double(), z.std(1).double(), 16).float(),
            rtol=0.05,
            atol=0.05,
        )
    down = next(layer for layer in net.layers if layer.name == "layer2.0.conv2")
    bare = thresholds.gaussian(
        moments[down.name].mean.double(), moments[down.name].std.double(), 16
    ).float()
    if shortcut == "A":  # only channels in the middle have a source
        assert torch.allclose(found[down.name][:8], bare[:8]) and not torch.allclose(
            found[down.name][8:24], bare[8:24]
        )
    else:
        side = moments[f"{down.name}.shortcut"]
        mean, std = (
            moments[down.name].mean + side.mean,
            torch.hypot(moments[down.name].std, side.std),
        )
        assert torch.allclose(
            found[down.name], thresholds.gaussian(mean.double(), std.double(), 16).float()
        )


def test_a_dead_layer_has_a_finite_threshold():
    net = tiny_topology("imagenet")
    zero = {
        layer.name: Moments(torch.zeros(layer.out_channels), torch.zeros(layer.out_channels))
        for layer in net.layers
    }
    zero |= {f"{name}.shortcut": value for name, value in zero.items()}
    for theta in thresholds.from_moments(net, zero, 16).values():
        assert torch.isfinite(theta).all() and (theta > 0).all()
