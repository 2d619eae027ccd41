"""Find pretrained ANNs by name: the checkpoint file, and what its origin states about it.

    resnet50.pth                       a file: .pth, .pt, .th or .safetensors
    timm/resnet50.tv_in1k[@revision]   a repository of a hub in timm's layout: config.json and
                                       model.safetensors
    ./resnet50.tv_in1k                 a folder in that layout
    torchvision:resnet50[.v2]          a file that its authors publish, from torch.hub's cache or
    akamaster:resnet56                 their own address: see `zoo.pretrained.published`
    chenyaofo:cifar100_resnet56

timm and torchvision put the stride of a bottleneck in its 3x3 convolution. Nothing is executed, and
everything is checked before it is used: files of a hub against the hash it stores them under, those
of other addresses against the sha256 that they are pinned to.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.hub import client as hub
from zoo.hub import download
from zoo.imagenet import imagenet_classes
from zoo.networks.architectures import ARCHITECTURES
from zoo.networks.topology import StrideIn
from zoo.pretrained.checkpoint import Checkpoint, Origin, read_checkpoint
from zoo.pretrained.fetch import fetch_pinned
from zoo.pretrained.published import RELEASES, is_published, published
from zoo.pretrained.state import Weights
from zoo.progress import Progress
from zoo.text import first_fault

FORMS = (
    "a .pth, .pt, .th or .safetensors file, a folder or hub repository in timm's layout, or "
    "torchvision:resnet50, akamaster:resnet56, chenyaofo:cifar100_resnet56"
)


_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


_MAX_CONFIG, _MAX_WEIGHTS = 4_000_000, 2_000_000_000  # bytes; ResNet-152 has 241 MB


_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".safetensors")


@dataclass(frozen=True)
class Source:
    """A checkpoint file, and what its origin states about it.

    Attributes:
        name: what it is recorded under.
        arch, num_classes: None where the origin does not state them.
        sha256: of the file, where finding it computed it.
    """

    path: Path
    name: str
    arch: str | None = None
    num_classes: int | None = None
    origin: Origin = field(default_factory=Origin)
    sha256: str | None = None


class _Pretrained(BaseModel):
    """The part of timm's `pretrained_cfg` that a conversion depends on; defaults are timm's own."""

    input_size: tuple[
        int, Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]
    ]
    interpolation: str = "bilinear"
    crop_pct: Annotated[float, Field(gt=0.1, le=1)] | None = None
    crop_mode: str | None = None
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    first_conv: Any = None
    tag: str | None = None
    license: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    origin_url: Annotated[str, Field(max_length=500)] | None = None
    label_names: list[Annotated[str, Field(max_length=200)]] | None = None


class _Timm(BaseModel):
    architecture: Annotated[str, Field(max_length=100)]
    num_classes: int | None = None
    model_args: dict[str, Any] | None = None
    label_names: list[Annotated[str, Field(max_length=200)]] | None = None
    pretrained_cfg: _Pretrained


def read_source(
    text: str | Path,
    arch: str | None = None,
    *,
    shortcut: Literal["A", "B"] | None = None,
    stride_in: StrideIn = "3x3",
    weights: Weights | None = None,
    sha256: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Return the pretrained ANN that `text` names, in any of the forms above.

    Args:
        arch: architecture; default: what the source states, or its keys are of.
        shortcut, stride_in, weights: as in `zoo.pretrained.checkpoint.read_checkpoint`.
        sha256: expected hash of a hub's weights, beside the one that the hub stores them under.
        endpoint: another hub than HF_ENDPOINT, for `org/name` alone.
        offline: use what is in a cache alone.
        progress: called with a file's name, bytes done and bytes in all.

    Raises:
        NotFoundError, NetworkError, AuthError: there is no such source, or it cannot be reached.
        IntegrityError: a file is not what it should be.
        UsageError: the architecture cannot be told, contradicts the source, or is not the zoo's.
    """
    source = find_checkpoint(
        text, sha256=sha256, endpoint=endpoint, offline=offline, progress=progress
    )
    if None not in (source.arch, arch) and source.arch != arch:
        raise UsageError(f"{source.name} is a {source.arch}, not a {arch}: leave `arch` out")
    checkpoint = read_checkpoint(
        source.path,
        source.arch or arch,
        shortcut=shortcut,
        stride_in=stride_in,
        weights=weights,
        sha256=source.sha256,
    )
    classes, origin = checkpoint.net.num_classes, source.origin
    if source.num_classes not in (None, classes):
        raise IntegrityError(
            f"{source.name} has {classes} classes, its {_CONFIG} says {source.num_classes}: do not "
            "use it"
        )
    if origin.class_names is not None and len(origin.class_names) != classes:
        origin = replace(origin, class_names=None)
    if origin.mean is None and origin.std is None:
        origin = replace(origin, mean=checkpoint.origin.mean, std=checkpoint.origin.std)
    return replace(checkpoint, name=source.name, origin=origin)


