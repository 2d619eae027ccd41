"""A user's module as the source of a conversion: read, and compared with itself on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.conversion.inputs import normalisation, preprocessing
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.pretrained.checkpoint import Checkpoint
from zoo.tracing.module import input_size_of, read_module

# Images that module and layers are compared on; another number than the trace has.
_COMPARED = 8


def checkpoint_of(
    module: nn.Module,
    images: ImageSet | None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    **preprocess: Any,
) -> Checkpoint:
    """Return a module as a pretrained ANN whose logits were compared with the module's own.

    Args:
        module: as `zoo.tracing.module.read_module` takes it.
        images: to compare on; None for random pixels.
        mean, std, input_size, resize, interpolation: as `zoo.conversion.convert.convert` takes
            them. The default of `input_size` is the module's own where it has one, else the size of
            images that are arrays, else 224 or 32 pixels, by the stride of its first convolution.

    Raises:
        UsageError: the module has no spiking form, or the layers compute something else.
    """
    side = input_size or _own_size(images) or input_size_of(module)
    traced = read_module(module, side)
    checkpoint = traced.checkpoint
    origin = checkpoint.origin
    if traced.normalises and not (mean is None and std is None):
        raise UsageError(
            f"{checkpoint.name} normalises its input itself: leave `mean` and `std` out"
        )
    checkpoint = replace(checkpoint, origin=replace(origin, input_size=side))
    prep = preprocessing(
        checkpoint, input_size, preprocess.get("resize"), preprocess.get("interpolation")
    )
    center, spread = (
        torch.tensor(values).view(-1, 1, 1) for values in normalisation(checkpoint, mean, std)
    )
    if images is None or len(images) == 0:
        pixels = torch.randint(
            0,
            256,
            (_COMPARED - 1, *prep.input_size),
            generator=torch.Generator().manual_seed(0),
            dtype=torch.uint8,
        )
    else:
        pixels = _first(images.take(_COMPARED, 0), prep)
    error = traced.check(pixels, center, spread)
    note = (
        f"{checkpoint.name}: read as {checkpoint.net.arch} of {len(checkpoint.net.layers)} layers; "
        f"logits on {len(pixels)} images differ from the module's by {error:.1e} of the largest"
    )
    return replace(checkpoint, notes=(*checkpoint.notes, note))


def _first(images: ImageSet, prep: Any) -> Tensor:
    found = images.batch(slice(None), prep)
    return found if len(found) > 1 else found.repeat(3, 1, 1, 1)


def _own_size(images: ImageSet | None) -> int | None:
    """Return the side of images that were given as arrays of one square size."""
    if images is None or not images.prepared:
        return None
    _, height, width = images.size()
    return height if height == width else None
