"""Calibrate a layer's bias on the spikes that really reach it.

Each channel then fires as often as the ANN asks.

Causal: a bias for each of the first `rows` timesteps. At timestep t, before the neurons of a
channel fire, their potentials are shifted together by the smallest d for which the mean of the
spikes so far is right,

    mean over images and positions of s[t]
        =  (t + 1) E[min(a, theta)] / theta  -  spikes per neuron before t,

with a the ANN's activation. The shift is the bias of that timestep. Forward temporal bias
correction (FTBC, 2024) moves the same biases by gradient steps; a quantile of the potentials gives
them at once. It takes no labels and no gradient.

The bias of all later timesteps is either the mean of the last `tail` shifts, or the one that is
right in the limit of many timesteps, where a neuron's firing rate is r = clip(z, 0, theta) / theta
of the z that its inputs' limits bring: mean r = E[min(a, theta)] / theta again.

Layerwise: one total for each number of timesteps, found the same way on the accumulated input; the
biases are rows whose sums are those totals, so that one artifact serves every number of timesteps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.conversion.trains import SpikeTrain
from zoo.kernels.spiking_conv import Membrane, SpikingConv

# Shifts tried, in thresholds: two thresholds either way in steps of 1/64.
_FINE = 64


_GRID = torch.arange(-128, 129) / _FINE


_LIMIT_SAMPLE = 65_536  # neurons per channel that the bias of the limit is found on


@dataclass(frozen=True)
class Settings:
    """Settings of the calibration.

    Attributes:
        rows: timesteps with a bias of their own.
        tail: last rows whose mean is the bias of later timesteps, unless `limit`.
        limit: use the bias of the limit of many timesteps for later timesteps.
        snapshots: numbers of timesteps that a layerwise network gets a total for.
        sample: neurons per channel (over images and positions, drawn with `seed`) whose potentials
            are looked at.
    """

    rows: int = 32
    tail: int = 8
    limit: bool = False
    snapshots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    sample: int = 4096
    seed: int = 0


def step(
    layer: SpikingConv,
    x: Tensor | SpikeTrain,
    shortcut: SpikeTrain | None,
    membrane: Membrane,
    adjust: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Return a layer's spikes at the membrane's timestep, int8 `[B, C, H, W]`.

    Args:
        x: its input, or the stem's current.
    """
    if isinstance(x, Tensor):
        return layer.run(x, None, membrane, window=1, adjust=adjust)[0]
    t = membrane.t
    return layer.run(
        x[t][None], None if shortcut is None else shortcut[t][None], membrane, adjust=adjust
    )[0]


def causal(
    layer: SpikingConv,
    x: Tensor | SpikeTrain,
    shortcut: SpikeTrain | None,
    target: Tensor,
    steps: int,
    settings: Settings | None,
) -> tuple[SpikingConv, SpikeTrain]:
    """Calibrate and run one layer; without settings, run it as it is.

    Args:
        layer: with the ANN's bias, `[1, C]`.
        x, shortcut: spikes of its sources, at least `steps` timesteps; for the stem, x is its
            constant current.
        target: the ANN's activation in the layer's own units, `[B, C, H, W]`.

    Returns:
        The layer with bias `[rows + 1, C]`, and its spikes of `steps` timesteps.
    """
    membrane, spikes = (
        layer.membrane(len(target), target.shape[2], target.shape[3], steps),
        SpikeTrain(layer.neuron == "signed", layer.bits),
    )
    if settings is not None:
        layer = _match(layer, x, shortcut, target, membrane, spikes, settings)
    while len(spikes) < steps:
        spikes.append(step(layer, x, shortcut, membrane))
    return layer, spikes


def _match(
    layer: SpikingConv,
    x: Tensor | SpikeTrain,
    shortcut: SpikeTrain | None,
    target: Tensor,
    membrane: Membrane,
    spikes: SpikeTrain,
    settings: Settings,
) -> SpikingConv:
    """Return the layer with a bias for each of the first `rows` timesteps, and one for later ones.

    The timesteps are run and added to `spikes`.
    """
    theta = layer.threshold.float()
    sampled = _sample(target, settings)
    rate = (_by_channel(target, sampled) / theta[:, None]).clamp_max(layer.max_level).mean(1)
    fired = torch.zeros_like(rate)
    shifts: list[Tensor] = []
    for t in range(settings.rows):
        missing = (t + 1) * rate - fired

        def adjust(t: int, v: Tensor, missing: Tensor = missing) -> Tensor:
            owing = None if membrane.emitted is None else _by_channel(membrane.emitted, sampled) > 0
            potential = _by_channel(v, sampled) / theta[:, None]
            shift = _shift(potential, missing, owing, layer.max_level) * theta
            shifts.append(shift.round() if layer.integer else shift)
            return shifts[-1].to(v.dtype)

        now = step(layer, x, shortcut, membrane, adjust)
        spikes.append(now)
        fired = fired + _by_channel(now, sampled).mean(1)
    tail = torch.stack(shifts[-settings.tail :]).mean(0)
    bias = layer.bias + torch.stack([*shifts, tail.round() if layer.integer else tail])
    return replace(layer, bias=bias.to(layer.bias.dtype))


