"""Early exit: a run stops for an image when its logits are sure enough.

Logits exist at every timestep. The rule looks at those after each timestep t,

    margin:   the largest logit minus the second largest
    entropy:  minus the entropy of softmax(logits), in nats

and an image exits at the first t at which that is at least the threshold, else at the last
timestep. The comparison is of float64, computed the same way wherever it runs, on logits that are
the same on every backend: `exiting_run` stops and gives what the rule finds afterwards in a whole
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import PoolState
from zoo.networks.chunks import Network, pixels_to_run
from zoo.networks.executor import run_layers

RuleName = Literal["margin", "entropy"]

# Timesteps between two looks at the logits. Eight fill a byte of the kernels' spikes; fewer stop
# sooner.
_LOOK = 4


@dataclass(frozen=True)
class ExitRule:
    """When a run may stop.

    Attributes:
        name: what is compared; see the module's docstring.
        threshold: from which on an image exits.
        timesteps: the last timestep, at which every image exits.
    """

    name: RuleName
    threshold: float
    timesteps: int

    def exit_times(self, logits: Tensor) -> Tensor:
        """Return the timestep at which each image exits, int64 `[B]`, from 1 on.

        Args:
            logits: float64 `[T, B, classes]` with T of at least `timesteps`.
        """
        return self.times_of(sureness(logits[: self.timesteps], self.name))

    def times_of(self, sure: Tensor) -> Tensor:
        """Return the timestep at which each image exits, from `sureness` `[timesteps, B]`."""
        leaves = sure >= self.threshold
        leaves[-1] = True
        return leaves.to(torch.uint8).argmax(0) + 1  # the first of several

    def read(self, logits: Tensor) -> Tensor:
        """Return each image's logits at its exit, float64 `[B, classes]`."""
        times = self.exit_times(logits)
        return logits[times - 1, torch.arange(logits.shape[1], device=logits.device)]


@dataclass(frozen=True)
class ExitRun:
    """Result of a run that stops: logits `[B, classes]` at each image's exit, and when, `[B]`."""

    logits: Tensor
    timesteps: Tensor


def sureness(logits: Tensor, name: RuleName) -> Tensor:
    """Return what a rule compares, float64 `[T, B]`; the larger, the surer."""
    if name == "margin":
        if logits.shape[-1] == 1:
            raise UsageError("a network with one class has no margin: use rule entropy")
        top = logits.topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]
    if name != "entropy":
        raise UsageError(f"unknown rule {name!r}: use margin or entropy")
    # On the CPU, whose exp and log are the same whatever ran the network; one row at a time rounds
    # as many at once do.
    log = torch.log_softmax(logits.cpu(), -1)
    return (log.exp() * log).sum(-1).to(logits.device)


@torch.inference_mode()
def exiting_run(
    network: Network, images: Any, rule: ExitRule, *, chunk: int | None = None
) -> ExitRun:
    """Run images, each until it exits.

    Args:
        images, chunk: as in `SpikingResNet.run`. Images that have exited are taken out of their
            chunk, so the rest of it runs faster.

    Raises:
        UsageError: a layerwise network, whose logits come after all timesteps alone.
    """
    pixels = pixels_to_run(network, images, rule.timesteps)
    if network.schedule != "causal":
        raise UsageError(
            "a layerwise network has logits after all timesteps alone, so it cannot exit early: "
            'convert it with `schedule="causal"`'
        )
    backend = network.layer_backend(rule.timesteps)
    chunk = chunk or backend.chunk(*pixels.shape[-2:])
    parts = [
        _exit_chunk(network, backend, pixels[start : start + chunk].to(network.device), rule)
        for start in range(0, max(len(pixels), 1), chunk)
    ]
    return ExitRun(
        torch.cat([part.logits for part in parts]), torch.cat([part.timesteps for part in parts])
    )


def _exit_chunk(network: Network, backend: Any, images: Tensor, rule: ExitRule) -> ExitRun:
    topology = network.topology
    x = backend.stem_input(network.pixels(images), rule.timesteps, False)
    sizes = topology.sizes(images.shape[-2], images.shape[-1])
    membranes: dict[str, Any] = {
        layer.name: backend.membrane(layer.name, len(images), sizes[layer.name], rule.timesteps)
        for layer in topology.layers
    }
    pools = {pool.name: PoolState() for pool in topology.pools}
    rows = torch.arange(len(images), device=images.device)  # of the images that still run
    logits = torch.zeros(
        (len(images), topology.num_classes), dtype=torch.float64, device=images.device
    )
    times = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    counts: Tensor | None = None  # net spikes of the last layer by timestep so far, [t, B, C]
    for begin in range(0, rule.timesteps, _LOOK):
        end = min(begin + _LOOK, rule.timesteps)
        last = run_layers(
            topology, backend, x, end - begin, end < rule.timesteps, membranes, pools, {}, None
        )
        pooled = backend.pooled(last).long()
        counts = pooled if counts is None else torch.cat([counts, pooled])
        found = network.read_out(counts.cumsum(0))[begin:]
        sure = sureness(found, rule.name) >= rule.threshold
        sure[-1] |= end == rule.timesteps
        leaves = sure.any(0)
        first = sure.to(torch.uint8).argmax(0)
        gone = leaves.nonzero()[:, 0]
        logits[rows[gone]] = found[first[gone], gone]
        times[rows[gone]] = begin + first[gone] + 1
        stays = (~leaves).nonzero()[:, 0]
        if not len(stays):
            break
        if len(gone):
            rows, x, counts = rows[stays], x[stays], counts[:, stays]
            _take_out(backend, membranes, pools, stays)
    return ExitRun(logits, times)


def _take_out(
    backend: Any, membranes: dict[str, Any], pools: Mapping[str, PoolState], stays: Tensor
) -> None:
    """Leave the states of the images in `stays` alone."""
    for name, membrane in membranes.items():
        membranes[name] = backend.of_images(membrane, stays)
    for state in pools.values():
        if state.counts is not None and state.peaks is not None:
            state.counts, state.peaks = state.counts[stays], state.peaks[stays]
