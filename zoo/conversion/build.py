"""Build the spiking network of an ANN, layer by layer.

Amplitudes are folded in, weights rounded, then biases calibrated on real spikes.

A layer's neurons count in units of scale[c]: weight[c] * amplitude_in / scale[c] becomes int8,
everything else int32. Its spikes carry the amplitude threshold * scale after rounding, so rounding
never parts a threshold from its amplitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zoo.artifact.config import Numerics
from zoo.conversion import calibrate
from zoo.conversion.rounding import patches, round_to_int8
from zoo.conversion.trains import SpikeTrain, pool_of_counts, pooled_train
from zoo.kernels.neuron import Neuron, NeuronKind
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.pixels import IMAGE_SCALE, image_table, look_up
from zoo.networks.resnet import activate, pool_activations, preactivation
from zoo.networks.run import Head, Schedule
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Layer, Pool
from zoo.networks.trainable import by_input
from zoo.pretrained.checkpoint import Checkpoint

_LARGEST_BIAS = 2**22  # units a timestep


@dataclass(frozen=True, kw_only=True)
class BuildSpec:
    """Everything about a conversion but the images.

    Attributes:
        theta: what a neuron that spikes its most at every timestep stands for, [C] of each layer,
            in ANN units: its threshold, or the sum of its 2**bits - 1 levels.
        compensation: hu2018's factor on all weights.
        mean, std: per colour channel, for pixels in 0 to 1.
        calibration: None leaves the biases as they are.
        bits: of a spike.
        neurons: of layers whose neurons are others than `neuron` with `bits`.
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
    neurons: Mapping[str, NeuronKind] = field(default_factory=dict)
    tuned: Mapping[str, Tensor] | None = None

    @property
    def params(self) -> Mapping[str, Tensor]:
        """Return the parameters that weights and biases are built from."""
        return self.checkpoint.params if self.tuned is None else self.tuned

    def neuron_of(self, source: str) -> NeuronKind:
        """Return what the neurons of a layer are, or of the layer that a pooling reads."""
        layer = self.checkpoint.net.origin(source)
        return self.neurons.get(layer) or NeuronKind(self.neuron, self.bits)


@dataclass(frozen=True)
class LayerReport:
    """How close one layer is to the ANN's, on the calibration images.

    Attributes:
        error: |decoded output - ANN activation|^2 / |ANN activation|^2; 0 is perfect, 1 as bad as
            silence.
        firing_rate: spikes per neuron and timestep; a graded spike counts as the number of its bits
            that are set.
    """

    name: str
    error: float
    firing_rate: float


@dataclass(frozen=True)
class Built:
    """A network that was built, with measurements on the calibration images.

    Attributes:
        scales: one integer unit of each layer in ANN units, float32 `[C]`.
        reports: error and firing rate of each layer.
        ann_logits: float32 `[B, classes]`.
        counts: the last layer's spikes summed over its area and all timesteps so far, int64
            `[T, B, C]` (layerwise: one row).
        peak_rate: highest firing rate of any neuron of the last layer on any image.
    """

    network: SpikingResNet
    scales: dict[str, Tensor]
    reports: list[LayerReport]
    ann_logits: Tensor
    counts: Tensor
    peak_rate: float

    def to(self, device: str) -> Built:
        """Return the same with its tensors on `device`."""
        return replace(
            self,
            network=self.network.to(device),
            scales={name: scale.to(device) for name, scale in self.scales.items()},
            ann_logits=self.ann_logits.to(device),
            counts=self.counts.to(device),
        )


