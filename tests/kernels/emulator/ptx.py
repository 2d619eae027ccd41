"""The text of a PTX kernel as a list of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass


class EmulationError(Exception):
    """The kernel does something that is wrong, or that the emulator does not know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, or a label that branches go to.

    Attributes:
        opcode: with all its modifiers, `add.s32`; "label" for a label.
        operands: as written: registers, numbers, `[address]`, `{vector}`.
        guard: the predicate register that must be true, or None.
        negated: the guard must be false instead.
    """

    opcode: str
    operands: tuple[str, ...] = ()
    guard: str | None = None
    negated: bool = False

    def __str__(self) -> str:
        guard = f"@{'!' * self.negated}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}".strip()


@dataclass(frozen=True)
class Kernel:
    """A kernel's text, taken apart.

    Attributes:
        parameters: their names, in order.
        threads: of a program.
    """

    name: str
    parameters: tuple[str, ...]
    threads: int
    code: tuple[Instruction, ...]


_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*(.*?)\{(.*)", re.S)
_LABEL = re.compile(r"(\$\w+):\s*")
_GUARD = re.compile(r"@(!?)(%p\d+)\s+")
_DEBUG = (".loc", ".file", ".section", ".pragma")


def parse(text: str) -> Kernel:
    """Return the one kernel in a PTX module.

    Raises:
        EmulationError: there is no kernel of a fixed number of threads.
    """
    entry = _ENTRY.search(text)
    threads = entry and re.search(r"\.reqntid (\d+)", entry[3])
    if entry is None or threads is None:
        raise EmulationError("no kernel with .reqntid: it is not what Triton writes")
    lines = [line.split("//")[0].strip() for line in entry[4].splitlines()]
    lines = [line for line in lines if line and not line.startswith(_DEBUG)]
    ends = [i for i, line in enumerate(lines) if line.startswith("$L__func_end")]
    body = " ".join(lines[: ends[0] if ends else None])
    code = [instruction for piece in body.split(";") for instruction in _instructions(piece)]
    parameters = tuple(re.findall(r"(\w+_param_\d+)", entry[2]))
    return Kernel(entry[1], parameters, int(threads[1]), tuple(code))


def vector(operand: str) -> list[str]:
    """Return the parts of `{%r1, %r2}`, or the operand itself where it is no vector."""
    return [part.strip() for part in operand.strip("{} ").split(",")]


def registers(*operands: str) -> list[str]:
    """Return the registers that these operands name."""
    return re.findall(r"%(?:p|rs|rd|r)\d+", " ".join(operands)) + [
        name for operand in operands for name in re.findall(r"(?<![\w%$.])m(?!\w)", operand)
    ]


def _instructions(piece: str) -> list[Instruction]:
    """Return the instruction before a semicolon, after the labels that stand before it."""
    result, piece = [], piece.strip()
    while piece:
        label = _LABEL.match(piece)
        if label:
            if label[1].startswith("$L__BB"):
                result.append(Instruction("label", (label[1],)))
            piece = piece[label.end() :]
        elif piece[0] in "{}":
            piece = piece[1:].strip()
        else:
            break
    if not piece or piece.startswith("."):
        return result
    guard = _GUARD.match(piece)
    if guard:
        piece = piece[guard.end() :]
    opcode, *rest = piece.split(None, 1)
    operands = _operands(rest[0]) if rest else ()
    name, negated = (guard[2], guard[1] == "!") if guard else (None, False)
    return [*result, Instruction(opcode, operands, name, negated)]


def _operands(text: str) -> tuple[str, ...]:
    """Split at the commas outside brackets and braces."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return tuple(part.strip() for part in parts)
