"""The versions, processor and memory that a measured figure depends on."""

from __future__ import annotations

import platform
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from zoo.version import __version__


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux's ru_maxrss begins at the peak of the process that started this one.
        peak = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if peak is not None:
            return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions(backend: str = "torch", device: str = "cpu", processes: int = 1) -> dict[str, str]:
    """Return what a figure depends on: zoo, Python, torch, processor and threads.

    triton, the GPU and the number of processes are added where they took part.
    """
    present = {
        "spiking-zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if backend != "torch":
        present["triton"] = version("triton")
    if device.startswith("cuda"):
        present["gpu"] = torch.cuda.get_device_name(device)
    if processes > 1:
        present["processes"] = str(processes)
    return present
