"""Measure speed and memory on a GPU: the fused kernels against their peers and the chip's roofs.

    python -m benchmarks.gpu [--networks resnet50,...] [--timesteps 4,8,16,32] \\
      [--batches 1,8,64,256,512] [--budget SECONDS]
    python -m benchmarks.gpu --render        # the table, from the result file alone
    # A smoke run:
    python -m benchmarks.gpu --device cpu --backend interpret --networks resnet20 \\
      --timesteps 4 --batches 2

Networks have random integer weights at their real sizes: dense kernels take as long for them as for
trained ones, as long as spikes are as dense, since that decides what the chip draws. So thresholds
are set, one layer after another on noise images, to a firing rate at T = 32 of `--rate`: 0.12
spikes a neuron and timestep; the converted CIFAR-10 ResNet-20 and 56 have 0.135 and 0.145
(benchmarks/results/cifar10). Systems, each timed by CUDA events over rotating inputs after a
warm-up:

    zoo             `network(images, T)`: uint8 images on the GPU to logits, as one CUDA graph;
                    no statistics
    zoo-signed      the same with ternary spikes
    zoo-layerwise   one convolution a layer on counts
    torch           the torch backend on the same GPU
    spikingjelly-*  and ann: see benchmarks/gpu_peers.py; the ANN runs once and the table shows it
                    divided by T

No zoo system is timed before its logits equal the torch backend's, nor kept if they change while it
is timed (exit code 7). A peer's failure is a row; one that leaves the GPU unusable to the process
ends the run (exit code 7), and the same command goes on. Rows are written as they are measured; a
later run makes what is missing, and zoo and torch rows again when the code changed. `int8 roof` and
`memory roof` are the shares of the chip's peaks that a system's floor
(`benchmarks.gpu_peers.floor`) takes up.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.equality import command, facts, numbers, random_images, random_network, write
from benchmarks.gpu_peers import (
    DTYPES,
    NETWORKS,
    ROOFS,
    STEP_MODES,
    System,
    ann_system,
    floor,
    spikingjelly_system,
    why_not_spikingjelly,
)
from benchmarks.gpu_timing import OUT_OF_MEMORY, TRIES, failure, spread, timed, usable
from zoo.errors import GateError, UsageError, ZooError
from zoo.networks.architectures import topology
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PEERS = ("ann", "torch", "spikingjelly")
VARIANTS = ("if", "signed", "layerwise")
RATE_STEPS = 32
CHECKED = 4  # images of a batch whose logits are compared with the reference
INPUT_SETS = 3
HEADLINE = (32, 256)


@dataclass(frozen=True)
class Case:
    """One measurement; `timesteps` of the ANN is 1."""

    network: str
    system: str
    timesteps: int
    batch: int

    @property
    def key(self) -> str:
        return f"{self.network} {self.system} T={self.timesteps} batch {self.batch}"


def cases(
    networks: Sequence[str],
    timesteps: Sequence[int],
    batches: Sequence[int],
    peers: Sequence[str],
    variants: Sequence[str],
) -> list[Case]:
    """Return everything to measure, what tells most first.

    T = 32 in batches of 256, of two networks and of the others, then the zoo alone, then its peers.
    """
    ordered: list[tuple[tuple[int, ...], Case]] = []
    systems = ["zoo"] * ("if" in variants) + [peer for peer in peers if peer != "spikingjelly"]
    systems += (
        [f"spikingjelly-{d}-{m}" for d in DTYPES for m in STEP_MODES]
        if "spikingjelly" in peers
        else []
    )
    systems += [f"zoo-{variant}" for variant in variants if variant != "if"]
    head_steps = HEADLINE[0] if HEADLINE[0] in timesteps else max(timesteps)
    head_batch = HEADLINE[1] if HEADLINE[1] in batches else max(batches)
    for s, system in enumerate(systems):
        for steps in [1] if system == "ann" else timesteps:
            for batch in batches:
                # A library that stores every spike as a float may not fit a batch that size.
                headline = steps in (1, head_steps) and batch in (
                    (head_batch, 64) if "jelly" in system else (head_batch,)
                )
                order = (s, steps != head_steps, -steps, batch)
                for n, network in enumerate(networks):
                    first = (0 if n < 2 else 1) if headline else 2 if system == "zoo" else 3
                    ordered.append(((first, *order, n), Case(network, system, steps, batch)))
    return [case for _, case in sorted(ordered, key=lambda item: item[0])]


@torch.inference_mode()
def set_rates(
    network: SpikingResNet, images: Tensor, rate: float
) -> tuple[SpikingResNet, list[float]]:
    """Return the network with thresholds scaled for a firing rate, and the rates of its layers.

    Each layer fires at about `rate` over RATE_STEPS.
    """
    net, layers, out, rates = network.topology, dict(network.layers), {}, []
    sizes, stem = net.sizes(*images.shape[-2:]), layers[net.layers[0].name]
    out[IMAGE] = stem.current(network.pixels(images), RATE_STEPS)
    for spec in net.layers:
        layer, low, high = network.layers[spec.name], -6.0, 6.0
        source = out[spec.shortcut.source] if spec.shortcut else None
        for _ in range(12):
            middle = (low + high) / 2
            threshold = (layer.threshold * 2**middle).round().clamp(min=2).to(torch.int32)
            layers[spec.name] = replace(layer, threshold=threshold, v_init=threshold // 2)
            membrane = layers[spec.name].membrane(len(images), *sizes[spec.name], RATE_STEPS)
            steps = RATE_STEPS if spec.source == IMAGE else None
            out[spec.name] = layers[spec.name].run(out[spec.source], source, membrane, window=steps)
            got = (out[spec.name] != 0).float().mean().item()
            low, high = (middle, high) if got > rate else (low, middle)
        rates.append(got)
    scaled = SpikingResNet(
        net,
        layers,
        network.head,
        network.image_table,
        schedule=network.schedule,
        delay=network.delay,
    )
    return scaled, rates


@dataclass
class Bench:
    """Builds systems. `backend` is triton, or interpret in a smoke run on the CPU."""

    device: torch.device
    backend: Literal["triton", "interpret"]
    rate: float
    _networks: dict[tuple[str, str], tuple[SpikingResNet, list[float]]] = field(
        default_factory=dict
    )

    def network(self, name: str, variant: str) -> tuple[SpikingResNet, list[float]]:
        """Return a network of its own and its layers' firing rates.

        What is kept stays on the CPU, so that all that a case has on the GPU is its own.
        """
        neuron: Literal["if", "signed"] = "signed" if variant == "signed" else "if"
        if (name, neuron) not in self._networks:
            side, classes = NETWORKS[name]
            network = random_network(topology(name, num_classes=classes), neuron=neuron)
            images = random_images(2, 3, side, seed=1).to(self.device)
            network, rates = set_rates(network.to(self.device), images, self.rate)
            self._networks[name, neuron] = network.to("cpu"), rates
        kept, rates = self._networks[name, neuron]
        network = copy.deepcopy(kept)
        network.schedule = "layerwise" if variant == "layerwise" else "causal"
        return network, rates

    def system(self, case: Case) -> tuple[System, Tensor | None, list[float]]:
        """Return what to time, the expected logits and the layers' firing rates.

        The logits are those of the first images of input set 0, from the torch backend.
        """
        side, classes = NETWORKS[case.network]
        batches = [
            random_images(case.batch, 3, side, seed=i).to(self.device) for i in range(INPUT_SETS)
        ]
        if case.system == "ann":
            net = topology(case.network, num_classes=classes)
            return ann_system(net, batches, compiled=self.device.type == "cuda"), None, []
        if case.system.startswith("spikingjelly"):
            _, dtype, mode = case.system.split("-")
            net = topology(case.network, num_classes=classes)
            return spikingjelly_system(net, batches, case.timesteps, dtype, mode), None, []
        network, rates = self.network(case.network, case.system.removeprefix("zoo-"))
        reference = network.to(self.device).with_backend("torch")
        if case.system == "torch":
            chunk = HEADLINE[1]  # the default is made for a CPU's caches

            def run(i: int) -> Tensor:
                return reference.run(batches[i], case.timesteps, chunk=chunk).logits[-1]

            return System(run, INPUT_SETS, "no CUDA graph"), None, rates
        expected = reference(batches[0][:CHECKED], case.timesteps)
        fast = network.with_backend(self.backend)
        note = f"{self.backend}, CUDA graph" if self.backend == "triton" else self.backend
        return (
            System(lambda i: fast(batches[i], case.timesteps), INPUT_SETS, note),
            expected,
            rates,
        )


def measure(bench: Bench, case: Case, seconds: float) -> dict[str, Any]:
    """Return one row.

    Raises:
        GateError: a zoo system's logits are not the reference's.
    """
    gpu = bench.device.type == "cuda"
    gc.collect()
    if gpu:
        torch.compiler.reset()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
    # Peers get the fastest of cuDNN's algorithms for their shapes, found in the untimed runs.
    torch.backends.cudnn.benchmark = case.system.startswith(("ann", "spikingjelly"))
    system, expected, rates = bench.system(case)
    gc.collect()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    first = system.run(0).clone()
    if expected is not None and not torch.equal(first[: len(expected)], expected):
        raise GateError(
            f"{case.key}: logits differ from the torch backend's, so it is not timed: "
            "run benchmarks.equality"
        )
    if gpu:
        # torch.compile records its graph in the second call; the clocks of an idle chip are low.
        timed(system.run, system.inputs, bench.device, seconds)
    times = timed(system.run, system.inputs, bench.device, seconds, least=5 if gpu else 1)
    if expected is not None and not torch.equal(system.run(0), first):
        raise GateError(f"{case.key}: logits changed while it was timed: run benchmarks.equality")
    return {
        "images_per_second": case.batch / median(times),
        "seconds": spread(times),
        "runs": len(times),
        "note": system.note,
        "peak_mb": (torch.cuda.max_memory_allocated() - before) / 2**20 if gpu else None,
        "firing_rate": sum(rates) / len(rates) if rates else None,
        **shares(case, case.batch / median(times)),
    }


def shares(case: Case, speed: float) -> dict[str, float | None]:
    """Return the shares of the int8 and of the packed memory roof at `speed` images a second.

    None for the ANN and for chips not known.
    """
    roof = ROOFS.get(torch.cuda.get_device_name() if torch.cuda.is_available() else "")
    if roof is None or case.system == "ann":
        return {"int8_roof": None, "memory_roof": None}
    least = floor(
        case.network,
        1 if case.system == "zoo-layerwise" else case.timesteps,
        signed="signed" in case.system,
    )
    return {
        "int8_roof": speed * least.operations / roof.operations,
        "memory_roof": speed * least.bytes / roof.bandwidth,
    }


def is_done(row: dict[str, Any] | None, case: Case, now: dict[str, str]) -> bool:
    """Return whether a row stands.

    It does if it is of this GPU, of this code if it is the zoo's, and no failure that may pass:
    memory does not grow, and anything else is tried `TRIES` times.
    """
    if row is None or row["gpu"] != now["gpu"]:
        return False
    if row.get("failed", OUT_OF_MEMORY) != OUT_OF_MEMORY:
        return row.get("tries", 1) >= TRIES
    return (
        case.system == "ann"
        or case.system.startswith("spikingjelly")
        or row["sources"] == now["sources"]
    )


def table(report: dict[str, Any]) -> str:
    """Return the rows as Markdown.

    The ANN's speed is divided by T, and every row compared with that.
    """
    rows = {key: row for key, row in report["rows"].items() if "failed" not in row}
    present = {
        key: Case(row["network"], row["system"], row["timesteps"], row["batch"])
        for key, row in rows.items()
    }
    lines = [
        "| network | T | batch | system | images/s | spread | peak MB | int8 roof | memory roof "
        "| against ANN / T |"
    ]
    lines.append("|" + "---|" * 10)
    steps = sorted({case.timesteps for case in present.values() if case.system != "ann"})
    for key, case in sorted(
        present.items(),
        key=lambda item: (item[1].network, item[1].batch, item[1].system, item[1].timesteps),
    ):
        row = rows[key]
        ann = rows.get(Case(case.network, "ann", 1, case.batch).key)
        for t in steps if case.system == "ann" else [case.timesteps]:
            speed = row["images_per_second"] / (t if case.system == "ann" else 1)
            wide = (row["seconds"]["high"] - row["seconds"]["low"]) / row["seconds"]["median"]
            ratio = f"{speed / (ann['images_per_second'] / t):.2f} x" if ann else ""
            cells = [
                case.network,
                str(t),
                str(case.batch),
                "ann / T" if case.system == "ann" else case.system,
            ]
            cells += [
                f"{speed:,.1f}",
                f"{100 * wide:.0f} %",
                "" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}",
            ]
            cells += [
                "" if row[k] is None else f"{100 * row[k]:.1f} %"
                for k in ("int8_roof", "memory_roof")
            ]
            lines.append("| " + " | ".join([*cells, ratio]) + " |")
    failed = [f"{key}: {row['failed']}" for key, row in report["rows"].items() if "failed" in row]
    smoke = (
        ["A smoke run on a CPU: no speed here means anything.", ""] if report.get("smoke") else []
    )
    return "\n".join([*smoke, *lines, *[f"\nnot measured: {line}" for line in failed]])


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of words with commas between them, each of which must be known."""

    def parse(text: str) -> list[str]:
        words = [part for part in text.split(",") if part]
        if unknown := set(words) - set(known):
            raise argparse.ArgumentTypeError(
                f"{', '.join(sorted(unknown))} is unknown: use {', '.join(known)}"
            )
        return words

    return parse


