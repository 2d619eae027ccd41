"""The torch backend: the reference layers, on any device; on a CPU with compiled neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

from zoo.files import cache_folder
from zoo.kernels.spiking_conv import (
    Membrane,
    PoolState,
    SpikingConv,
    max_pool_counts,
    max_pool_spikes,
)
from zoo.kernels.spiking_conv.compiled import LIBRARY
from zoo.kernels.spiking_conv.window import can_run, count_spikes, run_window
from zoo.networks.topology import Pool, Topology

# ResNet-20, T = 32, compiled neurons, images/s of one core (Xeon with AMX): 182 in chunks of 16,
# 201 of 32, 181 of 64. Smaller chunks pay per call, larger ones leave the cache.
CHUNK = 32
WINDOW = 8

# Neurons of a chunk's widest layer, so that a timestep's potentials stay in the cache: 64 images of
# CIFAR's networks, one of a ResNet-50 at 224 pixels (one Zen 5 core, T = 64: 2.2 s an image, with 4
# at a time 3.8 s).
_WIDEST = 2**20

# On a GPU launches cost more than the cache gives: as many images as fit in 2 GB of float32
# potentials: 256 of CIFAR's networks, 59 of a ResNet-50 at 224 pixels.
_GPU_CHUNK = 256
_GPU_NEURONS = 2**29


class ReferenceLayers:
    """`SpikingConv` layers as a `LayerBackend`.

    Spikes are int8 or uint8 `[T, B, C, H, W]`, counts `[B, C, H, W]`.
    """

    window = WINDOW
    limit: int | None = None

    def __init__(
        self, topology: Topology, layers: Mapping[str, SpikingConv], device: torch.device
    ) -> None:
        self.topology, self.layers, self.device = topology, layers, device
        if device.type == "cpu":
            _keep_freed_memory()

    def chunk(self, height: int, width: int) -> int:
        sizes = self.topology.sizes(height, width)
        neurons = [
            layer.out_channels * math.prod(sizes[layer.name]) for layer in self.topology.layers
        ]
        if self.device.type == "cuda":
            return max(1, min(_GPU_CHUNK, _GPU_NEURONS // max(sum(neurons), 1)))
        return max(1, min(CHUNK, _WIDEST // max(*neurons, 1)))

    def stem_input(self, pixels: Tensor, timesteps: int, layerwise: bool) -> Tensor:
        stem = self.layers[self.topology.layers[0].name]
        current = stem.current(pixels, timesteps)
        return stem.count(current, None, timesteps, constant=True) if layerwise else current

    def membrane(self, name: str, images: int, size: tuple[int, int], timesteps: int) -> Membrane:
        return self.layers[name].membrane(images, *size, timesteps)

    def counter(self, name: str, size: tuple[int, int]) -> Tensor:
        shape = (self.topology.channels[name], *size)
        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def spikes(
        self,
        name: str,
        x: Tensor,
        shortcut: Tensor | None,
        membrane: Membrane,
        *,
        steps: int | None,
        more: bool,
        counter: Tensor | None,
    ) -> Tensor:
        layer = self.layers[name]
        neuron = LIBRARY.ready(cache_folder()) if can_run(layer) else None
        if neuron is not None:
            spikes = run_window(layer, neuron, x, shortcut, membrane, steps)
        else:
            spikes = layer.run(x, shortcut, membrane, steps)
        if counter is not None:
            counter.add_(count_over_time_and_batch(spikes, layer.bits))
        # Without a -1 among them oneDNN takes spikes as they are.
        return self.packed(name, spikes)

    def pool(self, pool: Pool, x: Tensor, state: PoolState, counter: Tensor | None) -> Tensor:
        if pool.kind == "average":
            return x.sum((3, 4), dtype=torch.int32)[..., None, None]
        spikes = max_pool_spikes(x, state, pool.kernel, pool.stride, pool.padding)
        if counter is not None:
            bits = self.layers[pool.source].bits
            counter.add_(count_over_time_and_batch(spikes.view(torch.int8), bits))
        return spikes

    def pool_counts(self, pool: Pool, counts: Tensor) -> Tensor:
        if pool.kind == "average":
            return counts.sum((2, 3), keepdim=True, dtype=torch.int32)
        return max_pool_counts(counts, pool.kernel, pool.stride, pool.padding)

    def counts(self, name: str, x: Tensor, shortcut: Tensor | None, timesteps: int) -> Tensor:
        layer = self.layers[name]
        if timesteps <= 255 and can_run(layer):
            neuron = LIBRARY.ready(cache_folder())
            if neuron is not None:
                return count_spikes(layer, neuron, x, shortcut, timesteps)
        return layer.count(x, shortcut, timesteps)

    def dense(self, spikes: Tensor) -> Tensor:
        return spikes.view(torch.int8).clone()

    def packed(self, name: str, spikes: Tensor) -> Tensor:
        return spikes if self.layers[name].neuron == "signed" else spikes.view(torch.uint8)

    def potential(self, membrane: Membrane) -> Tensor:
        return membrane.v.clone()

    def of_images(self, membrane: Membrane, images: Tensor) -> Membrane:
        def some(values: Tensor) -> Tensor:  # channels last in memory, as they were
            return values.permute(0, 2, 3, 1)[images].permute(0, 3, 1, 2)

        emitted = None if membrane.emitted is None else some(membrane.emitted)
        return Membrane(some(membrane.v), emitted, membrane.t)

    def pooled(self, spikes: Tensor) -> Tensor:
        return spikes.sum((3, 4), dtype=torch.int64)

    def total(self, counter: Tensor) -> Tensor:
        return counter.clone()

    def nchw(self, counts: Tensor) -> Tensor:
        return counts

    def call(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)


def _keep_freed_memory() -> None:
    """Let glibc keep up to 64 MB of freed memory, for the currents and spikes of the next layer.

    glibc gives a freed block of 128 KB or more back to the system until it has seen a larger one
    freed, and every layer would fault its pages in anew. Nothing is written to the block, so it
    takes no memory. It is just under 32 MB, the largest size that glibc learns from.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def count_over_time_and_batch(spikes: Tensor, bits: int) -> Tensor:
    """Return spikes per neuron, int64 `[C, H, W]`, of int8 spikes `[T, B, C, H, W]`.

    A -1 counts as one spike, a graded one as the number of its bits that are set.
    """
    rows = spikes.permute(0, 1, 3, 4, 2)
    height, width, channels = rows.shape[2:]
    total = sum_bits(rows.reshape(-1, height * width * channels), bits)
    return total.view(height, width, channels).permute(2, 0, 1)


