"""One spiking layer: convolution, bias, shortcut, integrate-and-fire."""

from .reference import Membrane, SpikingConv

__all__ = ["Membrane", "SpikingConv"]
