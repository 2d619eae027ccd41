"""Spikes packed over time: one bit a spike, eight timesteps a byte, channels last.

Graded spikes take two, four or eight bits, with zeros above those that they have. T = 32 timesteps
of a neuron are four bytes, what one float32 activation of the ANN takes; as float16 they would be
64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..neuron import packed_bits


@dataclass(frozen=True)
class PackedSpikes:
    """The spikes of a layer in one window of timesteps.

    Attributes:
        planes: uint8 `[S, ceil(T width / 8), B, H, W, C]`; bit t % 8 of plane t // 8 is timestep t,
            bits past T are zero. planes[0] holds the spikes of +1, planes[1] those of -1; S = 1
            where none is negative.
        timesteps: T.
        bits: of a spike; with a `width` of w timestep t has bits w (t % (8 / w)) and up of plane
            t // (8 / w).
    """

    planes: Tensor
    timesteps: int
    bits: int = 1

    @property
    def signed(self) -> bool:
        return len(self.planes) == 2

    @property
    def width(self) -> int:
        """Return the bits of a byte that a spike takes."""
        return packed_bits(self.bits)


def pack(spikes: Tensor, signed: bool = False, bits: int = 1) -> PackedSpikes:
    """Pack int8 spikes `[T, B, C, H, W]`; T may be 0.

    Raises:
        ValueError: a value other than 0 to 2**bits - 1, or -1 to 1 if `signed`.
    """
    low, high = (-1, 1) if signed else (0, 2**bits - 1)
    if spikes.numel() and not (spikes.min() >= low and spikes.max() <= high):
        raise ValueError(f"spikes must be {low} to {high}: got {spikes.min()} to {spikes.max()}")
    packed = pack_unchecked(spikes, signed, bits)
    # Of both at once the compiled kernels' assembly would make -1, the interpreted code 0.
    assert not signed or not (packed.planes[0] & packed.planes[1]).any(), (
        "a neuron spikes +1 and -1 at once"
    )
    return packed


def pack_unchecked(spikes: Tensor, signed: bool = False, bits: int = 1) -> PackedSpikes:
    """Pack spikes that are known to be in range; nothing waits for a GPU."""
    rows = spikes.permute(0, 1, 3, 4, 2)
    timesteps, width = len(spikes), packed_bits(bits)
    each = 8 // width
    count = -(-timesteps // each)
    planes = torch.zeros(
        (1 + signed, count, *rows.shape[1:]), dtype=torch.uint8, device=spikes.device
    )
    for t in range(timesteps):
        planes[0, t // each] |= rows[t].clamp(min=0).to(torch.uint8) << (t % each * width)
        if signed:
            planes[1, t // each] |= (rows[t] < 0).to(torch.uint8) << (t % each)
    return PackedSpikes(planes, timesteps, bits)


def unpack(packed: PackedSpikes) -> Tensor:
    """Return the spikes as int8 `[T, B, C, H, W]` (channels last in memory)."""
    planes, each = packed.planes, 8 // packed.width
    shape = (packed.timesteps, *planes.shape[2:])
    spikes = torch.empty(shape, dtype=torch.int8, device=planes.device)
    for t in range(packed.timesteps):
        values = (planes[:, t // each] >> (t % each * packed.width)) & (2**packed.bits - 1)
        values = values.to(torch.int8)
        spikes[t] = values[0] - values[1] if packed.signed else values[0]
    return spikes.permute(0, 1, 4, 2, 3)


def count(packed: PackedSpikes) -> Tensor:
    """Return the spikes of each neuron over the window, int32 `[B, C, H, W]`.

    A -1 counts as one, a graded spike as its bits that are set.
    """
    planes = packed.planes.flatten(0, 1)
    total = torch.zeros(planes.shape[1:], dtype=torch.int32, device=planes.device)
    for plane in planes:
        bits = plane - ((plane >> 1) & 0x55)
        bits = (bits & 0x33) + ((bits >> 2) & 0x33)
        total += (bits + (bits >> 4)) & 15
    return total.permute(0, 3, 1, 2)
