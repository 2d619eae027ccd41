"""Timing of calls on a GPU, and what a failed one leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import Any

import torch

OUT_OF_MEMORY = "out of memory"
TRIES = 2


def timed(
    run: Callable[[int], object], inputs: int, device: torch.device, seconds: float, least: int = 5
) -> list[float]:
    """Return the seconds of each call, on inputs in turn.

    At least `least` calls are made, and as many as fit in `seconds`.
    """
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < least or (time.perf_counter() - started < seconds and len(times) < 1000):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run(len(times) % inputs)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        else:
            before = time.perf_counter()
            run(len(times) % inputs)
            times.append(time.perf_counter() - before)
    return times


def spread(times: Sequence[float]) -> dict[str, float]:
    """Return the median, and the first and last fifth."""
    fifths = quantiles(times, n=5) if len(times) > 1 else [times[0]] * 4
    return {"median": median(times), "low": fifths[0], "high": fifths[-1]}


def failure(error: Exception, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the row of a measurement that failed, and for how many times; `before` is its last.

    Memory may end in an allocation of torch, of cuDNN or of Triton's launcher.
    """
    words = str(error).lower()
    if OUT_OF_MEMORY in words or "cudnn_status_alloc_failed" in words:
        return {"failed": OUT_OF_MEMORY}
    first_line = str(error).splitlines()[0] if str(error) else ""
    tries = (before or {}).get("tries", 0) + 1
    return {"failed": f"{type(error).__name__}: {first_line}", "tries": tries}


def usable(device: torch.device) -> bool:
    """Return whether a process can go on using the device.

    After an illegal access every later call of the process fails with the same error.
    """
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
