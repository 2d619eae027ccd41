"""Residual networks as data: one description from which the ANN and the spiking network are built.

A topology is the list of its spiking layers in the order in which they run. A layer is one
convolution, its BatchNorm, at most one shortcut that ends in the same neurons, and the ReLU (ANN)
or integrate-and-fire neuron (SNN) behind them. Names follow torchvision (`conv1`, `layer1.0.conv1`,
`layer1.0.downsample.0`, `fc`), so a checkpoint's keys are a layer's keys.

CIFAR form: He et al. 2015 (arXiv:1512.03385) section 4.2, three stages of 16, 32 and 64 channels;
shortcut "A" is the strided, zero-padded identity, "B" a 1x1 projection. ImageNet form: the same
paper's table 1, with the stride of a bottleneck in its 3x3 convolution (torchvision's and timm's
"v1.5"), or in its first 1x1 convolution (the paper's own, "v1").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from zoo.errors import UsageError

IMAGE = "image"  # the source of the first layer

_CIFAR_BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
_IMAGENET_BLOCKS: dict[str, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}
ARCHITECTURES = (*_CIFAR_BLOCKS, *_IMAGENET_BLOCKS)

StrideIn = Literal["3x3", "1x1"]


@dataclass(frozen=True)
class Shortcut:
    """A second input of a layer's neurons.

    Attributes:
        kind: `identity` adds the source's activations as they are, every `stride`-th row and
            column, with `pad` zero channels on either side; `projection` is a 1x1 convolution.
        source: name of the layer that is read.
        conv, bn: names of the projection's convolution and BatchNorm in a checkpoint.
    """

    kind: Literal["identity", "projection"]
    source: str
    stride: int = 1
    pad: int = 0
    conv: str = ""
    bn: str = ""


@dataclass(frozen=True)
class Layer:
    """One convolution and the neurons behind it.

    Attributes:
        name, bn: names of the convolution and its BatchNorm in a checkpoint.
        source: name of the layer whose output the convolution reads, or IMAGE.
        kernel: height and width of the convolution.
        max_pool: whether 3x3 max-pooling with stride 2 follows (the stem of the ImageNet form).
    """

    name: str
    bn: str
    source: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    shortcut: Shortcut | None = None
    max_pool: bool = False

    @property
    def padding(self) -> int:
        return self.kernel // 2


@dataclass(frozen=True)
class Topology:
    """A residual network: layers in running order, global average pooling and the classifier `fc`.

    Attributes:
        arch: one of ARCHITECTURES.
        shortcut: "A" or "B", as in the module's docstring.
        stride_in: the convolution of a bottleneck that has the stride.
        stem: neurons for each channel of the stem (`with_stem`).
    """

    arch: str
    shortcut: Literal["A", "B"]
    in_channels: int
    num_classes: int
    layers: tuple[Layer, ...]
    stride_in: StrideIn = "3x3"
    stem: int = 1

    @property
    def features(self) -> int:
        """Channels of the last layer, which the classifier reads."""
        return self.layers[-1].out_channels

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of each layer's output, by name, and of the image."""
        return {
            IMAGE: self.in_channels,
            **{layer.name: layer.out_channels for layer in self.layers},
        }

    @cached_property
    def _released(self) -> tuple[tuple[str, ...], ...]:
        last = {IMAGE: 0}
        for index, layer in enumerate(self.layers):
            last[layer.name] = index
            last[layer.source] = index
            if layer.shortcut is not None:
                last[layer.shortcut.source] = index
        del last[self.layers[-1].name]
        return tuple(
            tuple(name for name, reader in last.items() if reader == index)
            for index in range(len(self.layers))
        )

    def released_after(self, index: int) -> tuple[str, ...]:
        """Return what no layer after the one at `index` reads: names of layers, and IMAGE.

        The last layer's own output is kept.
        """
        return self._released[index]

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Return height and width of each layer's neurons for an image of `height` x `width`."""
        size = {IMAGE: (height, width)}
        for layer in self.layers:
            h, w = (
                (n + 2 * layer.padding - layer.kernel) // layer.stride + 1
                for n in size[layer.source]
            )
            size[layer.name] = ((h + 1) // 2, (w + 1) // 2) if layer.max_pool else (h, w)
        return size


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
        arch: one of ARCHITECTURES.
        shortcut: "A" (the default) or "B" for the CIFAR form; the ImageNet form always projects.
        stride_in: the convolution of a bottleneck that has the stride; weights do not tell.
        stem: neurons for each channel of the stem (`with_stem`).

    Raises:
        UsageError: an unknown name, or a shortcut, stride or stem that the form does not have.
    """
    if stride_in == "1x1" and _IMAGENET_BLOCKS.get(arch, ("basic",))[0] != "bottleneck":
        raise UsageError(
            f"{arch} has no bottlenecks, whose stride could be in a 1x1 convolution: "
            "leave `stride_in` out"
        )
    if arch in _CIFAR_BLOCKS:
        if shortcut not in (None, "A", "B"):
            raise UsageError(
                f"shortcut {shortcut!r} does not exist: use A (zero padding) or B (projection)"
            )
        builder = _Builder(in_channels)
        builder.stem(16, kernel=3, stride=1, max_pool=False)
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range(_CIFAR_BLOCKS[arch]):
                stride = 2 if stage > 1 and block == 0 else 1
                builder.basic(f"layer{stage}.{block}", channels, stride, project=shortcut == "B")
        return with_stem(
            Topology(arch, shortcut or "A", in_channels, num_classes, tuple(builder.layers)), stem
        )
    if arch in _IMAGENET_BLOCKS:
        if shortcut not in (None, "B"):
            raise UsageError(f"{arch} has projection shortcuts: leave `shortcut` out or pass B")
        kind, blocks = _IMAGENET_BLOCKS[arch]
        builder = _Builder(in_channels, stride_in)
        builder.stem(64, kernel=7, stride=2, max_pool=True)
        for stage, count in enumerate(blocks, start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                add = builder.basic if kind == "basic" else builder.bottleneck
                add(f"layer{stage}.{block}", 32 * 2**stage, stride, project=True)
        return with_stem(
            Topology(arch, "B", in_channels, num_classes, tuple(builder.layers), stride_in), stem
        )
    raise UsageError(f"architecture {arch!r} is unknown: use one of {', '.join(ARCHITECTURES)}")


def with_stem(net: Topology, copies: int) -> Topology:
    """Return the topology with `copies` neurons for each channel of its stem, copy after copy.

    `zoo.conversion.stem` says what they are for.

    Raises:
        UsageError: a shortcut adds the stem's output to a sum as it is, and has no weights that
            could share it out among the copies.
    """
    if copies == 1:
        return net
    first = net.layers[0]
    if any(
        layer.shortcut and (layer.shortcut.kind, layer.shortcut.source) == ("identity", first.name)
        for layer in net.layers
    ):
        raise UsageError(
            f"{net.arch} adds its stem's output to a sum as it is, so stem={copies} is not "
            "possible: "
            "resnet50 and deeper take it"
        )
    width = copies * first.out_channels
    rest = [
        replace(layer, in_channels=width) if layer.source == first.name else layer
        for layer in net.layers[1:]
    ]
    return replace(net, layers=(replace(first, out_channels=width), *rest), stem=copies)


class _Builder:
    """Appends layers, each reading the one before it."""

    def __init__(self, in_channels: int, stride_in: StrideIn = "3x3") -> None:
        self.layers: list[Layer] = []
        self.source, self.width, self.stride_in = IMAGE, in_channels, stride_in

    def stem(self, channels: int, *, kernel: int, stride: int, max_pool: bool) -> None:
        self._conv("conv1", "bn1", channels, kernel, stride, max_pool=max_pool)

    def basic(self, block: str, channels: int, stride: int, project: bool) -> None:
        shortcut = self._shortcut(block, channels, stride, project)
        self._conv(f"{block}.conv1", f"{block}.bn1", channels, 3, stride)
        self._conv(f"{block}.conv2", f"{block}.bn2", channels, 3, 1, shortcut)

    def bottleneck(self, block: str, channels: int, stride: int, project: bool) -> None:
        shortcut = self._shortcut(block, 4 * channels, stride, project)
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        self._conv(f"{block}.conv1", f"{block}.bn1", channels, 1, first)
        self._conv(f"{block}.conv2", f"{block}.bn2", channels, 3, second)
        self._conv(f"{block}.conv3", f"{block}.bn3", 4 * channels, 1, 1, shortcut)

    def _shortcut(self, block: str, channels: int, stride: int, project: bool) -> Shortcut:
        if stride == 1 and channels == self.width:
            return Shortcut("identity", self.source)
        if project:
            return Shortcut(
                "projection",
                self.source,
                stride,
                conv=f"{block}.downsample.0",
                bn=f"{block}.downsample.1",
            )
        return Shortcut("identity", self.source, stride, pad=(channels - self.width) // 2)

    def _conv(
        self,
        name: str,
        bn: str,
        channels: int,
        kernel: int,
        stride: int,
        shortcut: Shortcut | None = None,
        *,
        max_pool: bool = False,
    ) -> None:
        self.layers.append(
            Layer(name, bn, self.source, self.width, channels, kernel, stride, shortcut, max_pool)
        )
        self.source, self.width = name, channels