def _checked(args: argparse.Namespace) -> None:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "there is no CUDA GPU here: run where there is one, or --device cpu "
            "--backend interpret to try the code"
        )
    if args.device == "cpu" and (
        args.backend != "interpret" or (args.out and args.out.resolve() == RESULTS.resolve())
    ):
        raise UsageError(
            "a run on the CPU is a smoke run: pass --backend interpret, and an --out other than "
            f"{RESULTS.name}"
        )


def _run(args: argparse.Namespace) -> None:
    started, now = time.perf_counter(), facts()
    out = args.out or (RESULTS if args.device == "cuda" else None)
    report: dict[str, Any] = (
        {"rows": {}} if out is None or not out.exists() else json.loads(out.read_text())
    )
    if args.device == "cpu":
        report["smoke"] = True
    elif report.get("smoke"):
        raise UsageError(f"{out} holds a smoke run: pass another --out")
    peers = list(args.peers)
    if "spikingjelly" in peers and (reason := why_not_spikingjelly()):
        print(f"spikingjelly is left out, {reason}", file=sys.stderr)
        peers.remove("spikingjelly")
    bench = Bench(torch.device(args.device), args.backend, args.rate)
    every = cases(args.networks, args.timesteps, args.batches, peers, args.variants)
    missing = [case for case in every if not is_done(report["rows"].get(case.key), case, now)]
    for name in args.networks:
        least = floor(name, HEADLINE[0])
        print(
            f"{name}, T = {HEADLINE[0]}, on an H200: {least.operations / 1e9:.1f} G operations and "
            f"{least.bytes / 1e6:.2f} MB an image, so at most {1 / least.seconds:,.0f} images/s",
            file=sys.stderr,
        )
    for index, case in enumerate(missing):
        if time.perf_counter() - started > args.budget:
            print(
                f"{len(missing) - index} of {len(missing)} measurements left: "
                "run the same command again",
                file=sys.stderr,
            )
            break
        try:
            row = measure(bench, case, args.seconds)
        except ZooError:
            raise
        except Exception as error:  # a peer's own failure is a finding, and not the end of the run
            row = failure(error, report["rows"].get(case.key))
            if case.system.startswith(("zoo", "torch")) and row["failed"] != OUT_OF_MEMORY:
                raise
        about = {
            "network": case.network,
            "system": case.system,
            "timesteps": case.timesteps,
            "batch": case.batch,
        }
        report["rows"][case.key] = {**about, **row, **now, "command": command("gpu")}
        if out is not None:
            write(out, json.dumps(report, indent=1) + "\n")
        speed = f"{row['images_per_second']:,.1f} images/s" if "failed" not in row else ""
        print(
            f"{time.perf_counter() - started:6.0f} s  {case.key}: {speed or row['failed']}",
            file=sys.stderr,
            flush=True,
        )
        if "failed" in row and not usable(bench.device):
            raise GateError(
                f"{case.key} left the GPU unusable for this process, {row['failed']}: run the same "
                f"command again (a failure is tried {TRIES} times, then left out)"
            )
    print(table(report))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", type=some_of(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--timesteps", type=numbers, default=(4, 8, 16, 32))
    parser.add_argument("--batches", type=numbers, default=(1, 8, 64, 256, 512))
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS))
    parser.add_argument("--variants", type=some_of(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--rate", type=float, default=0.12, help="spikes a neuron and timestep")
    parser.add_argument("--seconds", type=float, default=0.5, help="to repeat each measurement for")
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds after which no measurement begins"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backend", choices=("triton", "interpret"), default="triton")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--render", action="store_true", help="print the table of --out and stop")
    args = parser.parse_args(argv)
    if args.render:
        print(table(json.loads((args.out or RESULTS).read_text())))
        return
    try:
        _checked(args)
        _run(args)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
