"""hu2018: Hu, Tang and Pan, "Spiking Deep Residual Networks" (arXiv:1805.01352).

One percentile scale lambda per layer; in the paper's unit-threshold form weights become
W lambda_in / lambda_out, an identity shortcut the weight lambda_in / lambda_out, a projection
likewise; membranes start at half the threshold; one compensation factor on all weights, searched in
(1, 1 / maximum firing rate of the last layer) on training images. Here neurons keep ANN units,
threshold lambda_out and spikes of amplitude lambda_in, which is the same network. (A fact of the
paper that could not be had: whether biases are compensated too; here they are not.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from zoo.conversion.methods.base import Job, Method
from zoo.conversion.settings import MethodSettings, Request, Value
from zoo.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.conversion.build import BuildSpec, Built


class Hu2018Settings(MethodSettings):
    """Settings of hu2018.

    Attributes:
        percentile: share of a layer's activations below its threshold.
        images: calibration images.
        steps: factors that the search of the compensation tries.
    """

    percentile: float = Field(0.999, ge=1e-6, le=1.0)
    images: int = Field(128, ge=1, le=2**31)
    steps: int = Field(8, ge=1, le=2**31)


class Hu2018(Method):
    """One scale per layer and one compensation factor."""

    name = "hu2018"
    Settings = Hu2018Settings

    def settings(
        self, request: Request, given: Mapping[str, Value], *, learnt_thresholds: bool = False
    ) -> MethodSettings:
        """Return the settings; graded spikes are refused."""
        if request.neuron not in ("if", "signed"):
            raise UsageError(
                "hu2018 is a method for binary spikes: use `method=calibrated` with "
                f"`neuron={request.neuron}`"
            )
        return super().settings(request, given)

    def build(self, job: Job, settings: MethodSettings) -> tuple[Built, dict[str, Value]]:
        """Return the network with the compensation that is best on the calibration images."""
        from zoo.conversion.build import BuildSpec, build_network
        from zoo.conversion.thresholds import Activations

        assert isinstance(settings, Hu2018Settings)
        activations = Activations(job)
        spec = BuildSpec(
            checkpoint=job.checkpoint,
            theta=activations.percentile(settings.percentile, per_channel=False),
            neuron="signed" if job.request.neuron == "signed" else "if",
            schedule=job.request.schedule,
            numerics=job.request.numerics,
            mean=job.mean,
            std=job.std,
            calibration=None,
        )
        spec = search_compensation(spec, job, settings.steps)
        built = build_network(spec, job.pixels, job.request.timesteps, job.building)
        return built, {"compensation": spec.compensation}


def search_compensation(spec: BuildSpec, job: Job, steps: int) -> BuildSpec:
    """Return the spec with the factor of the best accuracy on the calibration images.

    Factors are `steps` even ones in (1, 1 / maximum firing rate of the last layer). Without labels
    the ANN's predictions stand in for them. Of equal factors the smallest wins.
    """
    from zoo.conversion.build import build_network

    timesteps = job.request.timesteps
    plain = build_network(spec, job.pixels, timesteps)
    last = spec.checkpoint.net.layers[-1].name
    ceiling = 1 / max(plain.peak_rate, 1e-3)
    truth = job.labels if (job.labels >= 0).all() else plain.ann_logits.argmax(1)
    # A neuron that fires at every timestep leaves no room: (1, 1) is empty, and every trial would
    # be the plain network.
    steps = steps if ceiling > 1 else 1
    best, score = spec, accuracy(plain, timesteps, truth)
    for step in range(1, steps):
        factor = 1 + (ceiling - 1) * step / steps
        job.report(f"searching the compensation factor ({last})", step, steps - 1)
        trial = replace(spec, compensation=factor)
        reached = accuracy(build_network(trial, job.pixels, timesteps), timesteps, truth)
        if reached > score:
            best, score = trial, reached
    return best


def accuracy(built: Built, timesteps: int, truth: Tensor) -> float:
    """Return the share of images whose class is `truth` after `timesteps`, without a delay."""
    layerwise = built.network.schedule == "layerwise"
    counts = built.counts[-1] if layerwise else built.counts[timesteps - 1]
    return (built.network.head(counts, timesteps).argmax(1) == truth).float().mean().item()
