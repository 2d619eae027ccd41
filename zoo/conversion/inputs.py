"""Resolve the inputs of a conversion: normalisation, preprocessing and labels.

What is not given comes from the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from zoo.data.images import ImageSet
from zoo.data.rule import LabelRule
from zoo.errors import UsageError
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.networks.preprocess import Preprocess
from zoo.pretrained.checkpoint import Checkpoint


def normalisation(
    checkpoint: Checkpoint, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation per channel, for pixels in 0 to 1.

    What is given comes first, then what `zoo train` or the checkpoint's origin says, then
    ImageNet's, which most checkpoints use.

    Raises:
        UsageError: not one finite value a channel, a standard deviation that is not positive, or
            values that cannot be for pixels in 0 to 1.
    """
    channels, training, origin = checkpoint.net.in_channels, checkpoint.training, checkpoint.origin
    trained = (None, None) if training is None else (training.mean, training.std)
    mean = _first(mean, trained[0], origin.mean, IMAGENET_MEAN)
    std = _first(std, trained[1], origin.std, IMAGENET_STD)
    if not len(mean) == len(std) == channels:
        raise UsageError(
            f"the network takes {channels} channels: give {channels} values with `mean` and with "
            "`std`"
        )
    if not all(math.isfinite(value) for value in (*mean, *std)):
        raise UsageError(
            "`mean` and `std` must be finite: give one value a channel, for pixels in 0 to 1"
        )
    if min(std) <= 0:
        raise UsageError(
            f"`std` must be positive, not {min(std)}: give one a channel, for pixels in 0 to 1"
        )
    if min(mean) < 0:
        raise UsageError(
            f"`mean` must be 0 to 1, not {min(mean):g}: give one a channel, for pixels in 0 to 1"
        )
    if max(*mean, *std) > 1:
        divided = (",".join(f"{value / 255:.4g}" for value in side) for side in (mean, std))
        what = "`mean`" if max(mean) > 1 else "`std`"
        raise UsageError(
            f"{what} has {max(mean if max(mean) > 1 else std):g}, which is not for pixels in 0 to "
            f"1: both divided by 255 are `mean={next(divided)}` `std={next(divided)}`"
        )
    return mean, std


def assumed_normalisation(checkpoint: Checkpoint, mean: object, std: object) -> str | None:
    """Return a note where `normalisation` takes ImageNet's values for want of a better source."""
    training, origin = checkpoint.training, checkpoint.origin
    names = [
        what
        for what, given, stated in (("mean", mean, origin.mean), ("std", std, origin.std))
        if given is None and stated is None and training is None
    ]
    if not names:
        return None
    values = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    said = " and ".join(f"{what} {','.join(map(str, values[what]))}" for what in names)
    return (
        f"{checkpoint.name} does not say how its training normalised pixels: {said} (ImageNet's) "
        f"assumed; give {' and '.join(f'`{what}`' for what in names)} where they are others"
    )


def _first(*choices: Sequence[float] | None) -> Sequence[float]:
    """Return the first that is not None."""
    return next(choice for choice in choices if choice is not None)


def preprocessing(
    checkpoint: Checkpoint,
    input_size: int | None,
    resize: int | None,
    interpolation: Literal["bilinear", "bicubic"] | None,
) -> Preprocess:
    """Return how images become the network's input.

    What is given comes first, then what `zoo train` or the checkpoint's origin says, then 32 pixels
    for the CIFAR form and 224 after a resize to 256 for the ImageNet form.
    """
    net, origin, training = checkpoint.net, checkpoint.origin, checkpoint.training
    imagenet = net.halves_image
    trained = None if training is None else training.input_size
    side = input_size or trained or origin.input_size or (224 if imagenet else 32)
    if resize is None and origin.crop is not None:
        resize = math.floor(side / origin.crop)  # as timm rounds it
    elif resize is None and imagenet and side == 224:
        resize = 256
    return Preprocess(
        (net.in_channels, side, side), resize, interpolation or origin.interpolation or "bilinear"
    )


def with_network_labels(
    checkpoint: Checkpoint, images: ImageSet, rule: LabelRule = "auto"
) -> ImageSet:
    """Return the images with the network's labels, -1 where its classes are not theirs.

    Calibration does not mind missing labels; `matched` of the result says why they are missing.

    Args:
        checkpoint: whose classes they are.
        images: as they were opened.
        rule: as `ImageSet.for_classes` takes it; what is asked for and cannot be is an error.

    Raises:
        UsageError: a rule that does not fit, other than "auto".
    """
    classes = checkpoint.net.num_classes
    try:
        labelled = images.for_classes(classes, checkpoint.origin.class_names, rule)
    except UsageError as error:
        if rule != "auto":
            raise
        return images.without_labels(f"not used: {error}")
    if len(labelled) == 0 or labelled.labels.max() < classes:
        return labelled
    why = f"not used: they go up to {labelled.labels.max()}, the network's to {classes - 1}"
    return replace(labelled.without_labels(why), class_names=labelled.class_names)


def class_names(checkpoint: Checkpoint, images: ImageSet) -> list[str] | None:
    """Return the names of the network's classes, None where nothing says them."""
    names = checkpoint.origin.class_names or images.class_names
    return list(names) if names and len(names) == checkpoint.net.num_classes else None