@dataclass
class _Live:
    """Outputs of layers and poolings that later layers still read.

    Attributes:
        activations: of the ANN, float32 `[B, C, H, W]`.
        spikes: causal: the spike train.
        counts: layerwise: spike counts by number of timesteps.
        limits: firing rates after many timesteps.
    """

    activations: dict[str, Tensor] = field(default_factory=dict)
    spikes: dict[str, SpikeTrain] = field(default_factory=dict)
    counts: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    limits: dict[str, Tensor] = field(default_factory=dict)

    def pool(self, pool: Pool) -> None:
        """Add what a pooling makes of the outputs of its source, which are there."""
        source = pool.source
        self.activations[pool.name] = pool_activations(self.activations[source], pool)
        if source in self.spikes:
            self.spikes[pool.name] = pooled_train(self.spikes[source], pool)
        if source in self.counts:
            self.counts[pool.name] = {
                steps: pool_of_counts(counts, pool) for steps, counts in self.counts[source].items()
            }
        if source in self.limits:
            self.limits[pool.name] = pool_of_counts(self.limits[source], pool)

    def forget(self, names: Iterable[str]) -> None:
        """Release the outputs of these layers."""
        for name in names:
            for store in (self.activations, self.spikes, self.counts, self.limits):
                store.pop(name, None)


