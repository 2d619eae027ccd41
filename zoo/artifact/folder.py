"""The artifact: a folder with `config.json` and `model.safetensors`.

It is the same on disk, in a cache and on a hub.

Tensors follow the network's names. Per layer `L` with C output channels and P bias rows (int8
numerics; float32 throughout for `numerics = "float32"`):

    L.weight int8 [C, Cin, k, k]
    L.bias int16 or int32 [P, C]
    L.threshold int32 [C]
    L.v_init int32 [C]
    L.scale float32 [C]: one integer unit in ANN units; a spike of channel c is worth
        threshold[c] * scale[c]
    L.shortcut.gain int32 [C] (identity) or L.shortcut.weight int8 [C, Csrc, 1, 1] (projection)

and `fc.weight` int8 [classes, C], `fc.scale`, `fc.bias` float32 [classes], `image.table` int16
[channels, 256]. The header holds `{"format": "pt"}` alone: safetensors writes further keys in an
order that changes from process to process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.artifact.config import (
    CONFIG,
    MAX_CHECKSUM_PIXELS,
    WEIGHTS,
    Config,
    parse_config,
)
from zoo.artifact.tensors import expected_tensors, network_of, topology_of, weights_limit
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError
from zoo.files import replaced_folder, write_synced
from zoo.networks.backends import Backend
from zoo.networks.spiking import SpikingResNet

_MAX_CONFIG_BYTES = 4_000_000


_CHECKSUMS = (
    (2, 8),
    (1, 8),
    (1, 4),
    (1, 2),
    (1, 1),
)  # images and timesteps; the first that the input's size allows


def checksum_images(config: Config) -> Tensor:
    """Return the stated input of the spike checksum, uint8 `[images, C, H, W]`.

    Its bytes are those of SHAKE-256 over "spiking-zoo".
    """
    channels, height, width = config.preprocess.input_size
    images = config.checksum.images
    noise = bytearray(hashlib.shake_256(b"spiking-zoo").digest(images * channels * height * width))
    return torch.frombuffer(noise, dtype=torch.uint8).view(images, channels, height, width)


def spike_checksum(network: SpikingResNet, images: Tensor, timesteps: int) -> str:
    """Return the sha256 over every layer's spikes, in running order.

    Each layer's are int8 `[T, B, H, W, C]`; of a layerwise network counts, uint8 `[B, H, W, C]`.
    """
    digest = hashlib.sha256()

    def add(name: str, spikes: Tensor) -> None:
        order = (0, 1, 3, 4, 2) if spikes.ndim == 5 else (0, 2, 3, 1)
        digest.update(name.encode())
        digest.update(spikes.permute(*order).contiguous().cpu().numpy().tobytes())

    network.run(images, timesteps, chunk=len(images), window=timesteps, on_spikes=add)
    return digest.hexdigest()


def write_artifact(
    folder: str | Path,
    tensors: Mapping[str, Tensor],
    config: Config,
    *,
    force: bool = False,
) -> Config:
    """Write an artifact atomically: the folder appears complete or not at all.

    Args:
        config: without its checksums (`zoo.artifact.config.unsealed`).
        force: replace what is at `folder`.

    Raises:
        UsageError: `folder` exists and `force` is not set.
        ZooError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    from safetensors.torch import save

    folder = Path(folder)
    if folder.exists() and not force:
        raise UsageError(
            f"{folder} exists already: choose another `folder`, or pass `force=True` to replace it"
        )
    payload = save(
        {name: _narrow(name, tensor) for name, tensor in tensors.items()}, metadata={"format": "pt"}
    )
    _, height, width = config.preprocess.input_size
    images, timesteps = next(
        pair for pair in _CHECKSUMS if pair[0] * pair[1] * height * width <= MAX_CHECKSUM_PIXELS
    )
    checksum = config.checksum.model_copy(update={"images": images, "timesteps": timesteps})
    sha256 = hashlib.sha256(payload).hexdigest()
    config = config.model_copy(update={"weights_sha256": sha256, "checksum": checksum})
    spikes = spike_checksum(network_of(config, tensors), checksum_images(config), timesteps)
    checksum = checksum.model_copy(update={"sha256": spikes})
    config = config.model_copy(update={"checksum": checksum})
    files = {WEIGHTS: payload, CONFIG: (config.model_dump_json(indent=2) + "\n").encode()}
    with replaced_folder(folder) as temporary:
        for name, data in files.items():
            write_synced(temporary / name, data)
    return config


