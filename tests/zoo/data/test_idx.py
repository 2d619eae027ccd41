"""MNIST's idx files, plain and gzipped, in torchvision's folders and alone."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.image_fixtures import random_images, refused
from tests.zoo.spiking_fixtures import refuses
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.preprocess import Preprocess

PIXELS = random_images(6, (28, 28))
LABELS = np.arange(6, dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return head + array.astype(np.uint8).tobytes()


def write(folder: Path, begin: str, packed: bool = False, dot: str = "-") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for what, rank, array in (("images", 3, PIXELS), ("labels", 1, LABELS)):
        name = f"{begin}-{what}{dot}idx{rank}-ubyte"
        data = gzip.compress(idx(array)) if packed else idx(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(data)


@pytest.mark.parametrize(
    ("place", "begin", "packed", "dot"),
    [
        ("MNIST/raw", "t10k", False, "-"),
        ("raw", "t10k", True, "-"),
        ("", "emnist-letters-test", True, "-"),
        ("", "t10k", False, "."),
    ],
)
def test_both_splits(tmp_path: Path, place: str, begin: str, packed: bool, dot: str) -> None:
    write(tmp_path / place, begin, packed, dot)
    write(tmp_path / place, begin.replace("test", "train").replace("t10k", "train"), not packed)
    images = open_images(tmp_path, "test")
    assert images.description == "idx files, test split, 6 images of 28x28x1, 6 classes"
    assert images.labels.tolist() == LABELS.tolist()
    assert np.array_equal(images.batch(slice(None), Preprocess((1, 28, 28)))[:, 0], PIXELS)
    file = next((tmp_path / place).glob("*t*k*images*" if "t10k" in begin else "*test-images*"))
    assert open_images(file, "train").split == "test"
    assert open_images(tmp_path, "train").split == "train"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    write(tmp_path, "t10k")
    with refuses(NotFoundError, "has no train split, only test"):
        open_images(tmp_path, "train")
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    refused(IntegrityError, "has 5 bytes of 6", tmp_path)
    labels.write_bytes(b"\0\0\x0d\1" + bytes(20))
    refused(IntegrityError, "is no idx file of 1 dimensions of bytes", tmp_path)
    labels.unlink()
    refused(NotFoundError, "labels-idx1-ubyte is missing", tmp_path)
    write(tmp_path, "emnist-letters-test")
    refused(UsageError, "holds several sets", tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bcut")
    (tmp_path / "x" / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS))
    refused(IntegrityError, "cut, altered or malformed", tmp_path / "x")
