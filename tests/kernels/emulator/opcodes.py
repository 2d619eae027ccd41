"""The table of instructions: how each is written, the section of the PTX ISA, what it computes.

An entry takes an instruction once, when a kernel is translated, and returns the step that carries
it out for all threads at once. Instructions that are not in the table raise EmulationError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import values
from .ptx import EmulationError, Instruction, vector
from .values import Value

if TYPE_CHECKING:
    from .program import Machine, Slots

Step = Callable[["Machine"], None]


@dataclass(frozen=True)
class Opcode:
    """An instruction with the variants that the emulator knows.

    Attributes:
        pattern: of the whole opcode with its modifiers.
        section: where the PTX ISA defines it, by title.
        build: returns the step of one such instruction.
    """

    name: str
    pattern: re.Pattern[str]
    section: str
    build: Callable[[Line], Step]


TABLE: dict[str, Opcode] = {}


class Line:
    """One instruction while it is translated: its operands as slots of the register file."""

    def __init__(
        self, instruction: Instruction, slots: Slots, match: re.Match[str] | None = None
    ) -> None:
        self.instruction, self.slots = instruction, slots
        self.operands = instruction.operands
        self.match: dict[str, str] = match.groupdict("") if match else {}
        self.kind = self.match.get("kind", "b32")

    def source(self, index: int, kind: str | None = None) -> int:
        """Return the slot of an operand that is read; of a number, of the instruction's kind."""
        return self.slots.value(self.operands[index], kind or self.kind)

    def target(self, index: int = 0) -> int:
        """Return the slot of an operand that is written."""
        return self.slots.register(self.operands[index])

    def vector(self, index: int, kind: str | None = None) -> list[int]:
        """Return the slots of a `{vector}` or of one operand."""
        return [self.slots.value(part, kind or self.kind) for part in vector(self.operands[index])]

    def number(self, index: int) -> int:
        """Return an operand that must be a number in the text."""
        text = self.operands[index]
        if text.startswith("%"):
            raise EmulationError(f"{self.instruction}: {text} must be a number")
        return int(text.rstrip("U"), 0)

    def address(self, index: int, kind: str) -> Callable[[Machine], Value]:
        """Return a function that computes an `[address + offset]`."""
        base, _, offset = self.operands[index].strip("[] ").partition("+")
        slot, skip = self.slots.value(base.strip(), kind), int(offset or "0", 0)
        if not skip:
            return lambda machine: machine.registers[slot]
        constant = values.constant(skip, values.bits_of(kind))
        return lambda machine: machine.registers[slot] + constant

    def guard(self) -> Callable[[Machine], Value]:
        """Return a function that gives the threads for which the instruction runs; None is all."""
        if self.instruction.guard is None:
            return lambda machine: None
        slot = self.slots.register(self.instruction.guard)
        if self.instruction.negated:
            return lambda machine: ~machine.registers[slot]
        return lambda machine: machine.registers[slot]

    def write(self, target: int, compute: Callable[[list[Value]], Value]) -> Step:
        """Return a step that writes `compute(registers)`, only where the guard is true."""
        if self.instruction.guard is None:

            def step(machine: Machine) -> None:
                machine.registers[target] = compute(machine.registers)

            return step
        guard = self.guard()

        def guarded(machine: Machine) -> None:
            registers = machine.registers
            registers[target] = np.where(guard(machine), compute(registers), registers[target])

        return guarded


def opcode(name: str, pattern: str, section: str) -> Callable[[Any], Any]:
    """Enter the decorated builder of steps into the table."""

    def enter(build: Callable[[Line], Step]) -> Callable[[Line], Step]:
        assert name not in TABLE
        TABLE[name] = Opcode(name, re.compile(pattern), section, build)
        return build

    return enter


def look_up(instruction: Instruction) -> tuple[Opcode, re.Match[str]]:
    """Return the table's entry for an instruction.

    Raises:
        EmulationError: there is none, or not for these modifiers.
    """
    for name in (".".join(instruction.opcode.split(".")[:2]), instruction.opcode.split(".")[0]):
        entry = TABLE.get(name)
        match = entry and entry.pattern.fullmatch(instruction.opcode)
        if entry and match:
            return entry, match
    raise EmulationError(f"unknown opcode {instruction.opcode!r} in `{instruction}`")


