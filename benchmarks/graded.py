"""Measure networks with graded spikes on a CPU: this commit and an earlier one, in turns.

    git worktree add ../before 39b2115
    python -m benchmarks.graded --before ../before [--rounds 5] [--threads 2] [--out FILE.json]
        [--convert CHECKPOINT CALIBRATION]

Networks are those that ship with both commits; pixels are random, which changes nothing: every
timestep computes dense convolutions. Spikes per neuron are counted, as `zoo eval` does; logits and
counts of both commits must be equal (exit code 7 if not). Each commit has a process of its own;
after a warm-up every round runs each once, and the ratio is the median over the rounds. With
`--convert` one conversion of each commit is timed too: CHECKPOINT, 64 images of CALIBRATION.

Floor: 40.8 MMAC an image and timestep of ResNet-20, 125 of ResNet-56, 555 of ResNet-18 in its
CIFAR form, in int8.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "graded.json"
IMAGES = 64
# Timesteps of each network; the last is binary.
NETWORKS = {
    "s-resnet18-cifar-multi-level": (2, 8),
    "s-resnet56-multi-level": (2, 8),
    "s-resnet20-multi-level": (2, 8),
    "s-resnet56-t32": (32,),
}


def work(threads: int) -> None:
    """Be the process of one commit: a network and timesteps on stdin, seconds on stdout."""
    import hashlib

    import torch

    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.files import cache_folder
    from zoo.kernels.spiking_conv.compiled import LIBRARY

    torch.set_num_threads(threads)
    LIBRARY.build(cache_folder())
    models = Path("zoo", "models")
    networks = {name: network_of(*read_artifact(models / name)) for name in NETWORKS}
    gen = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=gen)
    for line in sys.stdin:
        name, timesteps = line.split()
        started = time.perf_counter()
        found = networks[name].run(images, int(timesteps), snapshots=(int(timesteps),))
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(found.logits.numpy().tobytes())
        for counts in found.spikes[int(timesteps)].values():
            digest.update(counts.contiguous().numpy().tobytes())
        print(json.dumps({"seconds": seconds, "sha256": digest.hexdigest()}), flush=True)


def converted(code: Path, checkpoint: str, calibration: str, threads: int) -> float:
    """Return the seconds that a conversion to graded spikes takes."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "zoo", "convert", str(Path(checkpoint).resolve())]
        command += ["--calib", str(Path(calibration).resolve()), "--samples", str(IMAGES)]
        command += ["--neuron", "multi-level", "--timesteps", "2", "--out", f"{out}/network"]
        started = time.perf_counter()
        subprocess.run(command, cwd=code, env=_env(code, threads), check=True, capture_output=True)
        return time.perf_counter() - started


def _env(code: Path, threads: int) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": str(threads)}


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a worktree of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--convert", nargs=2, metavar=("CHECKPOINT", "CALIBRATION"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.threads)
        return
    if args.before is None:
        parser.error("give --before DIR")
    from zoo.environment import versions

    trees = {"before": args.before.resolve(), "now": ROOT}
    workers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--work", "--threads", str(args.threads)],
            cwd=code,
            env=_env(code, args.threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, code in trees.items()
    }

    def ask(worker: subprocess.Popen[str], what: str) -> dict[str, Any]:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(what + "\n")
        worker.stdin.flush()
        answer: dict[str, Any] = json.loads(worker.stdout.readline())
        return answer

    rows = []
    for name, timesteps in ((name, t) for name, steps in NETWORKS.items() for t in steps):
        runs: dict[str, list[float]] = {tree: [] for tree in trees}
        for number in range(args.rounds + 1):
            answers = {tree: ask(workers[tree], f"{name} {timesteps}") for tree in trees}
            if answers["before"]["sha256"] != answers["now"]["sha256"]:
                print(f"{name}: spikes or logits differ at T = {timesteps}", file=sys.stderr)
                raise SystemExit(7)
            if number:  # the first warms up
                for tree, answer in answers.items():
                    runs[tree].append(answer["seconds"])
        ratio = median(b / n for b, n in zip(runs["before"], runs["now"], strict=True))
        rows.append(
            {
                "model": name,
                "timesteps": timesteps,
                "images_per_second": {tree: IMAGES / median(runs[tree]) for tree in trees},
                "ratio": ratio,
                "sha256": answers["now"]["sha256"],
            }
        )
        print(name, timesteps, rows[-1]["images_per_second"], f"{ratio:.2f}", flush=True)
    for worker in workers.values():
        worker.communicate()
    head = ["git", "rev-parse", "--short", "HEAD"]
    report = {
        "command": f"python -m benchmarks.graded --before DIR --rounds {args.rounds} "
        f"--threads {args.threads}" + (" --convert CHECKPOINT CALIBRATION" if args.convert else ""),
        "commits": {
            tree: subprocess.run(head, cwd=code, capture_output=True, text=True).stdout.strip()
            for tree, code in trees.items()
        },
        "images": IMAGES,
        "load_average": os.getloadavg()[0],
        "versions": versions() | {"threads": str(args.threads)},
        "rows": rows,
    }
    if args.convert:
        report["convert"] = {
            "checkpoint": Path(args.convert[0]).name,
            "seconds": {
                tree: converted(code, *args.convert, args.threads) for tree, code in trees.items()
            },
        }
        print("convert", report["convert"], flush=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
