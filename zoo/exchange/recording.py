"""Recordings of runs as files: images, spikes and potentials of every layer, as an .npz of numpy.

One array each:

    images uint8 [B, C, H, W], labels int64 [B] (-1: none), logits float64 [T, B, classes]
    spikes/LAYER int8 [T, B, C, H, W], potential/LAYER int32 or int64 [T, B, C, H, W]
    about: a text of JSON, with the model, its weights' sha256, the images and the timesteps

A potential is that after the reset of its timestep, in the layer's integer units, those of its
threshold. What was run is written as it comes, so that memory holds one chunk of images at a time.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.artifact.config import Config
from zoo.errors import UsageError, ZooError
from zoo.files import replaced_file
from zoo.networks.observe import What, layers_named, recorded_dtype, recorded_shapes, run_watched
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.progress import Progress
from zoo.text import human_bytes

if TYPE_CHECKING:
    from zoo.data.images import ImageSet

# Images read and decoded at a time.
_BATCH = 64
_COPY = 2**22


@dataclass(frozen=True)
class Written:
    """A recording on disk: bytes of the file and of what it holds, and shapes by array."""

    path: Path
    size: int
    raw: int
    shapes: dict[str, tuple[int, ...]]


def write_recording(
    network: SpikingResNet,
    images: ImageSet,
    timesteps: int,
    path: str | Path,
    *,
    layers: Sequence[str] | None = None,
    what: Sequence[What] = ("spikes",),
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Written:
    """Run images and write what layers did to an .npz.

    Until it is whole, what was recorded lies uncompressed in a temporary folder beside `path`.

    Args:
        layers, what: as in `SpikingResNet.record`.
        about: further facts for the file.
        progress: called with a stage, images done and images in all.

    Raises:
        UsageError: as `zoo.networks.observe.run_watched`, or a network without a config.
        ZooError: the disk has not enough room, or cannot be written; nothing is left behind.
    """
    path, config = Path(path), network.config
    if config is None:
        raise UsageError("the network has no config that says how to fit images: load an artifact")
    prep = Preprocess.of(config)
    size = (prep.input_size[1], prep.input_size[2])
    names = layers_named(network.topology, layers)
    shapes = recorded_shapes(network.topology, names, len(images), size, timesteps)
    arrays = {
        f"{kind}/{name}": _Array(shapes[name], recorded_dtype(network, name, kind, timesteps))
        for kind in what
        for name in names
    }
    raw = sum(array.bytes for array in arrays.values())
    _check_space(path, raw)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        files = {key: Path(folder) / f"{index}" for index, key in enumerate(arrays)}
        try:
            logits, pixels = _run(
                network, images, timesteps, prep, names, what, arrays, files, progress
            )
            small = {
                "about": np.array(
                    json.dumps(_about(config, images, timesteps) | dict(about or {}))
                ),
                "images": pixels,
                "labels": images.labels,
                "logits": logits,
            }
            with replaced_file(path) as temporary:
                _write(temporary, small, arrays, files, progress)
        except OSError as error:
            raise ZooError(
                f"{path} could not be written ({error.strerror}): free some space, or write "
                "elsewhere"
            ) from error
    found = {name: array.shape for name, array in small.items()}
    return Written(
        path,
        path.stat().st_size,
        raw,
        found | {name: array.shape for name, array in arrays.items()},
    )


@dataclass(frozen=True)
class _Array:
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(str(self.dtype).removeprefix("torch."))

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy.itemsize

    def write(self, file: Path, first: int, values: Tensor) -> None:
        """Put values of some images, `[T, b, C, H, W]`, in their places in the file."""
        image = self.bytes // max(1, self.shape[0] * self.shape[1])
        rows = values.cpu().contiguous().numpy()
        with open(file, "r+b" if file.exists() else "w+b") as stream:
            for step, row in enumerate(rows):
                stream.seek((step * self.shape[1] + first) * image)
                stream.write(row.tobytes())


def _run(
    network: SpikingResNet,
    images: ImageSet,
    timesteps: int,
    prep: Preprocess,
    names: Sequence[str],
    what: Sequence[What],
    arrays: Mapping[str, _Array],
    files: Mapping[str, Path],
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    logits, pixels = [], []
    for start in range(0, len(images), _BATCH):
        batch = images.batch(slice(start, start + _BATCH), prep)

        def keep(kind: What, name: str, first: int, values: Tensor, start: int = start) -> None:
            key = f"{kind}/{name}"
            arrays[key].write(files[key], start + first, values)

        run = run_watched(network, batch, timesteps, keep, layers=names, what=what)
        logits.append(run.logits.cpu())
        pixels.append(batch)
        if progress is not None:
            progress("recording", min(start + _BATCH, len(images)), len(images))
    return torch.cat(logits, 1).numpy(), torch.cat(pixels).numpy()


def _write(
    path: Path,
    small: Mapping[str, np.ndarray],
    arrays: Mapping[str, _Array],
    files: Mapping[str, Path],
    progress: Progress | None,
) -> None:
    """Write an .npz; its large arrays come from files, a few MB at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as whole:
        for name, array in small.items():
            with whole.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
        for index, (key, large) in enumerate(arrays.items()):
            with whole.open(f"{key}.npy", "w", force_zip64=True) as entry:
                header = {
                    "descr": np.lib.format.dtype_to_descr(large.numpy),
                    "fortran_order": False,
                    "shape": large.shape,
                }
                np.lib.format.write_array_header_1_0(entry, header)
                with open(files[key], "rb") as stream:
                    shutil.copyfileobj(stream, entry, _COPY)
            files[key].unlink()
            if progress is not None:
                progress("writing", index + 1, len(arrays))


def _about(config: Config, images: ImageSet, timesteps: int) -> dict[str, Any]:
    return {
        "format": "spiking-zoo recording",
        "arch": config.arch,
        "neuron": config.neuron,
        "weights_sha256": config.weights_sha256,
        "images": images.description,
        "timesteps": timesteps,
    }


def _check_space(path: Path, raw: int) -> None:
    free = shutil.disk_usage(path.absolute().parent).free
    if free < raw + raw // 4:
        raise ZooError(
            f"{path} needs about {human_bytes(raw + raw // 4)} of space while it is written, and "
            f"{human_bytes(free)} are free: take fewer images, `layers` or `timesteps`"
        )
