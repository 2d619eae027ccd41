"""The same tests of kernels: interpreted, emulated, and compiled on a GPU where there is one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernels.emulator.launch import ARCHITECTURES, why_not
from tests.kernels.kernel_fixtures import Backend, interpreted

# A kernel takes 0.6 s to compile, and every test has some of its own: all of them take minutes.
# Without `-m emulate` this many run, of each test and architecture, spread over its parameters.
SAMPLE = {
    "test_one_neuron_by_hand": 20,
    "test_identity_shortcut_by_hand": 1,
    "test_padded_identity_shortcut_by_hand": 1,
    "test_projection_shortcut_by_hand": 1,
    "test_an_averaging_projection_by_hand": 1,
    "test_groups_by_hand": 1,
    "test_layers_of_other_forms": 2,
    "test_neurons_and_inputs_of_either_kind": 3,
    "test_potentials_on_the_threshold": 2,
    "test_potentials_up_to_int32": 2,
    "test_the_last_window_need_not_keep_the_membrane": 1,
    "test_a_tile_never_changes_a_spike": 4,
    "test_stem": 2,
    "test_layerwise_counts": 2,
    "test_layerwise_count_at_multiples_of_the_threshold": 3,
    "test_pooled_counts": 2,
    "test_every_kind_of_layer": 2,
    "test_a_broken_instruction_is_noticed": 1,
    "test_the_sample_names_tests_that_exist": 1,
}

emulated = pytest.mark.skipif(bool(why_not()), reason=why_not() or "runs")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(Backend("cpu", True), marks=interpreted, id="interpret"),
        *(
            pytest.param(
                Backend("cpu", False, architecture),
                marks=[emulated, pytest.mark.emulate],
                id=f"emulated-{architecture}",
            )
            for architecture in ARCHITECTURES
        ),
        pytest.param(Backend("cuda", False), marks=pytest.mark.gpu, id="gpu"),
    ],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Emulate the kernels during a test with an emulated backend."""
    backend = getattr(item, "funcargs", {}).get("backend")
    emulation: Any = contextlib.nullcontext()
    if isinstance(backend, Backend) and backend.architecture:
        emulation = backend.emulator().installed()
    with emulation:
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep `SAMPLE` of the emulated tests, unless they are asked for by `-m` or by name."""
    if "emulate" in config.getoption("markexpr") or any("::" in arg for arg in config.args):
        return
    groups = Counter(_group(item) for item in items if item.get_closest_marker("emulate"))
    seen: Counter[tuple[str, str]] = Counter()
    dropped = []
    for item in items:
        if item.get_closest_marker("emulate") is None:
            continue
        group = _group(item)
        total, keep = groups[group], min(SAMPLE.get(group[0], 0), groups[group])
        index = seen[group]
        seen[group] += 1
        if index * keep // total == (index + 1) * keep // total:
            dropped.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def _group(item: pytest.Item) -> tuple[str, str]:
    """Return a test's name and its architecture."""
    callspec = getattr(item, "callspec", None)
    backend = callspec.params.get("backend") if callspec else None
    architecture = backend.architecture if isinstance(backend, Backend) else ""
    return getattr(item, "originalname", item.name), architecture
