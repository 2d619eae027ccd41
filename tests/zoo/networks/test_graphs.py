"""What is kept of captured graphs, on any machine: the capture itself needs a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import zoo
from zoo.networks.graphs import MOST, Graphs


class Counted:
    """Stands for a captured graph: a pool grows to what its largest needs."""

    made: list[tuple[object, int]]
    pools: dict[object, int]

    def __init__(self) -> None:
        self.made, self.pools = [], {}

    def pool(self) -> object:
        pool = object()
        self.pools[pool] = 0
        return pool

    def capture(self, function: Callable[[Tensor], Tensor], x: Tensor, pool: object) -> Graph:
        size = int(x.sum())
        added = max(0, size - self.pools[pool])
        self.pools[pool] += added
        self.made.append((pool, size))
        return Graph(function, added)


class Graph:
    def __init__(self, function: Callable[[Tensor], Tensor], added: int) -> None:
        self.function, self.bytes = function, added

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def graphs(limit: int) -> tuple[Graphs, Counted]:
    counted = Counted()
    return Graphs(limit, capture=counted.capture, pool=counted.pool), counted


def use(made: Graphs, size: int) -> None:
    assert made(size, lambda x: x + 1, torch.tensor([size])).item() == size + 1


def test_the_least_recently_used_goes() -> None:
    made, counted = graphs(10**9)
    for size in range(MOST):
        use(made, size)
    use(made, 0)
    use(made, MOST)  # 1 goes
    use(made, 0)
    assert [size for _, size in counted.made] == [*range(MOST), MOST]
    use(made, 1)
    assert [size for _, size in counted.made] == [*range(MOST + 1), 1]
    assert len(counted.pools) == 1


def test_a_pool_above_the_limit_is_left_with_its_graphs() -> None:
    made, counted = graphs(100)
    for size in (40, 90, 60):  # a pool of 90
        use(made, size)
    use(made, 150)  # needed, but not kept beside others
    assert len({pool for pool, _ in counted.made}) == 1
    held = [weakref.ref(graph) for graph in made._graphs.values()]
    assert len(held) == 4
    use(made, 30)
    assert not [graph for graph in held if graph() is not None]
    assert counted.made[-1][0] is not counted.made[-2][0]
    use(made, 20)
    assert counted.made[-1][0] is counted.made[-2][0]
    use(made, 150)
    assert len(counted.pools) == 2


def test_a_network_is_freed_with_its_last_reference() -> None:
    """Else its graphs keep the GPU's memory until the garbage collector happens to run."""
    network = zoo.load("s-resnet20-digits")
    network.run(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 2)
    backend = next(iter(network._backends.values()))
    held = weakref.ref(network), weakref.ref(backend)
    gc.disable()
    try:
        del network, backend
        assert [one() for one in held] == [None, None]
    finally:
        gc.enable()


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_the_stream_as_it_was() -> None:
    def function(x: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            raise ArithmeticError
        return x + 1

    ordinary, x = torch.cuda.current_stream(), torch.zeros(1, device="cuda")
    with pytest.raises(ArithmeticError):
        Graphs()("key", function, x)
    assert torch.cuda.current_stream() == ordinary
