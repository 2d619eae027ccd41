"""From uint8 pixels to the values the first convolution takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A table step is 1/256 of a standard deviation, a quarter of a pixel's step: rounding the image changes nothing one could
# measure.
IMAGE_SCALE = 256


def image_table(mean: Sequence[float], std: Sequence[float], *, integer: bool = True) -> Tensor:
    """What each uint8 pixel becomes, [C, 256]: (pixel / 255 - mean) / std, times 256 and rounded to int16, or float32."""
    shift, scale = torch.tensor(mean).double()[:, None], torch.tensor(std).double()[:, None]
    table = (torch.arange(256).double()[None] / 255 - shift) / scale
    return (
        (table * IMAGE_SCALE).round().clamp(-32767, 32767).to(torch.int16)
        if integer
        else table.float()
    )


def look_up(table: Tensor, images: Tensor) -> Tensor:
    """uint8 images [B, C, H, W] through a table [C, 256], float32 in channels_last."""
    channels = [table[c].float()[images[:, c].int()] for c in range(images.shape[1])]
    return torch.stack(channels, -1).permute(0, 3, 1, 2)
