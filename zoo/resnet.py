"""Residual networks as data: one description from which the ANN and the spiking network are both built.

A topology is the list of its spiking layers in the order in which they run. A layer is one convolution, its BatchNorm, at
most one shortcut that ends in the same neurons, and the ReLU (ANN) or integrate-and-fire neuron (SNN) behind them. Names
follow torchvision (`conv1`, `layer1.0.conv1`, `layer1.0.downsample.0`, `fc`), so a checkpoint's keys are a layer's keys.

CIFAR form: He et al. 2015 (arXiv:1512.03385) section 4.2, three stages of 16, 32 and 64 channels; shortcut "A" is the strided,
zero-padded identity, "B" a 1x1 projection. ImageNet form: the same paper's table 1, with the stride of a bottleneck in its 3x3
convolution (torchvision's and timm's "v1.5"), or in its first 1x1 convolution (the paper's own, "v1").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.quantise import Quantise, quantise

IMAGE = "image"

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

    `identity`: the source's activations times one, every `stride`-th row and column, with `pad` zero channels on either side.
    `projection`: a 1x1 convolution `conv` with BatchNorm `bn`.
    """

    kind: Literal["identity", "projection"]
    source: str
    stride: int = 1
    pad: int = 0
    conv: str = ""
    bn: str = ""


