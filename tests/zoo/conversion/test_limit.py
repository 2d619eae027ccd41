"""Test the bias of the timesteps after the calibrated ones: right after many timesteps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.zoo.spiking_fixtures import QUICK
from zoo.conversion import calibrate
from zoo.conversion.convert import convert
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.pixels import look_up
from zoo.networks.preprocess import Preprocess

SETTINGS = calibrate.Settings(limit=True)


def layer(neuron="if", bits=1, projection=False):
    gen = torch.Generator().manual_seed(bits)

    def draw(*shape, low=-60, high=60):
        return torch.randint(low, high, shape, generator=gen)

    return SpikingConv(
        draw(5, 4, 3, 3).to(torch.int8),
        draw(3, 5).int(),
        draw(5, low=150, high=300).int(),
        torch.full((5,), 80).int(),
        padding=1,
        neuron=neuron,
        bits=bits,
        gain=None if projection else draw(5, low=100, high=200).int(),
        projection=draw(5, 5, 1, 1).to(torch.int8) if projection else None,
    )


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize(
    ("neuron", "bits"), [("if", 1), ("signed", 1), ("multi-level", 2), ("multi-level", 4)]
)
def test_the_limit_has_the_means_that_are_wanted(neuron, bits, projection):
    gen = torch.Generator().manual_seed(0)
    made, max_level = layer(neuron, bits, projection), 2**bits - 1
    x, side = (
        max_level * torch.rand(3, 4, 6, 6, generator=gen),
        max_level * torch.rand(3, 5, 6, 6, generator=gen),
    )
    theta = made.threshold.view(-1, 1, 1)
    target = 1.5 * max_level * theta * torch.rand(3, 5, 6, 6, generator=gen)
    found, rates = calibrate.limit(made, x, side, target, SETTINGS)
    assert torch.equal(found.bias[:-1], made.bias[:-1]) and found.bias.dtype == torch.int32
    shortcut = (
        F.conv2d(side, made.projection.float()) if projection else side * made.gain.view(-1, 1, 1)
    )
    z = F.conv2d(x, made.weight.float(), padding=1) + shortcut + found.bias[-1].view(-1, 1, 1)
    torch.testing.assert_close(rates, (z / theta).clamp(0, max_level), atol=1e-4, rtol=1e-4)
    asked = (target / theta).clamp_max(max_level).mean((0, 2, 3))
    # The bias is a whole number: half of one, in thresholds, is what the mean may be off.
    assert ((rates.mean((0, 2, 3)) - asked).abs() <= 0.5 / made.threshold + 1e-3).all()


@pytest.mark.parametrize("target", [0.0, 1e6])
def test_a_channel_that_never_or_always_fires(target):
    made = layer()
    x, side = torch.rand(2, 4, 6, 6), torch.rand(2, 5, 6, 6)
    _, rates = calibrate.limit(made, x, side, torch.full((2, 5, 6, 6), target), SETTINGS)
    torch.testing.assert_close(rates, torch.full_like(rates, float(target > 0)), atol=0.01, rtol=0)


@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_firing_rates_end_at_the_limit(digits_ann, digits, neuron):
    """After many timesteps a channel fires as often as the ANN asks; with the tail it does not."""

    def gap(tail):
        made = convert(
            digits_ann,
            digits,
            neuron=neuron,
            **QUICK,
            parameters={"rows": 8, "tail": tail, "delay": "none"},
        )
        pixels = next(
            digits.take(QUICK["samples"], 0).batches(Preprocess((1, 8, 8)), QUICK["samples"])
        )[0]
        counts = {}

        def on_spikes(name, spikes):
            counts.setdefault(name, []).append(spikes.sum(0, dtype=torch.float32))

        made.network.run(pixels, 512, window=256, chunk=len(pixels), on_spikes=on_spikes)
        target = ann_means(digits_ann, look_up(made.network.image_table, pixels) / 256, made)
        gaps = [
            (counts[name][-1].mean((0, 2, 3)) / 256 - target[name]).abs().sum() / target[name].sum()
            for name in counts
        ]
        return sum(gaps).item() / len(gaps)

    assert gap("limit") < min(0.03, 0.5 * gap("mean"))


def ann_means(checkpoint, image, made):
    """Return the firing rate of each channel that the ANN's activations ask for."""
    from zoo.networks.resnet import ann_forward

    found = {}

    def on_layer(spec, z):
        theta = (made.network.layers[spec.name].threshold * made.scales[spec.name]).view(-1, 1, 1)
        found[spec.name] = (z.clamp_min(0) / theta).clamp_max(1).mean((0, 2, 3))
        return z.clamp_min(0)

    with torch.inference_mode():
        ann_forward(checkpoint.net, checkpoint.params, image, on_layer)
    return found
