"""Break one instruction of a real kernel at a time: is it noticed?

    python -m tests.kernels.emulator.mutants --out benchmarks/results/emulator-mutants.json

A mutant is caught where the emulator refuses it or where a result differs from the reference's. Of
one that survives the report says whether the broken instruction ever computed another value:

* "same value": it never did in these runs (`or` to `xor` of bits that do not overlap), so nothing
  could show it; other inputs might;
* "no race": a barrier, fence, commit or wait without which no check fails. That is the word of the
  emulator's own checks: no warp, copy or wgmma met another at one byte or register without it. It
  is no proof from outside that the checks see everything;
* "never executed": a store or copy whose guard is false for every thread;
* "unused value": it did, and no result depends on it; `why` says what was seen in the PTX.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import equality
from tests.kernels.kernel_fixtures import Backend, Shape, check, random_inputs, random_layer

from .launch import ARCHITECTURES, Emulator
from .opcodes import Line, Step
from .program import Machine, Program
from .ptx import Instruction, Kernel

Mutant = tuple[str, int, Instruction | None]  # kind, index, what stands there instead

# Layers with potentials on the threshold, where a wrong comparison shows.
LAYERS = {
    "3x3 16->16 identity if": (Shape(3, 1, 16, 16, "identity", 16), "if", (9, 9)),
    "3x3 64->64 identity signed": (Shape(3, 1, 64, 64, "identity", 64), "signed", (6, 6)),
    "3x3 64->64 projection if": (Shape(3, 2, 64, 64, "projection", 64, 2), "if", (9, 9)),
}
DROPPED = {
    "bar.sync": "barrier dropped",
    "wgmma.wait_group.sync.aligned": "wgmma wait dropped",
    "wgmma.fence.sync.aligned": "wgmma fence dropped",
    "wgmma.commit_group.sync.aligned": "wgmma commit dropped",
    "cp.async.commit_group": "copy commit dropped",
    "fence.proxy.async.shared::cta": "proxy fence dropped",
}
REPLACED = [
    ("setp.ge", "setp.gt", "comparison off by one"),
    ("setp.gt", "setp.ge", "comparison off by one"),
    ("setp.lt", "setp.le", "comparison off by one"),
    ("and.pred", "or.pred", "and to or of predicates"),
    ("add.s32", "sub.s32", "add to sub"),
    ("add.s64", "sub.s64", "add to sub"),
    ("sub.s32", "add.s32", "sub to add"),
    ("or.b32", "xor.b32", "or to xor"),
    ("and.b32", "or.b32", "and to or"),
    ("xor.b32", "or.b32", "xor to or"),
    ("shr.u32", "shl.b32", "shift the other way"),
    ("shl.b32", "shr.u32", "shift the other way"),
    ("bfe.s32", "bfe.u32", "sign lost"),
    ("mul.wide.s32", "mul.wide.u32", "sign lost"),
    ("mad.wide.s32", "mad.wide.u32", "sign lost"),
]
_QUOTIENT = (
    "equivalent: the sign bit of a quotient that is only multiplied by 36 and subtracted, and "
    "36 * 2**31 is 0 modulo 2**32"
)
_SIGN = (
    "equivalent: only the sign of y | x is read, and y and x of these taps are never below zero at "
    "once (row 0 goes with column 2)"
)
# Survivors that compute another value, each looked at in the PTX: layer and instruction.
LOOKED_AT = {
    ("3x3 64->64 identity signed", "shr.u32 %r153, %r152, 31"): _QUOTIENT,
    ("3x3 64->64 identity signed", "shr.u32 %r143, %r142, 31"): _QUOTIENT,
    ("3x3 16->16 identity if", "or.b32 %r271, %r267, %r269"): _SIGN,
    ("3x3 64->64 projection if", "and.b16 %rs49, %rs48, 15"): "equivalent: bit 0 of the 16 packed "
    "predicates is never read, all readers shift by 1 to 15",
    ("3x3 64->64 projection if", "mov.u32 %r638, 0x0"): "equivalent: the load that follows has no "
    "guard and overwrites the register",
}
_ORDERING = (*DROPPED, "cp.async.wait")
_NO_NUMBER = ("bar", "cp.async.wait", "wgmma", "bra", "shfl", "mov.pred")


def mutants(kernel: Kernel, each: int) -> Iterator[Mutant]:
    """Yield every synchronization dropped or shortened, and `each` mutants of the other kinds."""
    kinds: dict[str, list[Mutant]] = defaultdict(list)
    for index, instruction in enumerate(kernel.code):
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in DROPPED:
            yield DROPPED[opcode], index, None
        if opcode == "cp.async.wait_group":
            more = str(int(operands[0], 0) + 1)
            yield "wait for one group less", index, replace(instruction, operands=(more,))
        for old, new, kind in REPLACED:
            if opcode.startswith(old):
                changed = replace(instruction, opcode=opcode.replace(old, new))
                kinds[kind].append((kind, index, changed))
        if opcode.startswith("selp"):
            target, a, b, condition = operands
            changed = replace(instruction, operands=(target, b, a, condition))
            kinds["selp swapped"].append(("selp swapped", index, changed))
        if opcode.startswith(("mma", "ldmatrix", "wgmma.mma")):
            at = 1 if opcode.startswith(("mma", "wgmma")) else 0
            parts = re.findall(r"%r\d+", operands[at])
            if len(parts) > 1:
                parts[0], parts[1] = parts[1], parts[0]
                swapped = (*operands[:at], "{" + ",".join(parts) + "}", *operands[at + 1 :])
                kind = f"registers of {opcode.split('.')[0]} swapped"
                kinds[kind].append((kind, index, replace(instruction, operands=swapped)))
        if instruction.guard and opcode.startswith(("ld", "st", "cp", "red", "atom")):
            changed = replace(instruction, negated=not instruction.negated)
            kinds["guard negated"].append(("guard negated", index, changed))
        if opcode.startswith(("st.", "red", "cp.async.c")) and "group" not in opcode:
            kinds["store or copy dropped"].append(("store or copy dropped", index, None))
        number = operands and re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operands[-1])
        if number and not opcode.startswith(_NO_NUMBER):
            changed = replace(
                instruction, operands=(*operands[:-1], str(int(operands[-1].rstrip("U"), 0) ^ 1))
            )
            kinds["number off by its lowest bit"].append(
                ("number off by its lowest bit", index, changed)
            )
    gen = random.Random(0)
    for choices in kinds.values():
        yield from gen.sample(choices, min(each, len(choices)))


class _Probe(Program):
    """The right kernel, which notes whether an instruction's mutant does something else.

    A dropped one does where its guard is true for some thread.
    """

    def __init__(self, program: Program, index: int, mutant: Instruction | None) -> None:
        self.index, self.mutant, self.differs = index, mutant, False
        super().__init__(program.kernel, program.shared_bytes)

    def _step(self, index: int, instruction: Instruction) -> Step:
        right = super()._step(index, instruction)
        if index != self.index:
            return right
        if self.mutant is None:
            guard = Line(instruction, self._slots).guard()

            def watched(machine: Machine) -> None:
                self.differs |= len(machine.lanes(guard(machine))) > 0
                right(machine)

            return watched
        wrong = super()._step(-1, self.mutant)

        def step(machine: Machine) -> None:
            before = list(machine.registers)
            wrong(machine)
            other, machine.registers = machine.registers, before
            right(machine)
            pairs = zip(other, machine.registers, strict=True)
            self.differs |= any(a is not b and not np.array_equal(*_same(a, b)) for a, b in pairs)

        return step


def _same(a: Any, b: Any) -> tuple[Any, Any]:
    return tuple(np.broadcast_arrays(a, b))  # type: ignore[return-value]


class Trial:
    """A layer's kernel with a reference to compare with."""

    def __init__(self, architecture: str, name: str) -> None:
        shape, neuron, size = LAYERS[name]
        gen = np.random.default_rng(0)
        self.signed = neuron == "signed"
        self.layer = random_layer(shape, gen, neuron, "small")
        self.inputs = random_inputs(shape, self.layer, gen, 12, 2, size, self.signed)
        self.emulator = Emulator(architecture)
        self.run()
        ((self.key, self.right),) = self.emulator.programs.items()

    def run(self) -> None:
        """Raise an error if something is wrong."""
        with self.emulator.installed():
            check(Backend("cpu", False), self.layer, *self.inputs, signed=self.signed)

    def caught(self, mutant: Mutant) -> str:
        """Return how a mutant is noticed: "refused", "differs", or "" where it is not."""
        _, index, instead = mutant
        code = list(self.right.kernel.code)
        code[index : index + 1] = [] if instead is None else [instead]
        try:
            kernel = replace(self.right.kernel, code=tuple(code))
            self.emulator.programs[self.key] = Program(kernel, self.right.shared_bytes)
            self.run()
        except AssertionError:
            return "differs"
        except Exception:  # EmulationError, or numpy's where an address is no index at all
            return "refused"
        return ""

    def verdict(self, mutant: Mutant) -> str:
        """Return what a surviving mutant is; see the module's docstring."""
        _, index, instead = mutant
        if self.right.kernel.code[index].opcode.startswith(_ORDERING):
            return "no race"
        probe = _Probe(self.right, index, instead)
        self.emulator.programs[self.key] = probe
        self.run()
        if instead is None:
            return "stored unnoticed" if probe.differs else "never executed"
        return "unused value" if probe.differs else "same value"


