"""Measure the four public CIFAR-10 ResNets by method, neuron, schedule and timesteps.

    python -m benchmarks.cifar10 CHECKPOINTS DATA WORK
    python -m benchmarks.cifar10 CHECKPOINTS DATA WORK --only resnet20
    python -m benchmarks.cifar10 --render

The first two convert and measure what is missing, and resume; the last prints the tables, from the
result files alone.

CHECKPOINTS holds akamaster's resnet20-12fca82f.th, 32, 44 and 56, DATA is CIFAR-10 in any form that
`zoo eval --data` takes, WORK receives the artifacts (they derive from the checkpoints and are not
part of the project). Results: one JSON file a row, the dump of `zoo.artifact.results.Evaluation`,
under benchmarks/results/cifar10.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cifar10"
CHECKPOINTS = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet56": "resnet56-4bfd9763.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
}
STEPS = (4, 8, 16, 32, 64)
# Steps and rate of `zoo.conversion.distil` at T = 8, on all training images; a quarter of the steps
# at T = 16, an eighth at T = 32. Deeper networks want a lower rate.
TUNING = {
    "resnet20": (4000, 4e-4),
    "resnet32": (4000, 2e-4),
    "resnet44": (4000, 1.5e-4),
    "resnet56": (5000, 1e-4),
}


@dataclass(frozen=True)
class Case:
    """One artifact and what is measured on it."""

    arch: str
    method: str
    neuron: str = "if"
    schedule: str = "causal"
    numerics: str = "int8"
    made_for: int = 32
    timesteps: tuple[int, ...] = STEPS
    images: int = 10_000
    tuned: bool = False
    seed: int = 0

    @property
    def parameters(self) -> dict[str, float]:
        if self.neuron == "multi-level":
            return {"rows": 8, "bits": 4}
        # Signed as measured, before such neurons had as many levels as timesteps.
        sixteen = self.neuron == "signed" and self.method == "calibrated"
        levels = {"levels": 16} if sixteen else {}
        if not self.tuned:
            return levels
        steps, rate = TUNING[self.arch]
        share = {8: 1, 16: 4, 32: 8}[self.made_for] if self.schedule == "layerwise" else 1
        return levels | {"tune": steps // share, "tune_rate": rate, "tune_images": 50_000}

    @property
    def name(self) -> str:
        timesteps = f"-t{self.made_for}" if self.schedule == "layerwise" else ""
        tuned = "-tuned" if self.tuned else ""
        seed = f"-seed{self.seed}" if self.seed else ""
        method = f"{self.method}{tuned}-{self.neuron}-{self.schedule}{timesteps}"
        return f"{self.arch}-{method}-{self.numerics}{seed}"


def cases() -> list[Case]:
    """Return the cases in the order in which they are worth having."""
    part = ("resnet32", "resnet44")
    rows = [Case("resnet20", "calibrated", neuron) for neuron in ("if", "signed")]
    rows += [
        Case(arch, "calibrated", "multi-level", made_for=4, timesteps=(1, 2, 4, 8))
        for arch in CHECKPOINTS
    ]
    rows += [
        Case("resnet56", "calibrated"),
        Case("resnet56", "calibrated", "signed", timesteps=STEPS[:4]),
    ]
    for made_for in (8, 16, 32):
        rows += [
            Case(arch, "calibrated", schedule="layerwise", made_for=made_for, timesteps=(made_for,))
            for arch in CHECKPOINTS
        ]
    rows += [
        Case(
            arch,
            "calibrated",
            schedule="layerwise",
            made_for=made_for,
            timesteps=(made_for,),
            tuned=True,
        )
        for made_for in (8, 16, 32)
        for arch in CHECKPOINTS
    ]
    rows += [Case("resnet20", "calibrated", neuron, tuned=True) for neuron in ("signed", "if")]
    rows += [
        Case(arch, "calibrated", neuron, images=2000)
        for arch in part
        for neuron in ("if", "signed")
    ]
    for arch in CHECKPOINTS:
        long = (*STEPS, 128, 350) if arch in ("resnet20", "resnet44") else STEPS
        rows.append(Case(arch, "hu2018", timesteps=long, images=2000))
        rows.append(Case(arch, "hu2018", schedule="layerwise", images=2000, timesteps=(32,)))
        rows.append(Case(arch, "hu2018", "signed", images=2000, timesteps=STEPS[:4]))
    rows += [
        Case(arch, "calibrated", numerics="float32", timesteps=STEPS[:4])
        for arch in ("resnet20", "resnet56")
    ]
    # What int8 costs is of the size of what another draw of calibration images changes: more draws
    # tell.
    rows += [
        Case("resnet20", "calibrated", numerics=numerics, timesteps=STEPS[:4], seed=seed)
        for seed in (1, 2)
        for numerics in ("int8", "float32")
    ]
    return rows


def measure(case: Case, checkpoints: Path, data: Path, work: Path) -> None:
    """Convert the case if its artifact is not in `work`, measure it and write its result file."""
    from zoo.conversion.convert import convert
    from zoo.data.open import open_images
    from zoo.evaluation.evaluate import evaluate
    from zoo.files import write_synced
    from zoo.pretrained.checkpoint import read_checkpoint

    source, folder = checkpoints / CHECKPOINTS[case.arch], work / case.name
    checkpoint = read_checkpoint(source, case.arch)
    if not folder.exists():
        begun = time.perf_counter()
        conversion = convert(
            checkpoint,
            open_images(data, "train"),
            method=case.method,
            neuron=case.neuron,
            schedule=case.schedule,
            numerics=case.numerics,
            timesteps=case.made_for,
            parameters=case.parameters,
            seed=case.seed,
        )  # type: ignore[arg-type]
        conversion.save(folder)
        print(f"{case.name}: converted in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    images = open_images(data, "test").take(case.images, None)
    result = evaluate(folder, images, case.timesteps, ann=source)
    result.command = f"python -m benchmarks.cifar10 CHECKPOINTS DATA WORK --only {case.name}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_synced(RESULTS / f"{case.name}.json", (result.model_dump_json(indent=1) + "\n").encode())
    print(case.name, {row.timesteps: round(row.top1, 2) for row in result.rows}, flush=True)


def render() -> str:
    """Return the tables as Markdown, from the result files."""
    lines = []
    columns = (1, 2, *STEPS, 128, 350)
    header = (
        "| network (ANN) | method | spikes | weights | images | "
        + " | ".join(f"T={t}" for t in columns)
        + " |"
    )
    lines += [header, "|" + "---|" * (header.count("|") - 1)]
    merged: dict[tuple[str, ...], dict[int, float]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        if "-seed" in path.name:
            continue
        result = json.loads(path.read_text())
        tuned = ", tuned" if "-tuned-" in path.name else ""
        key = (
            f"{result['arch']} ({result['ann']['top1']:.2f})",
            result["method"] + tuned,
            f"`{result['neuron']}` {result['schedule']}",
            result["numerics"],
            str(result["data"]["images"]),
        )
        merged.setdefault(key, {}).update({row["timesteps"]: row["top1"] for row in result["rows"]})
    for key, row in sorted(merged.items()):
        cells = [f"{row[t]:.2f}" if t in row else "" for t in columns]
        lines.append("| " + " | ".join([*key, *cells]) + " |")
    return "\n".join(lines)


def numerics() -> str:
    """Return a table of the cost of int8 against float32, with the same images.

    It is for causal `if` neurons, the mean over the draws of calibration images there are.
    """
    steps = STEPS[:4]
    lines = [
        "| network | draws | weights | " + " | ".join(f"T={t}" for t in steps) + " |",
        "|" + "---|" * (3 + len(steps)),
    ]
    for arch in ("resnet20", "resnet56"):
        means: dict[str, list[float]] = {}
        for kind in ("float32", "int8"):
            results = [
                json.loads(path.read_text())
                for path in sorted(RESULTS.glob(f"{arch}-calibrated-if-causal-{kind}*.json"))
            ]
            tops = [{row["timesteps"]: row["top1"] for row in result["rows"]} for result in results]
            means[kind] = [sum(top[t] for top in tops) / len(tops) for t in steps]
            lines.append(
                f"| {arch} | {len(tops)} | {kind} | "
                + " | ".join(f"{mean:.2f}" for mean in means[kind])
                + " |"
            )
        cost = [a - b for a, b in zip(means["float32"], means["int8"], strict=True)]
        lines.append(
            f"| {arch} | | what int8 costs | "
            + " | ".join(f"{points:.2f}" for points in cost)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument(
        "--only", default="", help="cases whose name begins so; several with commas"
    )
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if args.render:
        print(render())
        return
    if args.work is None:
        parser.error("give CHECKPOINTS, DATA and WORK, or --render")
    for case in cases():
        if (
            case.name.startswith(tuple(args.only.split(",")))
            and not (RESULTS / f"{case.name}.json").exists()
        ):
            measure(case, args.checkpoints, args.data, args.work)


if __name__ == "__main__":
    main()
