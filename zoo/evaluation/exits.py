"""Early exit measured: the rule is calibrated on training images, its price counted on others.

Logits at every timestep come from one run, so the accuracy of every rule is known from it. Synaptic
operations are counted for each image and timestep: an image that exits at t has cost those up to t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.evaluation.energy import fan_out
from zoo.kernels.spiking_conv import PoolState, max_pool_spikes
from zoo.networks.exits import ExitRule, RuleName, sureness
from zoo.networks.observe import run_watched
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE
from zoo.progress import Progress

# Thresholds tried: so many quantiles of what was seen.
_TRIED = 2000


@dataclass(frozen=True)
class Observed:
    """What a run to the last timestep showed of labelled images, all `[T, N]`.

    Attributes:
        sure: what each rule compares, float64, by its name.
        right: whether the image is classified right.
        operations: effective synaptic operations of the image up to the timestep, of layers and
            classifier; None where they were not counted.
    """

    sure: dict[RuleName, Tensor]
    right: Tensor
    operations: Tensor | None

    @property
    def accuracy(self) -> float:
        """Percent of the images that are right after all timesteps."""
        return 100 * float(self.right[-1].double().mean())


@dataclass(frozen=True)
class ExitRow:
    """A rule on labelled images.

    Attributes:
        loss: points of accuracy that it was calibrated to lose at most.
        top1, whole: accuracy in percent with the rule, and after all timesteps.
        images: number of images that exit after each timestep, from 1 on; they add up to all.
        mean_timesteps: mean timestep of exit.
        operations, whole_operations: mean of an image, with the rule and after all timesteps; None
            where they were not counted.
    """

    rule: ExitRule
    loss: float
    top1: float
    whole: float
    images: list[int]
    mean_timesteps: float
    operations: float | None
    whole_operations: float | None


@torch.inference_mode()
def observe_exits(
    network: SpikingResNet,
    images: ImageSet,
    timesteps: int,
    *,
    names: Sequence[RuleName] = ("margin", "entropy"),
    count_operations: bool = True,
    batch_size: int = 128,
    progress: Progress | None = None,
) -> Observed:
    """Run labelled images to `timesteps`.

    Raises:
        UsageError: no labels, or a layerwise network.
    """
    if network.config is None or len(images) == 0 or images.labels.min() < 0:
        raise UsageError(f"{images.description}: an exit is measured on labelled images: give some")
    if network.schedule != "causal":
        raise UsageError("a layerwise network has logits after all timesteps alone: no early exit")
    prep = Preprocess.of(network.config)
    met = fan_out(network, *prep.input_size[1:]) if count_operations else {}
    head = int((network.head.weight != 0).sum())
    sure: dict[RuleName, list[Tensor]] = {name: [] for name in names}
    right, operations = [], []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        batch, labels = images.batch(part, prep), torch.from_numpy(images.labels[part].copy())
        if count_operations:
            counted, logits = _operations(network, batch, timesteps, met)
            operations.append(counted + head)
        else:
            logits = network.run(batch, timesteps).logits.cpu()
        for name in names:
            sure[name].append(sureness(logits, name))
        # Of equal logits the lower class comes first, as in an evaluation.
        right.append(logits.argmax(-1) == labels)
        if progress is not None:
            progress("measuring exits", min(start + batch_size, len(images)), len(images))
    return Observed(
        {name: torch.cat(found, 1) for name, found in sure.items()},
        torch.cat(right, 1),
        torch.cat(operations, 1) if count_operations else None,
    )


def _operations(
    network: SpikingResNet, batch: Tensor, timesteps: int, met: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return operations of each image up to each timestep, float64 `[T, B]`, and the logits."""
    active = (network.pixels(batch.to(network.device)) != 0).double()
    stem = (active.flatten(1) @ met[IMAGE].double().flatten()).cpu()
    total = torch.zeros((timesteps, len(batch)), dtype=torch.float64)
    origin = network.topology.origin
    bits = {name: network.layers[origin(name)].bits for name in met if name != IMAGE}

    # In the order of memory, channels last, and in the narrowest exact float.
    rows = {name: one.movedim(0, -1).flatten() for name, one in met.items()}
    rows = {
        name: one.to(torch.float32 if int(one.sum()) * bits.get(name, 1) < 2**24 else torch.float64)
        for name, one in rows.items()
    }

    def emitted(name: str, first: int, spikes: Tensor) -> None:
        values = _bits_set(spikes, bits[name]).movedim(2, -1).flatten(2)
        found = values.to(rows[name].dtype) @ rows[name]
        total[:, first : first + spikes.shape[1]] += found.double().cpu()

    def count(_: str, name: str, first: int, spikes: Tensor) -> None:
        emitted(name, first, spikes)
        for pool in network.topology.pools_behind(name):
            if pool.kind == "max":
                shape = (pool.kernel, pool.stride, pool.padding)
                emitted(pool.name, first, max_pool_spikes(spikes, PoolState(), *shape))

    run = run_watched(network, batch, timesteps, count)
    return total.cumsum(0) + stem, run.logits.cpu()


def _bits_set(spikes: Tensor, bits: int) -> Tensor:
    if bits == 1:  # of either sign
        return spikes.bitwise_and(1)
    return torch.stack([(spikes >> bit) & 1 for bit in range(bits)]).sum(0, dtype=torch.int8)


def calibrate_rule(observed: Observed, name: RuleName, loss: float) -> ExitRule:
    """Return the rule that stops soonest, on average, and loses at most `loss` points.

    Args:
        observed: of training images, which the network's thresholds may know, the test images never
            are.
        loss: points of accuracy below that after all timesteps.
    """
    if not loss >= 0:
        raise UsageError(f"a loss of {loss} points is none: use 0 or more")
    sure = observed.sure[name]
    timesteps, count = sure.shape
    least = math.ceil(int(observed.right[-1].sum()) - loss / 100 * count - 1e-9)
    tried = torch.quantile(
        sure.flatten()[torch.linspace(0, sure.numel() - 1, min(sure.numel(), 10**6)).long()],
        torch.linspace(0, 1, _TRIED, dtype=sure.dtype),
    )
    best, soonest = math.inf, timesteps * count
    for threshold in tried.unique().tolist():
        times = ExitRule(name, threshold, timesteps).times_of(sure)
        right = int(observed.right.gather(0, times[None] - 1).sum())
        if right >= least and int(times.sum()) < soonest:
            best, soonest = threshold, int(times.sum())
    if best == math.inf:  # none loses so little: every image runs to the end
        best = float(sure.max()) + 1
    return ExitRule(name, best, timesteps)


def apply_rule(observed: Observed, rule: ExitRule, loss: float) -> ExitRow:
    """Return what a rule makes of images that were observed to its timesteps."""
    spent = observed.operations
    times = rule.times_of(observed.sure[rule.name])
    count = len(times)
    at_exit = times[None] - 1
    return ExitRow(
        rule,
        loss,
        100 * int(observed.right.gather(0, at_exit).sum()) / count,
        observed.accuracy,
        torch.bincount(times, minlength=rule.timesteps + 1)[1:].tolist(),
        float(times.double().mean()),
        None if spent is None else float(spent.gather(0, at_exit).mean()),
        None if spent is None else float(spent[-1].mean()),
    )
