"""Draws the picture of README.md: accuracy by timesteps of the shipped models, and a spike raster.

python -m benchmarks.picture [--check]

Beside it the curves of our trainings, docs/assets/training-*.png, from the logs in
benchmarks/results/family/training.
Writes docs/assets/accuracy-light.svg and -dark.svg from the models' eval.json and one run of
s-resnet20-digits. Their description holds the digest of what they were drawn from; `--check`
draws nothing, and fails when that is not today's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "assets"
LOGS = ROOT / "benchmarks" / "results" / "family" / "training"
NEURONS = {"if": "o", "signed": "^", "multi-level": "s"}
# Told apart by nearly everybody (after Okabe and Ito), lighter on dark.
COLOURS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#a8518a", "#e69f00"),
    "dark": ("#56b4e9", "#f0883e", "#2cbe8c", "#e39ac8", "#f0e442"),
}
THEMES = {"light": ("#1f2328", "#d1d9e0"), "dark": ("#e6edf3", "#3d444d")}  # ink, grid


def results() -> list[dict[str, Any]]:
    """Return the evaluations of the shipped CIFAR-10 models."""
    paths = sorted((ROOT / "zoo" / "models").glob("*/eval.json"))
    found = [json.loads(path.read_text()) for path in paths]
    return [result for result in found if result["data"]["dataset"] == "cifar10"]


def digest() -> str:
    """Return the sha256 of everything that the picture shows."""
    shown = [
        [r["name"], r["ann"]["top1"], [[row["timesteps"], row["top1"]] for row in r["rows"]]]
        for r in results()
    ]
    weights = (ROOT / "zoo" / "models" / "s-resnet20-digits" / "model.safetensors").read_bytes()
    return hashlib.sha256(json.dumps(shown).encode() + weights).hexdigest()


def draw(theme: str, path: Path) -> None:
    """Draw one theme's picture."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    from zoo.models.registry import resolve
    from zoo.render.raster import watch

    ink, grid = THEMES[theme]
    style = {
        "svg.hashsalt": "spiking-zoo",
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": grid,
        "xtick.color": ink,
        "ytick.color": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10, 4), layout="constrained")
        accuracy, spikes = figure.subplots(1, 2, width_ratios=(3, 2))
        archs = sorted({result["arch"] for result in results()})
        for result in results():
            rows = {row["timesteps"]: row["top1"] for row in result["rows"]}
            colour = COLOURS[theme][archs.index(result["arch"]) % len(COLOURS[theme])]
            signed = result["neuron"] != "if"
            tuned = bool(result["config"].get("tuning"))  # trained for few timesteps
            # Of two networks alike the one that was trained with ReLU has squares.
            relu = not result["config"]["source"]["training"]["settings"]["levels"]
            marker = "s" if relu else NEURONS[result["neuron"]]
            accuracy.plot(
                list(rows),
                list(rows.values()),
                color=colour,
                marker="D" if tuned else marker,
                linestyle=":" if tuned else "-",
                markersize=5,
                markerfacecolor="none" if signed else colour,
                linewidth=1.6,
                label=result["name"],
            )
            if not signed and not tuned:
                accuracy.axhline(result["ann"]["top1"], color=colour, linestyle="--", linewidth=0.9)
        accuracy.set_xscale("log", base=2)
        accuracy.xaxis.set_major_formatter(ScalarFormatter())
        accuracy.xaxis.set_minor_locator(NullLocator())
        accuracy.set_xticks(sorted({row["timesteps"] for r in results() for row in r["rows"]}))
        accuracy.set_ylim(15, 96)
        accuracy.grid(color=grid, linewidth=0.6)
        accuracy.set_xlabel("timesteps T")
        accuracy.set_ylabel("% of 10,000 CIFAR-10 test images")
        accuracy.set_title("Accuracy; dashed: the ANN", loc="left", fontsize=11, color=ink)
        accuracy.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=ink)

        raster = watch(resolve("s-resnet20-digits"), (0,))[0]
        times, rows = [t for t, _, _ in raster.spikes], [row for _, row, _ in raster.spikes]
        spikes.scatter(times, rows, s=4, color=COLOURS[theme][0], linewidths=0)
        spikes.set_xlabel("timestep")
        spikes.set_ylabel(f"neuron of {raster.layer}")
        spikes.set_xlim(0, len(raster.predicted) + 1)
        spikes.set_ylim(-1, raster.neurons)
        name = raster.class_names[raster.label]
        title = f'Spikes of s-resnet20-digits, an image of "{name}"'
        spikes.set_title(title, loc="left", fontsize=11, color=ink)
        facts = {"Date": None, "Description": digest(), "Title": "Accuracy by timesteps, spikes"}
        figure.savefig(path, format="svg", transparent=True, metadata=facts)


def curves(log: Path, path: Path) -> None:
    """Draw loss and accuracy of a training by epoch, from its log.json."""
    from zoo.render.chart import training_png

    facts = json.loads(log.read_text())
    levels = facts["plan"]["levels"]
    how = f"{levels} levels" if levels else "ReLU"
    taught = f", taught by {facts['teacher']['name']}" if facts.get("teacher") else ""
    title = f"{facts['arch']} on {facts['dataset']}, {how}{taught}"
    training_png(path, facts["log"], top1=facts["top1"], title=title)


def main() -> None:
    """Draw both themes, and the curves, or check them."""
    for theme in THEMES:
        path = FOLDER / f"accuracy-{theme}.svg"
        if "--check" not in sys.argv:
            draw(theme, path)
        elif digest() not in path.read_text():
            raise SystemExit(f"{path} is not of today's results: run python -m benchmarks.picture")
    for log in sorted(LOGS.glob("*.json")):
        path = FOLDER / f"training-{log.stem}.png"
        if "--check" not in sys.argv:
            curves(log, path)
        elif not path.is_file():
            raise SystemExit(f"{path} is missing: run python -m benchmarks.picture")


if __name__ == "__main__":
    main()
