"""The settings of a training run, one line of its log, and what cannot be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.networks.topology import Topology


@dataclass(frozen=True)
class Plan:
    """One training run.

    Attributes:
        epochs: passes over the training images.
        batch_size: images per step.
        peak_rate: SGD's highest learning rate, for a batch of `batch_size`.
        warm_up: fraction of all steps over which the rate rises; then it falls as a cosine to zero.
        weight_decay: of weights; biases, BatchNorm and thresholds have none.
        label_smoothing: of the cross-entropy loss.
        shift: largest random shift in pixels.
        mirror: mirror half of the images.
        cutout: side of the square that is blanked in each image, in pixels; 0 for none.
        mixup: alpha of the distribution of mixup's share (`zoo.data.augment`); 0 for none.
        smallest: side of the images in the first epoch, in pixels; it grows to the whole side over
            the first two thirds of the epochs (progressive resizing). 0 is the whole side always.
        levels: number of levels of the quantized activation; 0 trains with plain ReLU.
        ema: decay of the moving average of the weights, per step.
        seed: of every random draw.
        teacher: sha256 of the network whose answers are learnt beside the labels; "" for none.
        distil: share of the loss that is the distance from the teacher (`zoo.training.teacher`).
        temperature: of that distance.
        compiled: whether torch.compile makes the steps; its rounding is its own.
        precision: bf16 runs convolutions in bfloat16 (twice as fast on CPUs and GPUs that have it);
            weights stay float32.
    """

    epochs: int = 60
    batch_size: int = 128
    peak_rate: float = 0.2
    warm_up: float = 0.15
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    shift: int = 4
    mirror: bool = True
    cutout: int = 0
    mixup: float = 0.0
    smallest: int = 0
    levels: int = 0
    ema: float = 0.998
    seed: int = 0
    teacher: str = ""
    distil: float = 0.9
    temperature: float = 4.0
    compiled: bool = False
    precision: Literal["bf16", "float32"] = "float32"


@dataclass(frozen=True)
class Epoch:
    """One line of the log.

    Attributes:
        epoch: its number, from 1.
        loss: mean over its steps.
        accuracy: percent, on the augmented training images.
        rate: learning rate of its last step.
        seconds: how long it took.
    """

    epoch: int
    loss: float
    accuracy: float
    rate: float
    seconds: float


def check_plan(net: Topology, images: ImageSet, plan: Plan, side: int) -> None:
    """Raise UsageError if the plan cannot be run on these images, of `side` pixels a side."""
    for what, value in (("epochs", plan.epochs), ("batch size", plan.batch_size)):
        if value < 1:
            raise UsageError(
                f"{what} must be 1 or more, not {value}: 60 epochs of 128 are a good start"
            )
    if not 0 <= plan.mixup <= 100:
        raise UsageError(f"`mixup` must be 0 (none) to 100, not {plan.mixup}: 0.2 is a good start")
    if plan.smallest and not 4 <= plan.smallest <= side:
        raise UsageError(
            f"`smallest` must be 4 to {side}, the side of the images, not {plan.smallest}: "
            f"{max(4, side * 5 // 8)} is a good start"
        )
    check_images(images, net.num_classes, plan.batch_size)
    if not 0 <= plan.levels <= 255:
        raise UsageError(
            f"levels must be 0 (plain ReLU) to 255, not {plan.levels}: 8 is a good start"
        )


def check_images(images: ImageSet, classes: int, batch_size: int) -> None:
    """Raise UsageError if the images make no whole batch, or are not labelled for the classes."""
    if len(images) < batch_size:
        raise UsageError(
            f"{images.description}: fewer than one batch of {batch_size}: give more, or lower "
            "`batch_size`"
        )
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise UsageError(
            f"{images.description}: labels must be 0 to {classes - 1}: give a labelled training set"
        )
