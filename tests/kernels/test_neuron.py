"""Compiled neurons fire as the reference does, spike for spike.

Without them torch operations do.
"""

from __future__ import annotations

import importlib
import os
import stat
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.zoo.spiking_fixtures import random_network, random_pixels, tiny_topology
from zoo.kernels.spiking_conv import SpikingConv, compiled, launch, window
from zoo.kernels.spiking_conv import reference as reference_module
from zoo.kernels.spiking_conv.compiled import (
    CompiledNeuron,
    Library,
    reproduces_torch,
    torch_neuron,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    if compiled._compiler() is None:
        pytest.skip("no C++ compiler")
    return tmp_path_factory.mktemp("neuron")


@pytest.fixture(scope="session")
def library(folder) -> Path:
    return compiled.build_library(folder, openmp=True)


@pytest.fixture(scope="session", params=["avx512", "portable"])
def neuron(request, library) -> CompiledNeuron:
    if request.param == "avx512" and CompiledNeuron(library).form != "avx512":
        pytest.skip("this processor has no AVX-512")
    return CompiledNeuron(library, request.param)


def draw(low: int, high: int, *shape: int, gen: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=gen)


def random_layer(
    kind: str, shortcut: str, cin: int, cout: int, gen: torch.Generator
) -> SpikingConv:
    """A layer whose potentials often meet the threshold: it and all that arrives are small."""
    stride, pad = (2, (cout - min(cin, cout)) // 2) if shortcut == "padded" else (1, 0)
    gain = draw(-3, 9, cout, gen=gen).int() if shortcut in ("identity", "padded") else None
    projection = None
    if shortcut == "projection":
        projection = draw(-2, 2, cout, cin, 1, 1, gen=gen).to(torch.int8)
    threshold = draw(1, 12, cout, gen=gen).int()
    return SpikingConv(
        draw(-2, 3, cout, cin, 3, 3, gen=gen).to(torch.int8),
        draw(-4, 4, 3, cout, gen=gen).int(),
        threshold,
        threshold // 2,
        stride,
        1,
        "signed" if kind == "signed" else "multi-level" if kind == "graded" else "if",
        gain,
        projection,
        stride,
        pad,
        bits=4 if kind == "graded" else 1,
    )


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["if", "signed", "graded"]),
    shortcut=st.sampled_from(["none", "identity", "padded", "projection"]),
    windows=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    cin=st.sampled_from([1, 4, 16, 17]),
    wider=st.sampled_from([0, 2, 16, 30]),
    batch=st.integers(0, 3),
    side=st.integers(1, 6),
    currents=st.sampled_from([1, 500, 2**22]),
    threads=st.sampled_from([1, 2, 3]),
    longest=st.sampled_from([1, 2**24]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_layer_equals_the_reference(
    neuron, kind, shortcut, windows, cin, wider, batch, side, currents, threads, longest, seed
):
    """Spikes, potentials and counts, over windows of any length cut at any size of currents.

    Potentials of a run of 2**24 timesteps are float64.
    """
    gen = torch.Generator().manual_seed(seed)
    cout = cin if shortcut == "identity" else cin + wider
    layer = random_layer(kind, shortcut, cin, cout, gen)
    if shortcut == "padded" and side < 2:
        side = 2
    low, high = {"if": (0, 1), "signed": (-1, 1), "graded": (0, 15)}[kind]
    steps, size = sum(windows), (side + layer.stride - 1) // layer.stride
    x = draw(low, high, steps, batch, cin, side, side, gen=gen).to(torch.int8)
    x = x if kind == "signed" else x.view(torch.uint8)
    source = None if shortcut == "none" else x
    one, other = (layer.membrane(batch, size, size, max(steps, longest)) for _ in range(2))
    assert one.v.dtype == (torch.float32 if longest == 1 else torch.float64)
    assert window.can_run(layer)
    expected = layer.run(x, source, one)
    before, at_once = torch.get_num_threads(), reference_module.CURRENTS
    torch.set_num_threads(threads)
    reference_module.CURRENTS = currents
    try:
        actual, begin = [], 0
        for length in windows:
            part = slice(begin, begin + length)
            given_source = None if source is None else source[part]
            actual.append(window.run_window(layer, neuron, x[part], given_source, other))
            begin += length
    finally:
        torch.set_num_threads(before)
        reference_module.CURRENTS = at_once
    assert torch.equal(torch.cat(actual), expected)
    assert torch.equal(one.v, other.v) and one.t == other.t == steps
    assert one.emitted is None or torch.equal(one.emitted, other.emitted)


@settings(max_examples=40, deadline=None)
@given(
    shortcut=st.sampled_from(["none", "identity", "padded", "projection"]),
    timesteps=st.sampled_from([1, 8, 255]),
    cin=st.sampled_from([1, 5, 16]),
    batch=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_layerwise_counts_equal_the_reference(neuron, shortcut, timesteps, cin, batch, seed):
    gen = torch.Generator().manual_seed(seed)
    layer = random_layer("if", shortcut, cin, cin if shortcut == "identity" else cin + 18, gen)
    x = draw(0, timesteps, batch, cin, 5, 4, gen=gen).to(torch.uint8)
    source = None if shortcut == "none" else x
    expected = layer.count(x, source, timesteps)
    actual = window.count_spikes(layer, neuron, x, source, timesteps)
    assert torch.equal(actual, expected) and actual.dtype == expected.dtype


@settings(max_examples=25, deadline=None)
@given(
    neuron_kind=st.sampled_from(["if", "signed", "multi-level"]),
    big=st.booleans(),
    channels=st.sampled_from([1, 16, 21]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_stem_equals_the_reference(neuron, neuron_kind, big, channels, seed):
    """A constant current, with potentials in float32 and past 2**24 in float64."""
    gen = torch.Generator().manual_seed(seed)
    size = 2**26 if big else 2**18
    layer = SpikingConv(
        draw(-127, 127, channels, 1, 1, 1, gen=gen).to(torch.int8),
        draw(-size, size, 1, channels, gen=gen).int(),
        draw(1, size, channels, gen=gen).int(),
        draw(-size, size, channels, gen=gen).int(),
        neuron=neuron_kind,
        bits=4 if neuron_kind == "multi-level" else 1,
        input_bound=2**10,
    )
    x = layer.current(draw(-(2**10), 2**10, 2, 1, 3, 3, gen=gen).float(), 9)
    one, other = (layer.membrane(2, 3, 3, 9) for _ in range(2))
    assert one.v.dtype == (torch.float64 if big else torch.float32) and window.can_run(layer)
    expected = layer.run(x, None, one, 9)
    assert torch.equal(window.run_window(layer, neuron, x, None, other, 9), expected)
    assert torch.equal(one.v, other.v)


@pytest.mark.parametrize("cin", [128, 400])
def test_graded_layers_wider_than_float32_equal_int64(neuron, cin):
    """Potentials past 2**24; with 400 channels sums of a timestep too (9 * 400 * 127 * 63)."""
    gen = torch.Generator().manual_seed(cin)
    weight = torch.full((4, cin, 3, 3), 127)
    weight[1::2] = -127
    weight[2] = draw(-127, 127, cin, 3, 3, gen=gen)
    theta = torch.full((4,), 700_001, dtype=torch.int32)
    layer = SpikingConv(
        weight.to(torch.int8),
        torch.zeros(1, 4, dtype=torch.int32),
        theta,
        theta // 2,
        padding=1,
        neuron="multi-level",
        bits=6,
        input_bound=63,
    )
    x = draw(0, 63, 8, 2, cin, 4, 5, gen=gen)
    x[:, :, :, 2:] = 63
    one, other = (layer.membrane(2, 4, 5, 8) for _ in range(2))
    v, expected = torch.full((2, 4, 4, 5), 350_000), []
    for step in x:
        v += torch.nn.functional.conv2d(step.double(), weight.double(), padding=1).long()
        expected.append(v.div(700_001, rounding_mode="floor").clamp(0, 63))
        v -= 700_001 * expected[-1]
    assert v.abs().max() > 2**24 and one.v.dtype == torch.float64
    fired = torch.stack(expected).to(torch.int8)
    assert torch.equal(layer.run(x.to(torch.uint8), None, one), fired)
    assert torch.equal(window.run_window(layer, neuron, x.to(torch.uint8), None, other), fired)
    assert torch.equal(one.v.long(), v) and torch.equal(other.v.long(), v)


@pytest.mark.parametrize("form", ["cifar", "v1", "v1.5"])
@pytest.mark.parametrize(
    ("kind", "schedule"),
    [("if", "causal"), ("signed", "causal"), ("multi-level", "causal"), ("if", "layerwise")],
)
def test_networks_are_the_same_with_and_without(form, kind, schedule, folder, library, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(folder))
    network = random_network(tiny_topology(form), neuron=kind, schedule=schedule)
    images = random_pixels(3, network.topology.in_channels, 17)
    used = Library()
    monkeypatch.setattr("zoo.networks.reference.LIBRARY", used)
    runs = []
    for switch in ("torch", "compiled"):
        monkeypatch.setenv(compiled.SWITCH, switch)
        runs.append(network.run(images, 11, snapshots=(3, 11), chunk=2, window=4))
    assert used.neuron is not None
    assert torch.equal(runs[0].logits, runs[1].logits)
    for step, counts in runs[0].spikes.items():
        for name, spikes in counts.items():
            assert torch.equal(spikes, runs[1].spikes[step][name])


def test_float_layers_stay_in_torch():
    one = torch.ones(4)
    assert not window.can_run(SpikingConv(torch.ones(4, 4, 3, 3), one[None], one, one))


def test_the_check_finds_wrong_libraries(neuron):
    assert reproduces_torch(neuron)

    def wrong(change):
        def run(*args):
            neuron(*args)
            change(*args)

        return run

    def spikes(*args):
        args[8].view(-1)[-1] ^= 1

    def potential(*args):
        if args[0] is not None:
            args[0].view(-1)[0] += 1

    assert not reproduces_torch(wrong(spikes)) and not reproduces_torch(wrong(potential))
    assert not reproduces_torch(lambda *args: torch_neuron(*args[:9], max_level=1))


def compiler(tmp_path: Path, body: str) -> str:
    path = tmp_path / "c++"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'x.cpp: error: broken' >&2; exit 1", "error: broken"),
        ("sleep 30", "timed out"),
        ('for last; do :; done; echo text > "$last"', "does not load"),
    ],
)
def test_a_compiler_that_fails_leaves_torch_and_a_reason(body, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler(tmp_path, body))
    monkeypatch.setattr(compiled, "LIMIT", 0.5)
    library = Library()
    assert library.build(tmp_path) is None
    assert reason in library.reason
    assert library.describe(tmp_path).startswith("torch (")


def test_without_a_compiler_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_compiler", lambda: None)
    library = Library()
    assert library.build(tmp_path) is None and "no C++ compiler" in library.describe(tmp_path)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    assert Library().build(tmp_path / "file") is None


def test_a_library_of_wrong_results_is_not_used(folder, library, monkeypatch):
    monkeypatch.setattr(compiled, "reproduces_torch", lambda _: False)
    wrong = Library()
    assert wrong.ready(folder) is None and "fails its check" in wrong.describe(folder)


def test_short_runs_do_not_build_and_long_ones_do_in_the_background(tmp_path, monkeypatch):
    if compiled._compiler() is None:
        pytest.skip("no C++ compiler")
    library = Library()
    assert library.ready(tmp_path) is None and library._builder is None
    monkeypatch.setattr(compiled, "PATIENCE", 0.0)
    assert library.ready(tmp_path) is None
    assert isinstance(library._builder, threading.Thread)
    library._builder.join(60)
    assert library.ready(tmp_path) is not None
    assert repr(library.ready(tmp_path)).startswith("compiled (")
    assert [path.suffix for path in (tmp_path / "neuron").glob("*.so")] == [".so"]
    # The next process finds it.
    started = time.monotonic()
    assert Library().ready(tmp_path) is not None and time.monotonic() - started < 5


def test_the_switch_keeps_torch(folder, library, monkeypatch):
    monkeypatch.setenv(compiled.SWITCH, "torch")
    assert Library().ready(folder) is None
    assert Library().describe(folder) == "torch (ZOO_NEURON=torch)"


def test_processes_that_build_at_once_leave_one_library(tmp_path):
    if compiled._compiler() is None:
        pytest.skip("no C++ compiler")
    paths: list[Path] = []
    builders = [
        threading.Thread(
            target=lambda: paths.append(compiled.build_library(tmp_path, openmp=False))
        )
        for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(set(paths)) == 1 and len(paths) == 3
    assert CompiledNeuron(paths[0])(*_nothing()) is None
    left = {path.suffix for path in (tmp_path / "neuron").iterdir()}
    assert left <= {".so", ".lock"} and os.access(paths[0], os.R_OK)


def _nothing() -> tuple[Tensor | None, ...]:
    empty, one = torch.empty(1, 0, 1, 1, 1), torch.ones(1)
    return None, None, empty, None, None, None, one[None], one, empty.to(torch.uint8)


def test_kernels_and_compiled_neurons_live_in_one_process() -> None:
    """The kernels, loaded under names of their own, hide no module of the folder."""
    pytest.importorskip("triton")
    launch.kernels(True)
    launch.kernels(False)
    for path in Path(launch.__file__).parent.glob("[a-z]*.py"):
        name = f"zoo.kernels.spiking_conv.{path.stem}"
        assert importlib.import_module(name).__file__ is not None
