"""MNIST and what comes in its form: idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np

from zoo.data.base import AGAIN, Found, no_split, pick_splits, reading
from zoo.errors import IntegrityError, NotFoundError, UsageError

# train-images-idx3-ubyte, t10k-images.idx3-ubyte.gz, emnist-letters-test-images-idx3-ubyte
_IMAGES = re.compile(r"(?:(.*)-)?(train|test|t10k)-images[-.]idx3-ubyte(\.gz)?", re.IGNORECASE)
_MAX_BYTES = 2**31


def read_idx(path: Path, split: str) -> Found | None:
    """Return the images of a folder of idx files, of its `raw` as torchvision keeps it, or of one.

    Raises:
        IntegrityError: a file is cut, or is no idx of bytes.
        NotFoundError: there is no such split, or the labels are missing.
    """
    if path.is_file():
        match = _IMAGES.fullmatch(path.name)
        return match and _read(path, {_split(match): path}, _split(match))
    places = [place for place in (path, path / "raw", path / "MNIST" / "raw") if place.is_dir()]
    for place in places:
        found: dict[str, Path] = {}
        for file in sorted(place.iterdir()):
            if match := _IMAGES.fullmatch(file.name):
                before = found.setdefault(_split(match), file)
                if _set_of(before) != _set_of(file):
                    raise UsageError(
                        f"{place} holds several sets ({before.name}, {file.name}): give one file"
                    )
        if found:
            return _read(path, found, split)
    return None


def _split(match: re.Match[str]) -> str:
    return "train" if match[2].lower() == "train" else "test"


def _set_of(file: Path) -> str:
    match = _IMAGES.fullmatch(file.name)
    return (match and match[1]) or ""


def _read(path: Path, found: dict[str, Path], split: str) -> Found:
    picked = pick_splits(split, found)
    if not picked:
        raise no_split(path, split, found)
    images = found[picked[0]]
    wanted = re.sub("images([-.])idx3", r"labels\1idx1", images.name, flags=re.IGNORECASE)
    labels = next(
        (
            images.with_name(name)
            for name in (wanted, wanted.removesuffix(".gz"), f"{wanted}.gz")
            if images.with_name(name).is_file()
        ),
        None,
    )
    if labels is None:
        raise NotFoundError(f"{images.with_name(wanted)} is missing: {AGAIN}")
    pixels, known = _array(images, 3), _array(labels, 1)
    if len(pixels) != len(known):
        raise IntegrityError(
            f"{images} has {len(pixels)} images, {labels.name} {len(known)} labels"
        )
    return Found("idx files", pixels[..., None], known.astype(np.int64), None, picked[0])


def _array(path: Path, rank: int) -> np.ndarray:
    """Return the bytes of an idx file as uint8 of this rank."""
    with reading(path):
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            data = file.read(_MAX_BYTES)
        if data[:4] != bytes((0, 0, 8, rank)):
            raise IntegrityError(f"{path} is no idx file of {rank} dimensions of bytes: {AGAIN}")
        shape = np.frombuffer(data, ">u4", rank, 4).astype(int)
        start = 4 + 4 * rank
        if len(data) - start != shape.prod():
            raise IntegrityError(f"{path} has {len(data) - start} bytes of {shape.prod()}: {AGAIN}")
        return np.frombuffer(data, np.uint8, offset=start).reshape(*shape).copy()
