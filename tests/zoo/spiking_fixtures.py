"""Shared by tests: an independent integer reference in numpy, random networks, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.errors import ZooError
from zoo.kernels.neuron import NeuronKind
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.resnet import ResNet
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Layer, Pool, Shortcut, Topology

# A quick conversion of 8 x 8 digits, for tests that need one but not a good one.
QUICK = {"mean": (0.3053,), "std": (0.3763,), "input_size": 8, "timesteps": 8, "samples": 32}


def naive_conv(
    x: np.ndarray, weight: np.ndarray, stride: int, padding: int, groups: int = 1
) -> np.ndarray:
    """[B, Cout, H, W] in int64: one product of matrices for each position of the kernel."""
    if groups > 1:
        pairs = zip(np.split(x, groups, 1), np.split(weight, groups), strict=True)
        return np.concatenate([naive_conv(*pair, stride, padding) for pair in pairs], 1)
    x, weight = x.astype(np.int64), weight.astype(np.int64)
    kernel = weight.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = ((n - kernel) // stride + 1 for n in x.shape[2:])
    out = np.zeros((len(x), len(weight), height, width), np.int64)
    for dy in range(kernel):
        for dx in range(kernel):
            seen = x[:, :, dy : dy + stride * height : stride, dx : dx + stride * width : stride][
                ..., :height, :width
            ]
            out += np.einsum("bchw,oc->bohw", seen, weight[:, :, dy, dx])
    return out


def naive_pool(x: np.ndarray, kernel: int = 3, stride: int = 2, padding: int = 1) -> np.ndarray:
    """Max-pooling, 3x3 with stride 2 by default; the border never wins."""
    border = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x = np.pad(x, border, constant_values=np.iinfo(np.int64).min)
    height, width = ((n - kernel) // stride + 1 for n in x.shape[2:])
    windows = [
        x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
        for i in range(kernel)
        for j in range(kernel)
    ]
    return np.max([window[..., :height, :width] for window in windows], 0)


def naive_spike_pool(spikes: np.ndarray, pool: Pool) -> np.ndarray:
    """What a pooling makes of spikes [T, B, C, H, W], by the definition of its kind."""
    if pool.kind == "average":
        return spikes.sum((3, 4), keepdims=True)
    counts = np.cumsum(spikes, 0)
    peaks = np.stack([naive_pool(n, pool.kernel, pool.stride, pool.padding) for n in counts])
    return np.diff(peaks, axis=0, prepend=np.zeros_like(peaks[:1]))


def naive_current(layer: SpikingConv, x: np.ndarray, source: np.ndarray | None) -> np.ndarray:
    """Current of one timestep without bias, int64 [B, Cout, H, W]."""
    current = naive_conv(x, layer.weight.numpy(), layer.stride, layer.padding, layer.groups)
    if layer.max_pool:
        current = naive_pool(current)
    if source is not None and layer.projection is not None:
        reach = layer.shortcut_stride, layer.shortcut_padding
        current += naive_conv(source, layer.projection.numpy(), *reach)
    elif source is not None:
        assert layer.gain is not None
        for c in range(source.shape[1]):
            strided = source[:, c, :: layer.shortcut_stride, :: layer.shortcut_stride].astype(
                np.int64
            )
            current[:, c + layer.shortcut_pad] += strided * int(layer.gain[c + layer.shortcut_pad])
    return current


def naive_bias(layer: SpikingConv, t: int) -> np.ndarray:
    return layer.bias[min(t, len(layer.bias) - 1)].numpy().astype(np.int64)[:, None, None]


class NaiveNeurons:
    """Integrate-and-fire neurons on currents [B, C, H, W] in int64."""

    def __init__(self, layer: SpikingConv, shape: tuple[int, ...]) -> None:
        self.layer = layer
        self.threshold = layer.threshold.numpy().astype(np.int64)[:, None, None]
        self.v = np.zeros(shape, np.int64) + layer.v_init.numpy().astype(np.int64)[:, None, None]
        self.sum = np.zeros(shape, np.int64)

    def step(self, current: np.ndarray | int) -> np.ndarray:
        self.v = self.v + current
        spike = (self.v >= self.threshold).astype(np.int64)
        if self.layer.neuron == "multi-level":
            spike = np.clip(self.v // self.threshold, 0, self.layer.max_level)
        if self.layer.neuron == "signed":
            spike[(self.v < 0) & (self.sum > 0)] = -1
        self.v -= spike * self.threshold
        self.sum += spike
        return spike


def naive_run(
    layer: SpikingConv, x: np.ndarray, source: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Spikes [T, B, C, H, W] and the last potential of a layer for inputs [T, B, Cin, H, W]."""
    neurons, spikes = None, []
    for t in range(len(x)):
        current = naive_current(layer, x[t], None if source is None else source[t]) + naive_bias(
            layer, t
        )
        neurons = neurons or NaiveNeurons(layer, current.shape)
        spikes.append(neurons.step(current))
    assert neurons is not None
    return np.stack(spikes), neurons.v


