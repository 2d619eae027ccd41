"""CIFAR-10 and CIFAR-100 as their authors publish them, without running what a pickle may hold."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.base import AGAIN, Found, no_split, reading
from zoo.errors import IntegrityError


@dataclass(frozen=True)
class _Layout:
    name: str
    files: dict[str, tuple[str, ...]]  # by split
    meta: str
    classes: int
    label_bytes: int  # at the head of a binary record; 0: the files are pickles

    @property
    def label_key(self) -> str:
        return "label" if self.classes == 10 else "fine_label"


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


_LAYOUTS = (
    _Layout("CIFAR-10 python", {"train": _BATCHES, "test": ("test_batch",)}, "batches.meta", 10, 0),
    _Layout("CIFAR-100 python", {"train": ("train",), "test": ("test",)}, "meta", 100, 0),
    _Layout(
        "CIFAR-10 binary",
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        10,
        1,
    ),
    _Layout(
        "CIFAR-100 binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        "fine_label_names.txt",
        100,
        2,
    ),
)


def read_cifar(path: Path, split: str) -> Found | None:
    """Return the images of the archive (tar, gzipped or not) or of its unpacked folder, or None."""
    wanted = {name for layout in _LAYOUTS for name in (*layout.files.get(split, ()), layout.meta)}
    present, data = (_folder_members if path.is_dir() else _tar_members)(path, wanted)
    for layout in _LAYOUTS:
        splits = [name for name, files in layout.files.items() if present.intersection(files)]
        if splits:
            break
    else:
        return None
    if split not in splits:
        raise no_split(path, split, splits)
    if missing := set(layout.files[split]) - data.keys():
        raise IntegrityError(f"{path} lacks {', '.join(sorted(missing))}: {AGAIN}")
    parts: list[np.ndarray] = []
    labels: list[int] = []
    for name in layout.files[split]:
        pixels, found = (_read_binary if layout.label_bytes else _read_batch)(
            f"{path}/{name}", data[name], layout
        )
        if not all(type(label) is int and 0 <= label < layout.classes for label in found):
            raise IntegrityError(
                f"{path}/{name} has labels that are not 0 to {layout.classes - 1}: {AGAIN}"
            )
        parts.append(pixels)
        labels += found
    images = np.ascontiguousarray(
        np.concatenate(parts).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    )
    names: Any = None
    if layout.meta in data:
        if layout.label_bytes:
            names = data[layout.meta].decode("utf-8", "replace").split()
        else:
            names = _unpickle(f"{path}/{layout.meta}", data[layout.meta]).get(
                f"{layout.label_key}_names"
            )
        if not isinstance(names, list) or len(names) != layout.classes:
            raise IntegrityError(
                f"{path}/{layout.meta} does not name {layout.classes} classes: {AGAIN}"
            )
    return Found(layout.name, images, labels, names, split)


def _folder_members(path: Path, wanted: set[str]) -> tuple[set[str], dict[str, bytes]]:
    present = {entry.name for entry in os.scandir(path) if entry.is_file()}
    return present, {name: (path / name).read_bytes() for name in present & wanted}


def _tar_members(path: Path, wanted: set[str]) -> tuple[set[str], dict[str, bytes]]:
    present, data = set(), {}
    with reading(path), tarfile.open(path) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            name = Path(member.name).name
            present.add(name)
            if name in wanted and (file := tar.extractfile(member)):
                data[name] = file.read()
    return present, data


def _read_binary(name: str, data: bytes, layout: _Layout) -> tuple[np.ndarray, list[int]]:
    size = layout.label_bytes + 3072
    if len(data) % size:
        raise IntegrityError(f"{name} has {len(data)} bytes, not a multiple of {size}: {AGAIN}")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, size)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].tolist()


def _read_batch(name: str, data: bytes, layout: _Layout) -> tuple[np.ndarray, list[Any]]:
    batch = _unpickle(name, data)
    pixels, labels = batch.get("data"), batch.get(f"{layout.label_key}s")
    if not isinstance(pixels, _PickledArray) or not isinstance(labels, list):
        raise IntegrityError(f"{name} lacks data or {layout.label_key}s: {AGAIN}")
    if (
        pixels.dtype != "u1"
        or pixels.shape != (len(labels), 3072)
        or len(pixels.raw) != len(labels) * 3072
    ):
        raise IntegrityError(
            f"{name} is not uint8 [{len(labels)}, 3072] for its {len(labels)} labels: {AGAIN}"
        )
    array = np.frombuffer(pixels.raw, dtype=np.uint8)
    return array.reshape(pixels.shape, order="F" if pixels.fortran else "C"), labels


class _PickledArray:
    """The state of a pickled ndarray as plain data.

    numpy's own constructors are not offered to a pickle: `ndarray(shape, object, buffer)` makes
    objects of any bytes.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    fortran: bool = False
    raw: bytes = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, dtype, self.fortran, raw = state
        self.dtype = dtype.code
        # Python 2 wrote the pixels as str; latin-1 maps each character back to its byte.
        self.raw = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)


class _PickledType:
    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known == "numpy.dtype":
            return _PickledType
        if known in ("numpy.ndarray", "numpy.core.multiarray._reconstruct"):
            return _PickledArray
        if known == "_codecs.encode":
            return lambda text, _encoding: text.encode("latin-1")
        raise IntegrityError(f"forbidden global {module}.{name}")


def _unpickle(name: str, data: bytes) -> dict[str, Any]:
    """Return the dictionary in a CIFAR pickle.

    Its keys and the strings in its lists become str, whichever Python wrote them.

    Raises:
        IntegrityError: it is not a dictionary, or it names anything a CIFAR file has no need of.
    """
    with reading(name):
        try:
            found = _Unpickler(io.BytesIO(data), encoding="latin-1").load()
        except IntegrityError as error:
            raise IntegrityError(
                f"{name} was refused, {error}: it is not CIFAR's own file, delete it"
            ) from None
        found = {
            _text(k): [_text(v) for v in value] if type(value) is list else value
            for k, value in found.items()
        }
    return found


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
