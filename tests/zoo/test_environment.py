"""What a figure depends on: the peak of memory is this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = "from zoo.environment import peak_memory; print(peak_memory())"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_the_peak_is_not_that_of_the_parent() -> None:
    """Linux's ru_maxrss of a new process begins at its parent's peak."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def peak() -> int:
        done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True)
        return int(done.stdout)

    before = peak()
    held = np.ones(2 * before, np.uint8)
    assert peak() < before + held.nbytes // 4


def test_the_peak_counts_what_was_freed() -> None:
    from zoo.environment import peak_memory

    before = peak_memory()
    np.ones(before + 2**28, np.uint8)
    assert peak_memory() > before + 2**27
