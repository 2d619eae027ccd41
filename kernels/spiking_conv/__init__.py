"""One spiking layer: convolution, bias, shortcut, integrate-and-fire.

`SpikingConv` is the reference in plain torch, `SpikingLayer` the same layer in fused Triton kernels
on packed spikes.
"""

from .launch import LAYERWISE_LIMIT, PackedMembrane, SpikingLayer, pooled_counts
from .packing import PackedSpikes, count, pack, unpack
from .reference import Membrane, SpikingConv

__all__ = [
    "LAYERWISE_LIMIT",
    "Membrane",
    "PackedMembrane",
    "PackedSpikes",
    "SpikingConv",
    "SpikingLayer",
    "count",
    "pack",
    "pooled_counts",
    "unpack",
]
