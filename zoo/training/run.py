"""A training run in a folder, from the images to a checkpoint that `zoo convert` takes.

FOLDER/{arch}.safetensors is the result, FOLDER/log.json tells how it came about,
FOLDER/training.safetensors is there to go on from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.artifact.folder import read_artifact
from zoo.artifact.tensors import topology_of
from zoo.data.datasets import identify
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.environment import versions
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError
from zoo.files import replaced_file
from zoo.hub import cache
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.models import registry
from zoo.networks.architectures import topology
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.pretrained.checkpoint import training_of
from zoo.progress import Progress
from zoo.training import from_artifact
from zoo.training.compiled import can_compile
from zoo.training.plan import Plan
from zoo.training.steps import ADVICE, check_resumes, run_saving
from zoo.training.teacher import read_teacher
from zoo.training.trainer import Trainer, exported, save_checkpoint

# Of the training images of digits, for pixels in 0 to 1.
DIGITS_MEAN, DIGITS_STD = (0.3055,), (0.3759,)

_LOOKED_AT = 1000  # training images that BatchNorm is put back with


def train(
    arch: str,
    dataset: str | Path,
    folder: Path,
    *,
    epochs: int = 60,
    batch_size: int = 128,
    peak_rate: float = 0.2,
    levels: int = 0,
    start: str | Path | None = None,
    teacher: str | Path | None = None,
    cutout: int = 0,
    mixup: float = 0.0,
    smallest: int = 0,
    shortcut: Literal["A", "B"] | None = None,
    seed: int = 0,
    precision: Literal["auto", "bf16", "float32"] = "auto",
    compiled: bool = False,
    device: str = "cpu",
    resume: bool = False,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train `arch` on the training split of `dataset` and measure it once, on the test split.

    Args:
        arch: a network of `zoo.networks.topology`.
        dataset: images in any form of `zoo.data.open.open_images`.
        folder: where the result, the log and the state are written.
        epochs: passes over the training images.
        batch_size: images per step.
        peak_rate: SGD's highest learning rate.
        levels: number of levels of the quantized activation (`zoo.networks.quantise`); 0 trains
            with ReLU.
        start: what to begin from: a file of another training, an artifact's folder or a name of the
            zoo; of a shallower network too.
        teacher: a network whose answers are learnt beside the labels: a checkpoint as
            `zoo.pretrained.sources` reads it, an artifact's folder or a name of the zoo.
        cutout: side of the square that is blanked in each image; 0 for none.
        mixup: alpha of mixup; 0 for none.
        smallest: side of the images in the first epoch, which grows over two thirds of the epochs;
            0 for the whole side always.
        shortcut: kind of the shortcuts, "A" or "B"; default: the architecture's.
        seed: of every random draw.
        precision: "auto" is bf16 on a GPU, and on a CPU that computes in it.
        compiled: let torch.compile make the steps, where it works. It pays on some machines.
        device: where to train.
        resume: go on with the training in `folder`; with the same arguments it ends where an
            uninterrupted one would.
        progress: called with a stage, steps done and steps in all.
        log: called with lines for the user: what it trains on, then one after each epoch.

    Returns:
        What log.json holds.

    Raises:
        UsageError: arguments that do not fit each other or the images; before any step is taken.
        NotFoundError: no such images or start, or nothing to resume.
        IntegrityError: a file that is damaged.
        ZooError: the folder cannot be written.
    """
    running = folder / "training.safetensors"
    topology(arch, shortcut=shortcut)  # refuses what it does not know before any image is read
    check_resumes(running, resume)
    images, test = _labelled(open_images(dataset, "train"), open_images(dataset, "test"))
    if log is not None:
        for part, what in ((images, "training"), (test, "measuring")):
            for note in part.notes:
                log(note)
            log(f"{what} on {dataset}: {part.description}; labels: {part.matched}")
    channels, side, mean, std = _geometry(arch, str(dataset))
    net = topology(arch, num_classes=_classes(images), in_channels=channels, shortcut=shortcut)
    prep = Preprocess((channels, side, side), 256 if side == 224 else None)
    digits = channels == 1
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "float32"
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        peak_rate=peak_rate,
        levels=levels,
        seed=seed,
        precision=precision,
        shift=1 if digits else 4,
        mirror=not digits,
        cutout=cutout,
        mixup=mixup,
        smallest=smallest,
    )
    taught = None if teacher is None else read_teacher(teacher, images, prep, mean, std)
    if taught is not None:
        plan = replace(plan, teacher=taught.sha256)
        if log is not None:
            for note in taught.notes:
                log(note)
    if compiled:
        plan = replace(plan, compiled=can_compile(device))
        if not plan.compiled and log is not None:
            log("torch.compile does not work here (it needs a compiler): training without it")
    state, earlier, began = None, None, None
    if start is not None and Path(start).suffix == ".safetensors":
        state, earlier, began = _file(Path(start))
    elif start is not None:
        state, earlier, began = _artifact(start, images, mean, std, levels)
    state = _without_other_head(state, net.num_classes, start, log)
    trainer = Trainer(
        net, images, prep, plan, mean, std, device=device, teacher=taught, start=state
    )
    if resume:
        trainer.resume(running)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run_saving(trainer, running, "training", progress, log)
        path = folder / f"{arch}.safetensors"
        sha256 = save_checkpoint(trainer.state(), path)
        facts = {
            "arch": arch,
            "file": str(path),
            "sha256": sha256,
            "epochs": epochs,
            "top1": trainer.accuracy(test, prep),
            "test_images": len(test),
            "train": images.description,
            "train_images": len(images),
            "dataset": identify(images),
            "test": test.description,
            "plan": asdict(plan),
            "mean": list(mean),
            "std": list(std),
            "input_size": side,
            "start": earlier,
            "began": began,
            "teacher": None if taught is None else taught.facts(),
            "seconds": sum(row.seconds for row in trainer.log),
            "log": [asdict(row) for row in trainer.log],
            "device": device,
            "versions": versions(device=device),
        }
    except OSError as error:
        raise ZooError(
            f"{folder} could not be written ({error.strerror}): choose another `folder`"
        ) from error
    text = json.dumps({**facts, "file": path.name}, indent=1) + "\n"
    with replaced_file(folder / "log.json", advice=ADVICE) as temporary:
        temporary.write_bytes(text.encode())
    return facts


