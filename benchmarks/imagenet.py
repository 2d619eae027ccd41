"""Measure ImageNet ResNets on 1,000 validation images: the ANN, and its spiking networks.

    python -m benchmarks.imagenet CHECKPOINTS DATA WORK
    python -m benchmarks.imagenet CHECKPOINTS DATA WORK --only resnet50-if-causal --images 200
        --timesteps 8,16,32,64
    python -m benchmarks.imagenet --render

The first two convert and measure what is missing, by neuron, schedule and timesteps, and resume;
the last prints the table, from the result files alone.

CHECKPOINTS holds resnet18.safetensors and resnet50.safetensors with torchvision's keys: the
permuted and quantised ResNets of uber-research/permute-quantize-finetune, decoded (published: 66.74
and 72.18 % of all 50,000 validation images). Their license is non-commercial: WORK receives the
artifacts, which are no part of the project. DATA has `val` and `train`, each a folder of folders
named by wnid; `--images` of val, drawn with seed 0, are measured, 128 of train (ResNet-50, causal
and binary: 64) calibrate. Data-free they are images made from BatchNorm's statistics, as in the
recipes of `zoo pull`; those of these checkpoints were folded away, so they are recorded anew on all
images of train.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.models.recipes import RECIPES

if TYPE_CHECKING:
    from zoo.data.images import ImageSet
    from zoo.networks.batchnorm import Moments
    from zoo.pretrained.checkpoint import Checkpoint

RESULTS = Path(__file__).parent / "results" / "imagenet"
LONG = (8, 16, 32, 64, 128)
ARCHS = ("resnet18", "resnet50")


@dataclass(frozen=True)
class Case:
    """One artifact and what is measured on it.

    Attributes:
        parameters: those of the conversion.
    """

    arch: str
    neuron: str = "if"
    schedule: str = "causal"
    method: str = "calibrated"
    made_for: int = 32
    timesteps: tuple[int, ...] = LONG
    images: int = 1000
    parameters: Mapping[str, float | int | str | bool] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Return the number of calibration images.

        Spikes of 32 timesteps and more of more than 64 images are too many of a causal ResNet-50.
        """
        if self.method == "data-free":
            return RECIPES[f"s-{self.arch}"].samples
        return (
            64
            if self.arch == "resnet50"
            and self.schedule == "causal"
            and self.neuron != "multi-level"
            else 128
        )

    @property
    def name(self) -> str:
        timesteps = f"-t{self.made_for}" if self.schedule == "layerwise" else ""
        own = "".join(
            f"-{key}{self.parameters[key]}" for key in ("stem", "bits") if key in self.parameters
        )
        method = f"-{self.method}" if self.method != "calibrated" else ""
        return f"{self.arch}{method}-{self.neuron}-{self.schedule}{timesteps}{own}"


def cases() -> list[Case]:
    """Return every case, the quick ones first."""
    graded = Case(
        "resnet18", "multi-level", made_for=4, timesteps=(1, 2, 4, 8), parameters={"rows": 8}
    )
    rows = [graded, replace(graded, arch="resnet50")]
    # 30 levels: chosen on 144 training images that calibrate nothing (at T = 4, by the
    # cross-entropy of the ANN's classes).
    alike: dict[str, Any] = {"rows": 8, "bits": 4}
    rows += [
        replace(graded, parameters=alike),
        replace(graded, arch="resnet50", parameters=alike | {"levels": 30}),
    ]
    rows += [
        Case(arch, schedule="layerwise", made_for=t, timesteps=(t,))
        for arch in ARCHS
        for t in (32, 16, 8)
    ]
    rows += [
        Case("resnet50", schedule="layerwise", made_for=t, timesteps=(t,), parameters={"stem": 4})
        for t in (32, 16, 8)
    ]
    # Signed as measured, before such neurons had as many levels as timesteps.
    sixteen = {"levels": 16}
    rows += [Case("resnet18")]
    rows += [Case(arch, "signed", parameters=sixteen) for arch in ARCHS]
    # So deep a network needs 64 timesteps and more, at which what thresholds clip weighs more than
    # how soon neurons fire.
    deep = Case("resnet50", made_for=64, parameters={"levels": 32, "rows": 64})
    # As `zoo pull` converts.
    free = [
        Case(
            like.arch,
            like.neuron,
            method="data-free",
            made_for=like.timesteps,
            timesteps=steps,
            parameters=like.parameters,
        )
        for kind, steps in (("", LONG[:4]), ("-multi-level", graded.timesteps))
        for like in (RECIPES[f"s-{arch}{kind}"] for arch in ARCHS)
    ]
    free += [replace(case, parameters=alike) for case in free if case.neuron == "multi-level"]
    return [*rows, deep, *free]


