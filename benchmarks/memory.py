"""Measure the peak memory of `zoo eval` at 224 x 224, everything included.

    python -m benchmarks.memory [--arch resnet50 resnet152] [--images 4 16] [--threads 2]
        [--out FILE.json]

The networks are ResNet-50 and ResNet-152 at T = 32. Weights and pixels are random, which changes
nothing: dense convolutions take what they take. Each measurement is `zoo eval` in a process of its
own on images in class folders, with its ANN beside it; the figure is that process's peak resident
memory. The bound is 4 GB for any number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS, SIDE, CLASSES = 32, 224, 1000
BOUND = 4e9
RESULTS = Path(__file__).parent / "results"


def prepare(folder: Path, arch: str, images: int) -> None:
    """Write random images, a random checkpoint, and a random network with it as its source."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from zoo.artifact.config import unsealed
    from zoo.artifact.folder import write_artifact
    from zoo.artifact.tensors import expected_tensors
    from zoo.imagenet import imagenet_classes
    from zoo.networks.architectures import topology
    from zoo.networks.resnet import ResNet
    from zoo.pretrained.checkpoint import sha256_of

    random = np.random.default_rng(0)
    for wnid, index in zip(imagenet_classes(), range(images), strict=False):
        place = folder / "images" / wnid
        place.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
            place / f"{index}.png"
        )
    torch.manual_seed(0)
    net = topology(arch, num_classes=CLASSES)
    source = folder / f"{arch}.safetensors"
    save_file(ResNet(net).state_dict(), source)

    config = unsealed(
        format="spiking-zoo",
        format_version=1,
        arch=arch,
        shortcut=net.shortcut,
        num_classes=CLASSES,
        preprocess={"input_size": (3, SIDE, SIDE), "mean": [0.5] * 3, "std": [0.25] * 3},
        numerics="int8",
        neuron="if",
        schedule="causal",
        timesteps=STEPS,
        readout_delay={},
        bias_rows=1,
        method={"name": "hu2018", "parameters": {}},
        source={"name": "random", "sha256": sha256_of(source)},
        calibration={"description": "none", "sha256": "0" * 64, "images": 1, "seed": 0},
    )
    tensors = {}
    for name, (dtype, shape) in expected_tensors(config, net).items():
        tensors[name] = (
            torch.randint(-127, 128, shape, dtype=dtype)
            if not dtype.is_floating_point
            else torch.ones(shape)
        )
        if name.endswith(".threshold"):
            tensors[name] = torch.full(shape, 2000, dtype=dtype)
    write_artifact(folder / "network", tensors, config)


def measure(folder: Path, arch: str, threads: int) -> dict[str, object]:
    """Return the figures that one `zoo eval` reports of itself."""
    words = [
        "eval",
        folder / "network",
        "--data",
        folder / "images",
        "--ann",
        folder / f"{arch}.safetensors",
    ]
    words += ["--timesteps", f"1,2,4,8,16,{STEPS}", "--device", "cpu", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "zoo", *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result = json.loads(done.stdout)
    return {
        "arch": arch,
        "images": result["data"]["images"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "versions": result["versions"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", nargs="+", default=["resnet50", "resnet152"])
    parser.add_argument("--images", nargs="+", type=int, default=[16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    args = parser.parse_args()
    results = []
    for arch in args.arch:
        for images in args.images:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "benchmarks.memory",
                        "--prepare",
                        folder,
                        arch,
                        str(images),
                    ],
                    check=True,
                )
                results.append(measure(Path(folder), arch, args.threads))
            print(json.dumps(results[-1]), flush=True)
    args.out.write_text(
        json.dumps(
            {"bound_bytes": BOUND, "timesteps": STEPS, "side": SIDE, "results": results}, indent=2
        )
        + "\n"
    )
    return int(any(result["peak_memory_bytes"] > BOUND for result in results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
