"""The residual networks that go by a name, as topologies.

CIFAR form: He et al. 2015 (arXiv:1512.03385) section 4.2, three stages of 16, 32 and 64 channels;
shortcut "A" is the strided, zero-padded identity, "B" a 1x1 projection. `resnet20x2` is resnet20
with twice the channels everywhere, and `resnet8x4_stem32` has 32 channels in its stem (RepDistiller
calls it resnet8x4).

ImageNet form: the same paper's table 1, with the stride of a bottleneck in its 3x3 convolution
(torchvision's and timm's "v1.5"), or in its first 1x1 convolution (the paper's own, "v1"). Wider
and grouped bottlenecks go by torchvision's names; `c`, `d`, `s` and `t` are timm's: a stem of three
3x3 convolutions and, in `d` and `t`, average pooling before the 1x1 convolution of a shortcut. With
`_cifar` at its end, a name stands for the same stages behind one 3x3 convolution without stride and
max-pooling, as training code for CIFAR has them (`resnet18_cifar`: 64, 128, 256, 512 channels).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from zoo.errors import UsageError
from zoo.networks.topology import (
    IMAGE,
    Layer,
    Pool,
    Shortcut,
    StrideIn,
    Topology,
    with_stem,
)

# Blocks of each of the three stages.
_CIFAR = {
    "resnet20": 3,
    "resnet32": 5,
    "resnet44": 7,
    "resnet56": 9,
    "resnet110": 18,
    "resnet8": 1,
    "resnet14": 2,
}
_WIDE = re.compile(r"(resnet\d+?)(?:x(\d{1,2}))?(?:_stem(\d{1,4}))?")
_MAX_WIDTH = 16


@dataclass(frozen=True)
class _Stages:
    """Four stages of blocks.

    Attributes:
        blocks: of each stage.
        bottleneck: whether blocks are bottlenecks, else basic ones.
        groups, base: of a bottleneck's 3x3 convolution, which has `groups` x `base` channels in the
            first stage.
        stem: channels of a deep stem's three convolutions; None for one 7x7 convolution of 64.
        averaged: whether shortcuts average before they project.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    groups: int = 1
    base: int = 64
    stem: tuple[int, int, int] | None = None
    averaged: bool = False


_PLAIN = {
    "resnet18": _Stages((2, 2, 2, 2), bottleneck=False),
    "resnet34": _Stages((3, 4, 6, 3), bottleneck=False),
    "resnet50": _Stages((3, 4, 6, 3)),
    "resnet101": _Stages((3, 4, 23, 3)),
    "resnet152": _Stages((3, 8, 36, 3)),
    "resnet26": _Stages((2, 2, 2, 2)),
    "resnet200": _Stages((3, 24, 36, 3)),
    "wide_resnet50_2": _Stages((3, 4, 6, 3), base=128),
    "wide_resnet101_2": _Stages((3, 4, 23, 3), base=128),
    "resnext50_32x4d": _Stages((3, 4, 6, 3), groups=32, base=4),
    "resnext101_32x4d": _Stages((3, 4, 23, 3), groups=32, base=4),
    "resnext101_32x8d": _Stages((3, 4, 23, 3), groups=32, base=8),
    "resnext101_64x4d": _Stages((3, 4, 23, 3), groups=64, base=4),
}
_DEEP, _WIDER, _TIERED = (32, 32, 64), (64, 64, 128), (24, 32, 64)
_VARIANTS = (
    {
        f"{name}{letter}": replace(_PLAIN[name], stem=stem, averaged=letter == "d")
        for name in ("resnet50", "resnet101", "resnet152")
        for letter, stem in (("c", _DEEP), ("d", _DEEP), ("s", _WIDER))
    }
    | {
        f"{name}d": replace(_PLAIN[name], stem=_DEEP, averaged=True)
        for name in ("resnet18", "resnet26", "resnet34", "resnet200")
    }
    | {
        f"{name}t": replace(_PLAIN[name], stem=_TIERED, averaged=True)
        for name in ("resnet26", "resnet50")
    }
    | {
        "resnet10t": _Stages((1, 1, 1, 1), bottleneck=False, stem=_TIERED, averaged=True),
        "resnet14t": _Stages((1, 1, 1, 1), stem=_TIERED, averaged=True),
        "resnext50d_32x4d": replace(_PLAIN["resnext50_32x4d"], stem=_DEEP, averaged=True),
    }
)
_IMAGENET = _PLAIN | _VARIANTS
_CIFAR_SUFFIX = "_cifar"

# All of ARCHITECTURES in one line, for messages.
KNOWN_NAMES = (
    "resnet20, 32, 44, 56, 110 (wider: resnet20x4), resnet18, 34, 50, 101, 152, wide_resnet50_2, "
    "resnext50_32x4d and so on, timm's c, d, s and t forms (resnet50d), or resnet18_cifar for a "
    "3x3 stem"
)
ARCHITECTURES = (*_CIFAR, *_IMAGENET, *(f"{name}{_CIFAR_SUFFIX}" for name in _PLAIN))


