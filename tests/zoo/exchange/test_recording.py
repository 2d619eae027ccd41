"""What `zoo record` writes is what the network does, whatever was in memory at a time."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.zoo.commands.conftest import Zoo
from tests.zoo.commands.conftest import zoo as command  # noqa: F401
from tests.zoo.spiking_fixtures import refuses
from zoo.data.open import open_images
from zoo.errors import ZooError
from zoo.exchange import recording
from zoo.networks.preprocess import Preprocess

DIGITS = "s-resnet20-digits"


def test_a_file_holds_what_a_recording_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = zoo.load(DIGITS)
    images = open_images("digits", "test").take(7, seed=0)
    pixels = images.batch(slice(None), Preprocess((1, 8, 8)))
    wanted = network.record(pixels, 5, layers=["conv1", "layer2.*"], what=("spikes", "potential"))
    path = tmp_path / "run.npz"
    monkeypatch.setattr(recording, "_BATCH", 3)  # so that batches meet inside the arrays
    seen: list[tuple[str, int, int]] = []
    written = recording.write_recording(
        network,
        images,
        5,
        path,
        layers=["conv1", "layer2.*"],
        what=("spikes", "potential"),
        about={"model": DIGITS},
        progress=lambda *step: seen.append(step),
    )
    with np.load(path, allow_pickle=False) as found:
        assert {name: array.shape for name, array in found.items()} == written.shapes | {
            "about": ()
        }
        for kind, layers in (("spikes", wanted.spikes), ("potential", wanted.potential)):
            assert len(layers) == 7
            for name, values in layers.items():
                array = found[f"{kind}/{name}"]
                assert array.dtype == (np.int8 if kind == "spikes" else np.int32)
                assert np.array_equal(array, values.numpy())
        assert np.array_equal(found["logits"], wanted.logits.numpy())
        assert np.array_equal(found["images"], pixels.numpy())
        assert np.array_equal(found["labels"], images.labels)
        about = json.loads(str(found["about"]))
    assert (about["model"], about["timesteps"]) == (DIGITS, 5)
    assert network.config is not None and about["weights_sha256"] == network.config.weights_sha256
    assert written.size == path.stat().st_size and [*tmp_path.iterdir()] == [path]
    assert ("recording", 7, 7) in seen and ("writing", 14, 14) in seen


def test_a_full_disk_is_noticed_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9 - 10**5, 10**5))
    images = open_images("digits", "test")
    with refuses(ZooError, "of space while it is written"):
        recording.write_recording(zoo.load(DIGITS), images, 32, tmp_path / "run.npz")
    assert not [*tmp_path.iterdir()]


def test_an_interrupted_recording_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    path.write_text("from before")
    images = open_images("digits", "test").take(2, seed=0)
    with pytest.raises(KeyboardInterrupt):
        recording.write_recording(zoo.load(DIGITS), images, 2, path, progress=stop)
    assert [*tmp_path.iterdir()] == [path] and path.read_text() == "from before"


def test_the_command(command: Zoo, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "spikes.npz"
    words = ["record", DIGITS, "--limit", "2", "--timesteps", "3", "--out", path]
    ended = command(*words, "--layers", "layer3.*", "--json")
    assert ended.code == 0, ended
    said = json.loads(ended.out)
    assert said["arrays"]["spikes/layer3.2.conv2"] == [3, 2, 64, 2, 2]
    with np.load(path) as found:
        assert {*found} == {*said["arrays"]}
        spikes = torch.from_numpy(found["spikes/layer3.2.conv2"])
    images = open_images("digits", "test").take(2, seed=0)
    pixels = images.batch(slice(None), Preprocess((1, 8, 8)))
    assert torch.equal(spikes, zoo.load(DIGITS).record(pixels, 3).spikes["layer3.2.conv2"])
    assert "is no layer" in command(*words, "--layers", "layer9", "-q").failed(2)
    assert "name spikes, potential" in command(*words, "--what", "volts", "-q").failed(2)
    assert "does not end in .npz" in command("record", DIGITS, "--out", "a.csv").failed(2)
