"""Operations of PyTorch on the values of a traced network (`zoo.tracing.values`).

An operation is known by its name in ATen without overload and underscore: `relu` is `nn.ReLU`,
`F.relu`, `torch.relu_` and so on. One that is not in `OPERATIONS` has no spiking form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.networks.batchnorm import Moments
from zoo.tracing import areas
from zoo.tracing.areas import mean_of, pair, what_is
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
    squared,
)

MULTIPLIED = "multiplication of two activations has no spiking form"

# Why an operation that is met often has no spiking form.
_REASONS = {
    "hardtanh": "a ReLU that is clipped (ReLU6, Hardtanh) is no ReLU",
    "relu6": "a ReLU that is clipped (ReLU6, Hardtanh) is no ReLU",
    "amax": "max-pooling over the whole area has no spiking form here",
    "group_norm": "GroupNorm divides by statistics of each image",
    "layer_norm": "LayerNorm divides by statistics of each image",
    "instance_norm": "InstanceNorm divides by statistics of each image",
    "adaptive_max_pool2d": "max-pooling over the whole area has no spiking form here",
    "conv_transpose2d": "a transposed convolution has no spiking form here",
    "sub": "a difference of two activations has no spiking form here",
    "scaled_dot_product_attention": "attention multiplies activations",
    "matmul": MULTIPLIED,
    "bmm": MULTIPLIED,
}
_ACTIVATIONS = frozenset(
    ("silu", "gelu", "hardswish", "leaky_relu", "prelu", "elu", "selu", "celu", "rrelu", "mish")
    + ("softplus", "tanh", "sigmoid", "hardsigmoid", "log_sigmoid", "threshold", "exp")
)


def reason_of(operation: str) -> str:
    """Return why an operation outside of OPERATIONS has no spiking form."""
    if operation in _ACTIVATIONS:
        return f"{operation} is no ReLU"
    return _REASONS.get(operation, f"{operation} has no spiking form here")


def _current(value: Value) -> Current:
    """Return a summand as a current."""
    if isinstance(value, Current):
        return value
    if isinstance(value, Spikes):
        value = Picked(value.name)
    if not isinstance(value, Picked):
        raise Unsupported(f"{what_is(value)} is added to a sum")
    if value.rows != value.columns:
        raise Unsupported(f"a shortcut takes every {value.rows}th row, {value.columns}th column")
    if value.before == value.after:
        term = Term(value.source, "", stride=value.rows, pad=value.before)
        return Current((term,), torch.zeros(1, dtype=torch.float64))
    raise Unsupported("a shortcut with zero channels on one side alone")


def _per_channel(constant: Any, shape: Sequence[int]) -> Tensor | None:
    """Return a constant as float64 `[C]` of a tensor `[B, C]` or `[B, C, H, W]`; None if it is not.

    The channels of a shape of three are its second.
    """
    values = torch.as_tensor(constant).detach().double().cpu()
    if values.numel() == 1:
        return values.reshape(1).expand(shape[1]).clone()
    padded = [1] * (len(shape) - values.ndim) + list(values.shape)
    if len(padded) != len(shape) or padded[1] != shape[1] or values.numel() != shape[1]:
        return None
    return values.flatten()


def _affine(build: Builder, value: Value, gain: Tensor, shift: Tensor) -> Value:
    """Return gain * value + shift, per channel."""
    if isinstance(value, Image):
        if not bool((gain > 0).all()):
            raise Unsupported("the image is multiplied by what is not positive")
        return Image(value.mean - shift * value.std / gain, value.std / gain)
    if isinstance(value, Mean):
        return Mean(value.source, value.gain * gain, value.shift * gain + shift)
    if isinstance(value, PooledCurrent) and bool((gain > 0).all()):
        inner = _affine(build, value.current, gain, shift)
        assert isinstance(inner, Current)
        return replace(value, current=inner)
    if bool((gain == 1).all()) and not bool(shift.any()):
        return value
    current = _current(value)
    if any(term.weight is None and term.pad for term in current.terms):
        raise Unsupported("a sum with a zero-padded shortcut is scaled before its ReLU")
    return Current(
        tuple(term.scaled(gain) for term in current.terms),
        current.bias * gain + shift,
    )


def batch_norm(build: Builder, x: Value, *args: Any) -> Value:
    """Return BatchNorm with recorded statistics: gain and shift per channel."""
    weight, bias, mean, var, training, _, eps = args[:7]
    if training or mean is None:
        raise Unsupported("BatchNorm without recorded statistics divides by those of the batch")
    mean, var = mean.double(), var.double()
    gain = (1 if weight is None else weight.double()) / torch.sqrt(var + eps)
    shift = (0 if bias is None else bias.double()) - mean * gain
    build.fresh = build.fresh and not bool(mean.any()) and bool((var == 1).all())
    if isinstance(x, Spikes | Picked):
        raise Unsupported("BatchNorm behind a ReLU: the networks converted here have it before")
    if isinstance(x, Current) and len(x.terms) == 1:
        # Scaled with the term below.
        moments = Moments((mean - x.bias).float(), var.sqrt().float())
        x = Current((replace(x.terms[0], moments=moments),), x.bias)
    return _affine(build, x, gain, shift)


def conv2d(
    build: Builder,
    x: Value,
    weight: Any,
    bias: Tensor | None = None,
    stride: Any = (1, 1),
    padding: Any = (0, 0),
    dilation: Any = (1, 1),
    groups: int = 1,
) -> Value:
    """Return a current of one convolution."""
    if not isinstance(weight, Tensor):
        raise Unsupported("the weights of a convolution depend on activations")
    steps, dilated = pair(stride), pair(dilation)
    weight = weight.detach().double().cpu()
    if padding == "same":
        span = [(k - 1) * d for k, d in zip(weight.shape[2:], dilated, strict=True)]
        if any(n % 2 for n in span):
            raise Unsupported("padding='same' of an even kernel pads more on one side")
        padding = [n // 2 for n in span]
    pads = (0, 0) if padding == "valid" else pair(padding)
    if steps[0] != steps[1]:
        raise Unsupported(f"a stride of {steps[0]}x{steps[1]} is another for rows and columns")
    weight, pad = squared(weight, pads, dilated)
    offset = torch.zeros(len(weight)).double() if bias is None else bias.detach().double().cpu()
    if isinstance(x, Mean):
        if weight.shape[2:] != (1, 1) or groups != 1:
            raise Unsupported("a convolution of a mean over the area is no 1x1 convolution")
        return linear(build, x, weight[:, :, 0, 0], offset)
    kernel, step = weight.shape[-1], steps[0]
    if isinstance(x, Blocks):
        if kernel > 1 or step > 1 or groups > 1 or pad:
            raise Unsupported("average pooling before anything but a 1x1 convolution")
        weight = weight.expand(-1, -1, x.kernel, x.kernel).contiguous() / x.kernel**2
        source, step = x.source, x.kernel
    elif isinstance(x, Picked):
        if kernel > 1 or pad or x.rows != x.columns or x.before or x.after:
            raise Unsupported("a part of the activations is read by more than a 1x1 convolution")
        source, step = x.source, step * x.rows
    elif isinstance(x, Image):
        source = build.read_image(x)
    elif isinstance(x, Spikes):
        source = x.name
    else:
        raise Unsupported(f"a convolution reads {what_is(x)}")
    term = Term(source, build.path, weight, step, pad, groups)
    return Current((term,), offset)


def linear(build: Builder, x: Value, weight: Any, bias: Tensor | None = None) -> Value:
    """Return a current of one linear layer on a mean over the area."""
    if not isinstance(weight, Tensor):
        raise Unsupported("the weights of a linear layer depend on activations")
    weight = weight.detach().double().cpu()
    offset = torch.zeros(len(weight)).double() if bias is None else bias.detach().double().cpu()
    if isinstance(x, Spikes) and all(n == 1 for n in build.sizes[x.name]):
        x = mean_of(build, x)
    if isinstance(x, Mean):
        folded = (weight * x.gain)[:, :, None, None]
        term = Term(x.source, build.path, folded, mean=True)
        return Current((term,), offset + weight @ x.shift)
    if isinstance(x, Current) and x.is_vector and len(x.terms) == 1:
        # Two linear layers without a ReLU between them are one.
        first = x.terms[0]
        assert first.weight is not None
        folded = (weight @ first.weight[:, :, 0, 0])[:, :, None, None]
        term = replace(first, weight=folded, moments=None)
        return Current((term,), offset + weight @ x.bias)
    raise Unsupported(f"a linear layer reads {what_is(x)}, not global average pooling")


def addmm(build: Builder, bias: Any, x: Any, weight: Any) -> Value:
    """Return `bias + x @ weight`."""
    return linear(build, x, weight.t() if isinstance(weight, Tensor) else None, bias)


def relu(build: Builder, x: Value) -> Value:
    """Return the spikes of a current's neurons; of what has no negative part the same."""
    if isinstance(x, Spikes | Picked | Blocks | Flat):
        return x
    if isinstance(x, Mean) and bool((x.gain >= 0).all()) and not bool(x.shift.any()):
        return x
    if isinstance(x, PooledCurrent):
        return build.pool(build.layer(x.current), x.window)
    if isinstance(x, Current):
        return build.layer(x)
    raise Unsupported(f"a ReLU reads {what_is(x)}")


