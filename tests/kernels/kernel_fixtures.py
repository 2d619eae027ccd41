"""Shared by the tests of the fused kernels: random layers and spikes, guards, comparison."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.emulator.launch import Emulator
from zoo.kernels.spiking_conv import (
    Membrane,
    PackedMembrane,
    PackedSpikes,
    SpikingConv,
    SpikingLayer,
    launch,
    pack,
)
from zoo.kernels.spiking_conv.tiles import Tile

# Elements on either side of every tensor that the kernels get: what is stored or read there shows.
# Without them each tensor is an allocation of its own, so that compute-sanitizer sees the access.
_GUARD = (1 << 12) * (os.environ.get("SPIKING_ZOO_GUARDS", "1") != "0")


def _why_not_interpreted() -> str:
    if importlib.util.find_spec("triton") is None:
        return "needs triton"
    numbers = [
        tuple(int(part) for part in version(name).split(".")[:2]) for name in ("triton", "numpy")
    ]
    if numbers[0] < (3, 7) and numbers[1] >= (2, 4):
        return (
            "the interpreter of triton 3.6 cannot take bounds of a loop from run time "
            "with numpy 2.4 or newer"
        )
    return ""


interpreted = pytest.mark.skipif(
    bool(_why_not_interpreted()), reason=_why_not_interpreted() or "runs"
)


@dataclass(frozen=True)
class Backend:
    """Where kernels run: interpreted or emulated on the CPU, or compiled on a GPU.

    Attributes:
        architecture: whose compiled code is emulated, or nothing.
    """

    device: str
    interpret: bool
    architecture: str = ""

    def emulator(self) -> Emulator:
        """Return the emulator, one for all tests, so that each kernel is compiled once.

        Asynchronous copies arrive as SPIKING_ZOO_COPIES says: early, late or poisoned.
        """
        return _emulator(self.architecture, os.environ.get("SPIKING_ZOO_COPIES", "poisoned"))

    def layer(self, layer: SpikingConv, tile: Tile | None = None) -> SpikingLayer:
        return SpikingLayer(layer.to(self.device), interpret=self.interpret, tile=tile)

    def put(self, values: Tensor) -> Tensor:
        """Return a contiguous copy on the device between guards of ones, which show when read."""
        fill = 255 if values.dtype == torch.uint8 else -1
        return _between_guards(values.shape, values.dtype, self.device, fill).copy_(values)

    def pack(self, spikes: Tensor, signed: bool, bits: int = 1) -> PackedSpikes:
        return PackedSpikes(self.put(pack(spikes, signed, bits).planes), len(spikes), bits)


@functools.cache
def _emulator(architecture: str, copies: Any) -> Emulator:
    return Emulator(architecture, copies)


def _between_guards(shape: Sequence[int], dtype: torch.dtype, device: Any, fill: int) -> Tensor:
    size = int(np.prod(shape))
    buffer = torch.full((size + 2 * _GUARD,), fill, dtype=dtype, device=device)
    return buffer[_GUARD : _GUARD + size].view(*shape)


class _Poisoned:
    """torch, but memory from `empty` is full of 0xAA.

    What a kernel does not write, and what it writes beside, shows.
    """

    def __init__(self) -> None:
        self.tensors: list[tuple[Tensor, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
        fill = (
            int(np.array(0xAAAAAAAA, np.uint32).astype(np.int32)) if dtype == torch.int32 else 0xAA
        )
        shape = (shape,) if isinstance(shape, int) else shape
        tensor = _between_guards(shape, dtype, device, fill)
        self.tensors.append((tensor, fill))
        return tensor


@contextmanager
def poisoned() -> Iterator[None]:
    """Give `launch` poisoned memory within the block, and check what lies beside it at the end."""
    memory = _Poisoned()
    with mock.patch.object(launch, "torch", memory):
        yield
    for tensor, fill in memory.tensors:
        buffer = tensor.as_strided((tensor.numel() + 2 * _GUARD,), (1,), 0)
        after = buffer[_GUARD + tensor.numel() :]
        assert (buffer[:_GUARD] == fill).all() and (after == fill).all(), (
            "a store outside the tensor"
        )


@dataclass(frozen=True)
class Shape:
    """A layer without its numbers.

    Attributes:
        shortcut: "none", "identity" or "projection", from `sources` channels.
    """

    kernel: int
    stride: int
    inputs: int
    channels: int
    shortcut: str = "none"
    sources: int = 0
    shortcut_stride: int = 1
    shortcut_kernel: int = 1
    groups: int = 1

    def __str__(self) -> str:
        side = f"-{self.shortcut}{self.sources}/{self.shortcut_stride}" if self.sources else ""
        return f"{self.kernel}x{self.kernel}/{self.stride}-{self.inputs}to{self.channels}{side}"


# Every kind of layer, with channels that fill no block.
SHAPES = (
    Shape(3, 1, 5, 3),
    Shape(1, 1, 20, 5),
    Shape(3, 2, 3, 20),
    Shape(3, 1, 3, 5, "identity", 5),
    Shape(3, 1, 4, 10, "identity", 4, 2),
    Shape(3, 2, 3, 5, "projection", 20, 2),
    Shape(1, 1, 4, 6, "projection", 3, 1),
)


def random_layer(
    shape: Shape,
    gen: np.random.Generator,
    neuron: str = "if",
    weights: str = "random",
    rows: int = 3,
    bits: int = 1,
    input_bits: int | None = None,
    source_bits: int | None = None,
) -> SpikingConv:
    """Return a layer whose neurons fire, and none of them always.

    Args:
        bits: of its own spikes, and by default of its inputs'.
        weights: "random", "small" (-1 to 1 with thresholds to match, so that potentials land on
            them), "most" or "least" (all 127 or all -127), "extreme" (127 or -127).
    """

    def draw(low: int, high: int, *size: int) -> Tensor:
        return torch.from_numpy(gen.integers(low, high + 1, size).astype(np.int32))

    def synapses(*size: int) -> Tensor:
        values = draw(-1, 1, *size) if weights == "small" else draw(-127, 127, *size)
        if weights in ("most", "least"):
            values[:] = 127 if weights == "most" else -127
        if weights == "extreme":
            values = torch.where(values < 0, -127, 127)
        return values.to(torch.int8)

    c = shape.channels
    inputs = shape.inputs // shape.groups
    size = 3 if weights == "small" else int(127 * (inputs * shape.kernel**2) ** 0.5)
    identity, projection = (shape.shortcut == kind for kind in ("identity", "projection"))
    threshold = draw(max(size // 3, 1), size, c)
    return SpikingConv(
        synapses(c, inputs, shape.kernel, shape.kernel),
        draw(-size // 3, size // 3, rows, c),
        threshold,
        draw(-1, size, c),
        shape.stride,
        shape.kernel // 2,
        neuron,
        draw(-1, size, c) if identity else None,
        synapses(c, shape.sources, *[shape.shortcut_kernel] * 2) if projection else None,
        shape.shortcut_stride,
        (c - shape.sources) // 2 if identity else 0,
        input_bound=2 ** (bits if input_bits is None else input_bits) - 1,
        source_bound=2 ** (bits if source_bits is None else source_bits) - 1,
        bits=bits,
        groups=shape.groups,
    )


def random_spikes(
    gen: np.random.Generator,
    timesteps: int,
    batch: int,
    channels: int,
    size: Sequence[int],
    signed: bool = False,
    rate: float = 0.3,
    bits: int = 1,
) -> Tensor:
    shape = (timesteps, batch, channels, *size)
    spikes = (gen.random(shape) < rate).astype(np.int8) * gen.integers(
        1, 2**bits, shape, dtype=np.int8
    )
    return torch.from_numpy(
        spikes * gen.choice([-1, 1, 1], shape).astype(np.int8) if signed else spikes
    )


def output_size(layer: SpikingConv, size: Sequence[int]) -> tuple[int, int]:
    height, width = (
        (n + 2 * layer.padding - layer.weight.shape[-1]) // layer.stride + 1 for n in size
    )
    return height, width


def source_size(
    shape: Shape, layer: SpikingConv, size: Sequence[int], gen: np.random.Generator
) -> list[int]:
    """Return one of the sizes from which the shortcut makes the layer's."""
    stride, kernel = shape.shortcut_stride, shape.shortcut_kernel
    return [stride * (n - 1) + kernel + int(gen.integers(stride)) for n in output_size(layer, size)]