@dataclass(frozen=True)
class Layer:
    """One convolution and the neurons behind it; `name` is the convolution's name in a checkpoint."""

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
    """A residual network: its layers in running order, then global average pooling and the classifier `fc`.

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
        return self.layers[-1].out_channels

    @cached_property
    def channels(self) -> dict[str, int]:
        """Channels of each layer's output, by name, and of the image."""
        return {IMAGE: self.in_channels, **{layer.name: layer.out_channels for layer in self.layers}}

    def last_reader(self) -> dict[str, int]:
        """Index of the last layer that reads each layer's output, so that an executor can free it."""
        readers = {name: index for index, name in enumerate(self.channels, start=-1)}
        for index, layer in enumerate(self.layers):
            readers[layer.source] = index
            if layer.shortcut is not None:
                readers[layer.shortcut.source] = max(readers[layer.shortcut.source], index)
        return readers

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Height and width of each layer's neurons for an image of `height` x `width`."""
        size = {IMAGE: (height, width)}
        for layer in self.layers:
            h, w = ((n + 2 * layer.padding - layer.kernel) // layer.stride + 1 for n in size[layer.source])
            size[layer.name] = ((h + 1) // 2, (w + 1) // 2) if layer.max_pool else (h, w)
        return size


def topology(
    arch: str, *, num_classes: int = 10, in_channels: int = 3, shortcut: Literal["A", "B"] | None = None,
    stride_in: StrideIn = "3x3", stem: int = 1,
) -> Topology:  # fmt: skip
    """The description of `arch` (one of ARCHITECTURES), with `stem` neurons for each channel of its stem.

    `shortcut` is "A" (the default) or "B" for the CIFAR form; the ImageNet form always projects. `stride_in` says which
    convolution of a bottleneck has the stride; weights do not tell.
    Raises UsageError for an unknown name, or for a shortcut, stride or stem the form does not have.
    """
    if stride_in == "1x1" and _IMAGENET_BLOCKS.get(arch, ("basic",))[0] != "bottleneck":
        raise UsageError(f"{arch} has no bottlenecks, whose stride could be in a 1x1 convolution: leave --stride-in out")
    if arch in _CIFAR_BLOCKS:
        if shortcut not in (None, "A", "B"):
            raise UsageError(f"shortcut {shortcut!r} does not exist: use A (zero padding) or B (projection)")
        builder = _Builder(in_channels)
        builder.stem(16, kernel=3, stride=1, max_pool=False)
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range(_CIFAR_BLOCKS[arch]):
                stride = 2 if stage > 1 and block == 0 else 1
                builder.basic(f"layer{stage}.{block}", channels, stride, project=shortcut == "B")
        return with_stem(Topology(arch, shortcut or "A", in_channels, num_classes, tuple(builder.layers)), stem)
    if arch in _IMAGENET_BLOCKS:
        if shortcut not in (None, "B"):
            raise UsageError(f"{arch} has projection shortcuts: leave --shortcut out or pass B")
        kind, blocks = _IMAGENET_BLOCKS[arch]
        builder = _Builder(in_channels, stride_in)
        builder.stem(64, kernel=7, stride=2, max_pool=True)
        for stage, count in enumerate(blocks, start=1):
            for block in range(count):
                stride = 2 if stage > 1 and block == 0 else 1
                add = builder.basic if kind == "basic" else builder.bottleneck
                add(f"layer{stage}.{block}", 32 * 2**stage, stride, project=True)
        return with_stem(Topology(arch, "B", in_channels, num_classes, tuple(builder.layers), stride_in), stem)
    raise UsageError(f"architecture {arch!r} is unknown: use one of {', '.join(ARCHITECTURES)}")


def with_stem(net: Topology, copies: int) -> Topology:
    """The network with `copies` neurons for each channel of its stem (`zoo.stem`), copy after copy.

    Raises UsageError where a shortcut adds the stem's output to a sum as it is: it has no weights that could share it out.
    """
    if copies == 1:
        return net
    first = net.layers[0]
    if any(layer.shortcut and (layer.shortcut.kind, layer.shortcut.source) == ("identity", first.name) for layer in net.layers):
        raise UsageError(
            f"{net.arch} adds its stem's output to a sum as it is, so stem={copies} is not possible: resnet50 and deeper take it"
        )
    width = copies * first.out_channels
    rest = [replace(layer, in_channels=width) if layer.source == first.name else layer for layer in net.layers[1:]]
    return replace(net, layers=(replace(first, out_channels=width), *rest), stem=copies)


class _Builder:
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
                "projection", self.source, stride, conv=f"{block}.downsample.0", bn=f"{block}.downsample.1"
            )
        return Shortcut("identity", self.source, stride, pad=(channels - self.width) // 2)

    def _conv(
        self, name: str, bn: str, channels: int, kernel: int, stride: int,
        shortcut: Shortcut | None = None, *, max_pool: bool = False,
    ) -> None:  # fmt: skip
        self.layers.append(Layer(name, bn, self.source, self.width, channels, kernel, stride, shortcut, max_pool))
        self.source, self.width = name, channels


def identity_shortcut(x: Tensor, shortcut: Shortcut) -> Tensor:
    """The source's activations [B, C, H, W] as an identity shortcut delivers them: strided, then padded with zero channels."""
    x = x[:, :, :: shortcut.stride, :: shortcut.stride]
    return F.pad(x, (0, 0, 0, 0, shortcut.pad, shortcut.pad)) if shortcut.pad else x


Visitor = Callable[[Layer, Tensor], Tensor]
Watcher = Callable[[str, Tensor], None]


def ann_forward(
    net: Topology, params: Mapping[str, Tensor], image: Tensor, visit: Visitor | None = None, watch: Watcher | None = None
) -> Tensor:
    """Logits [B, classes] of the ANN with folded BatchNorm.

    Args:
        params: `{layer}.weight`, `{layer}.bias`, `{layer}.shortcut.weight` for projections, `fc.weight`, `fc.bias`; float. With
            `levels` (one value) and `{layer}.threshold`, activations are quantised.
        image: normalised float image [B, C, H, W].
        visit: called with each layer and its pre-activation [B, C, H, W] (for the stem, after max-pooling); what it returns is
            the layer's activation. Without it that is `activate`.
        watch: called with the name of each convolution's parameters, `{layer}` or `{layer}.shortcut`, and what it delivers.
    """
    out = {IMAGE: image}
    last = net.last_reader()
    for index, layer in enumerate(net.layers):
        z = preactivation(layer, params, out[layer.source], out[layer.shortcut.source] if layer.shortcut else None, watch)
        out[layer.name] = activate(layer, params, z) if visit is None else visit(layer, z)
        for name in [name for name in out if last[name] <= index and name != net.layers[-1].name]:
            del out[name]
    pooled = out[net.layers[-1].name].mean((2, 3))
    return F.linear(pooled, params["fc.weight"], params["fc.bias"])


def activate(layer: Layer, params: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """The ANN's activation: ReLU, or what the network was trained with in its place (`zoo.quantise`)."""
    if "levels" in params:
        return quantise(z, params[f"{layer.name}.threshold"], int(params["levels"].item()))
    return F.relu(z)


def preactivation(
    layer: Layer, params: Mapping[str, Tensor], x: Tensor, source: Tensor | None, watch: Watcher | None = None
) -> Tensor:
    """What reaches the ReLU of one layer, [B, C, H, W]: convolution, bias, shortcut from `source`, and the stem's max-pooling."""
    z = F.conv2d(x, params[f"{layer.name}.weight"], params[f"{layer.name}.bias"], layer.stride, layer.padding)
    if watch is not None:
        watch(layer.name, z)
    if layer.shortcut is not None and source is not None:
        if layer.shortcut.kind == "projection":
            side = F.conv2d(source, params[f"{layer.name}.shortcut.weight"], None, layer.shortcut.stride)
            if watch is not None:
                watch(f"{layer.name}.shortcut", side)
            z = z + side
        else:
            z = z + identity_shortcut(source, layer.shortcut)
    return F.max_pool2d(z, 3, 2, 1) if layer.max_pool else z


class ResNet(nn.Module):
    """The trainable ANN of a topology, with BatchNorm; its state_dict has torchvision's keys.

    With `levels`, each ReLU is the quantised activation of `zoo.quantise`, with a learnt `{layer}.log_threshold` [C].
    """

    def __init__(self, net: Topology, levels: int = 0) -> None:
        super().__init__()
        self.topology, self.levels = net, levels
        for layer in net.layers:
            _add(
                self, layer.name,
                nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding, bias=False),
            )  # fmt: skip
            _add(self, layer.bn, nn.BatchNorm2d(layer.out_channels))
            if levels:
                # Four standard deviations of what BatchNorm delivers at first.
                threshold = nn.Parameter(torch.full((layer.out_channels,), math.log(4.0)))
                self.get_submodule(layer.name).register_parameter("log_threshold", threshold)
            if layer.shortcut is not None and layer.shortcut.kind == "projection":
                width = net.channels[layer.shortcut.source]
                _add(
                    self, layer.shortcut.conv,
                    nn.Conv2d(width, layer.out_channels, 1, layer.shortcut.stride, bias=False),
                )  # fmt: skip
                _add(self, layer.shortcut.bn, nn.BatchNorm2d(layer.out_channels))
        self.fc = nn.Linear(net.features, net.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor, visit: Visitor | None = None) -> Tensor:
        """Logits [B, classes] of a normalised image [B, C, H, W]; `visit` as in `ann_forward`."""
        out = {IMAGE: image}
        for layer in self.topology.layers:
            z = self.get_submodule(layer.bn)(self.get_submodule(layer.name)(out[layer.source]))
            if layer.shortcut is not None:
                x = out[layer.shortcut.source]
                if layer.shortcut.kind == "projection":
                    z = z + self.get_submodule(layer.shortcut.bn)(self.get_submodule(layer.shortcut.conv)(x))
                else:
                    z = z + identity_shortcut(x, layer.shortcut)
            if layer.max_pool:
                z = F.max_pool2d(z, 3, 2, 1)
            out[layer.name] = self._activate(layer, z) if visit is None else visit(layer, z)
        last = out[self.topology.layers[-1].name]
        # Unlike that of mean, its gradient has the memory layout of what it pools.
        return self.fc(F.avg_pool2d(last, last.shape[2:]).flatten(1))

    def _activate(self, layer: Layer, z: Tensor) -> Tensor:
        if not self.levels:
            return F.relu(z)
        activation: Tensor = Quantise.apply(z, self.get_submodule(layer.name).log_threshold, self.levels)
        return activation


def _add(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def fold_batchnorm(net: Topology, state: Mapping[str, Tensor], eps: float = 1e-5) -> dict[str, Tensor]:
    """Folds each BatchNorm into its convolution: W' = W * g, b' = beta - mean * g with g = gamma / sqrt(var + eps).

    Takes a state dict with torchvision's keys; a convolution without BatchNorm keeps its weight and own bias (checkpoints whose
    authors folded it already). Returns the parameters `ann_forward` takes, float32; a projection's bias joins the layer's. Levels
    and thresholds of a quantised activation pass as they are.
    """
    params: dict[str, Tensor] = {}

    def fold(conv: str, bn: str) -> tuple[Tensor, Tensor]:
        weight = state[f"{conv}.weight"].double()
        bias = state.get(f"{conv}.bias", torch.zeros(len(weight))).double()
        if f"{bn}.running_mean" in state:
            gamma, beta = state[f"{bn}.weight"].double(), state[f"{bn}.bias"].double()
            gain = gamma / torch.sqrt(state[f"{bn}.running_var"].double() + eps)
            weight = weight * gain[:, None, None, None]
            bias = beta + (bias - state[f"{bn}.running_mean"].double()) * gain
        return weight, bias

    for layer in net.layers:
        weight, bias = fold(layer.name, layer.bn)
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            projection, extra = fold(layer.shortcut.conv, layer.shortcut.bn)
            params[f"{layer.name}.shortcut.weight"] = projection.float()
            bias = bias + extra
        params[f"{layer.name}.weight"], params[f"{layer.name}.bias"] = weight.float(), bias.float()
    for name in state:
        if name == "levels" or name.endswith(".threshold"):
            params[name] = state[name].float()
    params["fc.weight"], params["fc.bias"] = state["fc.weight"].float(), state["fc.bias"].float()
    return params


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation [C], float32, of what a convolution delivered on the training images."""

    mean: Tensor
    std: Tensor


def recorded_moments(
    net: Topology, state: Mapping[str, Tensor], params: Mapping[str, Tensor], eps: float = 1e-5
) -> dict[str, Moments] | None:
    """What BatchNorm's running statistics say of each convolution of `params`, by the names that `ann_forward` watches.

    Takes the state dict that `fold_batchnorm` made `params` from: with g = gamma / sqrt(var + eps), a folded convolution without
    its bias has mean (running_mean - own bias) g and standard deviation sqrt(var) |g|. None where a convolution has no BatchNorm,
    or where all statistics are those that BatchNorm begins with, 0 and 1.
    """
    found: dict[str, Moments] = {}
    fresh = True
    for layer in net.layers:
        pairs = [(layer.name, layer.name, layer.bn)]
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            pairs.append((f"{layer.name}.shortcut", layer.shortcut.conv, layer.shortcut.bn))
        for name, conv, bn in pairs:
            if f"{bn}.running_mean" not in state:
                return None
            center, var = state[f"{bn}.running_mean"].double(), state[f"{bn}.running_var"].double()
            fresh = fresh and not center.any() and bool((var == 1).all())
            gain = state[f"{bn}.weight"].double() / torch.sqrt(var + eps)
            mean = (center - state.get(f"{conv}.bias", torch.zeros(len(var))).double()) * gain
            if f"{name}.bias" in params:
                mean = mean + params[f"{name}.bias"].double()
            found[name] = Moments(mean.float(), (var.sqrt() * gain.abs()).float())
    return None if fresh else found