def naive_network(network: SpikingResNet, images: Tensor, timesteps: int) -> dict[str, np.ndarray]:
    """Spikes [T, B, C, H, W] of every layer.

    Layerwise: of T steps that only accumulate, the T that fire.
    """
    table = network.image_table.numpy().astype(np.int64)
    image = np.stack([table[c][images[:, c].numpy()] for c in range(images.shape[1])], 1)
    out = {IMAGE: np.repeat(image[None], timesteps, 0)}
    for spec in network.topology.layers:
        layer, x = network.layers[spec.name], out[spec.source]
        source = out[spec.shortcut.source] if spec.shortcut else None
        if network.schedule == "causal":
            out[spec.name] = naive_run(layer, x, source)[0]
        else:
            currents = [
                naive_current(layer, x[t], None if source is None else source[t])
                + naive_bias(layer, t)
                for t in range(timesteps)
            ]
            neurons = NaiveNeurons(layer, currents[0].shape)
            neurons.v = neurons.v + np.sum(currents, 0)
            out[spec.name] = np.stack([neurons.step(0) for _ in range(timesteps)])
        for pool in network.topology.pools_behind(spec.name):
            out[pool.name] = naive_spike_pool(out[spec.name], pool)
    return {spec.name: out[spec.name] for spec in network.topology.layers}


def tiny_topology(form: str) -> Topology:
    """Return a topology with every kind of layer there is.

    `cifar` has both option-A identities, `imagenet` a max-pooled 7x7 stem, a bottleneck with a
    strided projection, and one with an identity; `v1` has that bottleneck's stride in its first
    convolution. `deep` has a stem of three convolutions whose spikes are max-pooled, a convolution
    in groups and a 2x2 projection that averages, `head` a hidden fully connected layer, with a
    shortcut, behind the average over the area.
    """
    if form in ("deep", "head"):
        return _deep_topology() if form == "deep" else _head_topology()
    if form == "cifar":
        layers = (
            Layer("conv1", "bn1", IMAGE, 1, 4, 3),
            Layer("layer1.0.conv1", "layer1.0.bn1", "conv1", 4, 4, 3),
            Layer(
                "layer1.0.conv2",
                "layer1.0.bn2",
                "layer1.0.conv1",
                4,
                4,
                3,
                1,
                Shortcut("identity", "conv1"),
            ),
            Layer("layer2.0.conv1", "layer2.0.bn1", "layer1.0.conv2", 4, 8, 3, 2),
            Layer(
                "layer2.0.conv2",
                "layer2.0.bn2",
                "layer2.0.conv1",
                8,
                8,
                3,
                1,
                Shortcut("identity", "layer1.0.conv2", 2, pad=2),
            ),
        )
        return Topology("tiny", "A", 1, 3, layers)
    first, second = "layer1.0", "layer1.1"
    strides = (2, 1) if form == "v1" else (1, 2)
    projection = Shortcut(
        "projection", "conv1", 2, conv=f"{first}.downsample.0", bn=f"{first}.downsample.1"
    )
    layers = (
        Layer("conv1", "bn1", IMAGE, 3, 6, 7, 2, max_pool=True),
        Layer(f"{first}.conv1", f"{first}.bn1", "conv1", 6, 4, 1, strides[0]),
        Layer(f"{first}.conv2", f"{first}.bn2", f"{first}.conv1", 4, 4, 3, strides[1]),
        Layer(f"{first}.conv3", f"{first}.bn3", f"{first}.conv2", 4, 9, 1, 1, projection),
        Layer(f"{second}.conv1", f"{second}.bn1", f"{first}.conv3", 9, 4, 1),
        Layer(f"{second}.conv2", f"{second}.bn2", f"{second}.conv1", 4, 4, 3),
        Layer(
            f"{second}.conv3",
            f"{second}.bn3",
            f"{second}.conv2",
            4,
            9,
            1,
            1,
            Shortcut("identity", f"{first}.conv3"),
        ),
    )
    return Topology("tiny", "B", 3, 4, layers)


def _deep_topology() -> Topology:
    averaged = Shortcut(
        "projection",
        "maxpool",
        2,
        conv="layer1.0.downsample.1",
        bn="layer1.0.downsample.2",
        kernel=2,
        averaged=True,
    )
    layers = (
        Layer("conv1.0", "conv1.1", IMAGE, 3, 4, 3, 2),
        Layer("conv1.3", "conv1.4", "conv1.0", 4, 6, 3),
        Layer("layer1.0.conv1", "layer1.0.bn1", "maxpool", 6, 8, 1),
        Layer("layer1.0.conv2", "layer1.0.bn2", "layer1.0.conv1", 8, 8, 3, 2, groups=4),
        Layer("layer1.0.conv3", "layer1.0.bn3", "layer1.0.conv2", 8, 9, 1, 1, averaged),
    )
    pools = (Pool("maxpool", "conv1.3", "max", 3, 2, 1),)
    return Topology("tiny", "B", 3, 4, layers, pools=pools)


