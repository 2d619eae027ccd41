"""Networks in NIR, the neuromorphic intermediate representation (neuroir.org).

It is for other frameworks and for chips.

NIR has convolutions, integrate-and-fire neurons and sums of edges, all of them the same at every
timestep. What differs by timestep here goes in through the input: behind the image's channels it
has R clock channels, of which channel min(t, R - 1) is 1 everywhere at timestep t and the others
are 0. From them a 1x1 convolution brings each layer its bias of that timestep, and at the first
timestep its initial potential.

Importers want one threshold for all neurons of a layer. So all that enters a neuron is divided by
the neuron's threshold, weights, shortcuts and clock channels, and every v_threshold is 1. The
quotients are float64: in float64 spikes are the artifact's, in float32 rounding may change one.

What NIR does not say is said in the graph's metadata: a neuron spikes at most once a timestep,
where v >= v_threshold, and then v_threshold is subtracted from v in the same timestep. Initial
potentials are half a unit of the artifact higher than its own, so that v is never equal to
v_threshold and it makes no difference whether a framework asks for > or >=.

SpikingJelly imports the graph and runs it with `IMPORT_LINES`. sinabs and norse build on
`nirtorch.load`, which runs a node with two inputs before the second is there, and snnTorch's
importer gives torch's convolutions numpy integers, which raises: for these, there are
`zoo.exchange.to_sinabs`, `to_norse` and `to_snntorch`. What each gets
wrong, one after the other, is in `benchmarks/results/nir.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.artifact.config import MAX_TIMESTEPS, Config
from zoo.artifact.folder import read_artifact
from zoo.artifact.tensors import network_of
from zoo.errors import UsageError
from zoo.files import replaced_file
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.pixels import look_up
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Layer

if TYPE_CHECKING:
    import nir

# Code for users: SpikingJelly 2.0 runs the file with it, as the reset is soft then.
IMPORT_LINES = (
    "from spikingjelly.activation_based.nir_exchange import import_from_nir",
    "net = import_from_nir(FILE, dt=1, dtype=torch.float64)",
    "for m in net.modules(): m.v_reset = None",
)


_INPUT = (
    "float [timesteps, image channels + clock channels, height, width]: image.table of the pixel, "
    "the same at every timestep, "
    "then clock channels, of which the one numbered min(timestep, clock channels - 1) is 1 and the "
    "others are 0"
)


_NEURON = (
    "at most one spike a timestep, where v >= v_threshold; then v -= v_threshold in the same "
    "timestep (soft reset)"
)


_FOLDED = (
    "each neuron's threshold is folded into the weights and biases that enter it, as float64 "
    "quotients: v_threshold is 1, and potentials are in units of the threshold"
)


_OUTPUT = (
    "logits after T timesteps: the mean of the output over the timesteps from readout_delay to T"
)


def export_nir(folder: str | Path, out: Path) -> nir.NIRGraph:
    """Write the artifact at `folder` as a NIR file (HDF5) and return the graph.

    Raises:
        UsageError: NIR cannot say what the network does, or the extra `nir` is not installed.
        NotFoundError, IntegrityError: as `zoo.artifact.folder.read_artifact`.
    """
    nir = _require()
    config, tensors = read_artifact(folder)
    graph = to_nir(config, network_of(config, tensors))
    with replaced_file(out) as temporary:
        nir.write(temporary, graph)
    return graph


def to_nir(config: Config, network: SpikingResNet) -> nir.NIRGraph:
    """Return the NIR graph of a network.

    Raises:
        UsageError: no graph does the same.
    """
    nir = _require()
    _check(config, network)
    channels, height, width = config.preprocess.input_size
    rows = max(
        config.bias_rows, 2
    )  # one for the first timestep at least: it brings the initial potential
    shape = (channels + rows, height, width)
    sizes = {IMAGE: (height, width), **network.topology.sizes(height, width)}
    steps = {IMAGE: 1}  # pixels of the image from one neuron of a layer to the next
    nodes: dict[str, Any] = {"input": nir.Input({"input": np.array(shape)})}
    edges: list[tuple[str, str]] = []

    def convolve(
        name: str,
        source: str,
        size: tuple[int, int],
        weight: Tensor,
        stride: int,
        padding: int = 0,
        bias: Tensor | None = None,
        groups: int = 1,
    ) -> str:
        shift = torch.zeros(len(weight)) if bias is None else bias
        nodes[name] = nir.Conv2d(
            size,
            weight.double().numpy(),
            (stride, stride),
            (padding, padding),
            (1, 1),
            groups,
            shift.double().numpy(),
        )
        edges.append((source, name))
        return name

    for spec in network.topology.layers:
        layer, name = network.layers[spec.name], _name(spec.name)
        neurons, size = f"{name}_if", sizes[spec.name]
        steps[spec.name] = steps[spec.source] * spec.stride
        threshold = layer.threshold.double()[:, None, None, None]
        weight = layer.weight.double()
        if spec.source == IMAGE:  # the image's channels, none of the clock's
            weight = torch.cat([weight, torch.zeros(len(weight), rows, *weight.shape[2:])], 1)
        source = "input" if spec.source == IMAGE else f"{_name(spec.source)}_if"
        geometry = (sizes[spec.source], weight / threshold, spec.stride, spec.padding)
        parts = [convolve(name, source, *geometry, groups=spec.groups)]
        clock = torch.zeros(len(weight), channels + rows, 1, 1, dtype=torch.float64)
        clock[:, channels:, 0, 0] = layer.bias[torch.arange(rows).clamp_max(len(layer.bias) - 1)].T
        clock[:, channels, 0, 0] += layer.v_init + 0.5
        parts.append(
            convolve(f"{name}_clock", "input", (height, width), clock / threshold, steps[spec.name])
        )
        if spec.shortcut is not None:
            begin = spec.shortcut.source
            weight = _shortcut(spec, layer, network.topology.channels[begin])
            parts.append(
                convolve(
                    f"{name}_shortcut",
                    f"{_name(begin)}_if",
                    sizes[begin],
                    weight / threshold,
                    spec.shortcut.stride,
                    spec.shortcut.padding,
                )
            )
        ones = np.ones((len(weight), *size), np.float32)
        nodes[neurons] = nir.IF(ones, ones.copy(), np.zeros_like(ones))
        edges += [(part, neurons) for part in parts]
    last = network.topology.layers[-1].name
    nodes["sum"] = nir.SumPool2d(np.array(sizes[last]), np.array(sizes[last]), np.array([0, 0]))
    edges.append((f"{_name(last)}_if", "sum"))
    head = network.head
    weight = (head.weight.double() * head.scale.double()[:, None])[:, :, None, None]
    convolve("fc", "sum", (1, 1), weight, 1, bias=head.bias)
    nodes["output"] = nir.Output({"output": np.array([config.num_classes, 1, 1])})
    edges.append(("fc", "output"))
    metadata = {
        "format": "spiking-zoo",
        "config": config.model_dump_json(),
        "input": _INPUT,
        "neuron": _NEURON,
        "thresholds": _FOLDED,
        "output": _OUTPUT,
        "image_channels": channels,
        "clock_channels": rows,
        "readout_delay": json.dumps(config.readout_delay),
        "exact_timesteps_in_float64": exact_timesteps(network),
    }
    return nir.NIRGraph(nodes, edges, metadata)


def nir_input(network: SpikingResNet, images: Tensor, timesteps: int) -> Tensor:
    """Return the input of the graph for uint8 images `[B, C, H, W]`.

    It is float `[timesteps, B, C + R, H, W]`, with R clock channels.
    """
    rows = max(2, *(len(layer.bias) for layer in network.layers.values()))
    image = look_up(network.image_table, images).contiguous()
    clock = torch.eye(rows)[torch.arange(timesteps).clamp_max(rows - 1)]
    clock = clock.view(timesteps, 1, rows, 1, 1).expand(-1, len(image), -1, *image.shape[2:])
    return torch.cat([image.expand(timesteps, *image.shape), clock], 2)


def exact_timesteps(network: SpikingResNet) -> int:
    """Return the timesteps, at most MAX_TIMESTEPS, whose spikes are the artifact's in float64.

    Whatever the image and the order of sums: no rounding error reaches the half unit between a
    potential and a threshold. A sum of n products is off by n + 1 roundings of the largest
    potential at most, the quotients by two, the membrane by two each timestep.
    """

    def error(layer: SpikingConv, timesteps: int) -> float:
        inputs = layer.weight[0].numel() + len(layer.bias)
        inputs += 1 if layer.projection is None else layer.projection[0].numel()
        return 2**-52 * (inputs + 2 * timesteps + 8) * layer.potential_bound(timesteps)

    layers = network.layers.values()
    return max(
        (t for t in range(1, MAX_TIMESTEPS + 1) if all(error(layer, t) < 0.5 for layer in layers)),
        default=0,
    )


def _shortcut(spec: Layer, layer: SpikingConv, source: int) -> Tensor:
    """Return the weight of the 1x1 convolution that a shortcut from `source` channels is."""
    if layer.projection is not None:
        return layer.projection
    assert layer.gain is not None and spec.shortcut is not None
    weight, inner = torch.zeros(spec.out_channels, source, 1, 1), torch.arange(source)
    weight[inner + spec.shortcut.pad, inner, 0, 0] = layer.gain[inner + spec.shortcut.pad].float()
    return weight


def _check(config: Config, network: SpikingResNet) -> None:
    reasons = {
        f"{config.neuron} neurons: its neurons spike 0 or 1": config.neuron != "if",
        "the layerwise schedule: its neurons fire while they receive": config.schedule != "causal",
        "max-pooling": any(spec.max_pool for spec in network.topology.layers)
        or any(pool.kind == "max" for pool in network.topology.pools),
        "hidden layers behind an average": any(
            pool.kind == "average" for pool in network.topology.pools
        ),
        "float32 networks, as this export relies on integers": config.numerics != "int8",
    }
    for reason, applies in reasons.items():
        if applies:
            raise UsageError(
                f"NIR has no {reason}: export an int8 network of the CIFAR form with `if` neurons, "
                "causal"
            )


def _name(layer: str) -> str:
    return layer.replace(".", "_")  # torch takes no dots in a module's name


def _require() -> Any:
    try:
        import nir
    except ImportError as error:
        raise UsageError("zoo export needs nir: pip install 'spiking-zoo[nir]'") from error
    return nir
