"""benchmarks/GPU_QUEUE.md, on a bare machine: what it names starts with the packages it lists.

A process in which no other third-party package can be found imports its programs and collects its
tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUEUE = (ROOT / "benchmarks" / "GPU_QUEUE.md").read_text()
COMMANDS = QUEUE.replace("\\\n", " ")
# Peers are left out where they are missing, and bring their own needs.
BARE = """
import importlib, json, sys

packages, modules, programs, arguments = json.loads(sys.argv[1])
finders = list(sys.meta_path)

class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in modules:
            return None
        specs = (finder.find_spec(name, path, target) for finder in finders)
        return next((spec for spec in specs if spec is not None), None)

    @staticmethod
    def find_distributions(context):
        for finder in finders:
            for found in getattr(finder, "find_distributions", lambda _: ())(context):
                if found.name and found.name.lower().replace("_", "-") not in packages:
                    yield found

sys.meta_path[:] = [Bare]
sys.path.insert(0, "")
for program in programs:
    importlib.import_module(program)
import pytest
sys.exit(pytest.main(arguments))
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_what_they_need(names: Iterable[str]) -> set[str]:
    """Return distributions and all that is installed of what they depend on without extras."""
    todo, found = [canonical(name) for name in names], set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [
            canonical(re.split(r"[^\w.-]", need)[0])
            for need in needs
            if not re.search(r"\bextra\s*==", need)
        ]
    return found


def needed() -> list[str]:
    listed = re.search(r"\* Needed: `([^`]+)`", QUEUE)
    assert listed is not None
    return listed[1].split()


def collected(
    paths: Sequence[str], allowed: Iterable[str], programs: Sequence[str] = ()
) -> list[str]:
    """Return the tests of a GPU that pytest collects where only `allowed` can be imported."""
    modules, packages, bare = set(), set(), with_what_they_need(allowed)
    for module, owners in metadata.packages_distributions().items():
        if not bare & {canonical(owner) for owner in owners}:
            packages |= {canonical(owner) for owner in owners}
            # The checkout may be installed; there it need not be.
            modules |= {module} - {"zoo"}
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", "-m", "gpu", *paths]
    said = json.dumps([sorted(packages), sorted(modules), programs, words])
    ended = subprocess.run(
        [sys.executable, "-c", BARE, said], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return re.findall(r"^tests/\S+::.*$", ended.stdout, re.MULTILINE)


def test_it_starts_with_the_packages_it_lists() -> None:
    runs = re.findall(r"python -m pytest -m gpu ([^\n#`]*)", COMMANDS)
    paths = sorted({path for run in runs for path in re.findall(r"tests/\S+", run)})
    programs = sorted(set(re.findall(r"python -m (benchmarks\.\w+)", COMMANDS)))
    named = collected(paths, needed(), [*programs, "zoo.cli"])
    assert len(named) > 400
    # No test of a GPU is left out: conftest.py of the kernels marks theirs.
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.gpu\n" in path.read_text()
    }
    assert marked <= {test.partition("::")[0] for test in named}
    assert {path for path in paths if not any(test.startswith(path) for test in named)} == set()


def test_a_package_that_is_not_listed_cannot_be_imported() -> None:
    without = [name for name in needed() if name != "hypothesis"]
    with pytest.raises(AssertionError, match="No module named 'hypothesis'"):
        collected(["tests/kernels/test_packing.py"], without)


def test_it_names_commands_that_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "zoo" / "commands").glob("*.py"))
    commands = re.findall(r"python -m zoo (\w+)([^\n`|&;]*)", COMMANDS)
    assert {"doctor", "eval", "tune", "train", "verify", "convert"} == {
        name for name, _ in commands
    }
    for name, rest in commands:
        assert f'"{name}"' in source
        for option in re.findall(r"--([a-z-]+)", rest):
            parameter = option.replace("-", "_").removesuffix("_only")
            assert f'"--{option}"' in source or f"{parameter}: " in source, (name, option)
    for path in re.findall(r"(?<![\w/$])(?:tests|benchmarks|kernels)/[\w./-]+\w", QUEUE):
        assert (ROOT / path).exists() or "results" in path or path.endswith(".json"), path


def test_without_guards_a_tensor_is_an_allocation_of_its_own() -> None:
    """What compute-sanitizer needs to see a read beside a tensor."""
    program = """
import torch
from tests.kernels.kernel_fixtures import Backend, launch, poisoned
with poisoned():
    made = launch.torch.empty((2, 3), torch.int32, "cpu"), launch.torch.empty(0, torch.uint8, "cpu")
put = Backend("cpu", True).put(torch.ones(5, dtype=torch.uint8))
print([tensor.untyped_storage().nbytes() for tensor in (*made, put)])
"""
    for guards, sizes in (("0", [24, 0, 5]), ("1", [24 + 32768, 8192, 8197])):
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "SPIKING_ZOO_GUARDS": guards, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert json.loads(ended.stdout) == sizes, ended.stderr
