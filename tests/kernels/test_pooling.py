"""Max-pooling of spikes: its outputs are spikes, and their counts the maxima of the counts."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.kernels.spiking_conv import PoolState, max_pool_counts, max_pool_spikes


def trains(draw: st.DrawFn, low: int, high: int) -> torch.Tensor:
    shape = (draw(st.integers(1, 12)), 2, 3, draw(st.integers(2, 6)), draw(st.integers(2, 6)))
    gen = np.random.default_rng(draw(st.integers(0, 2**32)))
    return torch.from_numpy(gen.integers(low, high + 1, shape, dtype=np.int8))


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, int, int, tuple[int, int, int], int]:
    low, high = draw(st.sampled_from([(0, 1), (-1, 1), (0, 15)]))
    spikes = trains(draw, low, high)
    if low:  # a signed neuron never owes: it has emitted as many +1 as -1, or more
        total = torch.zeros_like(spikes[0])
        for step in spikes:
            step[(step < 0) & (total <= 0)] = 0
            total += step
    geometry = draw(st.sampled_from([(2, 2, 0), (3, 2, 1), (2, 1, 1), (1, 1, 0)]))
    return spikes, low, high, geometry, draw(st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_counts_are_the_maxima_of_counts(case) -> None:
    spikes, low, high, geometry, window = case
    state, parts = PoolState(), []
    for begin in range(0, len(spikes), window):
        parts.append(max_pool_spikes(spikes[begin : begin + window], state, *geometry))
    pooled = torch.cat(parts)
    assert pooled.dtype == torch.int8 and low <= pooled.min() and pooled.max() <= high
    for t in range(1, len(spikes) + 1):
        counts = spikes[:t].sum(0, dtype=torch.int32)
        assert torch.equal(pooled[:t].sum(0, dtype=torch.int32), max_pool_counts(counts, *geometry))


def test_by_hand() -> None:
    """Two neurons take turns: the maximum rises when the leader of the count does."""
    spikes = torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0], [1, 1]], dtype=torch.int8)
    pooled = max_pool_spikes(spikes.view(5, 1, 1, 1, 2), PoolState(), 2, 2, 1)
    # Windows of one neuron each, at the border.
    assert torch.equal(pooled[:, 0, 0, 0], spikes)
    whole = max_pool_spikes(spikes.view(5, 1, 1, 1, 2).expand(5, 1, 1, 2, 2), PoolState(), 2, 2, 0)
    assert whole.flatten().tolist() == [1, 0, 1, 0, 1]  # counts 1-0, 1-1, 1-2, 2-2, 3-3
    nothing = max_pool_spikes(spikes[:0].view(0, 1, 1, 1, 2), PoolState(), 2, 2, 1)
    assert nothing.shape == (0, 1, 1, 1, 2)
    unsigned = max_pool_spikes(spikes.view(torch.uint8).view(5, 1, 1, 1, 2), PoolState(), 2, 2, 1)
    assert unsigned.dtype == torch.uint8
