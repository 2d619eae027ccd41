"""The activation that an integrate-and-fire neuron tends to: quantisation clip-floor-shift (QCFS, Bu et al., ICLR 2022).

    q(z) = theta / L * clip(floor(L z / theta + 1/2), 0, L)

with threshold theta and L levels. Gradients pass q as if it did not round (straight-through estimator): with u = L z / theta and
m = 1 for -1/2 < u < L + 1/2, else 0,

    dq/dz = m,        dq/dlog(theta) = q - m z.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def quantise(z: Tensor, theta: Tensor, levels: int) -> Tensor:
    """q(z) for z [B, C, H, W] and thresholds [C]."""
    quantum = (theta / levels).view(-1, 1, 1)
    return (z / quantum + 0.5).floor_().clamp_(0, levels) * quantum


class Quantise(torch.autograd.Function):
    """q(z) for z [B, C, H, W] and log-thresholds [C], with the module's gradients."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_theta: Tensor, levels: int) -> Tensor:
        quantum = (log_theta.exp() / levels).view(-1, 1, 1)
        u = z / quantum
        count = (u + 0.5).floor_().clamp_(0, levels)
        ctx.levels = levels
        ctx.save_for_backward(u, count, quantum)
        return count * quantum

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        u, count, quantum = ctx.saved_tensors
        passed = grads[0] * ((u > -0.5) & (u < ctx.levels + 0.5))
        slope = (grads[0] * count - passed * u).sum((0, 2, 3)) * quantum.view(-1)
        return passed, slope, None
