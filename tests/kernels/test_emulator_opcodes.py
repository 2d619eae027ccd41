"""Every instruction of the emulator against a model in plain integers, on random inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from tests.kernels.emulator import program  # noqa: F401  it fills the table
from tests.kernels.emulator.opcodes import TABLE
from tests.kernels.emulator.ptx import EmulationError
from tests.kernels.emulator.snippet import run_snippet

LETTER = {16: "rs", 32: "r", 64: "rd"}


def signed(value: int, bits: int) -> int:
    """Return the lowest bits as a signed number."""
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value


def number(value: int, kind: str) -> int:
    """Return the value as an integer of a kind."""
    bits = int(kind[1:])
    return signed(value, bits) if kind[0] == "s" else value & (2**bits - 1)


def quotient(a: int, b: int) -> int:
    """Return a / b rounded towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@dataclass(frozen=True)
class Case:
    """An instruction of registers 1, 2 and 3 into register 9, and its model.

    Attributes:
        widths: bits of the sources; 1 for a predicate.
        result: bits of the result; 1 for a predicate.
        last: what stands for the last source, a number in the text.
    """

    opcode: str
    widths: tuple[int, ...]
    result: int
    model: Callable[..., int]
    last: int | tuple[int, ...] | None = None

    def __str__(self) -> str:
        return self.opcode + ("" if self.last is None else f" {self.last}")


def two(name: str, kind: str, model: Callable[[int, int], int]) -> Case:
    """Return a case of two sources and a result of one kind."""
    bits = int(kind[1:])
    return Case(
        f"{name}.{kind}",
        (bits, bits),
        bits,
        lambda a, b: model(number(a, kind), number(b, kind)),
    )


def shifted(kind: str) -> Case:
    bits = int(kind[1:])
    return Case(f"shr.{kind}", (bits, 32), bits, lambda a, n: number(a, kind) >> min(n, bits))


def product(part: str, kind: str, add: bool = False) -> Case:
    bits = int(kind[1:])
    wide = 2 * bits if part == "wide" else bits
    skip = bits if part == "hi" else 0

    def model(a: int, b: int, c: int = 0) -> int:
        return (number(a, kind) * number(b, kind) >> skip) + c

    name = "mad" if add else "mul"
    return Case(f"{name}.{part}.{kind}", (bits, bits, wide)[: 2 + add], wide, model)


def field(kind: str, position: int, length: int) -> Case:
    bits = int(kind[1:])

    def model(a: int) -> int:
        part = a >> position & (2**length - 1)
        return signed(part, length) if kind[0] == "s" else part

    return Case(f"bfe.{kind}", (bits,), bits, model, (position, length))


def converted(to: str, kind: str) -> Case:
    bits, have = max(int(to[1:]), 16), max(int(kind[1:]), 16)

    def model(a: int) -> int:
        return number(number(a, kind), to)

    return Case(f"cvt.{to}.{kind}", (have,), bits, model)


def picked(selector: int) -> Case:
    def model(a: int, b: int) -> int:
        pool = (a | b << 32).to_bytes(8, "little")
        result = 0
        for place in range(4):
            nibble = selector >> 4 * place & 15
            byte = pool[nibble & 7]
            result |= ((255 if byte >> 7 else 0) if nibble & 8 else byte) << 8 * place
        return result

    return Case("prmt.b32", (32, 32), 32, model, selector)


TESTS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def compared(test: str, kind: str) -> Case:
    bits = int(kind[1:])

    def model(a: int, b: int) -> int:
        return TESTS[test](number(a, kind), number(b, kind))

    return Case(f"setp.{test}.{kind}", (bits, bits), 1, model)


