"""Rounding a module back: nothing changes that was not trained, and channels fire as it did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import zoo
from tests.zoo.networks.test_trainable import hooked, spikes_of
from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.folder import read_artifact, read_config, verify_artifact
from zoo.artifact.tensors import network_of
from zoo.conversion import module as rounding
from zoo.conversion.convert import Conversion
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.models import registry
from zoo.networks.preprocess import Preprocess
from zoo.networks.trainable import TrainableResNet

NAME = "s-resnet20-digits"


def shaken(seed: int = 0) -> TrainableResNet:
    """Return a module whose parameters moved as far as a training moves them."""
    module, gen = zoo.load(NAME).trainable(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1 + 0.03 * torch.randn(value.shape, generator=gen))
    return module


@pytest.mark.parametrize("with_images", [True, False])
def test_what_was_not_trained_stays_what_it_was(
    with_images: bool, tmp_path: Path, digits: ImageSet
) -> None:
    images = digits if with_images else None
    config, before = read_artifact(registry.resolve(NAME))
    module = zoo.load(NAME).trainable()
    if with_images:
        made = zoo.save(module, tmp_path / "same", images, samples=48)
    else:
        with pytest.warns(UserWarning, match="nearest"):
            made = zoo.save(module, tmp_path / "same")
    _, after = read_artifact(tmp_path / "same")
    assert before.keys() == after.keys()
    for name, values in before.items():
        if values.is_floating_point():
            torch.testing.assert_close(values, after[name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(values, after[name]), name
    assert made.checksum == config.checksum
    tuning = made.tuning
    assert tuning is not None and tuning.sha256 == config.weights_sha256
    assert (tuning.rounding is not None) == with_images


def test_channels_fire_as_the_module_does(digits: ImageSet) -> None:
    module = shaken()
    assert module.config is not None
    pixels = digits.take(64, 1).batch(slice(None), Preprocess.of(module.config))
    with torch.no_grad():
        wanted = hooked(module, pixels, 4)
        made = rounding.round_module(module, pixels, 4)
        plain = rounding.round_module(module, None, 4)

    def off(network: object) -> float:
        found = spikes_of(network, pixels, 4)  # type: ignore[arg-type]
        gaps = [
            (found[n].float().cumsum(0) - s.cumsum(0)).mean((1, 3, 4)).abs().mean()
            for n, s in wanted.items()
        ]
        return float(torch.stack(gaps).mean())

    assert off(made) < off(plain) / 3
    assert made.topology == plain.topology and made.integer


@pytest.mark.parametrize("neuron", ["signed", "multi-level", "mixed"])
def test_other_neurons_come_back_too(
    neuron: str, converted: Callable[..., Conversion], digits: ImageSet, tmp_path: Path
) -> None:
    converted(neuron=neuron).save(tmp_path / "made")
    before = zoo.load(tmp_path / "made")
    zoo.save(before.trainable(), tmp_path / "again", digits, timesteps=5, samples=32)
    after = zoo.load(tmp_path / "again")
    pixels = digits.take(8, 0).batch(slice(None), before.preprocess)
    for one, other in zip(before.run(pixels, 9).logits, after.run(pixels, 9).logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert after.timesteps == 5 and after.config.neuron == neuron


def test_a_network_without_rows_of_its_own_gets_them(
    saved: Path, digits: ImageSet, tmp_path: Path
) -> None:
    module = zoo.load(saved).trainable()
    rows = len(module.layer("conv1").bias)
    with torch.no_grad():
        for value in module.parameters():
            value.mul_(1.02)
    config = zoo.save(module, tmp_path / "made", digits, timesteps=3, samples=32)
    assert config.bias_rows == max(4, rows) and read_config(tmp_path / "made") == config
    assert all(check.ok for check in verify_artifact(tmp_path / "made", deep=True))


def test_a_conversions_config_says_nothing_of_tuning(saved: Path) -> None:
    assert "tuning" not in json.loads((saved / "config.json").read_text())
    assert "tuning" not in read_config(saved).model_dump_json()


def test_what_cannot_be_rounded_is_refused(tmp_path: Path, digits: ImageSet) -> None:
    module, folder = shaken(), tmp_path / "made"
    with refuses(UsageError, "image"):
        zoo.save(module, folder, digits.take(0, None))
    with refuses(UsageError, "units"):
        zoo.save(zoo.load(NAME).trainable(units="threshold"), folder)
    with refuses(UsageError, "timesteps"):
        zoo.save(module, folder, timesteps=0)
    with torch.no_grad():
        module.layer("conv1").neuron.threshold[0] = -1
    with refuses(UsageError, "positive"):
        zoo.save(module, folder, digits)
    with torch.no_grad():
        module.layer("conv1").neuron.threshold[0] = torch.nan
    with refuses(UsageError, "no numbers"):
        zoo.save(module, folder, digits)
    assert not folder.exists()
    folder.mkdir()
    with refuses(UsageError, "exists"):
        zoo.save(zoo.load(NAME), folder)
    network = network_of(*read_artifact(registry.resolve(NAME)))
    network.config = None
    with refuses(UsageError, "config"):
        zoo.save(network, folder)
