"""Train the zoo's own CIFAR-10 networks, several at a time, and resume where they stopped.

    python -m benchmarks.family DATA RUNS [--only resnet20] [--jobs 4] [--budget 540]
        [--epochs 200] [--device auto]

DATA is CIFAR-10 in any form that `zoo train --dataset` takes. Each network gets a folder under
RUNS: its checkpoint, log.json and what a later call needs to resume. After `--budget` seconds every
training is stopped as Ctrl-C would, and saved. A row a network is printed: done with its accuracy,
or how far it is. Exit code 7 while any is not done.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Both flavours: ReLU, and eight levels with learnt thresholds. The order is that in which they are
# worth having.
FAMILY = (
    ("resnet20", 0),
    ("resnet20", 8),
    ("resnet32", 0),
    ("resnet56", 0),
    ("resnet44", 0),
    ("resnet56", 8),
    ("resnet32", 8),
    ("resnet44", 8),
    ("resnet110", 0),
)


@dataclass(frozen=True)
class Job:
    """One training, in its folder."""

    arch: str
    levels: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def done(self) -> bool:
        return (self.folder / "log.json").exists()

    def command(
        self, data: str, epochs: int, batch_size: int, rate: float, device: str
    ) -> list[str]:
        words = [
            sys.executable,
            "-m",
            "zoo",
            "train",
            self.arch,
            "--dataset",
            data,
            "--out",
            str(self.folder),
        ]
        words += [
            "--epochs",
            str(epochs),
            "--batch-size",
            str(batch_size),
            "--rate",
            str(rate),
            "--levels",
            str(self.levels),
        ]
        words += ["--device", device]
        return [*words, "--resume"] if (self.folder / "training.safetensors").exists() else words


def jobs(runs: Path, only: str) -> list[Job]:
    """Return the jobs of the family whose names begin with one of `only`."""
    every = [
        Job(arch, levels, runs / (f"{arch}-levels{levels}" if levels else arch))
        for arch, levels in FAMILY
    ]
    return [job for job in every if job.name.startswith(tuple(only.split(",")))]


def _heed_interrupts() -> None:
    """Restore SIGINT.

    A shell starts background commands with SIGINT ignored, and their children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(todo: Sequence[Job], args: argparse.Namespace) -> None:
    """Keep `--jobs` trainings running until all are done or the budget is spent."""
    end, waiting = time.monotonic() + args.budget, [job for job in todo if not job.done()]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    while (waiting or running) and time.monotonic() < end:
        for job in [job for job, process in running.items() if process.poll() is not None]:
            print(
                f"{job.name}: exit code {running.pop(job).returncode}", file=sys.stderr, flush=True
            )
        while waiting and len(running) < args.jobs:
            job = waiting.pop(0)
            job.folder.mkdir(parents=True, exist_ok=True)
            with open(job.folder / "train.log", "ab") as log:
                command = job.command(
                    args.data, args.epochs, args.batch_size, args.rate, args.device
                )
                running[job] = subprocess.Popen(
                    command, stdout=log, stderr=log, preexec_fn=_heed_interrupts
                )
        time.sleep(0.5)
    for process in running.values():
        process.send_signal(signal.SIGINT)
    for process in running.values():
        process.wait(60)


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("runs", type=Path)
    parser.add_argument(
        "--only", default="", help="networks whose name begins so; several with commas"
    )
    parser.add_argument(
        "--jobs", type=int, default=4, help="trainings at a time: small networks leave a GPU idle"
    )
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds after which they are stopped"
    )
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    todo = jobs(args.runs, args.only)
    run(todo, args)
    for job in todo:
        if job.done():
            print(
                f"{job.name}: {json.loads((job.folder / 'log.json').read_text())['top1']:.2f} % "
                f"after {args.epochs} epochs"
            )
            continue
        log = job.folder / "train.log"
        lines = (
            [line for line in log.read_text(errors="replace").splitlines() if line != "interrupted"]
            if log.exists()
            else []
        )
        print(f"{job.name}: not done; {lines[-1] if lines else 'not begun'}")
    if not all(job.done() for job in todo):
        raise SystemExit(7)


if __name__ == "__main__":
    main()
