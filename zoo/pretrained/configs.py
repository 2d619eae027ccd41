"""What the config.json beside a checkpoint says of it, in the layout of timm or of transformers.

timm's has the preprocessing in `pretrained_cfg`, in older files at the top; transformers' has it in
a preprocessor_config.json of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from zoo.errors import IntegrityError, UsageError
from zoo.imagenet import imagenet_classes
from zoo.networks.architectures import ARCHITECTURES, topology
from zoo.networks.topology import StrideIn
from zoo.pretrained.checkpoint import Origin
from zoo.text import first_fault

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

Side = Annotated[int, Field(ge=1, le=1024)]
Names = list[Annotated[str, Field(max_length=200)]]
Crop = Annotated[float, Field(gt=0.1, le=1)]

# Arguments of timm's ResNet that change nothing here, or that names and shapes of tensors show.
_SHOWN = (
    *("num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate"),
    *("zero_init_last", "pretrained_strict", "stem_width", "stem_type", "avg_down"),
    *("cardinality", "base_width", "layers", "channels"),
)
_USUAL: dict[str, tuple[object, ...]] = {
    "act_layer": ("relu", None),
    "norm_layer": ("batchnorm2d", "batchnorm", "bn", None),
    "global_pool": ("avg", None),
    "output_stride": (32, None),
    "aa_layer": (None, ""),
    "replace_stem_pool": (False, None),
    "block_args": ({}, None),
}
# What begins the names of timm's other ResNets.
_OTHERS = (
    (("seres", "skres", "ecares", "gcres", "resnest", "senet"), "squeeze-excite or attention"),
    (("resnetrs",), "squeeze-excite in its blocks, and no max-pooling"),
    (("resnetblur", "resnetaa"), "anti-aliasing (a blur before its strides)"),
    (("resnetv2", "preact"), "pre-activation, whose BatchNorm cannot be folded"),
    (("resnet50_gn",), "GroupNorm, which records no statistics to fold"),
)


@dataclass(frozen=True)
class Stated:
    """What a config says of its checkpoint; None where it says nothing.

    Attributes:
        stride_in: the convolution of a bottleneck that has the stride.
    """

    arch: str | None = None
    num_classes: int | None = None
    origin: Origin = field(default_factory=Origin)
    stride_in: StrideIn | None = None


class _Pretrained(BaseModel):
    """The part of timm's `pretrained_cfg` that a conversion depends on; defaults are timm's own."""

    input_size: tuple[int, Side, Side]
    interpolation: str = "bilinear"
    crop_pct: Crop | None = None
    crop_mode: str | None = None
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    first_conv: Any = None
    tag: str | None = None
    license: Annotated[str, Field(max_length=500)] | None = None
    origin_url: Annotated[str, Field(max_length=500)] | None = None
    label_names: Names | None = None

    @field_validator("first_conv")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return value[0] if isinstance(value, list) and len(value) == 1 else value


class _Timm(BaseModel):
    architecture: Annotated[str, Field(max_length=100)]
    num_classes: int | None = None
    model_args: dict[str, Any] | None = None
    label_names: Names | None = None
    pretrained_cfg: _Pretrained

    @model_validator(mode="before")
    @classmethod
    def _older_form(cls, raw: Any) -> Any:
        """Take what stands at the top for `pretrained_cfg`, which older files have not."""
        if isinstance(raw, dict) and "pretrained_cfg" not in raw and "mean" in raw:
            return {**raw, "pretrained_cfg": raw}
        return raw


class _Transformers(BaseModel):
    """The part of transformers' ResNetConfig that a conversion depends on."""

    model_type: Literal["resnet"]
    architectures: list[str] | None = None
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    id2label: dict[int, Annotated[str, Field(max_length=200)]] | None = None


class _Preprocessor(BaseModel):
    """The part of transformers' preprocessor_config.json that a conversion depends on."""

    do_normalize: bool = True
    do_rescale: bool = True
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    size: int | dict[str, int | None] | None = None
    crop_size: int | dict[str, int | None] | None = None
    do_center_crop: bool | None = None
    crop_pct: Crop | None = None
    resample: int = 2


def read_stated(data: bytes, where: str, preprocessor: bytes | None = None) -> Stated:
    """Return what a config.json says, in either layout.

    Args:
        data: of config.json.
        where: for messages.
        preprocessor: of preprocessor_config.json, where there is one.

    Raises:
        IntegrityError: it is neither timm's nor transformers'.
        UsageError: it is of a network, or asks for a preprocessing, that the zoo has not.
    """
    if is_transformers(data):
        return _transformers(data, where, preprocessor)
    try:
        config = _Timm.model_validate_json(data)
    except ValidationError as error:
        if b'"spiking-zoo"' in data:
            raise UsageError(
                f"{where} is a spiking network already: give the ANN it was converted from"
            ) from None
        raise IntegrityError(
            f"{where}/{CONFIG} is neither timm's nor transformers': {first_fault(error)}: give the "
            "checkpoint file itself"
        ) from None
    return _timm(config, where)


