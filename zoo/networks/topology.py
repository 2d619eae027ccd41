"""Residual networks as data: one description from which the ANN and the spiking network are built.

A topology is the list of its spiking layers in the order in which they run. A layer is one
convolution, its BatchNorm, at most one shortcut that ends in the same neurons, and the ReLU (ANN)
or integrate-and-fire neuron (SNN) behind them. What a layer reads is the image, another layer, or a
pooling of another layer's spikes:

* `max`: s(t) = max_i N_i(t) - max_i N_i(t - 1), with N_i(t) the net spikes of neuron i of the
  window up to timestep t. Where each N_i moves by at most one (by m) a timestep, so does their
  maximum: spikes stay binary, signed or graded. After T timesteps it has emitted max_i N_i(T)
  spikes: the rate is the maximum of the rates, exactly.
* `average`: the mean over the whole area, in front of a hidden fully connected layer, which is a
  1x1 convolution on an area of one. The spiking network has the sum in its place, a whole number;
  the area is divided out of the weights.

`zoo.networks.architectures` has the networks that go by a name. Their layers' names follow
torchvision (`conv1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`), so a checkpoint's keys are a
layer's keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from zoo.errors import UsageError

IMAGE = "image"  # the source of the first layer

StrideIn = Literal["3x3", "1x1"]

# What follows a layer's name in its tensors' names, and the first parts of tensors of no layer.
_TENSORS = ("weight", "bias", "threshold", "v_init", "scale", "shortcut", "log_threshold")
_RESERVED = (IMAGE, "fc")


@dataclass(frozen=True)
class Shortcut:
    """A second input of a layer's neurons.

    Attributes:
        kind: `identity` adds the source's activations as they are, every `stride`-th row and
            column, with `pad` zero channels on either side; `projection` is a convolution.
        source: name of the layer or pooling that is read.
        conv, bn: names of the projection's convolution and BatchNorm in a checkpoint.
        kernel, padding: of the projection. A 1x1 convolution behind 2x2 average pooling is one 2x2
            convolution with stride 2 whose taps are a quarter of its weight each.
        averaged: whether it is such a one, of which a checkpoint holds the 1x1 convolution.
    """

    kind: Literal["identity", "projection"]
    source: str
    stride: int = 1
    pad: int = 0
    conv: str = ""
    bn: str = ""
    kernel: int = 1
    padding: int = 0
    averaged: bool = False


@dataclass(frozen=True)
class Pool:
    """A pooling of the spikes of one layer, for layers that read it by its name.

    Attributes:
        kind: as in the module's docstring.
        source: name of the layer that is pooled.
        kernel, stride, padding: of `max`; of `average`, which takes the whole area, 0, 1 and 0.
    """

    name: str
    source: str
    kind: Literal["max", "average"] = "max"
    kernel: int = 0
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Layer:
    """One convolution and the neurons behind it.

    Attributes:
        name, bn: names of the convolution and its BatchNorm in a checkpoint.
        source: name of the layer or pooling that the convolution reads, or IMAGE.
        kernel: height and width of the convolution.
        max_pool: whether 3x3 max-pooling with stride 2 follows. Of the first layer alone, whose
            input does not change: it pools the current, so that its neurons are those behind it.
        groups: of the convolution: output channels in as many parts, each reading a part of the
            input channels.
        padding: zero rows and columns on each side; default half the kernel.
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
    groups: int = 1
    padding: int = -1

    def __post_init__(self) -> None:
        if self.padding < 0:
            object.__setattr__(self, "padding", self.kernel // 2)

    @property
    def sources(self) -> tuple[str, ...]:
        """Return what it reads: of its convolution, then of its shortcut."""
        return (self.source,) if self.shortcut is None else (self.source, self.shortcut.source)


@dataclass(frozen=True)
class Topology:
    """A residual network: layers in running order, global average pooling and the classifier `fc`.

    Attributes:
        arch: its name; one of `zoo.networks.architectures` if `named`.
        shortcut: "A" where a shortcut that changes its size is an identity, "B" where it projects.
        stride_in: the convolution of a bottleneck that has the stride.
        stem: neurons for each channel of the stem (`with_stem`).
        pools: poolings of spikes; each runs after the layer that it reads.
        named: whether the other values above say what the layers are. An artifact of a network
            without a name holds its description (`zoo.artifact.config.TopologyConfig`).
    """

    arch: str
    shortcut: Literal["A", "B"]
    in_channels: int
    num_classes: int
    layers: tuple[Layer, ...]
    stride_in: StrideIn = "3x3"
    stem: int = 1
    pools: tuple[Pool, ...] = field(default=(), kw_only=True)
    named: bool = field(default=True, kw_only=True)

    @cached_property
    def output(self) -> str:
        """Name of what the classifier reads: the last layer, or the max-pooling behind it."""
        last = self.layers[-1].name
        return next((pool.name for pool in self.pools if pool.source == last), last)

    @property
    def features(self) -> int:
        """Channels that the classifier reads."""
        return self.layers[-1].out_channels

    @property
    def halves_image(self) -> bool:
        """Whether the stem has a stride, as networks for images of 224 pixels have it."""
        return self.layers[0].stride > 1

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of the image and of the output of each layer and pooling, by name."""
        found = {IMAGE: self.in_channels}
        found |= {layer.name: layer.out_channels for layer in self.layers}
        return found | {pool.name: found[pool.source] for pool in self.pools}

    @cached_property
    def _behind(self) -> dict[str, tuple[Pool, ...]]:
        return {
            layer.name: tuple(pool for pool in self.pools if pool.source == layer.name)
            for layer in self.layers
        }

    def pools_behind(self, layer: str) -> tuple[Pool, ...]:
        """Return the poolings of a layer's spikes."""
        return self._behind[layer]

    def origin(self, source: str) -> str:
        """Return the layer whose neurons `source` is about: of a pooling the one that it reads."""
        return next((pool.source for pool in self.pools if pool.name == source), source)

    @cached_property
    def residual_stream(self) -> frozenset[str]:
        """Names of the layers that later blocks read through shortcuts: the stem and the sums."""
        sums = (layer.name for layer in self.layers if layer.shortcut is not None)
        return frozenset((self.layers[0].name, *sums))

    @cached_property
    def _released(self) -> tuple[tuple[str, ...], ...]:
        last = {IMAGE: 0}
        for index, layer in enumerate(self.layers):
            for name in (*layer.sources, layer.name):
                last[name] = index
            last |= {pool.name: index for pool in self.pools_behind(layer.name)}
        del last[self.output]
        return tuple(
            tuple(name for name, reader in last.items() if reader == index)
            for index in range(len(self.layers))
        )

    def released_after(self, index: int) -> tuple[str, ...]:
        """Return what no layer after the one at `index` reads: layers, poolings and IMAGE.

        What the classifier reads is kept.
        """
        return self._released[index]

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Return height and width of each layer's neurons, and of the output of each pooling.

        Args:
            height, width: of the image.

        Raises:
            UsageError: the image is too small, or one whose sizes do not meet in a shortcut.
        """
        size = {IMAGE: (height, width)}
        for layer in self.layers:
            found = _reduced(size[layer.source], layer.kernel, layer.stride, layer.padding)
            if layer.max_pool:
                found = _reduced(found, 3, 2, 1)
            size[layer.name] = found
            for pool in self.pools_behind(layer.name):
                size[pool.name] = (1, 1)
                if pool.kind == "max":
                    size[pool.name] = _reduced(found, pool.kernel, pool.stride, pool.padding)
            if (
                min(*found, *(n for pool in self.pools_behind(layer.name) for n in size[pool.name]))
                < 1
            ):
                raise UsageError(
                    f"an image of {height}x{width} is too small for {self.arch}: nothing is left "
                    f"of it at {layer.name}"
                )
            side = layer.shortcut
            if side is None:
                continue
            source = size[side.source]
            if side.averaged and side.stride == 2 and (source[0] % 2 or source[1] % 2):
                raise UsageError(
                    f"{self.arch} averages 2x2 pixels in the shortcut of {layer.name}, which "
                    f"reads {source[0]}x{source[1]} for an image of {height}x{width}: use an input "
                    "size that is a multiple of 32"
                )
            if _reduced(source, side.kernel, side.stride, side.padding) != found:
                raise UsageError(
                    f"an image of {height}x{width} does not fit {self.arch}: the shortcut of "
                    f"{layer.name} has another size than its convolution"
                )
        return size

    def checked(self) -> Topology:
        """Return the topology if its layers fit together.

        Raises:
            UsageError: a name that is taken or cannot be a tensor's, a source that does not come
                before its reader, channels that do not meet, or a form that no network here has.
        """
        fault = next(_faults(self), None)
        if fault is not None:
            raise UsageError(f"{self.arch} is no network that can be built: {fault}")
        return self


def _reduced(size: tuple[int, int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    return height, width


def _faults(net: Topology) -> Iterator[str]:
    """Yield what is wrong with a topology, a clause each."""
    if not net.layers or net.layers[0].source != IMAGE or net.layers[0].shortcut is not None:
        yield "its first layer reads the image and nothing else"
        return
    known, average = {IMAGE: net.in_channels}, set[str]()
    names = {layer.name for layer in net.layers}
    if {pool.source for pool in net.pools} - names:
        yield "a pooling reads what is no layer"
        return
    for index, layer in enumerate(net.layers):
        for name in (layer.name, *(pool.name for pool in net.pools_behind(layer.name))):
            parts = name.split(".")
            above = (".".join(parts[:end]) for end in range(1, len(parts)))
            if name in known or parts[0] in _RESERVED or not all(parts):
                yield f"the name {name} is taken or empty"
            if any(
                path in names and name[len(path) + 1 :].split(".")[0] in _TENSORS for path in above
            ):
                yield f"the name {name} is that of a tensor of another layer"
        if any(source not in known or (source == IMAGE and index) for source in layer.sources):
            yield f"{layer.name} reads what does not come before it"
            return
        yield from _layer_faults(layer, known, average, first=index == 0)
        known[layer.name] = layer.out_channels
        behind = net.pools_behind(layer.name)
        for pool in behind:
            known[pool.name] = layer.out_channels
            average |= {pool.name} if pool.kind == "average" else set()
            window = (pool.kernel, pool.stride, pool.padding)
            if pool.kind == "average" and window != (0, 1, 0):
                yield f"{pool.name} averages the whole area, without kernel, stride or padding"
            if pool.kind == "max" and not (
                pool.kernel > 0 and pool.stride > 0 and 0 <= 2 * pool.padding <= pool.kernel
            ):
                yield f"{pool.name} has an impossible kernel, stride or padding"
        if layer is net.layers[-1] and (len(behind) > 1 or any(p.kind != "max" for p in behind)):
            yield "the classifier averages over the area itself, behind at most one max-pooling"


def _layer_faults(
    layer: Layer, known: dict[str, int], average: set[str], *, first: bool
) -> Iterator[str]:
    if known[layer.source] != layer.in_channels:
        yield f"{layer.name} reads {layer.in_channels} channels of {known[layer.source]}"
    if min(layer.out_channels, layer.kernel, layer.stride, layer.groups) < 1:
        yield f"{layer.name} has an impossible convolution"
    elif layer.in_channels % layer.groups or layer.out_channels % layer.groups:
        yield f"{layer.name} has channels that its {layer.groups} groups do not divide"
    if layer.max_pool and not first:
        yield f"{layer.name} pools its current, which changes: the first layer alone does that"
    if layer.source in average and (layer.kernel, layer.stride, layer.padding) != (1, 1, 0):
        yield f"{layer.name} reads an area of one, which a 1x1 convolution does"
    side = layer.shortcut
    if side is None:
        return
    if side.source in average:
        yield f"{layer.name} has a shortcut from an average, which is no spike"
    if min(side.kernel, side.stride) < 1 or min(side.padding, side.pad) < 0:
        yield f"{layer.name} has an impossible shortcut"
    if side.kind == "identity":
        if (side.kernel, side.padding) != (1, 0):
            yield f"{layer.name} has an identity with a kernel"
        if known[side.source] + 2 * side.pad != layer.out_channels:
            yield f"{layer.name} adds {known[side.source]} channels to {layer.out_channels}"


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
        layer.shortcut is not None
        and layer.shortcut.kind == "identity"
        and net.origin(layer.shortcut.source) == first.name
        for layer in net.layers
    ):
        raise UsageError(
            f"{net.arch} adds its stem's output to a sum as it is, so stem={copies} is not "
            "possible: "
            "resnet50 and deeper take it"
        )
    readers = [layer for layer in net.layers[1:] if net.origin(layer.source) == first.name]
    if any(layer.groups > 1 for layer in readers):
        raise UsageError(
            f"{net.arch} reads its stem's output in groups, so stem={copies} is not possible: "
            "leave it out"
        )
    width = copies * first.out_channels
    rest = [
        replace(layer, in_channels=width) if layer in readers else layer for layer in net.layers[1:]
    ]
    return replace(net, layers=(replace(first, out_channels=width), *rest), stem=copies)
