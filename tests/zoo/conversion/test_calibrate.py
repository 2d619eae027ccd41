"""Test the rules of thresholds, and that calibrated spikes carry the means of the ANN."""

from __future__ import annotations

import pytest
import torch

from tests.zoo.spiking_fixtures import QUICK, random_model, random_pixels, tiny_topology
from zoo.conversion import thresholds
from zoo.conversion.convert import convert
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, 0), (0.499, 4), (0.5, 5), (0.999, 9), (1.0, 9), (0.1, 1)]
)  # of ten sorted values the one at index floor(share * 10)
def test_percentile_index(share, found):
    sample = torch.arange(10.0)[torch.randperm(10)][None] + 1
    assert thresholds.percentile(sample, share, per_channel=True).tolist() == [found + 1]


def test_percentile_of_a_layer_and_of_channels():
    sample = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 0.0, 0.0]])
    assert thresholds.percentile(sample, 0.5, per_channel=True)[:2].tolist() == [3.0, 30.0]
    assert thresholds.percentile(sample, 0.67, per_channel=False).tolist() == [10.0] * 3
    assert (thresholds.percentile(sample, 0.5, per_channel=True) > 0).all()


def test_mmse_of_silence_is_positive():
    assert (thresholds.mmse(torch.zeros(2, 50), 8) > 0).all()


@pytest.fixture(scope="module")
def ann():
    net = tiny_topology("cifar")
    return net, fold_batchnorm(net, random_model(net).state_dict())


def peaks(net, params, images):
    seen = {}

    def on_layer(layer, z):
        seen[layer.name] = torch.relu(z).amax((0, 2, 3))
        return torch.relu(z)

    ann_forward(net, params, images, on_layer)
    return seen


def test_local_threshold_balancing_grows_and_stays_under_the_maximum(ann):
    net, params = ann
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = [
        thresholds.local_threshold_balancing(net, params, [images] * count, net.channels)
        for count in (1, 2, 5, 20, 200)
    ]
    highest = peaks(net, params, images)
    first = net.layers[0].name
    for before, after in zip(found, found[1:], strict=False):
        assert all((after[name] >= before[name]).all() for name in after)
    for name, theta in found[-1].items():
        assert theta.shape == (net.channels[name],) and (theta > 0).all()
    # The stem sees the same input in the clipped network, so the ANN's own maximum bounds it; 200
    # passes come half way.
    assert (found[-1][first] <= highest[first] * (1 + 1e-5)).all()
    assert (found[-1][first] > 0.5 * highest[first]).all()
    # By hand: theta starts at 0, so one pass gives twice the mean of the positive part.
    positive = {}
    ann_forward(
        net, params, images, lambda layer, z: positive.setdefault(layer.name, torch.relu(z))
    )
    torch.testing.assert_close(found[0][first], 2 * positive[first].mean((0, 2, 3)).clamp_min(1e-6))


def test_activations_are_sampled_alike_from_every_image(ann):
    net, params = ann
    images = torch.randn(10, 1, 8, 8)
    batches = [images[:4], images[4:]]
    seen = []
    sample = thresholds.sample_activations(net, params, batches, 10, 0, seen.append)
    again = thresholds.sample_activations(net, params, batches, 10, 0)
    assert seen == [4, 10]
    highest = peaks(net, params, images)
    for layer in net.layers:
        values = sample[layer.name]
        assert values.shape[0] == layer.out_channels and values.shape[1] % 10 == 0
        assert torch.equal(values, again[layer.name])
        assert (values >= 0).all() and (values.amax(1) <= highest[layer.name]).all()


@pytest.mark.parametrize(
    ("neuron", "schedule"), [("if", "causal"), ("signed", "causal"), ("if", "layerwise")]
)
def test_calibrated_means_are_the_anns(digits_ann, digits, neuron, schedule):
    """Compare each channel's mean output with that of a network that is not calibrated.

    After 8 timesteps, on the calibration images.
    """

    def gap(**parameters):
        made = convert(
            digits_ann, digits, neuron=neuron, schedule=schedule, **QUICK, parameters=parameters
        )
        pixels = next(digits.take(32, 0).batches(Preprocess((1, 8, 8)), 32))[0]
        image = look_up(image_table(QUICK["mean"], QUICK["std"], integer=False), pixels)
        target, total = {}, 0.0
        with torch.inference_mode():
            ann_forward(
                digits_ann.net,
                digits_ann.params,
                image,
                lambda layer, z: target.setdefault(layer.name, torch.relu(z)),
            )
        counts = {}

        def on_spikes(name, spikes):
            counts[name] = (
                spikes.float() if schedule == "layerwise" else spikes.sum(0, dtype=torch.float32)
            )

        made.network.run(pixels, 8, window=8, chunk=32, on_spikes=on_spikes)
        for name, count in counts.items():
            layer, scale = made.network.layers[name], made.scales[name]
            theta = (layer.threshold * scale).view(-1, 1, 1)
            means = (
                (count * theta / 8).mean((0, 2, 3)),
                torch.minimum(target[name], theta).mean((0, 2, 3)),
            )
            total += ((means[0] - means[1]).abs().sum() / means[1].sum()).item() / len(counts)
        return total

    assert gap(rows=8, delay="none") < 0.5 * gap(bias="ann", delay="none")


def test_the_same_seed_draws_the_same_images(digits_ann, digits):
    made = [
        convert(
            digits_ann,
            digits,
            **(QUICK | {"samples": 4, "timesteps": 1}),
            seed=seed,
            parameters={"rows": 1},
        )
        for seed in (0, 0, 1)
    ]
    drawn = [one.config.calibration.sha256 for one in made]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == digits.take(4, 0).sha256()


def test_fixtures_show_something(ann):
    assert random_pixels(2, 1, 8).unique().numel() > 50
    assert all((peak > 0).any() for peak in peaks(*ann, torch.randn(4, 1, 8, 8)).values())