NUMBERS = [f"{sign}{bits}" for sign in "us" for bits in (16, 32, 64)]
CASES = [
    *(two("add", kind, operator.add) for kind in NUMBERS),
    Case(
        "add.s16x2",
        (32, 32),
        32,
        lambda a, b: ((a + b) & 0xFFFF) | (((a >> 16) + (b >> 16) & 0xFFFF) << 16),
    ),
    *(two("sub", kind, operator.sub) for kind in NUMBERS),
    *(two("min", kind, min) for kind in NUMBERS),
    *(two("max", kind, max) for kind in NUMBERS),
    *(two("div", kind, quotient) for kind in NUMBERS),
    *(two("rem", kind, lambda a, b: a - quotient(a, b) * b) for kind in NUMBERS),
    *(two("and", f"b{bits}", operator.and_) for bits in LETTER),
    *(two("or", f"b{bits}", operator.or_) for bits in LETTER),
    *(two("xor", f"b{bits}", operator.xor) for bits in LETTER),
    *(Case(f"not.b{bits}", (bits,), bits, lambda a: ~a) for bits in LETTER),
    *(Case(f"neg.s{bits}", (bits,), bits, lambda a: -a) for bits in LETTER),
    Case("and.pred", (1, 1), 1, operator.and_),
    Case("or.pred", (1, 1), 1, operator.or_),
    Case("xor.pred", (1, 1), 1, operator.xor),
    Case("not.pred", (1,), 1, lambda a: not a),
    *(product(part, kind) for part in ("lo", "hi") for kind in NUMBERS),
    *(product("wide", kind) for kind in NUMBERS if kind[1:] != "64"),
    *(product("lo", kind, add=True) for kind in NUMBERS),
    *(product("wide", kind, add=True) for kind in NUMBERS if kind[1:] != "64"),
    *(Case(f"shl.b{b}", (b, 32), b, lambda a, n, b=b: a << min(n, b)) for b in LETTER),
    *(shifted(kind) for kind in [*NUMBERS, "b16", "b32", "b64"]),
    *(field(kind, *at) for kind in ("u32", "s32") for at in ((0, 32), (3, 7), (31, 1), (0, 1))),
    *(field(kind, *at) for kind in ("u64", "s64") for at in ((0, 64), (30, 9))),
    *(compared(test, kind) for test in TESTS for kind in NUMBERS),
    *(compared(test, f"b{bits}") for test in ("eq", "ne") for bits in LETTER),
    *(Case(f"selp.b{b}", (b, b, 1), b, lambda a, b, c: a if c else b) for b in LETTER),
    *(picked(selector) for selector in (0x3210, 0x5410, 0x7632, 0x0123, 0x8BCF, 0x4444)),
    *(converted(to, kind) for to in NUMBERS for kind in NUMBERS),
    *(converted(to, kind) for to in ("u16", "s16", "u32", "s32") for kind in ("u8", "s8")),
    *(converted(to, kind) for to in ("u8", "s8") for kind in ("u16", "u32", "s32")),
    *(Case(f"mov.b{bits}", (bits,), bits, lambda a: a) for bits in LETTER),
    Case("mov.pred", (1,), 1, lambda a: a),
]


def register(bits: int, index: int) -> str:
    return f"%p{index}" if bits == 1 else f"%{LETTER[bits]}{index}"


