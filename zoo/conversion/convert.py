"""From a trained ANN to a spiking network: thresholds, int8 weights, calibration, and the error each layer adds.

Methods:
    hu2018: Hu, Tang and Pan (arXiv:1805.01352). One percentile scale lambda per layer; in the paper's unit-threshold form weights
        become W lambda_in / lambda_out, an identity shortcut the weight lambda_in / lambda_out, a projection likewise;
        membranes start at half the threshold; one compensation factor on all weights, searched in (1, 1 / maximum firing rate
        of the last layer) on training images. Here neurons keep ANN units, threshold lambda_out and spikes of amplitude
        lambda_in, which is the same network (facts of the paper that could not be had: whether biases are compensated too;
        here they are not).
    calibrated: thresholds per channel (`thresholds`: mmse, percentile, ltb or mmse-ltb); weights rounded first; then a bias for
        each timestep (`zoo.conversion.calibrate`), layer by layer on the spikes of the layers before, which are already calibrated; then
        the timesteps the read-out skips. `tail` says which bias timesteps have that come after the `rows` calibrated ones: limit,
        the one that is right after many timesteps (ResNet-56 of CIFAR-10, T = 128: logits are off by 0.32 in the mean square), or
        mean, that of the last rows (0.48). With `tune` steps, a layerwise network's weights, biases and thresholds are distilled
        from the ANN instead (`zoo.conversion.distil`), for one number of timesteps. With `stem` neurons for each of its channels a layerwise
        stem has so many times the levels (`zoo.conversion.stem`).
    data-free: calibrated, on images made from the checkpoint's BatchNorm statistics (`zoo.conversion.synthetic`) in `steps` steps.

The order matters: whatever rounding, clipping and firing too early did to a layer's mean is in its input when the next is
calibrated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from zoo.artifact.config import (
    CalibrationConfig,
    ChecksumConfig,
    Config,
    MethodConfig,
    PreprocessConfig,
    SourceConfig,
)
from zoo.artifact.folder import write_artifact
from zoo.artifact.tensors import tensors_of
from zoo.conversion import calibrate
from zoo.conversion import thresholds as rules
from zoo.conversion.build import BuildSpec, Built, LayerReport, build_network
from zoo.conversion.distil import distil
from zoo.conversion.settings import Value, check_calibration, resolve_settings
from zoo.conversion.stem import split_stem
from zoo.conversion.synthetic import make_images
from zoo.data.datasets import identify
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import Topology, with_stem
from zoo.pretrained.checkpoint import Checkpoint
from zoo.progress import Progress

_BATCH = 64


@dataclass(frozen=True)
class Conversion:
    """A converted network that is not saved yet.

    agreement: share of the calibration images on which it predicts what the ANN predicts, after `timesteps`.
    """

    network: SpikingResNet
    scales: dict[str, Tensor]
    layers: list[LayerReport]
    agreement: float
    facts: dict[str, Any]

    def save(self, folder: str | Path, force: bool = False) -> Config:
        """Writes the artifact atomically; errors as in `zoo.artifact.folder.write_artifact`."""

        def describe(sha256: str, checksum: ChecksumConfig) -> Config:
            try:
                return Config(**self.facts, weights_sha256=sha256, checksum=checksum)
            except ValidationError as error:
                first = error.errors()[0]
                raise UsageError(
                    f"{'.'.join(map(str, first['loc']))}: {first['msg']}: give another value"
                ) from error

        return write_artifact(folder, tensors_of(self.network, self.scales), describe, force=force)

    def summary(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {
            "agreement": self.agreement,
            "layers": [asdict(layer) for layer in self.layers],
            "method": self.facts["method"].model_dump(),
            "calibration": self.facts["calibration"].model_dump(),
            "readout_delay": self.network.delay,
        }


def convert(
    checkpoint: Checkpoint,
    images: ImageSet | None,
    *,
    method: Literal["hu2018", "calibrated", "data-free"] = "calibrated",
    neuron: Literal["if", "signed", "multi-level"] = "if",
    schedule: Literal["causal", "layerwise"] = "causal",
    numerics: Literal["int8", "float32"] = "int8",
    timesteps: int = 32,
    samples: int | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | None = None,
    resize: int | None = None,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
    license: str | None = None,
    url: str | None = None,
    parameters: Mapping[str, Value] | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Converts a pretrained ANN with training images, or data-free; the same inputs and seed give the same bytes.

    Args:
        images: training images; None for data-free. Labels are used by hu2018's search alone, where they are known.
        timesteps: what the artifact is meant for and its errors are reported at; it runs at any other number too.
        samples: how many of the images to use (default: the method's `images`), drawn with `seed`, or made with it.
        mean, std: of the ANN's training, per channel, for pixels in 0 to 1 (default: what `zoo train` or the checkpoint's origin
            says of it, else ImageNet's, which most checkpoints use).
        input_size: height and width of the network's input (default: what `zoo train` or the checkpoint's origin says of it, else
            32 for the CIFAR form and 224 for the ImageNet form).
        resize: shorter side before the centre crop (default: as the checkpoint's origin says, else 256 for the ImageNet form at
            224, else none: images must fit).
        interpolation: of that resize (default: as the checkpoint's origin says, else bilinear).
        license, url: of the checkpoint, written to the artifact (default: what its origin says).
        parameters: overrides of DEFAULTS[method].
        progress: called with a stage, what is done and how much there is.

    Raises:
        UsageError: an unknown method or parameter, no images, images of the wrong kind, timesteps < 1, a combination that does
            not exist (`signed` and `layerwise`, `stem` and a network that cannot have it), or data-free and a checkpoint without
            BatchNorm statistics.

    A multi-level neuron takes one parameter more, `bits` (2 or 4, default 4), of its graded spikes.
    """
    settings = resolve_settings(method, neuron, schedule, numerics, timesteps, parameters)
    check_calibration(method, images is not None)
    net = checkpoint.net
    wide = with_stem(net, int(settings.get("stem", 1)))
    if (
        method != "hu2018"
        and "levels" in checkpoint.params
        and "thresholds" not in (parameters or {})
    ):
        settings["thresholds"] = "learnt"
    if (training := checkpoint.training) is not None:
        mean = mean if mean is not None else training.mean
        std = std if std is not None else training.std
        input_size = input_size or training.input_size
    origin = checkpoint.origin
    mean, std = mean if mean is not None else origin.mean, std if std is not None else origin.std
    license, url = (
        license if license is not None else origin.license,
        url if url is not None else origin.url,
    )
    mean, std = _normalisation(net.in_channels, mean, std)
    for what, value in (("license", license), ("url", url)):
        if value is not None and not 1 <= len(value) <= 500:
            raise UsageError(
                f"{what} must have 1 to 500 characters, not {len(value)}: leave it out where there is none"
            )
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, not {seed}: 0 is the default")
    count = samples if samples is not None else int(settings["images"])
    if count < 1 or (images is not None and len(images) == 0):
        raise UsageError(
            "calibration needs at least one image: give training `images`, and `samples` of 1 or more"
        )
    prep = fit = _preprocess(checkpoint, input_size, resize, interpolation)
    report = progress or (lambda stage, done, total: None)
    if images is None:
        images = make_images(
            checkpoint,
            prep.input_size,
            mean,
            std,
            images=count,
            steps=int(settings["steps"]),
            rate=float(settings["rate"]),
            seed=seed,
            progress=lambda done, total: report("making images", done, total),
        )
        fit = Preprocess(prep.input_size)
    settings["images"] = min(count, len(images))
    drawn = images.take(count, seed)
    named = _named(checkpoint, drawn)
    pixels = torch.cat([batch for batch, _ in drawn.batches(fit, _BATCH)])

    table = image_table(mean, std, integer=False)
    theta = _thresholds(checkpoint, table, pixels, settings, seed, report)
    recipe = BuildSpec(
        checkpoint,
        theta,
        neuron,
        schedule,
        numerics,
        mean,
        std,
        calibrate.Settings(rows=int(settings["rows"]), limit=settings["tail"] == "limit", seed=seed)
        if settings.get("bias") == "matched"
        else None,
        bits=int(settings.get("bits", 1)),
    )
    if settings.get("tune"):
        recipe = _tuned(recipe, images, prep, timesteps, settings, seed, report)
    if wide.stem > 1:
        recipe = _split(recipe, wide, timesteps)
    if method == "hu2018":
        recipe = _search_compensation(
            recipe, pixels, torch.from_numpy(named.labels), timesteps, settings, report
        )
    built = build_network(
        recipe, pixels, timesteps, lambda done, total: report("converting", done, total)
    )
    if settings.get("delay") == "search" and schedule == "causal":
        built.network.delay = _search_delay(built)
    agreement = _agreement(built, timesteps)
    facts = {
        "format": "spiking-zoo",
        "format_version": 1,
        "arch": net.arch,
        "shortcut": net.shortcut,
        "stride_in": net.stride_in,
        "stem": wide.stem,
        "num_classes": net.num_classes,
        "class_names": _class_names(checkpoint, named),
        "preprocess": PreprocessConfig(
            input_size=prep.input_size,
            resize=prep.resize,
            interpolation=prep.interpolation,
            mean=list(mean),
            std=list(std),
        ),
        "numerics": numerics,
        "neuron": neuron,
        "spike_bits": recipe.bits,
        "schedule": schedule,
        "timesteps": timesteps,
        "readout_delay": built.network.delay,
        "bias_rows": max(len(layer.bias) for layer in built.network.layers.values()),
        "method": MethodConfig(name=method, parameters=settings),
        "source": SourceConfig(
            name=checkpoint.name,
            sha256=checkpoint.sha256,
            revision=origin.revision,
            license=license,
            url=url,
            training=checkpoint.training,
        ),
        "calibration": CalibrationConfig(
            description=images.description,
            dataset=identify(images),
            sha256=drawn.sha256(),
            images=len(drawn),
            seed=seed,
        ),
    }
    return Conversion(built.network, built.scales, built.reports, agreement, facts)