def random_inputs(
    shape: Shape,
    layer: SpikingConv,
    gen: np.random.Generator,
    timesteps: int,
    batch: int,
    size: Sequence[int],
    signed: bool = False,
    rate: float = 0.3,
) -> tuple[Tensor, Tensor | None]:
    """Return spikes for the layer and for its shortcut."""
    bits, sides = spike_bits(layer)
    x = random_spikes(gen, timesteps, batch, shape.inputs, size, signed, rate, bits)
    if not shape.sources:
        return x, None
    there = source_size(shape, layer, size, gen)
    return x, random_spikes(gen, timesteps, batch, shape.sources, there, signed, rate, sides)


def spike_bits(layer: SpikingConv) -> tuple[int, int]:
    """Return the bits of the spikes of a layer's input and of its shortcut's source."""
    return layer.input_bound.bit_length(), layer.source_bound.bit_length()


def reference(
    layer: SpikingConv, x: Tensor, source: Tensor | None = None
) -> tuple[Tensor, Membrane]:
    membrane = layer.membrane(x.shape[1], *output_size(layer, x.shape[-2:]), len(x))
    return layer.run(x, source, membrane), membrane


def agree(
    layer: SpikingConv,
    membrane: Membrane,
    result: PackedMembrane,
    expected: Tensor,
    windows: Sequence[PackedSpikes],
) -> None:
    """Assert that spikes (with the bits past T), potentials and net spikes are the reference's."""
    begin, signed = 0, layer.neuron == "signed"
    for window in windows:
        part = expected[begin : begin + window.timesteps]
        assert torch.equal(window.planes.cpu(), pack(part, signed, layer.bits).planes), (
            f"spikes from timestep {begin}"
        )
        begin += window.timesteps
    assert begin == len(expected) == result.t
    assert result.v is not None and torch.equal(
        result.v.cpu(), membrane.v.permute(0, 2, 3, 1).int()
    )
    if signed:
        assert result.emitted is not None and membrane.emitted is not None
        assert torch.equal(result.emitted.cpu(), membrane.emitted.permute(0, 2, 3, 1).int())