def _narrow(name: str, tensor: Tensor) -> Tensor:
    """Return a layer's bias as int16 where that holds it, any other tensor as it is.

    As int32, 33 rows are a fifth of a ResNet-56 of CIFAR-10.
    """
    if not name.endswith(".bias") or tensor.dtype != torch.int32:
        return tensor
    low, high = tensor.aminmax()
    return tensor.to(torch.int16) if low >= -(2**15) and high < 2**15 else tensor


def read_config(folder: str | Path) -> Config:
    """Return the strictly validated config of an artifact folder."""
    return parse_config(_read(Path(folder) / CONFIG, _MAX_CONFIG_BYTES), f"{folder}/{CONFIG}")


def read_artifact(folder: str | Path) -> tuple[Config, dict[str, Tensor]]:
    """Return config and tensors of an artifact, after every check that needs no run.

    Raises:
        NotFoundError: no such folder, or a file is missing.
        IntegrityError: anything in it is not what the format says (hash, header, names, dtypes,
            shapes, values).
    """
    folder = Path(folder)
    config = read_config(folder)
    expected = expected_tensors(config, topology_of(config))
    data = _read(folder / WEIGHTS, weights_limit(config))
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise IntegrityError(
            f"{folder}/{WEIGHTS} does not match the sha256 in {CONFIG}: fetch the artifact again"
        )
    return config, _checked_tensors(data, expected, f"{folder}/{WEIGHTS}")


def _read(path: Path, limit: int) -> bytes:
    if not path.parent.is_dir():
        raise NotFoundError(
            f"{path.parent} does not exist: give an artifact folder, or a name of `zoo list`"
        )
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: {path.parent} is not a whole artifact")
    if path.stat().st_size > limit:
        raise IntegrityError(
            f"{path} has {path.stat().st_size} bytes, at most {limit} were expected: fetch it again"
        )
    return path.read_bytes()


def _checked_tensors(
    data: bytes, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], where: str
) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise IntegrityError(
            f"{where} is not a whole safetensors file ({str(error)[:80]}): fetch it again"
        ) from error
    if tensors.keys() != expected.keys():
        odd = sorted(name[:80] for name in tensors.keys() ^ expected.keys())
        raise IntegrityError(
            f"{where} has missing or unexpected tensors ({', '.join(odd[:4])}): fetch it again"
        )
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if name.endswith(".bias") and (tensor.dtype, dtype) == (torch.int16, torch.int32):
            tensors[name] = tensor = tensor.to(dtype)
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise IntegrityError(
                f"{where}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} "
                f"{list(shape)}: fetch it again"
            )
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise IntegrityError(f"{where}: {name} has NaN or infinite values: fetch it again")
        if name.endswith((".threshold", ".scale")) and (tensor <= 0).any():
            raise IntegrityError(
                f"{where}: {name} has values that are not positive: fetch it again"
            )
        if dtype == torch.int8 and (tensor == -128).any():
            raise IntegrityError(
                f"{where}: {name} holds -128, weights are -127 to 127: fetch it again"
            )
        if dtype == torch.int32 and (tensor.long().abs() > 2**30).any():
            raise IntegrityError(f"{where}: {name} has values past 2**30: fetch it again")
    return tensors


@dataclass(frozen=True)
class Check:
    """One thing `verify` looked at."""

    name: str
    ok: bool
    detail: str


def verify_artifact(
    folder: str | Path, *, deep: bool = False, device: str = "cpu", backend: Backend = "auto"
) -> list[Check]:
    """Check an artifact; `deep` also runs it and compares the spike checksum.

    Never raises for a bad artifact.

    Args:
        device, backend: what runs it, as in `zoo.load`; spikes are the same on all of them.

    Raises:
        NotFoundError: the folder itself does not exist.
        UsageError: the backend cannot run on the device.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder} does not exist: give an artifact folder, or a name of `zoo list`"
        )
    checks = []
    try:
        config = read_config(folder)
        checks.append(Check(CONFIG, True, f"format version {config.format_version}, {config.arch}"))
        config, tensors = read_artifact(folder)
        checks.append(
            Check(WEIGHTS, True, f"sha256 {config.weights_sha256}, {len(tensors)} tensors")
        )
        if deep:
            stated = config.checksum
            network = network_of(config, tensors).to(device).with_backend(backend)
            found = spike_checksum(network, checksum_images(config), stated.timesteps)
            detail = f"spikes sha256 {found}" + (
                "" if found == stated.sha256 else f", config says {stated.sha256}"
            )
            checks.append(Check("spikes", found == stated.sha256, detail))
    except UsageError:
        raise
    except ZooError as error:
        checks.append(Check((CONFIG, WEIGHTS, "spikes")[len(checks)], False, str(error)))
    return checks
