"""Fills the tables of README.md from the committed result files; `--check` fails when they differ.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks import cifar10, datafree, imagenet

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def models() -> str:
    """Return the table of the shipped artifacts, from their eval.json."""
    results = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "zoo" / "models").glob("*/eval.json"))
    ]
    steps = sorted({row["timesteps"] for result in results for row in result["rows"]})
    lines = ["| model | neuron | images | ANN | " + " | ".join(f"T={t}" for t in steps) + " |"]
    lines.append("|" + "---|" * (4 + len(steps)))
    for result in results:
        top1 = {row["timesteps"]: f"{row['top1']:.2f}" for row in result["rows"]}
        cells = [
            result["name"],
            f"`{result['neuron']}` {result['schedule']}",
            str(result["data"]["images"]),
        ]
        cells += [f"{result['ann']['top1']:.2f}", *(top1.get(t, "") for t in steps)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def family() -> str:
    """Return the table of our own networks by how they were trained, from results/family."""
    results = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "benchmarks" / "results" / "family").glob("*.json"))
    ]
    steps = sorted({row["timesteps"] for result in results for row in result["rows"]})
    heads = [
        "network",
        "activation in training",
        "epochs",
        "calibration images",
        "neuron",
        "ANN",
        *(f"T={t}" for t in steps),
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for result in results:
        stage, epochs = result["config"]["source"]["training"], []
        levels = stage["settings"]["levels"]
        while stage is not None:
            other = stage.get("arch") not in (None, result["arch"])
            epochs.insert(
                0, f"{stage['epochs']} as {stage['arch']}" if other else str(stage["epochs"])
            )
            stage = stage["start"]
        top1 = {row["timesteps"]: f"{row['top1']:.2f}" for row in result["rows"]}
        cells = [
            result["arch"],
            f"{levels} levels, learnt thresholds" if levels else "ReLU",
            " + ".join(epochs),
        ]
        cells += [str(result["config"]["calibration"]["images"])]
        cells += [
            f"`{result['neuron']}`",
            f"{result['ann']['top1']:.2f}",
            *(top1.get(t, "") for t in steps),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cpu() -> str:
    """Return the table of the CPU benchmark."""
    report = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    lines = ["| system | images/s | against the loop | peak memory |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['images_per_second']:.1f} | {row['speed_ratio_to_loop']:.2f} x | "
        f"{row['peak_mb']:.0f} MB |"
        for name, row in report["systems"].items()
    ]
    versions = report["versions"]
    lines.append(f"\ntorch {versions['torch']}, {versions['cpu']}, {versions['threads']} threads.")
    return "\n".join(lines)


def filled(text: str) -> str:
    """Return README.md with every block filled."""
    tables = {
        "models": models,
        "family": family,
        "cifar10": cifar10.render,
        "int8": cifar10.numerics,
        "datafree": datafree.render,
        "imagenet": imagenet.render,
        "cpu": cpu,
    }
    for name, table in tables.items():
        block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
        text = re.sub(
            f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, block=block: block, text, flags=re.S
        )
    return text


def main() -> None:
    """Write README.md, or check it."""
    text = README.read_text()
    if "--check" in sys.argv and filled(text) != text:
        raise SystemExit("README.md differs from the result files: run python -m benchmarks.readme")
    if "--check" not in sys.argv:
        README.write_text(filled(text))


if __name__ == "__main__":
    main()
