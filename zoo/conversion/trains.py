"""Spikes of a layer on the calibration images, kept timestep by timestep, and pooled ones."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.kernels.neuron import packed_bits
from zoo.kernels.spiking_conv import PoolState, max_pool_counts, max_pool_spikes
from zoo.networks.topology import Pool


class SpikeTrain:
    """The spikes of a layer so far, timestep by timestep, in as few bits as they need.

    Two bits where a spike may be -1.
    As int8, those of a layer of ResNet-50's first stage on 64 images of 224 pixels would be 1.6 GB,
    and several layers are kept.
    """

    def __init__(self, signed: bool, bits: int) -> None:
        self.lowest, self.width = (-1, 2) if signed else (0, packed_bits(bits))
        self.bits, self.steps = bits, 0
        self._bytes: list[Tensor] = []

    def __len__(self) -> int:
        return self.steps

    def append(self, spikes: Tensor) -> None:
        """Add one timestep, int8 `[B, C, H, W]`."""
        shift = self.steps * self.width % 8
        bits = (spikes - self.lowest).to(torch.uint8) << shift
        if shift:
            self._bytes[-1] |= bits
        else:
            self._bytes.append(bits)
        self.steps += 1

    def __getitem__(self, t: int) -> Tensor:
        """Return the spikes of timestep t, int8 `[B, C, H, W]`."""
        place, shift = divmod(t * self.width, 8)
        return ((self._bytes[place] >> shift) & (2**self.width - 1)).to(torch.int8) + self.lowest

    def fired(self, steps: int) -> int:
        """Return the spikes of all neurons in the first `steps` timesteps.

        A -1 counts as one, a graded spike as the number of its bits that are set.
        """
        return sum(
            int(((self[t] >> bit) & 1).sum().item())
            for t in range(steps)
            for bit in range(self.bits)
        )

    def total(self, steps: int) -> Tensor:
        """Return the net spikes of each neuron in `steps` timesteps, int32 `[B, C, H, W]`."""
        counts = self[0].to(torch.int32)
        for t in range(1, steps):
            counts += self[t]
        return counts


class SummedTrain(SpikeTrain):
    """The sums of a layer's spikes over its area, timestep by timestep, int32 `[B, C, 1, 1]`."""

    def __init__(self, source: SpikeTrain) -> None:
        super().__init__(source.lowest < 0, source.bits)
        self.steps = source.steps
        self._sums = [
            source[t].sum((2, 3), keepdim=True, dtype=torch.int32) for t in range(source.steps)
        ]

    def __getitem__(self, t: int) -> Tensor:
        """Return the sums of timestep t, int32 `[B, C, 1, 1]`."""
        return self._sums[t]


def pooled_train(train: SpikeTrain, pool: Pool) -> SpikeTrain:
    """Return what a pooling makes of a layer's spikes."""
    if pool.kind == "average":
        return SummedTrain(train)
    pooled, state = SpikeTrain(train.lowest < 0, train.bits), PoolState()
    for t in range(len(train)):
        now = max_pool_spikes(train[t][None], state, pool.kernel, pool.stride, pool.padding)
        pooled.append(now[0])
    return pooled


def pool_of_counts(counts: Tensor, pool: Pool) -> Tensor:
    """Return what a pooling makes of spike counts, or of limits of rates, `[B, C, H, W]`."""
    if pool.kind == "average":
        return counts.sum((2, 3), keepdim=True)
    return max_pool_counts(counts, pool.kernel, pool.stride, pool.padding)
