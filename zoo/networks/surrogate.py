"""Surrogate gradients: what takes the place of a spike's derivative in training.

A spike is a step of x = (v - threshold) / threshold, whose derivative is zero almost everywhere.
Backwards, one of these stands for it (Neftci, Mostafa and Zenke, arXiv:1901.09948); forwards a
spike stays a spike. Names, parameters and defaults are SpikingJelly's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.errors import UsageError


@dataclass(frozen=True)
class Rectangular:
    """alpha where |x| < 1 / (2 alpha), else 0 (Wu et al., arXiv:1706.02609)."""

    alpha: float = 1.0

    def slope(self, x: Tensor) -> Tensor:
        return (x.abs() < 0.5 / self.alpha).to(x.dtype).mul_(self.alpha)


@dataclass(frozen=True)
class ArcTan:
    """alpha / 2 / (1 + (pi alpha x / 2)^2), of an arctangent (Fang et al., arXiv:2007.05785)."""

    alpha: float = 2.0

    def slope(self, x: Tensor) -> Tensor:
        return (x * (math.pi / 2 * self.alpha)).square_().add_(1).reciprocal_().mul_(self.alpha / 2)


@dataclass(frozen=True)
class Sigmoid:
    """alpha s (1 - s), the slope of s = sigmoid(alpha x)."""

    alpha: float = 4.0

    def slope(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(x * self.alpha)
        return (1 - s).mul_(s).mul_(self.alpha)


SURROGATES: dict[str, type[Rectangular | ArcTan | Sigmoid]] = {
    "rectangular": Rectangular,
    "arctan": ArcTan,
    "sigmoid": Sigmoid,
}

# A name of SURROGATES, one of its objects, or a function from x to spikes that has a gradient, as
# the objects of `spikingjelly.activation_based.surrogate` are.
Surrogate = str | Rectangular | ArcTan | Sigmoid | Callable[[Tensor], Tensor]


def surrogate_named(surrogate: Surrogate) -> Any:
    """Return the surrogate of a name of SURROGATES, or the object that was given.

    Raises:
        UsageError: no such name, and no function.
    """
    if isinstance(surrogate, str):
        if surrogate not in SURROGATES:
            raise UsageError(
                f"surrogate {surrogate!r} is unknown: use {', '.join(SURROGATES)}, or an object of "
                "spikingjelly.activation_based.surrogate"
            )
        return SURROGATES[surrogate]()
    if not (hasattr(surrogate, "slope") or callable(surrogate)):
        raise UsageError(
            f"surrogate is a {type(surrogate).__name__}: give one of {', '.join(SURROGATES)}, or a "
            "function from potentials to spikes that has a gradient"
        )
    return surrogate


def slope(surrogate: Any, x: Tensor) -> Tensor:
    """Return the surrogate's derivative at x, in x's shape and dtype.

    Of a function that is not one of SURROGATES it is what autograd says.
    """
    if hasattr(surrogate, "slope"):
        found: Tensor = surrogate.slope(x)
        return found
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(surrogate(x).sum(), x)
    return found.to(x.dtype)
