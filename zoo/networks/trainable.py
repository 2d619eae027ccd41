"""A spiking network as a plain `torch.nn.Module` in ANN units, which gradients pass through time.

Parameters of a layer L: `L.weight` `[Cout, Cin, k, k]`, `L.bias` `[P, Cout]` (at timestep t row
min(t, P - 1)), `L.neuron.threshold` and `L.neuron.v_init` `[Cout]`, and of a shortcut
`L.shortcut.weight`, or `L.shortcut.gain` `[Cout]`, which is 1 but for the rounding of the artifact;
`fc.weight` and `fc.bias`. A spike of a neuron is worth its threshold: weights are the ANN's.

It begins with the artifact's spikes. Its numbers are floats, but potentials that were whole numbers
of units are half a unit higher here, `v_init` is, so that none is equal to a threshold and rounding
errors of up to half a unit change nothing.

A layer takes all timesteps at once: one convolution of `[T B, C, H, W]`, then its neurons.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.neurons import SpikingNeurons
from zoo.networks.pixels import IMAGE_SCALE, as_pixels, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import add_submodule
from zoo.networks.run import Head, Schedule, steps_skipped
from zoo.networks.surrogate import Surrogate
from zoo.networks.topology import IMAGE, Layer, Topology

if TYPE_CHECKING:
    from zoo.artifact.config import Config

# What one unit of the module's numbers is: an ANN's; the artifact's integers, with what a spike is
# worth in the weights that it meets; or thresholds, so that every threshold is 1.
Units = Literal["ann", "integer", "threshold"]


class Spiking(Protocol):
    """What a module is made of: the attributes of a `SpikingResNet`, which says what they are."""

    topology: Topology
    schedule: Schedule
    delay: dict[int, int]
    config: Config | None

    @property
    def layers(self) -> dict[str, SpikingConv]: ...
    @property
    def scales(self) -> dict[str, Tensor]: ...
    @property
    def head(self) -> Head: ...
    @property
    def image_table(self) -> Tensor: ...
    @property
    def integer(self) -> bool: ...


class TrainableLayer(nn.Module):
    """One convolution, its shortcut and the neurons behind both.

    Args:
        unit: what one of the artifact's integers is, `[Cout]`; rounding returns to it if it can.
    """

    def __init__(
        self, spec: Layer, weight: Tensor, bias: Tensor, unit: Tensor, neuron: nn.Module
    ) -> None:
        super().__init__()
        self.spec = spec
        self.unit: Tensor
        self.register_buffer("unit", unit)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.neuron = neuron

    def forward(
        self,
        x: Tensor,
        timesteps: int,
        source: Tensor | None = None,
        worth: Tensor | None = None,
        worth_of_source: Tensor | None = None,
    ) -> Tensor:
        """Return spikes `[T, B, Cout, H, W]`.

        Args:
            x: spikes `[T, B, Cin, H, W]`, or the stem's image `[B, Cin, H, W]`.
            source: spikes of the shortcut's source.
            worth, worth_of_source: what a spike of x and of the source is worth, `[Cin]`.
        """
        constant = x.ndim == 4
        current = F.conv2d(
            x if constant else x.flatten(0, 1),
            _valued(self.weight, worth, self.spec.groups),
            None,
            self.spec.stride,
            self.spec.padding,
            groups=self.spec.groups,
        )
        if source is not None:
            current = current + self._shortcut(source.flatten(0, 1), worth_of_source)
        if self.spec.max_pool:
            current = F.max_pool2d(current, 3, 2, 1)
        current = (
            current.expand(timesteps, *current.shape)
            if constant
            else current.unflatten(0, (timesteps, -1))
        )
        rows = torch.arange(timesteps, device=self.bias.device).clamp_max(len(self.bias) - 1)
        spikes: Tensor = self.neuron(current, self.bias[rows])
        return spikes

    def _shortcut(self, source: Tensor, worth: Tensor | None) -> Tensor:
        shortcut = self.spec.shortcut
        assert shortcut is not None
        own = self.get_submodule("shortcut")
        if shortcut.kind == "projection":
            weight = _valued(own.weight, worth)  # type: ignore[arg-type]
            return F.conv2d(source, weight, None, shortcut.stride, shortcut.padding)
        inner = slice(shortcut.pad, self.spec.out_channels - shortcut.pad)
        gain: Tensor = own.gain[inner] if worth is None else own.gain[inner] * worth  # type: ignore[index]
        source = source[:, :, :: shortcut.stride, :: shortcut.stride]
        side = source * gain.to(source.dtype).view(-1, 1, 1)
        return F.pad(side, (0, 0, 0, 0, shortcut.pad, shortcut.pad)) if shortcut.pad else side


def _valued(weight: Tensor, worth: Tensor | None, groups: int = 1) -> Tensor:
    return weight if worth is None else weight * by_input(worth, groups, len(weight))


def by_input(values: Tensor, groups: int, channels: int) -> Tensor:
    """Return what each of `channels` output channels multiplies its inputs by.

    Args:
        values: of the input channels, `[Cin]`.

    Returns:
        `[1, Cin, 1, 1]`, in groups `[Cout, Cin / groups, 1, 1]`.
    """
    if groups == 1:
        return values.view(1, -1, 1, 1)
    return values.view(groups, -1).repeat_interleave(channels // groups, 0)[:, :, None, None]


class TrainableResNet(nn.Module):
    """A spiking network of which everything can be trained; made by `SpikingResNet.trainable`.

    Call it as the network it was made of: `module(images, timesteps)`. `state_dict`, `deepcopy`,
    `to`, `double` and autocast do what they do for every module; `zoo.save` rounds it to an
    artifact. The spikes of a layer are its `neuron`'s output, `[T, B, C, H, W]`: a forward hook
    there sees, or replaces, them.

    Attributes:
        topology: the layers and how they are connected.
        delay: timesteps that the read-out skips, as in `SpikingResNet`.
        config: of the artifact that it was made of, or None.
        units: as in `trainable_of`.
        area: neurons of a channel of the last layer; 1 without a config, and then features are sums
            over them.
    """

    def __init__(
        self,
        topology: Topology,
        image_table: Tensor,
        delay: dict[int, int],
        config: Config | None,
        units: Units = "ann",
    ) -> None:
        super().__init__()
        self.topology, self.delay, self.config, self.units = topology, delay, config, units
        self.area = 1
        if config is not None:
            sizes = topology.sizes(*config.preprocess.input_size[1:])
            self.area = math.prod(sizes[topology.layers[-1].name])
        self.image_table: Tensor
        self.register_buffer("image_table", image_table)
        self.fc = nn.Linear(topology.features, topology.num_classes)

    @property
    def timesteps(self) -> int | None:
        """The number of timesteps that the artifact is meant for, None without a config."""
        return None if self.config is None else self.config.timesteps

    def layer(self, name: str) -> TrainableLayer:
        """Return a layer by its name in the topology."""
        found = self.get_submodule(name)
        assert isinstance(found, TrainableLayer)
        return found

    def forward(self, images: Any, timesteps: int | None = None) -> Tensor:
        """Return logits after `timesteps`, `[B, classes]`.

        Args:
            images: as in `SpikingResNet.run`, or float `[B, C, H, W]`: normalised, in ANN units.
            timesteps: default: those the artifact is meant for.
        """
        return self.forward_head(self.forward_features(images, timesteps))[-1]

    def forward_features(self, images: Any, timesteps: int | None = None) -> Tensor:
        """Return the pooled activations of each timestep, `[T, B, C]`, in ANN units.

        They are the firing rates of the last layer over its area times what a spike is worth.
        """
        timesteps = self.timesteps if timesteps is None else timesteps
        if timesteps is None or timesteps < 1:
            raise UsageError(f"timesteps must be 1 or more, not {timesteps}: 4 is a good start")
        out, worth = {IMAGE: self._image(images)}, dict[str, Tensor | None]()
        for index, spec in enumerate(self.topology.layers):
            layer, side = self.layer(spec.name), spec.shortcut
            out[spec.name] = layer(
                out[spec.source],
                timesteps,
                out[side.source] if side else None,
                worth.get(spec.source),
                worth.get(side.source) if side else None,
            )
            worth[spec.name] = (
                layer.neuron.threshold if self.units == "ann" else None  # type: ignore[assignment]
            )
            for name in self.topology.released_after(index):
                out.pop(name, None)
        last = self.topology.layers[-1].name
        rates = out[last].sum((3, 4), dtype=self.fc.weight.dtype) / self.area
        value = worth[last]
        return rates if value is None else rates * value

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits at every timestep, `[T, B, classes]`, of `forward_features`."""
        sums, means = features.cumsum(0), []
        for t in range(1, len(features) + 1):
            skip = steps_skipped(self.delay, t)
            read = sums[t - 1] - sums[skip - 1] if skip else sums[t - 1]
            means.append(read / (t - skip))
        return self.fc(torch.stack(means))

    def _image(self, images: Any) -> Tensor:
        if isinstance(images, Tensor) and images.is_floating_point():
            return images
        prep = None if self.config is None else Preprocess.of(self.config)
        pixels = as_pixels(images, self.topology.in_channels, prep)
        return look_up(self.image_table, pixels.to(self.fc.weight.device)).to(self.fc.weight.dtype)


