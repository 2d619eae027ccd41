"""Reader of parquet files, as hubs hold image sets: which of them, which columns, which rows."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.base import (
    AGAIN,
    Found,
    first_labelled,
    is_dropping,
    no_split,
    pick_splits,
    reading,
    split_in,
    split_named,
)
from zoo.errors import IntegrityError, NotFoundError, UsageError

# Columns by their usual names, most usual first; what the file itself says comes before.
_IMAGE = (
    "img",
    "image",
    "jpg",
    "png",
    "webp",
    "jpeg",
    "pixel_values",
    "picture",
    "photo",
    "images",
)
_LABEL = ("label", "fine_label", "labels", "class", "target", "cls", "class_id", "class_label", "y")

# Folders that only hold the parts of one set.
_PLAIN = frozenset(("data", "parquet"))

# How deep below the path that was given parquet files are looked for.
_DEEP = 5


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the image and the label; None: the usual ones."""

    image: str | None = None
    label: str | None = None


def read_parquet(path: Path, split: str, columns: Columns | None = None) -> Found | None:
    """Return the images of a parquet file or of a folder of them, at any usual depth.

    A row has an image (its file's bytes, alone or in a struct, the path of a file beside, or its
    pixels as nested lists) and a label (an integer, or the name of the class).

    Raises:
        NotFoundError: there is no such split, or pyarrow is not installed.
        UsageError: the folder holds several sets, or a column that was named is not there.
        IntegrityError: a file has no image or label, or is damaged.
    """
    stated = split_named(path.resolve().name) if path.is_dir() else None
    files = _parquet_files(path) if path.is_dir() else [path]
    if not files:
        return None
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise _no_pyarrow(path) from None
    by_alias: dict[str, list[Path]] = {}
    for file in files:
        by_alias.setdefault(_split_of(path, file) or stated or "", []).append(file)
    aliases = pick_splits(split, by_alias) or [name for name in ("", stated) if name in by_alias]
    if not aliases:
        raise no_split(path, split, by_alias)

    def read(alias: str) -> Found:
        found = _read_files(by_alias[alias], columns or Columns())
        named = split if alias in pick_splits(split, by_alias) else alias or None
        return Found("parquet", *found[:3], named, found[3])

    return first_labelled(path, split, ((alias, read(alias)) for alias in aliases))


def _no_pyarrow(path: Path) -> NotFoundError:
    return NotFoundError(f"{path} needs pyarrow: pip install 'spiking-zoo[data]'")


def _split_of(path: Path, file: Path) -> str | None:
    """Return the split that a file's name, or that of a folder below `path`, says."""
    if (stated := split_in(file.name)) is not None:
        return stated
    folders = file.relative_to(path).parts[:-1] if file != path else (file.absolute().parent.name,)
    return next((named for name in reversed(folders) if (named := split_named(name))), None)


def _parquet_files(path: Path) -> list[Path]:
    """Return the parquet files of the set in a folder; of several sets raise UsageError."""
    level, seen = [path], {path.resolve()}
    sets: dict[Path, list[Path]] = {}
    for _ in range(_DEEP):
        below = []
        for folder in level:
            if here := sorted(folder.glob("*.parquet")):
                sets[folder] = here
                if folder == path:
                    return here
            below += [
                Path(entry)
                for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
                if entry.is_dir() and not is_dropping(entry.name)
            ]
        # A link back up would be walked for ever, and class folders hold no parquet.
        level = [f for f in below if f.resolve() not in seen][:1000]
        seen.update(f.resolve() for f in level)
    by_set: dict[tuple[str, ...], list[Path]] = {}
    for folder, here in sets.items():
        parts = folder.relative_to(path).parts
        key = tuple(p for p in parts if split_named(p) is None and p.lower() not in _PLAIN)
        by_set.setdefault(key, []).extend(here)
    if len(by_set) > 1:
        names = ", ".join("/".join(key) or "." for key in list(by_set)[:4])
        raise UsageError(
            f"{path} holds {len(by_set)} sets of parquet files ({names}): give the folder of one"
        )
    return sorted(file for here in by_set.values() for file in here)