def follow(
    layer: SpikingConv, x: Tensor, shortcut: Tensor | None, wanted: Tensor, settings: Settings
) -> tuple[SpikingConv, Tensor]:
    """Calibrate one layer so that at every timestep a channel has fired as often as in `wanted`.

    Args:
        layer: its bias has a row for each timestep of `wanted` and one for later ones.
        x, shortcut: spikes of its sources, int8 `[T, B, C, H, W]`; for the stem, x is its constant
            current `[B, C, H, W]`.
        wanted: spikes, `[T, B, C, H, W]`.

    Returns:
        The layer with shifted bias, and its spikes, int8 `[T, B, C, H, W]`. Where it fires as
        wanted already, nothing is shifted.
    """
    batch, _, height, width = wanted.shape[1:]
    membrane = layer.membrane(batch, height, width, len(wanted))
    theta, sampled = layer.threshold.float(), _sample(wanted[0], settings)
    missing, bias, steps = torch.zeros_like(theta), layer.bias.clone(), []
    for t in range(len(wanted)):
        missing = missing + _by_channel(wanted[t], sampled).mean(1)

        def adjust(t: int, v: Tensor, missing: Tensor = missing) -> Tensor:
            owing = None if membrane.emitted is None else _by_channel(membrane.emitted, sampled) > 0
            potential = _by_channel(v, sampled) / theta[:, None]
            shift = (_shift(potential, missing, owing, layer.max_level) * theta).round()
            bias[t] += shift.to(bias.dtype)
            return shift.to(v.dtype)

        if x.ndim == 4:
            spikes = layer.run(x, None, membrane, window=1, adjust=adjust)
        else:
            side = None if shortcut is None else shortcut[t : t + 1]
            spikes = layer.run(x[t : t + 1], side, membrane, adjust=adjust)
        missing = missing - _by_channel(spikes[0], sampled).mean(1)
        steps.append(spikes[0])
    return replace(layer, bias=bias), torch.stack(steps)


def limit(
    layer: SpikingConv,
    x: Tensor,
    shortcut: Tensor | None,
    target: Tensor,
    settings: Settings,
    constant: bool = False,
) -> tuple[SpikingConv, Tensor]:
    """Set the bias after the calibrated rows to the one that is right after many timesteps.

    Args:
        layer: with bias `[rows + 1, C]`; its row for later timesteps is replaced.
        x, shortcut: limits of its sources' firing rates, float `[B, C, H, W]`; with `constant`, x
            is the stem's current.
        target: the ANN's activation in the layer's own units, `[B, C, H, W]`.

    Returns:
        The layer, and its own limit in spikes per timestep, float `[B, C, H, W]`.
    """
    theta = layer.threshold.float()
    ending = replace(layer, bias=layer.bias[-1:], v_init=torch.zeros_like(layer.v_init))
    z = ending.accumulated_input(x, shortcut, 1, constant).float().div_(theta.view(-1, 1, 1))
    sampled = _sample(target, replace(settings, sample=_LIMIT_SAMPLE))
    rate = (_by_channel(target, sampled) / theta[:, None]).clamp_max(layer.max_level).mean(1)
    shift = _rate_shift(_by_channel(z, sampled), layer.max_level, rate) * theta
    shift = shift.round() if layer.integer else shift
    bias = torch.cat([layer.bias[:-1], layer.bias[-1:] + shift.to(layer.bias.dtype)])
    z += (shift / theta).view(-1, 1, 1)
    return replace(layer, bias=bias), z.clamp_(0, layer.max_level)


