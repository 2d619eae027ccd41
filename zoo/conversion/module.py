"""Round a trained spiking module back to the integers of an artifact.

Layer by layer, as a conversion does it (`zoo.conversion.build`), but what the layers are held
against is the module itself: weights are rounded with error feedback on the spikes of the layers
rounded before, then each bias is shifted until its channel has fired as often as the module's, at
every timestep (`calibrate.follow`). A module that was not trained gives the artifact's integers.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.artifact.config import CalibrationConfig, Config, TuningConfig
from zoo.artifact.folder import write_artifact
from zoo.artifact.tensors import tensors_of
from zoo.conversion import calibrate
from zoo.conversion.build import unit_of
from zoo.conversion.rounding import patches, round_to_int8
from zoo.data.datasets import identify
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.neurons import SpikingNeurons
from zoo.networks.pixels import IMAGE_SCALE, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Layer
from zoo.networks.trainable import TrainableLayer, TrainableResNet, by_input

# Images that a module is rounded on by default, and pairs of image and timestep that weights are.
SAMPLES = 256
_PAIRS = 512
_WHOLE = 1e-3


def save_module(
    module: TrainableResNet | SpikingResNet,
    folder: str | Path,
    images: ImageSet | None = None,
    *,
    timesteps: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    tuning: TuningConfig | None = None,
    force: bool = False,
) -> Config:
    """Write a module as an artifact, atomically, and return its config.

    Args:
        module: of `SpikingResNet.trainable`, or a spiking network, which is written as it is.
        images: training images, without use of their labels, that it is rounded on; None: every
            number becomes the nearest integer, which costs accuracy.
        timesteps: what it was trained for; default: what the artifact that it began as is for.
        samples: how many of the images to use, drawn with `seed`.
        tuning: how it was trained, for the config; what is known of it by default.
        force: replace what is at `folder`.

    Warns:
        UserWarning: it was trained and there are no images.

    Raises:
        UsageError: a network without a config, numbers that cannot be rounded, no images in
            `images`, or `folder` exists and `force` is not set.
    """
    if module.config is None:
        raise UsageError("the network has no config, so nothing says what it is: load it by name")
    config = module.config
    if isinstance(module, SpikingResNet):
        return write_artifact(folder, tensors_of(module, module.scales), config, force=force)
    timesteps = config.timesteps if timesteps is None else timesteps
    pixels = rounding = None
    if images is not None:
        drawn = images.take(samples, seed)
        pixels = drawn.batch(slice(None), Preprocess.of(config))
        rounding = CalibrationConfig(
            description=images.description,
            dataset=identify(images),
            sha256=drawn.sha256(),
            images=len(drawn),
            seed=seed,
        )
    network = round_module(module, pixels, timesteps, seed=seed)
    if tuning is None:
        cell = next(part for part in module.modules() if isinstance(part, SpikingNeurons))
        tuning = TuningConfig(
            sha256=config.weights_sha256,
            timesteps=timesteps,
            surrogate=str(cell.rule.surrogate)[:500],
            start=config.tuning,
        )
    if rounding is None:
        warnings.warn(
            "every number was rounded to the nearest integer: pass training images as `images` to "
            "round on them, which keeps more of the accuracy",
            stacklevel=2,
        )
    layers = network.layers.values()
    config = config.model_copy(
        update={
            "timesteps": timesteps,
            "bias_rows": max(len(layer.bias) for layer in layers),
            "readout_delay": dict(module.delay),
            "tuning": tuning.model_copy(update={"rounding": rounding}),
            # A rule to exit by is of the network that it was found with.
            "exit": None,
        }
    )
    return write_artifact(folder, tensors_of(network, network.scales), config, force=force)


@torch.no_grad()
def round_module(
    module: TrainableResNet, pixels: Tensor | None, timesteps: int, *, seed: int = 0
) -> SpikingResNet:
    """Return the integer network of a module in ANN units.

    Args:
        pixels: images to round on, uint8 `[B, C, H, W]`; None rounds to the nearest.
        timesteps: how many are run, and have a bias calibrated.

    Raises:
        UsageError: other units, a threshold that is not positive, numbers that are not finite, or
            no images in `pixels`.
    """
    _check(module, pixels, timesteps)
    table = (module.image_table * IMAGE_SCALE).round().to(torch.int16)
    amplitudes = {IMAGE: torch.full((module.topology.in_channels,), 1 / IMAGE_SCALE)}
    theirs, ours = dict[str, Tensor](), dict[str, Tensor]()  # spikes of the module, and rounded
    if pixels is not None:
        theirs[IMAGE] = look_up(module.image_table, pixels).to(module.fc.weight.dtype)
        ours[IMAGE] = look_up(table, pixels)
    layers, scales = dict[str, SpikingConv](), dict[str, Tensor]()
    largest = {IMAGE: int(table.int().abs().max())}
    for index, spec in enumerate(module.topology.layers):
        own = module.layer(spec.name)
        layer, scale = _integers(own, amplitudes, ours, timesteps, seed)
        layer = replace(
            layer,
            input_bound=largest[spec.source],
            source_bound=largest[spec.shortcut.source] if spec.shortcut else 1,
        )
        largest[spec.name] = layer.max_level
        if pixels is not None:
            wanted = _spikes(module, own, theirs, timesteps)
            x = ours[spec.source]
            layer, ours[spec.name] = calibrate.follow(
                layer,
                layer.current(x, timesteps) if spec.source == IMAGE else x,
                ours[spec.shortcut.source] if spec.shortcut else None,
                wanted,
                calibrate.Settings(seed=seed),
            )
            theirs[spec.name] = wanted
            for name in module.topology.released_after(index):
                theirs.pop(name, None), ours.pop(name, None)
        layers[spec.name], scales[spec.name] = layer, scale
        amplitudes[spec.name] = layer.threshold * scale
    weight = module.fc.weight.float() * (amplitudes[spec.name] / module.area)
    return SpikingResNet(
        module.topology,
        layers,
        Head.rounded(weight, module.fc.bias.float()),
        table,
        delay=module.delay,
        scales=scales,
        config=module.config,
    )


def _check(module: TrainableResNet, pixels: Tensor | None, timesteps: int) -> None:
    if module.units != "ann" or module.config is None:
        raise UsageError("only a module in ANN units is rounded: make it with trainable()")
    if timesteps < 1:
        raise UsageError(f"timesteps must be 1 or more, not {timesteps}: 4 is a good start")
    if pixels is not None and len(pixels) == 0:
        raise UsageError("rounding needs at least one image: give training images with `images`")
    for name, values in module.state_dict().items():
        if not torch.isfinite(values).all():
            raise UsageError(f"{name} has values that are no numbers: lower the learning rate")
        if name.endswith(".threshold") and (values <= 0).any():
            raise UsageError(f"{name} is not positive everywhere: lower the learning rate")


def _spikes(
    module: TrainableResNet, own: TrainableLayer, theirs: dict[str, Tensor], timesteps: int
) -> Tensor:
    """Return the spikes of a layer of the module, int8 `[T, B, C, H, W]`."""
    dtype, side = module.fc.weight.dtype, own.spec.shortcut

    def worth(name: str) -> Tensor | None:
        if name == IMAGE:
            return None
        cell = module.layer(name).neuron
        return cell.threshold  # type: ignore[return-value]

    x = theirs[own.spec.source]
    spikes = own(
        x if own.spec.source == IMAGE else x.to(dtype),
        timesteps,
        theirs[side.source].to(dtype) if side else None,
        worth(own.spec.source),
        worth(side.source) if side else None,
    )
    return spikes.to(torch.int8)


def _integers(
    own: TrainableLayer,
    amplitudes: dict[str, Tensor],
    ours: dict[str, Tensor],
    timesteps: int,
    seed: int,
) -> tuple[SpikingConv, Tensor]:
    """Return a layer's integers, and its scale `[C]`."""
    spec, cell = own.spec, own.neuron
    assert isinstance(cell, SpikingNeurons)
    theta, rule = cell.threshold.float(), cell.rule
    weight = own.weight.float()
    weight = weight * by_input(amplitudes[spec.source], spec.groups, len(weight))
    gain = projection = None
    if spec.shortcut is not None:
        amplitude, side = amplitudes[spec.shortcut.source], own.get_submodule("shortcut")
        if spec.shortcut.kind == "projection":
            projection = side.weight.float() * amplitude.view(1, -1, 1, 1)  # type: ignore[operator]
        else:
            pad = spec.shortcut.pad
            gain = side.gain.float() * F.pad(amplitude, (pad, pad), value=1.0)  # type: ignore[operator]
    most = own.bias.detach().float().abs().amax(0)
    scale = unit_of(weight, projection, theta, most, stem=spec.source == IMAGE)
    whole = (weight / own.unit.view(-1, 1, 1, 1)).flatten(1)
    # A channel that was not trained keeps its unit: all its weights are whole numbers of it.
    kept = (whole - whole.round()).abs().amax(1) < _WHOLE
    scale = torch.where(kept, own.unit.float(), scale)

    def units(values: Tensor, half: float = 0.0) -> Tensor:
        return (values / scale - half).round().clamp(-(2**30), 2**30).to(torch.int32)

    shift = torch.zeros(1)
    if ours:
        weight, projection, shift = _with_feedback(spec, weight, projection, scale, ours, seed)
    else:
        weight = _nearest(weight / scale.view(-1, 1, 1, 1))
        projection = None if projection is None else _nearest(projection / scale.view(-1, 1, 1, 1))
    bias = own.bias.float()
    if ours and len(bias) <= timesteps:  # a row of its own for each timestep that is calibrated
        bias = torch.cat([bias, bias[-1:].expand(timesteps + 1 - len(bias), -1)])
    layer = SpikingConv(
        weight=weight,
        bias=units(bias + shift * scale),
        threshold=units(theta).clamp_min(1),
        v_init=units(cell.v_init.float(), 0.5),
        stride=spec.stride,
        padding=spec.padding,
        neuron=rule.neuron,
        gain=None if gain is None else units(gain),
        projection=projection,
        shortcut_stride=spec.shortcut.stride if spec.shortcut else 1,
        shortcut_pad=spec.shortcut.pad if spec.shortcut else 0,
        max_pool=spec.max_pool,
        bits=rule.bits,
        groups=spec.groups,
        shortcut_padding=spec.shortcut.padding if spec.shortcut else 0,
    )
    return layer, scale