@torch.inference_mode()
def build_network(
    spec: BuildSpec,
    pixels: Tensor,
    timesteps: int,
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Return the network, built on calibration images.

    Args:
        pixels: calibration images, uint8 `[B, C, H, W]`.
        timesteps: number after which each layer's error is reported.
        progress: called with the layers built and the layers in all.
    """
    net, params = spec.checkpoint.net, spec.checkpoint.params
    images = tuple(
        image_table(spec.mean, spec.std, integer=integer).to(pixels.device)
        for integer in (False, True)
    )
    table = images[spec.numerics == "int8"]
    live, layers, scales, reports = _Live(), {}, {}, []
    amplitudes: dict[str, Tensor] = {}
    summed: dict[str, int] = {}
    live.activations[IMAGE] = look_up(images[0], pixels)
    for index, node in enumerate(net.layers):
        z = preactivation(
            node,
            params,
            live.activations[node.source],
            live.activations[node.shortcut.source] if node.shortcut else None,
        )
        activation = activate(node, params, z)
        layer, scale = _layer(spec, node, amplitudes, summed, table, live)
        target = activation / scale.view(-1, 1, 1)
        if spec.schedule == "causal":
            layer = _sweep_causal(
                spec, node, layer, target, live, look_up(table, pixels), timesteps
            )
            train = live.spikes[node.name]
            decoded = train.total(timesteps).float()
            fired = train.fired(timesteps)
        else:
            layer = _sweep_layerwise(
                spec, node, layer, target, live, look_up(table, pixels), timesteps
            )
            decoded = live.counts[node.name][timesteps].float()
            fired = int(decoded.sum().item())
        layers[node.name], scales[node.name] = layer, scale
        amplitudes[node.name] = layer.threshold * scale
        decoded *= amplitudes[node.name].view(-1, 1, 1) / timesteps
        error = (decoded - activation).square_().sum() / activation.square().sum().clamp_min(1e-12)
        reports.append(LayerReport(node.name, error.item(), fired / (decoded.numel() * timesteps)))
        live.activations[node.name] = activation
        for pool in net.pools_behind(node.name):
            live.pool(pool)
            # One spike that is summed over the area is worth its share of the mean.
            area = 1 if pool.kind == "max" else math.prod(activation.shape[2:])
            amplitudes[pool.name] = amplitudes[node.name] / area
            summed[pool.name] = area
        live.forget(net.released_after(index))
        if progress is not None:
            progress(index + 1, len(net.layers))
    final = net.output
    head = _head(spec, amplitudes[final], live.activations[final][0, 0].numel())
    network = SpikingResNet(net, layers, head, table, schedule=spec.schedule)
    ann_logits = torch.nn.functional.linear(
        live.activations[final].mean((2, 3)), params["fc.weight"], params["fc.bias"]
    )
    if spec.schedule == "causal":
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
    spec: BuildSpec,
    node: Layer,
    amplitudes: Mapping[str, Tensor],
    summed: Mapping[str, int],
    table: Tensor,
    live: _Live,
) -> tuple[SpikingConv, Tensor]:
    """Return the layer with the ANN's bias, and its scale `[C]`.

    The scale puts the largest weight of a channel at 127.
    """
    params, integer = spec.params, spec.numerics == "int8"
    kind = spec.neuron_of(node.name)
    theta = spec.theta[node.name] / kind.max_level
    weight = params[f"{node.name}.weight"] * spec.compensation
    if node.source != IMAGE:
        weight = weight * by_input(amplitudes[node.source], node.groups, len(weight))
    elif integer:
        weight = weight / IMAGE_SCALE
    gain = projection = None
    if node.shortcut is not None:
        amplitude = amplitudes[node.shortcut.source] * spec.compensation
        if node.shortcut.kind == "projection":
            projection = params[f"{node.name}.shortcut.weight"] * amplitude.view(1, -1, 1, 1)
        else:
            gain = torch.nn.functional.pad(amplitude, (node.shortcut.pad, node.shortcut.pad))
    bias = params[f"{node.name}.bias"][None]
    scale = torch.ones(node.out_channels, device=weight.device)
    if integer:
        scale = unit_of(weight, projection, theta, bias[0], stem=node.source == IMAGE)

    def units(values: Tensor) -> Tensor:
        return (
            (values / scale).round().clamp(-(2**30), 2**30).to(torch.int32) if integer else values
        )

    if integer:
        weight, projection, shift = _rounded(
            spec, node, weight, projection, scale, amplitudes, summed, live
        )
        bias = bias + shift * scale
    threshold = units(theta).clamp_min(1) if integer else theta
    layer = SpikingConv(
        weight=weight,
        bias=units(bias),
        threshold=threshold,
        v_init=units(theta / 2),
        stride=node.stride,
        padding=node.padding,
        neuron=kind.neuron,
        gain=None if gain is None else units(gain),
        projection=projection,
        shortcut_stride=node.shortcut.stride if node.shortcut else 1,
        shortcut_pad=node.shortcut.pad if node.shortcut else 0,
        max_pool=node.max_pool,
        input_bound=int(table.abs().max())
        if node.source == IMAGE
        else spec.neuron_of(node.source).max_level * summed.get(node.source, 1),
        source_bound=spec.neuron_of(node.shortcut.source).max_level if node.shortcut else 1,
        bits=kind.bits,
        groups=node.groups,
        shortcut_padding=node.shortcut.padding if node.shortcut else 0,
        summed=summed.get(node.source, 1),
    )
    return layer, scale


def unit_of(
    weight: Tensor, projection: Tensor | None, theta: Tensor, bias: Tensor, *, stem: bool
) -> Tensor:
    """Return the integer unit of each channel, `[C]`, which puts its largest weight at 127.

    Args:
        weight, projection: float, on whole spikes (the stem's: on the image table's values).
        theta: thresholds `[C]`.
        bias: `[C]`, of a timestep.
    """
    largest = weight.abs().amax((1, 2, 3))
    if projection is not None:
        largest = torch.maximum(largest, projection.abs().amax((1, 2, 3)))
    # A nearly dead channel would count in units so fine that potentials leave float32 (ResNet-20,
    # hu2018: 7 times slower); no weight on spikes matters that is under 1/16384 of the threshold.
    # The stem's are on pixels of up to 680: at 1/16384 they would have few of the 127 levels.
    finest = 2**18 if stem else 2**14
    # A dead one has a threshold as small as its weights, and a bias that no input makes up for: in
    # their units it was 2**30, of which int32 potentials hold no timestep (ResNet-20 after 120
    # epochs), and the kernels refused the network.
    floor = torch.maximum(theta / finest, bias.abs() / _LARGEST_BIAS)
    return torch.maximum(largest / 127, floor).clamp_min(1e-12)


def _rounded(
    spec: BuildSpec,
    node: Layer,
    weight: Tensor,
    projection: Tensor | None,
    scale: Tensor,
    amplitudes: Mapping[str, Tensor],
    summed: Mapping[str, int],
    live: _Live,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return weights and projection as int8, and the shift of the bias that keeps the mean output.

    The shift is in units of `scale`. The inputs that weights are rounded on are the spikes per
    timestep that the ANN's activations ask for (the stem's: the image).
    """

    def rates(source: str) -> Tensor:
        activation = live.activations[source]
        if source == IMAGE:
            return activation * IMAGE_SCALE
        most = spec.neuron_of(source).max_level * summed.get(source, 1)
        return (activation / amplitudes[source].view(-1, 1, 1)).clamp_max(most)

    def seen(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        # The same seed: of a layer's inputs, those at the same positions.
        return patches(x, kernel, stride, padding, torch.Generator().manual_seed(0))

    flat, side = weight.flatten(1), None
    if projection is not None and node.shortcut is not None:
        flat = torch.cat([flat, projection.flatten(1)], 1)
        reach = (node.shortcut.kernel, node.shortcut.stride, node.shortcut.padding)
        side = seen(rates(node.shortcut.source), *reach)
    parts = []
    for rows, x in zip(
        (flat / scale[:, None]).chunk(node.groups),
        rates(node.source).chunk(node.groups, 1),
        strict=True,
    ):
        inputs = seen(x, node.kernel, node.stride, node.padding)
        inputs = inputs if side is None else torch.cat([inputs, side], 1)
        parts.append(round_to_int8(rows, inputs))
    rounded, shift = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    main, extra = rounded.split([weight[0].numel(), rounded.shape[1] - weight[0].numel()], 1)
    rounded_projection = (
        None if projection is None else extra.reshape(projection.shape).contiguous()
    )
    return main.reshape(weight.shape).contiguous(), rounded_projection, shift


def _sweep_causal(
    spec: BuildSpec,
    node: Layer,
    layer: SpikingConv,
    target: Tensor,
    live: _Live,
    image: Tensor,
    timesteps: int,
) -> SpikingConv:
    rows = spec.calibration.rows if spec.calibration else 0
    steps = max(rows, timesteps)
    stem = node.source == IMAGE
    x = layer.current(image, steps) if stem else live.spikes[node.source]
    shortcut = live.spikes[node.shortcut.source] if node.shortcut else None
    layer, live.spikes[node.name] = calibrate.causal(
        layer, x, shortcut, target, steps, spec.calibration
    )
    if spec.calibration is not None and spec.calibration.limit:
        rates = layer.current(image, 1) if stem else live.limits[node.source]
        side = live.limits[node.shortcut.source] if node.shortcut else None
        layer, live.limits[node.name] = calibrate.limit(
            layer, rates, side, target, spec.calibration, constant=stem
        )
    return layer


def _sweep_layerwise(
    spec: BuildSpec,
    node: Layer,
    layer: SpikingConv,
    target: Tensor,
    live: _Live,
    image: Tensor,
    timesteps: int,
) -> SpikingConv:
    snapshots = sorted({*(spec.calibration.snapshots if spec.calibration else ()), timesteps})
    constant = node.source == IMAGE

    def accumulated(layer: SpikingConv, steps: int) -> Tensor:
        if constant:
            return layer.accumulated_input(layer.current(image, steps), None, steps, constant=True)
        shortcut = live.counts[node.shortcut.source][steps] if node.shortcut else None
        return layer.accumulated_input(live.counts[node.source][steps], shortcut, steps)

    if spec.calibration is not None:
        inputs = {steps: accumulated(layer, steps) for steps in snapshots}
        layer = calibrate.layerwise(layer, inputs, target, spec.calibration)
    live.counts[node.name] = {
        steps: layer.fire(accumulated(layer, steps), steps) for steps in snapshots
    }
    return layer


def _head(spec: BuildSpec, amplitude: Tensor, area: int) -> Head:
    params = spec.params
    weight = params["fc.weight"] * (amplitude / area)
    if spec.numerics == "float32":
        return Head(weight, torch.ones(len(weight), device=weight.device), params["fc.bias"])
    return Head.rounded(weight, params["fc.bias"])
