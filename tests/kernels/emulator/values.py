"""Integers of 8 to 64 bits in numpy: what PTX's arithmetic instructions compute.

A register holds an unsigned array with a lane a thread, or one number where all threads have the
same. Kinds are PTX's: `u32`, `s32`, `b32` and so on. Sections in `opcodes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .ptx import EmulationError

Value = Any  # np.ndarray of unsigned integers or bools, or such a number

UNSIGNED: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED: dict[int, Any] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
COMPARE: dict[str, Callable[[Value, Value], Value]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def bits_of(kind: str) -> int:
    """Return the width of a kind: 32 of `s32`."""
    return int(kind[1:])


def constant(value: int, bits: int) -> Value:
    """Return a number in two's complement."""
    return UNSIGNED[bits](value & ((1 << bits) - 1))


def typed(value: Value, kind: str) -> Value:
    """Return the value as numbers of a kind, signed or not, from its lowest bits."""
    bits = bits_of(kind)
    if value.dtype.itemsize * 8 != bits:
        value = value.astype(UNSIGNED[bits])
    return value.view(SIGNED[bits]) if kind[0] == "s" else value


def stored(value: Value, bits: int) -> Value:
    """Return a signed or wider result as a register of `bits` holds it."""
    return np.asarray(value).astype(UNSIGNED[bits])


def convert(value: Value, to: str, source: str) -> Value:
    """Return cvt's result: the source's lowest bits, extended by its sign, cut to `to`."""
    wide = typed(value, source).astype(SIGNED[64] if source[0] == "s" else UNSIGNED[64])
    narrow = wide.astype(UNSIGNED[bits_of(to)])
    # An 8-bit result lies in a 16-bit register, extended as its type says.
    if bits_of(to) == 8:
        return typed(narrow, to).astype(SIGNED[16]).view(UNSIGNED[16])
    return narrow


def divide(a: Value, b: Value, kind: str) -> Value:
    """Return the quotient rounded towards zero; a division by zero gives garbage."""
    x, y = typed(a, kind), typed(b, kind)
    if kind[0] == "u":
        return np.where(y == 0, y.dtype.type(0xAA), x // np.where(y == 0, y.dtype.type(1), y))
    zero = y == 0
    y = np.where(zero, y.dtype.type(1), y)
    quotient = x // y
    quotient = quotient + ((quotient * y != x) & ((x < 0) != (y < 0)))
    return stored(np.where(zero, 0xAA, quotient), bits_of(kind))


def remainder(a: Value, b: Value, kind: str) -> Value:
    """Return what the division leaves, of the sign of `a`."""
    bits = bits_of(kind)
    return stored(typed(a, kind) - typed(divide(a, b, kind), kind) * typed(b, kind), bits)


def least(a: Value, b: Value, kind: str) -> Value:
    """Return the smaller one."""
    return stored(np.minimum(typed(a, kind), typed(b, kind)), bits_of(kind))


def greatest(a: Value, b: Value, kind: str) -> Value:
    """Return the larger one."""
    return stored(np.maximum(typed(a, kind), typed(b, kind)), bits_of(kind))


def multiply_low(a: Value, b: Value, kind: str) -> Value:
    """Return the lower half of the product."""
    return typed(a, f"b{bits_of(kind)}") * typed(b, f"b{bits_of(kind)}")


def multiply_wide(a: Value, b: Value, kind: str) -> Value:
    """Return the whole product, in twice the bits."""
    wide = (SIGNED if kind[0] == "s" else UNSIGNED)[2 * bits_of(kind)]
    return stored(typed(a, kind).astype(wide) * typed(b, kind).astype(wide), 2 * bits_of(kind))


def multiply_high(a: Value, b: Value, kind: str) -> Value:
    """Return the upper half of the product."""
    bits = bits_of(kind)
    if bits < 64:
        return (multiply_wide(a, b, kind) >> UNSIGNED[2 * bits](bits)).astype(UNSIGNED[bits])
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    inner, outer = a1 * b0, a0 * b1
    carry = ((a0 * b0 >> half) + (inner & low) + (outer & low)) >> half
    top = a1 * b1 + (inner >> half) + (outer >> half) + carry
    if kind[0] == "s":
        zero = np.uint64(0)
        top = top - np.where(a >> np.uint64(63), b, zero) - np.where(b >> np.uint64(63), a, zero)
    return top


def shift_left(a: Value, amount: Value, bits: int) -> Value:
    """Return a << amount; an amount of `bits` or more leaves nothing."""
    kind = UNSIGNED[bits]
    most = np.minimum(amount, np.uint32(bits - 1)).astype(kind)
    return np.where(amount >= bits, kind(0), a << most)


def shift_right(a: Value, amount: Value, kind: str) -> Value:
    """Return a >> amount, filled with the sign of a signed kind; larger amounts are clamped."""
    bits = bits_of(kind)
    value = typed(a, kind)
    shifted = value >> np.minimum(amount, np.uint32(bits - 1)).astype(value.dtype)
    if kind[0] != "s":
        shifted = np.where(amount >= bits, value.dtype.type(0), shifted)
    return stored(shifted, bits)


def extract(a: Value, position: int, length: int, kind: str) -> Value:
    """Return the bit field of a at a fixed position, extended by its sign in a signed kind."""
    bits = bits_of(kind)
    if length < 1 or position + length > bits:
        raise EmulationError(f"bfe of {length} bits from {position} of {bits}")
    up = a << UNSIGNED[bits](bits - position - length)
    down = typed(up, kind)
    return stored(down >> down.dtype.type(bits - length), bits)


def permute(a: Value, b: Value, selector: Value) -> Value:
    """Return the bytes of a (0 to 3) and b (4 to 7) that each nibble of `selector` picks.

    With a nibble's highest bit set, the picked byte's sign in all its bits.
    """
    result = np.uint32(0)
    for place in range(4):
        nibble = selector >> np.uint32(4 * place) & np.uint32(15)
        shift = (nibble & np.uint32(3)) * np.uint32(8)
        if np.ndim(selector) == 0:
            source = b if nibble & 4 else a
        else:
            source = np.where(nibble & np.uint32(4), b, a)
        byte = source >> shift & np.uint32(255)
        if np.ndim(selector) == 0:
            byte = (byte >> np.uint32(7)) * np.uint32(255) if nibble & 8 else byte
        else:
            byte = np.where(nibble & np.uint32(8), (byte >> np.uint32(7)) * np.uint32(255), byte)
        result = result | byte << np.uint32(8 * place)
    return result