def score(architecture: str, name: str, each: int) -> dict[str, Any]:
    """Return the score of one kernel by kind, and every mutant that survived."""
    started, trial = time.perf_counter(), Trial(architecture, name)
    kinds: dict[str, dict[str, int]] = {}
    survivors = []
    for mutant in mutants(trial.right.kernel, each):
        kind, index, instead = mutant
        how = trial.caught(mutant) or "survived"
        entry = kinds.setdefault(kind, {"mutants": 0, "refused": 0, "differs": 0, "survived": 0})
        entry["mutants"] += 1
        entry[how] += 1
        if how == "survived":
            survivors.append(
                {
                    "kind": kind,
                    "at": index,
                    "instruction": str(trial.right.kernel.code[index]),
                    "instead": str(instead or ""),
                    "verdict": trial.verdict(mutant),
                }
            )
    for survivor in survivors:
        if survivor["verdict"] == "unused value":
            place = (name, survivor["instruction"])
            survivor["why"] = LOOKED_AT.get(place, "not looked at: equivalent, or a hole")
    return {
        "architecture": architecture,
        "layer": name,
        "instructions": len(trial.right.kernel.code),
        "kinds": kinds,
        "survivors": survivors,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--each", type=int, default=10, help="mutants of a kind and kernel")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results, total = [], defaultdict(lambda: [0, 0])
    for architecture in ARCHITECTURES:
        for name in LAYERS:
            result = score(architecture, name, args.each)
            results.append(result)
            for kind, entry in result["kinds"].items():
                total[kind][0] += entry["mutants"] - entry["survived"]
                total[kind][1] += entry["mutants"]
            print(architecture, name, result["seconds"], "s", flush=True)
    report = {
        "caught": {kind: f"{caught} of {number}" for kind, (caught, number) in total.items()},
        **equality.facts(),
        "command": " ".join(["python", "-m", "tests.kernels.emulator.mutants", *sys.argv[1:]]),
        "kernels": results,
    }
    equality.write(args.out, json.dumps(report, indent=1) + "\n")
    for kind, text in sorted(report["caught"].items()):
        print(f"{kind:32} {text}")


if __name__ == "__main__":
    main()
