"""The artifact: a folder with `config.json` and `model.safetensors`, the same on disk, in a cache and on a hub.

Tensors follow the network's names. Per layer `L` with C output channels and P bias rows (int8 numerics; float32 throughout for
`numerics = "float32"`):

    L.weight int8 [C, Cin, k, k]      L.bias int16 or int32 [P, C]      L.threshold int32 [C]      L.v_init int32 [C]
    L.scale float32 [C]  one integer unit in ANN units; a spike of channel c is worth threshold[c] * scale[c]
    L.shortcut.gain int32 [C] (identity)  or  L.shortcut.weight int8 [C, Csrc, 1, 1] (projection)

and `fc.weight` int8 [classes, C], `fc.scale`, `fc.bias` float32 [classes], `image.table` int16 [channels, 256]. The header holds
`{"format": "pt"}` alone: safetensors writes further keys in an order that changes from process to process.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.config import MAX_CHECKSUM_PIXELS, ChecksumConfig, Config, parse_config
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.network import Head, SpikingResNet
from zoo.resnet import IMAGE, Topology, topology

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_MAX_CONFIG_BYTES = 4_000_000
_MAX_HEADER_BYTES = 4_000_000
# An ImageNet ResNet-152 at 384 x 384 has 60 million. A neuron takes up to 20 bytes: this bounds what a config can ask for.
MAX_NEURONS = 2**26
_CHECKSUMS = ((2, 8), (1, 8), (1, 4), (1, 2), (1, 1))  # images and timesteps; the first that the input's size allows


def tensors_of(network: SpikingResNet, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The artifact's tensors of a network; `scales` gives each layer's scale [C]."""
    tensors = {"image.table": network.image_table}
    for spec in network.net.layers:
        layer, name = network.layers[spec.name], spec.name
        tensors |= {
            f"{name}.weight": layer.weight, f"{name}.bias": layer.bias, f"{name}.threshold": layer.threshold,
            f"{name}.v_init": layer.v_init, f"{name}.scale": scales[name],
        }  # fmt: skip
        if layer.gain is not None:
            tensors[f"{name}.shortcut.gain"] = layer.gain
        if layer.projection is not None:
            tensors[f"{name}.shortcut.weight"] = layer.projection
    head = network.head
    tensors |= {"fc.weight": head.weight, "fc.scale": head.scale, "fc.bias": head.bias}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def expected_tensors(config: Config, net: Topology) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Name -> (dtype, shape) of every tensor an artifact with this config holds."""
    integer = config.numerics == "int8"
    small, wide = (torch.int8, torch.int32) if integer else (torch.float32, torch.float32)
    table = torch.int16 if integer else torch.float32
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"image.table": (table, (net.in_channels, 256))}
    for layer in net.layers:
        channels, name = layer.out_channels, layer.name
        expected |= {
            f"{name}.weight": (small, (channels, layer.in_channels, layer.kernel, layer.kernel)),
            f"{name}.bias": (wide, (config.bias_rows, channels)),
            f"{name}.threshold": (wide, (channels,)),
            f"{name}.v_init": (wide, (channels,)),
            f"{name}.scale": (torch.float32, (channels,)),
        }
        if layer.shortcut is not None and layer.shortcut.kind == "identity":
            expected[f"{name}.shortcut.gain"] = (wide, (channels,))
        elif layer.shortcut is not None:
            source = net.channels[layer.shortcut.source]
            expected[f"{name}.shortcut.weight"] = (small, (channels, source, 1, 1))
    classes = config.num_classes
    expected["fc.weight"] = (small, (classes, net.features))
    expected |= {f"fc.{part}": (torch.float32, (classes,)) for part in ("scale", "bias")}
    return expected


def network_of(config: Config, tensors: Mapping[str, Tensor]) -> SpikingResNet:
    """Builds the network from validated tensors."""
    net = topology_of(config)
    layers = {}
    for spec in net.layers:
        get = {part: tensors.get(f"{spec.name}.{part}") for part in ("shortcut.gain", "shortcut.weight")}
        layers[spec.name] = SpikingConv(
            tensors[f"{spec.name}.weight"], tensors[f"{spec.name}.bias"], tensors[f"{spec.name}.threshold"],
            tensors[f"{spec.name}.v_init"], spec.stride, spec.padding, config.neuron,
            get["shortcut.gain"], get["shortcut.weight"],
            spec.shortcut.stride if spec.shortcut else 1, spec.shortcut.pad if spec.shortcut else 0, spec.max_pool,
            input_bound=int(tensors["image.table"].double().abs().max()) if spec.source == IMAGE else 2**config.spike_bits - 1,
            bits=config.spike_bits,
        )  # fmt: skip
    head = Head(tensors["fc.weight"], tensors["fc.scale"], tensors["fc.bias"])
    return SpikingResNet(
        net, layers, head, tensors["image.table"], schedule=config.schedule, delay=config.readout_delay
    )


def topology_of(config: Config) -> Topology:
    """The topology a config names. Raises IntegrityError when there is no such network, or it is too large to run."""
    try:
        net = topology(
            config.arch, num_classes=config.num_classes, in_channels=config.preprocess.input_size[0],
            shortcut=config.shortcut, stride_in=config.stride_in, stem=config.stem,
        )  # fmt: skip
    except UsageError as error:
        raise IntegrityError(f"config.json: {error}") from error
    _, height, width = config.preprocess.input_size
    sizes = net.sizes(height, width)
    neurons = sum(layer.out_channels * sizes[layer.name][0] * sizes[layer.name][1] for layer in net.layers)
    if neurons > MAX_NEURONS:
        raise IntegrityError(
            f"config.json: {config.arch} at {height} x {width} has {neurons} neurons, at most {MAX_NEURONS} are run: "
            "choose a smaller input size"
        )
    return net


def checksum_images(config: Config) -> Tensor:
    """The stated input of the spike checksum: bytes of SHAKE-256 over "spiking-zoo", as uint8 [images, C, H, W]."""
    channels, height, width = config.preprocess.input_size
    images = config.checksum.images
    noise = bytearray(hashlib.shake_256(b"spiking-zoo").digest(images * channels * height * width))
    return torch.frombuffer(noise, dtype=torch.uint8).view(images, channels, height, width)


def spike_checksum(network: SpikingResNet, images: Tensor, timesteps: int) -> str:
    """sha256 over every layer's spikes, in running order: int8 [T, B, H, W, C] each (layerwise: counts, uint8 [B, H, W, C])."""
    digest = hashlib.sha256()

    def add(name: str, spikes: Tensor) -> None:
        order = (0, 1, 3, 4, 2) if spikes.ndim == 5 else (0, 2, 3, 1)
        digest.update(name.encode())
        digest.update(spikes.permute(*order).contiguous().cpu().numpy().tobytes())

    network.run(images, timesteps, chunk=len(images), window=timesteps, watch=add)
    return digest.hexdigest()


