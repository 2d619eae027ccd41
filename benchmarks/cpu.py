"""Measure speed and memory on the CPU against the loop a competent user would write, in one run.

    python -m benchmarks.cpu ARTIFACT CHECKPOINT [--rounds 3] [--threads 2] [--out FILE.json]

ARTIFACT is a causal int8 artifact and CHECKPOINT the ANN it came from (ResNet-20, CIFAR-10 size);
pixels are random, which changes nothing: every system computes dense convolutions. Batch 50,
T = 32. Systems, each in a process of its own, in turns, a warm-up first:

    loop            per timestep and layer: conv2d, add, compare, subtract; float32, torch's default
                    layout
    loop-cl         the same in channels_last
    zoo             SpikingResNet.run, logits at every timestep
    zoo-statistics  the same with spikes per neuron counted
    zoo-layerwise   the network run on counts, T = 32

Floor: operations are 40.8 MMAC an image and timestep behind the stem; at T = 32 that is 1.31 GMAC
an image. Peak memory is the process's peak less what it held before its first run.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

BATCH, STEPS = 50, 32
SYSTEMS = ("loop", "loop-cl", "zoo", "zoo-statistics", "zoo-layerwise")
RESULTS = Path(__file__).parent / "results"


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
    image = torch.randn(BATCH, *config.preprocess.input_size).contiguous(memory_format=layout)

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


def zoo_run(artifact_folder: Path, statistics: bool, layerwise: bool) -> Callable[[], object]:
    """Return a run of the network on random pixels."""
    import torch

    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.files import cache_folder
    from zoo.kernels.spiking_conv.compiled import LIBRARY

    config, tensors = read_artifact(artifact_folder)
    LIBRARY.build(cache_folder())
    network = network_of(config, tensors)
    network.schedule = "layerwise" if layerwise else "causal"
    images = torch.randint(0, 256, (BATCH, *config.preprocess.input_size), dtype=torch.uint8)
    return lambda: network.run(images, STEPS, snapshots=(STEPS,) if statistics else ())


def measure_here(
    system: str, artifact_folder: Path, checkpoint: Path, threads: int
) -> dict[str, float]:
    """Measure one system in this process, after a warm-up.

    Returns:
        images_per_second: of the best of three runs.
        peak_mb: memory.
    """
    import torch

    torch.set_num_threads(threads)
    if system.startswith("loop"):
        run = plain_loop(artifact_folder, checkpoint, system == "loop-cl")
    else:
        run = zoo_run(artifact_folder, system == "zoo-statistics", system == "zoo-layerwise")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return {"images_per_second": BATCH / min(seconds), "peak_mb": peak / 1024}


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.system:
        print(json.dumps(measure_here(args.system, args.artifact, args.checkpoint, args.threads)))
        return
    from zoo.environment import versions

    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for _ in range(args.rounds):
        for system in SYSTEMS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.cpu",
                str(args.artifact),
                str(args.checkpoint),
            ]
            command += ["--system", system, "--threads", str(args.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rounds[system].append(json.loads(done.stdout))
    loop = rounds["loop"]
    report = {
        system: {
            "images_per_second": median(r["images_per_second"] for r in runs),
            "slowest_fastest": [
                min(r["images_per_second"] for r in runs),
                max(r["images_per_second"] for r in runs),
            ],
            "peak_mb": median(r["peak_mb"] for r in runs),
            "speed_ratio_to_loop": median(
                run["images_per_second"] / base["images_per_second"]
                for run, base in zip(runs, loop, strict=True)
            ),
        }
        for system, runs in rounds.items()
    }
    facts = {
        "batch": BATCH,
        "timesteps": STEPS,
        "rounds": args.rounds,
        "versions": versions() | {"threads": str(args.threads)},
    }
    options = f"--rounds {args.rounds} --threads {args.threads}"
    command = f"python -m benchmarks.cpu ARTIFACT CHECKPOINT {options}"
    args.out.write_text(
        json.dumps({"command": command, **facts, "systems": report}, indent=1) + "\n"
    )
    for system, row in report.items():
        speed, ratio, memory = row["images_per_second"], row["speed_ratio_to_loop"], row["peak_mb"]
        print(f"{system:15} {speed:8.1f} images/s  {ratio:6.2f} x loop  {memory:7.1f} MB")


if __name__ == "__main__":
    main()
