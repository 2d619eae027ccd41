"""The learning rate of every training of the zoo: a cosine with a linear warm-up."""

from __future__ import annotations

import math


def warm_cosine(
    step: int, steps: int, warm_up: int, *, peak: float = 1.0, cosine_from: int = 0
) -> float:
    """Return the learning rate of a step.

    It rises linearly to `peak` over the first `warm_up` steps and falls to zero at `steps` as half
    a cosine (Loshchilov and Hutter, arXiv:1608.03983, without restarts).

    Args:
        step: from 0.
        steps: number of steps in all.
        warm_up: number of steps that rise, 1 or more.
        peak: the highest rate.
        cosine_from: the first step of the cosine; at 0 it falls under the warm-up already.
    """
    rising = peak * (step + 1) / warm_up if step < warm_up else peak
    # Not pi times the quotient, whose last bits differ: checkpoints are pinned.
    angle = math.pi * max(0, step - cosine_from) / max(1, steps - cosine_from)
    return rising * (1 + math.cos(angle)) / 2
