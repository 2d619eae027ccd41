"""The kernels' inline assembly against the branch that the interpreter takes, exhaustively."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.emulator.snippet import run_snippet
from zoo.kernels import spiking_conv

SOURCE = Path(spiking_conv.__file__).with_name("primitives.py")
MASKS = {0x01010101: 1, 0x03030303: 2, 0x0F0F0F0F: 4}


def statements() -> dict[str, tuple[str, int]]:
    """Return each assembly text of `_spikes_at` with the bits of its spikes, by a name."""
    result = {}
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        name = node.func.attr if isinstance(node, ast.Call) and hasattr(node.func, "attr") else ""
        if name != "inline_asm_elementwise":
            continue
        text = ast.literal_eval(node.args[0])
        (bits,) = {bits for mask, bits in MASKS.items() if f"0x{mask:08x}" in text}
        result["signed" if "$3" in text else f"{bits} bits"] = text, bits
    return result


STATEMENTS = statements()


def test_every_statement_is_found():
    assert set(STATEMENTS) == {"signed", "1 bits", "2 bits", "4 bits"}


def assembly(text: str, x: np.ndarray, below: np.ndarray | None, shift: int) -> np.ndarray:
    """Return what the assembly makes of words of four bytes each."""
    last = "$3" if below is not None else "$2"
    for name, register in (("$0", "%r10"), ("$1", "%r11"), (last, "%r13"), ("$2", "%r12")):
        text = text.replace(name, register)
    inputs = {"%r11": x, "%r13": np.full(len(x), shift, np.uint32)}
    if below is not None:
        inputs["%r12"] = below
    return run_snippet(text, inputs, ["%r10"])[0]


def plain(x: np.ndarray, below: np.ndarray | None, shift: int, bits: int) -> np.ndarray:
    """Return what the interpreter's branch makes of bytes."""
    spikes = ((x >> shift) & (2**bits - 1)).astype(np.int8)
    return spikes if below is None else spikes - ((below >> shift) & 1).astype(np.int8)


@pytest.mark.parametrize("name", STATEMENTS)
def test_assembly_equals_the_plain_branch(name):
    """Every byte (signed: every pair of bytes) in every place of a word, the others random.

    Where both planes are set at once the assembly gives -1 and the plain branch 0; `pack` asserts
    that no neuron has both. 5,767,168 words in all.
    """
    text, bits = STATEMENTS[name]
    signed = name == "signed"
    every = np.arange(256, dtype=np.uint32)
    values, others = np.repeat(every, 256), np.tile(every, 256)
    conflicts = 0
    for shift in range(0, 8, bits):
        gen = np.random.default_rng(shift)
        for place in range(4):
            clear, up = np.uint32(0xFFFFFFFF ^ 255 << 8 * place), np.uint32(8 * place)
            x, below = gen.integers(0, 2**32, (2, len(values)), dtype=np.uint32) & clear
            x, below = x | values << up, below | others << up
            result = assembly(text, x, below if signed else None, shift)
            spikes = (result >> up).astype(np.uint8).view(np.int8)
            expected = plain(values, others if signed else None, shift, bits)
            both = (values >> shift & others >> shift & 1).astype(bool) & signed
            assert np.array_equal(spikes[~both], expected[~both])
            assert (spikes[both] == -1).all() and (expected[both] == 0).all()
            conflicts += both.sum()
    assert conflicts == (8 * 4 * 2**14 if signed else 0)