def _file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None, str | None]:
    """Return the tensors of another training, and how they came about: else the file's name."""
    if not path.is_file():
        raise NotFoundError(
            f"{path} does not exist: give what another zoo train wrote, or a name of zoo list"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} is not a whole safetensors file ({str(error)[:80]}): train it again"
        ) from error
    began = training_of(path, hashlib.sha256(path.read_bytes()).hexdigest())
    return (
        (state, None, path.name) if began is None else (state, began.model_dump(mode="json"), None)
    )


def _without_other_head(
    state: dict[str, torch.Tensor] | None,
    classes: int,
    start: str | Path | None,
    log: Callable[[str], None] | None,
) -> dict[str, torch.Tensor] | None:
    """Return a start without its classifier, said to `log`, if that is for other classes."""
    if state is None or "fc.bias" not in state or len(state["fc.bias"]) == classes:
        return state
    if log is not None:
        log(
            f"{start} tells {len(state['fc.bias'])} classes apart, the images have {classes}: "
            "fc.weight and fc.bias begin anew"
        )
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def _artifact(
    name: str | Path, images: ImageSet, mean: Sequence[float], std: Sequence[float], levels: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None, str]:
    """Return the network that an artifact holds, how it was trained, and its name."""
    folder = registry.resolve(name)
    config, tensors = read_artifact(folder)
    prep = config.preprocess
    if [*prep.mean, *prep.std] != [*mean, *std]:
        raise UsageError(
            f"{name} was made for images of another mean or std: begin from a network of the same "
            "data set"
        )
    if config.stem > 1:
        raise UsageError(
            f"{name} has {config.stem} neurons for each channel of its stem: begin from one "
            "converted with stem=1"
        )
    net = topology_of(config)
    pixels = images.take(_LOOKED_AT, 0).batch(slice(None), Preprocess(prep.input_size))
    inputs = look_up(image_table(mean, std, integer=False), pixels)
    model = from_artifact.trainable(net, from_artifact.ann_params(config, tensors), inputs, levels)
    training = config.source.training
    stage = None if training is None else training.model_dump(mode="json")
    part = stage
    while part is not None:
        part["arch"], part = part["arch"] or config.arch, part["start"]
    return exported(model.state_dict(), levels), stage, cache.name_of(folder)


def _geometry(arch: str, dataset: str) -> tuple[int, int, Sequence[float], Sequence[float]]:
    """Return channels, side, and mean and standard deviation per channel for pixels in 0 to 1."""
    if dataset == "digits":
        return 1, 8, DIGITS_MEAN, DIGITS_STD
    side = 224 if topology(arch).halves_image else 32
    return 3, side, IMAGENET_MEAN, IMAGENET_STD


def _labelled(images: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Return both with the same labels for the same classes, numbered folders by their numbers."""
    classes = _classes(images)
    try:
        images = images.for_classes(classes)
    except UsageError:  # any order will do for a network that is not trained yet
        images = images.for_classes(classes, labels="position")
    return images, test.for_classes(classes, images.class_names)


def _classes(images: ImageSet) -> int:
    """Return the number of classes; raise UsageError if the images have no labels."""
    if images.class_names:
        return len(images.class_names)
    if len(images) == 0 or images.labels.min() < 0:
        raise UsageError(f"{images.description}: no labels: give a labelled training set")
    return int(images.labels.max()) + 1


def has_bf16(device: str) -> bool:
    """Return True if the device computes in bfloat16."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return os.name == "posix" and flags.exists() and "avx512_bf16" in flags.read_text()
