"""Labelled images in whatever form the user has: recognized by content, checked, uint8.

`open_images(path, split)` accepts every form named in `FORMS`. Arrays stay in memory; image files
and parquet rows are decoded when a batch asks for them. Nothing in a data file is ever executed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.data import datasets
from zoo.data.arrays import read_digits, read_npz, read_pack
from zoo.data.base import Found, group_of, no_split, reading
from zoo.data.cifar import read_cifar
from zoo.data.folders import read_image_folder
from zoo.data.idx import read_idx
from zoo.data.images import ImageSet, _Arrays, _Encoded
from zoo.data.parquet import Columns, read_parquet
from zoo.data.shards import read_shards
from zoo.errors import IntegrityError, NotFoundError, UsageError

__all__ = ["FORMS", "ImageSet", "open_images"]


FORMS = (
    "'digits', 'cifar10' or 'cifar100' (fetched from the hub), "
    "a CIFAR pack (folder with manifest.json), "
    "CIFAR's own archive or its folder (python or binary), "
    "MNIST's idx files, hub parquet, webdataset tars, a folder of images by class or with a list "
    "of labels, or an .npz"
)


def open_images(
    path: str | Path,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
) -> ImageSet:
    """Open a set of images, whatever its form; `FORMS` lists them.

    Args:
        path: a file or folder, or a name of `zoo.data.datasets`: "digits" is in the package,
            "cifar10" and "cifar100" are fetched from the hub where there is no file or folder of
            that name.
        split: "train", "test" (also what sources call val, validation, testing and so on; the first
            with labels), or another name that the source has; a source that does not name its
            splits serves for any.
        image_column, label_column: of parquet; default: what it says itself, or the usual names.

    Raises:
        NotFoundError: the path does not exist, or has no such split.
        UsageError: nothing in it is recognized, it holds no image, or several sets.
        IntegrityError: a file is cut, altered or malformed.
    """
    split = split.lower()
    if str(path) == "digits":
        return _image_set(read_digits(split), "digits")
    if str(path) in datasets.KNOWN and not Path(path).exists():
        return _image_set(_named(str(path), split), str(path))
    path = Path(path).expanduser()
    if not path.exists():
        raise NotFoundError(f"{path} does not exist: check the path; accepted are {FORMS}")
    columns = Columns(image_column, label_column)
    found = (_in_folder if path.is_dir() else _in_file)(path, split, columns)
    if found is None:
        raise UsageError(f"nothing recognised in {path}: accepted are {FORMS}")
    if columns != Columns() and found.kind != "parquet":
        raise UsageError(
            f"{path} is no parquet but {found.kind}: leave `image_column` and `label_column` out"
        )
    if found.split is not None and group_of(found.split) != group_of(split):
        note = f"{path} is the {found.split} split, by its name, though {split} was asked for"
        found = replace(found, notes=(note, *found.notes))
    return _image_set(found, path)


def _named(name: str, split: str) -> Found:
    if split not in datasets.KNOWN[name].splits:
        raise no_split(name, split, datasets.KNOWN[name].splits)
    found = read_parquet(datasets.fetch(name, split), split)
    assert found is not None  # it is one file, of a sha256 that is known
    return replace(found, kind=datasets.KNOWN[name].title)


def _in_folder(path: Path, split: str, columns: Columns) -> Found | None:
    path = _snapshot(path)
    found = (
        read_pack(path, split)
        or read_parquet(path, split, columns)
        or read_cifar(path, split)
        or read_shards(path, split)
        or read_idx(path, split)
        or read_image_folder(path, split)
    )
    if found is None and any(path.glob("**/data-*-of-*.arrow")):
        raise UsageError(
            f"{path} holds arrow files of datasets.save_to_disk: write parquet with "
            "Dataset.to_parquet instead, a file test.parquet"
        )
    return found


def _snapshot(path: Path) -> Path:
    """Return the snapshot that a repository's folder in the hub client's cache is at."""
    held = path / "snapshots"
    if not held.is_dir() or not path.name.startswith(("datasets--", "models--")):
        return path
    main = path / "refs" / "main"
    if main.is_file() and (held / main.read_text().strip()).is_dir():
        return held / main.read_text().strip()
    snapshots = sorted(folder for folder in held.iterdir() if folder.is_dir())
    if len(snapshots) != 1:
        raise UsageError(f"{path} holds {len(snapshots)} snapshots and no refs/main: give one")
    return snapshots[0]


def _in_file(path: Path, split: str, columns: Columns) -> Found | None:
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] == b"PK" or path.suffix == ".npz":
        return read_npz(path, split)
    if head == b"PAR1" or path.suffix == ".parquet":
        return read_parquet(path, split, columns)
    if (found := read_idx(path, split)) is not None:
        return found
    if head[:2] == b"\x1f\x8b" or path.suffix in (".tar", ".tgz"):
        return read_cifar(path, split) or read_shards(path, split)
    return None


def _image_set(found: Found, source: str | Path) -> ImageSet:
    count = len(found.images)
    if not count:
        raise UsageError(f"{source} has no images: accepted are {FORMS}")
    with reading(source):
        names = None if found.names is None else tuple(map(str, found.names))
        y = np.full(count, -1) if found.labels is None else np.asarray(found.labels)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != (count,) or y.dtype.kind not in "iu":
        have = f"{y.dtype} labels of shape {list(y.shape)} for {count} images"
        raise IntegrityError(f"{source} has {have}: give one integer per image")
    if found.labels is not None and (y.min() < 0 or (names and y.max() >= len(names))):
        allowed = f" to {len(names) - 1}" if names else " and up"
        raise IntegrityError(
            f"{source} has labels outside 0{allowed}: choose a labelled split, or correct them"
        )
    store = (
        _Arrays(found.images) if isinstance(found.images, np.ndarray) else _Encoded(found.images)
    )
    seen = len(np.unique(y))
    size = f" of {'x'.join(map(str, store.pixels.shape[1:]))}" if isinstance(store, _Arrays) else ""
    classes = (
        f"{seen} of {len(names)} classes" if names and seen < len(names) else f"{seen} classes"
    )
    parts = [found.kind, f"{found.split} split" if found.split else "", f"{count} images{size}"]
    description = ", ".join(
        filter(None, [*parts, "no labels" if found.labels is None else classes])
    )
    finer = found.finer and (np.asarray(found.finer[0], np.int64), tuple(found.finer[1]))
    return ImageSet(
        y.astype(np.int64),
        names,
        description,
        str(source),
        found.split,
        store,
        np.arange(count),
        notes=found.notes,
        _finer=finer,
    )
