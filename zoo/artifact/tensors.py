"""The tensors of an artifact: names, dtypes and shapes, and the network made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from zoo.artifact.config import Config
from zoo.errors import IntegrityError, UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Topology, topology

_MAX_HEADER_BYTES = 4_000_000


# An ImageNet ResNet-152 at 384 x 384 has 60 million. A neuron takes up to 20 bytes: this bounds
# what a config can ask for.
MAX_NEURONS = 2**26


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
            f"{name}.weight": (small, (channels, layer.in_channels, layer.kernel, layer.kernel)),
            f"{name}.bias": (wide, (config.bias_rows, channels)),
            f"{name}.threshold": (wide, (channels,)),
            f"{name}.v_init": (wide, (channels,)),
            f"{name}.scale": (torch.float32, (channels,)),
        }
        if layer.shortcut is not None and layer.shortcut.kind == "identity":
            expected[f"{name}.shortcut.gain"] = (wide, (channels,))
        elif layer.shortcut is not None:
            source = net.channels[layer.shortcut.source]
            expected[f"{name}.shortcut.weight"] = (small, (channels, source, 1, 1))
    classes = config.num_classes
    expected["fc.weight"] = (small, (classes, net.features))
    expected |= {f"fc.{part}": (torch.float32, (classes,)) for part in ("scale", "bias")}
    return expected


def network_of(config: Config, tensors: Mapping[str, Tensor]) -> SpikingResNet:
    """Build the network from validated tensors."""
    net = topology_of(config)
    image_bound = int(tensors["image.table"].double().abs().max())
    layers = {}
    for spec in net.layers:
        shortcut = spec.shortcut
        layers[spec.name] = SpikingConv(
            weight=tensors[f"{spec.name}.weight"],
            bias=tensors[f"{spec.name}.bias"],
            threshold=tensors[f"{spec.name}.threshold"],
            v_init=tensors[f"{spec.name}.v_init"],
            stride=spec.stride,
            padding=spec.padding,
            neuron=config.neuron,
            gain=tensors.get(f"{spec.name}.shortcut.gain"),
            projection=tensors.get(f"{spec.name}.shortcut.weight"),
            shortcut_stride=shortcut.stride if shortcut else 1,
            shortcut_pad=shortcut.pad if shortcut else 0,
            max_pool=spec.max_pool,
            input_bound=image_bound if spec.source == IMAGE else 2**config.spike_bits - 1,
            bits=config.spike_bits,
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
    try:
        net = topology(
            config.arch,
            num_classes=config.num_classes,
            in_channels=config.preprocess.input_size[0],
            shortcut=config.shortcut,
            stride_in=config.stride_in,
            stem=config.stem,
        )
    except UsageError as error:
        raise IntegrityError(f"config.json: {error}") from error
    _, height, width = config.preprocess.input_size
    sizes = net.sizes(height, width)
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
