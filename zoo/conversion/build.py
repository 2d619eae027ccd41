"""The spiking network of an ANN, built layer by layer: amplitudes folded in, weights rounded, then calibrated on real spikes.

A layer's neurons count in units of scale[c]: weight[c] * amplitude_in / scale[c] becomes int8,
everything else int32. Its spikes carry the amplitude threshold * scale after rounding, so rounding
never parts a threshold from its amplitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.artifact.config import Numerics
from zoo.conversion import calibrate
from zoo.conversion.rounding import patches, round_to_int8
from zoo.kernels.neuron import Neuron
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.pixels import IMAGE_SCALE, image_table, look_up
from zoo.networks.resnet import activate, preactivation
from zoo.networks.run import Head, Schedule
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Layer
from zoo.pretrained.checkpoint import Checkpoint


@dataclass(frozen=True)
class BuildSpec:
    """Everything about a conversion but the images.

    Attributes:
        theta: what a neuron that spikes its most at every timestep stands for, [C] of each layer,
            in ANN units: its threshold, or the sum of its 2**bits - 1 levels.
        compensation: hu2018's factor on all weights.
        mean, std: per colour channel, for pixels in 0 to 1.
        calibration: None leaves the biases as they are.
        bits: of a spike.
        tuned: parameters to build from instead of the ANN's own (`zoo.conversion.distil`); the ANN
            stays what layers are compared with.
    """

    checkpoint: Checkpoint
    theta: Mapping[str, Tensor]
    neuron: Neuron
    schedule: Schedule
    numerics: Numerics
    mean: Sequence[float]
    std: Sequence[float]
    calibration: calibrate.Settings | None
    compensation: float = 1.0
    bits: int = 1
    tuned: Mapping[str, Tensor] | None = None

    @property
    def params(self) -> Mapping[str, Tensor]:
        """What weights and biases are built from."""
        return self.checkpoint.params if self.tuned is None else self.tuned


@dataclass(frozen=True)
class LayerReport:
    """How well one layer came through; a graded spike counts as as many as it has bits set.

    error: |decoded output - ANN activation|^2 / |ANN activation|^2 on the calibration images; 0 is
    perfect, 1 as bad as silence. firing_rate: spikes per neuron and timestep.
    """

    name: str
    error: float
    firing_rate: float


@dataclass(frozen=True)
class Built:
    """A network, the scale [C] of each layer in ANN units, and what building it showed.

    ann_logits, counts: the ANN's logits [B, classes], and the last layer's spikes summed over its
    area and all timesteps so far, int64 [T, B, C] (layerwise: one row), on the calibration images.
    peak_rate: the highest firing rate of any neuron of that layer on any image.
    """

    network: SpikingResNet
    scales: dict[str, Tensor]
    reports: list[LayerReport]
    ann_logits: Tensor
    counts: Tensor
    peak_rate: float


@dataclass
class _Live:
    """What later layers still read: by layer, the ANN's activations, the spikes (layerwise: counts by T), and firing rates after
    many timesteps."""

    activations: dict[str, Tensor] = field(default_factory=dict)
    spikes: dict[str, calibrate.SpikeTrain] = field(default_factory=dict)
    counts: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    limits: dict[str, Tensor] = field(default_factory=dict)

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            for store in (self.activations, self.spikes, self.counts, self.limits):
                store.pop(name, None)


@torch.inference_mode()
def build_network(
    recipe: BuildSpec,
    pixels: Tensor,
    timesteps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Builds the network on calibration images, uint8 [B, C, H, W], and reports each layer's error after `timesteps`."""
    net, params = recipe.checkpoint.net, recipe.checkpoint.params
    images = (
        image_table(recipe.mean, recipe.std, integer=False),
        image_table(recipe.mean, recipe.std),
    )
    table = images[recipe.numerics == "int8"]
    live, layers, scales, reports = _Live(), {}, {}, []
    amplitudes: dict[str, Tensor] = {}
    live.activations[IMAGE] = look_up(images[0], pixels)
    for index, spec in enumerate(net.layers):
        z = preactivation(
            spec,
            params,
            live.activations[spec.source],
            live.activations[spec.shortcut.source] if spec.shortcut else None,
        )
        activation = activate(spec, params, z)
        layer, scale = _layer(recipe, spec, amplitudes, table, live)
        wanted = activation / scale.view(-1, 1, 1)
        if recipe.schedule == "causal":
            layer = _sweep_causal(
                recipe, spec, layer, wanted, live, look_up(table, pixels), timesteps
            )
            train = live.spikes[spec.name]
            decoded = train.total(timesteps).float()
            fired = train.fired(timesteps)
        else:
            layer = _sweep_layerwise(
                recipe, spec, layer, wanted, live, look_up(table, pixels), timesteps
            )
            decoded = live.counts[spec.name][timesteps].float()
            fired = int(decoded.sum().item())
        layers[spec.name], scales[spec.name] = layer, scale
        amplitudes[spec.name] = layer.threshold * scale
        decoded *= amplitudes[spec.name].view(-1, 1, 1) / timesteps
        error = (decoded - activation).square_().sum() / activation.square().sum().clamp_min(1e-12)
        reports.append(LayerReport(spec.name, error.item(), fired / (decoded.numel() * timesteps)))
        live.activations[spec.name] = activation
        live.forget(net.released_after(index))
        if progress is not None:
            progress(index + 1, len(net.layers))
    final = net.layers[-1].name
    head = _head(recipe, amplitudes[final], live.activations[final][0, 0].numel())
    network = SpikingResNet(net, layers, head, table, schedule=recipe.schedule)
    ann_logits = torch.nn.functional.linear(
        live.activations[final].mean((2, 3)), params["fc.weight"], params["fc.bias"]
    )
    if recipe.schedule == "causal":
        train = live.spikes[final]
        counts = torch.stack(
            [train[t].sum((2, 3), dtype=torch.int64) for t in range(len(train))]
        ).cumsum(0)
        rates = train.total(timesteps).float() / timesteps
    else:
        counts = live.counts[final][timesteps].sum((2, 3), dtype=torch.int64)[None]
        rates = live.counts[final][timesteps].float() / timesteps
    return Built(network, scales, reports, ann_logits, counts, rates.max().item())


