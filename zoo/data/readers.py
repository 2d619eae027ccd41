"""Readers of labelled images, one per form (CIFAR's archives: `zoo.data.cifar`).

A reader returns None where the path holds no such form. It checks what is peculiar to its form;
`zoo.data.open` checks what every set shares.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import Image

SPLITS = {
    "train": ("train",),
    "test": ("test", "val", "validation"),
}  # each with the names that sources give it


_SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}


_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


AGAIN = "download or copy it again"


class ImageFiles(Protocol):
    """Encoded images in whatever holds them."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        """Return the image files of these rows, each with the name that messages give it."""


@dataclass(frozen=True)
class Found:
    """Images as a reader returns them; labels and names are as they were stored.

    Attributes:
        kind: the form, for the user.
        images: uint8 [N, H, W, C], or image files.
        labels: one per image; None: the images have none.
        names: the classes in label order; None: the source does not name them.
        split: "train" or "test"; None: the source does not say.
    """

    kind: str
    images: np.ndarray | ImageFiles
    labels: Any
    names: Any
    split: str | None


def read_digits(split: str) -> Found:
    """Return 1437 training or 360 test images of handwritten digits, which the package holds.

    They are the test set of UCI's Optical Recognition of Handwritten Digits (E. Alpaydin and C.
    Kaynak, 1998, doi:10.24432/C50P49, CC BY 4.0; `digits.txt` beside the file), which scikit-learn
    made known: 8 x 8 pixels of 0 to 16, scaled to 0 to 255, split after one permutation.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as raw:
        images, labels = raw["images"], raw["labels"]
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[-360:] if split == "test" else order[:-360]
    pixels = np.rint(images[chosen, :, :, None] * (255 / 16)).astype(np.uint8)
    return Found("scikit-learn digits", pixels, labels[chosen], range(10), split)


def read_pack(path: Path, split: str) -> Found | None:
    """Return a CIFAR pack's images: mosaics 40 images wide in lossless WebP, and manifest.json."""
    pack = _json(path / "manifest.json")
    if not isinstance(pack, dict) or not isinstance(pack.get("splits"), dict):
        return None
    if split not in pack["splits"]:
        raise no_split(path, split, pack["splits"])

    def tiles(file: Path) -> np.ndarray:
        mosaic = np.asarray(decode_image(str(file), file.read_bytes()).convert("RGB"))
        return mosaic.reshape(-1, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)

    with reading(path), ThreadPoolExecutor() as pool:
        info = pack["splits"][split]
        parts = list(pool.map(tiles, sorted(path.glob(f"{split}-*.webp"))))
        pixels = np.concatenate([np.zeros((0, 32, 32, 3), np.uint8), *parts])[: info["n"]]
        if hashlib.sha256(pixels.data).hexdigest() != info["sha256_uint8_nhwc"]:
            raise IntegrityError(f"{path}: the {split} pixels do not match manifest.json: {AGAIN}")
        return Found("CIFAR pack", pixels, info["labels"], pack["class_names"], split)


