"""Fragments of mma.sync and wgmma, and wgmma's operands in memory, by the tables of the PTX ISA."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.emulator import tensor_core
from tests.kernels.emulator.ptx import EmulationError
from tests.kernels.emulator.snippet import run_snippet


def int8s(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def fragments(matrix: np.ndarray, places, elements: int) -> list[np.ndarray]:
    """Return registers of four int8 each; `places(lane, i)` is where element i of a lane lies."""
    lanes = range(32)
    values = [[matrix[places(lane, i)] for i in range(elements)] for lane in lanes]
    flat = np.array(values, np.int8).view(np.uint32)
    return [np.ascontiguousarray(flat[:, i]) for i in range(elements // 4)]


def place_of_a(lane: int, i: int) -> tuple[int, int]:
    """Matrix fragments for mma.m16n8k32, multiplicand A, .s8: row and column of a_i."""
    group, thread = lane >> 2, lane % 4
    row = group if i < 4 or 8 <= i < 12 else group + 8
    column = thread * 4 + (i & 3) if i < 8 else thread * 4 + (i & 3) + 16
    return row, column


def place_of_b(lane: int, i: int) -> tuple[int, int]:
    """The same for multiplicand B: row and column of b_i."""
    group, thread = lane >> 2, lane % 4
    return (thread * 4 + (i & 3) if i < 4 else thread * 4 + (i & 3) + 16), group


def place_of_c(lane: int, i: int) -> tuple[int, int]:
    """The same for accumulators C and D: row and column of c_i."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def place_of_d(thread: int, i: int) -> tuple[int, int]:
    """wgmma's accumulator m64nN: row and column of d_i of a thread of the warpgroup."""
    warp, lane = thread // 32, thread % 32
    row = 16 * warp + lane // 4 + (8 if i // 2 % 2 else 0)
    return row, 8 * (i // 4) + lane % 4 * 2 + i % 2


def full_warps(registers: list[np.ndarray], copies: int = 4) -> list[np.ndarray]:
    return [np.tile(register, copies) for register in registers]


def test_mma():
    a, b = int8s((16, 32), 0), int8s((32, 8), 1)
    gen = np.random.default_rng(2)
    c = gen.integers(-(2**31), 2**31, (16, 8))
    c[:4] //= 2**12
    c[5], c[6] = 2**31 - 1, -(2**31)
    exact = a.astype(np.int64) @ b.astype(np.int64) + c
    expected = np.clip(exact, -(2**31), 2**31 - 1)  # .satfinite
    assert (expected != exact).any()
    accumulators = [
        np.array([c[place_of_c(lane, i)] for lane in range(32)]).astype(np.int32).view(np.uint32)
        for i in range(4)
    ]
    registers = fragments(a, place_of_a, 16) + fragments(b, place_of_b, 8) + accumulators
    inputs = {f"%r{1 + i}": values for i, values in enumerate(full_warps(registers))}
    text = (
        "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32 "
        "{%r11,%r12,%r13,%r14}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r7,%r8,%r9,%r10};"
    )
    results = run_snippet(text, inputs, [f"%r{i}" for i in range(11, 15)])
    for i, result in enumerate(results):
        for lane in range(128):
            assert result.view(np.int32)[lane] == expected[place_of_c(lane % 32, i)]


def swizzled(row: int, k: int, width: int, stride: int, leading: int) -> int:
    """Where a byte of a K-major operand lies from its start, by the ISA's figures.

    Without swizzle, blocks of 8 rows x 16 bytes. With it, 8 rows of `width` bytes, in which groups
    of 16 bytes are permuted: by the row (128 bytes), half the row (64), a quarter (32).
    """
    if not width:
        return row // 8 * stride + k // 16 * leading + row % 8 * 16 + k % 16
    permuted = k // 16 ^ row % 8 * width // 128
    return row // 8 * stride + row % 8 * width + permuted * 16 + k % 16


@pytest.mark.parametrize(("layout", "width"), [(0, 0), (1, 128), (2, 64), (3, 32)])
def test_operands_in_memory(layout, width):
    start, leading, stride, rows = 2048, 128, 1024 if width == 128 else 512, 32
    descriptor = start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | layout << 62
    index = tensor_core.descriptor_index(np.array([descriptor], np.uint64), rows, 1 << 14)
    for row in range(rows):
        for k in range(32):
            place = start + swizzled(row, k, width, stride, leading)
            assert index[0, row, k] == place


@pytest.mark.parametrize("k", [0, 32, 64, 96])
def test_steps_along_k_within_a_swizzled_row(k):
    """A later block of K begins within the row; its bytes are where those of the whole row are."""
    descriptor = np.array([(4096 + k) >> 4 | 1024 >> 4 << 32 | 1 << 62], np.uint64)
    index = tensor_core.descriptor_index(descriptor, 16, 1 << 14)
    for row in range(16):
        for step in range(32):
            assert index[0, row, step] == 4096 + swizzled(row, k + step, 128, 1024, 0)


@pytest.mark.parametrize(
    ("descriptors", "message"),
    [
        ([1 << 49], "base offset"),
        ([0, 1 << 62], "several layouts"),
        ([0x3FFF], "beyond shared memory"),
    ],
)
def test_descriptors_that_are_refused(descriptors, message):
    with pytest.raises(EmulationError, match=message):
        tensor_core.descriptor_index(np.array(descriptors, np.uint64), 8, 1 << 14)


def wgmma_text(n: int, a: str, count: int, scale: int) -> str:
    """Return a product whose B lies at 0 of shared memory, unswizzled; B is stored first."""
    d = ",".join(f"%r{100 + i}" for i in range(count))
    return f"""
        mov.pred %p1, {scale};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n{n}k32.s32.s8.s8 {{{d}}}, {a}, %rd1, %p1;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"""


@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize("in_registers", [True, False])
@pytest.mark.parametrize("n", [8, 16, 32, 64, 128])
def test_wgmma(n, in_registers, scale):
    a, b = int8s((64, 32), n), int8s((n, 32), 1)  # B transposed
    d = np.random.default_rng(0).integers(0, 2**32, (n // 2, 128), dtype=np.uint32)

    # Unswizzled: 8 rows x 16 bytes are 128 contiguous bytes; the next 16 of K 128 bytes further.
    def laid_out(matrix: np.ndarray) -> np.ndarray:
        blocks = matrix.reshape(-1, 8, 2, 16).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(blocks).reshape(-1).view(np.uint32)

    words = np.concatenate([laid_out(b), laid_out(a)])
    words = np.concatenate([words, np.zeros(-len(words) % 128, np.uint32)]).reshape(-1, 128)
    inputs = {f"%r{1 + i}": row for i, row in enumerate(words)}
    stores = "".join(f"st.shared.b32 [%r91+{512 * i}], %r{1 + i};" for i in range(len(words)))
    fields = 128 >> 4 << 16 | 256 >> 4 << 32
    left = "{%r60,%r61,%r62,%r63}" if in_registers else "%rd2"
    if in_registers:
        warps = [fragments(a[16 * warp : 16 * warp + 16], place_of_a, 16) for warp in range(4)]
        for i in range(4):
            inputs[f"%r{60 + i}"] = np.concatenate([warp[i] for warp in warps])
    inputs |= {f"%r{100 + i}": row for i, row in enumerate(d)}
    text = f"""
        mov.u32 %r90, %tid.x; shl.b32 %r91, %r90, 2; {stores}
        mov.b64 %rd1, {fields}; mov.b64 %rd2, {fields | 32 * n >> 4};
        fence.proxy.async.shared::cta; bar.sync 0; {wgmma_text(n, left, n // 2, scale)}"""
    names = [f"%r{100 + i}" for i in range(n // 2)]
    results = run_snippet(text, inputs, names, shared_bytes=512 * len(words))
    product = a.astype(np.int64) @ b.T.astype(np.int64)
    for i, result in enumerate(results):
        for thread in range(128):
            total = int(product[place_of_d(thread, i)]) + (int(d[i, thread]) if scale else 0)
            assert int(result[thread]) == total % 2**32
