"""Operations on the area and the channels of activations: pooling, reshaping, slicing, padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.tracing.build import Builder
from zoo.tracing.values import (
    Blocks,
    Current,
    Final,
    Flat,
    Image,
    Mean,
    Picked,
    PooledCurrent,
    Spikes,
    Term,
    Unsupported,
    Value,
    Zeros,
)


def what_is(value: object) -> str:
    """Return what a value is, as words of a message."""
    names = {
        Image: "the image",
        Spikes: "activations",
        Current: "a sum that no ReLU follows",
        PooledCurrent: "a sum that no ReLU follows",
        Mean: "a mean over the area",
        Flat: "flattened activations",
        Blocks: "an average over a part of the area",
        Final: "a softmax",
        Zeros: "a tensor of zeros",
        Picked: "a part of the activations",
    }
    return names.get(type(value), "a tensor")


def max_pool2d(
    build: Builder,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    """Return max-pooling of spikes, or of a current before its ReLU."""
    sides, steps, pads = pair(kernel), pair(stride or kernel), pair(padding)
    if any(a != b for a, b in (sides, steps, pads)) or pair(dilation) != (1, 1):
        raise Unsupported("max-pooling with a window that is not square and whole")
    window = (sides[0], steps[0], pads[0])
    size = [(n + 2 * pads[0] - sides[0]) // steps[0] + 1 for n in build.shape(x)[2:]]
    if size != list(build.out_shape[2:]):
        raise Unsupported("max-pooling with ceil_mode, whose last windows are partial here")
    if isinstance(x, Current):
        return PooledCurrent(x, window)
    if isinstance(x, Spikes):
        return build.pool(x, window)
    raise Unsupported(f"max-pooling reads {what_is(x)}")


def max_pool2d_with_indices(build: Builder, *args: Any) -> Any:
    """Return max-pooling as the first of two results."""
    return (max_pool2d(build, *args), None)


def avg_pool2d(
    build: Builder,
    x: Value,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """Return average pooling over the whole area, over blocks, or of one pixel."""
    sides, steps, area = pair(kernel), pair(stride or kernel), build.shape(x)[2:]
    plain = pair(padding) == (0, 0) and divisor is None
    if plain and sides == tuple(area):
        return mean_of(build, x)
    if plain and sides == (1, 1):
        return _pick(x, *steps)
    square = sides[0] == sides[1] and sides == steps and not any(n % sides[0] for n in area)
    if not plain or not square or not isinstance(x, Spikes):
        raise Unsupported(
            f"average pooling of {sides[0]}x{sides[1]} over {area[0]}x{area[1]} of {what_is(x)}: "
            "over the whole area, or before the 1x1 convolution of a shortcut, it has a spiking "
            "form"
        )
    return Blocks(x.name, sides[0])


def adaptive_avg_pool2d(build: Builder, x: Value, size: Any) -> Value:
    """Return average pooling to one pixel, or to as many as there are."""
    area, wanted = build.shape(x)[2:], pair(size)
    if wanted == (1, 1):
        return mean_of(build, x)
    if wanted == tuple(area):
        return x
    raise Unsupported(f"average pooling to {wanted[0]}x{wanted[1]}, not over the whole area")


def mean(build: Builder, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    """Return the mean over the area, in one or two steps."""
    rank = len(build.shape(x))
    axes = {axis % rank for axis in (dims if isinstance(dims, list | tuple) else [dims or 0])}
    if rank == 4 and axes == {2, 3}:
        return mean_of(build, x)
    if rank == 4 and isinstance(x, Spikes) and axes <= {2, 3} and len(axes) == 1 and not keepdim:
        return Flat(x.name)
    if rank == 3 and isinstance(x, Flat) and axes == {2}:
        return mean_of(build, Spikes(x.source))
    raise Unsupported("a mean that is not over the whole area")


def total(build: Builder, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    """Return the sum over the area."""
    found, area = mean(build, x, dims, keepdim), build.shape(x)[2:]
    if not isinstance(found, Mean) or len(area) != 2:
        raise Unsupported("a sum that is not over the whole area")
    count = area[0] * area[1]
    return Mean(found.source, found.gain * count, found.shift * count)


def mean_of(build: Builder, x: Value) -> Value:
    """Return the mean of a value over its area."""
    if isinstance(x, Spikes):
        ones = torch.ones(build.channels(x.name), dtype=torch.float64)
        return Mean(x.name, ones, torch.zeros_like(ones))
    if isinstance(x, Mean):
        return x
    if isinstance(x, Current) and len(x.terms) == 1 and not x.terms[0].mean:
        # A 1x1 convolution and a mean may change places.
        term = x.terms[0]
        plain = (term.stride, term.padding, term.groups) == (1, 0, 1)
        if term.weight is not None and term.weight.shape[2:] == (1, 1) and plain:
            return Current((replace(term, mean=True, moments=None),), x.bias)
    raise Unsupported(f"an average over the area of {what_is(x)}")


def reshape(build: Builder, x: Value, *_: Any, **__: Any) -> Value:
    """Return the same value in another shape, which may not mix what it holds."""
    before, after = tuple(build.shape(x)), tuple(build.out_shape)
    if before == after:
        return x
    single = all(n == 1 for n in before[2:])
    same = after[0] == before[0] and len(after) > 1 and after[1] == before[1]
    if single and same and all(n == 1 for n in after[2:]):
        return mean_of(build, x) if isinstance(x, Spikes) else x
    if isinstance(x, Spikes) and same and len(after) == 3:
        return Flat(x.name)
    area = "x".join(map(str, before[2:])) or "1"
    raise Unsupported(
        f"{list(before)} becomes {list(after)}: an area of {area} is read place by place, where "
        "global average pooling has a spiking form"
    )


def slicing(
    build: Builder,
    x: Value,
    dim: int = 0,
    start: int | None = 0,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """Return every step-th row or column."""
    shape = build.shape(x)
    whole = not start and (end is None or end >= shape[dim])
    if whole and step == 1:
        return x
    if not whole or dim not in (2, 3) or len(shape) != 4:
        raise Unsupported("a part of the activations is cut out")
    return _pick(x, step if dim == 2 else 1, step if dim == 3 else 1)


def _pick(x: Value, rows: int, columns: int) -> Value:
    if isinstance(x, Spikes):
        x = Picked(x.name)
    if not isinstance(x, Picked):
        raise Unsupported(f"every other row or column of {what_is(x)}")
    return replace(x, rows=x.rows * rows, columns=x.columns * columns)


def padding(
    build: Builder, x: Value, sides: Sequence[int], mode: Any = "constant", value: Any = None
) -> Value:
    """Return activations between zero channels."""
    if mode not in ("constant", 0) and not isinstance(mode, int | float):
        raise Unsupported(f"padding with mode {mode!r}, which is no zeros")
    filled = mode if isinstance(mode, int | float) else value
    if filled:
        raise Unsupported(f"padding with {filled}, which is no zeros")
    if not any(sides):
        return x
    area, channels = list(sides[:4]), list(sides[4:6]) or [0, 0]
    if any(area) or len(build.shape(x)) != 4:
        raise Unsupported("padding of rows or columns outside of a convolution")
    return _surround(build, x, channels[0], channels[1])


def _surround(build: Builder, x: Value, before: int, after: int) -> Value:
    if isinstance(x, Spikes):
        x = Picked(x.name)
    if not isinstance(x, Picked) or min(before, after) < 0:
        raise Unsupported(f"zero channels beside {what_is(x)}")
    x = replace(x, before=x.before + before, after=x.after + after)
    if x.before == x.after:
        return x
    # No identity of the zoo: a convolution whose weights are 0 and 1 computes the same.
    width = build.channels(x.source)
    if x.rows != x.columns:
        return x
    weight = torch.zeros(x.before + width + x.after, width, 1, 1, dtype=torch.float64)
    weight[torch.arange(width) + x.before, torch.arange(width)] = 1
    term = Term(x.source, build.path, weight, x.rows)
    return Current((term,), torch.zeros(len(weight), dtype=torch.float64))


def cat(build: Builder, parts: Sequence[Any], dim: int = 0) -> Value:
    """Return activations with channels of zeros before and behind them."""
    real = [i for i, part in enumerate(parts) if not _is_zero(part)]
    if dim not in (1, -3) or len(real) != 1:
        raise Unsupported("a concatenation of activations has no spiking form here")
    place = real[0]
    widths = [build.shape(part)[1] for part in parts]
    return _surround(build, parts[place], sum(widths[:place]), sum(widths[place + 1 :]))


def _is_zero(part: Any) -> bool:
    return isinstance(part, Zeros) or (isinstance(part, Tensor) and not bool(part.any()))


def zeros_like(build: Builder, *_: Any, **__: Any) -> Value:
    """Return zeros in the shape of activations."""
    return Zeros()


def pair(value: Any) -> tuple[int, int]:
    """Return one number twice, or two numbers."""
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
