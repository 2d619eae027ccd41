"""Which backend a GPU gets, and what is said where the kernels cannot be built or run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.zoo.spiking_fixtures import refuses
from zoo.errors import UsageError
from zoo.networks import backends
from zoo.networks.backends import choose_backend, missing_build_tool, why_not_triton

CUDA = torch.device("cuda")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, and of Python's header files; no CC."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def executable(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_what_a_build_lacks_is_named(tools, monkeypatch):
    assert "install gcc or clang" in missing_build_tool(tools)
    executable(tools / "clang")
    assert "python3-dev" in missing_build_tool(tools)
    (tools / "Python.h").touch()
    assert missing_build_tool(tools) is None
    monkeypatch.setenv("CC", "nowhere-cc")
    assert "nowhere-cc" in missing_build_tool(tools)
    executable(tools / "nowhere-cc")
    assert missing_build_tool(tools) is None


@pytest.mark.parametrize(
    ("capability", "compiler", "said"),
    [
        ((9, 0), True, None),
        ((8, 0), True, None),
        ((7, 5), True, "needs compute capability 8.0, and this GPU has 7.5"),
        ((9, 0), False, "builds its launcher with a C compiler"),
    ],
)
def test_auto_falls_back_where_an_explicit_triton_is_refused(
    tools, monkeypatch, capability, compiler, said
):
    """As on a GPU: only what torch says of it, and Triton's own start, are stood in for."""
    if compiler:
        executable(tools / "gcc")
        (tools / "Python.h").touch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "_capability", lambda device: capability)
    monkeypatch.setattr(backends, "_has_triton", lambda: True)
    monkeypatch.setattr(backends, "_starts", lambda: False)
    monkeypatch.setattr(backends.sysconfig, "get_paths", lambda: {"include": str(tools)})
    if said is None:
        assert why_not_triton(CUDA) is None
        assert choose_backend("auto", CUDA) == choose_backend("triton", CUDA) == "triton"
        return
    assert said in why_not_triton(CUDA)
    assert choose_backend("auto", CUDA) == "torch"
    with refuses(UsageError, f"{said}.*use `backend=torch`"):
        choose_backend("triton", CUDA)
    # What was built before serves on.
    monkeypatch.setattr(backends, "_starts", lambda: True)
    assert choose_backend("auto", CUDA) == ("torch" if capability < (8, 0) else "triton")
