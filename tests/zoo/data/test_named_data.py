"""Data sets by name: fetched from a hub once, pinned and checked, with the real client.

And what is said without a network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.minihub import MiniHub
from tests.minihub_data import Fault
from zoo.data import datasets
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NetworkError
from zoo.networks.preprocess import Preprocess

pa = pytest.importorskip("pyarrow", reason="needs pyarrow (extra data)")
pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra data)")

TITLE = "CIFAR-10"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture
def cifar10(server: MiniHub, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub has small splits of the real layout, and the zoo is pinned to them; its commit."""
    files, splits = {}, {}
    for split in ("train", "test"):
        encoded = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        names = {
            "info": {
                "features": {
                    "label": {"names": [f"class {i}" for i in range(10)], "_type": "ClassLabel"}
                }
            }
        }
        table = pa.table({"img": encoded, "label": [i % 10 for i in range(len(pixels))]})
        out = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), out)
        known = datasets.KNOWN["cifar10"].splits[split]
        files[known.file] = out.getvalue()
        splits[split] = dataclasses.replace(
            known, sha256=hashlib.sha256(out.getvalue()).hexdigest(), images=len(pixels)
        )
    commit = server.upload("uoft-cs/cifar10", files, kind="dataset")
    small = dataclasses.replace(datasets.KNOWN["cifar10"], revision=commit, splits=splits)
    monkeypatch.setitem(datasets.KNOWN, "cifar10", small)
    return commit


def test_a_name_is_fetched_once_and_then_needs_no_network(
    server: MiniHub,
    cifar10: str,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    images = open_images("cifar10", "test")
    assert images.description == f"{TITLE}, test split, 12 images, 10 classes"
    got = images.batch(slice(None), Preprocess((3, 32, 32))).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(got, pixels) and images.class_names is not None
    assert {request.path.split("?")[0] for request in server.log if "resolve" in request.path} == {
        f"/datasets/uoft-cs/cifar10/resolve/{cifar10}/plain_text/test-00000-of-00001.parquet"
    }
    asked = len(server.log)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert open_images("cifar10", "test").sha256() == images.sha256()
    assert len(server.log) == asked
    with pytest.raises(
        NetworkError, match=r"the zoo is offline: give the path of cifar-10-python.tar.gz instead"
    ):
        open_images("cifar10", "train")


def test_a_folder_of_that_name_comes_first(
    server: MiniHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10" / "cat").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / "cat" / "0.png")
    assert len(open_images("cifar10", "test")) == 1
    assert not server.log


def test_another_file_than_the_pinned_one_is_refused(
    server: MiniHub, cifar10: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    known = datasets.KNOWN["cifar10"]
    splits = known.splits | {"test": dataclasses.replace(known.splits["test"], sha256="0" * 64)}
    monkeypatch.setitem(datasets.KNOWN, "cifar10", dataclasses.replace(known, splits=splits))
    with pytest.raises(IntegrityError, match="sha256"):
        open_images("cifar10", "test")


def test_a_hub_that_fails_is_named(
    server: MiniHub, cifar10: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    server.faults.append(Fault("HEAD", 503, times=-1))
    with pytest.raises(
        NetworkError,
        match=r"uoft-cs/cifar10 could not be fetched from http://127.*instead, as `images`",
    ):
        open_images("cifar10", "test")


def test_every_pin_is_whole() -> None:
    for known in datasets.KNOWN.values():
        for split in known.splits.values():
            assert split.digest is None or len(split.digest) == 64
            if known.repo is not None:
                assert (
                    len(split.sha256) == 64
                    and len(str(known.revision)) == 40
                    and split.file.endswith(".parquet")
                )
