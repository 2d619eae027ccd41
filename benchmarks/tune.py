"""Find the fastest tile of each layer on the GPU at hand and write it into the table of tiles.

    python -m benchmarks.tune [--networks resnet20,...] [--neuron if] [--timesteps 32] [--budget S]
    # The table again, from a result file alone; needs no GPU:
    python -m benchmarks.tune --apply RESULTS.json

For each key of `SpikingLayer.key` at real sizes, over a batch that fills the chip: candidate tiles,
ranked by the model of `benchmarks.aot` and pruned to what registers hold, are compiled in worker
processes, which also check their spikes against the torch reference on two images; those that fail,
spill or differ are left out. The others, whose spikes must equal the default tile's on the whole
batch, are timed as CUDA graphs over several input sets that together are larger than the L2 cache.
The default is timed first and last: a gain within the difference of the two is noise, and the
default stays.

The result file, benchmarks/results/tune-<gpu>.json, has every timing and is written after each key,
as the table is; keys that it has already for these kernels are skipped. Only causal layers are
tuned; the stem has no tile.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor

from benchmarks.aot import Case, modelled_roof
from benchmarks.equality import command, facts, random_network, random_spikes, sources, write
from benchmarks.gpu import some_of
from benchmarks.gpu_peers import NETWORKS, ROOFS
from benchmarks.gpu_timing import spread, timed
from zoo.errors import GateError, UsageError, ZooError
from zoo.kernels.spiking_conv import (
    PackedMembrane,
    PackedSpikes,
    SpikingConv,
    SpikingLayer,
    launch,
    pack,
    unpack,
)
from zoo.kernels.spiking_conv.tiles import TABLE, Tile, choose
from zoo.networks.architectures import topology
from zoo.networks.topology import IMAGE

RESULTS = Path(__file__).parent / "results"
_NEURONS = ("if", "signed")
# A thread's, for potentials, accumulators and spike words; the rest is for addresses and operands.
REGISTERS = 192
KERNELS = tuple(f"kernels/spiking_conv/{name}.py" for name in ("kernel", "primitives", "launch"))


@dataclass(frozen=True)
class Item:
    """A layer to tune.

    Attributes:
        network, name: where it stands.
        size, source_size, output: height and width.
        sources: channels of the shortcut's source, or 0.
    """

    network: str
    name: str
    neuron: Literal["if", "signed"]
    key: str
    size: tuple[int, int]
    source_size: tuple[int, int]
    output: tuple[int, int]
    sources: int
    case: Case

    def layer(self) -> SpikingConv:
        return _network(self.network, self.neuron).layers[self.name]


@functools.lru_cache(maxsize=2)
def _network(name: str, neuron: Literal["if", "signed"]) -> Any:
    return random_network(topology(name, num_classes=NETWORKS[name][1]), neuron=neuron)


def items(
    networks: Sequence[str], neurons: Sequence[Literal["if", "signed"]], side: int | None = None
) -> list[Item]:
    """Return the different layers of these networks behind their stems, by key."""
    by_key: dict[str, Item] = {}
    for neuron in neurons:
        for network in networks:
            net = topology(network)
            sizes = net.sizes(*[side or NETWORKS[network][0]] * 2)
            for spec in net.layers:
                if spec.source == IMAGE:
                    continue
                layer = SpikingLayer(_network(network, neuron).layers[spec.name])
                key = layer.key(*sizes[spec.name])
                kind, source, channels = "none", (0, 0), 0
                if spec.shortcut is not None:
                    kind, source = spec.shortcut.kind, sizes[spec.shortcut.source]
                    channels = net.channels[spec.shortcut.source]
                case = Case(neuron, spec.in_channels, spec.out_channels, spec.kernel, kind)
                sides = (sizes[spec.source], source, sizes[spec.name])
                item = Item(network, spec.name, neuron, key, *sides, channels, case)
                by_key.setdefault(key, item)
    return list(by_key.values())


def registers(tile: Tile, neuron: str) -> int:
    """Return the registers a thread that a tile must hold at least.

    Accumulators of a group, spike words, and net spikes (`signed`).
    """
    values = tile.group + (2 if neuron == "signed" else 1)
    return values * tile.pixels * tile.channels // (32 * tile.warps)


# Always measured: a model cannot weigh barriers and staging against the work of unpacking.
CONTESTED = (Tile(64, 32, 64, 8, 4, 3), Tile(64, 64, 64, 4, 4, 3), Tile(64, 128, 64, 4, 8, 3))


def candidates(item: Item, default: Tile, limit: int) -> list[Tile]:
    """Return at most `limit` tiles: the default, then those that may be faster.

    Best first by the model.
    """
    case, shapes = item.case, []
    sources = item.sources if case.shortcut == "projection" else case.inputs
    depths = [d for d in (64, 128, 32) if case.inputs % d == sources % d == 0] or [32]
    for pixels, group, warps in product((64, 128, 256), (8, 4, 2, 1), (4, 8)):
        for channels in (
            c for c in (16, 32, 64, 128, 256) if c <= max(16, 1 << (case.channels - 1).bit_length())
        ):
            shape = Tile(pixels, channels, depths[0], group, warps, 3)
            if 24 <= registers(shape, case.kind) <= REGISTERS:
                shapes.append(shape)
    shapes.sort(key=lambda tile: -modelled_roof(case, tile))
    # Half of them differ in what the model tells apart; then come variants of the best of those.
    others = [(depth, stages) for stages in (3, 4, 2) for depth in depths][1:]
    variants = [replace(shape, depth=d, stages=stages) for shape in shapes for d, stages in others]
    contested = [tile for tile in CONTESTED if tile.channels <= max(16, case.channels)]
    tiles = [default, *contested, *shapes[: limit // 2], *variants]
    return list(dict.fromkeys(tiles))[:limit]


def inputs(
    item: Item, batch: int, timesteps: int, device: torch.device, seed: int
) -> tuple[PackedSpikes, PackedSpikes | None]:
    """Return spikes of the layer's input and of its shortcut's source."""
    about = (timesteps, item.neuron == "signed", device)
    x = random_spikes((batch, *item.size, item.case.inputs), *about, seed)
    return x, random_spikes(
        (batch, *item.source_size, item.sources), *about, seed + 1
    ) if item.sources else None


class _Kept:
    """Stand-in for the module of kernels that keeps what a launch returns: the compiled kernel."""

    def __init__(self, module: Any) -> None:
        self.module, self.compiled = module, []

    def __getattr__(self, name: str) -> Any:
        kernel, compiled = getattr(self.module, name), self.compiled

        class Launch:
            def __getitem__(self, grid: Any) -> Callable[..., None]:
                return lambda **arguments: compiled.append(kernel[grid](**arguments))

        return Launch()


def check(item: Item, tile: Tile, timesteps: int, device: str, interpret: bool) -> dict[str, Any]:
    """Compile a tile, run it on two images and compare with the torch reference.

    Returns:
        registers and spills, or `error`.
    """
    where = torch.device(device)
    layer = item.layer().to(where)
    try:
        x, source = inputs(item, 2, timesteps, where, seed=7)
        kept = _Kept(launch.kernels(interpret))
        with mock.patch.object(launch, "kernels", lambda interpret: kept):
            got = (
                SpikingLayer(layer, interpret=interpret, tile=tile)
                .run(x, source, PackedMembrane(), save=False)
                .planes
            )
        membrane = layer.membrane(2, *item.output, timesteps)
        expected = layer.run(unpack(x), None if source is None else unpack(source), membrane)
        equal = torch.equal(got, pack(expected, item.neuron == "signed").planes)
    except Exception as error:  # a tile that cannot be compiled or launched is one that is not used
        try:
            torch.cuda.synchronize() if where.type == "cuda" else None
        except Exception:
            os._exit(1)  # a faulty kernel: this process can use the GPU no longer
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
    usage = {
        "registers": getattr(kept.compiled[0], "n_regs", None),
        "spills": getattr(kept.compiled[0], "n_spills", None),
    }
    return {**usage, **({} if equal else {"error": "spikes differ from the reference's"})}


class Checker:
    """Runs `check` in worker processes, since a faulty kernel ends the process it runs in.

    With no jobs it runs in this one.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def run(self, tiles: Sequence[Tile], *about: Any, item: Item) -> list[dict[str, Any]]:
        """Return the result of `check` for each tile."""
        if not self.jobs:
            return [check(item, tile, *about) for tile in tiles]
        self._pool = self._pool or ProcessPoolExecutor(
            self.jobs, multiprocessing.get_context("spawn")
        )
        pending = [self._pool.submit(check, item, tile, *about) for tile in tiles]
        results = []
        for tile, future in zip(tiles, pending, strict=True):
            try:
                results.append(future.result())
            except BrokenProcessPool:
                # This tile's process died, or one beside it: ask again, alone.
                self._pool = None
                results.append(_alone(item, tile, *about))
        return results


