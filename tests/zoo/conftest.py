"""A cache folder for every test, and one briefly trained network for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.spiking_fixtures import QUICK
from zoo.conversion.convert import Conversion, convert
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.pretrained.checkpoint import Checkpoint, read_checkpoint
from zoo.training.plan import Plan
from zoo.training.run import DIGITS_MEAN as MEAN
from zoo.training.run import DIGITS_STD as STD
from zoo.training.trainer import Trainer, save_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what session-wide fixtures do before a test's own folder is set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(tmp_path_factory.mktemp("session_home")))
        yield


@pytest.fixture(autouse=True)
def zoo_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set $ZOO_HOME to an empty folder: no test reads or leaves anything in the user's cache."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("ZOO_HOME", str(folder))
    return folder


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return open_images("digits", "train")


@pytest.fixture(scope="session")
def digits_test() -> ImageSet:
    return open_images("digits", "test")


@pytest.fixture(scope="session")
def digits_file(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20 that has seen the digits six times: about 95 % right, a few seconds."""
    path = tmp_path_factory.mktemp("ann") / "digits.safetensors"
    net = topology("resnet20", num_classes=10, in_channels=1)
    plan = Plan(epochs=6, batch_size=64, peak_rate=0.1, shift=1, mirror=False, ema=0.9)
    trainer = Trainer(net, digits, Preprocess((1, 8, 8)), plan, MEAN, STD)
    trainer.run()
    save_checkpoint(trainer.state(), path)
    return path


@pytest.fixture(scope="session")
def digits_ann(digits_file: Path) -> Checkpoint:
    return read_checkpoint(digits_file, "resnet20")


@pytest.fixture(scope="session")
def converted(digits_ann: Checkpoint, digits: ImageSet) -> Callable[..., Conversion]:
    """Quick conversions of the digits network by keyword arguments, each made once."""
    made: dict[str, Conversion] = {}

    def get(**changes: Any) -> Conversion:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = convert(digits_ann, digits, **(QUICK | changes))
        return made[key]

    return get


@pytest.fixture(scope="session")
def _saved(converted: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "digits"
    converted(method="hu2018", parameters={"steps": 2}).save(folder)
    return folder


@pytest.fixture
def saved(_saved: Path, tmp_path: Path) -> Path:
    """A private copy of a small artifact."""
    import shutil

    return Path(shutil.copytree(_saved, tmp_path / "digits"))