def _nearest(values: Tensor) -> Tensor:
    return values.round().clamp(-127, 127).to(torch.int8)


def _with_feedback(
    spec: Layer,
    weight: Tensor,
    projection: Tensor | None,
    scale: Tensor,
    ours: dict[str, Tensor],
    seed: int,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return int8 weights and projection, and the bias's shift in units of `scale`."""

    def inputs(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        x = (x if x.ndim == 4 else x.flatten(0, 1)).float()
        generator = torch.Generator().manual_seed(seed)
        x = x[torch.randperm(len(x), generator=generator)[:_PAIRS]]
        return patches(x, kernel, stride, padding, generator)

    flat, side = (weight / scale.view(-1, 1, 1, 1)).flatten(1), None
    if projection is not None and spec.shortcut is not None:
        reach = (spec.shortcut.kernel, spec.shortcut.stride, spec.shortcut.padding)
        side = inputs(ours[spec.shortcut.source], *reach)
        flat = torch.cat([flat, projection.flatten(1) / scale[:, None]], 1)
    parts = []
    channels = ours[spec.source].chunk(spec.groups, -3)
    for rows, x in zip(flat.chunk(spec.groups), channels, strict=True):
        seen = inputs(x, spec.kernel, spec.stride, spec.padding)
        parts.append(round_to_int8(rows, seen if side is None else torch.cat([seen, side], 1)))
    rounded, shift = (torch.cat(part) for part in zip(*parts, strict=True))
    main, extra = rounded.split([weight[0].numel(), rounded.shape[1] - weight[0].numel()], 1)
    rest = None if projection is None else extra.reshape(projection.shape).contiguous()
    return main.reshape(weight.shape).contiguous(), rest, shift
