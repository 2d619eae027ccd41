"""Measure the cost of conversion without any image, on the four public CIFAR-10 ResNets.

    python -m benchmarks.datafree CHECKPOINTS DATA WORK
    python -m benchmarks.datafree CHECKPOINTS DATA WORK --only resnet20-data-free-if --images 10000
    python -m benchmarks.datafree --render

The first two measure what is missing, and resume; the last prints the table of data-free against
calibrated, from the result file alone.

Arguments as in benchmarks.cifar10, whose measurements of `calibrated` (256 training images) are
used as they are. The images of a network are created once, as data-free conversion creates them,
and kept in WORK: calibrating on them gives the same network. Methods: data-free; moments, its
baseline: thresholds from BatchNorm's moments by a closed form, the ANN's own biases, a plain
read-out, so that images decide nothing but how its weights are rounded. Test images: the first
`--images` of them, by default as many as the calibrated network was measured on; a row says how
many. Writes benchmarks/results/datafree.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cifar10 import CHECKPOINTS
from benchmarks.cifar10 import RESULTS as MEASURED

if TYPE_CHECKING:
    from zoo.data.images import ImageSet
    from zoo.pretrained.checkpoint import Checkpoint

RESULTS = Path(__file__).parent / "results" / "datafree.json"
STEPS = (8, 16, 32, 64)
METHODS: dict[str, dict[str, str]] = {
    "data-free": {},
    "moments": {"thresholds": "moments", "bias": "ann", "delay": "none"},
}


def calibrated(arch: str, neuron: str) -> dict[str, Any]:
    """Return the row of the network that was calibrated on training images."""
    path = MEASURED / f"{arch}-calibrated-{neuron}-causal-int8.json"
    result = json.loads(path.read_text())
    return {
        "name": f"{arch}-calibrated-{neuron}",
        "arch": arch,
        "method": "calibrated",
        "neuron": neuron,
        "images": result["data"]["images"],
        "ann": result["ann"]["top1"],
        "top1": {
            str(row["timesteps"]): row["top1"]
            for row in result["rows"]
            if row["timesteps"] in STEPS
        },
        "from": f"results/cifar10/{path.name}",
    }


def measure(
    arch: str, method: str, neuron: str, images: int, checkpoints: Path, data: Path, work: Path
) -> dict[str, Any]:
    """Convert and measure one network."""
    from zoo.conversion.convert import convert
    from zoo.data.open import open_images
    from zoo.evaluation.evaluate import evaluate
    from zoo.pretrained.checkpoint import read_checkpoint

    source, folder = checkpoints / CHECKPOINTS[arch], work / f"{arch}-{method}-{neuron}"
    checkpoint = read_checkpoint(source, arch)
    used, facts = synthetic_images(checkpoint, work / f"{arch}-made")
    convert(checkpoint, used, neuron=neuron, samples=len(used), parameters=METHODS[method]).save(
        folder, force=folder.exists()
    )  # type: ignore[arg-type]
    result = evaluate(folder, open_images(data, "test").take(images, None), STEPS, ann=source)
    assert result.ann is not None
    return {
        "name": folder.name,
        "arch": arch,
        "method": method,
        "neuron": neuron,
        "images": result.data.images,
        "ann": result.ann.top1,
        "top1": {str(row.timesteps): row.top1 for row in result.rows},
        **facts,
        "weights_sha256": result.weights_sha256,
    }


def synthetic_images(checkpoint: Checkpoint, folder: Path) -> tuple[ImageSet, dict[str, Any]]:
    """Return the images that data-free conversion creates, and their facts.

    They are read from `folder` where they are there.
    """
    import numpy as np

    from zoo.conversion.registry import default_parameters
    from zoo.conversion.synthetic import make_images
    from zoo.data.images import unlabelled
    from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
    from zoo.networks.preprocess import Preprocess

    defaults = default_parameters("data-free")
    settings = {name: defaults[name] for name in ("images", "steps", "rate")}
    if not (folder / "facts.json").exists():
        begun = time.process_time()
        images = make_images(
            checkpoint, (3, 32, 32), IMAGENET_MEAN, IMAGENET_STD, **settings, seed=0
        )  # type: ignore[arg-type]
        facts = {
            "made": images.description,
            "made_in_cpu_seconds": round(time.process_time() - begun, 1),
        }
        folder.mkdir(parents=True, exist_ok=True)
        pixels = images.batch(slice(None), Preprocess((3, 32, 32)))
        np.save(folder / "images.npy", pixels.permute(0, 2, 3, 1).numpy())
        (folder / "facts.json").write_text(json.dumps(facts))
    facts = json.loads((folder / "facts.json").read_text())
    return unlabelled(np.load(folder / "images.npy"), facts["made"], checkpoint.name), facts


def render() -> str:
    """Return the table as Markdown, from the result file."""
    report = json.loads(RESULTS.read_text())
    lines = [
        "| network | method | neuron | images | ANN | " + " | ".join(f"T={t}" for t in STEPS) + " |"
    ]
    lines.append("|" + "---|" * (5 + len(STEPS)))
    order = [
        f"{arch}-{method}-{neuron}"
        for arch in sorted(CHECKPOINTS)
        for neuron in ("if", "signed")
        for method in ("calibrated", *METHODS)
    ]
    for row in sorted(report["rows"], key=lambda row: order.index(row["name"])):
        cells = [
            row["arch"],
            row["method"],
            f"`{row['neuron']}`",
            str(row["images"]),
            f"{row['ann']:.2f}",
        ]
        cells += [f"{row['top1'][str(t)]:.2f}" if str(t) in row["top1"] else "" for t in STEPS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line; see the module's docstring."""
    from zoo.environment import versions
    from zoo.files import write_synced

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="rows whose name begins so; several with commas")
    parser.add_argument("--images", type=int, help="the first so many test images")
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if args.render:
        print(render())
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
            if (
                not name.startswith(tuple(args.only.split(",")))
                or kept.get(name, {"images": 0})["images"] >= images
            ):
                continue
            kept[name] = measure(
                arch, method, neuron, images, args.checkpoints, args.data, args.work
            )
            report = {
                "command": "python -m benchmarks.datafree CHECKPOINTS DATA WORK",
                "versions": versions(),
                "rows": list(kept.values()),
            }
            write_synced(RESULTS, (json.dumps(report, indent=1) + "\n").encode())
            print(name, images, kept[name]["top1"], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
