"""Choose the read-out's delay of a network that was built, and compare it with the ANN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from zoo.conversion.build import Built

Rule = Literal["error", "search"]


def search_delay(built: Built, rule: Rule = "error") -> dict[int, int]:
    """Return how many first timesteps the read-out skips, for each power of two of timesteps.

    Args:
        rule: what is least on the calibration images: error, the mean squared difference from the
            ANN's logits; or search, the cross-entropy of the ANN's class probabilities under the
            spiking network's. Of its training images an ANN is so sure that all classes but one
            hardly count in it.
    """
    delay, t = {}, 1
    while t <= len(built.counts):
        losses = {}
        for skip in sorted({eighths * t // 8 for eighths in range(8)}):
            counts = built.counts[t - 1] - (built.counts[skip - 1] if skip else 0)
            logits = built.network.head(counts, t - skip)
            losses[skip] = _loss(logits, built.ann_logits.double(), rule)
        delay[t] = min(losses, key=lambda skip: losses[skip])
        t *= 2
    return delay


def _loss(logits: Tensor, target: Tensor, rule: Rule) -> float:
    if rule == "error":
        return (logits - target).square().mean().item()
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1).mean().item()


def agreement(built: Built, timesteps: int) -> float:
    """Return the share of the calibration images whose class is the ANN's after `timesteps`."""
    if built.network.schedule == "layerwise":
        logits = built.network.head(built.counts[-1], timesteps)
    else:
        logits = built.network.read_out(built.counts)[timesteps - 1]
    return (logits.argmax(1) == built.ann_logits.argmax(1)).float().mean().item()
