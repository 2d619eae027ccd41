"""From an artifact to one that is better at few timesteps: trained through time, rounded back.

What the network learnt is written to FOLDER, an artifact again, whole or not at all. Until then
FOLDER.tuning is there to go on from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.artifact.config import Config, TuningConfig
from zoo.artifact.folder import read_artifact
from zoo.artifact.tensors import network_of
from zoo.conversion.module import SAMPLES, save_module
from zoo.data.datasets import identify
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.data.rule import LabelRule
from zoo.environment import versions
from zoo.errors import NotFoundError, UsageError, ZooError
from zoo.hub import cache
from zoo.kernels.precision import full_float32
from zoo.models import registry
from zoo.networks.preprocess import Preprocess
from zoo.networks.surrogate import SURROGATES
from zoo.progress import Progress
from zoo.training.compiled import can_compile
from zoo.training.run import has_bf16
from zoo.training.steps import check_resumes, run_saving
from zoo.training.teacher import read_teacher
from zoo.training.tuner import Tuner, TuningPlan

_BATCH = 100
_COMPILED_FROM = 200  # steps


def tune(
    name: str | Path,
    dataset: str | Path | ImageSet,
    folder: str | Path,
    *,
    timesteps: int,
    teacher: str | Path | None = None,
    epochs: int = 2,
    batch_size: int = 100,
    peak_rate: float = 2e-3,
    surrogate: str = "arctan",
    samples: int = SAMPLES,
    limit: int | None = None,
    labels: LabelRule = "auto",
    seed: int = 0,
    precision: Literal["auto", "bf16", "float32"] = "auto",
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fine-tune a model for `timesteps`, round it back to int8 and write it to `folder`.

    Args:
        name: a model, as `zoo.load` takes it; causal and int8.
        dataset: images in any form of `zoo.data.open.open_images`; its training images are trained
            on, its test images, where it has some, measure it before and at the end.
        folder: of the artifact that is written.
        teacher: an ANN, or a model in which one is, to learn from (`zoo.training.teacher`).
        epochs, batch_size, peak_rate, surrogate: as in `zoo.training.tuner.TuningPlan`.
        samples: training images that it is rounded on.
        limit: use so many of the training images, drawn with `seed`, and test images.
        labels: how labels of the images become the network's, as `ImageSet.for_classes` takes it.
        precision: "auto" is bf16 on a GPU, and on a CPU that computes in it.
        resume: go on with what was stopped; with the same arguments it ends where an uninterrupted
            run would.
        force: replace what is at `folder`.
        progress: called with a stage, steps done and steps in all.
        log: called with a line after each epoch.

    Returns:
        What was done and measured, ready for JSON: accuracies in percent on the test images before,
        after, and after rounding, None without test images.

    Raises:
        UsageError: a model that cannot be trained, or arguments that do not fit each other or the
            images; before any step is taken.
        NotFoundError: no such model, images or teacher, or nothing to resume.
        IntegrityError: a file that is damaged.
        ZooError: `folder` cannot be written.
    """
    source, folder, say = registry.resolve(name), Path(folder), log or (lambda line: None)
    running = folder.with_name(folder.name + ".tuning")
    _check_paths(folder, running, resume, force)
    config, tensors = read_artifact(source)
    if surrogate not in SURROGATES:
        raise UsageError(f"surrogate {surrogate!r} is unknown: use {', '.join(SURROGATES)}")
    if config.numerics != "int8":
        raise UsageError(f"{name} is {config.numerics}: tune an int8 model")
    network, prep = network_of(config, tensors), Preprocess.of(config)
    images, test = _images(dataset, config, labels, limit, seed, say)
    digits = config.preprocess.input_size[0] == 1
    answers, teacher_sha256, mean, std = None, "", config.preprocess.mean, config.preprocess.std
    if teacher is not None:
        taught = read_teacher(teacher, images, prep, mean, std)
        answers, teacher_sha256 = taught.on(torch.device(device), mean, std), taught.sha256
        for note in taught.notes:
            say(note)
    plan = TuningPlan(
        timesteps=timesteps,
        epochs=epochs,
        batch_size=batch_size,
        peak_rate=peak_rate,
        surrogate=surrogate,
        shift=1 if digits else 4,
        mirror=not digits,
        seed=seed,
        teacher=teacher_sha256,
        precision=(
            ("bf16" if has_bf16(device) else "float32") if precision == "auto" else precision
        ),
    )
    # Compiling takes a minute or two of one core, as much as 200 steps of a ResNet-20 gain.
    long = epochs * (len(images) // max(batch_size, 1)) >= _COMPILED_FROM
    compiled = long and can_compile(device)
    module = network.trainable(surrogate, compiled=compiled)
    module.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    tuner = Tuner(module, images, prep, plan, device=device, answers=answers)
    if resume:
        tuner.resume(running)
    before = _accuracy(network.to(device), test, prep, timesteps, device)
    run_saving(tuner, running, "tuning", progress, log)
    after = _accuracy(module, test, prep, timesteps, device)
    made = save_module(
        module.cpu(),
        folder,
        images,
        timesteps=timesteps,
        samples=samples,
        seed=seed,
        tuning=TuningConfig(
            began=cache.name_of(source),
            sha256=config.weights_sha256,
            timesteps=timesteps,
            surrogate=surrogate,
            dataset=identify(images) or images.description,
            images=len(images),
            epochs=epochs,
            seconds=sum(row.seconds for row in tuner.log),
            settings=asdict(plan),
            teacher=None if teacher is None else str(teacher),
            start=config.tuning,
        ),
        force=force,
    )
    running.unlink(missing_ok=True)
    rounded = network_of(*read_artifact(folder)).to(device)
    return {
        "folder": str(folder),
        "began": str(name),
        "timesteps": timesteps,
        "sha256": made.weights_sha256,
        "test": None if test is None else test.description,
        "test_images": 0 if test is None else len(test),
        "top1_before": before,
        "top1_after": after,
        "top1_rounded": _accuracy(rounded, test, prep, timesteps, device),
        "tuning": made.tuning.model_dump(mode="json") if made.tuning else None,
        "log": [asdict(row) for row in tuner.log],
        "device": device,
        "versions": versions(device=device),
    }


def _check_paths(folder: Path, running: Path, resume: bool, force: bool) -> None:
    if folder.exists() and not force:
        raise UsageError(
            f"{folder} exists already: choose another `folder`, or pass `force=True` to replace it"
        )
    if not folder.absolute().parent.is_dir():
        raise NotFoundError(
            f"{folder.absolute().parent} does not exist: create it, or choose another `folder`"
        )
    check_resumes(running, resume)


def _images(
    dataset: str | Path | ImageSet,
    config: Config,
    labels: LabelRule,
    limit: int | None,
    seed: int,
    log: Callable[[str], None],
) -> tuple[ImageSet, ImageSet | None]:
    """Return training and test images, with the network's labels; None where no test images are."""
    classes, names = config.num_classes, config.class_names
    test = None
    if isinstance(dataset, ImageSet):
        images = dataset
    else:
        images = open_images(dataset, "train")
        try:
            test = open_images(dataset, "test").for_classes(classes, names, labels)
        except ZooError as error:
            log(f"no test images, so accuracy is not measured ({error})")
    if len(images) and images.labels.min() >= 0:
        images = images.for_classes(classes, names, labels)
    for note in images.notes:
        log(note)
    if limit is not None:
        images = images.take(limit, seed)
        test = None if test is None else test.take(limit, seed)
    return images, test


@torch.no_grad()
def _accuracy(
    module: torch.nn.Module,
    test: ImageSet | None,
    prep: Preprocess,
    timesteps: int,
    device: str,
) -> float | None:
    """Return the accuracy in percent, in float32."""
    if test is None:
        return None
    right = 0
    with full_float32():
        for pixels, labels in test.batches(prep, _BATCH):
            logits = module(pixels.to(device), timesteps)
            right += int((logits.argmax(1).cpu() == labels).sum())
    return 100 * right / len(test)
