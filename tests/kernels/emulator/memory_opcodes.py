"""The part of `opcodes.TABLE` that touches memory, the tensor cores and other threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import tensor_core, values
from .opcodes import Line, Step, opcode
from .ptx import EmulationError
from .values import UNSIGNED, Value

if TYPE_CHECKING:
    from .program import Machine

_MOVE = "Data Movement and Conversion Instructions"
_COPY = f"{_MOVE}: Asynchronous copy"
_WARPGROUP = "Asynchronous Warpgroup Level Matrix Instructions"
_BARRIER = "Parallel Synchronization and Communication Instructions"
_KIND = r"(?P<kind>[bus](8|16|32|64))"
_VECTOR = r"(\.v[24])?"


def _unguarded(line: Line) -> None:
    if line.instruction.guard is not None:
        raise EmulationError(f"{line.instruction}: a guard is not known here")


def _register_kind(line: Line) -> str:
    """Return the kind of the registers of a load or store: 8 bits lie in a 16-bit register."""
    return f"b{max(16, values.bits_of(line.kind))}"


@opcode("ld.param", rf"ld\.param\.{_KIND}", f"{_MOVE}: ld")
def _ld_param(line: Line) -> Step:
    _unguarded(line)
    name, kind, target = line.operands[1].strip("[] "), line.kind, line.target()
    index = line.slots.parameters.index(name)
    bits = line.slots.bits(line.operands[0])

    def step(machine: Machine) -> None:
        value = machine.parameters[index]
        machine.registers[target] = values.convert(value, f"{kind[0]}{bits}", kind)

    return step


@opcode("ld.global", rf"ld\.global{_VECTOR}\.{_KIND}", f"{_MOVE}: ld")
def _ld_global(line: Line) -> Step:
    return _load(line, "b64", lambda machine: machine.memory)


@opcode("ld.shared", rf"ld\.shared{_VECTOR}\.{_KIND}", f"{_MOVE}: ld")
def _ld_shared(line: Line) -> Step:
    return _load(line, "b32", lambda machine: machine.shared)


def _load(line: Line, address_kind: str, memory: Any) -> Step:
    targets, address, guard = line.vector(0), line.address(1, address_kind), line.guard()
    width, register = values.bits_of(line.kind) // 8, UNSIGNED[values.bits_of(_register_kind(line))]
    sign = line.kind[0] == "s" and width == 1

    def step(machine: Machine) -> None:
        where = machine.lanes(guard(machine))
        parts = memory(machine).load(where, machine.full(address(machine)), width, len(targets))
        for target, part in zip(targets, parts, strict=True):
            part = part.view(np.int8).astype(np.int16).view(np.uint16) if sign else part
            if len(where) == machine.count:
                machine.registers[target] = part.astype(register)
            else:
                result = np.array(machine.full(machine.registers[target]), register)
                result[where] = part
                machine.registers[target] = result

    return step


@opcode("st.global", rf"st\.global{_VECTOR}\.{_KIND}", f"{_MOVE}: st")
def _st_global(line: Line) -> Step:
    return _store(line, "b64", lambda machine: machine.memory)


@opcode("st.shared", rf"st\.shared{_VECTOR}\.{_KIND}", f"{_MOVE}: st")
def _st_shared(line: Line) -> Step:
    return _store(line, "b32", lambda machine: machine.shared)


def _store(line: Line, address_kind: str, memory: Any) -> Step:
    address, guard = line.address(0, address_kind), line.guard()
    sources, width = line.vector(1, _register_kind(line)), values.bits_of(line.kind) // 8

    def step(machine: Machine) -> None:
        where = machine.lanes(guard(machine))
        parts = [machine.full(machine.registers[source])[where] for source in sources]
        memory(machine).store(where, machine.full(address(machine)), width, parts)

    return step


@opcode(
    "atom",
    r"atom\.global(\.gpu)?(\.acq_rel|\.relaxed)?(\.gpu)?\.add\.(?P<kind>[us]32)",
    f"{_BARRIER}: atom",
)
def _atom(line: Line) -> Step:
    """The old value is given as garbage: Triton's code for these kernels never reads it."""
    target = line.target()
    add = _atomic_add(line, 1)

    def step(machine: Machine) -> None:
        add(machine)
        machine.registers[target] = np.uint32(0xAAAAAAAA)

    return step


