"""Find pretrained ANNs by name: the checkpoint file, and what its origin states about it.

    resnet50.pth                       a file: .pth, .pt, .th or .safetensors
    timm/resnet50.tv_in1k[@revision]   a repository of a hub in the layout of timm or transformers:
                                       config.json and model.safetensors or pytorch_model.bin
    ./resnet50.tv_in1k                 a folder in such a layout
    torchvision:resnet50[.v2]          a file that its authors publish, from torch.hub's cache or
    akamaster:resnet56                 their own address: see `zoo.pretrained.published`
    chenyaofo:cifar100_resnet56

timm and torchvision put the stride of a bottleneck in its 3x3 convolution, transformers where its
config says. Nothing is executed, and everything is checked before it is used: files of a hub
against the hash it stores them under, those of other addresses against the sha256 that they are
pinned to.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.hub import client as hub
from zoo.hub import download
from zoo.imagenet import imagenet_classes
from zoo.networks.topology import StrideIn
from zoo.pretrained.checkpoint import Checkpoint, Origin, read_checkpoint
from zoo.pretrained.configs import (
    CONFIG,
    PREPROCESSOR,
    Stated,
    is_transformers,
    read_stated,
)
from zoo.pretrained.fetch import fetch_pinned
from zoo.pretrained.infer import is_form_of
from zoo.pretrained.published import is_published, published
from zoo.pretrained.state import Weights
from zoo.progress import Progress

FORMS = (
    "a .pth, .pt, .th or .safetensors file, a folder or hub repository in timm's or transformers' "
    "layout, or "
    "torchvision:resnet50, akamaster:resnet56, chenyaofo:cifar100_resnet56"
)


_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


_MAX_CONFIG, _MAX_WEIGHTS = 4_000_000, 2_000_000_000  # bytes; ResNet-152 has 241 MB


_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".safetensors")


@dataclass(frozen=True)
class Source:
    """A checkpoint file, and what its origin states about it.

    Attributes:
        name: what it is recorded under.
        arch, num_classes: None where the origin does not state them.
        sha256: of the file, where finding it computed it.
        stride_in: the convolution of a bottleneck that has the stride, where the origin states it.
    """

    path: Path
    name: str
    arch: str | None = None
    num_classes: int | None = None
    origin: Origin = field(default_factory=Origin)
    sha256: str | None = None
    stride_in: StrideIn | None = None


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
    if source.arch is not None and arch not in (None, source.arch):
        if not is_form_of(str(arch), source.arch):
            raise UsageError(f"{source.name} is a {source.arch}, not a {arch}: leave `arch` out")
        source = replace(source, arch=arch)
    checkpoint = read_checkpoint(
        source.path,
        source.arch or arch,
        shortcut=shortcut,
        stride_in=source.stride_in or stride_in,
        weights=weights,
        sha256=source.sha256,
    )
    classes, origin = checkpoint.net.num_classes, source.origin
    if source.num_classes not in (None, classes):
        raise IntegrityError(
            f"{source.name} has {classes} classes, its {CONFIG} says {source.num_classes}: do not "
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
    weights = next((path / name for name in _WEIGHTS if (path / name).is_file()), None)
    if not (path / CONFIG).is_file() or weights is None:
        raise NotFoundError(f"{path} has no {CONFIG} or no {_WEIGHTS[0]}: give {FORMS}")
    preprocessor = path / PREPROCESSOR
    stated = read_stated(
        (path / CONFIG).read_bytes(),
        str(path),
        preprocessor.read_bytes() if preprocessor.is_file() else None,
    )
    return _source(weights, path.resolve().name, stated)


def _source(weights: Path, name: str, stated: Stated) -> Source:
    return Source(
        weights, name, stated.arch, stated.num_classes, stated.origin, stride_in=stated.stride_in
    )


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
    path = _file_of(repo, CONFIG, revision=revision, limit=_MAX_CONFIG, **where)
    # The client keeps a file under its commit, so that all files are of the same one.
    commit, data = path.parent.name, path.read_bytes()
    preprocessor = None
    if is_transformers(data):
        with contextlib.suppress(NotFoundError):
            found = _file_of(repo, PREPROCESSOR, revision=commit, limit=_MAX_CONFIG, **where)
            preprocessor = found.read_bytes()
    stated = read_stated(data, repo, preprocessor)
    how: dict[str, Any] = {"revision": commit, "limit": _MAX_WEIGHTS, "sha256": sha256, **where}
    try:
        weights = _file_of(repo, _WEIGHTS[0], **how)
    except NotFoundError as error:
        try:
            weights = _file_of(repo, _WEIGHTS[1], **how)
        except NotFoundError:
            raise error from None
    origin = replace(stated.origin, url=f"{hub.base(endpoint)}/{repo}", revision=commit)
    return _source(weights, repo, replace(stated, origin=origin))


def _file_of(repo: str, file: str, **how: Any) -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return download.fetch_file(repo, file, **how)
    except NotFoundError as error:
        if isinstance(error.__context__, EntryNotFoundError):
            raise NotFoundError(
                f"{repo} has no {file}, so it is in no layout that can be read: give {FORMS}"
            ) from None
        raise


def _published(text: str, offline: bool, progress: Progress | None) -> Source:
    one = published(text)
    mean, std = one.normalisation
    origin = Origin(license=one.license, url=one.url, mean=mean, std=std, input_size=32)
    if one.dataset == "imagenet":
        origin = replace(
            origin,
            input_size=224,
            # torchvision resizes to 256, newer weights to 232: 224 / 0.875 and 224 / 0.965.
            crop=0.965 if one.newer else 0.875,
            interpolation="bilinear",
            class_names=imagenet_classes(),
        )
    path, sha256 = fetch_pinned(one.url, one.pin, offline=offline, progress=progress)
    return Source(path, one.source, one.arch, one.num_classes, origin, sha256)
