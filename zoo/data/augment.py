"""Random augmentation of training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def augment(
    images: Tensor, generator: torch.Generator, *, shift: int, mirror: bool, cutout: int = 0
) -> Tensor:
    """Return images shifted, and perhaps mirrored and blanked in part, at random.

    Args:
        images: normalised float images `[B, C, H, W]`.
        generator: source of the offsets, drawn on the CPU so that every device augments alike.
        shift: largest shift in pixels; what comes in from outside is zero in normalised units.
        mirror: whether half of the images are mirrored left to right.
        cutout: side of a square that is zero in normalised units, in pixels; its centre is any
            pixel, so that a part of it may lie outside (DeVries and Taylor 2017, arXiv:1708.04552).
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [shift] * 4)
    offsets = torch.randint(0, 2 * shift + 1, (2, len(images)), generator=generator)
    rows = offsets[0][:, None] + torch.arange(height)
    columns = offsets[1][:, None] + torch.arange(width)
    if mirror:
        flip = torch.rand(len(images), generator=generator) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    if not cutout:
        return moved
    first = torch.rand(2, len(images), generator=generator)
    blank = [
        ((torch.arange(side) - (part * side).long()[:, None] + cutout // 2) // cutout == 0)
        for part, side in zip(first, (height, width), strict=True)
    ]
    square = (blank[0][:, None, :, None] & blank[1][:, None, None, :]).to(images.device)
    return moved.masked_fill(square, 0.0)


def mixed(
    images: Tensor, labels: Tensor, generator: torch.Generator, alpha: float
) -> tuple[Tensor, Tensor, float]:
    """Return each image mixed with another of its batch: lambda x[i] + (1 - lambda) x[j].

    mixup, Zhang et al., ICLR 2018 (arXiv:1710.09412): lambda is drawn from Beta(alpha, alpha), once
    for the batch.

    Args:
        images: float `[B, C, H, W]`.
        labels: int64 `[B]`.

    Returns:
        The images, the labels of the others, and lambda, the share of an image's own label.
    """
    order = torch.randperm(len(images), generator=generator).to(images.device)
    seed = int(torch.randint(2**62, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return torch.lerp(images[order], images, share), labels[order], share
