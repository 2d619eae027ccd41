"""Tell whether the ANN itself works on the pixels that it is given, before its spikes do not.

A spiking network is compared with its ANN; when both are given wrongly normalised pixels they agree
with each other and are wrong together. Two measurements do not depend on that comparison:

- the share of the labelled calibration images that the ANN is right on;
- what the first convolution delivers, against the mean m and standard deviation s, per channel,
  that its BatchNorm recorded in training (`zoo.networks.batchnorm.recorded_moments`):

      distance = median over channels of sqrt(((mean - m) / s)^2 + ln(std / s)^2)

Measured on 24 and on 256 training images, four public CIFAR ResNets: 0.23 to 0.34 with the
normalisation of their training or one close to it, 0.73 to 0.99 with 0.5 and 0.5, 1.35 to 1.57 with
pixels in 0 to 1 as they are, above 14 with pixels in 0 to 255; 0.59 is the least of networks
trained on pixels in 0 to 1 as they are and given 0.5 and 0.5. The order of the colour channels
does not show (0.22 to 0.34 when exchanged), and nothing here claims that it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.pretrained.checkpoint import Checkpoint

# Between the largest distance of a right normalisation and the smallest of a wrong one.
_FAR = 0.45
# Of training images a trained network has most right.
_POOR = 0.5
_FEWEST_LABELS = 16

# Normalisations in wide use, by what messages call them: mean and std for pixels in 0 to 1.
_USUAL: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("ImageNet's", IMAGENET_MEAN, IMAGENET_STD),
    ("CIFAR-10's", (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    ("0.5 and 0.5", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("pixels in 0 to 1 as they are", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ("pixels in 0 to 255", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    ("pixels in 0 to 255 less a mean", IMAGENET_MEAN, (1 / 255, 1 / 255, 1 / 255)),
)


def stem_distance(
    checkpoint: Checkpoint, pixels: Tensor, mean: Sequence[float], std: Sequence[float]
) -> float | None:
    """Return how far the first convolution is from what its BatchNorm recorded, as defined above.

    Args:
        pixels: uint8 `[B, C, H, W]`.
        mean, std: per channel, for pixels in 0 to 1.

    Returns:
        None where the checkpoint has no statistics, or no channel that varies.
    """
    if checkpoint.moments is None:
        return None
    stem = checkpoint.net.layers[0]
    center, spread = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    z = F.conv2d(
        (pixels.float() / 255 - center) / spread,
        checkpoint.params[f"{stem.name}.weight"],
        checkpoint.params[f"{stem.name}.bias"],
        stride=stem.stride,
        padding=stem.padding,
    ).transpose(0, 1)
    z = z.flatten(1)
    recorded = checkpoint.moments[stem.name]
    # A dead channel has no deviation to divide by.
    live = recorded.std > 1e-3 * recorded.std.square().mean().sqrt()
    if not live.any():
        return None
    center, spread = recorded.mean[live], recorded.std[live]
    shift = (z.mean(1)[live] - center) / spread
    ratio = (z.std(1, correction=0)[live] / spread).clamp_min(1e-6).log()
    return (shift.square() + ratio.square()).sqrt().median().item()


def wrong_normalisation(
    checkpoint: Checkpoint, pixels: Tensor, mean: Sequence[float], std: Sequence[float]
) -> str | None:
    """Return a warning where `mean` and `std` are not the training's; None if they fit.

    Args:
        pixels: uint8 `[B, C, H, W]`, some of the training images.
    """
    given = stem_distance(checkpoint, pixels, mean, std)
    if given is None or given <= _FAR:
        return None
    channels = checkpoint.net.in_channels
    others = []
    for name, center, spread in _USUAL:
        distance = stem_distance(checkpoint, pixels, center[:channels], spread[:channels])
        if distance is not None:
            others.append((distance, name, center[:channels], spread[:channels]))
    distance, name, center, spread = min(others)
    off = (
        f"with this normalisation the first convolution is {given:.2f} from what its BatchNorm "
        f"recorded in training, where {_FAR} is far"
    )
    if distance > _FAR or distance > given / 2:
        return f"{off}, and no usual one fits: check `mean`, `std` and the calibration images"
    values = " ".join(
        f"`{which}={','.join(f'{value:.4g}' for value in side)}`"
        for which, side in (("mean", center), ("std", spread))
    )
    return f"{off}; {name} ({distance:.2f}) is likely: give {values}"


def ann_accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Return the share of labelled images that the ANN is right on; None where there is no label.

    Args:
        logits: of the ANN, `[B, classes]`.
        labels: int64 `[B]`; -1 where unknown.
    """
    known = labels >= 0
    if not known.any():
        return None
    return (logits.argmax(1) == labels)[known].float().mean().item()


def poor_accuracy(accuracy: float | None, labels: Tensor) -> str | None:
    """Return a warning where the ANN is wrong on most of at least 16 labelled training images."""
    count = int((labels >= 0).sum())
    if accuracy is None or accuracy >= _POOR or count < _FEWEST_LABELS:
        return None
    return (
        f"the ANN itself is right on only {accuracy:.1%} of {count} labelled calibration images: "
        "check `mean`, `std`, `input_size` and the labels of `images`"
    )