def topology(
    arch: str,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    shortcut: Literal["A", "B"] | None = None,
    stride_in: StrideIn = "3x3",
    stem: int = 1,
) -> Topology:
    """Return the topology of an architecture.

    Args:
        arch: one of ARCHITECTURES, or a wider one of the CIFAR form.
        shortcut: "A" (the default) or "B" for the CIFAR form; the ImageNet form always projects.
        stride_in: the convolution of a bottleneck that has the stride; weights do not tell.
        stem: neurons for each channel of the stem (`zoo.networks.topology.with_stem`).

    Raises:
        UsageError: an unknown name, or a shortcut, stride or stem that the form does not have.
    """
    stages = _IMAGENET.get(arch.removesuffix(_CIFAR_SUFFIX))
    if stages is not None and arch.endswith(_CIFAR_SUFFIX):
        stages = stages if arch in ARCHITECTURES else None
    if stride_in == "1x1" and (stages is None or not stages.bottleneck):
        raise UsageError(
            f"{arch} has no bottlenecks, whose stride could be in a 1x1 convolution: "
            "leave `stride_in` out"
        )
    builder = _Builder(in_channels, stages, stride_in)
    if stages is not None:
        if shortcut not in (None, "B"):
            raise UsageError(f"{arch} has projection shortcuts: leave `shortcut` out or pass B")
        builder.network(cifar=arch.endswith(_CIFAR_SUFFIX))
        shortcut = "B"
    else:
        blocks, width, first = cifar_form(arch)
        if shortcut not in (None, "A", "B"):
            raise UsageError(
                f"shortcut {shortcut!r} does not exist: use A (zero padding) or B (projection)"
            )
        builder.conv("conv1", "bn1", first, 3)
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                builder.basic(
                    f"layer{stage}.{block}", width * channels, stride, project=shortcut == "B"
                )
    net = Topology(
        arch,
        shortcut or "A",
        in_channels,
        num_classes,
        tuple(builder.layers),
        stride_in,
        pools=tuple(builder.pools),
    )
    return with_stem(net, stem)


def cifar_form(arch: str) -> tuple[int, int, int]:
    """Return blocks of a stage, factor on all channels and channels of the stem of the CIFAR form.

    Raises:
        UsageError: an unknown name.
    """
    match = _WIDE.fullmatch(arch)
    if match is None or match[1] not in _CIFAR:
        raise UsageError(f"architecture {arch!r} is unknown: use one of {KNOWN_NAMES}")
    width, stem = int(match[2] or 1), int(match[3] or 0)
    if not 1 <= width <= _MAX_WIDTH or cifar_name(match[1], width, stem or 16 * width) != arch:
        raise UsageError(
            f"architecture {arch!r} is unknown: {match[1]} becomes wider as {match[1]}x2 up to "
            f"{match[1]}x{_MAX_WIDTH}"
        )
    return _CIFAR[match[1]], width, stem or 16 * width


def cifar_name(base: str, width: int, stem: int) -> str:
    """Return the name of a network of the CIFAR form with `width` times the channels of `base`."""
    name = base if width == 1 else f"{base}x{width}"
    return name if stem == 16 * width else f"{name}_stem{stem}"


class _Builder:
    """Appends layers, each reading the one before it."""

    def __init__(self, in_channels: int, stages: _Stages | None, stride_in: StrideIn) -> None:
        self.layers: list[Layer] = []
        self.pools: list[Pool] = []
        self.source, self.width, self.stride_in = IMAGE, in_channels, stride_in
        self.stages = stages

    def network(self, *, cifar: bool) -> None:
        """Append the stem and the four stages."""
        assert self.stages is not None
        if cifar:
            self.conv("conv1", "bn1", 64, 3)
        elif self.stages.stem is None:
            self.conv("conv1", "bn1", 64, 7, 2, max_pool=True)
        else:
            names = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
            for place, ((name, bn), channels) in enumerate(
                zip(names, self.stages.stem, strict=True)
            ):
                self.conv(name, bn, channels, 3, 1 if place else 2)
            self.pools.append(Pool("maxpool", self.source, "max", 3, 2, 1))
            self.source = "maxpool"
        for stage, count in enumerate(self.stages.blocks, start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                add = self.bottleneck if self.stages.bottleneck else self.basic
                add(f"layer{stage}.{block}", 32 * 2**stage, stride, project=True)

    def basic(self, block: str, channels: int, stride: int, project: bool) -> None:
        shortcut = self._shortcut(block, channels, stride, project)
        self.conv(f"{block}.conv1", f"{block}.bn1", channels, 3, stride)
        self.conv(f"{block}.conv2", f"{block}.bn2", channels, 3, 1, shortcut)

    def bottleneck(self, block: str, channels: int, stride: int, project: bool) -> None:
        assert self.stages is not None
        shortcut = self._shortcut(block, 4 * channels, stride, project)
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        groups, inner = self.stages.groups, channels * self.stages.base // 64 * self.stages.groups
        self.conv(f"{block}.conv1", f"{block}.bn1", inner, 1, first)
        self.conv(f"{block}.conv2", f"{block}.bn2", inner, 3, second, groups=groups)
        self.conv(f"{block}.conv3", f"{block}.bn3", 4 * channels, 1, 1, shortcut)

    def _shortcut(self, block: str, channels: int, stride: int, project: bool) -> Shortcut:
        if stride == 1 and channels == self.width:
            return Shortcut("identity", self.source)
        if not project:
            return Shortcut("identity", self.source, stride, pad=(channels - self.width) // 2)
        averaged = self.stages is not None and self.stages.averaged
        # Average pooling stands at 0 of the sequence.
        return Shortcut(
            "projection",
            self.source,
            stride,
            conv=f"{block}.downsample.{1 if averaged else 0}",
            bn=f"{block}.downsample.{2 if averaged else 1}",
            kernel=2 if averaged and stride == 2 else 1,
            averaged=averaged,
        )

    def conv(
        self,
        name: str,
        bn: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        shortcut: Shortcut | None = None,
        *,
        groups: int = 1,
        max_pool: bool = False,
    ) -> None:
        layer = Layer(
            name,
            bn,
            self.source,
            self.width,
            channels,
            kernel,
            stride,
            shortcut,
            max_pool,
            groups,
        )
        self.layers.append(layer)
        self.source, self.width = name, channels
