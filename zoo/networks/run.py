"""The result of a run, and the classifier that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["causal", "layerwise"]


def steps_skipped(delay: Mapping[int, int], timesteps: int) -> int:
    """Return the number of first timesteps that the read-out after `timesteps` skips.

    Args:
        delay: by timesteps; the largest key that is not above `timesteps` holds.
    """
    known = [t for t in delay if t <= timesteps]
    return min(delay[max(known)], timesteps - 1) if known else 0


@dataclass(repr=False)
class Run:
    """Result of one run of a network.

    Attributes:
        logits: float64 `[T, B, classes]`; row t - 1 is the read-out after t timesteps (layerwise:
            one row, after all).
        spikes: `spikes[t][layer]` holds the spikes per neuron after t timesteps, summed over the
            batch, int64 `[C, H, W]`, for each snapshot asked for; a -1 counts as one spike, a
            graded one as the number of its bits that are set.
    """

    logits: Tensor
    spikes: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __repr__(self) -> str:
        rows, images, classes = self.logits.shape
        return f"Run({rows=}, {images=}, {classes=}, snapshots={sorted(self.spikes)})"


@dataclass(frozen=True)
class Head:
    """Global average pooling and the classifier, on spike counts.

    logits = (counts @ weight.T) * scale / (timesteps read) + bias, with the amplitudes and 1/(H W)
    folded into weight and scale; weight `[classes, C]` is int8 (or float), the product is exact and
    the two float64 operations are the same everywhere.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    @classmethod
    def rounded(cls, weight: Tensor, bias: Tensor) -> Head:
        """Return the int8 classifier of a float one on whole spike counts, `[classes, C]`."""
        scale = (weight.abs().amax(1) / 127).clamp_min(1e-12)
        return cls((weight / scale[:, None]).round().to(torch.int8), scale, bias)

    def __call__(self, counts: Tensor, steps: Tensor | int) -> Tensor:
        product = counts.double() @ self.weight.double().T
        return product * (self.scale.double() / steps) + self.bias.double()
