"""Round a layer's weights to int8 so that its output, not each weight, stays closest.

Error feedback (GPTQ, Frantar et al., arXiv:2210.17323): weights are rounded one input after
another, and what each rounding does to the output is taken back by the inputs not rounded yet, as
far as they are correlated with it. With x the inputs of one position (firing rates, 0 to 1) and
H = cov(x) + damping, this minimises E |(w - w_q) . (x - E x)|^2 greedily; what is left of the mean
goes into the bias.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Patches that the second moments are taken from, and the share of the mean variance added to every
# input's own.
_PATCHES = 16_384


_DAMPING = 0.01


# Inputs whose feedback reaches the others in one matrix product, as in GPTQ's own code.
_BLOCK = 64


def patches(
    x: Tensor, kernel: int, stride: int, padding: int, generator: torch.Generator
) -> Tensor:
    """Return inputs of about 16,384 random output positions of a convolution.

    Args:
        x: input of the convolution, `[B, Cin, H, W]`.

    Returns:
        `[n, Cin k k]`, the same number from every image.
    """
    per_image = max(1, _PATCHES // len(x))
    inputs = []
    for image in x.split(16):
        columns = F.unfold(image, kernel, padding=padding, stride=stride)
        chosen = torch.randperm(columns.shape[2], generator=generator)[:per_image]
        inputs.append(columns[:, :, chosen].transpose(1, 2).flatten(0, 1))
    return torch.cat(inputs)


def round_to_int8(weight: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights on inputs.

    Args:
        weight: float `[Cout, K]`, in units of their scale.
        inputs: float `[n, K]`.

    Returns:
        The weights, int8 `[Cout, K]`, and the shift of the bias that keeps the mean output, float
        `[Cout]`, in the same units.
    """
    device, weight = weight.device, weight.double().cpu()
    mean = inputs.double().mean(0)
    centered = inputs.double() - mean
    # From here on the CPU: a GPU would spend its time on starting small operations.
    moments = (centered.T @ centered / len(inputs)).cpu()
    mean = mean.cpu()
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean().clamp_min(1e-9))
    order = moments.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[order][:, order]))
    feedback = torch.linalg.cholesky(inverse, upper=True)
    left = weight[:, order]
    rounded = torch.empty_like(left)
    for begin in range(0, left.shape[1], _BLOCK):
        block, own = (
            left[:, begin : begin + _BLOCK],
            feedback[begin : begin + _BLOCK, begin : begin + _BLOCK],
        )
        errors = torch.empty_like(block)
        for k in range(block.shape[1]):
            nearest = block[:, k].round().clamp_(-127, 127)
            errors[:, k] = (block[:, k] - nearest) / own[k, k]
            block[:, k:] -= errors[:, k, None] * own[k, k:]
            rounded[:, begin + k] = nearest
        left[:, begin + _BLOCK :] -= errors @ feedback[begin : begin + _BLOCK, begin + _BLOCK :]
    result = torch.empty_like(rounded)
    result[:, order] = rounded
    shift = ((weight - result) @ mean).float()
    return result.to(torch.int8).to(device), shift.to(device)
