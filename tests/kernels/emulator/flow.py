"""Which registers a wgmma in flight owns, on every path through a kernel.

wgmma.mma_async runs on after it is issued. Until the wgmma.wait_group that covers it, nothing may
read or write its accumulators, nor write its A registers; only other wgmma may use the same
accumulators. A wgmma.fence orders the registers that other instructions wrote before a wgmma: one
must stand between a wait and the next wgmma. Section "Asynchronous Warpgroup Level Matrix
Instructions: wgmma.mma_async" of the PTX ISA.

Strictly, the fence must follow the last write of each of these registers. Triton 3.9 writes it so,
but LLVM moves arithmetic on accumulators across it, and leaves it to ptxas to order them (seen in
`spiking_conv`); so that is not checked.

A data flow analysis: the state before an instruction is the union over the paths to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .ptx import EmulationError, Instruction, registers

_NO_TARGET = ("st", "stmatrix", "red", "cp", "bar", "bra", "ret", "fence", "wgmma", "label")


@dataclass(frozen=True)
class _State:
    """Registers by what a wgmma does with them.

    Attributes:
        groups: of accumulators and of A registers in flight, the newest group first; the first
            is still open.
        fenced: a wgmma.fence has followed the last wait.
    """

    groups: tuple[tuple[frozenset[str], frozenset[str]], ...] = ((frozenset(), frozenset()),)
    fenced: bool = False

    def join(self, other: _State) -> _State:
        empty: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        length = max(len(self.groups), len(other.groups))
        mine, others = (s.groups + (empty,) * (length - len(s.groups)) for s in (self, other))
        groups = tuple((a | c, b | d) for (a, b), (c, d) in zip(mine, others, strict=True))
        return _State(groups, self.fenced and other.fenced)


def check_wgmma(code: Sequence[Instruction]) -> None:
    """Check every path.

    Raises:
        EmulationError: a register is used while a wgmma in flight owns it, or not fenced.
    """
    if not any(i.opcode.startswith("wgmma.mma_async") for i in code):
        return
    labels = {i.operands[0]: index for index, i in enumerate(code) if i.opcode == "label"}
    states: dict[int, _State] = {0: _State()}
    todo = [0]
    while todo:
        at = todo.pop()
        after = _after(states[at], code[at])
        for following in _following(code, at, labels):
            joined = states[following].join(after) if following in states else after
            if states.get(following) != joined:
                states[following] = joined
                todo.append(following)


def _following(code: Sequence[Instruction], at: int, labels: dict[str, int]) -> list[int]:
    instruction, following = code[at], []
    operation = instruction.opcode.split(".")[0]
    if operation == "bra":
        following.append(labels[instruction.operands[0]])
    if operation not in ("bra", "ret") or instruction.guard is not None:
        following.append(at + 1)
    return [index for index in following if index < len(code)]


def _after(state: _State, instruction: Instruction) -> _State:
    opcode, operands = instruction.opcode, instruction.operands
    if opcode.startswith("wgmma.fence"):
        return _State(state.groups, True)
    if opcode.startswith("wgmma.commit_group"):
        return _State(((frozenset(), frozenset()), *state.groups), state.fenced)
    if opcode.startswith("wgmma.wait_group"):
        # Group 0 is the open one, which a wait does not reach.
        return _State(state.groups[: 1 + int(operands[0], 0)], False)
    accumulators = frozenset().union(*(group[0] for group in state.groups))
    sources = frozenset().union(*(group[1] for group in state.groups))
    if opcode.startswith("wgmma.mma_async"):
        d = frozenset(registers(operands[0]))
        a = frozenset(registers(operands[1])) if operands[1].startswith("{") else frozenset()
        _refuse(a & accumulators, instruction, "reads an accumulator in flight as A:")
        if not state.fenced:
            raise EmulationError(f"`{instruction}` has no wgmma.fence before it")
        (open_d, open_a), *older = state.groups
        return _State(((open_d | d, open_a | a), *older), state.fenced)
    used = frozenset(registers(*operands, instruction.guard or ""))
    _refuse(used & accumulators, instruction, "uses an accumulator in flight:")
    if opcode.split(".")[0] in _NO_TARGET:
        return state
    written = frozenset(registers(operands[0]))
    _refuse(written & sources, instruction, "overwrites the A of a wgmma in flight:")
    return state


def _refuse(names: frozenset[str], instruction: Instruction, what: str) -> None:
    if names:
        raise EmulationError(f"`{instruction}` {what} {', '.join(sorted(names))}")
