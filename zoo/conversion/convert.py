"""From a trained ANN to a spiking network.

A method (`zoo.conversion.methods`) chooses thresholds, int8 weights and biases; here its inputs are
put together and its result is described for the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from zoo.artifact.config import (
    CalibrationConfig,
    Config,
    MethodConfig,
    NetworkNeuron,
    NeuronConfig,
    Numerics,
    PreprocessConfig,
    SourceConfig,
    unsealed,
)
from zoo.artifact.folder import write_artifact
from zoo.artifact.tensors import description, tensors_of
from zoo.conversion.build import Built, LayerReport
from zoo.conversion.inputs import (
    assumed_normalisation,
    class_names,
    normalisation,
    preprocessing,
    with_network_labels,
)
from zoo.conversion.methods.base import Job
from zoo.conversion.readout import agreement
from zoo.conversion.registry import method_named
from zoo.conversion.settings import Request, Value
from zoo.conversion.soundness import ann_accuracy, poor_accuracy, wrong_normalisation
from zoo.data.datasets import identify
from zoo.data.images import ImageSet
from zoo.data.rule import LabelRule
from zoo.errors import IntegrityError, UsageError
from zoo.kernels.precision import full_float32
from zoo.networks.preprocess import Preprocess
from zoo.networks.run import Schedule
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import with_stem
from zoo.pretrained.checkpoint import Checkpoint, remember_source
from zoo.progress import Progress
from zoo.text import first_fault

_BATCH = 64


@dataclass(frozen=True)
class Conversion:
    """A converted network that is not saved yet.

    Attributes:
        network: the spiking network.
        scales: one integer unit of each layer in ANN units, float32 `[C]` by layer.
        layers: how well each layer came through.
        agreement: share of the calibration images on which it predicts what the ANN predicts, after
            `config.timesteps`.
        config: of the artifact, but for the checksums that saving adds.
        source: the checkpoint's file; None where it was not read from one.
        ann_accuracy: share of the labelled calibration images that the ANN is right on; None where
            none has a label.
        assumed: what was taken for granted and what was left out, a sentence each.
        warnings: what speaks against the ANN's inputs (`zoo.conversion.soundness`), a sentence
            each.
    """

    network: SpikingResNet
    scales: dict[str, Tensor]
    layers: list[LayerReport]
    agreement: float
    config: Config
    source: Path | None = None
    ann_accuracy: float | None = None
    assumed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def save(self, folder: str | Path, force: bool = False) -> Config:
        """Write the artifact atomically and return its config.

        Where the checkpoint lies is noted, so that evaluating the artifact measures the ANN too.

        Raises:
            UsageError, ZooError: as `zoo.artifact.folder.write_artifact`.
        """
        tensors = tensors_of(self.network, self.scales)
        config = write_artifact(folder, tensors, self.config, force=force)
        if self.source is not None:
            remember_source(config.source.sha256, self.source)
        return config

    def summary(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {
            "agreement": self.agreement,
            "ann_accuracy": self.ann_accuracy,
            "assumed": list(self.assumed),
            "warnings": list(self.warnings),
            "layers": [asdict(layer) for layer in self.layers],
            "method": self.config.method.model_dump(),
            "calibration": self.config.calibration.model_dump(),
            "readout_delay": self.network.delay,
        }


def convert(
    checkpoint: Checkpoint,
    images: ImageSet | None,
    *,
    method: str = "calibrated",
    neuron: NetworkNeuron = "if",
    schedule: Schedule = "causal",
    numerics: Numerics = "int8",
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
    labels: LabelRule = "auto",
    on_bad_image: Literal["stop", "skip"] = "stop",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Conversion:
    """Convert a pretrained ANN with training images, or data-free.

    The same inputs and seed give the same bytes on a CPU. A GPU adds up float32 in another order,
    so that thresholds and biases may differ there by a unit.

    Args:
        method: a name of `zoo.conversion.registry.METHODS`: calibrated, data-free or hu2018.
        images: training images; None for data-free. Labels are used by hu2018's search alone, where
            they are known.
        timesteps: what the artifact is meant for and its errors are reported at; it runs at any
            other number too.
        samples: how many of the images to use (default: the method's `images`), drawn with `seed`,
            or made with it.
        mean, std: of the ANN's training, per channel, for pixels in 0 to 1; default as
            `zoo.conversion.inputs.normalisation`.
        input_size: height and width of the network's input; resize: shorter side before the centre
            crop; interpolation: of that resize; defaults as `zoo.conversion.inputs.preprocessing`.
        license, url: of the checkpoint, written to the artifact (default: what its origin says).
        parameters: settings of the method in place of its defaults. A multi-level neuron takes
            `bits` (2 or 4, default 4) of its graded spikes too, and it and `mixed` take `budget`.
        labels: how labels of the images become the network's, as `ImageSet.for_classes` takes it.
        on_bad_image: "skip" draws another image for each one that cannot be decoded, and counts and
            names these in the calibration's description.
        device: where to compute; the network that comes back is on the CPU.
        progress: called with a stage, what is done and how much there is.

    Raises:
        IntegrityError: an image cannot be decoded.
        UsageError: an unknown method or parameter, no images, images of the wrong kind,
            timesteps < 1, a combination that does not exist (`signed` and `layerwise`, `stem` and a
            network that cannot have it), or data-free and a checkpoint without BatchNorm
            statistics.
    """
    how, request = method_named(method), Request(neuron, schedule, numerics, timesteps)
    settings = how.settings(
        request, parameters or {}, learnt_thresholds="levels" in checkpoint.params
    )
    how.check_images(images is not None)
    stem = int(settings.parameters().get("stem", 1))
    with_stem(checkpoint.net, stem)  # a network that cannot have it is refused before the work
    assumed = assumed_normalisation(checkpoint, mean, std)
    mean, std = normalisation(checkpoint, mean, std)
    source = _source(checkpoint, license, url)
    if on_bad_image not in ("stop", "skip"):
        raise UsageError(f"unknown on_bad_image {on_bad_image!r}: use stop or skip")
    if seed < 0:
        raise UsageError(f"the seed must be 0 or more, not {seed}: 0 is the default")
    count = samples if samples is not None else settings.images
    if count < 1 or (images is not None and len(images) == 0):
        raise UsageError(
            "calibration needs at least one image: give training images with `images`, "
            "and `samples` of 1 or more"
        )
    prep = fit = preprocessing(checkpoint, input_size, resize, interpolation)
    report = progress or (lambda stage, done, total: None)
    moved = checkpoint.to(device)
    if images is None:
        images = how.make_images(
            moved,
            settings,
            count=count,
            seed=seed,
            prep=prep,
            mean=mean,
            std=std,
            report=report,
        )
        fit = Preprocess(prep.input_size)
    settings = settings.model_copy(update={"images": min(count, len(images))})
    left_out = None
    if on_bad_image == "skip":
        images, left_out = images.decodable(settings.drawn, seed, progress)
        settings = settings.model_copy(update={"images": min(count, len(images))})
    drawn = images.take(count, seed)
    # Of all images, since a few may not show which classes they are of.
    labelled = with_network_labels(checkpoint, images, labels).take(count, seed)
    job = Job(
        checkpoint=moved,
        request=request,
        seed=seed,
        prep=prep,
        mean=mean,
        std=std,
        images=images,
        pixels=_pixels(drawn, fit).to(device),
        labels=torch.from_numpy(labelled.labels).to(device),
        report=report,
    )
    with full_float32():
        built, searched = how.build(job, settings)
    built, labels_here = built.to("cpu"), job.labels.cpu()
    config = _describe(
        job,
        built,
        method=MethodConfig(name=how.name, parameters=settings.parameters() | searched),
        source=source,
        calibration=CalibrationConfig(
            description=images.description,
            dataset=identify(images),
            sha256=drawn.sha256(),
            images=len(drawn),
            seed=seed,
        ),
        names=class_names(checkpoint, labelled),
    )
    right = ann_accuracy(built.ann_logits, labels_here)
    # Images that are made from the statistics fit them whatever the normalisation is.
    wrong = (
        None if how.makes_images else wrong_normalisation(checkpoint, job.pixels.cpu(), mean, std)
    )
    return Conversion(
        network=built.network,
        scales=built.scales,
        layers=built.reports,
        agreement=agreement(built, timesteps),
        config=config,
        source=checkpoint.path,
        ann_accuracy=right,
        assumed=tuple(text for text in (assumed, left_out) if text is not None),
        warnings=tuple(
            text for text in (wrong, poor_accuracy(right, labels_here)) if text is not None
        ),
    )


def _pixels(images: ImageSet, fit: Preprocess) -> Tensor:
    """Return the calibration images, uint8 `[B, C, H, W]`."""
    try:
        return torch.cat([batch for batch, _ in images.batches(fit, _BATCH)])
    except IntegrityError as error:
        raise IntegrityError(
            f'{error}, or leave such images out with `on_bad_image="skip"`'
        ) from None


def _source(checkpoint: Checkpoint, license: str | None, url: str | None) -> SourceConfig:
    """Return what the artifact says of the checkpoint."""
    origin = checkpoint.origin
    license = license if license is not None else origin.license
    url = url if url is not None else origin.url
    for what, value in (("license", license), ("url", url)):
        if value is not None and not 1 <= len(value) <= 500:
            raise UsageError(
                f"{what} must have 1 to 500 characters, not {len(value)}: leave it out where there "
                "is none"
            )
    return SourceConfig(
        name=checkpoint.name,
        sha256=checkpoint.sha256,
        revision=origin.revision,
        license=license,
        url=url,
        training=checkpoint.training,
        weights=checkpoint.weights,
    )


def _neurons(network: SpikingResNet) -> dict[str, Any]:
    """Return what config.json says of the neurons: by layer only where layers differ."""
    by_layer = network.neurons
    models = {kind.neuron for kind in by_layer.values()}
    neurons = {
        name: NeuronConfig(neuron=kind.neuron, bits=kind.bits) for name, kind in by_layer.items()
    }
    return {
        "neuron": models.pop() if len(models) == 1 else "mixed",
        "spike_bits": network.spike_bits,
        "neurons": neurons if len(set(by_layer.values())) > 1 else None,
    }


def _describe(
    job: Job,
    built: Built,
    *,
    method: MethodConfig,
    source: SourceConfig,
    calibration: CalibrationConfig,
    names: list[str] | None,
) -> Config:
    """Return the artifact's config without its checksums."""
    net, request, prep = job.checkpoint.net, job.request, job.prep
    try:
        return unsealed(
            format="spiking-zoo",
            format_version=1,
            arch=net.arch,
            shortcut=net.shortcut,
            stride_in=net.stride_in,
            stem=built.network.topology.stem,
            topology=description(net),
            num_classes=net.num_classes,
            class_names=names,
            preprocess=PreprocessConfig(
                input_size=prep.input_size,
                resize=prep.resize,
                interpolation=prep.interpolation,
                mean=list(job.mean),
                std=list(job.std),
            ),
            numerics=request.numerics,
            **_neurons(built.network),
            schedule=request.schedule,
            timesteps=request.timesteps,
            readout_delay=built.network.delay,
            bias_rows=max(len(layer.bias) for layer in built.network.layers.values()),
            method=method,
            source=source,
            calibration=calibration,
        )
    except ValidationError as error:
        raise UsageError(f"{first_fault(error)}: give another value") from None
