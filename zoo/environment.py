"""What a measured figure depends on: versions, processor, memory."""

from __future__ import annotations

import platform
import resource
import sys
from importlib.metadata import version

import torch

from zoo.version import __version__


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def versions(backend: str = "torch", device: str = "cpu", processes: int = 1) -> dict[str, str]:
    """What a figure depends on: zoo, Python, torch, processor and threads; triton, the GPU and processes where they took part."""
    found = {
        "spiking-zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if backend != "torch":
        found["triton"] = version("triton")
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    if processes > 1:
        found["processes"] = str(processes)
    return found
