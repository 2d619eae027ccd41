"""A wheel is whole however the checkout came about; an editable install needs the links."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"zoo/kernels": "../kernels", "zoo/cli.py": "../cli.py"}
LARGE = shutil.ignore_patterns("s-*", "__pycache__", "templates")


def checkout(folder: Path, links: str) -> Path:
    """Copy the sources, links as `links`, `text` (git without symlinks) or `none` (an sdist)."""
    for name in ("kernels", "zoo"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=LARGE)
    for name in ("cli.py", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for link, target in LINKS.items():
        if links != "links":
            (folder / link).unlink()
        if links == "text":
            (folder / link).write_text(target)
    return folder


def build(folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    code = (
        "from hatchling.builders.wheel import WheelBuilder\n"
        f"print(*WheelBuilder({str(folder)!r}).build(directory='dist', versions=[{version!r}]))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("links", ["links", "text", "none"])
def test_the_wheel_holds_the_command_line_and_the_kernels(tmp_path: Path, links: str) -> None:
    done = build(checkout(tmp_path, links), "standard")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.strip()) as wheel:
        names = wheel.namelist()
        assert len(names) == len(set(names))
        for name in ("cli.py", "kernels/spiking_conv/kernel.py", "py.typed", "data/digits.txt"):
            assert f"zoo/{name}" in names
        for name in ("cli.py", "kernels/spiking_conv/reference.py"):
            assert wheel.read(f"zoo/{name}") == (ROOT / name).read_bytes()


@pytest.mark.parametrize(("links", "code"), [("links", 0), ("text", 1), ("none", 1)])
def test_an_editable_install_needs_the_links(tmp_path: Path, links: str, code: int) -> None:
    done = build(checkout(tmp_path, links), "editable")
    assert done.returncode == code, done.stderr
    if code:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        assert len(said) == 1 and "core.symlinks" in said[0], said
