"""Test distillation for few levels: gradients by hand, which parameters change, that it helps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.zoo.spiking_fixtures import QUICK, random_model, random_pixels, refuses, tiny_topology
from zoo.conversion.distil import _draws, distil
from zoo.conversion.thresholds import mmse, sample_activations
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.quantise import Quantise
from zoo.networks.resnet import ann_forward
from zoo.pretrained.checkpoint import Checkpoint

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def ann(form: str) -> Checkpoint:
    net = tiny_topology(form)
    return Checkpoint(
        net, fold_batchnorm(net, random_model(net).state_dict()), "tiny.pth", "5" * 64
    )


def thresholds(checkpoint: Checkpoint, images: Tensor, levels: int) -> dict[str, Tensor]:
    sample = sample_activations(checkpoint.net, checkpoint.params, [images], len(images), 0)
    return {name: mmse(values, levels) for name, values in sample.items()}


def student(
    checkpoint: Checkpoint, theta: dict[str, Tensor], images: Tensor, timesteps: int
) -> Tensor:
    def on_layer(layer: object, z: Tensor) -> Tensor:
        return Quantise.apply(z, theta[layer.name].log(), timesteps)  # type: ignore[attr-defined, no-untyped-call]

    with torch.no_grad():
        return ann_forward(checkpoint.net, checkpoint.params, images, on_layer)


def tuned(
    form: str, **changes: object
) -> tuple[Checkpoint, Checkpoint, dict[str, Tensor], dict[str, Tensor]]:
    """Tune a tiny ANN for three steps; return it, the result, thresholds before and after."""
    source = ann(form)
    channels = source.net.in_channels
    pixels = random_pixels(10, channels, 16)
    mean, std = MEAN[:channels], STD[:channels]
    theta = thresholds(source, look_up(image_table(mean, std, integer=False), pixels), 4)
    settings = {"timesteps": 4, "steps": 3, "batch_size": 4, "rate": 1e-3} | changes
    result, after = distil(source, theta, pixels, mean, std, **settings)  # type: ignore[arg-type]
    return source, result, theta, after


def test_quantiser_rounds_half_up_and_clips():
    z = torch.tensor([-3.0, -0.51, 0.49, 0.5, 1.49, 3.5, 9.0]).view(1, 1, 1, -1)
    assert Quantise.apply(z, torch.tensor([4.0]).log(), 4).flatten().tolist() == [
        0,
        0,
        0,
        1,
        1,
        4,
        4,
    ]


def test_quantiser_gradients_are_the_straight_through_ones():
    z = torch.tensor([-3.0, -0.4, 0.2, 1.7, 2.6, 9.0]).view(1, 1, 1, -1).requires_grad_()
    log_theta = torch.tensor([2.0]).log().requires_grad_()
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (Quantise.apply(z, log_theta, 2).flatten() * weight).sum().backward()  # quantum 1: u is z
    assert z.grad is not None and z.grad.flatten().tolist() == [0, 2, 3, 4, 0, 0]
    # q - m z, by the sample: 0, 0.4, -0.2, 0.3, and the whole threshold where it clips.
    by_hand = 2 * 0.4 + 3 * -0.2 + 4 * 0.3 + 5 * 2 + 6 * 2
    assert log_theta.grad is not None and log_theta.grad.item() == pytest.approx(by_hand, rel=1e-5)


def test_quantiser_is_per_channel():
    z = torch.full((2, 2, 3, 3), 1.2)
    found = Quantise.apply(z, torch.tensor([1.0, 8.0]).log(), 4)
    assert found[:, 0].unique().tolist() == [1.0] and found[:, 1].unique().tolist() == [2.0]


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
def test_everything_but_the_classifier_is_tuned_and_the_source_is_not_touched(form: str):
    untouched = ann(form)
    source, result, before, after = tuned(form)
    assert (result.name, result.sha256, result.net) == (source.name, source.sha256, source.net)
    assert result.params.keys() == source.params.keys()
    for name, values in result.params.items():
        assert torch.equal(source.params[name], untouched.params[name]), name
        assert torch.equal(values, source.params[name]) == name.startswith("fc."), name
        assert torch.isfinite(values).all() and not values.requires_grad, name
    for name, values in after.items():
        assert (values > 0).all() and not torch.equal(values, before[name]), name


def test_seed_decides(threads: Callable[[int], None]):
    threads(1)
    (_, first, _, theta), (_, again, _, theta_again), (_, other, _, _) = (
        tuned("cifar"),
        tuned("cifar"),
        tuned("cifar", seed=1),
    )
    assert all(torch.equal(first.params[name], again.params[name]) for name in first.params)
    assert all(torch.equal(theta[name], theta_again[name]) for name in theta)
    assert not torch.equal(first.params["conv1.weight"], other.params["conv1.weight"])


def test_each_image_comes_once_a_round():
    draws = _draws(10, 4, 5, torch.Generator().manual_seed(0))
    assert [len(rows) for rows in draws] == [4] * 5
    assert (
        sorted(torch.cat(draws)[:10].tolist())
        == sorted(torch.cat(draws)[10:].tolist())
        == list(range(10))
    )


def test_fewer_images_than_a_batch_are_enough():
    assert [len(rows) for rows in _draws(3, 8, 2, torch.Generator())] == [8, 8]


def test_progress_counts_steps():
    seen: list[tuple[int, int]] = []
    tuned("cifar", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("what", ["timesteps", "steps", "batch_size"])
def test_nothing_to_do_is_refused(what: str):
    with refuses(UsageError, what):
        tuned("cifar", **{what: 0})


def test_no_images_are_refused():
    source = ann("cifar")
    with refuses(UsageError, "give training images with `images`"):
        distil(
            source,
            {},
            torch.zeros(0, 1, 8, 8, dtype=torch.uint8),
            MEAN[:1],
            STD[:1],
            timesteps=4,
            steps=1,
        )


def test_a_digits_network_of_four_timesteps_gets_nearer_to_its_ann(
    digits_ann: Checkpoint, digits: ImageSet, digits_test: ImageSet
):
    """Measured on images that took no part, in the mean squared error of the logits."""
    mean, std = QUICK["mean"], QUICK["std"]
    prep, table = Preprocess((1, 8, 8)), image_table(mean, std, integer=False)
    pixels, held_out = (
        next(images.batches(prep, len(images)))[0] for images in (digits, digits_test)
    )
    theta = thresholds(digits_ann, look_up(table, pixels[:256]), 4)
    result, after = distil(
        digits_ann, theta, pixels, mean, std, timesteps=4, steps=60, mirror=False, shift=1
    )
    images = look_up(table, held_out)
    target = ann_forward(digits_ann.net, digits_ann.params, images)
    error = [
        (student(checkpoint, thresholds_, images, 4) - target).square().mean().item()
        for checkpoint, thresholds_ in ((digits_ann, theta), (result, after))
    ]
    assert error[1] < 0.7 * error[0], error