def sum_bits(rows: Tensor, bits: int) -> Tensor:
    """Return how many of the last `bits` bits are set in each column of int8 `[R, N]`, int64 `[N]`.

    With one bit values may be -1; with more, up to 7, they are 0 to 2**bits - 1.
    """
    if rows.device.type != "cpu" or rows.shape[1] % 8 or not rows.numel():
        total = rows.bitwise_and(1).sum(0, dtype=torch.int64)
        for bit in range(1, bits):
            total += (rows >> bit).bitwise_and_(1).sum(0, dtype=torch.int64)
        return total
    # Eight bytes are counted and summed as one int64: the counts of up to 255 // bits rows carry
    # nothing into the next byte. torch's int8 sum takes 25 times as long (134 MB: 609 ms, not 24).
    total = torch.zeros(rows.shape[1], dtype=torch.int64)
    for part in rows.view(torch.int64).split(255 // bits):
        total += _bits_set(part, bits).sum(0).view(torch.uint8)
    return total


def _bits_set(x: Tensor, bits: int) -> Tensor:
    """Return int64 whose bytes count the bits that are set in those of x, by halves."""
    if bits == 1:
        return x & 0x0101010101010101
    # In place: 4 MB of 5-bit spikes are summed in 3.0 ms of one core, with new tensors in 7.4.
    pairs = (x >> 1).bitwise_and_(0x5555555555555555).neg_().add_(x)
    fours = (pairs >> 2).bitwise_and_(0x3333333333333333)
    fours.add_(pairs.bitwise_and_(0x3333333333333333))
    torch.bitwise_right_shift(fours, 4, out=pairs)
    return fours.add_(pairs).bitwise_and_(0x0F0F0F0F0F0F0F0F)