def find_checkpoint(
    text: str | Path,
    *,
    sha256: str | None = None,
    endpoint: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Source:
    """Return the file of a source, fetched if need be; arguments and errors as of `read_source`."""
    text, path = str(text), Path(text)
    if is_published(text):
        return _published(text, offline, progress)
    # A name may be too long for a file, or have a null byte in it.
    with contextlib.suppress(OSError, ValueError):
        if path.is_file():
            return Source(path, path.name)
        if path.is_dir():
            return _folder(path)
    repo, at, revision = text.partition("@")
    if hub.is_repo(repo) and not text.endswith(_SUFFIXES) and bool(at) == bool(revision):
        return _repository(
            repo, revision or "main", sha256, endpoint=endpoint, offline=offline, progress=progress
        )
    raise NotFoundError(f"{text} does not exist: give {FORMS}")


def _folder(path: Path) -> Source:
    weights = path / _WEIGHTS
    if not (path / _CONFIG).is_file() or not weights.is_file():
        raise NotFoundError(f"{path} has no {_CONFIG} or no {_WEIGHTS}: give {FORMS}")
    data = (path / _CONFIG).read_bytes()
    name = path.resolve().name
    arch, classes, origin = _timm(data, str(path))
    return Source(weights, name, arch, classes, origin)


def _repository(
    repo: str,
    revision: str,
    sha256: str | None,
    *,
    endpoint: str | None,
    offline: bool,
    progress: Progress | None,
) -> Source:
    where: dict[str, Any] = {"endpoint": endpoint, "offline": offline, "progress": progress}
    data = _file_of(repo, _CONFIG, revision=revision, limit=_MAX_CONFIG, **where)
    # The client keeps a file under its commit, so that both files are of the same one.
    commit = data.parent.name
    arch, classes, origin = _timm(data.read_bytes(), repo)
    weights = _file_of(repo, _WEIGHTS, revision=commit, limit=_MAX_WEIGHTS, sha256=sha256, **where)
    origin = replace(origin, url=f"{hub.base(endpoint)}/{repo}", revision=commit)
    return Source(weights, repo, arch, classes, origin)


def _file_of(repo: str, file: str, **how: Any) -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return download.fetch_file(repo, file, **how)
    except NotFoundError as error:
        if isinstance(error.__context__, EntryNotFoundError):
            raise NotFoundError(
                f"{repo} has no {file}, so it is not in timm's layout: give {FORMS}"
            ) from None
        raise


def _timm(data: bytes, where: str) -> tuple[str, int | None, Origin]:
    """Return the architecture, the number of classes and the origin in a config.json of timm."""
    try:
        config = _Timm.model_validate_json(data)
    except ValidationError as error:
        if b'"spiking-zoo"' in data:
            raise UsageError(
                f"{where} is a spiking network already: give the ANN it was converted from"
            ) from None
        raise IntegrityError(
            f"{where}/{_CONFIG} is not timm's: {first_fault(error)}: give {FORMS}"
        ) from None
    arch, pretrained = config.architecture, config.pretrained_cfg
    if arch not in ARCHITECTURES:
        plain = ", ".join(name for name in ARCHITECTURES if f"torchvision:{name}" in RELEASES)
        raise UsageError(
            f"{where} is a {arch}, which the zoo cannot convert: choose a plain {plain}"
        )
    unsupported = _unsupported(config)
    if unsupported:
        raise UsageError(
            f"{where} is a {arch} with {unsupported}, which the zoo cannot convert: choose another "
            "checkpoint"
        )
    if not len(pretrained.mean) == len(pretrained.std) == pretrained.input_size[0]:
        raise IntegrityError(
            f"{where}/{_CONFIG} has not one mean and std for each channel: do not use it"
        )
    names = pretrained.label_names or config.label_names
    if names is None and config.num_classes == 1000 and (pretrained.tag or "").endswith("in1k"):
        names = list(imagenet_classes())
    return (
        arch,
        config.num_classes,
        Origin(
            license=pretrained.license,
            url=pretrained.origin_url or None,
            mean=pretrained.mean,
            std=pretrained.std,
            input_size=pretrained.input_size[1],
            crop=pretrained.crop_pct or 0.875,
            interpolation="bicubic" if pretrained.interpolation == "bicubic" else "bilinear",
            class_names=None if names is None else tuple(names),
        ),
    )


def _unsupported(config: _Timm) -> str | None:
    """Return the first option of timm's config that the zoo does not support, or None."""
    pretrained = config.pretrained_cfg
    height, width = pretrained.input_size[1:]
    if config.model_args:
        return f"model_args {', '.join(sorted(config.model_args))}"[:160]
    if pretrained.first_conv not in (None, "conv1"):
        return f"first_conv {pretrained.first_conv}"[:160]
    if height != width:
        return f"an input of {height}x{width}"
    if pretrained.crop_mode not in (None, "center"):
        return f"crop_mode {pretrained.crop_mode}"[:160]
    if pretrained.interpolation not in ("bilinear", "bicubic"):
        return f"interpolation {pretrained.interpolation}"[:160]
    return None


def _published(text: str, offline: bool, progress: Progress | None) -> Source:
    one = published(text)
    mean, std = one.normalisation
    origin = Origin(license=one.license, url=one.url, mean=mean, std=std, input_size=32)
    if one.dataset == "imagenet":
        origin = replace(
            origin,
            input_size=224,
            # torchvision resizes to 256, the second weights to 232: 224 / 0.875 and 224 / 0.965.
            crop=0.965 if one.name.endswith(".v2") else 0.875,
            interpolation="bilinear",
            class_names=imagenet_classes(),
        )
    path, sha256 = fetch_pinned(one.url, one.pin, offline=offline, progress=progress)
    return Source(path, one.source, one.arch, one.num_classes, origin, sha256)
