"""Compare thresholds of a causal `if` network, on ResNet-20 and CIFAR-10.

    python -m benchmarks.thresholds CHECKPOINT DATA [--images 1000]

Each is measured with and without the calibrated bias and the delayed read-out. Judged on training
images that the calibration did not use, so that no choice is made on test images: the share that
get the ANN's prediction, and the divergence of the class probabilities, KL(ANN || SNN), which still
tells at high T. Writes benchmarks/results/thresholds.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "thresholds.json"
STEPS = (8, 16, 32, 64)
RULES: dict[str, dict[str, int | str]] = {
    "percentile 99.9": {"thresholds": "percentile"},
    "ltb, 300 batches": {"thresholds": "ltb", "iterations": 300},
    "mmse, 8 levels": {"thresholds": "mmse", "levels": 8},
    "mmse, 16 levels": {"thresholds": "mmse", "levels": 16},
    "mmse, 32 levels": {"thresholds": "mmse", "levels": 32},
    "smaller of mmse 16 and ltb": {"thresholds": "mmse-ltb", "levels": 16, "iterations": 300},
}
BIASES = {"thresholds alone": "ann", "calibrated bias": "matched"}


def main() -> None:
    """Run the command line; see the module's docstring."""
    import torch

    from zoo.conversion.convert import convert
    from zoo.data.images import ImageSet
    from zoo.data.open import open_images
    from zoo.environment import versions
    from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
    from zoo.networks.pixels import image_table, look_up
    from zoo.networks.preprocess import Preprocess
    from zoo.networks.resnet import ann_forward
    from zoo.pretrained.checkpoint import read_checkpoint

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    ann = read_checkpoint(args.checkpoint, "resnet20")
    train: ImageSet = open_images(args.data, "train")
    prep = Preprocess((3, 32, 32))
    # `convert` draws the first 256 of this permutation; these are the last.
    held_out = train.batch(train_rows(len(train), args.images), prep)
    table = image_table(IMAGENET_MEAN, IMAGENET_STD, integer=False)
    with torch.inference_mode():
        target = torch.cat(
            [ann_forward(ann.net, ann.params, look_up(table, part)) for part in held_out.split(100)]
        )
    share = target.double().softmax(1)
    rows, last = [], ann.net.layers[-1].name
    for rule, thresholds in RULES.items():
        for extra, bias in BIASES.items():
            network = convert(ann, train, parameters={**thresholds, "bias": bias}).network
            counts: list[torch.Tensor] = []
            for part in held_out.split(64):
                seen: list[torch.Tensor] = []

                def pool(name: str, spikes: torch.Tensor, seen: list[torch.Tensor] = seen) -> None:
                    if name == last:
                        seen.append(spikes.sum((3, 4), dtype=torch.int64))

                network.run(part, max(STEPS), chunk=len(part), on_spikes=pool)
                counts.append(torch.cat(seen).cumsum(0))
            total = torch.cat(counts, 1)
            for delay in ({}, network.delay):
                network.delay = delay
                logits = network.read_out(total)
                result: dict[str, object] = {
                    "thresholds": rule,
                    "calibration": extra,
                    "delayed_read_out": bool(delay),
                }
                for t in STEPS:
                    output = logits[t - 1]
                    result[f"agreement@{t}"] = (
                        100 * (output.argmax(1) == target.argmax(1)).float().mean().item()
                    )
                    loss = (
                        (share * (share.clamp_min(1e-12).log() - output.log_softmax(1)))
                        .sum(1)
                        .mean()
                    )
                    result[f"kl@{t}"] = loss.item()
                rows.append(result)
                cells = [
                    f"{result[f'agreement@{t}']:6.2f} ({result[f'kl@{t}']:.3f})" for t in STEPS
                ]
                print(f"{rule:28} {extra:18} {'delayed' if delay else '':8}", *cells, flush=True)
    facts = {
        "command": "python -m benchmarks.thresholds CHECKPOINT DATA",
        "images": args.images,
        "versions": versions(),
    }
    RESULTS.write_text(json.dumps({**facts, "checkpoint": ann.name, "rows": rows}, indent=1) + "\n")


def train_rows(count: int, samples: int) -> list[int]:
    """Return the last `samples` training images in the order of `ImageSet.take` with seed 0."""
    import numpy as np

    return np.random.default_rng(0).permutation(count)[-samples:].tolist()


if __name__ == "__main__":
    main()
