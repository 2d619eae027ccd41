"""A teacher: a trained network whose answers another one learns beside the labels.

Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2): with logits s
of the student, t of the teacher, labels y, a temperature tau and a share a,

    loss = (1 - a) CE(s, y) + a tau^2 KL(softmax(t / tau) || softmax(s / tau)).

tau^2 keeps the size of the second term's gradients, which fall with 1 / tau^2. The teacher answers
the very images that the student sees, augmented, normalised as its own training had them. a = 0.9
and tau = 4 are what Tian et al. 2020 (arXiv:1910.10699) take for CIFAR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.artifact.config import TrainingConfig
from zoo.artifact.folder import read_artifact
from zoo.artifact.tensors import topology_of
from zoo.conversion.inputs import normalisation
from zoo.data.images import ImageSet
from zoo.errors import NotFoundError, UsageError
from zoo.hub import cache
from zoo.models import registry
from zoo.networks.architectures import topology
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.networks.topology import Topology
from zoo.pretrained.sources import read_source
from zoo.training.from_artifact import ann_params

_LOOKED_AT = 1000  # training images that a teacher has to know


@dataclass(frozen=True)
class Teacher:
    """A network with folded BatchNorm.

    Attributes:
        name: what it is recorded under.
        sha256: of its checkpoint, or of the weights of its artifact.
        params: as `zoo.networks.resnet.ann_forward` takes them.
        mean, std: of its training, per channel, for pixels in 0 to 1.
        notes: what was assumed of it, a sentence each.
        training: how `zoo train` made it, if that is known.
    """

    net: Topology
    params: dict[str, Tensor]
    name: str
    sha256: str
    mean: Sequence[float]
    std: Sequence[float]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    training: TrainingConfig | None = None

    def on(
        self, device: torch.device, mean: Sequence[float], std: Sequence[float]
    ) -> Callable[[Tensor], Tensor]:
        """Return the function from images to logits on a device.

        Args:
            mean, std: what the images are normalised with; they become the teacher's own.
        """
        layout = torch.channels_last
        params = {
            key: value.to(device, memory_format=layout) if value.ndim == 4 else value.to(device)
            for key, value in self.params.items()
        }
        own_mean, own_std, m, s = (
            torch.tensor(side, device=device).view(-1, 1, 1)
            for side in (self.mean, self.std, mean, std)
        )

        def answers(images: Tensor) -> Tensor:
            with torch.no_grad():
                return ann_forward(self.net, params, (images * s + m - own_mean) / own_std)

        return answers

    def facts(self) -> dict[str, Any]:
        """Return what log.json says of it."""
        training = self.training
        # A training's facts do not hold the shortcut: with another than the architecture's own they
        # would name another network.
        if training is not None and self.net.shortcut != topology(str(training.arch)).shortcut:
            training = None
        return {
            "name": self.name,
            "sha256": self.sha256,
            "training": None if training is None else training.model_dump(mode="json"),
        }


def distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return tau^2 KL(softmax(t / tau) || softmax(s / tau)) of logits `[B, classes]`, the mean."""
    far = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.log_softmax(teacher / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * far


def read_teacher(
    text: str | Path,
    images: ImageSet,
    prep: Preprocess,
    mean: Sequence[float],
    std: Sequence[float],
) -> Teacher:
    """Return the network that `text` names: a checkpoint's source, an artifact or a zoo's name.

    Args:
        images: labelled training images, of which it has to know the classes.
        prep: how they become its input.
        mean, std: of a network that does not say what its training had.

    Raises:
        NotFoundError: there is no such network.
        UsageError: it has other channels or classes, or is wrong about most of the images.
    """
    teacher = _artifact(text) or _checkpoint(text, mean, std)
    channels, classes = prep.input_size[0], len(images.class_names or ())
    if teacher.net.in_channels != channels:
        raise UsageError(
            f"{text} takes {teacher.net.in_channels} channels, the images have {channels}: give a "
            "teacher of the same data set"
        )
    if classes and teacher.net.num_classes != classes:
        raise UsageError(
            f"{text} has {teacher.net.num_classes} classes, the images have {classes}: give a "
            "teacher of the same data set"
        )
    if None not in (teacher.class_names, images.class_names) and teacher.class_names != (
        images.class_names
    ):
        raise UsageError(f"{text} has other classes than {images.description}, or another order")
    return _checked(teacher, images, prep)


def _checked(teacher: Teacher, images: ImageSet, prep: Preprocess) -> Teacher:
    """Return the teacher with a note of how often it is right; raise UsageError if it is not."""
    few = images.take(_LOOKED_AT, 0)
    table = image_table(teacher.mean, teacher.std, integer=False)
    answers, right = teacher.on(torch.device("cpu"), teacher.mean, teacher.std), 0
    for pixels, labels in few.batches(prep, 250):
        right += int((answers(look_up(table, pixels)).argmax(1) == labels).sum())
    share = right / len(few)
    said = f"teacher {teacher.name} is right on {share:.1%} of {len(few)} training images"
    if share < 0.5:
        raise UsageError(f"{said}: its classes or its normalisation are others; choose another")
    return replace(teacher, notes=(*teacher.notes, said))


def _artifact(text: str | Path) -> Teacher | None:
    """Return the ANN inside an artifact, None if `text` is none."""
    path = Path(text)
    if ":" in str(text) or path.is_file():
        return None
    try:
        folder = registry.resolve(text, offline=True)
        config, tensors = read_artifact(folder)
    except NotFoundError:
        return None
    names = None if config.class_names is None else tuple(config.class_names)
    return Teacher(
        topology_of(config),
        ann_params(config, tensors),
        cache.name_of(folder),
        config.weights_sha256,
        config.preprocess.mean,
        config.preprocess.std,
        names,
    )


def _checkpoint(text: str | Path, mean: Sequence[float], std: Sequence[float]) -> Teacher:
    found = read_source(text)
    assumed = None
    if found.training is not None or found.origin.mean is not None:
        mean, std = normalisation(found, None, None)
    else:
        said = " ".join(f"{value:g}" for value in (*mean, *std))
        assumed = f"{found.name} does not say its mean and std: this training's assumed ({said})"
    return Teacher(
        found.net,
        found.params,
        found.name,
        found.sha256,
        mean,
        std,
        found.origin.class_names,
        () if assumed is None else (assumed,),
        found.training,
    )
