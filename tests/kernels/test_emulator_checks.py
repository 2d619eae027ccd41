"""What the emulator refuses: wrong kernels that a GPU may run without a word."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import torch

from tests.kernels.emulator import launch
from tests.kernels.emulator.flow import check_wgmma
from tests.kernels.emulator.launch import Emulator
from tests.kernels.emulator.memory import SharedMemory
from tests.kernels.emulator.ptx import EmulationError, Instruction, parse
from tests.kernels.emulator.snippet import run_snippet

# Each thread stores its number at word tid, and %r52 is the address of another warp's word.
STORE = """
    mov.u32 %r50, %tid.x; shl.b32 %r51, %r50, 2; st.shared.b32 [%r51], %r50;
    add.s32 %r53, %r50, 32; and.b32 %r53, %r53, 127; shl.b32 %r52, %r53, 2;"""
COPY = """
    ld.param.b64 %rd1, [snippet_param_0]; mov.u32 %r50, %tid.x; shl.b32 %r51, %r50, 2;
    cvt.u64.u32 %rd2, %r51; add.s64 %rd3, %rd1, %rd2;
    cp.async.ca.shared.global [ %r51 + 0 ], [ %rd3 + 0 ], 4; cp.async.commit_group;"""
OTHER = "add.s32 %r53, %r50, 32; and.b32 %r53, %r53, 127; shl.b32 %r52, %r53, 2;"


def run(text: str, **more: object) -> None:
    run_snippet(text, {"%r1": np.arange(128, dtype=np.uint32)}, [], shared_bytes=512, **more)


@pytest.mark.parametrize(
    "text",
    [
        STORE + "bar.sync 0; ld.shared.b32 %r9, [%r52];",
        STORE + "ld.shared.b32 %r9, [%r51];",
        STORE + "bar.warp.sync 0xffffffff; ld.shared.b32 %r9, [%r51];",
        STORE + "bar.sync 0; ld.shared.b32 %r9, [%r52]; bar.sync 0; st.shared.b32 [%r51], %r1;",
        "st.shared.b32 [0], 7;",  # the same value from every warp
        COPY + "cp.async.wait_group 0; ld.shared.b32 %r9, [%r51];",
        COPY + "cp.async.wait_group 0; bar.sync 0;" + OTHER + "ld.shared.b32 %r9, [%r52];",
    ],
)
def test_what_is_right_passes(text):
    for copies in ("early", "late", "poisoned"):
        run(text, copies=copies)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STORE + "ld.shared.b32 %r9, [%r52];", "race: a warp reads"),
        (STORE + "bar.warp.sync 0xffffffff; ld.shared.b32 %r9, [%r52];", "race: a warp reads"),
        (STORE + "st.shared.b32 [%r52], %r50;", "race: a warp stores where another stores"),
        (
            STORE + "bar.sync 0; ld.shared.b32 %r9, [%r52]; st.shared.b32 [%r51], 3;",
            "race: a warp stores where another reads",
        ),
        # Every warp reads word 0, then the last one writes it: all four readers are noted.
        (
            "st.shared.b32 [0], 7; bar.sync 0; ld.shared.b32 %r9, [0]; mov.u32 %r50, %tid.x;"
            "setp.gt.u32 %p1, %r50, 95; @%p1 st.shared.b32 [0], 8;",
            "race: a warp stores where another reads",
        ),
        ("mov.u32 %r50, %tid.x; st.shared.b32 [0], %r50;", "store different values"),
        ("ld.shared.b32 %r9, [16];", "uninitialized"),
        ("st.shared.b32 [2], 1;", "misaligned"),
        ("st.shared.v2.b32 [4], {%r1, %r1};", "misaligned"),
        ("st.shared.b32 [512], 1;", "out of bounds"),
        ("ld.shared.b32 %r9, [-4];", "out of bounds"),
        (COPY + "ld.shared.b32 %r9, [%r51];", "copy in flight are read"),
        (COPY + "cp.async.wait_group 1; ld.shared.b32 %r9, [%r51];", "copy in flight are read"),
        (COPY + "st.shared.b32 [%r51], 1;", "copy in flight are overwritten"),
        (
            COPY + "cp.async.wait_group 0;" + OTHER + "ld.shared.b32 %r9, [%r52];",
            "race: a warp reads",
        ),
        ("ld.param.b64 %rd1, [snippet_param_0]; ld.global.b32 %r9, [%rd1+512];", "outside every"),
        ("ld.param.b64 %rd1, [snippet_param_0]; ld.global.b32 %r9, [%rd1+-4];", "outside every"),
        ("ld.param.b64 %rd1, [snippet_param_0]; ld.global.b32 %r9, [%rd1+2];", "misaligned"),
        ("ld.param.b64 %rd1, [snippet_param_0]; st.global.b32 [%rd1+512], 1;", "outside every"),
        (
            "ld.param.b64 %rd1, [snippet_param_0]; mov.u32 %r50, %tid.x;"
            "st.global.b32 [%rd1], %r50;",
            "different values at one address",
        ),
        ("cp.async.cg.shared.global [ 0 + 0 ], [ %rd1 + 0 ], 8;", "8 bytes cannot be copied"),
        (
            "mov.u32 %r50, %tid.x; setp.lt.u32 %p1, %r50, 64; @%p1 bra $L__BB0_1; $L__BB0_1: ",
            "differs between threads",
        ),
    ],
)
def test_what_is_wrong_is_refused(text, message):
    with pytest.raises(EmulationError, match=message):
        run(text)


def test_a_branch_that_all_threads_share_is_taken():
    text = """
        mov.b32 %r9, 0; $L__BB0_1: add.s32 %r9, %r9, 3;
        setp.lt.u32 %p1, %r9, 10; @%p1 bra $L__BB0_1;"""
    (result,) = run_snippet(text, {}, ["%r9"])
    assert (result == 12).all()


def test_groups_of_copies_arrive_in_order():
    shared = SharedMemory(1, 128, 512, "late")
    lanes, addresses = np.arange(128), np.arange(128, dtype=np.uint32)
    for group in range(2):
        half = lanes[64 * group : 64 * group + 64]
        shared.copy(half, 4 * addresses, np.full((64, 1), 7 + group, np.uint32))
        shared.commit_copies()
    shared.wait_copies(1)
    assert (shared.words[:64] == 7).all() and not (shared.words[64:] == 8).any()
    shared.wait_copies(0)
    assert (shared.words[64:] == 8).all()


def wgmma(d: str, a: str = "%rd1") -> str:
    return f"wgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {{{d}}}, {a}, %rd2, %p1;"


FENCE, COMMIT = "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;"
WAIT = "wgmma.wait_group.sync.aligned {};"
FOUR, NEXT = "%r1,%r2,%r3,%r4", "%r5,%r6,%r7,%r8"
START = FENCE + wgmma(FOUR) + COMMIT


def code_of(text: str) -> tuple[Instruction, ...]:
    return parse(f".visible .entry k()\n.reqntid 128\n{{\n{text}\nret;\n}}").code


@pytest.mark.parametrize(
    "text",
    [
        START + WAIT.format(0) + "add.s32 %r9, %r1, %r2;",
        START + "add.s32 %r9, %r10, %r11;" + WAIT.format(0),
        # The same accumulators again, and the older of two groups after its wait.
        FENCE + wgmma(FOUR) + wgmma(FOUR) + COMMIT + WAIT.format(0) + "mov.b32 %r9, %r1;",
        START + wgmma(NEXT) + COMMIT + WAIT.format(1) + "mov.b32 %r9, %r1;",
        "$L__BB0_1: " + START + WAIT.format(0) + "@%p2 bra $L__BB0_1; mov.b32 %r9, %r1;",
    ],
)
def test_registers_of_wgmma_that_are_used_rightly(text):
    check_wgmma(code_of(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (START + "add.s32 %r9, %r1, %r2;" + WAIT.format(0), "accumulator in flight"),
        (START + "mov.b32 %r1, 0;" + WAIT.format(0), "accumulator in flight"),
        (START + "@%p2 st.global.b32 [%rd1], %r4;", "accumulator in flight"),
        (START + wgmma(NEXT) + COMMIT + WAIT.format(1) + "mov.b32 %r9, %r5;", "in flight"),
        # A wait reaches only groups that are committed.
        (FENCE + wgmma(FOUR) + WAIT.format(0) + "mov.b32 %r9, %r1;", "accumulator in flight"),
        (START + wgmma(NEXT, "{%r1,%r2,%r3,%r4}"), "as A"),
        (
            FENCE + wgmma(FOUR, "{%r11,%r12,%r13,%r14}") + COMMIT + "mov.b32 %r13, 0;",
            "overwrites the A",
        ),
        (wgmma(FOUR) + COMMIT, "no wgmma.fence"),
        (START + WAIT.format(0) + wgmma(FOUR), "no wgmma.fence"),
        # Only by the way back of the loop.
        ("$L__BB0_1: mov.b32 %r9, %r1;" + START + "@%p2 bra $L__BB0_1;", "in flight"),
        (FENCE + "$L__BB0_1: " + wgmma(FOUR) + COMMIT + WAIT.format(0) + "bra $L__BB0_1;", "fence"),
        # Only by one of two ways.
        (START + "@%p2 bra $L__BB0_1;" + WAIT.format(0) + "$L__BB0_1: mov.b32 %r9, %r1;", "flight"),
    ],
)
def test_registers_of_wgmma_that_are_used_wrongly(text, message):
    with pytest.raises(EmulationError, match=message):
        check_wgmma(code_of(text))


# B of 8 columns at 0: 256 bytes, of which each thread stores two.
B = """
    mov.u32 %r50, %tid.x; shl.b32 %r51, %r50, 1; cvt.u16.u32 %rs1, %r50;
    st.shared.b16 [%r51], %rs1; mov.b64 %rd2, {fields}; mov.pred %p1, 0;
