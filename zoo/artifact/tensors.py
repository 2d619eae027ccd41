"""The tensors of an artifact: names, dtypes and shapes, and the network made of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from zoo.artifact.config import (
    Config,
    LayerConfig,
    PoolConfig,
    ShortcutConfig,
    TopologyConfig,
)
from zoo.errors import IntegrityError, UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.architectures import topology
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet, check_name
from zoo.networks.topology import IMAGE, Layer, Pool, Shortcut, Topology, with_stem

_MAX_HEADER_BYTES = 4_000_000


# An ImageNet ResNet-152 at 384 x 384 has 60 million. A neuron takes up to 20 bytes: this bounds
# what a config can ask for.
MAX_NEURONS = 2**26

# What a description can ask for; a ResNet-152 has 2**26.
MAX_WEIGHTS = 2**30


def tensors_of(network: SpikingResNet, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that the artifact of a network holds, by name.

    Args:
        scales: one integer unit of each layer in ANN units, float32 `[C]` by layer.
    """
    tensors = network.state_dict() | {f"{name}.scale": scale for name, scale in scales.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def expected_tensors(
    config: Config, net: Topology
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of every tensor that an artifact with this config holds, by name."""
    integer = config.numerics == "int8"
    small, wide = (torch.int8, torch.int32) if integer else (torch.float32, torch.float32)
    table = torch.int16 if integer else torch.float32
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "image.table": (table, (net.in_channels, 256))
    }
    for layer in net.layers:
        channels, name = layer.out_channels, layer.name
        expected |= {
            f"{name}.weight": (
                small,
                (channels, layer.in_channels // layer.groups, layer.kernel, layer.kernel),
            ),
            f"{name}.bias": (wide, (config.bias_rows, channels)),
            f"{name}.threshold": (wide, (channels,)),
            f"{name}.v_init": (wide, (channels,)),
            f"{name}.scale": (torch.float32, (channels,)),
        }
        if layer.shortcut is not None and layer.shortcut.kind == "identity":
            expected[f"{name}.shortcut.gain"] = (wide, (channels,))
        elif layer.shortcut is not None:
            source, kernel = net.channels[layer.shortcut.source], layer.shortcut.kernel
            expected[f"{name}.shortcut.weight"] = (small, (channels, source, kernel, kernel))
    classes = config.num_classes
    expected["fc.weight"] = (small, (classes, net.features))
    expected |= {f"fc.{part}": (torch.float32, (classes,)) for part in ("scale", "bias")}
    return expected


def network_of(config: Config, tensors: Mapping[str, Tensor]) -> SpikingResNet:
    """Build the network from validated tensors."""
    net = topology_of(config)
    image_bound = int(tensors["image.table"].double().abs().max())
    sizes = net.sizes(*config.preprocess.input_size[1:])
    summed = {
        pool.name: math.prod(sizes[pool.source]) for pool in net.pools if pool.kind == "average"
    }
    layers = {}
    for spec in net.layers:
        shortcut, sums = spec.shortcut, summed.get(spec.source, 1)
        kind = config.neuron_of(spec.name)
        reads = image_bound
        if spec.source != IMAGE:
            reads = sums * config.neuron_of(net.origin(spec.source)).max_level
        side = 1 if shortcut is None else config.neuron_of(net.origin(shortcut.source)).max_level
        layers[spec.name] = SpikingConv(
            weight=tensors[f"{spec.name}.weight"],
            bias=tensors[f"{spec.name}.bias"],
            threshold=tensors[f"{spec.name}.threshold"],
            v_init=tensors[f"{spec.name}.v_init"],
            stride=spec.stride,
            padding=spec.padding,
            neuron=kind.neuron,
            gain=tensors.get(f"{spec.name}.shortcut.gain"),
            projection=tensors.get(f"{spec.name}.shortcut.weight"),
            shortcut_stride=shortcut.stride if shortcut else 1,
            shortcut_pad=shortcut.pad if shortcut else 0,
            max_pool=spec.max_pool,
            input_bound=reads,
            source_bound=side,
            bits=kind.bits,
            groups=spec.groups,
            shortcut_padding=shortcut.padding if shortcut else 0,
            summed=sums,
        )
    head = Head(weight=tensors["fc.weight"], scale=tensors["fc.scale"], bias=tensors["fc.bias"])
    return SpikingResNet(
        net,
        layers,
        head,
        tensors["image.table"],
        schedule=config.schedule,
        delay=config.readout_delay,
        scales={spec.name: tensors[f"{spec.name}.scale"] for spec in net.layers},
        config=config,
    )


def topology_of(config: Config) -> Topology:
    """Return the topology that a config names.

    Raises IntegrityError when there is no such network, or it is too large to run.
    """
    channels, height, width = config.preprocess.input_size
    try:
        if config.topology is not None:
            net = described(config.topology, config)
        else:
            net = topology(
                config.arch,
                num_classes=config.num_classes,
                in_channels=channels,
                shortcut=config.shortcut,
                stride_in=config.stride_in,
                stem=config.stem,
            )
        sizes = net.sizes(height, width)
    except UsageError as error:
        raise IntegrityError(f"config.json: {error}") from error
    if config.neurons is not None and list(config.neurons) != [spec.name for spec in net.layers]:
        raise IntegrityError(
            f"config.json: `neurons` must name the layers of {config.arch} in running order: fetch "
            "the artifact again"
        )
    neurons = sum(
        layer.out_channels * sizes[layer.name][0] * sizes[layer.name][1] for layer in net.layers
    )
    if neurons > MAX_NEURONS:
        raise IntegrityError(
            f"config.json: {config.arch} at {height} x {width} has {neurons} neurons, at most "
            f"{MAX_NEURONS} are run: "
            "choose a smaller input size"
        )
    return net


def description(net: Topology) -> TopologyConfig | None:
    """Return what config.json says of the layers: None where the network's name says it.

    Args:
        net: without copies of its stem's channels (`zoo.networks.topology.with_stem`).
    """
    if net.named:
        return None

    def shortcut(side: Shortcut) -> ShortcutConfig:
        return ShortcutConfig(
            kind=side.kind,
            source=side.source,
            stride=side.stride,
            pad=side.pad,
            kernel=side.kernel,
            padding=side.padding,
        )

    return TopologyConfig(
        layers=[
            LayerConfig(
                name=layer.name,
                source=layer.source,
                channels=layer.out_channels,
                kernel=layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
                max_pool=layer.max_pool,
                shortcut=None if layer.shortcut is None else shortcut(layer.shortcut),
            )
            for layer in net.layers
        ],
        pools=[
            PoolConfig(
                name=pool.name,
                source=pool.source,
                kind=pool.kind,
                kernel=pool.kernel,
                stride=pool.stride,
                padding=pool.padding,
            )
            for pool in net.pools
        ],
    )


def described(stated: TopologyConfig, config: Config) -> Topology:
    """Return the topology that a config describes.

    Raises:
        UsageError: its layers do not fit together, or their weights pass MAX_WEIGHTS.
    """
    channels = {IMAGE: config.preprocess.input_size[0]}
    layers = []
    for layer in stated.layers:
        # What it reads is checked below, with everything else.
        width = channels.get(layer.source, 1)
        channels[layer.name] = layer.channels
        channels |= {
            pool.name: layer.channels for pool in stated.pools if pool.source == layer.name
        }
        side = layer.shortcut
        layers.append(
            Layer(
                layer.name,
                "",
                layer.source,
                width,
                layer.channels,
                layer.kernel,
                layer.stride,
                None if side is None else Shortcut(**side.model_dump()),
                layer.max_pool,
                layer.groups,
                layer.padding,
            )
        )
    net = Topology(
        config.arch,
        config.shortcut,
        channels[IMAGE],
        config.num_classes,
        tuple(layers),
        config.stride_in,
        pools=tuple(Pool(**pool.model_dump()) for pool in stated.pools),
        named=False,
    ).checked()
    for spec in net.layers:
        check_name(spec.name)
    weights = sum(_weights(net, layer) for layer in net.layers)
    if weights > MAX_WEIGHTS:
        raise UsageError(f"{net.arch} has {weights} weights, at most {MAX_WEIGHTS} are run")
    return with_stem(net, config.stem)


def _weights(net: Topology, layer: Layer) -> int:
    inputs, side = layer.in_channels // layer.groups * layer.kernel**2, layer.shortcut
    if side is not None and side.kind == "projection":
        inputs += net.channels[side.source] * side.kernel**2
    return layer.out_channels * inputs


def weights_limit(config: Config) -> int:
    """Return the most bytes that model.safetensors of such an artifact may have."""
    expected = expected_tensors(config, topology_of(config))
    return (
        sum(dtype.itemsize * _numel(shape) for dtype, shape in expected.values())
        + _MAX_HEADER_BYTES
    )


def _numel(shape: Iterable[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
