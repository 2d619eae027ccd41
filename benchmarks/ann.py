"""Measure public CIFAR ResNets as they are, on all test images, against what was published.

    python -m benchmarks.ann CHECKPOINTS CIFAR10 CIFAR100

CHECKPOINTS holds akamaster's resnet20-12fca82f.th, 32, 44 and 56 and chenyaofo's
cifar100_resnet56-f2eff4c8.pt; CIFAR10 and CIFAR100 are the data sets in any form that `zoo eval
--data` takes. The network that is measured is the one that `zoo convert` begins from: read by
`zoo.pretrained`, its BatchNorm folded, on pixels that went through the image table. Result:
benchmarks/results/ann.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "ann.json"
CIFAR100 = ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
# File, architecture, published top-1 in percent, mean and std (None: ImageNet's, which is assumed).
CHECKPOINTS = (
    ("resnet20-12fca82f.th", "resnet20", 91.73, None),
    ("resnet32-d509ac18.th", "resnet32", 92.63, None),
    ("resnet44-014dd654.th", "resnet44", 93.10, None),
    ("resnet56-4bfd9763.th", "resnet56", 93.39, None),
    ("cifar100_resnet56-f2eff4c8.pt", "resnet56", 72.63, CIFAR100),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("checkpoints", "cifar10", "cifar100"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args()
    import torch

    from zoo.conversion.inputs import normalisation
    from zoo.data.open import open_images
    from zoo.environment import versions
    from zoo.networks.pixels import image_table, look_up
    from zoo.networks.preprocess import Preprocess
    from zoo.networks.resnet import ann_forward
    from zoo.pretrained.sources import read_source

    rows = []
    for file, arch, published, values in CHECKPOINTS:
        checkpoint = read_source(given.checkpoints / file)
        assert checkpoint.net.arch == arch
        data = given.cifar10 if checkpoint.net.num_classes == 10 else given.cifar100
        images = open_images(data, "test")
        images = images.for_classes(checkpoint.net.num_classes)
        mean, std = normalisation(checkpoint, *(values or (None, None)))
        table = image_table(mean, std, integer=False)
        right = 0
        with torch.inference_mode():
            for pixels, labels in images.batches(Preprocess((3, 32, 32)), 250):
                logits = ann_forward(checkpoint.net, checkpoint.params, look_up(table, pixels))
                right += int((logits.argmax(1) == labels).sum())
        rows.append(
            {
                "file": file,
                "sha256": checkpoint.sha256,
                "arch": arch,
                "images": len(images),
                "top1": 100 * right / len(images),
                "published": published,
                "mean": list(mean),
                "std": list(std),
            }
        )
        print(f"{file}: {rows[-1]['top1']:.2f} (published {published:.2f})", flush=True)
    found = {
        "command": "python -m benchmarks.ann CHECKPOINTS CIFAR10 CIFAR100",
        "rows": rows,
        "versions": versions(device="cpu"),
    }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