""".replace("{fields}", str(128 >> 4 << 16 | 256 >> 4 << 32))
SPREAD = "{%r11,%r12,%r13,%r14}"
PROXY, BARRIER = "fence.proxy.async.shared::cta;", "bar.sync 0;"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (B + PROXY + BARRIER + FENCE + wgmma(FOUR, SPREAD) + COMMIT + WAIT.format(0), None),
        (B + BARRIER + FENCE + wgmma(FOUR, SPREAD), "without a proxy fence"),
        (B + PROXY + FENCE + wgmma(FOUR, SPREAD), "since the last barrier"),
        ("mov.b64 %rd2, 0; mov.pred %p1, 0;" + FENCE + wgmma(FOUR, SPREAD), "uninitialized"),
        (
            B + PROXY + BARRIER + FENCE + wgmma(FOUR, SPREAD) + COMMIT + "st.shared.b16 [%r51], 0;",
            "while a wgmma may read",
        ),
        (
            B
            + PROXY
            + BARRIER
            + FENCE
            + wgmma(FOUR, SPREAD)
            + COMMIT
            + WAIT.format(0)
            + BARRIER
            + "st.shared.b16 [%r51], 0;",
            None,
        ),
    ],
)
def test_operands_of_wgmma_in_shared_memory(text, message):
    if message is None:
        run(text)
    else:
        with pytest.raises(EmulationError, match=message):
            run(text)


@pytest.mark.parametrize("version", ["3.6.0", "3.10.0", "4.0.0"])
def test_another_triton_is_refused(version, monkeypatch):
    monkeypatch.setattr(launch, "version", lambda name: version)
    with pytest.raises(EmulationError, match=f"made for the PTX of triton 3.9, not {version}"):
        Emulator("sm_80")


def test_no_triton_is_refused(monkeypatch):
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(launch, "version", version)
    with pytest.raises(EmulationError, match="needs triton"):
        Emulator("sm_80")


@pytest.mark.skipif(bool(launch.why_not()), reason=launch.why_not() or "runs")
def test_other_architectures_are_refused():
    with pytest.raises(EmulationError, match="sm_100 is not emulated"):
        Emulator("sm_100")


@pytest.mark.skipif(bool(launch.why_not()), reason=launch.why_not() or "runs")
def test_other_models_of_copies_are_refused():
    with pytest.raises(EmulationError, match="not 'never'"):
        Emulator("sm_80", copies="never")


def test_a_kernel_without_a_fixed_number_of_threads_is_refused():
    with pytest.raises(EmulationError, match="reqntid"):
        parse(".visible .entry k()\n{\nret;\n}")


def test_segments_are_the_tensors_own_bytes():
    from tests.kernels.emulator.memory import Segment

    tensor = torch.arange(100, dtype=torch.uint8)[3:50]
    segment = Segment.of(tensor)
    assert segment.end - segment.start == 47
    at = segment.start - segment.origin
    assert np.array_equal(segment.data[at : at + 47], tensor.numpy())
    segment.data[at] = 99
    assert tensor[0] == 99
