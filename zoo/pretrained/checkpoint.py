"""Read a pretrained ANN: the folded parameters of one topology, or one clear error.

Nothing in a file is ever executed (`zoo.pretrained.unpickle`), and which of its tensors are the
network is found out by `zoo.pretrained.state`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.artifact.config import TrainingConfig
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.files import cache_folder
from zoo.networks.architectures import KNOWN_NAMES, topology
from zoo.networks.batchnorm import Moments, fold_batchnorm, recorded_moments
from zoo.networks.topology import StrideIn, Topology
from zoo.pretrained.infer import convolutions, infer, is_form_of
from zoo.pretrained.layouts import foreign, foreign_by_name
from zoo.pretrained.state import Weights, read_state

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Origin:
    """Facts about a checkpoint that its origin states; None where it states nothing.

    Attributes:
        revision: commit on a hub.
        mean, std: per channel, for pixels in 0 to 1.
        input_size: height and width of the input.
        crop: its share of the shorter side that images are resized to.
        class_names: in label order.
    """

    license: str | None = None
    url: str | None = None
    revision: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: int | None = None
    crop: float | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained ANN with its BatchNorm folded.

    Attributes:
        params: float32, as `zoo.networks.resnet.ann_forward` takes them.
        name: what it is recorded under.
        sha256: of the file.
        training: from the log.json beside the file, where `zoo train` wrote both.
        moments: what its BatchNorm recorded of each convolution
            (`zoo.networks.batchnorm.recorded_moments`); None where it recorded nothing.
        origin: see `zoo.pretrained.sources`.
        path: the file that it was read from; None where there is none.
        weights: which of two networks of the file it is; None where there is one.
        notes: what reading it found and assumed, a sentence each.
    """

    net: Topology
    params: dict[str, Tensor]
    name: str
    sha256: str
    training: TrainingConfig | None = None
    moments: dict[str, Moments] | None = None
    origin: Origin = Origin()
    path: Path | None = None
    weights: Weights | None = None
    notes: tuple[str, ...] = ()

    def to(self, device: str | torch.device) -> Checkpoint:
        """Return the same ANN with its tensors on `device`."""
        moments = None
        if self.moments is not None:
            moments = {
                name: Moments(recorded.mean.to(device), recorded.std.to(device))
                for name, recorded in self.moments.items()
            }
        params = {name: values.to(device) for name, values in self.params.items()}
        return replace(self, params=params, moments=moments)


def read_checkpoint(
    path: str | Path,
    arch: str | None = None,
    *,
    shortcut: Literal["A", "B"] | None = None,
    stride_in: StrideIn = "3x3",
    weights: Weights | None = None,
    sha256: str | None = None,
) -> Checkpoint:
    """Return the network in a checkpoint file.

    The number of classes and of input channels, and the shortcut, follow from the file.

    Args:
        arch: architecture that the file must fit; default: the one that its keys are of.
        stride_in: convolution of a bottleneck that has its stride, which no file says.
        weights: as `zoo.pretrained.state.read_state` takes it.
        sha256: of the file, from a caller that has just hashed it; default: it is hashed.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: the file is no checkpoint, is cut, would execute code, or holds NaN or
            infinite weights.
        UsageError: it does not fit `arch` (the message lists missing and unexpected keys, or the
            first wrong shape).
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: give a .pth, .th, .pt or .safetensors file")
    found = read_state(path, weights)
    state = found.tensors
    known, notes = infer(state), found.notes
    if known is not None and (arch is None or is_form_of(known[0], arch)):
        notes += _assumed(path, known[0], arch)
        arch = known[0]
    if (reason := foreign_by_name(path.name)) is not None:
        raise UsageError(f"{path} {reason}: choose a plain ResNet, or rename it if it is one")
    if arch is None and (reason := foreign(state)) is not None:
        raise UsageError(f"{path} {reason}: choose a plain ResNet")
    if arch is None:
        raise UsageError(
            f"{path} does not say its architecture, and its keys are of none that the zoo has: "
            f"pass `arch` to see what differs, one of {KNOWN_NAMES}"
        )
    if shortcut is None and any(".downsample." in key for key in state):
        shortcut = "B"
    stem = state.get("conv1.weight", state.get("conv1.0.weight"))
    head = state.get("fc.weight")
    net = topology(
        arch,
        num_classes=max(1, len(head)) if head is not None and head.ndim == 2 else 10,
        in_channels=max(1, stem.shape[1]) if stem is not None and stem.ndim == 4 else 3,
        shortcut=shortcut,
        stride_in=stride_in,
    )
    _check(net, state, path)
    params = fold_batchnorm(net, state)
    for name, values in params.items():
        if not torch.isfinite(values).all():
            raise IntegrityError(
                f"{path}: {name} overflows float32 with its BatchNorm folded: use a checkpoint "
                "that is sound"
            )
    sha256 = sha256 or sha256_of(path)
    return Checkpoint(
        net=net,
        params=params,
        name=path.name,
        sha256=sha256,
        training=training_of(path, sha256),
        weights=found.weights,
        notes=notes,
        origin=Origin(mean=found.mean, std=found.std),
        moments=recorded_moments(net, state, params),
        # Not resolved: the file may be a link of the hub client's cache, to a name without the
        # suffix.
        path=path.absolute(),
    )


def _assumed(path: Path, arch: str, given: str | None) -> tuple[str, ...]:
    """Return what is taken for granted of an architecture that its keys tell."""
    notes = [f"{path.name}: its convolutions are those of {arch}, not {given}"] if given else []
    if arch.endswith("_cifar"):
        notes.append(
            f"{path.name}: its stem is one 3x3 convolution, which weights do not say more of: read "
            "with stride 1 and without max-pooling"
        )
    return tuple(notes)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_of(path: Path, sha256: str) -> TrainingConfig | None:
    """Return what the log.json beside a checkpoint says of its training.

    None if there is no log.json, or one that does not belong to a file with this hash.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        log = json.loads(path.with_name("log.json").read_bytes())
        if log["sha256"] == sha256:
            return TrainingConfig(
                arch=log["arch"],
                dataset=log["dataset"] or log["train"],
                images=log["train_images"],
                epochs=log["epochs"],
                seconds=log["seconds"],
                top1=log["top1"],
                settings=log["plan"],
                mean=log["mean"],
                std=log["std"],
                input_size=log["input_size"],
                start=log["start"],
                began=log.get("began"),
                teacher=(log.get("teacher") or {}).get("name"),
                taught=(log.get("teacher") or {}).get("training"),
            )
    return None