def numbers_of(bits: int, gen: np.random.Generator) -> np.ndarray:
    """Return 256 numbers: those at the ends of each kind, small ones, and random ones."""
    if bits == 1:
        return gen.random(256) < 0.5
    ends = [0, 1, 2, 3, 5, 7, 8, 15, 31, 32, 33, 63, 64, 2**bits - 1, 2**bits - 2]
    ends += [2 ** (bits - 1) + skip for skip in (-1, 0, 1)]
    drawn = gen.integers(0, 2**bits - 1, 256, dtype=np.uint64, endpoint=True)
    drawn >>= gen.integers(0, bits, 256).astype(np.uint64)
    drawn[:96] = gen.choice(np.array(ends, np.uint64), 96)
    return drawn.astype(f"u{bits // 8}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_arithmetic(case):
    gen = np.random.default_rng(len(str(case)))
    inputs = {register(b, 1 + i): numbers_of(b, gen) for i, b in enumerate(case.widths)}
    if case.opcode.startswith(("div", "rem")):
        inputs[register(case.widths[1], 2)][inputs[register(case.widths[1], 2)] == 0] = 1
    target = register(case.result, 9)
    sources = [*inputs]
    if case.last is not None:
        last = case.last if isinstance(case.last, tuple) else (case.last,)
        sources += [str(value) for value in last]
    (result,) = run_snippet(f"{case.opcode} {target}, {', '.join(sources)};", inputs, [target])
    rows = zip(*(array.tolist() for array in inputs.values()), strict=True)
    expected = [case.model(*row) & (2**case.result - 1) for row in rows]
    assert result.tolist() == expected


@pytest.mark.parametrize("bits", LETTER)
def test_a_guard_keeps_the_other_lanes(bits):
    gen = np.random.default_rng(bits)
    a, b, p = numbers_of(bits, gen), numbers_of(bits, gen), gen.random(256) < 0.5
    names = [register(bits, i) for i in (1, 2)]
    for mark, chosen in (("@%p3", p), ("@!%p3", ~p)):
        text = f"{mark} xor.b{bits} {names[0]}, {names[0]}, {names[1]};"
        inputs = {names[0]: a, names[1]: b, "%p3": p}
        assert np.array_equal(run_snippet(text, inputs, names[:1])[0], np.where(chosen, a ^ b, a))


@pytest.mark.parametrize("bits", [32, 64])
def test_mov_splits_and_joins(bits):
    whole, half = numbers_of(bits, np.random.default_rng(0)), bits // 2
    a, b = register(half, 1), register(half, 2)
    split = f"mov.b{bits} {{{a}, {b}}}, {register(bits, 3)};"
    text = f"{split} mov.b{bits} {register(bits, 4)}, {{{b}, {a}}};"
    results = run_snippet(text, {register(bits, 3): whole}, [a, b, register(bits, 4)])
    low, high = whole & whole.dtype.type(2**half - 1), whole >> whole.dtype.type(half)
    swapped = high | low << whole.dtype.type(half)
    assert all(np.array_equal(x, y) for x, y in zip(results, (low, high, swapped), strict=True))


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffle(mode):
    gen = np.random.default_rng(0)
    value, amount = numbers_of(32, gen), np.repeat(np.arange(8, dtype=np.uint32), 32)
    clamp = 0 if mode == "up" else 31
    text = f"shfl.sync.{mode}.b32 %r9, %r1, %r2, {clamp}, -1;"
    (result,) = run_snippet(text, {"%r1": value, "%r2": amount}, ["%r9"])
    for i, (warp, lane) in enumerate(divmod(i, 32) for i in range(256)):
        b = int(amount[i])
        source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": b}[mode]
        source = source if 0 <= source < 32 else lane
        assert result[i] == value[32 * warp + source]


@pytest.mark.parametrize("width", [8, 16, 32, 64])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_vectors_in_shared_and_global_memory(width, count):
    """Each thread stores numbers and loads those of the thread 5 further on, after a barrier."""
    if width * count > 128:
        pytest.skip("no access has more than 16 bytes")
    gen, bits = np.random.default_rng(0), max(width, 16)
    inputs = {register(bits, i): numbers_of(bits, gen)[:128] for i in range(1, 1 + count)}
    targets = [register(bits, 11 + i) for i in range(count)]
    each, vector = width * count // 8, f".v{count}" if count > 1 else ""
    text = f"""
        mov.u32 %r50, %tid.x; mul.lo.s32 %r51, %r50, {each};
        st.shared{vector}.b{width} [%r51+256], {{{", ".join(inputs)}}};
        bar.sync 0;
        add.s32 %r52, %r50, 5; and.b32 %r52, %r52, 127; mul.lo.s32 %r52, %r52, {each};
        ld.shared{vector}.b{width} {{{", ".join(targets)}}}, [%r52+256];"""
    results = run_snippet(text, inputs, targets, shared_bytes=256 + 128 * each)
    for source, result in zip(inputs.values(), results, strict=True):
        assert np.array_equal(result, np.roll(source, -5) & source.dtype.type(2**width - 1))


def test_atomic_adds_of_many_threads_at_one_address():
    counts = np.arange(256, dtype=np.uint32)
    addresses = "ld.param.b64 %rd1, [snippet_param_0]; "
    for text in ("red.global.add.u32 [%rd1], 3;", "atom.global.gpu.acq_rel.add.u32 _, [%rd1], 3;"):
        before = counts.copy()
        run_snippet(addresses + text, {"%r1": before}, [])
        assert before[0] == 256 * 3 and np.array_equal(before[1:], counts[1:])


@pytest.mark.parametrize("copies", ["early", "late", "poisoned"])
@pytest.mark.parametrize(("cache", "size"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)])
def test_asynchronous_copies(copies, cache, size):
    """16 words; the second half of the threads copies nothing, and gets zeros."""
    words = numbers_of(32, np.random.default_rng(size))[:128]
    text = f"""
        ld.param.b64 %rd1, [snippet_param_0]; mov.u32 %r50, %tid.x;
        mul.lo.s32 %r51, %r50, {size}; setp.lt.u32 %p1, %r50, {512 // size};
        cvt.u64.u32 %rd2, %r51; add.s64 %rd2, %rd1, %rd2;
        setp.lt.u32 %p2, %r50, {256 // size}; selp.b32 %r53, {size}, 0, %p2;
        @%p1 cp.async.{cache}.shared.global [ %r51 + 0 ], [ %rd2 + 0 ], {size}, %r53;
        cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
        shl.b32 %r52, %r50, 2; ld.shared.b32 %r9, [%r52];"""
    (result,) = run_snippet(text, {"%r1": words}, ["%r9"], shared_bytes=512, copies=copies)
    assert np.array_equal(result, np.where(np.arange(128) < 64, words, 0))


