"""Run every shipped tile with every layer that `benchmarks.aot` compiles it for, emulated.

    python -m tests.kernels.emulator.tiles --out benchmarks/results/tiles-emulated.json

Spikes, potentials, net spikes and counts must equal the reference's. Exit code 7 when one does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import aot, equality
from tests.kernels.kernel_fixtures import Backend, Shape, check, random_inputs, random_layer
from tests.kernels.test_kernel import check_count
from zoo.kernels.spiking_conv.tiles import Tile

from .launch import ARCHITECTURES, Emulator

SIZE = (7, 7)  # of an image: less than one tile, and the edges of all of them


def run_tile(case: aot.Case, tile: Tile, seed: int) -> None:
    """Run a random layer of a case under a tile, on an emulated backend.

    Raises:
        AssertionError: something differs from the reference.
        EmulationError: the compiled kernel is wrong.
    """
    gen = np.random.default_rng(seed)
    sources = {"none": 0, "identity": case.channels, "projection": case.inputs}[case.shortcut]
    shape = Shape(case.kernel, 1, case.inputs, case.channels, case.shortcut, sources)
    backend, signed = Backend("cpu", False), case.kind == "signed"
    if case.kind == "layerwise":
        check_count(backend, shape, random_layer(shape, gen), gen, 20, tile, 1, SIZE)
        return
    bits = 4 if case.kind == "multi-level" else 1
    layer = random_layer(shape, gen, case.kind, bits=bits)
    # Two planes, the second not full.
    x, source = random_inputs(shape, layer, gen, 11 if bits == 1 else 3, 1, SIZE, signed)
    check(backend, layer, x, source, signed=signed, tile=tile)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHITECTURES, action="append")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for architecture in args.arch or ARCHITECTURES:
        emulator = Emulator(architecture)
        for seed, (case, tile) in enumerate(dict.fromkeys(aot.shipped(architecture))):
            started, problem = time.perf_counter(), ""
            try:
                with emulator.installed():
                    run_tile(case, tile, seed)
            except Exception as error:  # whatever is wrong belongs into the report
                problem = f"{type(error).__name__}: {error}"[:500]
            seconds = round(time.perf_counter() - started, 2)
            results.append(
                {
                    "architecture": architecture,
                    "case": case.name,
                    "tile": asdict(tile),
                    "equal": not problem,
                    **({"problem": problem} if problem else {}),
                    "seconds": seconds,
                }
            )
            print(f"{architecture} {case.name:42} {problem or 'equal'} {seconds} s", flush=True)
    equal = all(result["equal"] for result in results)
    report = {
        "equal": equal,
        "cases": len(results),
        "copies": "poisoned",
        **equality.facts(),
        "command": " ".join(["python", "-m", "tests.kernels.emulator.tiles", *sys.argv[1:]]),
        "results": results,
    }
    equality.write(args.out, json.dumps(report, indent=1) + "\n")
    if not equal:
        print("error: a tile differs from the reference", file=sys.stderr)
        raise SystemExit(7)


if __name__ == "__main__":
    main()
