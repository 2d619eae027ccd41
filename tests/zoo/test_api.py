"""The functions of `zoo` from Python, and what a user's type checker says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo.errors import NotFoundError, UsageError, ZooError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "python_api.py"


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=ROOT, env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "s-resnet20-digits\nSpikingResNet(resnet20, 10 classes" in done.stdout
    assert "T = 16: 100.00 %" in done.stdout and "s-resnet21" in done.stdout.splitlines()[-1]


def test_a_users_file_passes_mypy_strict(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import zoo\n\nmodel = zoo.load(3)\nmodel.run()\nzoo.list_models(filter=1)\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--config-file=",
        "--cache-dir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, str(EXAMPLE), str(wrong)],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    for file, errors in ((EXAMPLE, 0), (wrong, 3)):
        own = [
            line
            for line in done.stdout.splitlines()
            if Path(line.partition(":")[0]).name == file.name
        ]
        assert len([line for line in own if ": error:" in line]) == errors, done.stdout


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_everything_public_is_there() -> None:
    for name in zoo.__all__:
        assert getattr(zoo, name) is not None and name in dir(zoo)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        zoo.lode  # noqa: B018


def test_from_a_checkpoint_to_figures(digits_file: Path, tmp_path: Path) -> None:
    images = {
        split: np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
        for split in ("train", "test")
    }
    labels = {f"y_{split}": np.arange(20) % 10 for split in images}
    np.savez(tmp_path / "images.npz", **{f"x_{split}": x for split, x in images.items()}, **labels)
    made = zoo.convert(
        digits_file,
        tmp_path / "images.npz",
        arch="resnet20",
        mean=(0.3,),
        std=(0.4,),
        input_size=8,
        timesteps=4,
        samples=8,
    )
    made.save(tmp_path / "net")
    found = zoo.evaluate(tmp_path / "net", tmp_path / "images.npz", (2, 4))
    assert [row.timesteps for row in found.rows] == [2, 4] and found.data.images == 20
    with pytest.raises(UsageError, match="pass labelled `images`"):
        zoo.evaluate(tmp_path / "net")


def test_errors_are_one_exception() -> None:
    with pytest.raises(NotFoundError) as caught:
        zoo.load("s-resnet21", offline=True)
    assert isinstance(caught.value, ZooError)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
