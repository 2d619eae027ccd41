"""Measure speed and memory on a CPU: this commit, an earlier one, a hand-written loop, and peers.

    git worktree add ../before 3187027
    (cd ../before && python -m benchmarks.memory --prepare ../random50 resnet50 1)
    python -m benchmarks.cpu CHECKPOINT --before ../before --resnet50 ../random50/network \\
      [--rounds 7] [--threads 2] [--out FILE.json]

CHECKPOINT is an ANN of ResNet-20's shapes, for the loop. Networks are `s-resnet20` and
`s-resnet20-signed`, which ship with both commits, and a ResNet-50 at 224 pixels of random integers;
pixels are random, which changes nothing: every system computes dense convolutions. T = 32. Systems,
each in a process of its own that lives from the first round to the last:

    loop            per timestep and layer: conv2d, add, compare, subtract; float32, torch's default
                    layout
    loop-cl         the same in channels_last
    before, zoo     SpikingResNet.run, logits at every timestep; -signed and -resnet50 likewise
    zoo-statistics  the same with spikes per neuron counted
    zoo-layerwise   the network run on counts, T = 32
    spikingjelly, sinabs, snntorch      `benchmarks.peers`, where they are installed

After a warm-up of each, every round runs every system once, one after another, so that whatever
else the machine does falls on all alike; ratios are medians over the rounds of two runs of one
round. `cpu_seconds` is processor time of all threads. Peak memory is the process's peak less what
it held before its first run. Shares of a run are by torch's profiler.

Floor: operations are 40.8 MMAC an image and timestep behind the stem; at T = 32 that is 1.31 GMAC
an image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STEPS = 32
LOOPS = ("loop", "loop-cl")
PEERS = ("spikingjelly", "sinabs", "snntorch")
PEER_ROUNDS = 3  # they are slow, and far off
SYSTEMS = (
    *LOOPS,
    *("before", "zoo", "before-signed", "zoo-signed", "zoo-statistics", "zoo-layerwise"),
    *("before-resnet50", "zoo-resnet50"),
    *PEERS,
)
# A ratio to report, and what it divides.
RATIOS = {
    "zoo": ("before", "loop"),
    "zoo-signed": ("before-signed", "loop"),
    "zoo-resnet50": ("before-resnet50",),
    "loop-cl": ("loop",),
    "before": ("loop",),
    "zoo-statistics": ("loop",),
    "zoo-layerwise": ("loop",),
} | dict.fromkeys(PEERS, ("loop", "zoo"))
# Operations of torch that a share is made of; the compiled neurons are seen as "neuron".
SHARES = {
    "convolution": r"onednn::qconv|aten::mkldnn_convolution|aten::_convolution|aten::addmm",
    "neuron": r"neuron|aten::(ge|lt|gt|add_|addcmul_|sub_|mul_?|div|floor_|clamp_)$",
    "copies": r"aten::(copy_|clone|cat|fill_|zero_)$",
}


def batch_of(system: str) -> int:
    """Return the images of a run."""
    return 2 if system.endswith("resnet50") else 50


def plain_loop(
    artifact_folder: Path, checkpoint: Path, channels_last: bool
) -> Callable[[], object]:
    """Return the loop without the zoo: float weights, spikes of amplitude theta, step by step."""
    import torch
    from torch.nn import functional as F

    from zoo.artifact.folder import read_artifact
    from zoo.networks.resnet import identity_shortcut
    from zoo.networks.topology import IMAGE
    from zoo.pretrained.checkpoint import read_checkpoint

    config, tensors = read_artifact(artifact_folder)
    source = read_checkpoint(checkpoint, config.arch)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    params = {
        k: v.contiguous(memory_format=layout) if v.ndim == 4 else v
        for k, v in source.params.items()
    }
    theta = {
        spec.name: (tensors[f"{spec.name}.threshold"] * tensors[f"{spec.name}.scale"]).view(
            -1, 1, 1
        )
        for spec in source.net.layers
    }
    image = torch.randn(50, *config.preprocess.input_size).contiguous(memory_format=layout)

    @torch.inference_mode()
    def run() -> object:
        logits = 0
        v: dict[str, torch.Tensor] = {}
        for _ in range(STEPS):
            out = {IMAGE: image}
            for spec in source.net.layers:
                z = F.conv2d(
                    out[spec.source],
                    params[f"{spec.name}.weight"],
                    params[f"{spec.name}.bias"],
                    spec.stride,
                    spec.padding,
                )
                if spec.shortcut is not None:
                    z = z + identity_shortcut(out[spec.shortcut.source], spec.shortcut)
                name = spec.name
                if name not in v:
                    v[name] = torch.zeros_like(z) + theta[name] / 2
                v[name] += z
                spike = (v[name] >= theta[name]).float() * theta[name]
                v[name] -= spike
                out[name] = spike
            logits = logits + F.linear(
                out[source.net.layers[-1].name].mean((2, 3)), params["fc.weight"], params["fc.bias"]
            )
        return logits

    return run


def load_network(folder: Path) -> Any:
    """Return the network of an artifact, by the interface of either commit."""
    try:
        from zoo.artifact.folder import read_artifact
        from zoo.artifact.tensors import network_of
    except ModuleNotFoundError:
        from zoo import artifact

        return artifact.network_of(*artifact.read(folder))  # type: ignore[attr-defined]
    from zoo.files import cache_folder
    from zoo.kernels.spiking_conv.compiled import LIBRARY

    LIBRARY.build(cache_folder())
    return network_of(*read_artifact(folder))


def zoo_run(system: str, folder: Path) -> Callable[[], object]:
    """Return a run of the network on random pixels."""
    import torch

    network = load_network(folder)
    network.schedule = "layerwise" if system == "zoo-layerwise" else "causal"
    side = 224 if system.endswith("resnet50") else 32
    images = torch.randint(0, 256, (batch_of(system), 3, side, side), dtype=torch.uint8)
    snapshots = (STEPS,) if system == "zoo-statistics" else ()
    return lambda: network.run(images, STEPS, snapshots=snapshots)


def system_run(system: str, place: Path, checkpoint: Path) -> Callable[[], object]:
    """Return a run of a system; raise ImportError if its library is not installed."""
    if system in LOOPS:
        return plain_loop(place, checkpoint, system == "loop-cl")
    if system in PEERS:
        import torch

        from benchmarks.peers import peer_run

        images = torch.randint(0, 256, (batch_of(system), 3, 32, 32), dtype=torch.uint8)
        return peer_run(system, "resnet20", images, STEPS)
    return zoo_run(system, place)


def memory(kind: str) -> float:
    """Return resident memory of this process in MB: `VmHWM`, the peak, or `VmRSS`."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def shares(run: Callable[[], object]) -> dict[str, float]:
    """Return what share of a run is convolution, neurons, copies, and the rest."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    try:
        from zoo.kernels.spiking_conv.compiled import CompiledNeuron
    except ModuleNotFoundError:
        CompiledNeuron = None  # type: ignore[assignment,misc]
    if CompiledNeuron is not None:
        plain = CompiledNeuron.__call__

        def named(*values: Any, **more: Any) -> None:
            with record_function("neuron"):
                plain(*values, **more)

        CompiledNeuron.__call__ = named  # type: ignore[method-assign]
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    total = sum(times.values())
    found = {
        name: sum(spent for key, spent in times.items() if re.search(pattern, key)) / total
        for name, pattern in SHARES.items()
    }
    return {**found, "rest": 1 - sum(found.values())}


def work(system: str, place: Path, checkpoint: Path, threads: int) -> None:
    """Be the process of one system: a line on stdin is one run, a line on stdout what it took."""
    import torch

    torch.set_num_threads(threads)
    try:
        run = system_run(system, place, checkpoint)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    before = memory("VmRSS")
    run()
    print(json.dumps({"peak_mb": memory("VmHWM") - before}), flush=True)
    for line in sys.stdin:
        if line.strip() == "shares":
            print(json.dumps(shares(run)), flush=True)
            continue
        started, used = time.perf_counter(), time.process_time()
        run()
        spent = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - used,
        }
        print(json.dumps(spent), flush=True)


class Worker:
    """The process of one system."""

    def __init__(self, system: str, place: Path, args: argparse.Namespace) -> None:
        code = args.before if system.startswith("before") else ROOT
        command = [sys.executable, __file__, str(args.checkpoint.resolve()), "--work", system]
        command += ["--place", str(place.resolve()), "--threads", str(args.threads)]
        paths = [str(code.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command,
            cwd=code,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next line of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.process.args} ended")
        result: dict[str, Any] = json.loads(line)
        return result

    def ask(self, what: str = "run") -> dict[str, Any]:
        """Return what one run took, or its `shares`."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def place_of(system: str, args: argparse.Namespace) -> Path:
    """Return the artifact that a system runs: one that both commits have."""
    if system.endswith("resnet50"):
        network: Path = args.resnet50
        return network
    name = "s-resnet20-signed" if system.endswith("signed") else "s-resnet20"
    models: Path = args.before / "zoo" / "models"
    return models / name


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--before", type=Path, help="a worktree of the commit to compare with")
    parser.add_argument("--resnet50", type=Path, help="an artifact of a ResNet-50")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--work", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.place, args.checkpoint, args.threads)
        return
    from zoo.environment import versions

    workers = {system: Worker(system, place_of(system, args), args) for system in SYSTEMS}
    absent = {name: w.first["missing"] for name, w in workers.items() if "missing" in w.first}
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
        del workers[name]
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in workers}
    for number in range(args.rounds):
        for system, worker in workers.items():
            if system not in PEERS or number < PEER_ROUNDS:
                rounds[system].append(worker.ask())
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    report: dict[str, Any] = {}
    for system, runs in rounds.items():
        batch, seconds = batch_of(system), [run["seconds"] for run in runs]
        report[system] = {
            "images_per_second": batch / median(seconds),
            "best_images_per_second": batch / min(seconds),
            "images_per_cpu_second": batch / median(run["cpu_seconds"] for run in runs),
            "peak_mb": workers[system].first["peak_mb"],
            "ratio_to": {
                base: median(
                    other["seconds"] / run["seconds"]
                    for run, other in zip(runs, rounds[base], strict=False)
                )
                for base in RATIOS.get(system, ())
            },
            "ratio_of_bests_to": {
                base: min(run["seconds"] for run in rounds[base]) / min(seconds)
                for base in RATIOS.get(system, ())
            },
        }
    for system in report.keys() & {"zoo", "zoo-signed", "zoo-resnet50", "before"}:
        report[system]["shares"] = workers[system].ask("shares")
    for worker in workers.values():
        worker.end()
    head = ["git", "rev-parse", "--short", "HEAD"]
    commits = {
        name: subprocess.run(head, cwd=folder, capture_output=True, text=True).stdout.strip()
        for name, folder in (("zoo", ROOT), ("before", args.before))
    }
    facts = {
        "command": f"python -m benchmarks.cpu CHECKPOINT --before DIR --resnet50 DIR "
        f"--rounds {args.rounds} --threads {args.threads}",
        "commits": commits,
        "timesteps": STEPS,
        "rounds": args.rounds,
        "peer_rounds": min(args.rounds, PEER_ROUNDS),
        "load_average": os.getloadavg()[0],
        "versions": versions() | {"threads": str(args.threads)} | installed(workers),
    }
    args.out.write_text(json.dumps({**facts, "systems": report}, indent=1) + "\n")
    for system, row in report.items():
        ratios = ", ".join(f"{value:.2f} x {base}" for base, value in row["ratio_to"].items())
        print(
            f"{system:16} {row['images_per_second']:9.2f} images/s {row['peak_mb']:8.1f} MB  "
            f"{row['images_per_cpu_second']:9.2f} images a CPU second  {ratios}"
        )


def installed(systems: Any) -> dict[str, str]:
    """Return the versions of the peers that took part."""
    from importlib.metadata import version

    return {name: version(name) for name in PEERS if name in systems}


if __name__ == "__main__":
    main()