def layerwise(
    layer: SpikingConv, inputs: Mapping[int, Tensor], target: Tensor, settings: Settings
) -> SpikingConv:
    """Calibrate one layerwise layer.

    Args:
        inputs: accumulated input `[B, C, H, W]` by number of timesteps, the ANN's bias included.
        target: the ANN's activation in the layer's own units, `[B, C, H, W]`.

    Returns:
        The layer with one bias row for each timestep up to the largest number, and one more for the
        timesteps after.
    """
    theta = layer.threshold.float()
    sampled = _sample(target, settings)
    rate = (_by_channel(target, sampled) / theta[:, None]).clamp_max(1).mean(1)
    rows: list[Tensor] = []
    given = torch.zeros_like(theta)
    for timesteps, accumulated in sorted(inputs.items()):
        levels = _by_channel(accumulated, sampled) / theta[:, None]
        shift = _count_shift(levels, timesteps, timesteps * rate) * theta
        total = timesteps * layer.bias[0].float() + shift
        steps = timesteps - len(rows)
        sums = [given + (total - given) * done / steps for done in range(steps + 1)]
        sums = [value.round() for value in sums] if layer.integer else sums
        rows += [after - before for before, after in itertools.pairwise(sums)]
        given = sums[-1]
    bias = torch.cat([torch.stack(rows), layer.bias.float()])
    return replace(layer, bias=bias.to(layer.bias.dtype))


def _sample(activations: Tensor, settings: Settings) -> Tensor:
    count = activations.numel() // activations.shape[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    return order[: settings.sample].to(activations.device)


def _by_channel(values: Tensor, sampled: Tensor) -> Tensor:
    """Return the sampled values of each channel, float `[C, n]`, of `[B, C, H, W]`."""
    return values.permute(0, 2, 3, 1).flatten(0, 2)[sampled].float().T.contiguous()


def _shift(potential: Tensor, missing: Tensor, owing: Tensor | None, max_level: int) -> Tensor:
    """Return the smallest shift `[C]` whose mean spikes are nearest to `missing` `[C]`.

    Args:
        potential: in thresholds, as the shift, `[C, n]`.
        owing: neurons that would take a spike back under zero (`signed`), bool `[C, n]`.
    """
    span, count = len(_GRID) // 2, potential.shape[1]
    # By histogram instead of sorting, which takes longer; multiplying by a power of two is exact.
    steps = (potential * _FINE).floor_()
    grid = torch.arange(-span, span + 1, device=potential.device)
    reached = _at_least(steps, -span, _FINE * max_level + span)
    # A graded spike of k is k thresholds passed.
    fires = sum(
        (reached[:, _FINE * k - grid + span] for k in range(1, max_level + 1)),
        torch.zeros((), dtype=torch.int64, device=potential.device),
    )
    if owing is not None:
        stay = _at_least(steps.masked_fill_(~owing, torch.inf), -span, span)
        fires = fires - (count - stay[:, span - grid])
    return _nearest(fires / count, missing)


def _at_least(values: Tensor, low: int, high: int) -> Tensor:
    """Count the whole numbers `values` `[C, n]` that are at least low, low + 1, ..., high.

    Returns:
        int64 `[C, high - low + 1]`.
    """
    bins = high - low + 2
    index = values.clamp(low - 1, high).long() - (low - 1)
    index += torch.arange(len(values), device=values.device)[:, None] * bins
    counts = torch.bincount(index.flatten(), minlength=len(values) * bins).view(-1, bins)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]


def _count_shift(accumulated: Tensor, timesteps: int, target: Tensor) -> Tensor:
    """Return the smallest shift `[C]`, in thresholds, whose mean count is nearest to the target.

    The count is clip(floor(accumulated), 0, T).
    """
    counts = [(accumulated + shift).floor_().clamp_(0, timesteps).mean(1) for shift in _GRID]
    return _nearest(torch.stack(counts, 1), target)


def _rate_shift(rates: Tensor, max_level: int, target: Tensor) -> Tensor:
    """Return the shift `[C]` with which the mean of clip(rates, 0, max_level) is the target.

    By bisection; rates `[C, n]` and the shift are in thresholds.
    """
    low = -rates.amax(1)
    high = max_level - rates.amin(1)
    for _ in range(24):
        middle = (low + high) / 2
        less = (rates + middle[:, None]).clamp_(0, max_level).mean(1) < target
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) / 2


def _nearest(means: Tensor, target: Tensor) -> Tensor:
    """Return the shift `[C]` of the grid whose mean `[C, len(grid)]` is nearest to the target."""
    grid = _GRID.to(means.device)
    # The tie-break prefers the shift nearest to zero; it is far under the 1/4096 of a spike that
    # the sample can tell apart.
    best = ((means - target[:, None]).abs() + 1e-6 * grid.abs()).argmin(1)
    return grid[best]
