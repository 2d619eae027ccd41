"""The kernel backends, compiled on a GPU or interpreted on a CPU: packed spikes between layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

from zoo.kernels.spiking_conv import (
    LAYERWISE_LIMIT,
    Membrane,
    PackedMembrane,
    PackedSpikes,
    PoolState,
    SpikingConv,
    SpikingLayer,
    max_pool_spikes,
    pack_unchecked,
    pooled_counts,
    unpack,
)
from zoo.networks.graphs import Graphs
from zoo.networks.reference import ReferenceLayers, count_over_time_and_batch
from zoo.networks.topology import Pool, Topology

# Four planes: what one float32 activation takes. A multiple of eight fills every byte.
WINDOW = 32
CHUNK = 256
_INT32 = 2**31


class FusedLayers:
    """`SpikingLayer`s as a `LayerBackend`; spikes are `PackedSpikes`, counts uint8 `[B, H, W, C]`.

    Poolings, and layers that read the sum of spikes over an area, are torch's: what they read is
    unpacked, what they emit packed.

    Args:
        layers: the parameters, on `device`.
        interpret: run the kernels in Triton's interpreter, on the CPU.

    Attributes:
        limit: the most timesteps it can run: int32 potentials, and int8 counts of a layerwise run.
    """

    window = WINDOW

    def __init__(
        self,
        topology: Topology,
        layers: Mapping[str, SpikingConv],
        device: torch.device,
        *,
        layerwise: bool,
        interpret: bool = False,
    ) -> None:
        self.interpret = interpret
        self.reference = ReferenceLayers(topology, layers, device)
        areas = {pool.name for pool in topology.pools if pool.kind == "average"}
        self.on_torch = {layer.name for layer in topology.layers if layer.source in areas}
        self.layers = {
            name: SpikingLayer(layer, interpret=interpret)
            for name, layer in layers.items()
            if name not in self.on_torch
        }
        limit = min(
            (_INT32 - layer.potential_bound(0)) // max(layer.current_bound, 1) - 1
            for layer in layers.values()
        )
        self.limit: int | None = min(limit, LAYERWISE_LIMIT) if layerwise else limit
        self._graphs = Graphs()

    def chunk(self, height: int, width: int) -> int:
        return self.reference.chunk(height, width) if self.interpret else CHUNK

    def stem_input(self, pixels: Tensor, timesteps: int, layerwise: bool) -> Tensor:
        """Return the stem's constant current, int32 `[B, H, W, C]`, or its counts, uint8.

        Once a run, so torch does it: the convolution of one image where the kernels do T timesteps.
        """
        x = self.reference.stem_input(pixels, timesteps, layerwise).permute(0, 2, 3, 1)
        return x.contiguous() if layerwise else x.to(torch.int32).contiguous()

    def membrane(
        self, name: str, images: int, size: tuple[int, int], timesteps: int
    ) -> PackedMembrane | Membrane:
        if name in self.on_torch:
            return self.reference.membrane(name, images, size, timesteps)
        return PackedMembrane()

    def counter(self, name: str, size: tuple[int, int]) -> Tensor:
        channels = self.reference.topology.channels[name]
        return torch.zeros((*size, channels), dtype=torch.int32, device=self.reference.device)

    def spikes(
        self,
        name: str,
        x: PackedSpikes | Tensor,
        shortcut: PackedSpikes | None,
        membrane: PackedMembrane | Membrane,
        *,
        steps: int | None,
        more: bool,
        counter: Tensor | None,
    ) -> PackedSpikes:
        if isinstance(membrane, Membrane):
            assert isinstance(x, Tensor)
            dense = self.reference.spikes(
                name,
                x,
                None if shortcut is None else unpack(shortcut),
                membrane,
                steps=None,
                more=more,
                counter=None,
            )
            return self._packed(name, dense.view(torch.int8), counter)
        return self.layers[name].run(x, shortcut, membrane, steps=steps, save=more, counts=counter)

    def _packed(self, layer: str, spikes: Tensor, counter: Tensor | None) -> PackedSpikes:
        """Return spikes of a layer's kind, int8 `[T, B, C, H, W]`, packed; count them."""
        of = self.reference.layers[layer]
        if counter is not None:
            counter.add_(count_over_time_and_batch(spikes, of.bits).permute(1, 2, 0))
        return pack_unchecked(spikes, of.neuron == "signed", of.bits)

    def pool(
        self, pool: Pool, x: PackedSpikes, state: PoolState, counter: Tensor | None
    ) -> PackedSpikes | Tensor:
        if pool.kind == "average":
            return pooled_counts(x, self.interpret)[..., None, None]
        geometry = (pool.kernel, pool.stride, pool.padding)
        return self._packed(pool.source, max_pool_spikes(unpack(x), state, *geometry), counter)

    def pool_counts(self, pool: Pool, counts: Tensor) -> Tensor:
        pooled = self.reference.pool_counts(pool, self.nchw(counts))
        return pooled.permute(0, 2, 3, 1).contiguous()

    def counts(self, name: str, x: Tensor, shortcut: Tensor | None, timesteps: int) -> Tensor:
        if name in self.on_torch:
            side = None if shortcut is None else self.nchw(shortcut)
            counts = self.reference.counts(name, self.nchw(x), side, timesteps)
            return counts.permute(0, 2, 3, 1).contiguous()
        return self.layers[name].count(x, shortcut, timesteps)

    def dense(self, spikes: PackedSpikes) -> Tensor:
        return unpack(spikes)

    def packed(self, name: str, spikes: Tensor) -> PackedSpikes:
        return self._packed(name, spikes, None)

    def potential(self, membrane: PackedMembrane | Membrane) -> Tensor:
        if isinstance(membrane, Membrane):
            return self.reference.potential(membrane)
        assert membrane.v is not None
        return membrane.v.permute(0, 3, 1, 2).clone()

    def of_images(
        self, membrane: PackedMembrane | Membrane, images: Tensor
    ) -> PackedMembrane | Membrane:
        if isinstance(membrane, Membrane):
            return self.reference.of_images(membrane, images)
        v, emitted = membrane.v, membrane.emitted
        return PackedMembrane(
            None if v is None or not v.numel() else v[images],
            None if emitted is None or not emitted.numel() else emitted[images],
            membrane.t,
        )

    def pooled(self, spikes: PackedSpikes) -> Tensor:
        return pooled_counts(spikes, self.interpret)

    def total(self, counter: Tensor) -> Tensor:
        return counter.permute(2, 0, 1).long()

    def nchw(self, counts: Tensor) -> Tensor:
        return counts.permute(0, 3, 1, 2)

    def call(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `function(x)`, on a GPU by one CUDA graph a key, see `zoo.networks.graphs`."""
        if x.device.type != "cuda" or not len(x):
            return function(x)
        return self._graphs(key, function, x)
