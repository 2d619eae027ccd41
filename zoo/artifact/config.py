"""What `config.json` of an artifact says, and how strictly it is read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoo.errors import IntegrityError
from zoo.kernels.neuron import MAX_BITS, Neuron, NeuronKind
from zoo.text import first_fault

FORMAT_VERSION = 1
MAX_TIMESTEPS = 4096


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Text = Annotated[str, Field(min_length=1, max_length=500)]


Numerics = Literal["int8", "float32"]


# A network's neurons: of one model, or of several (`mixed`), then said by layer.
NetworkNeuron = Literal["if", "signed", "multi-level", "mixed"]


# The methods of `zoo.conversion.registry`.
MethodName = Literal["hu2018", "calibrated", "data-free"]


Channels = Annotated[int, Field(ge=1, le=16)]


Timesteps = Annotated[int, Field(ge=1, le=MAX_TIMESTEPS)]


# Bounds what a hostile config can make a run allocate, as MAX_CHECKSUM_PIXELS does for `verify
# --deep`.
Side = Annotated[int, Field(ge=1, le=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PreprocessConfig(_Strict):
    """How an image becomes the network's uint8 input, and how the image table was made from it."""

    input_size: tuple[Channels, Side, Side]
    resize: Annotated[int, Field(ge=1, le=8192)] | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _one_per_channel(self) -> PreprocessConfig:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError("mean and std need one value per channel")
        return self


class TrainingConfig(_Strict):
    """How `zoo train` made an ANN: data, epochs, every setting, and the training it began from.

    That may be one of a shallower network (`arch`; None is the artifact's own). `began` is the
    model of the zoo that it began from, or a file that does not say how it was trained. `teacher`
    is the name of the network whose answers were learnt beside the labels, whose sha256 is among
    the settings, `taught` how that one was trained, where `zoo train` made it and a file held it.

    mean, std and input_size say how images became its input; seconds is the time the steps took,
    top1 the ANN's accuracy in percent on the test split, measured once at the end.
    """

    arch: Text | None = None
    dataset: Text
    images: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0)]
    top1: Annotated[float, Field(ge=0, le=100)]
    settings: dict[Annotated[str, Field(max_length=100)], float | int | str | bool]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    input_size: Side
    start: TrainingConfig | None = None
    began: Text | None = None
    teacher: Annotated[Text | None, Field(exclude_if=lambda value: value is None)] = None
    taught: Annotated[TrainingConfig | None, Field(exclude_if=lambda value: value is None)] = None


class SourceConfig(_Strict):
    """The pretrained ANN.

    `revision` is the commit where a hub has it, `training` is set where `zoo train` made it,
    `weights` where its file holds two networks: the averaged (`ema`) or the other (`raw`).
    """

    name: Text
    sha256: Sha256
    revision: Text | None = None
    license: Text | None = None
    url: Text | None = None
    training: TrainingConfig | None = None
    # Left out where it is None, as most files hold one network: their bytes stay what they were.
    weights: Annotated[
        Literal["ema", "raw"] | None, Field(exclude_if=lambda value: value is None)
    ] = None


Name = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$")]


Width = Annotated[int, Field(ge=1, le=2**16)]


Kernel = Annotated[int, Field(ge=1, le=64)]


Padding = Annotated[int, Field(ge=0, le=32)]


class ShortcutConfig(_Strict):
    """A second input of a layer's neurons, `zoo.networks.topology.Shortcut`."""

    kind: Literal["identity", "projection"]
    source: Name
    stride: Kernel = 1
    pad: Annotated[int, Field(ge=0, le=2**16)] = 0
    kernel: Kernel = 1
    padding: Padding = 0


class LayerConfig(_Strict):
    """One convolution and its neurons, `zoo.networks.topology.Layer`.

    `source` is "image", or the name of a layer or pooling before it, whose channels it reads.
    """

    name: Name
    source: Name
    channels: Width
    kernel: Kernel
    stride: Kernel = 1
    padding: Padding
    groups: Width = 1
    max_pool: bool = False
    shortcut: ShortcutConfig | None = None


class PoolConfig(_Strict):
    """A pooling of a layer's spikes, `zoo.networks.topology.Pool`."""

    name: Name
    source: Name
    kind: Literal["max", "average"]
    kernel: Annotated[int, Field(ge=0, le=64)] = 0
    stride: Kernel = 1
    padding: Padding = 0