def _head_topology() -> Topology:
    layers = (
        Layer("body.conv1", "body.bn1", IMAGE, 3, 5, 3),
        Layer("body.conv2", "body.bn2", "body.conv1", 5, 8, 3),
        Layer("top.0", "", "area", 8, 6, 1),
        Layer("top.2", "", "top.0", 6, 6, 1, 1, Shortcut("identity", "top.0")),
    )
    pools = (Pool("half", "body.conv1", "max", 2, 2), Pool("area", "body.conv2", "average"))
    layers = (layers[0], replace(layers[1], source="half"), *layers[2:])
    return Topology("tiny", "B", 3, 4, layers, pools=pools, named=False)


def random_network(
    net: Topology, *, neuron: str = "if", schedule: str = "causal", seed: int = 0
) -> SpikingResNet:
    """Return an integer network whose layers all fire, none of them always.

    Graded spikes have 4 bits; `mixed` has a kind of neuron for each layer in turn.
    """
    gen = torch.Generator().manual_seed(seed)
    kinds = [NeuronKind("multi-level", 2), NeuronKind(), NeuronKind("multi-level", 5)]
    kinds += [NeuronKind("signed"), NeuronKind("multi-level", 4), NeuronKind()]
    if neuron != "mixed":
        kinds = [NeuronKind(neuron, 4 if neuron == "multi-level" else 1)]
    names = [spec.name for spec in net.layers]
    neurons = dict(zip(names, itertools.cycle(kinds), strict=False))

    def kind(source: str) -> NeuronKind:
        return neurons[net.origin(source)]

    def draw(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=gen).to(dtype)

    layers = {}
    averages = {pool.name for pool in net.pools if pool.kind == "average"}
    for spec in net.layers:
        stem, c = spec.source == IMAGE, spec.out_channels
        gain = projection = None
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            side = spec.shortcut
            shape = (c, net.channels[side.source], side.kernel, side.kernel)
            projection = draw(-127, 127, *shape, dtype=torch.int8)
        elif spec.shortcut is not None:
            gain = draw(1, 150, c)
        summed = 9 if spec.source in averages else 1  # of 3x3 pixels at most
        inputs = spec.in_channels // spec.groups
        size = int(127 * (inputs * spec.kernel**2 * summed) ** 0.5 * (100 if stem else 1))
        threshold = draw(size // 3, size, c)
        layers[spec.name] = SpikingConv(
            draw(-127, 127, c, inputs, spec.kernel, spec.kernel, dtype=torch.int8),
            draw(-size // 8, size // 3, 1 if stem else 3, c),
            threshold,
            threshold // 2,
            spec.stride,
            spec.padding,
            neurons[spec.name].neuron,
            gain,
            projection,
            spec.shortcut.stride if spec.shortcut else 1,
            spec.shortcut.pad if spec.shortcut else 0,
            spec.max_pool,
            input_bound=512 if stem else summed * kind(spec.source).max_level,
            source_bound=kind(spec.shortcut.source).max_level if spec.shortcut else 1,
            bits=neurons[spec.name].bits,
            groups=spec.groups,
            shortcut_padding=spec.shortcut.padding if spec.shortcut else 0,
            summed=summed,
        )
    head = Head(
        draw(-127, 127, net.num_classes, net.features, dtype=torch.int8),
        torch.rand(net.num_classes, generator=gen) + 0.01,
        torch.randn(net.num_classes, generator=gen),
    )
    table = draw(-512, 512, net.in_channels, 256, dtype=torch.int16)
    return SpikingResNet(net, layers, head, table, schedule=schedule)


def random_pixels(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(seed)
    ).to(torch.uint8)


def random_model(net: Topology, seed: int = 0) -> ResNet:
    """An ANN in eval mode whose BatchNorms all differ from the identity."""
    torch.manual_seed(seed)
    model = ResNet(net)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.5, 2)):
                torch.nn.init.uniform_(values, low, high)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
    return model.eval()


def image_set(folder: Path, pixels: Tensor, labels: list[int] | None) -> ImageSet:
    """An ImageSet of uint8 [B, C, H, W]; without labels they are -1, as in an unlabelled split."""
    path = folder / f"set{len(list(folder.iterdir()))}.npz"
    arrays = {"x": pixels.permute(0, 2, 3, 1).numpy()}
    np.savez(
        path, **arrays, y=np.zeros(len(pixels), np.int64) if labels is None else np.array(labels)
    )
    images = open_images(path, "test")
    return images if labels is not None else replace(images, labels=np.full(len(pixels), -1))


def files_of(folder: Path) -> Mapping[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def refuses(
    error: type[ZooError] | tuple[type[ZooError], ...], match: str | None = None
) -> Iterator[None]:
    """Assert that the block raises `error`, with one line that names a way out behind a colon."""
    with pytest.raises(ZooError, match=match) as caught:
        yield
    assert type(caught.value) in (error if isinstance(error, tuple) else (error,)), repr(
        caught.value
    )
    message = str(caught.value)
    assert "\n" not in message and ": " in message, message
