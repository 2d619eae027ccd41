"""From images to the values that the first convolution takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.networks.preprocess import Preprocess, fit_image

# A table step is 1/256 of a standard deviation, a quarter of a pixel's step: rounding the image
# changes nothing one could measure.
IMAGE_SCALE = 256


def image_table(mean: Sequence[float], std: Sequence[float], *, integer: bool = True) -> Tensor:
    """Return what each uint8 pixel becomes, `[C, 256]`: (pixel / 255 - mean) / std.

    Args:
        mean, std: per channel, for pixels in 0 to 1.
        integer: times 256 and rounded to int16; float32 otherwise.
    """
    shift, scale = torch.tensor(mean).double()[:, None], torch.tensor(std).double()[:, None]
    table = (torch.arange(256).double()[None] / 255 - shift) / scale
    return (
        (table * IMAGE_SCALE).round().clamp(-32767, 32767).to(torch.int16)
        if integer
        else table.float()
    )


def look_up(table: Tensor, images: Tensor) -> Tensor:
    """Return uint8 images `[B, C, H, W]` through a table `[C, 256]`: float32, channels_last."""
    channels = [table[c].float()[images[:, c].int()] for c in range(images.shape[1])]
    return torch.stack(channels, -1).permute(0, 3, 1, 2)


def as_pixels(images: Any, channels: int, prep: Preprocess | None = None) -> Tensor:
    """Return images as uint8 `[B, C, H, W]`.

    Args:
        images: a uint8 tensor `[B, C, H, W]` or `[C, H, W]`; a uint8 numpy array `[B, H, W, C]` or
            `[H, W, C]` (`[B, H, W]` and `[H, W]` for one channel); a PIL image; or a list of arrays
            or PIL images.
        channels: C of the network.
        prep: resizes and crops PIL images to the network's input; tensors and arrays must have its
            size.

    Raises:
        UsageError: anything else, with the mistake named: normalised or float images, channels in
            the wrong place, a wrong number of channels, a wrong size.
    """
    if isinstance(images, Tensor):
        pixels = images[None] if images.ndim == 3 else images
        _check_dtype(str(pixels.dtype).removeprefix("torch."), list(images.shape), channels)
        if pixels.ndim == 4 and pixels.shape[1] != channels and pixels.shape[3] == channels:
            raise UsageError(
                f"images {list(images.shape)} have their channels last: a tensor is [B, C, H, W], "
                "so permute(0, 3, 1, 2)"
            )
        if pixels.ndim != 4 or pixels.shape[1] != channels:
            raise _wrong_shape(list(images.shape), channels)
    elif isinstance(images, np.ndarray):
        pixels = torch.tensor(np.ascontiguousarray(_channels_first(images, channels)))
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        parts = [as_pixels(image, channels, prep) for image in images]
        if not parts:
            raise UsageError("the list of images is empty: give at least one")
        sizes = sorted({tuple(part.shape[2:]) for part in parts})
        if len(sizes) > 1:
            first, second = (f"{height}x{width}" for height, width in sizes[:2])
            raise UsageError(f"the images have several sizes, {first} and {second}: resize them")
        return torch.cat(parts)
    elif hasattr(images, "convert") and hasattr(images, "getbands"):
        if prep is None:
            prep = Preprocess((channels, images.height, images.width))
        array = fit_image(images, prep, "the image is")
        return torch.tensor(np.ascontiguousarray(array.transpose(2, 0, 1)))[None]
    else:
        raise UsageError(
            f"images must be a tensor, a numpy array or PIL images, not {type(images).__name__}: "
            "decode files first, with PIL.Image.open"
        )
    if prep is not None and tuple(pixels.shape[2:]) != prep.input_size[1:]:
        (height, width), (_, rows, columns) = pixels.shape[2:], prep.input_size
        raise UsageError(
            f"images are {height}x{width}, the network takes {rows}x{columns}: resize them, or "
            "give PIL images, "
            "which are resized and cropped as it was trained"
        )
    return pixels


def _channels_first(images: np.ndarray, channels: int) -> np.ndarray:
    """Return a numpy array as `[B, C, H, W]`."""
    _check_dtype(str(images.dtype), list(images.shape), channels)
    array = images
    if channels == 1 and array.ndim in (2, 3) and array.shape[-1] != 1:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim == 4 and array.shape[3] == channels:
        return array.transpose(0, 3, 1, 2)
    if array.ndim == 4 and array.shape[1] == channels:
        return array
    raise _wrong_shape(list(images.shape), channels)


def _check_dtype(dtype: str, shape: list[int], channels: int) -> None:
    if dtype == "uint8":
        return
    hint = (
        "do not normalise them"
        if dtype.startswith(("float", "bfloat"))
        else "convert them to uint8"
    )
    raise UsageError(
        f"images must be uint8 [B, {channels}, H, W] as decoded, with values 0 to 255, not {dtype} "
        f"{shape}: {hint}"
    )


def _wrong_shape(shape: list[int], channels: int) -> UsageError:
    colours = "grey images" if channels == 1 else f"{channels} channels"
    return UsageError(
        f"images must be uint8 [B, {channels}, H, W] as decoded, not uint8 {shape}: the network "
        f"takes {colours}"
    )