def write(folder: str | Path, tensors: Mapping[str, Tensor], describe: Callable[[str, ChecksumConfig], Config], *,
          force: bool = False) -> Config:  # fmt: skip
    """Writes an artifact atomically: the folder appears complete or not at all.

    Args:
        describe: makes the config from the sha256 of the weights and the spike checksum.
        force: replace what is at `folder`.

    Raises:
        UsageError: `folder` exists and `force` is not set.
        ZooError: the disk is full or the folder cannot be written; nothing is left behind.
    """
    from safetensors.torch import save

    folder = Path(folder)
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists already: choose another --out, or pass --force to replace it")
    payload = save({name: _narrow(name, tensor) for name, tensor in tensors.items()}, metadata={"format": "pt"})
    pending = ChecksumConfig(input="shake256-noise", images=1, timesteps=1, sha256="0" * 64)
    sha256 = hashlib.sha256(payload).hexdigest()
    _, height, width = describe(sha256, pending).preprocess.input_size
    images, timesteps = next(pair for pair in _CHECKSUMS if pair[0] * pair[1] * height * width <= MAX_CHECKSUM_PIXELS)
    pending = pending.model_copy(update={"images": images, "timesteps": timesteps})
    draft = describe(sha256, pending)
    checksum = spike_checksum(network_of(draft, tensors), checksum_images(draft), timesteps)
    config = describe(sha256, pending.model_copy(update={"sha256": checksum}))
    files = {WEIGHTS: payload, CONFIG: (config.model_dump_json(indent=2) + "\n").encode()}
    with replaced_folder(folder) as temporary:
        for name, data in files.items():
            write_synced(temporary / name, data)
    return config