class TopologyConfig(_Strict):
    """The layers of a network that goes by no name, in running order."""

    layers: Annotated[list[LayerConfig], Field(min_length=1, max_length=1024)]
    pools: Annotated[list[PoolConfig], Field(max_length=64)] = []


class CalibrationConfig(_Strict):
    """The images that were used, and how they were drawn.

    `dataset` is a name of `zoo.data.datasets` that they are known by.

    Training images, or (method data-free) images made by `zoo.conversion.synthetic` with this seed,
    which no data set has.
    """

    description: Text
    dataset: Text | None = None
    sha256: Sha256
    images: Annotated[int, Field(ge=1)]
    seed: int


class TuningConfig(_Strict):
    """How a network was trained on as a spiking network, and what it was rounded on.

    `began` and `sha256` are the artifact that it began from and its model.safetensors, `timesteps`
    what it is meant for since. `settings` are those of `zoo.training.tune`, empty where a training
    loop of somebody's own did it, as are dataset, images, epochs and seconds. `teacher` is the
    network that it learnt from. `rounding` are the images on which it was rounded back to integers;
    None: every number was rounded to the nearest. `start` is an earlier tuning.
    """

    began: Text | None = None
    sha256: Sha256
    timesteps: Timesteps
    surrogate: Text
    dataset: Text | None = None
    images: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    settings: dict[Annotated[str, Field(max_length=100)], float | int | str | bool] = {}
    teacher: Text | None = None
    rounding: CalibrationConfig | None = None
    start: TuningConfig | None = None


class MethodConfig(_Strict):
    """A conversion method and every parameter it ran with."""

    name: MethodName
    parameters: dict[Annotated[str, Field(max_length=100)], float | int | str | bool]


class NeuronConfig(_Strict):
    """The neurons of one layer: their model and the bits of a spike."""

    neuron: Neuron
    bits: Annotated[int, Field(ge=1, le=MAX_BITS)] = 1

    @model_validator(mode="after")
    def _exists(self) -> NeuronConfig:
        NeuronKind(self.neuron, self.bits)
        return self


# Images x timesteps x height x width of the spike checksum: a network of the CIFAR form takes about
# 0.5 GB for as many.
MAX_CHECKSUM_PIXELS = 2**20


class ExitConfig(_Strict):
    """When a run may stop for an image (`zoo.networks.exits.ExitRule`), and how that was found.

    It was calibrated on `images` training images for at most `loss` points of accuracy; `sha256` is
    that of these images.
    """

    rule: Literal["margin", "entropy"]
    threshold: float
    timesteps: Timesteps
    loss: Annotated[float, Field(ge=0, le=100)]
    description: Text
    images: Annotated[int, Field(ge=1)]
    sha256: Sha256


class ChecksumConfig(_Strict):
    """sha256 over every layer's spikes on the stated input.

    See `zoo.artifact.folder.spike_checksum`.
    """

    input: Literal["shake256-noise"]
    images: Annotated[int, Field(ge=1, le=16)]
    timesteps: Annotated[int, Field(ge=1, le=64)]
    sha256: Sha256


