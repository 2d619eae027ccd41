"""Without a GPU: every shipped tile compiles without a spill and uses the int8 tensor cores."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import aot
from tests.kernels.kernel_fixtures import Shape, random_layer
from zoo.kernels.spiking_conv import (
    PackedMembrane,
    PackedSpikes,
    SpikingLayer,
    pooled_counts,
)
from zoo.kernels.spiking_conv.tiles import table


def missing() -> str:
    result = importlib.util.find_spec("triton")
    if result is None:
        return "needs triton"
    tool = Path(result.origin).parent / "backends/nvidia/bin/cuobjdump"
    return "" if tool.is_file() else "needs the cuobjdump that comes with triton"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "compiles")

KINDS = [
    kind + side
    for kind in ("if", "signed", "multi-level", "layerwise")
    for side in ("", " projection")
]


def shipped(architecture: str, kind: str) -> list[tuple]:
    """Return the cases and tiles of a kind, each once."""
    return [
        (case, tile)
        for case, tile in dict.fromkeys(aot.shipped(architecture))
        if case.kind + (" projection" if case.shortcut == "projection" else "") == kind
    ]


def made_for() -> bool:
    result = importlib.util.find_spec("triton")
    return result is None or tuple(int(part) for part in version("triton").split(".")[:2]) >= (3, 9)


@pytest.mark.skipif(not made_for(), reason="tiles are chosen for triton 3.9 (see benchmarks.aot)")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_no_tile_spills_or_does_without_tensor_cores(architecture, kind):
    pairs = shipped(architecture, kind)
    assert pairs
    bad = []
    for case, tile in pairs:
        result = aot.compiled(architecture, case, tile)
        if case.kind == "if" and case.shortcut != "projection" and tile.group == 8:
            assert result.staged == 0, f"{result.case}, {tile}: spikes go through shared memory"
        if result.spill_bytes or not result.tensor_core:
            bad.append(
                f"{result.case}, {tile}: {result.spill_bytes} B spilt, "
                f"{result.tensor_core} tensor-core instructions"
            )
    assert not bad, "\n".join([architecture, *bad])


@pytest.mark.skipif(not made_for(), reason="the result file is of triton 3.9")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if " " not in kind])
@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_what_is_taken_from_the_result_file_is_what_compiling_gives(architecture, kind):
    case, tile = shipped(architecture, kind)[0]
    assert aot.compiled(architecture, case, tile) == aot.compile_tile(architecture, case, tile)


def test_other_code_or_another_launch_is_compiled_anew(monkeypatch):
    (case, tile), (other, wide) = shipped("sm_90", "if")[0], shipped("sm_90", "if")[-1]
    kernel, arguments = aot.launch_of(case, tile)
    before = aot.inputs_of("sm_90", kernel, arguments)
    assert before == aot.inputs_of("sm_90", *aot.launch_of(case, tile))
    others = [
        aot.inputs_of("sm_80", kernel, arguments),
        aot.inputs_of("sm_90", *aot.launch_of(other, wide)),
        aot.inputs_of("sm_90", kernel, arguments | {"num_warps": 1}),
    ]
    monkeypatch.setattr(aot, "_code", lambda: "changed")
    others.append(aot.inputs_of("sm_90", kernel, arguments))
    assert len({before, *others}) == 5


def test_binary_spikes_are_staged_only_where_nothing_else_fits():
    """A group of 8 timesteps needs no staging.

    On sm_80 it spills for one kind of layer; on sm_90 wide tiles have the higher modelled bound in
    spite of it, and `benchmarks.tune` measures both.
    """
    staged = {
        (architecture, kind, bucket)
        for architecture in ("sm_80", "sm_90")
        for kind in ("if", "if projection")
        for bucket, tile in table()[architecture][kind].items()
        if tile["group"] < 8
    }
    assert staged == {
        ("sm_80", "if projection", "64"),
        ("sm_90", "if", "128"),
        ("sm_90", "if projection", "64"),
        ("sm_90", "if projection", "128"),
    }


@pytest.mark.parametrize("architecture", aot.ARCHITECTURES)
def test_every_shipped_tile_is_compiled(architecture):
    result = {pair for kind in KINDS for pair in shipped(architecture, kind)}
    assert result == set(aot.shipped(architecture))
    tiles = {
        tuple(v.values()) for entries in table()[architecture].values() for v in entries.values()
    }
    assert {tuple(vars(tile).values()) for _, tile in result} == tiles


def resources(architecture: str, use: Callable[[], object]) -> str:
    """Return what `cuobjdump -res-usage` says of the one kernel that `use` launches."""
    with aot.recorded() as recorder:
        use()
    ((kernel, arguments),) = recorder.calls.items()
    return aot.inspect_cubin(aot.build(architecture, kernel, arguments).asm["cubin"])[0]


@pytest.mark.parametrize(
    ("architecture", "neuron"), [*((a, "signed") for a in aot.ARCHITECTURES), ("sm_90", "if")]
)
def test_the_other_kernels_compile(architecture, neuron):
    """The stem with and without counts and membranes, and the read-out of ResNet-50."""
    stem = SpikingLayer(random_layer(Shape(3, 1, 3, 16), np.random.default_rng(0), neuron))
    current = torch.zeros(2, 32, 32, 16, dtype=torch.int32)
    counts = torch.zeros(32, 32, 16, dtype=torch.int32)
    membrane = PackedMembrane()
    planes = torch.zeros(1 + (neuron == "signed"), 4, 2, 7, 7, 2048, dtype=torch.uint8)
    for use in (
        lambda: stem.run(current, None, membrane, steps=32, counts=counts),
        lambda: stem.run(current, None, membrane, steps=32, save=False),
        lambda: pooled_counts(PackedSpikes(planes, 32)),
    ):
        usage = resources(architecture, use)
        assert int(re.search(r"STACK:(\d+)", usage)[1]) <= 16, usage  # a 64-bit division takes 8
