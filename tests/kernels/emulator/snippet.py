"""A few instructions run on arrays of registers, for the tests of the emulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .memory import Copies, Segment
from .program import Program
from .ptx import parse
from .values import UNSIGNED, Value

THREADS = 128


def run_snippet(
    text: str,
    inputs: Mapping[str, Value],
    outputs: Sequence[str],
    *,
    shared_bytes: int = 0,
    copies: Copies = "poisoned",
) -> list[Value]:
    """Return registers after some instructions, one lane a thread, 128 threads a program.

    Args:
        inputs: registers by name with their values, unsigned or bool, a multiple of 128 each.
        outputs: names of the registers to return, of at least 16 bits, or predicates.
    """
    count = len(next(iter(inputs.values()))) if inputs else THREADS
    assert count % THREADS == 0
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    results = {name: np.zeros(count, UNSIGNED[_bits(name)]) for name in outputs}
    lines = ["mov.u32 %r900, %tid.x;", "mov.u32 %r901, %ctaid.x;"]
    lines += [f"mad.lo.s32 %r902, %r901, {THREADS}, %r900;"]
    for i, name in enumerate([*arrays, *results]):
        lines.append(f"ld.param.b64 %rd{2000 + i}, [snippet_param_{i}];")
        lines.append(f"mad.wide.u32 %rd{3000 + i}, %r902, {_bits(name) // 8}, %rd{2000 + i};")
    for i, name in enumerate(arrays):
        register = "%rs900" if name.startswith("%p") else name
        lines.append(f"ld.global.b{_bits(name)} {register}, [%rd{3000 + i}];")
        if name.startswith("%p"):
            lines.append(f"setp.ne.b16 {name}, %rs900, 0;")
    lines.append(text)
    for i, name in enumerate(results, len(arrays)):
        register = "%rs901" if name.startswith("%p") else name
        if name.startswith("%p"):
            lines.append(f"selp.b16 %rs901, 1, 0, {name};")
        lines.append(f"st.global.b{_bits(name)} [%rd{3000 + i}], {register};")
    body = "\n".join(lines)
    parameters = ", ".join(
        f".param .u64 snippet_param_{i}" for i in range(len([*arrays, *results]))
    )
    kernel = f".visible .entry snippet({parameters})\n.reqntid {THREADS}\n{{\n{body}\nret;\n}}"
    tensors = [
        torch.from_numpy(array.view(np.uint8)) for array in (*arrays.values(), *results.values())
    ]
    Program(parse(kernel), shared_bytes).run(
        (count // THREADS,),
        [np.uint64(tensor.data_ptr()) for tensor in tensors],
        [Segment.of(tensor) for tensor in tensors],
        copies=copies,
    )
    return [
        array.astype(bool) if name.startswith("%p") else array for name, array in results.items()
    ]


def _bits(name: str) -> int:
    """Return the width of a register in memory; a predicate is a byte."""
    return {"%p": 8, "%rs": 16, "%r": 32, "%rd": 64}[name.rstrip("0123456789")]
