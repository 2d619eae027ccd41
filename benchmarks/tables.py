"""Fills the tables of README.md and docs/ from the committed result files.

python -m benchmarks.tables [--check]

A table stands between `<!-- name -->` and `<!-- /name -->`. With `--check` nothing is written, and
a document that differs is an error.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks import cifar10, datafree, imagenet, strong
from benchmarks.imagenet import graded_bits

ROOT = Path(__file__).parent.parent
BEST = ("s-resnet18-cifar", "s-resnet18-cifar-multi-level")  # binary and graded
# Architectures that benchmarks/published.json has rows of, by their names there.
PUBLISHED = {"resnet20": "ResNet-20", "resnet18_cifar": "ResNet-18, CIFAR form"}
DATA_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits (UCI)"}


def documents() -> list[Path]:
    """Return the files that have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def headline() -> str:
    """Return the sentence that opens README.md: our best network, binary and graded."""
    binary, graded = (
        json.loads((ROOT / "zoo" / "models" / name / "eval.json").read_text()) for name in BEST
    )
    (depth,) = re.findall(r"^resnet(\d+)", binary["arch"])  # resnet18_cifar: 18
    one, many = (
        {row["timesteps"]: row["top1"] for row in result["rows"]}[steps]
        for result, steps in ((graded, 1), (binary, 32))
    )
    lines = (
        "Pretrained ResNets, converted once to deep spiking networks that work: a "
        f"ResNet-{depth} with {binary['ann']['top1']:.2f} % on CIFAR-10's 10,000 test images",
        f"has {many:.2f} % in 32 timesteps of binary spikes (`{binary['name']}`) and "
        f"{one:.2f} % in a single timestep of graded ones",
        f"(`{graded['name']}`); int8 weights and integer neurons give the same spikes, "
        "bit for bit, on every backend and machine.",
    )
    return "\n".join(lines)