def is_transformers(data: bytes) -> bool:
    """Return whether a config.json is transformers'."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "model_type" in raw


def _timm(config: _Timm, where: str) -> Stated:
    arch, pretrained = config.architecture, config.pretrained_cfg
    if arch not in ARCHITECTURES:
        reason = next((what for begins, what in _OTHERS if arch.startswith(begins)), None)
        has = f", which has {reason}" if reason else ", which the zoo cannot convert"
        raise UsageError(f"{where} is a {arch}{has}: choose a plain resnet50, resnet50d or such")
    unsupported = _unsupported(config)
    if unsupported:
        raise UsageError(
            f"{where} is a {arch} with {unsupported}, which the zoo cannot convert: choose another "
            "checkpoint"
        )
    if not len(pretrained.mean) == len(pretrained.std) == pretrained.input_size[0]:
        raise IntegrityError(
            f"{where}/{CONFIG} has not one mean and std for each channel: do not use it"
        )
    names = pretrained.label_names or config.label_names
    if names is None and config.num_classes == 1000 and (pretrained.tag or "").endswith("in1k"):
        names = list(imagenet_classes())
    origin = Origin(
        license=pretrained.license or None,
        url=pretrained.origin_url or None,
        mean=pretrained.mean,
        std=pretrained.std,
        input_size=pretrained.input_size[1],
        crop=pretrained.crop_pct or 0.875,
        interpolation="bicubic" if pretrained.interpolation == "bicubic" else "bilinear",
        class_names=None if names is None else tuple(names),
    )
    return Stated(arch, config.num_classes, origin)


def _unsupported(config: _Timm) -> str | None:
    """Return the first option of timm's config that the zoo does not support, or None."""
    pretrained = config.pretrained_cfg
    height, width = pretrained.input_size[1:]
    odd = sorted(
        name
        for name, value in (config.model_args or {}).items()
        if name not in _SHOWN and value not in _USUAL.get(name, ())
    )
    if odd:
        return f"model_args {', '.join(odd)}"[:160]
    if pretrained.first_conv not in (None, "conv1", topology(config.architecture).layers[0].name):
        return f"first_conv {pretrained.first_conv}"[:160]
    if height != width:
        return f"an input of {height}x{width}"
    if pretrained.crop_mode not in (None, "center"):
        return f"crop_mode {pretrained.crop_mode}"[:160]
    if pretrained.interpolation not in ("bilinear", "bicubic"):
        return f"interpolation {pretrained.interpolation}"[:160]
    return None


def _transformers(data: bytes, where: str, preprocessor: bytes | None) -> Stated:
    try:
        config = _Transformers.model_validate_json(data)
        made = _Preprocessor.model_validate_json(preprocessor or b"{}")
    except ValidationError as error:
        model = json.loads(data).get("model_type")
        if model != "resnet":
            raise UsageError(
                f"{where} is a {str(model)[:60]} of transformers, which the zoo cannot convert: "
                "choose a ResNetForImageClassification"
            ) from None
        raise IntegrityError(
            f"{where}: {first_fault(error)}: give the checkpoint file itself"
        ) from None
    for odd, what in (
        (config.hidden_act != "relu", f"the activation {config.hidden_act[:40]}"),
        (config.downsample_in_first_stage, "a stride in its first stage"),
        (not made.do_rescale, "pixels that are not divided by 255"),
        (made.resample not in (2, 3), f"resample {made.resample}"),
        (isinstance(made.size, dict) and "height" in made.size, "images squashed to a square"),
    ):
        if odd:
            raise UsageError(
                f"{where} is a ResNet with {what}, which the zoo cannot convert: choose another "
                "checkpoint"
            )
    labels = config.id2label
    names = None
    if labels is not None and sorted(labels) == list(range(len(labels))):
        names = tuple(labels[label] for label in range(len(labels)))
        names = None if names[0] == "LABEL_0" else names
    return Stated(
        num_classes=None if labels is None else len(labels),
        origin=_preprocessed(made, names) if preprocessor else Origin(class_names=names),
        stride_in="1x1" if config.downsample_in_bottleneck else None,
    )


def _preprocessed(made: _Preprocessor, names: tuple[str, ...] | None) -> Origin:
    """Return what transformers' image processors do: ConvNext's, or one with a crop of its own."""
    mean, std = made.image_mean, made.image_std
    if not made.do_normalize:
        mean, std = (0.0,) * 3, (1.0,) * 3
    shorter, cropped = _side(made.size), _side(made.crop_size)
    side, crop = shorter, made.crop_pct or 0.875
    if made.do_center_crop and cropped is not None:
        side, crop = cropped, cropped / shorter if shorter else 0.875
    return Origin(
        mean=mean,
        std=std,
        input_size=side,
        crop=crop if side is not None and 0.1 < crop <= 1 else None,
        interpolation="bicubic" if made.resample == 3 else "bilinear",
        class_names=names,
    )


def _side(size: int | dict[str, int | None] | None) -> int | None:
    """Return the side that a `size` of an image processor asks for, None if none is sensible."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return size if size is not None and 1 <= size <= 1024 else None
