"""The schema of `eval.json`, everything one evaluation measured, and its only reader."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoo.artifact.config import EVALUATION, MAX_BYTES, Config, Sha256, Text, Timesteps
from zoo.errors import IntegrityError, NotFoundError
from zoo.text import first_fault

# The modelled energies of one image (`zoo.evaluation.energy`), each of which a row has.
ENERGIES = ("snn_int8", "ann_quantised", "snn_float", "ann_float")

# Points by which a rounded percentage may miss the end of its own interval, or top-1 pass top-5.
_TOLERANCE = 1e-6

Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
# Spikes per neuron and timestep: a graded spike of 4 bits counts as the bits that are set.
FiringRate = Annotated[float, Field(ge=0, le=4)]


# Left out of the file where it is None: files from before there was such a field stay as they are.
_ABSENT: Any = Field(exclude_if=lambda value: value is None)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class DataFacts(_Model):
    """The images that were measured on.

    Attributes:
        dataset: the name of `zoo.data.datasets` that the images are a whole split of, if they are.
        sha256: over pixels and labels.
        name, source, license: of another data set, as its user states them: what people call it,
            where it is from, and the terms it comes with.
    """

    description: Text
    dataset: Text | None
    sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    name: Annotated[Text | None, _ABSENT] = None
    source: Annotated[Text | None, _ABSENT] = None
    license: Annotated[Text | None, _ABSENT] = None


class AnnFacts(_Model):
    """The ANN's accuracy in percent on the same images, and the file it came from.

    Attributes:
        top5: where there are more than five classes, as in `Row`.
    """

    top1: Percent
    top5: Percent | None = None
    source: Text

    @model_validator(mode="after")
    def _top5_includes_top1(self) -> AnnFacts:
        _check_top5(self.top1, self.top5)
        return self


class Row(_Model):
    """The figures of one number of timesteps.

    Attributes:
        top1: in percent.
        interval95: the 95 % Wilson interval of `top1`, in percent.
        top5: in percent, where there are more than five classes.
        firing_rate: spikes per neuron and timestep, a graded spike as many as it has bits set.
        effective_acs, effective_macs: operations per image.
        energy_nj: per image, modelled at 45 nm (`zoo.evaluation.energy`), by the names `ENERGIES`.
    """

    timesteps: Timesteps
    top1: Percent
    interval95: tuple[Percent, Percent]
    top5: Percent | None = None
    firing_rate: FiringRate
    effective_acs: Amount
    effective_macs: Amount
    energy_nj: dict[str, Amount]

    @model_validator(mode="after")
    def _figures_agree(self) -> Row:
        low, high = self.interval95
        if not low - _TOLERANCE <= self.top1 <= high + _TOLERANCE:
            raise ValueError(f"interval95 {low:g} to {high:g} does not contain top1 {self.top1:g}")
        _check_top5(self.top1, self.top5)
        if self.energy_nj.keys() != {*ENERGIES}:
            odd = min(self.energy_nj.keys() ^ {*ENERGIES})[:40]
            missing = odd in ENERGIES
            raise ValueError(f"energy_nj.{odd} is {'missing' if missing else 'not an energy'}")
        return self


class LayerRow(_Model):
    """The figures of one layer by number of timesteps.

    Attributes:
        firing_rate: spikes per neuron and timestep.
        operations: effective synaptic operations of one image over all timesteps; None in files
            from before they were kept.
    """

    name: Text
    neurons: Annotated[int, Field(ge=1)]
    firing_rate: dict[Timesteps, FiringRate]
    operations: Annotated[dict[Timesteps, Amount] | None, _ABSENT] = None


class ClassRow(_Model):
    """One class of the images.

    Attributes:
        top1: percent of its images that the network gets right at its largest number of timesteps.
        ann: percent of its images that the ANN gets right.
    """

    label: Count
    name: Annotated[str, Field(max_length=200)] | None
    images: Count
    top1: Percent
    ann: Percent | None


class Evaluation(_Model):
    """Everything one evaluation measured, and the config of what was measured.

    `eval.json` is its dump, and enough to render a card.

    Attributes:
        ann: None where there was no ANN to compare with.
        images_per_second: the speed of the longest run alone where the schedule is causal.
        peak_memory_bytes: of the process, on a GPU of the GPU; of several processes the largest.
        seconds: since the evaluation was last taken up; of several processes the slowest's.
        activation_sparsity: share of bits, of all spikes, that are not set.
    """

    name: Text
    arch: str
    method: str
    neuron: str
    schedule: str
    numerics: str
    weights_sha256: str
    data: DataFacts
    ann: AnnFacts | None
    rows: Annotated[list[Row], Field(min_length=1)]
    layers: Annotated[list[LayerRow], Field(min_length=1)]
    classes: list[ClassRow] = Field(default_factory=list)
    activation_sparsity: Annotated[float, Field(ge=0, le=1)]
    footprint_bytes: Count
    artifact_bytes: Count
    images_per_second: Annotated[dict[Timesteps, Amount], Field(min_length=1)]
    peak_memory_bytes: Count
    seconds: Amount
    device: Text
    backend: Text = "torch"
    versions: dict[str, str]
    command: str
    config: Config

    @property
    def best(self) -> Row:
        """The row with the most timesteps."""
        return self.rows[-1]

    @model_validator(mode="after")
    def _is_of_its_config(self) -> Evaluation:
        config = self.config
        stated = {
            "arch": config.arch,
            "method": config.method.name,
            "neuron": config.neuron,
            "schedule": config.schedule,
            "numerics": config.numerics,
            "weights_sha256": config.weights_sha256,
        }
        for name, value in stated.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} is not that of config")
        return self

    @model_validator(mode="after")
    def _is_complete(self) -> Evaluation:
        steps = [row.timesteps for row in self.rows]
        if steps != sorted(set(steps)):
            raise ValueError(f"rows are not by rising timesteps: {str(steps)[:80]}")
        for layer in self.layers:
            if missing := sorted({*steps} - layer.firing_rate.keys()):
                raise ValueError(
                    f"firing_rate of layer {layer.name[:40]} at T = {missing[0]} is missing"
                )
            counted = layer.operations
            if counted is not None and (missing := sorted({*steps} - counted.keys())):
                raise ValueError(
                    f"operations of layer {layer.name[:40]} at T = {missing[0]} are missing"
                )
        images = sum(row.images for row in self.classes)
        if self.classes and images != self.data.images:
            raise ValueError(f"classes have {images} images, data.images is {self.data.images}")
        return self


def _check_top5(top1: float, top5: float | None) -> None:
    if top5 is not None and top5 < top1 - _TOLERANCE:
        raise ValueError(f"top5 {top5:g} is below top1 {top1:g}")


def read_evaluation(path: str | Path, remedy: str | None = None) -> Evaluation:
    """Read an evaluation strictly.

    Args:
        path: an `eval.json`, or the artifact folder that holds one.
        remedy: what a message tells the reader to do; by default to run `zoo eval`.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: it is not an evaluation; the message names the first field that is wrong.
    """
    path = Path(path)
    if path.is_dir():
        path = path / EVALUATION
    remedy = remedy or f"run zoo eval {path.parent} again"
    if not path.is_file():
        raise NotFoundError(f"{path} is missing: {remedy}")
    if path.stat().st_size > MAX_BYTES[EVALUATION]:
        raise IntegrityError(f"{path} has more than {MAX_BYTES[EVALUATION]} bytes: {remedy}")
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IntegrityError(f"{path}: {first_fault(error)}: {remedy}") from error
    except RecursionError as error:
        raise IntegrityError(f"{path} is nested too deeply: {remedy}") from error


def wilson(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95 % interval of a share, in percent (Wilson 1927)."""
    share = correct / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 100 / (1 + z * z / count)
    return max(0.0, (middle - spread) * scale), min(100.0, (middle + spread) * scale)