def shown() -> str:
    """Return the first table that people see: at most eight models of photographs, few columns.

    By data set, the most accurate at the timesteps that it was made for first. Energy is modelled
    (`zoo.evaluation.energy`): that of the spiking network with int8 weights at these timesteps, as
    a share of that of its ANN with as many activation levels.
    """
    results = [
        json.loads(path.read_text())
        for path in sorted((ROOT / "zoo" / "models").glob("*/eval.json"))
    ]
    rows = {result["name"]: {row["timesteps"]: row for row in result["rows"]} for result in results}
    made = {result["name"]: result["config"]["timesteps"] for result in results}
    results = [result for result in results if result["data"]["dataset"] != "digits"]
    results.sort(
        key=lambda one: (one["data"]["dataset"], -rows[one["name"]][made[one["name"]]]["top1"])
    )
    columns = (1, 2, 4, 8, 32)
    lines = ["| data set | model | ANN | " + " | ".join(f"T={t}" for t in columns)]
    lines[0] += " | made for T | energy at that T, ANN = 1 |"
    lines.append("|" + "---|" * (5 + len(columns)))
    for result in _best(results):
        name = result["name"]
        energy = rows[name][made[name]]["energy_nj"]
        cells = [
            DATA_SETS[result["data"]["dataset"]],
            f"`{name}`",
            f"{result['ann']['top1']:.2f}",
            *(f"{rows[name][t]['top1']:.2f}" if t in rows[name] else "" for t in columns),
            str(made[name]),
            f"{energy['snn_int8'] / energy['ann_quantised']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _best(results: list[dict[str, Any]], most: int = 8) -> list[dict[str, Any]]:
    """Return the first of each data set in turn, `most` in all, in the order they came in."""
    by_data: dict[str, list[str]] = {}
    for result in results:
        by_data.setdefault(result["data"]["dataset"], []).append(result["name"])
    turns = itertools.zip_longest(*by_data.values())
    chosen = [name for turn in turns for name in turn if name is not None][:most]
    return [result for result in results if result["name"] in chosen]


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
        taught = f", taught by {stage['teacher']}" if stage.get("teacher") else ""
        while stage is not None:
            other = stage.get("arch") not in (None, result["arch"])
            epochs.insert(
                0, f"{stage['epochs']} as {stage['arch']}" if other else str(stage["epochs"])
            )
            stage = stage["start"]
        top1 = {row["timesteps"]: f"{row['top1']:.2f}" for row in result["rows"]}
        cells = [
            result["arch"],
            (f"{levels} levels, learnt thresholds" if levels else "ReLU") + taught,
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


def recipes(kind: str = "if") -> str:
    """Return the table of what recipes of public CIFAR networks make, of one kind of neuron."""
    results = [
        result
        for path in sorted((ROOT / "benchmarks" / "results" / "recipes").glob("*.json"))
        if (result := json.loads(path.read_text()))["neuron"] == kind
    ]
    steps = sorted({row["timesteps"] for result in results for row in result["rows"]})
    lines = ["| name | data set | ANN | " + " | ".join(f"T={t}" for t in steps) + " |"]
    lines.append("|" + "---|" * (3 + len(steps)))
    for result in results:
        top1 = {row["timesteps"]: f"{row['top1']:.2f}" for row in result["rows"]}
        cells = [f"`{result['name']}`", DATA_SETS[result["data"]["dataset"]]]
        cells += [f"{result['ann']['top1']:.2f}", *(top1.get(t, "") for t in steps)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cpu() -> str:
    """Return the table of the CPU benchmark."""
    report = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    lines = [
        "| system | images/s | images a CPU second | against | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, row in report["systems"].items():
        ratios = ", ".join(f"{value:.2f} x {base}" for base, value in row["ratio_to"].items())
        lines.append(
            f"| {name} | {row['images_per_second']:.2f} | {row['images_per_cpu_second']:.2f} | "
            f"{ratios} | {row['peak_mb']:.0f} MB |"
        )
    versions = report["versions"]
    lines.append(f"\ntorch {versions['torch']}, {versions['cpu']}, {versions['threads']} threads.")
    return "\n".join(lines)


def neurons() -> str:
    """Return the time of a neuron by the way it runs."""
    report = json.loads((ROOT / "benchmarks" / "results" / "neurons.json").read_text())
    lines = [
        "| layer | neuron | torch operations | torch.compile | library | first call compiled |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        each = " | ".join(f"{value:.2f} ns" for value in row["nanoseconds"].values())
        lines.append(
            f"| {row['layer']} | `{row['neuron']}` | {each} | "
            f"{row['first_seconds']['compiled']:.1f} s |"
        )
    lines.append(f"\nThe library is built in {report['build_seconds']:.1f} s, for every shape.")
    return "\n".join(lines)


def graded() -> str:
    """Return the speed of networks with graded spikes beside that of an earlier commit."""
    report = _results("graded")
    lines = [
        f"| network | T | images/s, `{report['commits']['before']}` | now | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        before, now = (f"{value:.1f}" for value in row["images_per_second"].values())
        lines.append(
            f"| `{row['model']}` | {row['timesteps']} | {before} | {now} | {row['ratio']:.2f} |"
        )
    versions = report["versions"]
    threads = "one thread" if versions["threads"] == "1" else f"{versions['threads']} threads"
    said = f"torch {versions['torch']}, {versions['cpu']}, {threads}."
    if "convert" in report:
        before, now = (f"{value:.0f} s" for value in report["convert"]["seconds"].values())
        said += (
            f" Converting ResNet-18 to graded spikes on {report['images']} images took "
            f"{before} before and {now} now."
        )
    return "\n".join([*lines, "", said])


def published() -> str:
    """Return other methods' figures (benchmarks/published.json), with the zoo's among them."""
    raw = json.loads((ROOT / "benchmarks" / "published.json").read_text())
    rows = [(row, False) for row in raw["rows"]]
    rows += [(row, True) for row in _own()]
    steps = sorted({int(t) for row, _ in rows for t in row["t"]})
    heads = [
        "data set",
        "network",
        "method",
        "neuron",
        "training",
        "ANN",
        *(f"T={t}" for t in steps),
    ]
    lines = [f"| {' | '.join([*heads, 'source'])} |", "|" + "---|" * (len(heads) + 1)]
    order = list(dict.fromkeys(row["data"] for row in raw["rows"]))
    kinds = sorted({row["network"] for row, _ in rows})
    rows.sort(key=lambda pair: (order.index(pair[0]["data"]), kinds.index(pair[0]["network"])))
    numbers = {name: index for index, name in enumerate(raw["sources"], 1)}
    for row, own in rows:
        mark = "**" if own else ""
        cells = [row[key] for key in ("data", "network", "method", "neuron", "training")]
        cells += [f"{row['ann']:.2f}"]
        cells += [f"{row['t'][str(t)]:.2f}" if str(t) in row["t"] else "" for t in steps]
        cells = [f"{mark}{cell}{mark}" if cell else "" for cell in cells]
        cells += ["" if own else f"[{numbers[row['source']]}]"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {raw['sources'][name]}" for name, number in numbers.items())]
    return "\n".join(lines)


def _levels(result: dict[str, Any]) -> int:
    """Return the levels that our ANN was trained with; 0 for ReLU, as all public ones are."""
    training = result.get("config", {"source": {}})["source"].get("training")
    return int(training["settings"]["levels"]) if training else 0


def _own() -> list[dict[str, Any]]:
    """Return the zoo's rows of networks that others have published, in the form of published.json.

    Measured on all 10,000 test images.
    """
    shipped = sorted((ROOT / "zoo" / "models").glob("*/eval.json"))
    public = sorted(
        (ROOT / "benchmarks" / "results" / "cifar10").glob("resnet20-calibrated-*.json")
    )
    found = [(path.parent.name, json.loads(path.read_text())) for path in shipped]
    found += [
        (
            f"akamaster's, calibrated{', tuned' if 'tuned' in path.stem else ''}",
            json.loads(path.read_text()),
        )
        for path in public
        if "seed" not in path.stem
    ]
    return [
        {
            "data": DATA_SETS[result["data"].get("dataset", "cifar10")],
            "network": PUBLISHED[result["arch"]],
            "method": f"Spiking Zoo, {name}",
            "neuron": _spikes(result),
            "training": ("quantised activations" if _levels(result) else "ReLU")
            + (", then through time" if result.get("config", {}).get("tuning") else ""),
            "ann": result["ann"]["top1"],
            "t": {str(row["timesteps"]): row["top1"] for row in result["rows"]},
        }
        for name, result in found
        if result["arch"] in PUBLISHED
        and result["data"]["images"] == 10_000
        and result["schedule"] == "causal"
        and result["numerics"] == "int8"
    ]


def _spikes(result: dict[str, Any]) -> str:
    """Return what the spikes of a network are, in the words of the table."""
    if result["neuron"] != "multi-level":
        return {"if": "binary", "signed": "ternary"}[result["neuron"]]
    return f"graded, {graded_bits(result['config'])}"


def _results(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / f"{name}.json").read_text()
    )
    return found


def finetune() -> str:
    """Return what training through time gave."""
    lines = [
        "| T | epochs | before | trained, float32 | rounded back to int8 | QCFS, published |",
        "|---|---|---|---|---|---|",
    ]
    for row in _results("finetune")["rows"]:
        figures = [row[key] for key in ("top1_before", "top1_after", "top1_rounded")]
        cells = [str(row["timesteps"]), str(row["tuning"]["epochs"])]
        cells += [f"{value:.2f}" for value in (*figures, row["qcfs_published"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def modules() -> str:
    """Return how many spikes differ in other frameworks, by model."""
    found = _results("modules")
    ways = list(dict.fromkeys(row["way"] for row in found["rows"]))
    lines = [f"| model | compared | {' | '.join(ways)} |", "|" + "---|" * (2 + len(ways))]
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        rows = {row["way"]: row for row in found["rows"] if row["model"] == model}
        compared = {row["neuron_timesteps"] for row in rows.values() if "different" in row}
        cells = [f"`{model}`", ", ".join(f"{count:,}" for count in sorted(compared))]
        cells += [
            f"{rows[way]['different']:,} differ" if "different" in rows.get(way, {}) else "no such"
            for way in ways
        ]
        lines.append(f"| {' | '.join(cells)} |")
    shown = ("spikingjelly", "sinabs", "norse", "snntorch", "onnx", "onnxruntime")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in shown)
    return "\n".join([*lines, "", f'"No such": the framework has no such neurons. {versions}.'])


def exits() -> str:
    """Return accuracy against mean timesteps of early exit."""
    found = _results("exits")
    lines = [
        "| rule | points allowed | calibrated on | accuracy % | mean timesteps | operations |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        hindsight = "in hindsight" if "test" in row["calibrated_on"] else row["calibrated_on"]
        cells = [row["rule"]["name"], f"{row['loss']:.1f}", hindsight, f"{row['top1']:.2f}"]
        cells += [f"{row['mean_timesteps']:.2f} of {found['timesteps']}"]
        share = row["operations"] / row["whole_operations"] if row.get("operations") else None
        cells += ["" if share is None else f"{100 * share:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Without exit: {found['rows'][0]['whole']:.2f} %."])


TABLES = {
    "exits": exits,
    "finetune": finetune,
    "strong": lambda: strong.render(strong.RESULTS).strip(),
    "modules": modules,
    "published": published,
    "headline": headline,
    "shown": shown,
    "models": models,
    "family": family,
    "cifar10": cifar10.render,
    "int8": cifar10.numerics,
    "datafree": datafree.render,
    "recipes": recipes,
    "fewsteps": lambda: recipes("multi-level"),
    "ablation": strong.ablation,
    "imagenet": imagenet.render,
    "cpu": cpu,
    "neurons": neurons,
    "graded": graded,
}


def filled(text: str) -> str:
    """Return a document with every table filled."""
    return re.sub(
        r"<!-- (\w+) -->.*?<!-- /\1 -->",
        lambda found: f"<!-- {found[1]} -->\n{TABLES[found[1]]()}\n<!-- /{found[1]} -->",
        text,
        flags=re.S,
    )


def main() -> None:
    """Write the documents, or check them."""
    for path in documents():
        text = path.read_text()
        if filled(text) == text:
            continue
        if "--check" in sys.argv:
            raise SystemExit(f"{path} differs from the results: run python -m benchmarks.tables")
        path.write_text(filled(text))


if __name__ == "__main__":
    main()
