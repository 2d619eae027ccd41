"""Compare the ways to run the neurons of a window on a CPU, beside each other in one process.

    python -m benchmarks.neurons [--rounds 7] [--threads 2] [--out FILE.json]

    operations   torch operations in place, as a machine without a compiler runs them
    compiled     torch.compile (Inductor's C++) for exactly this shape, of the quickest form that
                 was found: one that returns each timestep's spikes. Stacked they take 5 times as
                 long, written into the arguments 10 to 30 times
    library      `kernels/spiking_conv/csrc/neuron.cpp`, built once for every shape

Each fires the neurons of one window, of as many timesteps as the reference convolves at once, on
float32 currents that hold integers. Spikes and potentials of all three must be equal (exit code 7
if not); then every round runs each way once, in turns, and the median is reported in nanoseconds a
neuron and timestep. `first_seconds` is the first call, in which torch.compile compiles with an
empty cache; a library is built once for all shapes, in `build_seconds`.

Floor: a timestep reads 4 bytes of current and writes 1 of spike, a window reads and writes 4 bytes
of potential: at 8 timesteps 6 bytes a neuron and timestep.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).parent / "results" / "neurons.json"
WAYS = ("operations", "compiled", "library")
# Images, channels and side of layers of ResNet-20 in batches of 50, and of ResNet-50 in one of 2.
SHAPES = {
    "resnet20, 32 px": (50, 16, 32),
    "resnet20, 8 px": (50, 64, 8),
    "resnet50, 56 px": (2, 256, 56),
}
BITS = {"if": 1, "signed": 1, "multi-level": 4}


def operations(kind: str, top: int) -> Callable[..., None]:
    """Return a function of v, emitted, currents, bias, threshold and spikes, updated in place.

    It takes the steps of `SpikingConv.run`.
    """
    import torch
    from torch import Tensor

    def run(
        v: Tensor, emitted: Tensor, currents: Tensor, bias: Tensor, threshold: Tensor, out: Tensor
    ) -> None:
        for step in range(len(currents)):
            v.add_(currents[step]).add_(bias[step])
            if top == 1:
                fired = torch.ge(v, threshold).float()
            else:
                fired = torch.div(v, threshold).floor_().clamp_(0, top)
            if kind == "signed":
                fired = fired - ((v < 0) & (emitted > 0)).float()
                emitted.add_(fired)
            v.sub_(fired * threshold)
            out[step].copy_(fired)

    return run


def functional(kind: str, top: int) -> Callable[..., Any]:
    """Return a function that returns potentials, net spikes, and the spikes of each timestep."""
    import torch
    from torch import Tensor

    def run(
        v: Tensor, emitted: Tensor, currents: Tensor, bias: Tensor, threshold: Tensor
    ) -> tuple[Tensor, ...]:
        spikes = []
        for step in range(len(currents)):
            v = v + currents[step] + bias[step]
            if top == 1:
                fired = torch.ge(v, threshold).float()
            else:
                fired = torch.div(v, threshold).floor().clamp(0, top)
            if kind == "signed":
                fired = fired - ((v < 0) & (emitted > 0)).float()
                emitted = emitted + fired
            v = v - fired * threshold
            spikes.append(fired.to(torch.int8))
        return v, emitted, *spikes

    return run


def measure(kind: str, shape: tuple[int, int, int], rounds: int, library: Any) -> dict[str, Any]:
    """Return the figures of one kind of neuron on one layer; raise SystemExit(7) if they differ."""
    import torch
    from torch import Tensor

    from zoo.kernels.spiking_conv.reference import CURRENTS

    torch._dynamo.reset()
    batch, channels, side = shape
    neurons = batch * channels * side * side
    steps, top = min(32, max(1, CURRENTS // neurons)), 2 ** BITS[kind] - 1
    gen = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=gen).float()

    currents = integers(-40, 60, steps, batch, side, side, channels)
    bias, threshold = integers(-3, 4, steps, channels), integers(50, 90, channels)
    start = integers(0, 40, batch, side, side, channels)

    made = torch.compile(functional(kind, top))
    returned: list[Tensor] = []

    def compiled(*tensors: Tensor) -> None:
        returned[:] = made(*tensors[:-1])

    def by_library(
        v: Tensor, emitted: Tensor, currents: Tensor, bias: Tensor, threshold: Tensor, out: Tensor
    ) -> None:
        net = emitted if kind == "signed" else None
        library(v, net, currents, None, None, None, bias, threshold, out.view(torch.uint8), top)

    ways = {"operations": operations(kind, top), "compiled": compiled, "library": by_library}
    state: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    first: dict[str, float] = {}
    for name, run in ways.items():
        v, emitted = start.clone(), torch.zeros_like(start)
        spikes = torch.full(currents.shape, 77, dtype=torch.int8)
        begun = time.perf_counter()
        run(v, emitted, currents, bias, threshold, spikes)
        first[name] = time.perf_counter() - begun
        state[name] = (v, emitted, spikes)
    state["compiled"] = (returned[0], returned[1], torch.stack(returned[2:]))
    for name, found in state.items():
        if not all(map(torch.equal, found, state["operations"])):
            print(f"{kind}, {shape}: {name} differs from torch operations")
            raise SystemExit(7)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in ways.items():
            begun = time.perf_counter()
            run(*state[name][:2], currents, bias, threshold, state[name][2])
            seconds[name].append(time.perf_counter() - begun)
    each = {name: median(times) / (neurons * steps) * 1e9 for name, times in seconds.items()}
    return {
        "steps": steps,
        "neurons": neurons,
        "spikes": int(state["library"][2].ne(0).sum()),
        "nanoseconds": each,
        "first_seconds": first,
    }


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        # Read by torch when it compiles first: what was compiled before must not count.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        import torch

        from zoo.environment import versions
        from zoo.kernels.spiking_conv.compiled import LIBRARY

        torch.set_num_threads(args.threads)
        begun = time.perf_counter()
        library = LIBRARY.build(Path(cache))
        if library is None:
            raise SystemExit(f"no library: {LIBRARY.reason}")
        facts = {
            "command": f"python -m benchmarks.neurons --rounds {args.rounds} "
            f"--threads {args.threads}",
            "rounds": args.rounds,
            "build_seconds": time.perf_counter() - begun,
            "form": library.form,
            "load_average": os.getloadavg()[0],
            "versions": versions() | {"threads": str(args.threads)},
        }
        rows = [
            {"layer": layer, "neuron": kind} | measure(kind, shape, args.rounds, library)
            for layer, shape in SHAPES.items()
            for kind in BITS
        ]
    args.out.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    for row in rows:
        each = ", ".join(f"{name} {value:.3f} ns" for name, value in row["nanoseconds"].items())
        print(
            f"{row['layer']:16} {row['neuron']:12} {each}; compiled first after "
            f"{row['first_seconds']['compiled']:.1f} s"
        )
    print(f"library built in {facts['build_seconds']:.1f} s ({facts['form']})")


if __name__ == "__main__":
    main()