@torch.no_grad()
def trainable_of(
    network: Spiking,
    *,
    surrogate: Surrogate = "arctan",
    detach_reset: bool = False,
    compiled: bool = False,
    units: Units = "ann",
    dtype: torch.dtype = torch.float32,
) -> TrainableResNet:
    """Return the network as a module with its spikes.

    Args:
        surrogate, detach_reset, compiled: as in `zoo.networks.neurons.SpikingNeurons`.
        units: of the module's numbers; all give the same spikes.

    Raises:
        UsageError: a layerwise network, which has no timesteps to go back through, one without
            scales, or an unknown surrogate.
    """
    if network.schedule != "causal":
        raise UsageError(
            "a layerwise network fires after it has received everything, so there is no time to go "
            "back through: convert with `schedule=causal`"
        )
    if network.topology.pools:
        raise UsageError(
            f"{network.topology.arch} pools spikes, which has no gradient here: take a network "
            "without poolings between its layers"
        )
    scales, layers = network.scales, network.layers
    if units == "ann" and not scales:
        raise UsageError("the network has no scales, so it has no ANN units: load it from a folder")
    half = 0.5 if network.integer else 0.0
    one = IMAGE_SCALE if network.integer else 1
    table = network.image_table
    module = TrainableResNet(
        network.topology,
        table.double() / one if units == "ann" else table.double(),
        dict(network.delay),
        network.config,
        units,
    )
    # What a spike is worth in the module, by source: weights are divided by it.
    pixel = 1 / one if units == "ann" else 1.0
    worth = {IMAGE: torch.full_like(table[:, 0], pixel, dtype=torch.float64)}
    for spec in network.topology.layers:
        own = layers[spec.name]
        unit = torch.ones_like(own.threshold, dtype=torch.float64)
        if units == "ann":
            unit = scales[spec.name].double()
        elif units == "threshold":
            unit = 1 / own.threshold.double()
        cell = SpikingNeurons(
            own.threshold * unit,
            (own.v_init + half) * unit,
            neuron=own.neuron,
            bits=own.bits,
            surrogate=surrogate,
            detach_reset=detach_reset,
            compiled=compiled,
        )
        layer = TrainableLayer(
            spec,
            _weight(own.weight, unit, worth[spec.source], spec.groups),
            own.bias * unit,
            unit,
            cell,
        )
        if spec.shortcut is not None:
            begin, side = worth[spec.shortcut.source], nn.Module()
            if own.projection is not None:
                side.weight = nn.Parameter(_weight(own.projection, unit, begin))
            elif own.gain is not None:
                padded = F.pad(begin, (spec.shortcut.pad, spec.shortcut.pad), value=1.0)
                side.gain = nn.Parameter(own.gain * unit / padded)
            layer.add_module("shortcut", side)
        add_submodule(module, spec.name, layer)
        worth[spec.name] = own.threshold * unit if units == "ann" else torch.ones_like(unit)
    last, head = network.topology.layers[-1].name, network.head
    readout = head.weight.double() * head.scale.double()[:, None] * module.area
    module.fc.weight = nn.Parameter(readout / worth[last])
    module.fc.bias = nn.Parameter(head.bias.double())
    return module.to(dtype)


def _weight(weight: Tensor, unit: Tensor, worth: Tensor, groups: int = 1) -> Tensor:
    return weight.double() * unit.view(-1, 1, 1, 1) / by_input(worth, groups, len(weight))
