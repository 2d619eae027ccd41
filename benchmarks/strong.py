"""Measure what conversion keeps of a strong network: accuracy, agreement with the ANN, operations.

    python -m benchmarks.strong CHECKPOINT DATA [--arch resnet56] [--images 10000]
        [--mean ... --std ...] [--only mixed] [--out FOLDER]
    python -m benchmarks.strong --render

Each case is a conversion by the defaults of `zoo convert`, but for what the table CASES says of
it. Agreement is the share of test images on which the spiking network predicts what the ANN
predicts: it is less noisy than accuracy, since the images are the same. Results go to
benchmarks/results/strong, one file a network and case; a case that has one is left as it is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "strong"
BATCH = 250

# Arguments of `zoo.convert`, and the numbers of timesteps that are measured.
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "multi-level": (
        {"neuron": "multi-level", "timesteps": 4, "parameters": {"bits": 4}},
        (1, 2, 4),
    ),
    "multi-level-1.25": (
        {"neuron": "multi-level", "timesteps": 2, "parameters": {"budget": 1.25}},
        (1, 2, 4),
    ),
    "multi-level-1.5": (
        {"neuron": "multi-level", "timesteps": 2, "parameters": {"budget": 1.5}},
        (1, 2, 4),
    ),
    "layerwise": ({"schedule": "layerwise", "timesteps": 32}, (32,)),
    "layerwise-tuned": (
        {
            "schedule": "layerwise",
            "timesteps": 32,
            "parameters": {"tune": 1000, "tune_rate": 1e-4},
        },
        (32,),
    ),
    "mixed": ({"neuron": "mixed", "timesteps": 16}, (8, 16, 32)),
    "mixed-2.5": ({"neuron": "mixed", "timesteps": 16, "parameters": {"budget": 2.5}}, (16, 32)),
    "mixed-binary-blocks": (
        {"neuron": "mixed", "timesteps": 16, "parameters": {"blocks": "binary"}},
        (8, 16, 32),
    ),
    "signed": ({"neuron": "signed", "timesteps": 32}, (16, 32)),
    "signed-16": (
        {"neuron": "signed", "timesteps": 32, "parameters": {"levels": 16}},
        (16, 32),
    ),
    "if": ({"timesteps": 32}, (16, 32, 64)),
    "if-64": ({"timesteps": 64}, (32, 64)),
    "if-search": ({"timesteps": 32, "parameters": {"delay": "search"}}, (16, 32, 64)),
}


# What was changed, the case before and the case after, and the timesteps that it is for.
CHANGES: tuple[tuple[str, str, str, tuple[int, ...]], ...] = (
    (
        "read-out's delay by the squared error of the logits, not by cross-entropy",
        "if-search",
        "if",
        (16, 32, 64),
    ),
    ("32 levels for T = 64, not 16", "if", "if-64", (64,)),
    ("as many levels as timesteps for `signed`, not 16", "signed-16", "signed", (16, 32)),
    ("1,000 steps of distillation on training images", "layerwise", "layerwise-tuned", (32,)),
    ("4 to 6 bits by layer, not 4", "multi-level", "multi-level-1.25", (1, 2, 4)),
    ("2 and 4 bits in the residual stream, not 1", "if", "mixed-binary-blocks", (16, 32)),
    ("1, 2 and 4 bits by layer, not 1", "if", "mixed", (16, 32)),
)


def measure(name: str, args: argparse.Namespace, out: Path) -> None:
    """Convert one case, run the test images and write its result file."""
    import torch

    from zoo.conversion.convert import convert
    from zoo.data.open import open_images
    from zoo.environment import versions
    from zoo.evaluation.energy import count_operations, per_image
    from zoo.files import write_synced
    from zoo.networks.pixels import image_table, look_up
    from zoo.networks.preprocess import Preprocess
    from zoo.networks.resnet import ann_forward
    from zoo.pretrained.checkpoint import read_checkpoint
    from zoo.render.facts import config_facts

    how, steps = CASES[name]
    checkpoint = read_checkpoint(args.checkpoint, args.arch)
    begun = time.perf_counter()
    made = convert(checkpoint, open_images(args.data, "train"), mean=args.mean, std=args.std, **how)
    print(f"{name}: converted in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    network, config = made.network, made.config
    images = open_images(args.data, "test").take(args.images, None)
    table = image_table(config.preprocess.mean, config.preprocess.std, integer=False)
    layerwise = config.schedule == "layerwise"
    hits, agreed = defaultdict[int, int](int), defaultdict[int, int](int)
    counted = {step: defaultdict[str, int](int) for step in steps}
    right = 0
    for pixels, labels in images.batches(Preprocess.of(config), BATCH):
        labels = torch.as_tensor(labels)
        with torch.inference_mode():
            ann = ann_forward(checkpoint.net, checkpoint.params, look_up(table, pixels)).argmax(1)
        run = network.run(pixels, max(steps), snapshots=steps)
        active = (network.pixels(pixels) != 0).sum(0)
        right += int((ann == labels).sum())
        for step in steps:
            found = run.logits[-1 if layerwise else step - 1].argmax(1)
            hits[step] += int((found == labels).sum())
            agreed[step] += int((found == ann).sum())
            for layer, count in count_operations(network, run.spikes[step], active).items():
                counted[step][layer] += count
    total = len(images)
    command = ["python", "-m", "benchmarks.strong", args.checkpoint.name, "DATA"]
    command += ["--arch", args.arch, "--images", str(args.images)]
    for part in ("mean", "std"):
        command += ["--" + part, ",".join(map(str, getattr(config.preprocess, part)))]
    command += ["--only", name]
    result = {
        "checkpoint": checkpoint.sha256,
        "arch": args.arch,
        "case": name,
        "neuron": config_facts(config)["Network"]["neuron"],
        "method": config.method.model_dump(mode="json"),
        "calibration": config.calibration.model_dump(mode="json"),
        "data": images.description,
        "images": total,
        "ann": 100 * right / total,
        "rows": [
            {
                "timesteps": step,
                "top1": 100 * hits[step] / total,
                "loss": 100 * (right - hits[step]) / total,
                "agreement": 100 * agreed[step] / total,
                "delay": 0 if layerwise else network.delay_at(step),
                "accumulates": per_image(network, counted[step], total).acs,
            }
            for step in steps
        ],
        "neurons": None
        if config.neurons is None
        else {layer: kind.bits for layer, kind in config.neurons.items()},
        "versions": versions(network.backend, "cpu", 1),
        "command": shlex.join(command),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    write_synced(out / f"{Path(args.checkpoint).stem}-{name}-{total}.json", text.encode())
    rows = {row["timesteps"]: (round(row["loss"], 2), round(row["agreement"], 2))
            for row in result["rows"]}  # fmt: skip
    print(f"{name}: ANN {result['ann']:.2f}, loss and agreement by T: {rows}", flush=True)


def render(folder: Path) -> str:
    """Return the result files as a table in Markdown."""
    lines = [
        "| network (ANN) | images | case | T | top-1 | loss | agreement | M operations |",
        "|" + "---|" * 8,
    ]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        for row in found["rows"]:
            cells = [
                f"{path.stem.split('-')[0]} ({found['ann']:.2f})",
                str(found["images"]),
                f"{found['case']}: {found['neuron']}",
                str(row["timesteps"]),
                f"{row['top1']:.2f}",
                f"{row['loss']:.2f}",
                f"{row['agreement']:.2f}",
                f"{row['accumulates'] / 1e6:.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ablation(folder: Path = RESULTS) -> str:
    """Return what each change gave, on networks that both its cases were measured on, alike."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    names = {
        json.loads(path.read_text())["checkpoint"]: path.stem.split("-")[0]
        for path in folder.glob("*.json")
    }
    runs = {(one["checkpoint"], one["images"], one["case"]): one for one in found}
    lines = [
        "| change | network | images | T | loss | agreement | M operations |",
        "|" + "---|" * 7,
    ]
    for change, before, after, steps in CHANGES:
        for checkpoint, images, case in runs:
            if case != after or (checkpoint, images, before) not in runs:
                continue
            pair = [
                {row["timesteps"]: row for row in runs[checkpoint, images, case]["rows"]}
                for case in (before, after)
            ]
            for step in steps:
                old, new = (rows[step] for rows in pair)
                cells = [change, names[checkpoint], str(images), str(step)]
                cells += [f"{old[key]:.2f} -> {new[key]:.2f}" for key in ("loss", "agreement")]
                cells.append(f"{old['accumulates'] / 1e6:.0f} -> {new['accumulates'] / 1e6:.0f}")
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the cases that have no result file yet, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--arch", default="resnet56")
    parser.add_argument("--images", type=int, default=10_000)
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", type=lambda text: tuple(map(float, text.split(","))), default=None
        )
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--render", action="store_true")
    args = parser.parse_args()
    if args.render:
        print(render(args.out))
        return
    for name in args.only or CASES:
        if not (args.out / f"{args.checkpoint.stem}-{name}-{args.images}.json").exists():
            measure(name, args, args.out)


if __name__ == "__main__":
    main()
