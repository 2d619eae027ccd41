"""Pooling of spikes, exact for rates; in plain torch on every backend.

With N_i(t) the net spikes of neuron i up to timestep t, max-pooling over a window of neurons emits

    s(t) = max_i N_i(t) - max_i N_i(t - 1),        N_i(-1) = 0.

N_i moves by at most the largest spike in a timestep, and so does the maximum, so what is emitted is
a spike of the same kind: 0 or 1; -1, 0 or 1; 0 to 2**bits - 1. The sum over T timesteps is
max_i N_i(T): the rate of the pooled neuron is the largest rate of the window. (Letting through the
spikes of the neuron with the highest rate so far, as Rueckauer et al. 2017 do, is exact only once
the same neuron leads throughout.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class PoolState:
    """What max-pooling keeps from one window of timesteps to the next.

    Attributes:
        counts: net spikes so far of each neuron that is pooled, float32 `[B, C, H, W]`; None before
            the first window.
        peaks: their maxima, what has been emitted so far, float32 `[B, C, H', W']`.
    """

    counts: Tensor | None = None
    peaks: Tensor | None = None


def max_pool_spikes(
    spikes: Tensor, state: PoolState, kernel: int, stride: int, padding: int
) -> Tensor:
    """Return the spikes of max-pooling over one window of timesteps, `[T, B, C, H', W']`.

    Args:
        spikes: int8 or uint8 `[T, B, C, H, W]`.
        state: of the run; updated in place.
    """
    # Exact: net counts stay far under 2**24.
    counts = spikes.to(torch.float32).cumsum_(0)
    if state.counts is not None:
        counts += state.counts
    peaks = max_pool_counts(counts.flatten(0, 1), kernel, stride, padding)
    peaks = peaks.unflatten(0, counts.shape[:2])
    before = torch.zeros_like(peaks[:1]) if state.peaks is None else state.peaks[None]
    emitted = (peaks - torch.cat([before, peaks[:-1]])).to(torch.int8)
    if len(spikes):
        state.counts, state.peaks = counts[-1], peaks[-1]
    return emitted if spikes.dtype == torch.int8 else emitted.view(torch.uint8)


def max_pool_counts(counts: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the largest count of each window, of counts `[B, C, H, W]` in their own dtype."""
    pooled = F.max_pool2d(counts.to(torch.float32), kernel, stride, padding)
    return pooled.to(counts.dtype)
