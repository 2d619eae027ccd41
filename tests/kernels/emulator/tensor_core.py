"""The int8 matrix products of mma.sync and wgmma: fragments in registers, operands in memory.

Sections "Matrix Fragments for mma.m16n8k32" and "Asynchronous Warpgroup Level Matrix Instructions"
of the PTX ISA. In a warp, lane 4 g + t is thread t of group g. Products of int8 over K = 32 are
below 2**24, so float32 computes them exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .ptx import EmulationError
from .values import Value

SWIZZLE = {1: 128, 2: 64, 3: 32}  # bytes of a row, by the layout type of a descriptor


def rows_of_a(registers: Sequence[Value]) -> Value:
    """Return A as float32 `[warps, 16, 32]`.

    Register i of a lane holds row g + 8 (i % 2), columns 16 (i // 2) + 4 t to + 3.
    """
    result = np.empty((len(registers[0]) // 32, 16, 32), np.float32)
    for i, register in enumerate(registers):
        fragment = np.ascontiguousarray(register).view(np.int8).reshape(-1, 8, 16)
        row, column = 8 * (i % 2), 16 * (i // 2)
        result[:, row : row + 8, column : column + 16] = fragment
    return result


def columns_of_b(registers: Sequence[Value]) -> Value:
    """Return B transposed as float32 `[warps, 8, 32]`.

    Register i of a lane holds column g, rows 16 i + 4 t to + 3.
    """
    result = np.empty((len(registers[0]) // 32, 8, 32), np.float32)
    for i, register in enumerate(registers):
        fragment = np.ascontiguousarray(register).view(np.int8).reshape(-1, 8, 16)
        result[:, :, 16 * i : 16 * i + 16] = fragment
    return result


def mma_m16n8k32(a: Sequence[Value], b: Sequence[Value], c: Sequence[Value]) -> list[Value]:
    """Return the four registers of A B + C with .satfinite: sums are clamped to int32.

    Register i of a lane holds row g + 8 (i // 2), column 2 t + i % 2.
    """
    product = np.matmul(rows_of_a(a), columns_of_b(b).transpose(0, 2, 1)).astype(np.int64)
    result = []
    for i, addend in enumerate(c):
        row = 8 * (i // 2)
        part = product[:, row : row + 8, i % 2 :: 2].reshape(-1)
        total = part + addend.view(np.int32)
        result.append(np.clip(total, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint32))
    return result


def wgmma_k32(a: Value, b: Value, d: Sequence[Value], scale: Value) -> list[Value]:
    """Return the registers of A B + D, or of A B where `scale` is false; sums wrap.

    Register i of a lane of warp w holds row 16 w + g + 8 (i // 2 % 2), column 8 (i // 4) + 2 t +
    i % 2.

    Args:
        a: int8 `[warpgroups, 64, 32]`, or float32.
        b: int8 `[warpgroups, N, 32]`, transposed.
        d: N / 2 registers.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    product = np.matmul(a, b.transpose(0, 2, 1)).astype(np.int32)
    product = product.reshape(len(a), 4, 16, b.shape[1])
    result = []
    for i, accumulator in enumerate(d):
        row, column = 8 * (i // 2 % 2), 8 * (i // 4) + i % 2
        part = product[:, :, row : row + 8, column : column + 7 : 2]
        part = part.reshape(-1).view(np.uint32)
        result.append(part + np.where(scale, accumulator, np.uint32(0)))
    return result


def descriptor_index(descriptor: Value, rows: int, size: int) -> Value:
    """Return where an operand of wgmma lies in shared memory, `[warpgroups, rows, 32]` of bytes.

    Section "Matrix Descriptor Format" and "Shared Memory Matrix Layout", K-major. Bits 0-13 start,
    16-29 and 32-45 the byte offsets in the leading and in the stride dimension, each divided by
    16; 49-51 the base offset; 62-63 the swizzle.

    Args:
        descriptor: uint64 `[warpgroups]`.
        size: bytes of a program's shared memory.

    Raises:
        EmulationError: the operand leaves that memory, or has a layout that is not known.
    """
    if (descriptor >> np.uint64(49) & np.uint64(7)).any():
        raise EmulationError("a wgmma descriptor with a base offset is not known")
    layout = descriptor >> np.uint64(62)
    if (layout != layout[0]).any():
        raise EmulationError("wgmma descriptors of several layouts are not known")

    def offset(bit: int) -> Value:
        field = descriptor >> np.uint64(bit) & np.uint64(0x3FFF)
        return (field << np.uint64(4)).astype(np.int64)[:, None, None]

    start, leading, stride = offset(0), offset(16), offset(32)
    row, k = np.arange(rows)[None, :, None], np.arange(32)[None, None, :]
    if not int(layout[0]):
        at = start + row // 8 * stride + k // 16 * leading + row % 8 * 16 + k % 16
    else:
        width = SWIZZLE[int(layout[0])]
        at = start + row // 8 * stride + row % 8 * width + k
        # Groups of 16 bytes are exchanged by the bits of the row: address bits 4.. with 7..
        at = at ^ (at >> 7 & width // 16 - 1) << 4
    if at.max() >= size:
        raise EmulationError("an operand of wgmma lies beyond shared memory")
    return at
