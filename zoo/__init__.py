"""Spiking Zoo: pretrained residual networks, converted once to exact spiking networks.

    import zoo
    model = zoo.load("s-resnet20-digits")
    logits = model(images, timesteps=32)        # uint8 images [B, C, H, W] -> float64 [B, classes]

`load`, `save`, `list_models`, `pull`, `convert`, `evaluate` and `publish` are the functions to use
from Python. What goes wrong is a `zoo.errors.ZooError`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.version import __version__

if TYPE_CHECKING:
    from torch.nn import Module

    from zoo.artifact.config import Config
    from zoo.artifact.results import Evaluation
    from zoo.conversion.convert import Conversion
    from zoo.data.datasets import Terms
    from zoo.data.images import ImageSet
    from zoo.data.rule import LabelRule
    from zoo.models.listing import list_models
    from zoo.models.registry import pull
    from zoo.networks.backends import Backend
    from zoo.networks.spiking import SpikingResNet
    from zoo.networks.trainable import TrainableResNet
    from zoo.pretrained.checkpoint import Checkpoint
    from zoo.progress import Progress
    from zoo.share.publish import publish

__all__ = [
    "__version__",
    "convert",
    "evaluate",
    "list_models",
    "load",
    "publish",
    "pull",
    "save",
]

# Functions that are used as they are; imported when first asked for, since they bring torch or
# pydantic.
_FUNCTIONS = {
    "list_models": "zoo.models.listing",
    "pull": "zoo.models.registry",
    "publish": "zoo.share.publish",
}


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_FUNCTIONS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FUNCTIONS})


def load(
    name: str | Path,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
    offline: bool = False,
    token: str | None = None,
) -> SpikingResNet:
    """Return a model, ready to run on `device`.

    One that is on a hub is pulled once; afterwards it needs no network. `zoo.pull` looks for a
    newer one.

    Args:
        name: an artifact folder, a name of the zoo, or `org/name[@revision]` of a hub.
        backend: `auto` (triton on a CUDA GPU that can run it, torch elsewhere), `triton`, `torch`
            or `interpret`; all give the same spikes.
        offline: ask no hub, take what is in the package or the cache.
        token: for the hub, instead of the one that is stored or in $HF_TOKEN.

    Returns:
        SpikingResNet: a `torch.nn.Module`; `model.config` says everything about it that is not a
            tensor.

    Raises:
        NotFoundError: neither a folder, nor a known name, nor on the hub.
        NetworkError, AuthError: it has to be pulled, and the hub does not answer or wants a token.
        IntegrityError: a file is not what the artifact format says, or its sha256 differs.
        UsageError: the backend cannot run here.
    """
    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.models import registry
    from zoo.networks.backends import why_not_triton

    folder = registry.resolve(name, offline=offline, token=token)
    network = network_of(*read_artifact(folder)).to(device).with_backend(backend)
    if network.device.type == "cuda" and backend == "auto" and network.backend == "torch":
        reason = why_not_triton(network.device)
        if reason is not None:
            warnings.warn(f"the GPU runs torch operations, not the kernels: {reason}", stacklevel=2)
    return network


def save(
    module: TrainableResNet | SpikingResNet,
    folder: str | Path,
    images: str | Path | ImageSet | None = None,
    **settings: Any,
) -> Config:
    """Write a module as an int8 artifact and return its config.

    Args:
        module: of `SpikingResNet.trainable`, rounded back to integers, or a `SpikingResNet`.
        images: training images that it is rounded on, as `zoo.data.open.open_images` takes them.
        settings: as `zoo.conversion.module.save_module` takes them: `timesteps`, `samples`,
            `force`, ...

    Raises:
        UsageError: as `zoo.conversion.module.save_module`.
    """
    from zoo.conversion.module import save_module
    from zoo.data.open import open_images

    if isinstance(images, str | Path):
        images = open_images(images, "train")
    return save_module(module, folder, images, **settings)


def convert(
    source: str | Path | Checkpoint | Module,
    images: str | Path | ImageSet | Any = None,
    *,
    arch: str | None = None,
    weights: Literal["ema", "raw"] | None = None,
    **settings: Any,
) -> Conversion:
    """Return the spiking network of a pretrained ANN; `.save(folder)` writes its artifact.

    Args:
        source: a checkpoint file, a name such as `timm/resnet50.tv_in1k` or `torchvision:resnet50`,
            a `Checkpoint`, or a `torch.nn.Module`: a ResNet of torchvision, timm or transformers,
            or your own. Its forward is traced; what has no spiking form is named with its
            module's path, and logits are compared with the module's.
        images: training images, as `zoo.data.open.open_images` takes them, or in memory, as
            `zoo.data.memory.image_set` does: tensors, arrays, PIL images, pairs with labels, a data
            set or loader, of which the first `samples` (default 1,024) are read; None for
            `method="data-free"`.
        arch: architecture of the source, `resnet20` for example; default: what it says itself.
        weights: which one of a file that holds a network and its moving average (the default).
        settings: as `zoo.conversion.convert.convert` takes them: `method`, `neuron`, `schedule`,
            `timesteps`, `samples`, ...

    Warns:
        UserWarning: a normalisation that had to be assumed, or one that the ANN does not work with.

    Raises:
        NotFoundError, IntegrityError, UsageError: as `zoo.pretrained.sources.read_source` and
            `zoo.conversion.convert.convert`.
    """
    from zoo.conversion import convert as conversion
    from zoo.data.memory import image_set
    from zoo.data.open import open_images
    from zoo.errors import UsageError
    from zoo.pretrained.checkpoint import Checkpoint
    from zoo.pretrained.sources import read_source
    from zoo.tracing.source import checkpoint_of

    if isinstance(images, str | Path):
        images = open_images(images, "train")
    elif images is not None:
        images = image_set(
            images,
            limit=settings.get("samples") or 1024,
            mean=settings.get("mean"),
            std=settings.get("std"),
        )
    if isinstance(source, Checkpoint):
        checkpoint = source
    elif isinstance(source, str | Path):
        checkpoint = read_source(source, arch, weights=weights)
    else:
        if arch is not None or weights is not None:
            raise UsageError("a module says itself what it is: leave `arch` and `weights` out")
        asked = ("mean", "std", "input_size", "resize", "interpolation")
        checkpoint = checkpoint_of(
            source, images, **{name: settings[name] for name in asked if name in settings}
        )
    made = conversion.convert(checkpoint, images, **settings)
    for text in (*checkpoint.notes, *made.assumed, *made.warnings):
        warnings.warn(text, stacklevel=2)
    return made


def evaluate(
    name: str | Path,
    images: str | Path | ImageSet | Any = None,
    timesteps: Sequence[int] = (8, 16, 32),
    *,
    batch_size: int = 128,
    ann: str | Path | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    labels: LabelRule = "auto",
    on_bad_image: Literal["stop", "skip"] = "stop",
    state: str | Path | None = None,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on labelled images: accuracy by timestep, firing rates, operations, speed.

    Args:
        name: as in `load`.
        images: labelled images, as `zoo.data.open.open_images` takes them, or in memory, as
            `zoo.data.memory.image_set` does; default: the test images of the data set that the
            model was calibrated on, where it is a known one.
        timesteps, batch_size, ann, device, backend, labels, on_bad_image, state, terms, progress:
            as in `zoo.evaluation.evaluate.evaluate`.

    Raises:
        UsageError: no images, or one of the reasons of `zoo.evaluation.evaluate.evaluate`.
    """
    from zoo.artifact.folder import read_config
    from zoo.data.memory import image_set
    from zoo.data.open import open_images
    from zoo.errors import UsageError
    from zoo.evaluation import evaluate as evaluation
    from zoo.models import registry

    folder = registry.resolve(name)
    if images is None:
        images = registry.default_data(read_config(folder))
        if images is None:
            raise UsageError(
                f"{name} was calibrated on images that have no name: pass labelled `images`"
            )
    if isinstance(images, str | Path):
        images = open_images(images, "test")
    else:
        prep = read_config(folder).preprocess
        images = image_set(images, mean=prep.mean, std=prep.std)
    return evaluation.evaluate(
        folder,
        images,
        timesteps,
        batch_size=batch_size,
        ann=ann,
        device=device,
        backend=backend,
        labels=labels,
        on_bad_image=on_bad_image,
        state=state,
        terms=terms,
        progress=progress,
    )