def _narrow(name: str, tensor: Tensor) -> Tensor:
    """A layer's bias as int16 where that holds it: 33 rows are a fifth of a ResNet-56 of CIFAR-10 as int32."""
    if not name.endswith(".bias") or tensor.dtype != torch.int32:
        return tensor
    low, high = tensor.aminmax()
    return tensor.to(torch.int16) if low >= -(2**15) and high < 2**15 else tensor


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place on success; on any error, Ctrl-C too, it vanishes."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ZooError(f"{folder} cannot be written ({error.strerror}): choose another --out") from error
    old: Path | None = None
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.rename(folder, old / "old")
        os.rename(temporary, folder)
        descriptor = os.open(folder.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:
        raise ZooError(f"{folder} could not be written ({error.strerror}): free some space and try again") from error
    finally:
        if old is not None:
            if not folder.exists() and (old / "old").exists():
                (old / "old").rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def write_synced(path: Path, data: bytes) -> None:
    """Writes and flushes one file to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_config(folder: str | Path) -> Config:
    """The strictly validated config of an artifact folder."""
    return parse_config(_read(Path(folder) / CONFIG, _MAX_CONFIG_BYTES), f"{folder}/{CONFIG}")


def read(folder: str | Path) -> tuple[Config, dict[str, Tensor]]:
    """Config and tensors of an artifact, after every check that needs no run.

    Raises:
        NotFoundError: no such folder, or a file is missing.
        IntegrityError: anything in it is not what the format says (hash, header, names, dtypes, shapes, values).
    """
    folder = Path(folder)
    config = read_config(folder)
    expected = expected_tensors(config, topology_of(config))
    data = _read(folder / WEIGHTS, weights_limit(config))
    if hashlib.sha256(data).hexdigest() != config.weights_sha256:
        raise IntegrityError(f"{folder}/{WEIGHTS} does not match the sha256 in {CONFIG}: fetch the artifact again")
    return config, _checked_tensors(data, expected, f"{folder}/{WEIGHTS}")


def weights_limit(config: Config) -> int:
    """Most bytes that model.safetensors of such an artifact may have."""
    expected = expected_tensors(config, topology_of(config))
    return sum(dtype.itemsize * _numel(shape) for dtype, shape in expected.values()) + _MAX_HEADER_BYTES


def _numel(shape: Iterable[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _read(path: Path, limit: int) -> bytes:
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent} does not exist: give an artifact folder, or a name of `zoo list`")
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: {path.parent} is not a whole artifact")
    if path.stat().st_size > limit:
        raise IntegrityError(f"{path} has {path.stat().st_size} bytes, at most {limit} were expected: fetch it again")
    return path.read_bytes()


def _checked_tensors(
    data: bytes, expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], where: str
) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise IntegrityError(f"{where} is not a whole safetensors file ({str(error)[:80]}): fetch it again") from error
    if tensors.keys() != expected.keys():
        odd = sorted(name[:80] for name in tensors.keys() ^ expected.keys())
        raise IntegrityError(f"{where} has missing or unexpected tensors ({', '.join(odd[:4])}): fetch it again")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if name.endswith(".bias") and (tensor.dtype, dtype) == (torch.int16, torch.int32):
            tensors[name] = tensor = tensor.to(dtype)
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise IntegrityError(
                f"{where}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}: fetch it again"
            )
        if dtype.is_floating_point and not torch.isfinite(tensor).all():
            raise IntegrityError(f"{where}: {name} has NaN or infinite values: fetch it again")
        if name.endswith((".threshold", ".scale")) and (tensor <= 0).any():
            raise IntegrityError(f"{where}: {name} has values that are not positive: fetch it again")
        if dtype == torch.int8 and (tensor == -128).any():
            raise IntegrityError(f"{where}: {name} holds -128, weights are -127 to 127: fetch it again")
        if dtype == torch.int32 and (tensor.long().abs() > 2**30).any():
            raise IntegrityError(f"{where}: {name} has values past 2**30: fetch it again")
    return tensors


@dataclass(frozen=True)
class Check:
    """One thing `verify` looked at."""

    name: str
    ok: bool
    detail: str


def verify(folder: str | Path, *, deep: bool = False) -> list[Check]:
    """Checks an artifact; `deep` also runs it and compares the spike checksum. Never raises for a bad artifact.

    Raises NotFoundError when the folder itself does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} does not exist: give an artifact folder, or a name of `zoo list`")
    checks = []
    try:
        config = read_config(folder)
        checks.append(Check(CONFIG, True, f"format version {config.format_version}, {config.arch}"))
        config, tensors = read(folder)
        checks.append(Check(WEIGHTS, True, f"sha256 {config.weights_sha256}, {len(tensors)} tensors"))
        if deep:
            stated = config.checksum
            found = spike_checksum(network_of(config, tensors), checksum_images(config), stated.timesteps)
            detail = f"spikes sha256 {found}" + ("" if found == stated.sha256 else f", config says {stated.sha256}")
            checks.append(Check("spikes", found == stated.sha256, detail))
    except ZooError as error:
        checks.append(Check((CONFIG, WEIGHTS, "spikes")[len(checks)], False, str(error)))
    return checks