def measure(case: Case, checkpoints: Path, data: Path, work: Path) -> None:
    """Convert the case if its artifact is not in `work`, measure it and write its result file.

    Under torchrun the artifact has to be there already, and the first process writes.
    """
    from zoo import distributed
    from zoo.conversion.convert import convert
    from zoo.data.open import open_images
    from zoo.distributed import pick_device
    from zoo.evaluation.evaluate import evaluate
    from zoo.files import write_synced
    from zoo.pretrained.checkpoint import read_checkpoint

    source, folder = checkpoints / f"{case.arch}.safetensors", work / case.name
    if not folder.exists():
        begun = time.perf_counter()
        checkpoint, images = (
            read_checkpoint(source, case.arch),
            open_images(data / "train", "train"),
        )
        if case.method == "data-free":
            checkpoint, images = replace(checkpoint, moments=_moments(checkpoint, images)), None
        convert(
            checkpoint,
            images,
            method=case.method,
            neuron=case.neuron,
            schedule=case.schedule,
            timesteps=case.made_for,
            samples=case.samples,
            parameters=case.parameters,
            progress=_say,
        ).save(folder)  # type: ignore[arg-type]
        print(
            f"{case.name}: converted in {time.perf_counter() - begun:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    measured = open_images(data / "val", "test").take(case.images, 0)
    result = evaluate(
        folder,
        measured,
        case.timesteps,
        batch_size=20,
        ann=source,
        device=pick_device("auto"),
        state=work / f"{case.name}.part",
        progress=_say,
    )
    if not distributed.current_ranks().first:
        return
    timesteps = ",".join(map(str, case.timesteps))
    options = f"--only {case.name} --images {case.images} --timesteps {timesteps}"
    result.command = f"python -m benchmarks.imagenet CHECKPOINTS DATA WORK {options}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_synced(
        RESULTS / f"{case.name}.json", (_without_paths(result.model_dump(mode="json"))).encode()
    )
    print(case.name, {row.timesteps: round(row.top1, 2) for row in result.rows}, flush=True)


def _moments(checkpoint: Checkpoint, images: ImageSet) -> dict[str, Moments]:
    """Return what a BatchNorm after each convolution would record of these images."""
    import torch

    from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
    from zoo.networks.batchnorm import Moments
    from zoo.networks.pixels import image_table, look_up
    from zoo.networks.preprocess import Preprocess
    from zoo.networks.resnet import ann_forward

    sums: dict[str, torch.Tensor] = {}
    seen: dict[str, int] = {}

    def add(name: str, z: torch.Tensor) -> None:
        flat = z.transpose(0, 1).flatten(1).double()
        sums[name] = sums.get(name, 0) + torch.stack([flat.sum(1), flat.square().sum(1)])
        seen[name] = seen.get(name, 0) + flat.shape[1]

    table = image_table(IMAGENET_MEAN, IMAGENET_STD, integer=False)
    with torch.inference_mode():
        for batch, _ in images.batches(Preprocess((3, 224, 224), 256), 10):
            ann_forward(checkpoint.net, checkpoint.params, look_up(table, batch), on_output=add)
    moments = {}
    for name, both in sums.items():
        mean, square = both / seen[name]
        moments[name] = Moments(mean.float(), (square - mean.square()).clamp(min=0).sqrt().float())
    return moments


def _without_paths(result: dict[str, Any]) -> str:
    result.pop("classes", None)  # a row for each of 1,000 classes, with one or two images
    return json.dumps(result, indent=1) + "\n"


def _say(stage: str, done: int, total: int) -> None:
    if done == total or done % 200 == 0:
        print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)


def graded_bits(config: Mapping[str, Any]) -> str:
    """Return how many bits the spikes of a multi-level network have, from its config.json."""
    layers = (config.get("neurons") or {}).values()
    bits = sorted({layer["bits"] for layer in layers}) or [config["spike_bits"]]
    return f"{bits[0]} to {bits[-1]} bits by layer" if len(bits) > 1 else f"{bits[0]} bits"


def render() -> str:
    """Return the table as Markdown, from the result files."""
    steps = (1, 2, 4, *LONG)
    head = "| network | spikes | images | ANN | " + " | ".join(f"T={t}" for t in steps) + " |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    merged: dict[tuple[str, ...], dict[int, float]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        spikes = f"`{result['neuron']}` {result['schedule']}"
        if (stem := result["config"].get("stem", 1)) > 1:
            spikes += f", {stem} neurons a stem channel"
        if result["neuron"] == "multi-level":
            spikes += f", {graded_bits(result['config'])}"
        if result["method"] == "data-free":
            spikes += ", data-free"
        key = (
            result["arch"],
            spikes,
            str(result["data"]["images"]),
            f"{result['ann']['top1']:.1f}",
        )
        merged.setdefault(key, {}).update({row["timesteps"]: row["top1"] for row in result["rows"]})
    for key, row in sorted(merged.items()):
        lines.append(
            "| " + " | ".join([*key, *(f"{row[t]:.1f}" if t in row else "" for t in steps)]) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    parser.add_argument("--images", type=int, help="validation images")
    parser.add_argument(
        "--timesteps",
        type=lambda text: tuple(map(int, text.split(","))),
        help="instead of the case's own",
    )
    parser.add_argument("--render", action="store_true", help="print the table")
    given = parser.parse_args()
    if given.render:
        print(render())
        return
    if given.work is None:
        parser.error("give CHECKPOINTS DATA WORK, or --render")
    given.work.mkdir(parents=True, exist_ok=True)
    for case in cases():
        if case.name.startswith(given.only) and not (RESULTS / f"{case.name}.json").exists():
            asked = replace(
                case,
                images=given.images or case.images,
                timesteps=given.timesteps or case.timesteps,
            )
            measure(asked, given.checkpoints, given.data, given.work)


if __name__ == "__main__":
    main()
