"""Choose thresholds: from a sample of the ANN's activations, by running it, or from BatchNorm.

A threshold is in ANN units: a spike of a neuron with threshold theta is worth theta, so T timesteps
can represent 0, theta/T, ... theta.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from zoo.conversion.methods.base import Job
from zoo.conversion.settings import CalibratedSettings
from zoo.errors import UsageError
from zoo.networks.batchnorm import Moments
from zoo.networks.pixels import image_table, look_up
from zoo.networks.resnet import activate, ann_forward
from zoo.networks.topology import Layer, Topology

SAMPLE = 16_384
_BATCH = 64


@torch.inference_mode()
def sample_activations(
    net: Topology,
    params: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    images: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Return activations after each ReLU at random positions, the same number from every image.

    Args:
        batches: normalised float images `[B, C, H, W]`.
        images: how many they are in all.
        progress: called with the images done.

    Returns:
        float `[C, about SAMPLE]` by layer.
    """
    generator = torch.Generator().manual_seed(seed)
    sample: dict[str, list[Tensor]] = {layer.name: [] for layer in net.layers}

    def on_layer(layer: Layer, z: Tensor) -> Tensor:
        activation = activate(layer, params, z)
        flat = activation.permute(1, 0, 2, 3).flatten(2)
        per_image = max(1, SAMPLE // images)
        if flat.shape[2] > per_image:
            flat = flat[:, :, torch.randperm(flat.shape[2], generator=generator)[:per_image]]
        sample[layer.name].append(flat.flatten(1).clone())
        return activation

    done = 0
    for batch in batches:
        ann_forward(net, params, batch, on_layer)
        done += len(batch)
        if progress is not None:
            progress(done)
    return {name: torch.cat(parts, 1) for name, parts in sample.items()}


def percentile(sample: Tensor, share: float, *, per_channel: bool) -> Tensor:
    """Return the activation `[C]` that `share` of the sample stays under.

    Hu et al. sort all values and take index floor(share * n).
    """
    values = sample if per_channel else sample.reshape(1, -1)
    index = min(int(share * values.shape[1]), values.shape[1] - 1)
    theta = values.kthvalue(index + 1, dim=1).values.clamp_min(1e-6)
    return theta.expand(len(sample)).clone()


def mmse(sample: Tensor, levels: int, grid: int = 64) -> Tensor:
    """Return the threshold `[C]` of least squared error at `levels` evenly spaced spike counts.

    Minimises E (x - theta/N clip(floor(N x/theta + 1/2), 0, N))^2 over `grid` candidates between
    the maximum and 1/grid of it (Li et al., arXiv:2106.06984, eq. 11).
    """
    peak = sample.amax(1).clamp_min(1e-6)
    best, error = peak.clone(), torch.full_like(peak, torch.inf)
    for step in range(grid):
        theta = (peak * (1 - step / grid))[:, None]
        rounded = (
            (sample * (levels / theta)).add_(0.5).floor_().clamp_(0, levels).mul_(theta / levels)
        )
        mean = rounded.sub_(sample).square_().mean(1)
        better = mean < error
        best, error = torch.where(better, theta[:, 0], best), torch.where(better, mean, error)
    return best


@torch.inference_mode()
def local_threshold_balancing(
    net: Topology,
    params: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    channels: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return the thresholds `[C]` of local threshold balancing, by layer.

    theta_c += 2 E[(z - theta_c) 1(z > theta_c)], all layers at once while the clipped ANN runs
    (Bu, Li and Yu, CVPR 2025, eq. 17).

    There is no interior minimum: theta grows towards the maximum, and the number of batches is what
    decides.
    """
    device = params["fc.weight"].device
    theta = {layer.name: torch.zeros(channels[layer.name], device=device) for layer in net.layers}

    def on_layer(layer: Layer, z: Tensor) -> Tensor:
        over = (z - theta[layer.name].view(-1, 1, 1)).clamp_min_(0)
        theta[layer.name] += 2 * over.mean((0, 2, 3))
        return torch.minimum(z.clamp_min(0), theta[layer.name].view(-1, 1, 1))

    for batch in batches:
        ann_forward(net, params, batch, on_layer)
    return {name: value.clamp_min(1e-6) for name, value in theta.items()}


def gaussian(mean: Tensor, std: Tensor, levels: int) -> Tensor:
    """Return the threshold that `mmse` finds on normal pre-activations, float64 `[C]`.

    It is the root of the error's derivative, by bisection. With c_i = (i - 1/2) theta / N,
    e_i = erfc((c_i - mean) / (sqrt(2) std)), g_i = exp(-(c_i - mean)^2 / (2 std^2)) it is where

        mean sum e_i + std sqrt(2 / pi) sum g_i = theta / N sum (2i - 1) e_i

    (Huang et al., arXiv:2503.00301, whose fixed-point iteration converges slowly). At smaller theta
    the left side is the larger.
    """
    low, high = 0.1 * std, mean.clamp_min(0) + 10 * std
    middles = torch.arange(1, levels + 1, device=mean.device).double() - 0.5
    for _ in range(60):
        theta = (low + high) / 2
        offset = (middles * theta[:, None] / levels - mean[:, None]) / std[:, None]
        tail = torch.erfc(offset / math.sqrt(2))
        gained = mean * tail.sum(1) + std * math.sqrt(2 / math.pi) * (
            -offset.square() / 2
        ).exp().sum(1)
        small = gained > theta / levels * (2 * middles * tail).sum(1)
        low, high = torch.where(small, theta, low), torch.where(small, high, theta)
    return (low + high) / 2


def from_moments(net: Topology, moments: Mapping[str, Moments], levels: int) -> dict[str, Tensor]:
    """Return the threshold `[C]` of each layer without any image.

    It is `gaussian` of the distribution that reaches its neurons.

    A convolution delivers what BatchNorm recorded, mean beta and deviation |gamma|; an identity
    shortcut delivers a normal value behind a ReLU. What meets in a neuron is taken to be
    independent, and its sum to be normal; pooling is left out.
    """
    theta: dict[str, Tensor] = {}
    rectified: dict[str, tuple[Tensor, Tensor]] = {}  # mean and variance behind the ReLU
    for layer in net.layers:
        mean, var = moments[layer.name].mean.double(), moments[layer.name].std.double().square()
        if layer.shortcut is not None:
            if layer.shortcut.kind == "projection":
                side = moments[f"{layer.name}.shortcut"]
                extra = side.mean.double(), side.std.double().square()
            else:
                pad = (layer.shortcut.pad, layer.shortcut.pad)
                first, second = rectified[layer.shortcut.source]
                extra = torch.nn.functional.pad(first, pad), torch.nn.functional.pad(second, pad)
            mean, var = mean + extra[0], var + extra[1]
        std = var.sqrt().clamp_min(1e-6)
        theta[layer.name] = gaussian(mean, std, levels).float()
        share = torch.special.ndtr(mean / std)
        density = std * (-(mean / std).square() / 2).exp() / math.sqrt(2 * math.pi)
        first = mean * share + density
        rectified[layer.name] = (
            first,
            ((mean.square() + var) * share + mean * density - first.square()).clamp_min(0),
        )
        rectified |= {pool.name: rectified[layer.name] for pool in net.pools_behind(layer.name)}
    return theta


class Activations:
    """Thresholds of each layer, from the ANN's activations on the calibration images of a job.

    All methods return theta, float32 `[C]` of each layer, in ANN units.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.table = image_table(job.mean, job.std, integer=False).to(job.pixels.device)

    @cached_property
    def sample(self) -> dict[str, Tensor]:
        """Return activations drawn from each layer, `[C, N]`."""
        count, job = len(self.job.pixels), self.job
        return sample_activations(
            job.checkpoint.net,
            job.checkpoint.params,
            self._batches(),
            count,
            job.seed,
            lambda done: job.report("sampling activations", done, count),
        )

    def thresholds(self, settings: CalibratedSettings) -> dict[str, Tensor]:
        """Return the thresholds of the rule that the settings name.

        Raises:
            UsageError: a rule that the checkpoint has nothing for.
        """
        ann, rule = self.job.checkpoint, settings.thresholds
        if rule == "moments":
            if ann.moments is None:
                raise UsageError(
                    f"{ann.name} has no BatchNorm statistics to take thresholds from: use mmse or "
                    "percentile"
                )
            return from_moments(ann.net, ann.moments, settings.levels)
        if rule == "learnt":
            if "levels" not in ann.params:
                raise UsageError(
                    f"{ann.name} was trained with ReLU and has learnt no thresholds: use mmse or "
                    "percentile"
                )
            return {layer.name: ann.params[f"{layer.name}.threshold"] for layer in ann.net.layers}
        if rule == "mmse":
            return self.mmse(settings.levels)
        if rule == "ltb":
            return self.balanced(settings.iterations)
        if rule == "percentile":
            return self.percentile(settings.percentile, per_channel=True)
        least, balanced = self.mmse(settings.levels), self.balanced(settings.iterations)
        return {name: torch.minimum(theta, balanced[name]) for name, theta in least.items()}

    def mmse(self, levels: int) -> dict[str, Tensor]:
        """Return the thresholds of least squared error at this many levels."""
        return {name: mmse(values, levels) for name, values in self.sample.items()}

    def percentile(self, share: float, *, per_channel: bool) -> dict[str, Tensor]:
        """Return the percentile of each channel's, or each layer's, activations."""
        return {
            name: percentile(values, share, per_channel=per_channel)
            for name, values in self.sample.items()
        }

    def balanced(self, iterations: int) -> dict[str, Tensor]:
        """Return the thresholds of local threshold balancing over so many batches."""
        net, params = self.job.checkpoint.net, self.job.checkpoint.params
        return local_threshold_balancing(net, params, self._some(iterations), net.channels)

    def _batches(self) -> Iterator[Tensor]:
        for pixels in self.job.pixels.split(_BATCH):
            yield look_up(self.table, pixels)

    def _some(self, count: int) -> Iterator[Tensor]:
        endless = itertools.chain.from_iterable(self._batches() for _ in itertools.count())
        for done, batch in enumerate(itertools.islice(endless, count), start=1):
            self.job.report("balancing thresholds", done, count)
            yield batch