def _enter(name: str, pattern: str, section: str, operands: int, function: Any) -> None:
    """Enter an instruction that computes `function(*operands, kind)` of operands of one kind."""

    @opcode(name, pattern, section)
    def build(line: Line) -> Step:
        sources, kind = [line.source(1 + i) for i in range(operands)], line.kind
        if operands == 1:
            (a,) = sources
            return line.write(line.target(), lambda r: function(r[a], kind))
        a, b = sources
        return line.write(line.target(), lambda r: function(r[a], r[b], kind))


_INTEGER = "Integer Arithmetic Instructions"
_LOGIC = "Logic and Shift Instructions"
_MOVE = "Data Movement and Conversion Instructions"
_ANY = r"(?P<kind>[us](16|32|64))"

_enter("add", rf"add\.{_ANY}", f"{_INTEGER}: add", 2, lambda a, b, kind: a + b)
_enter("sub", rf"sub\.{_ANY}", f"{_INTEGER}: sub", 2, lambda a, b, kind: a - b)
_enter("div", rf"div\.{_ANY}", f"{_INTEGER}: div", 2, values.divide)
_enter("rem", rf"rem\.{_ANY}", f"{_INTEGER}: rem", 2, values.remainder)
_enter("min", rf"min\.{_ANY}", f"{_INTEGER}: min", 2, values.least)
_enter("max", rf"max\.{_ANY}", f"{_INTEGER}: max", 2, values.greatest)
_enter(
    "neg",
    r"neg\.(?P<kind>s(16|32|64))",
    f"{_INTEGER}: neg",
    1,
    lambda a, kind: values.constant(0, values.bits_of(kind)) - a,
)
_BITWISE = r"(?P<kind>b(16|32|64)|pred)"
_enter("and", rf"and\.{_BITWISE}", f"{_LOGIC}: and", 2, lambda a, b, kind: a & b)
_enter("or", rf"or\.{_BITWISE}", f"{_LOGIC}: or", 2, lambda a, b, kind: a | b)
_enter("xor", rf"xor\.{_BITWISE}", f"{_LOGIC}: xor", 2, lambda a, b, kind: a ^ b)
_enter("not", rf"not\.{_BITWISE}", f"{_LOGIC}: not", 1, lambda a, kind: ~a)


@opcode("add.s16x2", r"add\.s16x2", f"{_INTEGER}: add")
def _add_halves(line: Line) -> Step:
    a, b = line.source(1, "b32"), line.source(2, "b32")
    low, high = values.constant(0xFFFF, 32), values.constant(0xFFFF0000, 32)
    return line.write(
        line.target(), lambda r: ((r[a] + r[b]) & low) | ((r[a] & high) + (r[b] & high))
    )


@opcode("mul", r"mul\.(?P<part>lo|hi|wide)\.(?P<kind>[us](16|32|64))", f"{_INTEGER}: mul")
def _mul(line: Line) -> Step:
    a, b, multiply, kind = line.source(1), line.source(2), _product(line), line.kind
    return line.write(line.target(), lambda r: multiply(r[a], r[b], kind))


@opcode("mad", r"mad\.(?P<part>lo|hi|wide)\.(?P<kind>[us](16|32|64))", f"{_INTEGER}: mad")
def _mad(line: Line) -> Step:
    multiply, kind = _product(line), line.kind
    bits = values.bits_of(kind) * (2 if line.match["part"] == "wide" else 1)
    a, b, c = line.source(1), line.source(2), line.source(3, f"b{bits}")
    return line.write(line.target(), lambda r: multiply(r[a], r[b], kind) + r[c])


def _product(line: Line) -> Callable[[Value, Value, str], Value]:
    part = line.match["part"]
    if part == "wide" and line.kind[1:] == "64":
        raise EmulationError(f"{line.instruction}: there is no product of 128 bits")
    return {
        "lo": values.multiply_low,
        "hi": values.multiply_high,
        "wide": values.multiply_wide,
    }[part]


@opcode("bfe", r"bfe\.(?P<kind>[us](32|64))", f"{_INTEGER}: bfe")
def _bfe(line: Line) -> Step:
    a, position, length, kind = line.source(1), line.number(2), line.number(3), line.kind
    return line.write(line.target(), lambda r: values.extract(r[a], position, length, kind))


@opcode("shl", r"shl\.(?P<kind>b(16|32|64))", f"{_LOGIC}: shl")
def _shl(line: Line) -> Step:
    a, amount, bits = line.source(1), line.source(2, "u32"), values.bits_of(line.kind)
    return line.write(line.target(), lambda r: values.shift_left(r[a], r[amount], bits))


