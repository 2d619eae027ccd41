"""Features before the classifier, another classifier, and a start with other classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from tests.zoo.networks.test_trainable import spikes_of
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.artifact.folder import verify_artifact
from zoo.conversion.convert import Conversion
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.training.run import train

NAME = "s-resnet20-digits"


def test_features_are_the_last_layers_rates_by_timestep() -> None:
    network, pixels = zoo.load(NAME), random_pixels(3, 1, 8)
    features = network.forward_features(pixels, 9)
    last = network.topology.layers[-1].name
    worth = network.layers[last].threshold.double() * network.scales[last].double()
    rates = spikes_of(network, pixels, 9)[last].double().mean((3, 4)) * worth
    torch.testing.assert_close(features, rates)
    module = network.trainable().double()
    with torch.no_grad():
        torch.testing.assert_close(module.forward_features(pixels, 9), rates, rtol=1e-5, atol=1e-6)
        logits = module.forward_head(features)
    torch.testing.assert_close(logits, network.run(pixels, 9).logits, rtol=1e-5, atol=1e-5)
    assert network.forward_features(pixels).shape[0] == network.timesteps


def test_networks_of_other_kinds_have_features(converted: Callable[..., Conversion]) -> None:
    pixels = random_pixels(2, 1, 8)
    network = converted(schedule="layerwise").network
    assert network.forward_features(pixels, 8).shape == (1, 2, 64)
    for neuron in ("signed", "multi-level"):
        tiny = random_network(tiny_topology("cifar"), neuron=neuron)
        last = spikes_of(tiny, pixels, 4)[tiny.topology.layers[-1].name].double().mean((3, 4))
        worth = torch.ones((), dtype=torch.float64)
        torch.testing.assert_close(tiny.forward_features(pixels, 4), last * worth)


def test_another_head_is_that_head(tmp_path: Path, digits: ImageSet) -> None:
    network, pixels = zoo.load(NAME), random_pixels(4, 1, 8)
    head, names = nn.Linear(64, 3), ["a", "b", "c"]
    other = network.with_head(head, names)
    skip = network.delay_at(16)
    with torch.no_grad():
        wanted = head(network.forward_features(pixels, 16)[skip:].mean(0).float())
    close = torch.testing.assert_close
    close(other(pixels, 16).float(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))
    spikes, same = spikes_of(network, pixels, 4), spikes_of(other, pixels, 4)
    assert all(torch.equal(spikes[name], same[name]) for name in spikes)
    config = zoo.save(other, tmp_path / "other")
    assert config.num_classes == 3 and config.class_names == names
    assert all(check.ok for check in verify_artifact(tmp_path / "other", deep=True))
    assert torch.equal(zoo.load(tmp_path / "other")(pixels, 16), other(pixels, 16))
    assert other.trainable()(pixels, 4).shape == (4, 3)
    assert network.with_head(7)(pixels, 2).shape == (4, 7)
    assert network(pixels, 2).shape == (4, 10)


def test_a_head_that_does_not_fit_is_refused() -> None:
    network = zoo.load(NAME)
    for head, names, why in (
        (nn.Linear(63, 3), None, "63 features"),
        (nn.Linear(64, 3), ["a"], "1 names"),
        (0, None, "1 class"),
    ):
        with refuses(UsageError, why):
            network.with_head(head, names)
    with refuses(UsageError, "config"):
        random_network(tiny_topology("cifar")).with_head(3)
    with refuses(UsageError, "timesteps"):
        network.forward_features(random_pixels(1, 1, 8), 0)


def test_a_training_begins_from_a_model_of_other_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.save(zoo.load(NAME).with_head(4), tmp_path / "four")
    lines: list[str] = []
    facts = train(
        *("resnet20", "digits", tmp_path / "run"),
        epochs=1,
        batch_size=200,
        start=tmp_path / "four",
        log=lines.append,
    )
    assert any(
        "4 classes apart, the images have 10: fc.weight and fc.bias" in line for line in lines
    )
    assert facts["began"] is not None and facts["top1"] > 60
