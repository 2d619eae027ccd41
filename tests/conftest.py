"""Provide to every test the shared material, and count the skips by reason."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

# Read when torch starts, here and in every process a test starts. The tensors are tiny: with two
# threads on a busy machine the threads wait for each other, and tests take up to 70 times as long.
# Tests about threads set their number themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts background commands with SIGINT ignored, and their children inherit that: tests of
# Ctrl-C would wait for nothing.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"
NEEDS_SHARED = "needs ../shared (real images and checkpoints)"
NEEDS_GPU = "needs a CUDA GPU"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder ../shared beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(NEEDS_SHARED)
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here.

    Make the fixture `shared` mean the same as its marker, so that `-m "not shared"` works.
    """
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not _has_gpu():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason=NEEDS_GPU))
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")
        elif item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=NEEDS_SHARED))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skips by reason over all files: -ra lists them one place at a time."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in terminalreporter.getreports("skipped")
    )
    if reasons:
        terminalreporter.section("skips by reason")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:5d}  {reason}")