def _normalisation(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    mean = mean if mean is not None else IMAGENET_MEAN
    std = std if std is not None else IMAGENET_STD
    if not len(mean) == len(std) == channels:
        raise UsageError(
            f"the network takes {channels} channels: give {channels} values with `mean` and with `std`"
        )
    if not all(math.isfinite(value) for value in (*mean, *std)):
        raise UsageError(
            "`mean` and `std` must be finite: give one value a channel, for pixels in 0 to 1"
        )
    if min(std) <= 0:
        raise UsageError(
            f"`std` must be positive, not {min(std)}: give one a channel, for pixels in 0 to 1"
        )
    return mean, std


def _preprocess(
    checkpoint: Checkpoint,
    input_size: int | None,
    resize: int | None,
    interpolation: Literal["bilinear", "bicubic"] | None,
) -> Preprocess:
    net, origin = checkpoint.net, checkpoint.origin
    imagenet = net.layers[0].max_pool
    side = input_size or origin.input_size or (224 if imagenet else 32)
    if resize is None and origin.crop is not None:
        resize = math.floor(side / origin.crop)  # as timm rounds it
    elif resize is None and imagenet and side == 224:
        resize = 256
    return Preprocess(
        (net.in_channels, side, side), resize, interpolation or origin.interpolation or "bilinear"
    )


def _named(checkpoint: Checkpoint, images: ImageSet) -> ImageSet:
    """The images with the network's labels; with none where its classes are not theirs, which calibration does not mind."""
    classes = checkpoint.net.num_classes
    try:
        found = images.for_classes(classes, checkpoint.origin.class_names)
    except UsageError:
        found = replace(images, labels=np.full(len(images), -1), class_names=None)
    return (
        found if found.labels.max() < classes else replace(found, labels=np.full(len(images), -1))
    )


def _class_names(checkpoint: Checkpoint, images: ImageSet) -> list[str] | None:
    names = checkpoint.origin.class_names or images.class_names
    return list(names) if names and len(names) == checkpoint.net.num_classes else None


def _thresholds(
    checkpoint: Checkpoint,
    table: Tensor,
    pixels: Tensor,
    settings: Mapping[str, Value],
    seed: int,
    report: Progress,
) -> dict[str, Tensor]:
    """theta [C] of each layer, in ANN units."""
    net, params = checkpoint.net, checkpoint.params

    def batches() -> Iterator[Tensor]:
        yield from (
            look_up(table, pixels[start : start + _BATCH])
            for start in range(0, len(pixels), _BATCH)
        )

    rule = settings.get("thresholds", "layer-percentile")
    if rule == "moments":
        if checkpoint.moments is None:
            raise UsageError(
                f"{checkpoint.name} has no BatchNorm statistics to take thresholds from: use mmse or percentile"
            )
        return rules.from_moments(net, checkpoint.moments, int(settings["levels"]))
    sample = rules.sample_activations(
        net,
        params,
        batches(),
        len(pixels),
        seed,
        lambda done: report("sampling activations", done, len(pixels)),
    )

    def mmse() -> dict[str, Tensor]:
        return {
            name: rules.mmse(values, int(settings["levels"])) for name, values in sample.items()
        }

    def percentile(per_channel: bool) -> dict[str, Tensor]:
        share = float(settings["percentile"])
        return {
            name: rules.percentile(values, share, per_channel=per_channel)
            for name, values in sample.items()
        }

    def some(count: int) -> Iterator[Tensor]:
        endless = itertools.chain.from_iterable(batches() for _ in itertools.count())
        for done, batch in enumerate(itertools.islice(endless, count), start=1):
            report("balancing thresholds", done, count)
            yield batch

    def balanced() -> dict[str, Tensor]:
        return rules.local_threshold_balancing(
            net, params, some(int(settings["iterations"])), net.channels
        )

    if rule == "learnt":
        if "levels" not in params:
            raise UsageError(
                f"{checkpoint.name} was trained with ReLU and has learnt no thresholds: use mmse or percentile"
            )
        return {name: params[f"{name}.threshold"] for name in sample}
    if rule == "mmse":
        return mmse()
    if rule == "ltb":
        return balanced()
    if rule == "mmse-ltb":
        pairs = mmse(), balanced()
        return {name: torch.minimum(pairs[0][name], pairs[1][name]) for name in sample}
    if rule in ("percentile", "layer-percentile"):
        return percentile(rule == "percentile")
    raise UsageError(
        f"thresholds {rule!r} are unknown: use mmse, percentile, ltb, mmse-ltb (the smaller), moments or learnt"
    )


def _tuned(
    recipe: BuildSpec,
    images: ImageSet,
    prep: Preprocess,
    timesteps: int,
    settings: Mapping[str, Value],
    seed: int,
    report: Progress,
) -> BuildSpec:
    """The recipe with weights, biases and thresholds tuned by `settings["tune"]` steps on training images, without labels.

    Layerwise, for `timesteps` alone: biases are part of what was tuned and are not calibrated again. Causal, for activations of
    `levels` levels: the network that comes out is then converted as one that was trained with them would be.
    """
    levels = timesteps if recipe.schedule == "layerwise" else int(settings["levels"])
    steps = int(settings["tune"])
    drawn = images.take(int(settings["tune_images"]), seed)
    pixels = torch.cat([batch for batch, _ in drawn.batches(prep, _BATCH)])
    tuned, theta = distil(
        recipe.checkpoint,
        recipe.theta,
        pixels,
        recipe.mean,
        recipe.std,
        timesteps=levels,
        steps=steps,
        rate=float(settings["tune_rate"]),
        seed=seed,
        progress=lambda done, total: report("tuning", done, total),
    )
    if recipe.schedule == "layerwise":
        return replace(recipe, tuned=tuned.params, theta=theta, calibration=None)
    thresholds = {f"{name}.threshold": value for name, value in theta.items()}
    params = {**tuned.params, **thresholds, "levels": torch.tensor([float(levels)])}
    return replace(recipe, checkpoint=replace(tuned, params=params), theta=theta)


def _split(recipe: BuildSpec, wide: Topology, timesteps: int) -> BuildSpec:
    """The recipe for the same network with several neurons for each channel of its stem (`zoo.conversion.stem`)."""
    ann, stem = recipe.checkpoint, wide.layers[0].name
    theta = recipe.theta[stem]
    params = split_stem(ann.net, ann.params, theta, wide.stem, timesteps)
    tuned = (
        None
        if recipe.tuned is None
        else split_stem(ann.net, recipe.tuned, theta, wide.stem, timesteps)
    )
    checkpoint = replace(ann, net=wide, params=params)
    return replace(
        recipe,
        checkpoint=checkpoint,
        theta={**recipe.theta, stem: theta.repeat(wide.stem)},
        tuned=tuned,
    )


def _search_compensation(
    recipe: BuildSpec,
    pixels: Tensor,
    labels: Tensor,
    timesteps: int,
    settings: dict[str, Value],
    report: Progress,
) -> BuildSpec:
    """The factor in (1, 1 / maximum firing rate of the last layer) with the best accuracy on training images; written to
    `settings`.

    Without labels, the ANN's predictions stand in for them. Of equal factors the smallest wins.
    """
    plain = build_network(recipe, pixels, timesteps)
    last = recipe.checkpoint.net.layers[-1].name
    ceiling = 1 / max(plain.peak_rate, 1e-3)
    truth = labels if (labels >= 0).all() else plain.ann_logits.argmax(1)
    # A neuron that fires at every timestep leaves no room: (1, 1) is empty, and every trial would be the plain network.
    steps = int(settings["steps"]) if ceiling > 1 else 1
    best, score = recipe, _accuracy(plain, timesteps, truth)
    for step in range(1, steps):
        factor = 1 + (ceiling - 1) * step / steps
        report(f"searching the compensation factor ({last})", step, steps - 1)
        trial = replace(recipe, compensation=factor)
        found = _accuracy(build_network(trial, pixels, timesteps), timesteps, truth)
        if found > score:
            best, score = trial, found
    settings["compensation"] = best.compensation
    return best


def _accuracy(built: Built, timesteps: int, truth: Tensor) -> float:
    counts = (
        built.counts[-1] if built.network.schedule == "layerwise" else built.counts[timesteps - 1]
    )
    return (built.network.head(counts, timesteps).argmax(1) == truth).float().mean().item()


def _agreement(built: Built, timesteps: int) -> float:
    if built.network.schedule == "layerwise":
        logits = built.network.head(built.counts[-1], timesteps)
    else:
        logits = built.network.read_out(built.counts)[timesteps - 1]
    return (logits.argmax(1) == built.ann_logits.argmax(1)).float().mean().item()


def _search_delay(built: Built) -> dict[int, int]:
    """For each power of two of timesteps, how many first ones the read-out skips.

    Chosen by the cross-entropy of the ANN's class probabilities under the spiking network's, on the calibration images.
    """
    wanted = built.ann_logits.double().softmax(1)
    delay, t = {}, 1
    while t <= len(built.counts):
        losses = {}
        for skip in sorted({eighths * t // 8 for eighths in range(8)}):
            counts = built.counts[t - 1] - (built.counts[skip - 1] if skip else 0)
            losses[skip] = (
                -(wanted * built.network.head(counts, t - skip).log_softmax(1)).sum(1).mean().item()
            )
        delay[t] = min(losses, key=lambda skip: losses[skip])
        t *= 2
    return delay
