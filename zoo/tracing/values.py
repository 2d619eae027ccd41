"""What an intermediate tensor of a traced network is, in terms of layers, spikes and sums."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.networks.batchnorm import Moments

# The pool behind a layer's current: kernel, stride and padding.
Window = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Image:
    """The input x as (x - mean) / std; both float64 `[C]`."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class Spikes:
    """The activations of a layer, or a max-pooling of them, by name."""

    name: str


@dataclass(frozen=True, eq=False)
class Picked:
    """Every `rows`-th row and `columns`-th column of activations, between zero channels.

    `before` and `after` count those.
    """

    source: str
    rows: int = 1
    columns: int = 1
    before: int = 0
    after: int = 0


@dataclass(frozen=True, eq=False)
class Blocks:
    """Means over blocks of kernel x kernel activations."""

    source: str
    kernel: int


@dataclass(frozen=True, eq=False)
class Flat:
    """Activations `[B, C, H W]`, or after a mean over one of two axes."""

    source: str


@dataclass(frozen=True, eq=False)
class Mean:
    """gain * (mean of activations over their whole area) + shift; both float64 `[C]`."""

    source: str
    gain: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Zeros:
    """A tensor of zeros whose shape depends on the activations."""


@dataclass(frozen=True, eq=False)
class Term:
    """One input of a sum.

    Attributes:
        source: name of the image, layer or pooling that is read.
        path: of the module that weights it.
        weight: float64 `[O, I / groups, k, k]`; None for an identity.
        stride, padding, groups: of the convolution; `stride` of an identity too.
        pad: zero channels on either side of an identity.
        mean: whether the mean over the source's area is read, by a linear layer.
        moments: what BatchNorm recorded of it, without any bias.
    """

    source: str
    path: str
    weight: Tensor | None = None
    stride: int = 1
    padding: int = 0
    groups: int = 1
    pad: int = 0
    mean: bool = False
    moments: Moments | None = None

    def scaled(self, gain: Tensor) -> Term:
        """Return the term with each channel times `gain`, float64 `[C]`."""
        if bool((gain == 1).all()):
            return self
        weight = self.weight
        if weight is None:
            assert self.pad == 0, "the caller has made it a convolution"
            return replace(
                self,
                weight=gain.view(-1, 1, 1, 1).clone(),
                groups=len(gain),
            )
        moments = None
        if self.moments is not None:
            moments = Moments(
                (self.moments.mean * gain).float(), (self.moments.std * gain.abs()).float()
            )
        return replace(self, weight=weight * gain.view(-1, 1, 1, 1), moments=moments)


@dataclass(frozen=True, eq=False)
class Current:
    """A sum that no ReLU followed yet: terms and a bias, float64 `[C]`."""

    terms: tuple[Term, ...]
    bias: Tensor

    @property
    def is_vector(self) -> bool:
        """Whether it has no area: the output of linear layers."""
        return all(term.mean for term in self.terms)


@dataclass(frozen=True, eq=False)
class PooledCurrent:
    """Max-pooling of a current, which is the current's ReLU pooled once that comes."""

    current: Current
    window: Window


@dataclass(frozen=True, eq=False)
class Final:
    """A softmax of logits; `operation` is its name."""

    current: Current
    operation: str


@dataclass(frozen=True, eq=False)
class Refusal:
    """What has no spiking form: the module path and the reason.

    It is an error only where the network's output depends on it.
    """

    path: str
    reason: str


Value = (
    Image
    | Spikes
    | Picked
    | Blocks
    | Flat
    | Mean
    | Zeros
    | Current
    | PooledCurrent
    | Final
    | Refusal
)


class Unsupported(Exception):
    """Raised by an operation with the reason why it has no spiking form."""


def squared(
    weight: Tensor, padding: tuple[int, int], dilation: tuple[int, int]
) -> tuple[Tensor, int]:
    """Return the convolution without dilation and with a square kernel, and its padding.

    Weights of zero fill it up; what it computes is the same.

    Raises:
        Unsupported: no square kernel reads the same places.
    """
    kernel = tuple((n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilation, strict=True))
    side = max(kernel)
    # The offset of the kernel inside the square is half of what is added.
    pads = {p + (side - k) // 2 for p, k in zip(padding, kernel, strict=True)}
    if len(pads) > 1 or any((side - k) % 2 for k in kernel):
        raise Unsupported(
            f"a kernel of {weight.shape[2]}x{weight.shape[3]} with padding "
            f"{padding[0]}x{padding[1]} is no square one"
        )
    if kernel == (side, side) and dilation == (1, 1):
        return weight, pads.pop()
    out = torch.zeros(*weight.shape[:2], side, side, dtype=weight.dtype)
    top, left = ((side - k) // 2 for k in kernel)
    out[:, :, top : top + kernel[0] : dilation[0], left : left + kernel[1] : dilation[1]] = weight
    return out, pads.pop()


def dense(term: Term) -> Term:
    """Return the term with the weights of its groups in one dense convolution."""
    weight = term.weight
    if weight is None or term.groups == 1:
        return term
    out, per = len(weight) // term.groups, weight.shape[1]
    full = torch.zeros(len(weight), per * term.groups, *weight.shape[2:], dtype=weight.dtype)
    for group in range(term.groups):
        rows = slice(group * out, (group + 1) * out)
        full[rows, group * per : (group + 1) * per] = weight[rows]
    return replace(term, weight=full, groups=1)