@opcode(
    "red",
    r"red\.global(\.gpu)?(\.acq_rel|\.relaxed)?(\.gpu)?\.add\.(?P<kind>[us]32)",
    f"{_BARRIER}: red",
)
def _red(line: Line) -> Step:
    return _atomic_add(line, 0)


def _atomic_add(line: Line, first: int) -> Step:
    address, guard = line.address(first, "b64"), line.guard()
    source = line.source(first + 1)

    def step(machine: Machine) -> None:
        where = machine.lanes(guard(machine))
        value = machine.full(machine.registers[source])[where]
        machine.memory.add(where, machine.full(address(machine)), value)

    return step


@opcode(
    "cp.async",
    r"cp\.async\.(?P<cache>ca|cg)\.shared\.global",
    f"{_COPY}: cp.async",
)
def _cp_async(line: Line) -> Step:
    to, source, guard = line.address(0, "b32"), line.address(1, "b64"), line.guard()
    size = line.number(2)
    read = line.source(3) if len(line.operands) > 3 else None
    if size not in ((16,) if line.match["cache"] == "cg" else (4, 8, 16)):
        raise EmulationError(f"{line.instruction}: {size} bytes cannot be copied")

    def step(machine: Machine) -> None:
        where = machine.lanes(guard(machine))
        rows = np.zeros((machine.count, size // 4), np.uint32)
        reads = where
        if read is not None:
            length = machine.full(machine.registers[read])
            if not np.isin(length[where], (0, size)).all():
                raise EmulationError("cp.async of a part of its bytes is not known")
            reads = where[length[where] == size]
        addresses = machine.full(source(machine))
        if len(reads) and (addresses[reads] % np.uint64(size)).any():
            raise EmulationError(f"cp.async of {size} bytes from a misaligned address")
        for i, word in enumerate(machine.memory.load(reads, addresses, 4, size // 4)):
            rows[reads, i] = word
        machine.shared.copy(where, machine.full(to(machine)), rows[where])

    return step


# The modifiers belong to other entries of the table: `look_up` tries the first two words only.
@opcode("cp", r"cp\.async\.(commit_group|wait_group)", f"{_COPY}: commit_group, wait_group")
def _cp_group(line: Line) -> Step:
    _unguarded(line)
    if line.instruction.opcode.endswith("commit_group"):
        return lambda machine: machine.shared.commit_copies()
    most = line.number(0)
    return lambda machine: machine.shared.wait_copies(most)


@opcode(
    "ldmatrix",
    r"ldmatrix\.sync\.aligned\.m8n8\.x[124]\.shared\.b16",
    "Warp Level Matrix Instructions: ldmatrix",
)
def _ldmatrix(line: Line) -> Step:
    _unguarded(line)
    targets, address = line.vector(0), line.address(1, "b32")

    def step(machine: Machine) -> None:
        parts = machine.shared.load_rows(machine.full(address(machine)), len(targets))
        for target, part in zip(targets, parts, strict=True):
            machine.registers[target] = part

    return step


@opcode(
    "stmatrix",
    r"stmatrix\.sync\.aligned\.m8n8\.x[124]\.shared\.b16",
    "Warp Level Matrix Instructions: stmatrix",
)
def _stmatrix(line: Line) -> Step:
    _unguarded(line)
    sources, address = line.vector(1), line.address(0, "b32")

    def step(machine: Machine) -> None:
        parts = [machine.full(machine.registers[source]) for source in sources]
        machine.shared.store_rows(machine.full(address(machine)), parts)

    return step


@opcode(
    "mma",
    r"mma\.sync\.aligned\.m16n8k32\.row\.col\.satfinite\.s32\.s8\.s8\.s32",
    "Warp Level Matrix Instructions: mma",
)
def _mma(line: Line) -> Step:
    _unguarded(line)
    d, a, b, c = (line.vector(i) for i in range(4))

    def step(machine: Machine) -> None:
        parts = tensor_core.mma_m16n8k32(machine.all(a), machine.all(b), machine.all(c))
        for target, part in zip(d, parts, strict=True):
            machine.registers[target] = part

    return step


@opcode(
    "wgmma.mma_async",
    r"wgmma\.mma_async\.sync\.aligned\.m64n(?P<n>\d+)k32\.s32\.s8\.s8",
    f"{_WARPGROUP}: wgmma.mma_async",
)
def _wgmma(line: Line) -> Step:
    _unguarded(line)
    n, d, scale = int(line.match["n"]), line.vector(0), line.source(3, "pred")
    in_registers = line.operands[1].startswith("{")
    a, b = line.vector(1, "b32" if in_registers else "b64"), line.source(2, "b64")
    if len(d) != n // 2:
        raise EmulationError(f"{line.instruction}: {len(d)} accumulators for N = {n}")

    def step(machine: Machine) -> None:
        if in_registers:
            left = tensor_core.rows_of_a(machine.all(a)).reshape(-1, 64, 32)
        else:
            left = _operand(machine, machine.registers[a[0]], 64)
        right = _operand(machine, machine.registers[b], n)
        condition = machine.full(machine.registers[scale])
        parts = tensor_core.wgmma_k32(left, right, machine.all(d), condition)
        for target, part in zip(d, parts, strict=True):
            machine.registers[target] = part

    return step


def _operand(machine: Machine, descriptor: Value, rows: int) -> Value:
    """Return the int8 matrix `[warpgroups, rows, 32]` behind a descriptor."""
    each = machine.full(descriptor).reshape(-1, 128)
    if (each != each[:, :1]).any():
        raise EmulationError("a wgmma descriptor differs within a warpgroup")
    shared = machine.shared
    index = tensor_core.descriptor_index(each[:, 0], rows, shared.size)
    index = index + shared.base.reshape(-1, 128)[:, :1, None]
    return shared.operand(index).view(np.int8)


@opcode("wgmma", r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned", f"{_WARPGROUP}: wgmma")
def _wgmma_group(line: Line) -> Step:
    """`flow` checks what fences and waits do to registers; here they free shared memory."""
    _unguarded(line)
    what = line.instruction.opcode.split(".")[1]
    if what == "fence":
        return lambda machine: None
    if what == "commit_group":
        return lambda machine: machine.shared.commit_wgmma()
    most = line.number(0)
    return lambda machine: machine.shared.wait_wgmma(most)


@opcode("fence", r"fence\.proxy\.async(\.shared::cta)?", f"{_BARRIER}: fence.proxy.async")
def _fence(line: Line) -> Step:
    _unguarded(line)
    return lambda machine: machine.shared.fence()


@opcode("bar.sync", r"bar\.sync", f"{_BARRIER}: bar.sync")
def _bar_sync(line: Line) -> Step:
    _unguarded(line)
    if line.number(0) != 0 or len(line.operands) > 1:
        raise EmulationError(f"{line.instruction}: only barrier 0 of all threads is known")
    return lambda machine: machine.shared.barrier()


@opcode("bar.warp", r"bar\.warp\.sync", f"{_BARRIER}: bar.warp.sync")
def _bar_warp(line: Line) -> Step:
    """Threads of a warp are in lockstep here, so nothing waits."""
    if line.number(0) & 0xFFFFFFFF != 0xFFFFFFFF:
        raise EmulationError(f"{line.instruction}: only whole warps are known")
    return lambda machine: None