def read_parquet(path: Path, split: str) -> Found | None:
    """Return the images of a parquet file or of a folder of them, as hubs hold image sets.

    A row has a struct with the image's bytes, and an integer label.
    """
    files = _parquet_files(path) if path.is_dir() else [path]
    if not files:
        return None
    try:
        import pyarrow.parquet as pq
        import pyarrow.types as types
    except ImportError:
        raise NotFoundError(f"{path} needs pyarrow: pip install 'spiking-zoo[data]'") from None

    by_alias: dict[str, list[Path]] = {}
    for file in files:
        stated = re.match(r"(train|test|validation|val)(?![A-Za-z])", file.name)
        by_alias.setdefault(stated[1] if stated else "", []).append(file)
    alias = next((alias for alias in (*SPLITS[split], "") if alias in by_alias), None)
    if alias is None:
        raise no_split(path, split, {_SPLIT_OF[name] for name in by_alias})
    groups: list[tuple[Path, Any, int, str, int]] = []
    labels, names = [], None
    for file in by_alias[alias]:
        with reading(file):
            opened = pq.ParquetFile(file)
            columns, rows = opened.schema_arrow.names, opened.metadata
            leaves = {opened.schema.column(i).path for i in range(len(opened.schema))}
            image = next((c for c in ("img", "image") if f"{c}.bytes" in leaves), None)
            label = next((c for c in ("label", "fine_label") if c in columns), None)
            if image is None or label is None:
                have = ", ".join(columns)
                raise IntegrityError(
                    f"{file} lacks img or image with bytes, or label or fine_label: it has {have}"
                )
            values = opened.read(columns=[label]).column(label)
            if values.null_count or not types.is_integer(values.type):
                raise IntegrityError(
                    f"{file} has labels that are missing or not integers: choose a labelled split"
                )
            labels.append(values.to_numpy())
            info = json.loads((opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            names = info.get("info", {}).get("features", {}).get(label, {}).get("names") or names
            groups += [
                (file, opened, g, image, rows.row_group(g).num_rows)
                for g in range(rows.num_row_groups)
            ]
    return Found(
        "parquet", _ParquetRows(groups), np.concatenate(labels), names, _SPLIT_OF.get(alias)
    )


def _parquet_files(path: Path) -> list[Path]:
    # Hub repositories keep their parquet one folder down (data/, plain_text/); two such folders are
    # two data sets.
    found = [sorted(folder.glob("*.parquet")) for folder in (path, *_subfolders(path))]
    below = [files for files in found[1:] if files]
    return found[0] or (below[0] if len(below) == 1 else [])


class _ParquetRows:
    """Image bytes by row over all files.

    It holds one row group, so shards of any size fit in memory.
    """

    def __init__(self, groups: list[tuple[Path, Any, int, str, int]]) -> None:
        self._groups = groups
        self._first = np.cumsum([0] + [group[-1] for group in groups])
        self._held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = [("", b"")] * len(rows)
        where = np.searchsorted(self._first, rows, side="right") - 1
        for group in np.unique(where):
            file, column = self._groups[group][0], self._column(int(group))
            for i in np.flatnonzero(where == group):
                data = column[int(rows[i] - self._first[group])].as_py()
                if data is None:
                    raise IntegrityError(
                        f"{file} has no bytes for the image of row {rows[i]}: {AGAIN}"
                    )
                found[i] = (f"{file}, row {rows[i]},", data)
        return found

    def _column(self, group: int) -> Any:
        if self._held[0] != group:
            file, opened, number, image, _ = self._groups[group]
            with reading(file):
                self._held = (
                    group,
                    opened.read_row_group(number, columns=[f"{image}.bytes"]).flatten().column(0),
                )
        return self._held[1]


def read_image_folder(path: Path, split: str) -> Found | None:
    """Return the image files in one folder per class, or images without labels.

    A folder per split may be around the classes.
    """
    path = root = path.resolve()
    stated, folders = _SPLIT_OF.get(path.name), _subfolders(path)
    splits = {folder.name: folder for folder in folders if folder.name in _SPLIT_OF}
    # "train" may also be a class (Pascal VOC): one among others, with no folders of its own.
    if splits and (len(splits) == len(folders) or any(map(_subfolders, splits.values()))):
        alias = next((alias for alias in SPLITS[split] if alias in splits), None)
        if alias is None:
            raise no_split(path, split, {_SPLIT_OF[name] for name in splits})
        root, stated, folders = splits[alias], split, _subfolders(splits[alias])
    by_class = {folder.name: _image_files(folder) for folder in folders}
    files = tuple(file for files in by_class.values() for file in files)
    if not files:
        files = tuple(_image_files(root))
        if files and split == "test":
            raise UsageError(
                f"the images in {root} have no labels: put them in one folder per class"
            )
        return Found("images", _Files(files), None, None, stated) if files else None
    names = _wnids((root, root.parent, path.parent), by_class) or list(by_class)
    if unlisted := [name for name, files in by_class.items() if files and name not in names]:
        raise IntegrityError(
            f"{root} has classes that wnids.json does not list ({unlisted[0]}): rename or move them"
        )
    label_of = {name: label for label, name in enumerate(names)}
    labels = [label_of[name] for name, members in by_class.items() for _ in members]
    return Found("image folder", _Files(files), labels, names, stated)


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        try:
            return [(str(self.paths[row]), self.paths[row].read_bytes()) for row in rows]
        except OSError as error:
            raise IntegrityError(
                f"{error.filename} cannot be read any more ({error.strerror}): restore it"
            ) from None


def _wnids(places: Iterable[Path], classes: Iterable[str]) -> list[str] | None:
    file = next(
        (place / "wnids.json" for place in places if (place / "wnids.json").is_file()), None
    )
    wnids = _json(file) if file else []
    if (
        not isinstance(wnids, list)
        or not all(isinstance(w, str) for w in wnids)
        or len(set(wnids)) != len(wnids)
    ):
        raise IntegrityError(f"{file} is not a list of different names: {AGAIN}")
    # A list beside the folder that names none of its classes belongs to another data set.
    return wnids if set(wnids).intersection(classes) else None


def _subfolders(path: Path) -> list[Path]:
    return sorted(
        Path(entry)
        for entry in os.scandir(path)
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _image_files(path: Path) -> list[Path]:
    files = (
        Path(entry)
        for entry in os.scandir(path)
        if entry.is_file() and not entry.name.startswith(".")
    )
    return sorted(file for file in files if file.suffix.lower() in _IMAGE_SUFFIXES)


def read_npz(path: Path, split: str) -> Found:
    keys: list[tuple[str, str, str | None]] = [
        (f"x_{alias}", f"y_{alias}", split) for alias in SPLITS[split]
    ]
    keys += [("images", "labels", None), ("x", "y", None)]
    with reading(path), np.load(path, allow_pickle=False) as opened:
        have = list(opened.keys())
        x, y, stated = next((triple for triple in keys if triple[0] in have), ("", "", None))
        if not x:
            if splits := {_SPLIT_OF[alias] for alias in _SPLIT_OF if f"x_{alias}" in have}:
                raise no_split(path, split, splits)
            raise IntegrityError(
                f"{path} has no x_{split}, images or x (has {', '.join(have)}): rename the keys"
            )
        if y not in have:
            raise IntegrityError(f"{path} has {x} without labels: add {y}")
        pixels, labels = opened[x], opened[y]
        names = opened["class_names"].ravel().astype(str) if "class_names" in have else None
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 4
        or pixels.shape[3] not in (1, 3)
        or 0 in pixels.shape[1:3]
    ):
        shape = f"{pixels.dtype} {list(pixels.shape)}"
        raise IntegrityError(f"{path}: {x} is {shape}: store uint8 [N, H, W, C] with C 1 or 3")
    return Found(".npz", np.ascontiguousarray(pixels), labels, names, stated)


def decode_image(name: str, data: bytes) -> Image.Image:
    """Return the image in these bytes, which messages call `name`.

    Raises:
        IntegrityError: it is damaged, or has more than 8 bits per channel.
    """
    from PIL import Image

    with reading(name):
        image = Image.open(io.BytesIO(data))
        image.load()
    if image.mode[0] in "IF":
        raise IntegrityError(
            f"{name} has more than 8 bits per channel ({image.mode}): save it with 8"
        )
    return image


def _json(file: Path) -> Any:
    """Return what the file holds; None where there is no such file."""
    if not file.is_file():
        return None
    with reading(file):
        return json.loads(file.read_bytes())


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn whatever a parser raises on damaged bytes into an IntegrityError.

    The exceptions of the parsers share no base class.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise IntegrityError(f"{name} is cut, altered or malformed ({why}): {AGAIN}") from None


def no_split(path: Path, split: str, present: Iterable[str]) -> NotFoundError:
    have = " and ".join(sorted(present)) or "none"
    return NotFoundError(
        f"{path} has no {split} split, only {have}: ask for one it has, or give another path"
    )
