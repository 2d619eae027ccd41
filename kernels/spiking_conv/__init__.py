"""One spiking layer: convolution, bias, shortcut, integrate-and-fire.

`SpikingConv` is the reference in plain torch, `SpikingLayer` the same layer in fused Triton kernels
on packed spikes.
"""

from .launch import LAYERWISE_LIMIT, PackedMembrane, SpikingLayer, pooled_counts
from .packing import PackedSpikes, count, pack, pack_unchecked, unpack
from .pooling import PoolState, max_pool_counts, max_pool_spikes
from .reference import Membrane, SpikingConv

__all__ = [
    "LAYERWISE_LIMIT",
    "Membrane",
    "PackedMembrane",
    "PackedSpikes",
    "PoolState",
    "SpikingConv",
    "SpikingLayer",
    "count",
    "max_pool_counts",
    "max_pool_spikes",
    "pack",
    "pack_unchecked",
    "pooled_counts",
    "unpack",
]