def remember_source(sha256: str, path: Path) -> None:
    """Note where a checkpoint lies, for `find_source`, so that an evaluation measures the ANN too.

    It is a hint: a cache that cannot be written is no error.
    """
    with contextlib.suppress(OSError):
        folder = cache_folder() / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256).write_text(str(path))


def find_source(sha256: str) -> Path | None:
    """Return the checkpoint with this hash if `remember_source` noted it and it is unchanged."""
    with contextlib.suppress(OSError):
        path = Path((cache_folder() / "sources" / sha256).read_text())
        if sha256_of(path) == sha256:
            return path
    return None


def _expected(net: Topology, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    shapes = convolutions(net)

    def conv(name: str, bn: str) -> None:
        shape = shapes[f"{name}.weight"]
        if f"{name}.bias" in state:
            shapes[f"{name}.bias"] = shape[:1]
        # A file without any statistics of this BatchNorm but with a convolution bias was folded by
        # its authors.
        if f"{bn}.running_mean" in state or f"{name}.bias" not in state:
            shapes.update(
                {
                    f"{bn}.{part}": shape[:1]
                    for part in ("weight", "bias", "running_mean", "running_var")
                }
            )

    for layer in net.layers:
        conv(layer.name, layer.bn)
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            conv(layer.shortcut.conv, layer.shortcut.bn)
    if "levels" in state:  # trained with the quantised activation of `zoo.networks.quantise`
        shapes["levels"] = (1,)
        shapes.update({f"{layer.name}.threshold": (layer.out_channels,) for layer in net.layers})
    shapes["fc.weight"], shapes["fc.bias"] = (net.num_classes, net.features), (net.num_classes,)
    return shapes


def _check(net: Topology, state: Mapping[str, Tensor], path: Path) -> None:
    expected = _expected(net, state)
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(
        key for key in state.keys() - expected.keys() if not key.endswith("num_batches_tracked")
    )
    if missing or unexpected:
        fits = infer(state)
        reason = foreign(state) if fits is None or fits[0] == net.arch else None
        if reason is not None:
            raise UsageError(f"{path} {reason}: choose a plain ResNet")
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        advice = (
            "choose the file's own architecture"
            if fits is None or fits[0] == net.arch
            else f"its keys are those of {fits[0]}, leave `arch` out"
        )
        raise UsageError(f"{path} does not fit `arch={net.arch}`: {'; '.join(parts)}: {advice}")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise UsageError(
                f"{path} does not fit `arch={net.arch}`: {key} is {list(state[key].shape)}, "
                f"expected {list(shape)}"
            )
        plain = state[key].layout == torch.strided and state[key].device.type == "cpu"
        plain = plain and (
            state[key].dtype in _FLOATS or (key == "levels" and state[key].dtype == torch.int32)
        )
        if not plain or not torch.isfinite(state[key]).all():
            raise IntegrityError(
                f"{path}: {key} has NaN, infinite or other than float values: use a sound "
                "checkpoint"
            )
    for key in expected:
        if (key == "levels" and not 1 <= state[key].item() <= 255) or (
            key.endswith(".threshold") and (state[key] <= 0).any()
        ):
            raise IntegrityError(
                f"{path}: {key} must be positive (levels: 1 to 255): use a sound checkpoint"
            )
        if key.endswith("running_var") and (state[key] < 0).any():
            raise IntegrityError(
                f"{path}: {key} has negative variances: use a checkpoint that is sound"
            )