def add(build: Builder, x: Any, y: Any, alpha: Any = 1) -> Value:
    """Return a sum of two values, or of a value and a constant."""
    if isinstance(x, Zeros) or isinstance(y, Zeros):
        return y if isinstance(x, Zeros) else x
    for one, other, factor in ((x, y, alpha), (y, x, 1)):
        if not isinstance(other, Value):
            scale = 1 if one is x else alpha
            shift = _per_channel(other, build.shape(one))
            if shift is None:
                raise Unsupported("a constant is added that is not one value a channel")
            gain = torch.full((build.shape(one)[1],), float(scale)).double()
            return _affine(build, one, gain, shift * factor)
    if alpha != 1:
        raise Unsupported("a scaled sum of two activations")
    if build.shape(x) != build.shape(y):
        raise Unsupported(f"a sum of {build.shape(x)} and {build.shape(y)}")
    for value in (x, y):
        if isinstance(value, Current) and build.read_again(value):
            raise Unsupported(
                "a block and its shortcut read a sum before any ReLU, as in pre-activation ResNets"
            )
    left, right = _current(x), _current(y)
    return Current((*left.terms, *right.terms), left.bias + right.bias)


def sub(build: Builder, x: Any, y: Any, alpha: Any = 1) -> Value:
    """Return a value less a constant."""
    if isinstance(x, Value) and not isinstance(y, Value):
        return add(build, x, y, -alpha)
    raise Unsupported(reason_of("sub"))


