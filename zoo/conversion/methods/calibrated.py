"""calibrated: thresholds per channel, weights rounded first, a calibrated bias for each timestep.

Thresholds are those of least squared error by default. Then each layer's bias for each timestep is
calibrated (`zoo.conversion.calibrate`) on the spikes of the layers before, which are calibrated
already: whatever rounding, clipping and firing too early did to a layer's mean is in its input when
the next is calibrated. Then the timesteps that the read-out skips are chosen.

With `tune` steps the network is distilled from the ANN on training images first
(`zoo.conversion.distil`); with `stem` neurons for each of its channels a layerwise stem has so many
times the levels (`zoo.conversion.stem`). With a `budget` layers have as many bits a spike as pays
most (`zoo.conversion.allocate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from zoo.conversion.methods.base import Job, Method
from zoo.conversion.settings import CalibratedSettings, MethodSettings, Request, Value
from zoo.kernels.neuron import NeuronKind

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.artifact.config import MethodName
    from zoo.conversion.build import BuildSpec, Built
    from zoo.conversion.thresholds import Activations
    from zoo.networks.topology import Topology


# Bits that layers are offered beside the fewest, by these. A spike of 5 or 6 bits takes a byte.
MORE_BITS = {1: (2, 4), 2: (4,), 4: (5, 6)}


class TunedSettings(CalibratedSettings):
    """Settings of calibrated.

    Attributes:
        tune: steps of distillation; 0 for none.
        tune_images: training images for it.
        tune_rate: its learning rate.
    """

    tune: int = Field(0, ge=0, le=10**6)
    tune_images: int = Field(20_000, ge=1, le=2**31)
    tune_rate: float = Field(4e-4, ge=1e-9, le=1.0)

    @property
    def drawn(self) -> int:
        """Most images that a conversion with these settings draws."""
        return max(self.images, self.tune_images if self.tune else 0)


class Calibrated(Method):
    """Thresholds per channel and a bias for each timestep, on training images."""

    name: ClassVar[MethodName] = "calibrated"
    Settings: ClassVar[type[CalibratedSettings]] = TunedSettings

    def settings(
        self, request: Request, given: Mapping[str, Value], *, learnt_thresholds: bool = False
    ) -> MethodSettings:
        """Return the settings; an ANN with thresholds of its own keeps them by default."""
        settings = super().settings(request, given)
        if learnt_thresholds and "thresholds" not in given:
            settings = settings.model_copy(update={"thresholds": "learnt"})
        return settings

    def build(self, job: Job, settings: MethodSettings) -> tuple[Built, dict[str, Value]]:
        """Return the calibrated network."""
        from zoo.conversion import calibrate
        from zoo.conversion.build import BuildSpec, build_network
        from zoo.conversion.readout import search_delay
        from zoo.conversion.thresholds import Activations
        from zoo.networks.topology import with_stem

        assert isinstance(settings, CalibratedSettings)
        request, activations = job.request, Activations(job)
        calibration = calibrate.Settings(
            rows=settings.rows, limit=settings.tail == "limit", seed=job.seed
        )
        neurons: dict[str, NeuronKind] = {}
        if settings.budget is None:
            theta = activations.thresholds(settings)
        else:
            theta, neurons = by_layer(job, activations, settings)
        spec = BuildSpec(
            checkpoint=job.checkpoint,
            theta=theta,
            neuron="if" if request.neuron == "mixed" else request.neuron,
            schedule=request.schedule,
            numerics=request.numerics,
            mean=job.mean,
            std=job.std,
            calibration=calibration if settings.bias == "matched" else None,
            bits=settings.bits or 1,
            neurons=neurons,
        )
        if isinstance(settings, TunedSettings) and settings.tune:
            spec = distilled(spec, job, settings)
        if settings.stem > 1:
            spec = with_wide_stem(spec, with_stem(job.checkpoint.net, settings.stem), job)
        built = build_network(spec, job.pixels, request.timesteps, job.building)
        if settings.delay != "none" and request.schedule == "causal":
            built.network.delay = search_delay(built, settings.delay)
        return built, {}


def by_layer(
    job: Job, activations: Activations, settings: CalibratedSettings
) -> tuple[dict[str, Tensor], dict[str, NeuronKind]]:
    """Return the thresholds and the neurons of each layer that `budget` buys.

    Thresholds are chosen for levels in proportion to those of a spike.
    """
    from zoo.conversion.allocate import choose_bits

    assert settings.budget is not None
    least = NeuronKind("multi-level", settings.bits) if settings.bits else NeuronKind()
    kinds = {least.bits: least}
    kinds |= {bits: NeuronKind("multi-level", bits) for bits in MORE_BITS[least.bits]}
    theta = {
        bits: activations.thresholds(
            settings.model_copy(
                update={"levels": settings.levels * kind.max_level // least.max_level}
            )
        )
        for bits, kind in kinds.items()
    }
    only = job.checkpoint.net.residual_stream if settings.blocks == "binary" else None
    chosen = choose_bits(job, theta, activations.sample, settings.budget, only)
    return (
        {name: theta[bits][name] for name, bits in chosen.bits.items()},
        {name: kinds[bits] for name, bits in chosen.bits.items()},
    )


def distilled(spec: BuildSpec, job: Job, settings: TunedSettings) -> BuildSpec:
    """Return the spec with weights, biases and thresholds distilled from the ANN, without labels.

    Layerwise, for the requested timesteps alone: biases are part of what was tuned and are not
    calibrated again. Causal, for activations of `levels` levels: the network that comes out is then
    converted as one that was trained with them would be.
    """
    import torch

    from zoo.conversion.distil import distil

    layerwise = spec.schedule == "layerwise"
    levels = job.request.timesteps if layerwise else settings.levels
    drawn = job.images.take(settings.tune_images, job.seed)
    tuned, theta = distil(
        spec.checkpoint,
        spec.theta,
        torch.cat([batch for batch, _ in drawn.batches(job.prep, 64)]).to(job.pixels.device),
        spec.mean,
        spec.std,
        timesteps=levels,
        steps=settings.tune,
        rate=settings.tune_rate,
        seed=job.seed,
        progress=lambda done, total: job.report("tuning", done, total),
    )
    if layerwise:
        return replace(spec, tuned=tuned.params, theta=theta, calibration=None)
    thresholds = {f"{name}.threshold": value for name, value in theta.items()}
    params = {**tuned.params, **thresholds, "levels": torch.tensor([float(levels)])}
    return replace(spec, checkpoint=replace(tuned, params=params), theta=theta)


def with_wide_stem(spec: BuildSpec, wide: Topology, job: Job) -> BuildSpec:
    """Return the spec of the same network with several neurons for each channel of its stem."""
    from zoo.conversion.stem import split_stem

    ann, stem = spec.checkpoint, wide.layers[0].name
    theta, timesteps = spec.theta[stem], job.request.timesteps
    tuned = spec.tuned
    if tuned is not None:
        tuned = split_stem(ann.net, tuned, theta, wide.stem, timesteps)
    params = split_stem(ann.net, ann.params, theta, wide.stem, timesteps)
    return replace(
        spec,
        checkpoint=replace(ann, net=wide, params=params),
        theta={**spec.theta, stem: theta.repeat(wide.stem)},
        tuned=tuned,
    )
