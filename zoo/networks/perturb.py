"""What may go wrong in hardware, done to a run: spikes lost or late, thresholds and weights off.

The contract, the same on every backend: a perturbation changes the parameters of layers before the
run, and what a layer sends after its neurons have fired. The neurons' own reset is by the spikes
that they fired; everything that reads them (the layers behind, the classifier, the counts of
spikes, `on_spikes`) gets what was sent. A layer's spikes are given at once, over all timesteps.
The classifier's weights stay as they are.

What is random depends on the seed, the layer and the image's index in the run alone: neither
chunks, nor the backend, nor the machine change it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import SpikingConv


class Perturbation:
    """Base of perturbations; this one changes nothing."""

    def layer(self, name: str, layer: SpikingConv) -> SpikingConv:
        """Return the layer to run in place of one: another, never one that was changed in place."""
        return layer

    def spikes(self, name: str, spikes: Tensor, first: int) -> Tensor:
        """Return what a layer sends instead of its spikes.

        Args:
            name: of the layer.
            spikes: a copy of its spikes, int8 `[T, B, C, H, W]`, over all timesteps.
            first: index in the run of the first of these images.
        """
        return spikes


Perturb = Perturbation | Callable[[str, Tensor], Tensor] | Sequence["Perturb"]


@dataclass(frozen=True)
class _Plain(Perturbation):
    """A function of a layer's name and its spikes."""

    function: Callable[[str, Tensor], Tensor]

    def spikes(self, name: str, spikes: Tensor, first: int) -> Tensor:
        return self.function(name, spikes)


@dataclass(frozen=True)
class _Several(Perturbation):
    """Perturbations one after another."""

    parts: tuple[Perturbation, ...]

    def layer(self, name: str, layer: SpikingConv) -> SpikingConv:
        for part in self.parts:
            layer = part.layer(name, layer)
        return layer

    def spikes(self, name: str, spikes: Tensor, first: int) -> Tensor:
        for part in self.parts:
            spikes = part.spikes(name, spikes, first)
        return spikes


@dataclass(frozen=True)
class DeleteSpikes(Perturbation):
    """Loses each spike with a probability, independently.

    Attributes:
        probability: 0 to 1.
        seed: of the draws.
    """

    probability: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def spikes(self, name: str, spikes: Tensor, first: int) -> Tensor:
        draws = _draws(spikes, self.seed, name, first)
        return spikes.masked_fill(draws < self.probability, 0)


@dataclass(frozen=True)
class JitterSpikes(Perturbation):
    """Sends each spike up to some timesteps earlier or later, every shift being as likely.

    One that would leave the run arrives at its end. Of spikes of a neuron that meet the largest
    stays; a 1 and a -1 cancel.

    Attributes:
        timesteps: the largest shift, 1 or more.
        seed: of the draws.
    """

    timesteps: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise UsageError(f"a jitter of {self.timesteps} timesteps is none: use 1 or more")

    def spikes(self, name: str, spikes: Tensor, first: int) -> Tensor:
        steps, span = len(spikes), 2 * self.timesteps + 1
        shifts = (_draws(spikes, self.seed, name, first) * span).long().clamp_(max=span - 1)
        times = torch.arange(steps, device=spikes.device).view(-1, 1, 1, 1, 1)
        arrives = (times + shifts - self.timesteps).clamp_(0, steps - 1)
        none = torch.zeros_like(spikes, dtype=torch.int32)
        wide = spikes.to(torch.int32)
        above = none.scatter_reduce(0, arrives, wide.clamp(min=0), "amax")
        below = none.scatter_reduce(0, arrives, wide.clamp(max=0), "amin")
        return (above + below).to(spikes.dtype)


@dataclass(frozen=True)
class ThresholdNoise(Perturbation):
    """Multiplies each channel's threshold by 1 + deviation x a standard normal draw, fixed in time.

    Attributes:
        deviation: relative, 0.05 for 5 %.
        seed: of the draws.
    """

    deviation: float
    seed: int = 0

    def layer(self, name: str, layer: SpikingConv) -> SpikingConv:
        noise = torch.randn(len(layer.threshold), generator=_generator(self.seed, name))
        moved = layer.threshold.double() * (1 + self.deviation * noise.to(layer.threshold.device))
        if layer.integer:
            moved = moved.round_().clamp_(1, 2**30)
        return replace(layer, threshold=moved.to(layer.threshold.dtype))


@dataclass(frozen=True)
class FlipWeightBits(Perturbation):
    """Flips each of the eight bits of each int8 weight with a probability, independently.

    -128, which weights cannot be, becomes -127.

    Attributes:
        probability: 0 to 1.
        seed: of the draws.
    """

    probability: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def layer(self, name: str, layer: SpikingConv) -> SpikingConv:
        if not layer.integer:
            raise UsageError(f"{name} has float32 weights: bits are flipped in int8 networks")
        generator = _generator(self.seed, name)

        def flipped(weight: Tensor) -> Tensor:
            draws = torch.rand((8, *weight.shape), generator=generator) < self.probability
            places = 2 ** torch.arange(8).view(-1, *[1] * weight.ndim)
            mask = (draws * places).sum(0).to(torch.uint8).to(weight.device)
            return (weight.view(torch.uint8) ^ mask).view(torch.int8).clamp_(min=-127)

        projection = layer.projection
        return replace(
            layer,
            weight=flipped(layer.weight),
            projection=None if projection is None else flipped(projection),
        )


def perturbation(perturb: Perturb) -> Perturbation:
    """Return what `perturb=` was given as one perturbation.

    Raises:
        UsageError: it is neither a `Perturbation`, nor a function, nor a sequence of these.
    """
    if isinstance(perturb, Perturbation):
        return perturb
    if callable(perturb):
        return _Plain(perturb)
    if isinstance(perturb, Sequence) and not isinstance(perturb, str):
        return _Several(tuple(perturbation(part) for part in perturb))
    raise UsageError(
        f"`perturb` is {type(perturb).__name__}: give a function of a layer's name and its spikes, "
        "one of zoo.networks.perturb, or a list of these"
    )


def check_spikes(name: str, given: object, had: Tensor, low: int, high: int) -> Tensor:
    """Return what a perturbation sends for a layer, as int8.

    Raises:
        UsageError: it is not as many whole numbers from `low` to `high`.
    """
    if not isinstance(given, Tensor) or given.shape != had.shape:
        what = f"shape {list(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise UsageError(
            f"`perturb` returned {what} for {name}: return spikes of shape {list(had.shape)}"
        )
    sent = given.to(had.device, torch.int8)
    if not torch.equal(sent.to(given.dtype), given.to(had.device)) or (
        sent.numel() and not (sent.min() >= low and sent.max() <= high)
    ):
        raise UsageError(f"`perturb` returned other spikes than {low} to {high} for {name}: clip")
    return sent


def _draws(spikes: Tensor, seed: int, name: str, first: int) -> Tensor:
    """Return uniform draws in [0, 1) for each spike, those of an image whatever goes with it."""
    shape = (len(spikes), *spikes.shape[2:])
    found = torch.empty(spikes.shape)
    for index in range(spikes.shape[1]):
        generator = _generator(seed, f"{name}/{first + index}")
        found[:, index] = torch.rand(shape, generator=generator)
    return found.to(spikes.device)


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"{value} is no probability: use 0 to 1")