class Config(_Strict):
    """`config.json`: everything about an artifact that is not a tensor.

    `neurons` has the neurons of every layer, in running order, where layers differ. `neuron` is
    then the model of all of them, or `mixed`, and `spike_bits` the largest.
    """

    format: Literal["spiking-zoo"]
    format_version: Annotated[int, Field(strict=True)]
    arch: Text
    shortcut: Literal["A", "B"]
    stride_in: Literal["3x3", "1x1"] = "3x3"
    stem: Annotated[int, Field(ge=1, le=8)] = 1
    # Left out where `arch` names the network: the bytes of those artifacts stay what they were.
    topology: Annotated[TopologyConfig | None, Field(exclude_if=lambda value: value is None)] = None
    exit: Annotated[ExitConfig | None, Field(exclude_if=lambda value: value is None)] = None
    num_classes: Annotated[int, Field(ge=1, le=100_000)]
    class_names: list[Annotated[str, Field(max_length=200)]] | None = None
    preprocess: PreprocessConfig
    numerics: Numerics
    neuron: NetworkNeuron
    spike_bits: Annotated[int, Field(ge=1, le=MAX_BITS)] = 1
    # Left out where all layers are alike, as in every older artifact: their bytes stay the same.
    neurons: Annotated[
        dict[Text, NeuronConfig] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    schedule: Literal["causal", "layerwise"]
    timesteps: Timesteps
    readout_delay: dict[Timesteps, Annotated[int, Field(ge=0, le=MAX_TIMESTEPS)]]
    bias_rows: Timesteps
    method: MethodConfig
    source: SourceConfig
    calibration: CalibrationConfig
    # Left out where it is None, so that artifacts that were only converted stay what they were.
    tuning: Annotated[TuningConfig | None, Field(exclude_if=lambda value: value is None)] = None
    weights_sha256: Sha256
    checksum: ChecksumConfig

    @model_validator(mode="after")
    def _names_match(self) -> Config:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        return self

    @model_validator(mode="after")
    def _graded_spikes(self) -> Config:
        if self.neurons is None:
            if self.neuron == "mixed":
                raise ValueError("mixed neurons need `neurons`, those of every layer")
            NeuronKind(self.neuron, self.spike_bits)
        if self.spike_bits > 1 and self.schedule != "causal":
            raise ValueError("multi-level neurons are causal")
        return self

    @model_validator(mode="after")
    def _neurons_by_layer(self) -> Config:
        if self.neurons is None:
            return self
        kinds = set(self.neurons.values())
        if len(kinds) < 2:
            raise ValueError("neurons of every layer are alike: `neurons` is for those that differ")
        names = {kind.neuron for kind in kinds}
        if self.neuron != (names.pop() if len(names) == 1 else "mixed"):
            raise ValueError(f"neuron {self.neuron} is not what the layers have in `neurons`")
        if self.spike_bits != max(kind.bits for kind in kinds):
            raise ValueError(f"spike_bits {self.spike_bits} is not the largest in `neurons`")
        if self.schedule != "causal":
            raise ValueError("neurons that differ by layer are causal")
        return self

    @model_validator(mode="after")
    def _checksum_is_bounded(self) -> Config:
        _, height, width = self.preprocess.input_size
        if self.checksum.images * self.checksum.timesteps * height * width > MAX_CHECKSUM_PIXELS:
            raise ValueError(
                f"the checksum's images x timesteps x height x width pass {MAX_CHECKSUM_PIXELS}"
            )
        return self

    def neuron_of(self, layer: str) -> NeuronKind:
        """Return what the neurons of a layer are."""
        if self.neurons is not None:
            return NeuronKind(self.neurons[layer].neuron, self.neurons[layer].bits)
        assert self.neuron != "mixed"
        return NeuronKind(self.neuron, self.spike_bits)


def unsealed(**fields: Any) -> Config:
    """Return a config without its checksums, which `zoo.artifact.folder.write_artifact` adds.

    Raises:
        pydantic.ValidationError: a value that a config cannot hold.
    """
    none = "0" * 64
    checksum = ChecksumConfig(input="shake256-noise", images=1, timesteps=1, sha256=none)
    return Config(**fields, weights_sha256=none, checksum=checksum)


def parse_config(data: bytes, where: str) -> Config:
    """Read a config strictly.

    Raises:
        IntegrityError: it is not a config; the message names the first field that is wrong, or a
            newer format version.
    """
    import json

    try:
        text = data.decode()
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{where} is not valid JSON ({str(error)[:80]}): fetch the artifact again"
        ) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > FORMAT_VERSION:
        raise IntegrityError(
            f"{where} has format version {version}, this zoo reads up to {FORMAT_VERSION}: pip "
            "install -U spiking-zoo"
        )
    try:
        config = Config.model_validate_json(text)
    except ValidationError as error:
        raise IntegrityError(f"{where}: {first_fault(error)}: fetch the artifact again") from error
    except RecursionError as error:
        raise IntegrityError(f"{where} is nested too deeply: fetch the artifact again") from error
    if config.format_version != FORMAT_VERSION:
        raise IntegrityError(
            f"{where} has unknown format version {config.format_version}: fetch the artifact again"
        )
    return config


CONFIG, EVALUATION, WEIGHTS = "config.json", "eval.json", "model.safetensors"


FILES = (
    CONFIG,
    "README.md",
    EVALUATION,
    WEIGHTS,
)  # of an artifact, in the order they are fetched; nothing else ever is


MAX_BYTES = {
    CONFIG: 4_000_000,
    "README.md": 4_000_000,
    EVALUATION: 8_000_000,
    WEIGHTS: 4_000_000_000,
}