def _layer(
    recipe: BuildSpec, spec: Layer, amplitudes: Mapping[str, Tensor], table: Tensor, live: _Live
) -> tuple[SpikingConv, Tensor]:
    """The layer with the ANN's bias, and its scale, which puts the largest weight of a channel at 127."""
    params, integer = recipe.params, recipe.numerics == "int8"
    most = 2**recipe.bits - 1
    theta = recipe.theta[spec.name] / most
    weight = params[f"{spec.name}.weight"] * recipe.compensation
    if spec.source != IMAGE:
        weight = weight * amplitudes[spec.source].view(1, -1, 1, 1)
    elif integer:
        weight = weight / IMAGE_SCALE
    gain = projection = None
    if spec.shortcut is not None:
        amplitude = amplitudes[spec.shortcut.source] * recipe.compensation
        if spec.shortcut.kind == "projection":
            projection = params[f"{spec.name}.shortcut.weight"] * amplitude.view(1, -1, 1, 1)
        else:
            gain = torch.nn.functional.pad(amplitude, (spec.shortcut.pad, spec.shortcut.pad))
    bias = params[f"{spec.name}.bias"][None]
    scale = torch.ones(spec.out_channels)
    if integer:
        scale = weight.abs().amax((1, 2, 3))
        if projection is not None:
            scale = torch.maximum(scale, projection.abs().amax((1, 2, 3)))
        # A nearly dead channel would count in units so fine that potentials leave float32
        # (ResNet-20, hu2018: 7 times slower); no weight on spikes matters that is under 1/16384 of
        # the threshold. The stem's are on pixels of up to 680: at 1/16384 they would have few of
        # the 127 levels.
        finest = 2**18 if spec.source == IMAGE else 2**14
        scale = torch.maximum(scale / 127, theta / finest).clamp_min(1e-12)

    def units(values: Tensor) -> Tensor:
        return (
            (values / scale).round().clamp(-(2**30), 2**30).to(torch.int32) if integer else values
        )

    if integer:
        weight, projection, shift = _rounded(
            recipe, spec, weight, projection, scale, amplitudes, live
        )
        bias = bias + shift * scale
    threshold = units(theta).clamp_min(1) if integer else theta
    layer = SpikingConv(
        weight,
        units(bias),
        threshold,
        units(theta / 2),
        spec.stride,
        spec.padding,
        recipe.neuron,
        None if gain is None else units(gain),
        projection,
        spec.shortcut.stride if spec.shortcut else 1,
        spec.shortcut.pad if spec.shortcut else 0,
        spec.max_pool,
        input_bound=int(table.abs().max()) if spec.source == IMAGE else most,
        bits=recipe.bits,
    )
    return layer, scale


