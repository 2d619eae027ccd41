"""The schema of `eval.json`: everything one evaluation measured."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from zoo.artifact.config import Config


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataFacts(_Model):
    """What was measured on; `sha256` is over pixels and labels, `dataset` the name of `zoo.data.datasets` it is a whole split of."""

    description: str
    dataset: str | None
    sha256: str
    images: int


class AnnFacts(_Model):
    """The ANN's accuracy in percent on the same images (top5: as in `Row`), and the file it came from."""

    top1: float
    top5: float | None = None
    source: str


class Row(_Model):
    """One number of timesteps.

    top1 in percent with its 95 % Wilson interval; top5, where there are more than five classes; firing_rate in spikes per neuron
    and timestep, a graded spike as many as it has bits set; operations per image; energy_nj per image, modelled at 45 nm
    (`zoo.evaluation.energy`).
    """

    timesteps: int
    top1: float
    interval95: tuple[float, float]
    top5: float | None = None
    firing_rate: float
    effective_acs: float
    effective_macs: float
    energy_nj: dict[str, float]


class LayerRow(_Model):
    """Firing rate of one layer, in spikes per neuron and timestep, by number of timesteps."""

    name: str
    neurons: int
    firing_rate: dict[int, float]


class ClassRow(_Model):
    """One class: how many images it has, and on how many percent of them the network, at its largest number of timesteps, and the
    ANN are right."""

    label: int
    name: str | None
    images: int
    top1: float
    ann: float | None


class Evaluation(_Model):
    """Everything one evaluation measured, and the config of what was measured; `eval.json` is its dump, and makes a card alone.

    images_per_second is the time for the longest run alone (causal), memory the process's peak (on a GPU, the GPU's); of several
    processes the slowest's and the largest. seconds are those since it was last taken up. activation_sparsity is the share of
    bits, of all spikes, that are not set.
    """

    name: str
    arch: str
    method: str
    neuron: str
    schedule: str
    numerics: str
    weights_sha256: str
    data: DataFacts
    ann: AnnFacts | None
    rows: list[Row]
    layers: list[LayerRow]
    classes: list[ClassRow] = Field(default_factory=list)
    activation_sparsity: float
    footprint_bytes: int
    artifact_bytes: int
    images_per_second: dict[int, float]
    peak_memory_bytes: int
    seconds: float
    device: str
    backend: str = "torch"
    versions: dict[str, str]
    command: str
    config: Config


def wilson(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share, in percent (Wilson 1927)."""
    share = correct / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 100 / (1 + z * z / count)
    return max(0.0, (middle - spread) * scale), min(100.0, (middle + spread) * scale)