def test_ldmatrix_and_stmatrix():
    """Row r of matrix i lies at lane 8 i + r's address; lane 4 r + t gets columns 2 t, 2 t + 1."""
    values = np.arange(512, dtype=np.uint32).reshape(4, 128)
    stores = " ".join(f"st.shared.b32 [%r60+{512 * i}], %r{1 + i};" for i in range(4))
    text = f"""
        mov.u32 %r50, %tid.x; shl.b32 %r60, %r50, 2; {stores} bar.sync 0;
        and.b32 %r51, %r50, 31; mul.lo.s32 %r52, %r51, 48;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r11, %r12, %r13, %r14}}, [%r52];
        bar.sync 0; shr.u32 %r53, %r50, 5; mad.lo.s32 %r54, %r53, 512, 2048;
        mad.lo.s32 %r54, %r51, 16, %r54;
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r54], {{%r14, %r11, %r12, %r13}};
        bar.sync 0; mad.lo.s32 %r55, %r53, 512, 2048; mad.lo.s32 %r55, %r51, 16, %r55;
        ld.shared.v4.b32 {{%r21, %r22, %r23, %r24}}, [%r55];"""
    inputs = {f"%r{1 + i}": values[i] for i in range(4)}
    names = [f"%r{i}" for i in (11, 12, 13, 14, 21, 22, 23, 24)]
    results = run_snippet(text, inputs, names, shared_bytes=4096)
    flat = values.reshape(-1)
    for lane in range(128):
        row, t = lane % 32 // 4, lane % 4
        for i in range(4):
            assert results[i][lane] == flat[48 // 4 * (8 * i + row) + t]
        # Row `lane` of the matrices stored: matrix lane // 8 is register (lane // 8 - 1) % 4.
        matrix = (lane % 32 // 8 - 1) % 4
        for word in range(4):
            assert results[4 + word][lane] == flat[48 // 4 * (8 * matrix + lane % 8) + word]


# With the tests above that run them.
MEMORY = {
    "ld.param": run_snippet,
    "ld.global": run_snippet,
    "st.global": run_snippet,
    "ld.shared": test_vectors_in_shared_and_global_memory,
    "st.shared": test_vectors_in_shared_and_global_memory,
    "bar.sync": test_vectors_in_shared_and_global_memory,
    "atom": test_atomic_adds_of_many_threads_at_one_address,
    "red": test_atomic_adds_of_many_threads_at_one_address,
    "shfl": test_shuffle,
    "cp": test_asynchronous_copies,
    "cp.async": test_asynchronous_copies,
    "ldmatrix": test_ldmatrix_and_stmatrix,
    "stmatrix": test_ldmatrix_and_stmatrix,
}
# In test_emulator_tensor_core and test_emulator_checks.
ELSEWHERE = {"mma", "wgmma", "wgmma.mma_async", "fence", "bar.warp"}


def test_every_instruction_of_the_table_is_tested_and_names_its_section():
    tested = {case.opcode for case in CASES} & set(TABLE)
    tested |= {case.opcode.split(".")[0] for case in CASES}
    assert tested | set(MEMORY) | ELSEWHERE == set(TABLE)
    assert all(": " in entry.section for entry in TABLE.values())


@pytest.mark.parametrize(
    "text",
    [
        "lop3.b32 %r9, %r1, %r2, %r3, 0x96;",
        "add.f32 %r9, %r1, %r2;",
        "add.sat.s32 %r9, %r1, %r2;",
        "setp.eq.and.b32 %p1, %r1, %r2, %p2;",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};",
        "tcgen05.mma.cta_group::1.kind::i8 [%r1], %rd1, %rd2, %r3, %p1;",
    ],
)
def test_unknown_opcodes_are_refused(text):
    with pytest.raises(EmulationError, match="unknown opcode"):
        run_snippet(text, {"%r1": np.zeros(128, np.uint32)}, [])


@pytest.mark.parametrize(
    "text",
    [
        "bfe.u32 %r9, %r1, %r2, 3;",
        "bfe.u32 %r9, %r1, 30, 3;",
        "bar.sync 1;",
        "bar.sync 0, 64;",
        "bar.warp.sync 0xffff;",
        "shfl.sync.idx.b32 %r9, %r1, 0, 15, -1;",
        "shfl.sync.idx.b32 %r9|%p1, %r1, 0, 31, -1;",
        "mad.wide.u64 %rd9, %rd1, %rd2, %rd3;",
        "@%p1 bar.sync 0;",
        "mov.b64 {%rs1, %rs2, %rs3, %rs4}, %rd1;",
        "add.s32 %f9, %r1, %r1;",
    ],
)
def test_what_is_not_known_of_an_opcode_is_refused(text):
    with pytest.raises(EmulationError):
        run_snippet(text, {"%r1": np.zeros(128, np.uint32)}, [])