def _rounded(
    recipe: BuildSpec,
    spec: Layer,
    weight: Tensor,
    projection: Tensor | None,
    scale: Tensor,
    amplitudes: Mapping[str, Tensor],
    live: _Live,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weights and projection as int8, and what rounding wants added to the bias, in units of `scale`.

    The inputs they are rounded on are the spikes a timestep that the ANN's activations ask for (the
    stem's: the image).
    """
    generator = torch.Generator().manual_seed(0)

    def rates(source: str) -> Tensor:
        activation = live.activations[source]
        if source == IMAGE:
            return activation * IMAGE_SCALE
        return (activation / amplitudes[source].view(-1, 1, 1)).clamp_max(2**recipe.bits - 1)

    flat = weight.flatten(1)
    inputs = patches(rates(spec.source), spec.kernel, spec.stride, spec.padding, generator)
    if projection is not None and spec.shortcut is not None:
        flat = torch.cat([flat, projection.flatten(1)], 1)
        side = patches(
            rates(spec.shortcut.source),
            1,
            spec.shortcut.stride,
            0,
            torch.Generator().manual_seed(0),
        )
        inputs = torch.cat([inputs, side], 1)
    rounded, shift = round_to_int8(flat / scale[:, None], inputs)
    main, extra = rounded.split([weight[0].numel(), rounded.shape[1] - weight[0].numel()], 1)
    side_weight = None if projection is None else extra.reshape(projection.shape).contiguous()
    return main.reshape(weight.shape).contiguous(), side_weight, shift


def _sweep_causal(
    recipe: BuildSpec,
    spec: Layer,
    layer: SpikingConv,
    wanted: Tensor,
    live: _Live,
    image: Tensor,
    timesteps: int,
) -> SpikingConv:
    rows = recipe.calibration.rows if recipe.calibration else 0
    steps = max(rows, timesteps)
    stem = spec.source == IMAGE
    x = layer.current(image, steps) if stem else live.spikes[spec.source]
    shortcut = live.spikes[spec.shortcut.source] if spec.shortcut else None
    layer, live.spikes[spec.name] = calibrate.causal(
        layer, x, shortcut, wanted, steps, recipe.calibration
    )
    if recipe.calibration is not None and recipe.calibration.limit:
        rates = layer.current(image, 1) if stem else live.limits[spec.source]
        side = live.limits[spec.shortcut.source] if spec.shortcut else None
        layer, live.limits[spec.name] = calibrate.limit(
            layer, rates, side, wanted, recipe.calibration, constant=stem
        )
    return layer


def _sweep_layerwise(
    recipe: BuildSpec,
    spec: Layer,
    layer: SpikingConv,
    wanted: Tensor,
    live: _Live,
    image: Tensor,
    timesteps: int,
) -> SpikingConv:
    marks = sorted({*(recipe.calibration.marks if recipe.calibration else ()), timesteps})
    constant = spec.source == IMAGE

    def charge(layer: SpikingConv, mark: int) -> Tensor:
        if constant:
            return layer.accumulated_input(layer.current(image, mark), None, mark, constant=True)
        shortcut = live.counts[spec.shortcut.source][mark] if spec.shortcut else None
        return layer.accumulated_input(live.counts[spec.source][mark], shortcut, mark)

    if recipe.calibration is not None:
        charges = {mark: charge(layer, mark) for mark in marks}
        layer = calibrate.layerwise(layer, charges, wanted, recipe.calibration)
    live.counts[spec.name] = {mark: layer.fire(charge(layer, mark), mark) for mark in marks}
    return layer


def _head(recipe: BuildSpec, amplitude: Tensor, area: int) -> Head:
    params = recipe.params
    weight = params["fc.weight"] * (amplitude / area)
    if recipe.numerics == "float32":
        return Head(weight, torch.ones(len(weight)), params["fc.bias"])
    scale = (weight.abs().amax(1) / 127).clamp_min(1e-12)
    return Head((weight / scale[:, None]).round().to(torch.int8), scale, params["fc.bias"])