@opcode("shr", r"shr\.(?P<kind>[bus](16|32|64))", f"{_LOGIC}: shr")
def _shr(line: Line) -> Step:
    a, amount, kind = line.source(1), line.source(2, "u32"), line.kind
    return line.write(line.target(), lambda r: values.shift_right(r[a], r[amount], kind))


@opcode(
    "setp",
    r"setp\.(?P<test>eq|ne|lt|le|gt|ge)\.(?P<kind>[bus](16|32|64))",
    "Comparison and Selection Instructions: setp",
)
def _setp(line: Line) -> Step:
    a, b, kind = line.source(1), line.source(2), line.kind
    compare = values.COMPARE[line.match["test"]]
    return line.write(
        line.target(), lambda r: compare(values.typed(r[a], kind), values.typed(r[b], kind))
    )


@opcode(
    "selp",
    r"selp\.(?P<kind>[bus](16|32|64))",
    "Comparison and Selection Instructions: selp",
)
def _selp(line: Line) -> Step:
    a, b, condition = line.source(1), line.source(2), line.source(3, "pred")
    return line.write(line.target(), lambda r: np.where(r[condition], r[a], r[b]))


@opcode("prmt", r"prmt\.(?P<kind>b32)", f"{_MOVE}: prmt")
def _prmt(line: Line) -> Step:
    a, b, selector = (line.source(i) for i in (1, 2, 3))
    return line.write(line.target(), lambda r: values.permute(r[a], r[b], r[selector]))


@opcode("mov", r"mov\.(?P<kind>[bus](16|32|64)|pred)", f"{_MOVE}: mov")
def _mov(line: Line) -> Step:
    target, source = line.operands
    if not (target.startswith("{") or source.startswith("{")):
        a = line.source(1)
        return line.write(line.target(), lambda r: r[a])
    half = values.bits_of(line.kind) // 2
    narrow, wide = values.UNSIGNED[half], values.UNSIGNED[2 * half]
    parts = line.vector(0 if target.startswith("{") else 1, f"b{half}")
    if len(parts) != 2:
        raise EmulationError(f"{line.instruction}: only vectors of two are known")
    low, high = parts
    if source.startswith("{"):
        return line.write(
            line.target(), lambda r: r[low].astype(wide) | r[high].astype(wide) << wide(half)
        )
    whole = line.source(1)
    first = line.write(low, lambda r: r[whole].astype(narrow))
    second = line.write(high, lambda r: (r[whole] >> wide(half)).astype(narrow))

    def step(machine: Machine) -> None:
        first(machine)
        second(machine)

    return step


@opcode(
    "cvt",
    r"cvt\.(?P<to>[us](8|16|32|64))\.(?P<kind>[us](8|16|32|64))",
    f"{_MOVE}: cvt",
)
def _cvt(line: Line) -> Step:
    a, to, kind = line.source(1), line.match["to"], line.kind
    return line.write(line.target(), lambda r: values.convert(r[a], to, kind))


@opcode("shfl", r"shfl\.sync\.(?P<mode>up|down|bfly|idx)\.(?P<kind>b32)", f"{_MOVE}: shfl.sync")
def _shfl(line: Line) -> Step:
    mode, target = line.match["mode"], line.operands[0].partition("|")
    if target[2]:
        raise EmulationError(f"{line.instruction}: its predicate is not known")
    a, b = line.source(1), line.source(2)
    clamp = line.number(3)
    if clamp != (0 if mode == "up" else 31) or line.number(4) & 0xFFFFFFFF != 0xFFFFFFFF:
        raise EmulationError(f"{line.instruction}: only whole warps are known")

    if line.instruction.guard is not None:
        raise EmulationError(f"{line.instruction}: a guard is not known here")
    slot = line.target()

    def step(machine: Machine) -> None:
        r = machine.registers
        r[slot] = shuffle(mode, machine.full(r[a]), machine.full(r[b]))

    return step


def shuffle(mode: str, value: Value, amount: Value) -> Value:
    """Return what each thread of whole warps gets; past the warp's ends it keeps its own."""
    rows = value.reshape(-1, 32)
    lane, b = np.arange(32), amount.reshape(-1, 32).astype(np.int64) & 31
    source = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": b}[mode]
    source = np.where((source < 0) | (source > 31), lane, source)
    return np.take_along_axis(rows, source, 1).reshape(-1)
