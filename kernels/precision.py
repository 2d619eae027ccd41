"""Convolutions and matrix products in whole float32, whatever precision the user allows elsewhere.

By default cuDNN computes float32 convolutions in TF32, with 10 bits of mantissa.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 on a GPU in IEEE float32, deterministically, within the block.

    It works beside both of torch's interfaces, the older `allow_tf32` and `fp32_precision` (setting
    the older one raises where the user has set the newer), and leaves both as they were.
    """
    backends = torch.backends
    convolutions: Any = backends.cudnn.conv  # type: ignore[attr-defined]
    switches = (convolutions, backends.cuda.matmul)
    # What is inherited from the setting for all operations goes back to being inherited.
    inherited = backends.cudnn.fp32_precision
    before = [s.fp32_precision for s in switches]
    deterministic = backends.cudnn.deterministic
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        backends.cudnn.deterministic = True
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = "none" if precision == inherited else precision
        backends.cudnn.deterministic = deterministic
