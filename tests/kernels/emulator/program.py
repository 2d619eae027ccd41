"""A kernel translated into steps, and the machine that carries them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from . import memory_opcodes, values
from .flow import check_wgmma
from .memory import Copies, GlobalMemory, Segment, SharedMemory
from .opcodes import Line, Step, look_up
from .ptx import EmulationError, Instruction, Kernel
from .values import Value

assert memory_opcodes  # it fills the table

LANES = 1 << 14  # threads that run at once: their registers fit the cache
_SPECIAL = ("%tid.x", "%ctaid.x", "%ctaid.y")
_ZERO = ("%tid.y", "%tid.z", "%ctaid.z")  # grids have two dimensions, programs one
# m is a register of the kernels' inline assembly, _ a result that is thrown away.
_BITS = {"rs": 16, "r": 32, "rd": 64, "m": 32, "_": 64}


class Slots:
    """The register file of a kernel: a slot for each register, number and special register."""

    def __init__(self, parameters: Sequence[str]) -> None:
        self.parameters = tuple(parameters)
        self.initial: list[Value] = [np.uint32(0)] * len(_SPECIAL)
        self._slots: dict[str, int] = {name: i for i, name in enumerate(_SPECIAL)}

    def register(self, name: str) -> int:
        """Return a register's slot. It begins with garbage: LLVM leaves undefined values so."""
        kind = name.lstrip("%").rstrip("0123456789")
        if kind == "p":
            return self._slot(name, np.True_)
        return self._slot(name, values.constant(0xAAAAAAAAAAAAAAAA, self.bits(name)))

    def bits(self, name: str) -> int:
        """Return the width of a register."""
        kind = name.lstrip("%").rstrip("0123456789")
        if kind not in _BITS:
            raise EmulationError(f"unknown register {name!r}")
        return _BITS[kind]

    def value(self, operand: str, kind: str) -> int:
        """Return the slot of an operand that is read: a register, or a number of a kind."""
        if operand in _SPECIAL:
            return self._slots[operand]
        if operand in _ZERO:
            operand = "0"
        if operand.startswith("global_smem"):
            operand = operand.removeprefix("global_smem").lstrip("+") or "0"
        if operand.startswith("%") or operand in _BITS:
            return self.register(operand)
        number = int(operand.rstrip("U"), 0)
        if kind == "pred":
            return self._slot(f"pred {bool(number)}", np.bool_(number))
        bits = values.bits_of(kind)
        return self._slot(f"{number} {bits}", values.constant(number, bits))

    def _slot(self, name: str, initial: Value) -> int:
        if name not in self._slots:
            self._slots[name] = len(self.initial)
            self.initial.append(initial)
        return self._slots[name]


class Machine:
    """All threads of some programs.

    Attributes:
        registers: by slot; an array of one value a thread, or one value for all.
        count: threads in all.
        threads: of one program.
        parameters: of the kernel.
    """

    def __init__(
        self,
        registers: Sequence[Value],
        parameters: Sequence[Value],
        memory: GlobalMemory,
        shared: SharedMemory,
        first: int,
        row: int,
        programs: int,
        threads: int,
    ) -> None:
        self.count, self.threads = programs * threads, threads
        self.registers, self.parameters = list(registers), parameters
        self.memory, self.shared = memory, shared
        self._all = np.arange(self.count)
        special = (self._all % threads, self._all // threads + first, row)
        self.registers[: len(special)] = [np.asarray(x).astype(np.uint32) for x in special]

    def full(self, value: Value) -> Value:
        """Return a value with one lane for each thread."""
        return np.broadcast_to(value, (self.count,))

    def all(self, slots: Sequence[int]) -> list[Value]:
        """Return several registers with one lane for each thread."""
        return [self.full(self.registers[slot]) for slot in slots]

    def lanes(self, guard: Value | None) -> Value:
        """Return the threads for which a guard is true."""
        return self._all if guard is None else np.flatnonzero(self.full(guard))

    def uniform(self, value: Value) -> bool:
        """Return a predicate that all threads share.

        Raises:
            EmulationError: they do not.
        """
        value = np.asarray(value)
        if value.any() != value.all():
            raise EmulationError("a branch differs between threads: only uniform ones are known")
        return bool(value.all())


@dataclass
class _Block:
    """Steps up to a branch or label, and what follows.

    Attributes:
        target: block that a branch goes to, -1 for the end; else the next one follows.
        guard: of the branch, None where it is always taken.
    """

    steps: list[Step] = field(default_factory=list)
    target: int | None = None
    guard: Callable[[Machine], Value] | None = None


class Program:
    """A kernel of which any number of grids can be run.

    Raises:
        EmulationError: it has an instruction that is not known, or uses registers of a wgmma in
            flight.
    """

    def __init__(self, kernel: Kernel, shared_bytes: int) -> None:
        self.kernel, self.shared_bytes = kernel, shared_bytes
        check_wgmma(self.kernel.code)
        self._slots = Slots(self.kernel.parameters)
        self._blocks = self._translate()

    def run(
        self,
        grid: tuple[int, ...],
        parameters: Sequence[Value],
        segments: Sequence[Segment],
        *,
        copies: Copies = "poisoned",
        checks: bool = True,
        lanes: int = LANES,
    ) -> None:
        """Run a grid of one or two dimensions on the tensors of `segments`.

        Args:
            parameters: addresses as uint64 and numbers as uint32; those that Triton adds at the
                end are zero.
        """
        threads = self.kernel.threads
        missing = len(self.kernel.parameters) - len(parameters)
        parameters = [*parameters, *[np.uint64(0)] * missing]
        columns, rows = grid[0], grid[1] if len(grid) > 1 else 1
        together, memory = max(1, lanes // threads), GlobalMemory(segments)
        for row in range(rows):
            for first in range(0, columns, together):
                programs = min(together, columns - first)
                shared = SharedMemory(programs, threads, self.shared_bytes, copies, checks)
                initial = self._slots.initial
                machine = Machine(
                    initial, parameters, memory, shared, first, row, programs, threads
                )
                with np.errstate(over="ignore"):
                    self._run(machine)

    def _run(self, machine: Machine) -> None:
        at = 0
        while 0 <= at < len(self._blocks):
            block = self._blocks[at]
            for step in block.steps:
                step(machine)
            taken = block.target is not None
            if taken and block.guard is not None:
                taken = machine.uniform(block.guard(machine))
            at = block.target if taken and block.target is not None else at + 1

    def _step(self, index: int, instruction: Instruction) -> Step:
        entry, match = look_up(instruction)
        return entry.build(Line(instruction, self._slots, match))

    def _translate(self) -> list[_Block]:
        blocks, labels = [_Block()], {}
        jumps: list[tuple[_Block, str]] = []
        for index, instruction in enumerate(self.kernel.code):
            if instruction.opcode == "label":
                blocks.append(_Block())
                labels[instruction.operands[0]] = len(blocks) - 1
            elif instruction.opcode in ("bra", "bra.uni", "ret"):
                block = blocks[-1]
                if instruction.guard is not None:
                    block.guard = Line(instruction, self._slots).guard()
                if instruction.opcode == "ret":
                    block.target = -1
                else:
                    jumps.append((block, instruction.operands[0]))
                blocks.append(_Block())
            else:
                blocks[-1].steps.append(self._step(index, instruction))
        for block, label in jumps:
            block.target = labels[label]
        return blocks
