"""The activation that an integrate-and-fire neuron tends to: quantisation clip-floor-shift.

QCFS, Bu et al., ICLR 2022:

    q(z) = theta / L * clip(floor(L z / theta + 1/2), 0, L)

with threshold theta and L levels. Gradients pass q as if it did not round (straight-through
estimator): with u = L z / theta and m = 1 for -1/2 < u < L + 1/2, else 0,

    dq/dz = m,        dq/dlog(theta) = q - m z.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def quantise(z: Tensor, theta: Tensor, levels: int) -> Tensor:
    """Return q(z) for z `[B, C, H, W]` and thresholds `[C]`."""
    quantum = (theta / levels).view(-1, 1, 1)
    return (z / quantum + 0.5).floor_().clamp_(0, levels) * quantum


class Quantise(torch.autograd.Function):
    """q(z) with the module's gradients.

    Takes z `[B, C, H, W]`, float32 or bfloat16, and log-thresholds `[C]`, float32.

    Every pass over memory is in z's own dtype; a training step waits for them.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_theta: Tensor, levels: int) -> Tensor:
        quantum = (log_theta.exp() / levels).view(-1, 1, 1)
        u = z * (1 / quantum).to(z.dtype)
        q = (u + 0.5).floor_().clamp_(0, levels).mul_(quantum.to(z.dtype))
        ctx.levels = levels
        ctx.save_for_backward(u, q, quantum)
        return q

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        u, q, quantum = ctx.saved_tensors
        # The gradient of a strided shortcut has another layout in memory, and mixed layouts make
        # every pass slow.
        channels_last = u.is_contiguous(memory_format=torch.channels_last)
        grad = grads[0].contiguous(memory_format=torch.channels_last) if channels_last else grads[0]
        passed: Tensor = torch.ops.aten.hardtanh_backward(grad, u, -0.5, ctx.levels + 0.5)
        slope = (grad * q).sum((0, 2, 3)).float() - (passed * u).sum(
            (0, 2, 3)
        ).float() * quantum.view(-1)
        return passed, slope, None
