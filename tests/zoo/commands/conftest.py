"""Provide a tiny network, images, an artifact of both, and the command line in this process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.cli import main
from zoo.networks.architectures import topology
from zoo.networks.resnet import ResNet

REPO = Path(__file__).resolve().parents[3]
# hu2018 without its search is the quickest conversion there is.
QUICK = (
    "--arch",
    "resnet20",
    "--input-size",
    "8",
    "--mean",
    "0.5",
    "--std",
    "0.3",
    "--timesteps",
    "4",
    "--method",
    "hu2018",
    "--parameter",
    "steps=1",
    "--samples",
    "16",
)


@dataclass(frozen=True)
class Material:
    """Files that tests read; `folder` holds only them."""

    folder: Path
    checkpoint: Path
    images: Path
    artifact: Path


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    def failed(self, code: int) -> str:
        """Return the one line on stderr of a command.

        It had to fail with `code` and print nothing on stdout.
        """
        assert (self.code, self.out) == (code, ""), self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self.err
        assert "Traceback" not in self.err
        return self.err


Zoo = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: networks this small gain nothing from more.

    Beside other work two threads on two cores took 70 times longer.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Create a randomly initialised grey ResNet-20, images of 8x8 and the artifact.

    They are created once; no test may change them.
    """
    folder = tmp_path_factory.mktemp("cli")
    os.environ["ZOO_HOME"] = str(tmp_path_factory.mktemp("home"))
    torch.set_num_threads(1)  # `one_thread` puts it back
    torch.manual_seed(0)
    checkpoint = folder / "net.pth"
    torch.save(ResNet(topology("resnet20", num_classes=10, in_channels=1)).state_dict(), checkpoint)
    random = np.random.default_rng(0)
    images = folder / "images.npz"
    arrays = {
        f"x_{split}": random.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        for split in ("train", "test")
    }
    np.savez(images, y_train=np.arange(40) % 10, y_test=np.arange(40) % 10, **arrays)
    artifact = folder / "net"
    assert (
        main(
            [
                "convert",
                str(checkpoint),
                "--calib",
                str(images),
                "--out",
                str(artifact),
                *QUICK,
                "-q",
            ]
        )
        == 0
    )
    return Material(folder, checkpoint, images, artifact)


@pytest.fixture
def artifact(made: Material, tmp_path: Path) -> Path:
    """Return a copy of the artifact, for a test to change."""
    return Path(shutil.copytree(made.artifact, tmp_path / "net"))


@pytest.fixture
def zoo(capsys: pytest.CaptureFixture[str]) -> Zoo:
    """Return a function that runs one command in this process."""

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return run


def environment(**extra: str) -> dict[str, str]:
    """Return variables for another process, which finds the zoo whether or not it is installed."""
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "ZOO_DEBUG")
    }
    kept |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return kept | {"TERM": "xterm", "COLUMNS": "80"} | extra


def command(*words: str | Path) -> Sequence[str]:
    """Return the command line of a process of its own."""
    return [sys.executable, "-m", "zoo", *map(str, words)]


def spawn(*words: str | Path, **extra: str) -> Outcome:
    """Run one command in a process of its own."""
    done = subprocess.run(
        command(*words), env=environment(**extra), capture_output=True, text=True, timeout=120
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def zoo_home() -> None:
    """Leave $ZOO_HOME as `made` set it: these tests share one."""
