"""CUDA graphs of a network: one launch a run instead of some 200, for a bound on their memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
from torch import Tensor

MOST = 4
# Of a GPU's memory: two runs of a signed ResNet-152 in windows would else keep all of an H100's.
_SHARE = 4


class Captured(Protocol):
    """A function of one tensor that can be run again.

    Attributes:
        bytes: of memory that capturing it added to the pool.
    """

    bytes: int

    def __call__(self, x: Tensor) -> Tensor: ...


class Graphs:
    """Captured functions by key; of more than `MOST`, the least recently used is dropped.

    They run one after another and what they return is copied out, so they share one pool of memory,
    which grows to what the largest needs. It is given back with its last graph alone: a pool of
    more than `limit` bytes is left, with all its graphs, before another graph is captured.

    Args:
        limit: in bytes; by default a quarter of the GPU's memory.
        capture: makes a graph of a function, an example of its input, and a pool.
        pool: makes a pool.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        capture: Callable[[Callable[[Tensor], Tensor], Tensor, Any], Captured] | None = None,
        pool: Callable[[], Any] | None = None,
    ) -> None:
        self._limit = limit
        self._capture = capture or _Graph
        self._new_pool = pool or torch.cuda.graph_pool_handle
        self._graphs: dict[Hashable, Captured] = {}
        self._pool: Any = None
        self._bytes = 0

    def __call__(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `function(x)` by the graph of `key`, which is captured at its first call."""
        graph = self._graphs.pop(key, None)
        if graph is None:
            graph = self._captured(function, x)
        self._graphs[key] = graph  # the most recently used is the last
        return graph(x)

    def _captured(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Captured:
        while len(self._graphs) >= MOST:
            del self._graphs[next(iter(self._graphs))]
        if self._limit is None:
            self._limit = torch.cuda.get_device_properties(x.device).total_memory // _SHARE
        if self._bytes > self._limit:
            self._graphs.clear()
        if not self._graphs:
            self._pool, self._bytes = self._new_pool(), 0
        graph = self._capture(function, x, self._pool)
        self._bytes += graph.bytes
        return graph


class _Graph:
    """A function of one tensor captured as a CUDA graph."""

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor, pool: Any) -> None:
        device = example.device
        # Streams and a capture belong to the current device, which need not be the example's.
        with torch.cuda.device(device):
            self.input = example.clone()
            side = torch.cuda.Stream(device)
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                function(self.input)  # compiles and allocates what a capture must not
            torch.cuda.current_stream(device).wait_stream(side)
            # The run before left its memory to the allocator; graphs take theirs from the pool.
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved(device)
            self.graph = torch.cuda.CUDAGraph()
            ordinary = torch.cuda.current_stream(device)
            try:
                # The default stream of a capture is of the device that was current first.
                with torch.cuda.graph(self.graph, pool=pool, stream=side):
                    self.output = function(self.input)
            finally:
                # Where a capture fails torch leaves its stream current.
                torch.cuda.set_stream(ordinary)
            self.bytes = max(0, torch.cuda.memory_reserved(device) - before)

    def __call__(self, x: Tensor) -> Tensor:
        with torch.cuda.device(x.device):
            self.input.copy_(x)
            self.graph.replay()
            return self.output.clone()
