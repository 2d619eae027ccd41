"""One evaluation by several processes that torch's own launcher started.

Under torchrun each process takes every N-th batch. They exchange text alone, over gloo on the CPU,
so that nothing depends on what each computes on.
"""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from datetime import timedelta

from zoo.errors import UsageError

# How long one process waits for the others, which may have begun with much longer shares.
_PATIENCE = timedelta(days=7)


def pick_device(name: str, backend: str = "auto") -> str:
    """Return "cpu" or "cuda" for `name`, which may be "auto", and select this process's own GPU.

    The interpreter (`backend="interpret"`) runs on the CPU.

    Raises:
        UsageError: `name` is "cuda" and torch finds no GPU.
    """
    if name == "cpu" or (name == "auto" and backend == "interpret"):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(current_ranks().local % torch.cuda.device_count())
        return "cuda"
    if name == "cuda":
        raise UsageError(
            'torch finds no CUDA GPU here: use `device="cpu"`, or install a CUDA build of torch'
        )
    return "cpu"


@dataclass(frozen=True)
class Ranks:
    """The place of this process among all that work together.

    Attributes:
        rank: its number, from 0.
        world: number of processes.
        local: its number among those of the same machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """True for the process that prints and writes."""
        return self.rank == 0

    def exchange(self, text: str) -> list[str]:
        """Return the text of every process, by rank; each process has to call it."""
        if self.world == 1:
            return [text]
        import torch
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            # Left to the interpreter's end, gloo's threads can outlive what they use and abort the
            # process (seen under load).
            atexit.register(dist.destroy_process_group)
        data = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]))
        longest = int(torch.stack(sizes).max())
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))))
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in parts]


def current_ranks() -> Ranks:
    """Return the ranks that the launcher set in the environment; a single process without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(name in os.environ for name in names):
        return Ranks()
    rank, world, local = (int(os.environ[name]) for name in names[:3])
    return Ranks(rank, world, local)
