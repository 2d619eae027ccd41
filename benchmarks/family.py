"""Train the zoo's own CIFAR networks by one recipe; stop and resume at any time.

    python -m benchmarks.family DATA RUNS [--only resnet20] [--jobs 1] [--budget 540]
        [--epochs 120] [--teacher FILE|MODEL] [--smallest SIDE] [--compile] [--device auto]

DATA is CIFAR-10 or CIFAR-100 in any form that `zoo train --dataset` takes. The recipe has two
phases. First every network is trained from random weights with ReLU: SGD, one cycle, a moving
average of the weights, with a teacher where one is given. Then a short phase with eight levels and
learnt thresholds begins from it, for few timesteps. Each phase of a network gets a folder under
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

# In the order in which they are worth having.
FAMILY = ("resnet20", "resnet56", "resnet32", "resnet44", "resnet18_cifar")
LEVELS = 8
# The phase with levels: a share of the epochs, at a share of the rate.
EPOCHS_SHARE, RATE_SHARE = 6, 4
# Blanked squares, for the networks that fit the training images well enough to need them.
CUTOUT = {"resnet44": 8, "resnet56": 8, "resnet18_cifar": 8}


@dataclass(frozen=True)
class Job:
    """One phase of one network, in its folder.

    Attributes:
        start: the job whose checkpoint it begins from.
    """

    arch: str
    levels: int
    folder: Path
    start: Job | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.arch}.safetensors"

    def done(self) -> bool:
        return (self.folder / "log.json").exists()

    def ready(self) -> bool:
        return self.start is None or self.start.done()

    def command(self, args: argparse.Namespace) -> list[str]:
        """Return the words of the command that begins this training or goes on with it."""
        epochs, rate = args.epochs, args.rate
        if self.start is not None:
            epochs, rate = max(1, epochs // EPOCHS_SHARE), rate / RATE_SHARE
        options = {
            "--dataset": args.data,
            "--out": self.folder,
            "--epochs": epochs,
            "--batch-size": args.batch_size,
            "--rate": rate,
            "--levels": self.levels,
            "--cutout": CUTOUT.get(self.arch, 0),
            "--smallest": 0 if self.start else args.smallest,
            "--device": args.device,
        }
        if self.start is not None:
            options["--start"] = self.start.checkpoint
        if args.teacher is not None:
            options["--teacher"] = args.teacher
        words = [sys.executable, "-m", "zoo", "train", self.arch]
        words += [str(word) for pair in options.items() for word in pair]
        words += ["--compile"] if args.compile else []
        return [*words, "--resume"] if (self.folder / "training.safetensors").exists() else words


def jobs(runs: Path, only: str) -> list[Job]:
    """Return the jobs whose names begin with one of `only`, the first phases first."""
    first = [Job(arch, 0, runs / arch) for arch in FAMILY]
    second = [Job(job.arch, LEVELS, runs / f"{job.arch}-levels{LEVELS}", job) for job in first]
    return [job for job in (*first, *second) if job.name.startswith(tuple(only.split(",")))]


def _heed_interrupts() -> None:
    """Restore SIGINT.

    A shell starts background commands with SIGINT ignored, and their children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(todo: Sequence[Job], args: argparse.Namespace) -> None:
    """Keep `--jobs` trainings running until all are done or the budget is spent."""
    end, waiting = time.monotonic() + args.budget, [job for job in todo if not job.done()]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    while (running or any(job.ready() for job in waiting)) and time.monotonic() < end:
        for job in [job for job, process in running.items() if process.poll() is not None]:
            print(
                f"{job.name}: exit code {running.pop(job).returncode}", file=sys.stderr, flush=True
            )
        ready = [job for job in waiting if job.ready()]
        for job in ready[: args.jobs - len(running)]:
            waiting.remove(job)
            job.folder.mkdir(parents=True, exist_ok=True)
            with open(job.folder / "train.log", "ab") as log:
                running[job] = subprocess.Popen(
                    job.command(args), stdout=log, stderr=log, preexec_fn=_heed_interrupts
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
        "--jobs", type=int, default=1, help="trainings at a time: small networks leave a GPU idle"
    )
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds after which they are stopped"
    )
    parser.add_argument("--epochs", type=int, default=120, help="of the first phase")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--teacher", help="of every network, as zoo train --teacher takes it")
    parser.add_argument(
        "--smallest", type=int, default=0, help="side of images at first, then grown"
    )
    parser.add_argument("--compile", action="store_true", help="train with torch.compile")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    todo = jobs(args.runs, args.only)
    run(todo, args)
    for job in todo:
        if job.done():
            facts = json.loads((job.folder / "log.json").read_text())
            print(f"{job.name}: {facts['top1']:.2f} % after {facts['epochs']} epochs")
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
