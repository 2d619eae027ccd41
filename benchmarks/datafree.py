"""What conversion without any image costs: data-free against calibrated, on the four public CIFAR-10 ResNets.

    python -m benchmarks.datafree CHECKPOINTS DATA WORK            # measures what is missing; resumes
    python -m benchmarks.datafree CHECKPOINTS DATA WORK --only resnet20-data-free-if --images 10000
    python -m benchmarks.datafree --render                         # the table, from the result file alone

Arguments as in benchmarks.cifar10, whose artifacts and measurements of `calibrated` (256 training images) are used as they are.
Methods: data-free; moments, its baseline: thresholds from BatchNorm's moments by a closed form, the ANN's own biases and a plain
read-out, so that the images it makes decide nothing but how weights are rounded. Test images: the first `--images` of them, by
default as many as the calibrated network was measured on; a row says how many. Writes benchmarks/results/datafree.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.cifar10 import CHECKPOINTS
from benchmarks.cifar10 import RESULTS as MEASURED

RESULTS = Path(__file__).parent / "results" / "datafree.json"
STEPS = (8, 16, 32, 64)
METHODS: dict[str, dict[str, str]] = {
    "data-free": {}, "moments": {"thresholds": "moments", "bias": "ann", "delay": "none"},
}  # fmt: skip


def calibrated(arch: str, neuron: str) -> dict[str, Any]:
    """The row of the network that was calibrated on training images."""
    path = MEASURED / f"{arch}-calibrated-{neuron}-causal-int8.json"
    found = json.loads(path.read_text())
    return {
        "name": f"{arch}-calibrated-{neuron}", "arch": arch, "method": "calibrated", "neuron": neuron,
        "images": found["data"]["images"], "ann": found["ann"]["top1"],
        "top1": {str(row["timesteps"]): row["top1"] for row in found["rows"] if row["timesteps"] in STEPS},
        "from": f"results/cifar10/{path.name}",
    }  # fmt: skip


def measure(arch: str, method: str, neuron: str, images: int, checkpoints: Path, data: Path, work: Path) -> dict[str, Any]:
    """Converts and measures one network."""
    from zoo.checkpoint import read_checkpoint
    from zoo.convert import convert
    from zoo.data import open_images
    from zoo.evaluate import evaluate

    name, source = f"{arch}-{method}-{neuron}", checkpoints / CHECKPOINTS[arch]
    begun, folder = time.process_time(), work / name
    made = convert(
        read_checkpoint(source, arch), None, method="data-free", neuron=neuron, parameters=METHODS[method]
    )  # type: ignore[arg-type]  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    config = made.save(folder)
    seconds = time.process_time() - begun
    found = evaluate(folder, open_images(data, "test").take(images, None), STEPS, ann=source)
    assert found.ann is not None
    return {
        "name": name, "arch": arch, "method": method, "neuron": neuron, "images": found.data.images, "ann": found.ann.top1,
        "top1": {str(row.timesteps): row.top1 for row in found.rows}, "conversion_cpu_seconds": round(seconds, 1),
        "parameters": config.method.parameters, "calibration": config.calibration.description,
        "weights_sha256": config.weights_sha256,
    }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = ["| network | method | neuron | images | ANN | " + " | ".join(f"T={t}" for t in STEPS) + " |"]
    lines.append("|" + "---|" * (5 + len(STEPS)))
    order = [f"{arch}-{method}-{neuron}" for arch in sorted(CHECKPOINTS) for neuron in ("if", "signed")
             for method in ("calibrated", *METHODS)]  # fmt: skip
    for row in sorted(report["rows"], key=lambda row: order.index(row["name"])):
        cells = [row["arch"], row["method"], f"`{row['neuron']}`", str(row["images"]), f"{row['ann']:.2f}"]
        cells += [f"{row['top1'][str(t)]:.2f}" if str(t) in row["top1"] else "" for t in STEPS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Command line; see the module's docstring."""
    from zoo.artifact import write_synced
    from zoo.evaluate import versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="rows whose name begins so; several with commas")
    parser.add_argument("--images", type=int, help="the first so many test images")
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if args.render:
        print(render(report))
        return
    if args.work is None:
        parser.error("give CHECKPOINTS, DATA and WORK, or --render")
    pairs = [(arch, neuron) for neuron in ("if", "signed") for arch in CHECKPOINTS]
    kept = {row["name"]: row for row in report["rows"]} | {
        row["name"]: row for row in (calibrated(arch, neuron) for arch, neuron in pairs)
    }
    for method in METHODS:
        for arch, neuron in pairs:
            name = f"{arch}-{method}-{neuron}"
            images = args.images or kept[f"{arch}-calibrated-{neuron}"]["images"]
            if not name.startswith(tuple(args.only.split(","))) or kept.get(name, {"images": 0})["images"] >= images:
                continue
            kept[name] = measure(arch, method, neuron, images, args.checkpoints, args.data, args.work)
            report = {"command": "python -m benchmarks.datafree CHECKPOINTS DATA WORK", "versions": versions(),
                      "rows": list(kept.values())}  # fmt: skip
            write_synced(RESULTS, (json.dumps(report, indent=1) + "\n").encode())
            print(name, images, kept[name]["top1"], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
