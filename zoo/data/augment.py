"""Random augmentation of training images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, generator: torch.Generator, *, shift: int, mirror: bool) -> Tensor:
    """Return images shifted, and perhaps mirrored, at random.

    Args:
        images: normalised float images `[B, C, H, W]`.
        generator: source of the offsets, drawn on the CPU so that every device augments alike.
        shift: largest shift in pixels; what comes in from outside is zero in normalised units.
        mirror: whether half of the images are mirrored left to right.
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
    return moved.permute(0, 3, 1, 2)