def check(
    backend: Backend,
    layer: SpikingConv,
    x: Tensor,
    source: Tensor | None = None,
    *,
    signed: bool = False,
    tile: Tile | None = None,
    windows: Sequence[int] | None = None,
) -> Tensor:
    """Assert that the kernels' spikes, membranes and counts are the reference's; return its spikes.

    Args:
        x: int8 spikes.
        signed: whether the inputs are packed with a set of -1s.
        windows: timesteps of each; by default one of all.
    """
    expected, membrane = reference(layer, x, source)
    result, spikes, begin = PackedMembrane(), [], 0
    counts = backend.put(
        torch.full((*expected.shape[-2:], expected.shape[2]), 7, dtype=torch.int32)
    )
    bits, sides = spike_bits(layer)
    with poisoned():
        fused = backend.layer(layer, tile)
        for steps in windows if windows is not None else [len(x)]:
            part = slice(begin, begin + steps)
            side = None if source is None else backend.pack(source[part], signed, sides)
            spikes.append(
                fused.run(backend.pack(x[part], signed, bits), side, result, counts=counts)
            )
            begin += steps
        agree(layer, membrane, result, expected, spikes)
    fired = (
        expected.abs()
        if layer.bits == 1
        else sum((expected >> bit) & 1 for bit in range(layer.bits))
    )
    assert torch.equal(counts.cpu() - 7, fired.sum((0, 1)).permute(1, 2, 0).int())
    return expected
