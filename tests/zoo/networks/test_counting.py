"""Spikes are counted eight bytes at a time; the counts are those of numpy's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.networks.reference import count_over_time_and_batch, sum_bits


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(1, 7),
    rows=st.sampled_from([0, 1, 2, 36, 37, 255, 256, 600]),
    columns=st.sampled_from([1, 7, 8, 16, 40]),
    full=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_bits_are_counted(bits, rows, columns, full, seed):
    """Up to every bit set in more rows than a byte counts."""
    top = 2**bits - 1
    spikes = np.random.default_rng(seed).integers(top if full else 0, top + 1, (rows, columns))
    counts = sum_bits(torch.from_numpy(spikes.astype(np.int8)), bits)
    expected = sum(((spikes >> bit) & 1).sum(0) for bit in range(bits))
    assert counts.dtype == torch.int64 and np.array_equal(counts.numpy(), expected)


@pytest.mark.parametrize("channels", [3, 8])
def test_a_negative_spike_counts_as_one(channels):
    gen = torch.Generator().manual_seed(channels)
    spikes = torch.randint(-1, 2, (40, 9, channels, 2, 3), generator=gen, dtype=torch.int8)
    counts = count_over_time_and_batch(spikes, 1)
    assert torch.equal(counts, spikes.long().abs().sum((0, 1)))