def mul(build: Builder, x: Any, y: Any) -> Value:
    """Return a value times a constant."""
    if isinstance(x, Value) and isinstance(y, Value):
        raise Unsupported(MULTIPLIED)
    value, constant = (x, y) if isinstance(x, Value) else (y, x)
    gain = _per_channel(constant, build.shape(value))
    if gain is None:
        raise Unsupported("a constant is multiplied that is not one value a channel")
    if not bool(gain.any()):
        return Zeros()
    return _affine(build, value, gain, torch.zeros_like(gain))


def div(build: Builder, x: Any, y: Any) -> Value:
    """Return a value divided by a constant."""
    if isinstance(y, Value):
        raise Unsupported("a division by activations has no spiking form")
    return mul(build, x, 1 / torch.as_tensor(y).double())


def dropout(build: Builder, x: Value, share: float, train: bool) -> Value:
    """Return the value: dropout does nothing outside of training."""
    if train and share > 0:
        raise Unsupported(
            "a dropout that stays on in eval mode (F.dropout without training=self.training)"
        )
    return x


def softmax(build: Builder, x: Value, dim: int, *_: Any, **__: Any) -> Value:
    """Return a softmax of logits."""
    if isinstance(x, Current) and x.is_vector and dim in (1, -1):
        return Final(x, build.operation)
    raise Unsupported("a softmax of what is no output of a linear layer")


def same(build: Builder, x: Value, *args: Any, **named: Any) -> Value:
    """Return the value: a copy, a view or another precision of it."""
    for kind in (*args, *named.values()):
        if isinstance(kind, torch.dtype) and kind not in (torch.float32, torch.float64):
            raise Unsupported(f"a change of precision to {kind}")
    return x


def take_result(build: Builder, x: Any, index: int) -> Any:
    """Return one of several results."""
    return x[index]


Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {
    "batch_norm": batch_norm,
    "conv2d": conv2d,
    "linear": linear,
    "addmm": addmm,
    "relu": relu,
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "max_pool2d": areas.max_pool2d,
    "max_pool2d_with_indices": areas.max_pool2d_with_indices,
    "avg_pool2d": areas.avg_pool2d,
    "adaptive_avg_pool2d": areas.adaptive_avg_pool2d,
    "mean": areas.mean,
    "sum": areas.total,
    "slice": areas.slicing,
    "pad": areas.padding,
    "constant_pad_nd": areas.padding,
    "cat": areas.cat,
    "zeros_like": areas.zeros_like,
    "getitem": take_result,
    "softmax": softmax,
    "log_softmax": softmax,
    **dict.fromkeys(("dropout", "feature_dropout"), dropout),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze"), areas.reshape
    ),
    **dict.fromkeys(
        ("clone", "contiguous", "alias", "detach", "to", "_to_copy", "type_as", "lift_fresh_copy"),
        same,
    ),
}