def _read_files(
    files: list[Path], columns: Columns
) -> tuple[_ParquetRows, Any, Any, tuple[str, ...]]:
    """Return the images, labels and class names of the files, and notes."""
    import pyarrow.parquet as pq

    groups: list[tuple[Path, Any, int, str, int]] = []
    labels: list[Any] = []
    names: Any = None
    notes: tuple[str, ...] = ()
    for file in files:
        with reading(file):
            opened = pq.ParquetFile(file)
            rows, info = opened.metadata, opened.schema_arrow.metadata or {}
            features = (
                json.loads(info.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
            )
            image = _image_column(file, opened, features, columns.image)
            label, notes = _label_column(file, opened, features, columns.label, image)
            labels.append(_label_values(file, opened.read(columns=[label]).column(label)))
            names = features.get(label, {}).get("names") or names
            groups += [
                (file, opened, g, image, rows.row_group(g).num_rows)
                for g in range(rows.num_row_groups)
            ]
    values = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    if values.dtype.kind in "US":
        values, names = _named_labels(files[0], values, names)
    return _ParquetRows(groups), values, names, notes


def _image_column(file: Path, opened: Any, features: dict[str, Any], given: str | None) -> str:
    """Return the column that holds the images."""
    import pyarrow.types as types

    schema = opened.schema_arrow
    if given is not None:
        return _given(file, given, schema.names, "image_column")

    def holds_images(name: str) -> bool:
        kind = schema.field(name).type
        kind = getattr(kind, "storage_type", kind)
        if types.is_struct(kind):
            return "bytes" in [kind.field(i).name for i in range(kind.num_fields)]
        depth = 0
        while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind, depth = kind.value_type, depth + 1
        return types.is_binary(kind) or types.is_large_binary(kind) or depth in (2, 3)

    able = [name for name in schema.names if holds_images(name)]
    stated = [name for name in able if features.get(name, {}).get("_type") == "Image"]
    usual = [name for name in _IMAGE if name in able]
    if len(stated) == 1 or (not usual and len(able) == 1):
        return (stated or able)[0]
    if usual:
        return usual[0]
    have = ", ".join(schema.names)
    if able:
        raise UsageError(
            f"{file} has images in several columns ({', '.join(able)}): say which, `image_column`"
        )
    raise IntegrityError(
        f"{file} lacks img or image with bytes, or another column of images: it has {have}; name "
        "it, `image_column`"
    )


def _label_column(
    file: Path, opened: Any, features: dict[str, Any], given: str | None, image: str
) -> tuple[str, tuple[str, ...]]:
    """Return the column that holds the labels, and a note where there is a choice."""
    names = opened.schema_arrow.names
    if given is not None:
        return _given(file, given, names, "label_column"), ()
    usual = [name for name in _LABEL if name in names and name != image]
    stated = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    stated = [name for name in stated if name in names]
    chosen = next((name for name in usual if name in stated), None) or next(
        iter(usual or stated), ""
    )
    if not chosen or (not usual and len(stated) > 1):
        have = ", ".join(names)
        raise IntegrityError(
            f"{file} lacks img or image with bytes, or label or fine_label: it has {have}; name "
            "the label's, `label_column`"
        )
    others = [name for name in dict.fromkeys([*usual, *stated]) if name != chosen]
    note = f"labels from the column {chosen}"
    if others:
        return chosen, (f"{note}; there is also {', '.join(others)}: say which, `label_column`",)
    return chosen, () if chosen in ("label", "fine_label") else (note,)


def _given(file: Path, name: str, have: list[str], parameter: str) -> str:
    if name not in have:
        raise UsageError(
            f"{file} has no column {name}, only {', '.join(have)}: choose one, `{parameter}`"
        )
    return name


def _label_values(file: Path, values: Any) -> np.ndarray:
    """Return the labels of a file: int64, or str where they are the names of classes."""
    import pyarrow.types as types

    advice = "choose a labelled split, or another column with `label_column`"
    if values.null_count:
        raise IntegrityError(f"{file} has {values.null_count} labels that are missing: {advice}")
    kind = values.type
    if types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if types.is_integer(kind):
        return np.asarray(values.to_numpy())
    if types.is_floating(kind):
        numbers = values.to_numpy()
        if not np.isfinite(numbers).all() or (numbers % 1).any():
            raise IntegrityError(
                f"{file} has labels that are missing or not integers (of type {kind}): {advice}"
            )
        return numbers.astype(np.int64)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.asarray(values.to_pylist(), str)
    raise IntegrityError(
        f"{file} has labels that are missing or not integers or names (of type {kind}): {advice}"
    )


def _named_labels(file: Path, values: np.ndarray, names: Any) -> tuple[np.ndarray, Any]:
    """Return labels that are words, or whole numbers written as words, as integers and names."""
    used = sorted(set(values.tolist()))
    if all(word.isascii() and word.removeprefix("-").isdigit() for word in used):
        return values.astype(np.int64), names
    names = names or used
    label_of = {str(name): label for label, name in enumerate(names)}
    if strange := [word for word in used if word not in label_of]:
        raise IntegrityError(
            f"{file} has labels that its own list of classes lacks ({strange[0]}): correct them"
        )
    return np.array([label_of[word] for word in values.tolist()], np.int64), names


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
                name = f"{file}, row {rows[i]},"
                value = column[int(rows[i] - self._first[group])].as_py()
                found[i] = (name, _image_bytes(file, name, value, int(rows[i])))
        return found

    def _column(self, group: int) -> Any:
        if self._held[0] != group:
            file, opened, number, image, _ = self._groups[group]
            with reading(file):
                table = opened.read_row_group(number, columns=[image])
                self._held = (group, table.column(0))
        return self._held[1]


def _image_bytes(file: Path, name: str, value: Any, row: int) -> bytes:
    """Return the image file in a cell; of a cell of pixels, a PNM file of them."""
    path = None
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return _pnm(name, value)
    if not isinstance(path, str) or not path:
        raise IntegrityError(f"{file} has no bytes for the image of row {row}: {AGAIN}")
    beside = file.parent / path
    if Path(path).is_absolute() or ".." in Path(path).parts or not beside.is_file():
        raise IntegrityError(
            f"{file} has paths in place of images ({path}), and no such file is beside it: copy "
            "the image files there, or give parquet that holds their bytes"
        )
    with reading(beside):
        return beside.read_bytes()


def _pnm(name: str, value: list[Any]) -> bytes:
    with reading(name):
        pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3) and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    whole = pixels.dtype.kind in "iu" and pixels.size and pixels.min() >= 0 and pixels.max() <= 255
    if not whole or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise IntegrityError(
            f"{name} has {pixels.dtype} {list(pixels.shape)} in place of an image: store its "
            "file's bytes, or integers 0 to 255 as [H, W] or [H, W, 3]"
        )
    form = "P6" if pixels.ndim == 3 else "P5"
    head = f"{form} {pixels.shape[1]} {pixels.shape[0]} 255\n".encode()
    return head + np.ascontiguousarray(pixels, np.uint8).tobytes()
