"""Whether torch.compile works on this machine."""

from __future__ import annotations

import torch


def can_compile(device: str) -> bool:
    """Return True if torch.compile makes code here that gives what torch gives.

    It needs a C++ compiler on a CPU, Triton and a C compiler on a GPU: a small function is compiled
    and compared.
    """
    x = torch.linspace(-2, 2, 64, device=device)

    def small(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * 2 + 1)

    try:
        return torch.equal(torch.compile(small)(x), small(x))
    except Exception:  # of many kinds, by what is missing
        return False
