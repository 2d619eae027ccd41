"""Reader of webdataset shards: tar files in which an image and its label share a name."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zoo.data.base import (
    AGAIN,
    Found,
    first_labelled,
    is_dropping,
    is_image,
    no_split,
    pick_splits,
    reading,
    split_in,
    split_named,
)
from zoo.errors import IntegrityError, UsageError

# Members with the label of the image of the same name, and the keys of a .json that may hold it.
_LABELS = ("cls", "cls.txt", "label", "json")
_KEYS = ("label", "cls", "class", "target", "class_id")


@dataclass(frozen=True)
class _Member:
    file: Path
    name: str
    start: int
    size: int


@dataclass(frozen=True)
class _Members:
    members: tuple[_Member, ...]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        out = []
        for row in rows:
            member = self.members[row]
            with reading(member.file), member.file.open("rb") as file:
                file.seek(member.start)
                out.append((f"{member.file}, {member.name},", file.read(member.size)))
        return out


def read_shards(path: Path, split: str) -> Found | None:
    """Return the images of a tar file in webdataset's form, or of a folder of such files."""
    files = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    stated = split_named(path.resolve().name) if path.is_dir() else None
    if path.is_dir() and not files:
        parts = [f for f in path.iterdir() if f.is_dir() and split_named(f.name)]
        files = sorted(file for folder in parts for file in folder.glob("*.tar"))
    by_alias: dict[str, list[Path]] = {}
    for file in files:
        alias = split_in(file.name) or split_named(file.absolute().parent.name) or stated or ""
        by_alias.setdefault(alias, []).append(file)
    if not files:
        return None
    aliases = pick_splits(split, by_alias) or [name for name in ("", stated) if name in by_alias]
    if not aliases:
        raise no_split(path, split, by_alias)

    def read(alias: str) -> Found | None:
        named = split if alias in pick_splits(split, by_alias) else alias or None
        return _read_files(by_alias[alias], named)

    return first_labelled(path, split, ((alias, read(alias)) for alias in aliases))


def _read_files(files: list[Path], split: str | None) -> Found | None:
    members: list[_Member] = []
    labels: list[str] = []
    for file in files:
        images: dict[str, _Member] = {}
        found: dict[str, str] = {}
        with reading(file):
            # Of a compressed file no member can be read without all before it.
            compressed = file.open("rb").read(2) == b"\x1f\x8b"
            with tarfile.open(file) as tar:
                for member in filter(tarfile.TarInfo.isfile, tar):
                    inside = PurePosixPath(member.name)
                    if is_dropping(inside.name):
                        continue
                    first, _, suffix = inside.name.partition(".")
                    key = str(inside.parent / first)
                    if is_image(inside.name):
                        images.setdefault(
                            key, _Member(file, member.name, member.offset_data, member.size)
                        )
                    elif suffix.lower() in _LABELS and member.size < 2**20:
                        data = tar.extractfile(member)
                        label = _label(suffix.lower(), data.read() if data else b"")
                        if label is not None:
                            found.setdefault(key, label)
        if images and compressed:
            raise UsageError(
                f"{file} is a compressed archive of images: unpack it, give the folder"
            )
        if images and not found:
            raise UsageError(
                f"{file} has images without labels (no .cls or .json of the same name): unpack it, "
                "give a folder of images by class"
            )
        if missing := next((key for key in images if key not in found), None):
            raise IntegrityError(f"{file} has no label for {missing}: {AGAIN}")
        members += images.values()
        labels += [found[key] for key in images]
    if not members:
        return None
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return Found("webdataset", _Members(tuple(members)), [*map(int, labels)], None, split)
    names = sorted(set(labels))
    label_of = {name: label for label, name in enumerate(names)}
    values = [label_of[label] for label in labels]
    return Found("webdataset", _Members(tuple(members)), values, names, split)


def _label(suffix: str, data: bytes) -> str | None:
    text = data.decode("utf-8", "replace").strip()
    if suffix != "json":
        return text or None
    value: Any = json.loads(text)
    if not isinstance(value, dict):
        return None
    chosen = next((value[key] for key in _KEYS if key in value), None)
    return str(chosen) if isinstance(chosen, int | str) and not isinstance(chosen, bool) else None