def _alone(*about: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(check, *about).result()
        except BrokenProcessPool:
            return {"error": "the GPU reported an error, or the process died"}


def batch_of(item: Item, processors: int) -> int:
    """Return the number of images that give every multiprocessor 16 tiles of 64 x 64.

    Between 8 and the executor's chunk.
    """
    tiles = item.output[0] * item.output[1] * item.case.channels / 4096
    return min(256, max(8, 1 << max(0, int(16 * processors / tiles) - 1).bit_length()))


def tune(
    item: Item,
    tiles: Sequence[Tile],
    checks: Sequence[dict[str, Any]],
    timesteps: int,
    batch: int,
    device: torch.device,
    interpret: bool = False,
    seconds: float = 0.1,
) -> dict[str, Any]:
    """Time the tiles that passed, the first (the default) twice.

    Raises:
        GateError: the default is wrong; where it spills it is only slow.
    """
    if "error" in checks[0]:
        raise GateError(
            f"{item.key}: the default tile fails ({checks[0]['error']}): run pytest -m gpu"
        )
    layer = item.layer().to(device)
    one = inputs(item, batch, timesteps, device, seed=1)
    size = sum(spikes.planes.numel() for spikes in one if spikes is not None)
    cache = (
        getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 2**26)
        if device.type == "cuda"
        else 0
    )
    sets = [
        one,
        *(
            inputs(item, batch, timesteps, device, seed=i)
            for i in range(2, 1 + min(8, max(2, -(-2 * cache // size))))
        ),
    ]

    def times_of(tile: Tile) -> tuple[list[float], Tensor]:
        fused = SpikingLayer(layer, interpret=interpret, tile=tile)
        planes = fused.run(*one, PackedMembrane(), save=False).planes
        run = _captured(
            lambda: [fused.run(*one, PackedMembrane(), save=False) for one in sets], device
        )
        if device.type == "cuda":
            # The clocks of a chip that waited for the compiler are low.
            timed(run, 1, device, seconds)
        return [
            t / len(sets)
            for t in timed(run, 1, device, seconds, least=10 if device.type == "cuda" else 1)
        ], planes

    first, expected = times_of(tiles[0])
    rows = [{**asdict(tiles[0]), **checks[0], **spread(first)}]
    for tile, checked in zip(tiles[1:], checks[1:], strict=True):
        row = {**asdict(tile), **checked}
        if row.get("spills"):
            row.setdefault("error", f"spills {row['spills']} registers")
        if "error" not in row:
            times, planes = times_of(tile)
            row |= (
                spread(times)
                if torch.equal(planes, expected)
                else {"error": "spikes differ from the default tile's"}
            )
        rows.append(row)
    again = median(times_of(tiles[0])[0])
    base, noise = min(rows[0]["median"], again), abs(rows[0]["median"] - again)
    best = min((row for row in rows if "error" not in row), key=lambda row: row["median"])
    best = best if best["median"] < base - noise else rows[0]
    case = item.case
    taps = case.kernel**2 * case.inputs + (item.sources if case.shortcut == "projection" else 0)
    operations = 2.0 * taps * case.channels * item.output[0] * item.output[1] * timesteps * batch
    return {
        "best": {name: best[name] for name in asdict(tiles[0])},
        "gain": base / min(best["median"], base),
        "noise": noise / base,
        "batch": batch,
        "timesteps": timesteps,
        "input_sets": len(sets),
        "operations_per_second": operations / best["median"],
        "default_again": again,
        "candidates": rows,
    }


def _captured(function: Callable[[], object], device: torch.device) -> Callable[[int], object]:
    """Return the function as a CUDA graph, so that launches do not show in its time."""
    if device.type != "cuda":
        return lambda _: function()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return lambda _: graph.replay()


def formatted(tables: dict[str, Any]) -> str:
    """Return the table of tiles as text, one tile a line."""
    text = json.dumps(tables, indent=1)
    return (
        re.sub(
            r"\{([^{}]+)\}",
            lambda tile: "{" + re.sub(r"\s*\n\s*", " ", tile[1]).strip() + "}",
            text,
        )
        + "\n"
    )


def apply(report: dict[str, Any], path: Path) -> None:
    """Write a report's best tiles into the table at `path`."""
    tables = json.loads(path.read_text() if path.exists() else TABLE.read_text())
    architecture = report["architecture"]
    if architecture not in tables:
        tables[architecture] = {**tables["sm_80"], "layers": {}}
    best = {key: row["best"] for key, row in report["layers"].items()}
    tables[architecture]["layers"] = dict(
        sorted({**tables[architecture]["layers"], **best}.items())
    )
    write(path, formatted(tables))


def _run(args: argparse.Namespace) -> None:
    started, now, device = (
        time.perf_counter(),
        facts() | {"kernels": sources(*KERNELS)},
        torch.device(args.device),
    )
    gpu = device.type == "cuda"
    architecture = launch.architecture(device) if gpu else "interpreted"
    path = args.results or RESULTS / f"tune-{re.sub('[^a-z0-9]+', '-', now['gpu'].lower())}.json"
    report: dict[str, Any] = {"architecture": architecture, "layers": {}}
    if path.exists():
        report = json.loads(path.read_text())
        if report["architecture"] != architecture:
            raise UsageError(
                f"{path} is of {report['architecture']}, and this is {architecture}: "
                "pass another --results"
            )
    checker = Checker(args.jobs if gpu else 0)
    processors = torch.cuda.get_device_properties(device).multi_processor_count if gpu else 1
    todo = items(args.networks, args.neuron, args.size)
    todo = [
        item for item in todo if not is_done(report["layers"].get(item.key), now, args.timesteps)
    ]
    for index, item in enumerate(todo):
        if time.perf_counter() - started > args.budget:
            print(
                f"{len(todo) - index} of {len(todo)} layers left: run the same command again",
                file=sys.stderr,
            )
            break
        kind = item.neuron + (" projection" if item.case.shortcut == "projection" else "")
        # A key's own entry would make the default of a second run the best of the first.
        default = choose(architecture, kind, item.case.channels, key="")
        tiles = candidates(item, default, args.candidates)
        checks = checker.run(tiles, args.timesteps, args.device, not gpu, item=item)
        batch = batch_of(item, processors) if gpu else 1
        row = tune(item, tiles, checks, args.timesteps, batch, device, interpret=not gpu)
        report["layers"][item.key] = {**row, **now, "command": command("tune")}
        write(path, json.dumps(report, indent=1) + "\n")
        apply(report, args.out)
        roof = ROOFS.get(now["gpu"])
        share = (
            ""
            if roof is None
            else f", {100 * row['operations_per_second'] / roof.operations:.1f} % of the int8 peak"
        )
        used = sum("error" not in tried for tried in row["candidates"])
        print(
            f"{time.perf_counter() - started:6.0f} s  {item.key:42} {row['gain']:.2f} x the "
            f"default (noise {row['noise']:.2f}){share}; {used} of {len(tiles)} tiles usable",
            flush=True,
        )


def is_done(row: dict[str, Any] | None, now: dict[str, str], timesteps: int) -> bool:
    """Return whether a key's row stands: of this GPU, of these kernels, at these timesteps."""
    wanted = (now["gpu"], now["kernels"], timesteps)
    return row is not None and (row["gpu"], row["kernels"], row["timesteps"]) == wanted


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", "--arch-networks", type=some_of(NETWORKS), default=list(NETWORKS)
    )
    parser.add_argument("--neuron", type=some_of(_NEURONS), default=list(_NEURONS))
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=24, help="tiles to try for a layer")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(12, os.cpu_count() or 1),
        help="processes that compile and check",
    )
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds after which no layer begins"
    )
    parser.add_argument("--out", type=Path, default=TABLE, help="the table of tiles")
    parser.add_argument("--results", type=Path)
    parser.add_argument(
        "--apply", type=Path, metavar="RESULTS", help="write the table from this file and stop"
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: try the code in the interpreter",
    )
    parser.add_argument("--size", type=int, help="side of the image, to try the code")
    args = parser.parse_args(argv)
    try:
        if args.apply:
            apply(json.loads(args.apply.read_text()), args.out)
            return
        if args.device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                "there is no CUDA GPU here: run where one is; --apply writes the table from results"
            )
        if args.device == "cpu" and (args.results is None or args.out.resolve() == TABLE.resolve()):
            raise UsageError(
                "tiles are not tuned on a CPU: to try the code, pass its own --out and --results"
            )
        _run(args)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
