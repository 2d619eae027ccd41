"""Spikes packed over time: eight timesteps a byte, the -1s in a set of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.kernels.spiking_conv import PackedSpikes, count, pack, unpack


@st.composite
def spike_trains(draw: st.DrawFn) -> tuple[Tensor, bool]:
    """int8 [T, B, C, H, W], and whether -1 is among the values."""
    shape = (
        draw(st.integers(0, 40)),
        draw(st.integers(0, 3)),
        *(draw(st.integers(1, 4)) for _ in range(3)),
    )
    signed = draw(st.booleans())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    low, high = draw(
        st.sampled_from([(0, 2), (0, 1), (1, 2), (-1, 2)] if signed else [(0, 2), (0, 1), (1, 2)])
    )
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int8), signed


@settings(max_examples=150, deadline=None)
@given(spike_trains())
def test_unpack_gives_back_what_was_packed(drawn):
    spikes, signed = drawn
    packed = pack(spikes, signed)
    timesteps, batch, channels, height, width = spikes.shape
    assert packed.timesteps == timesteps and packed.signed == signed
    assert packed.planes.dtype == torch.uint8 and packed.planes.is_contiguous()
    assert packed.planes.shape == (1 + signed, (timesteps + 7) // 8, batch, height, width, channels)
    actual = unpack(packed)
    assert actual.dtype == torch.int8
    assert torch.equal(actual, spikes)
    # Neither the memory layout of the input nor that of the result matters.
    assert torch.equal(pack(actual, signed).planes, packed.planes)


@settings(max_examples=60, deadline=None)
@given(spike_trains())
def test_bits_past_the_last_timestep_are_zero(drawn):
    spikes, signed = drawn
    planes = pack(spikes, signed).planes
    if len(spikes) % 8:
        assert not (planes[:, -1] >> (len(spikes) % 8)).any()


@settings(max_examples=60, deadline=None)
@given(spike_trains())
def test_count_is_the_number_of_spikes(drawn):
    spikes, signed = drawn
    actual = count(pack(spikes, signed))
    assert actual.dtype == torch.int32
    assert torch.equal(actual.long(), spikes.ne(0).sum(0))


def test_every_byte_is_counted():
    planes = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 1, 1, 256)
    assert count(PackedSpikes(planes, 8)).flatten().tolist() == [
        value.bit_count() for value in range(256)
    ]


def test_bytes_by_hand():
    # One image of 1 x 2 with two channels over nine timesteps; the first of a neuron is the lowest
    # bit.
    trains = [
        [1, 0, 0, 0, 0, 0, 0, 0, 1],
        [0, 1, 1, 0, 0, 0, 0, 1, 0],  # channel 0: left and right pixel
        [1, 1, 1, 1, 1, 1, 1, 1, 0],
        [0, -1, 0, 0, 1, 0, 0, 0, -1],  # channel 1
    ]
    spikes = torch.tensor(trains, dtype=torch.int8).T.reshape(9, 1, 2, 1, 2)
    packed = pack(spikes, signed=True)
    above = [[1, 0b11111111], [0b10000110, 0b00010000]], [[1, 0], [0, 0]]  # [plane][pixel][channel]
    below = [[0, 0], [0, 0b00000010]], [[0, 0], [0, 1]]
    assert packed.planes[:, :, 0, 0].tolist() == [list(above), list(below)]
    assert count(packed)[0, :, 0].tolist() == [[2, 3], [8, 3]]
    assert torch.equal(pack(spikes.clamp(min=0)).planes, packed.planes[:1])


@pytest.mark.parametrize(
    ("value", "signed", "match"),
    [
        (2, False, "0 to 1: got 0 to 2"),
        (-1, False, "0 to 1: got -1 to 0"),
        (2, True, "-1 to 1"),
        (-2, True, "got -2"),
    ],
)
def test_other_values_are_refused(value, signed, match):
    spikes = torch.zeros(3, 1, 2, 2, 2, dtype=torch.int8)
    spikes[1, 0, 1, 0, 1] = value
    with pytest.raises(ValueError, match=match):
        pack(spikes, signed)
