"""The neurons that the kernels know; free of torch, so that a config can be read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Neuron = Literal["if", "signed", "multi-level"]

MAX_BITS = 7  # of a graded spike, which is an int8 operand of a dot product


@dataclass(frozen=True)
class NeuronKind:
    """What the neurons of one layer are.

    Attributes:
        neuron: their model.
        bits: of a spike: 1, or 2 to MAX_BITS of a graded one (`multi-level`).

    Raises:
        ValueError: a neuron that has no spikes of so many bits.
    """

    neuron: Neuron = "if"
    bits: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS or (self.neuron == "multi-level") != (self.bits > 1):
            raise ValueError(f"{self.neuron} neurons do not have spikes of {self.bits} bits")

    @property
    def max_level(self) -> int:
        """Return the largest spike."""
        return 2**self.bits - 1


def packed_bits(bits: int) -> int:
    """Return the bits that a spike takes in a byte: as many as it has, rounded up to 1, 2, 4, 8."""
    return 1 << (bits - 1).bit_length()
