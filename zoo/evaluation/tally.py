"""What an evaluation counts.

Counts are whole numbers alone, so that its parts can be stopped, stored and added up without
changing one. The state file of a long evaluation is such a count, with what it is a count of; a
file of another artifact, of other images or settings is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from zoo.errors import IntegrityError, UsageError
from zoo.files import replaced_file

TOP = 5


class Hits(BaseModel):
    """Images whose label is predicted.

    Attributes:
        top1: images whose label is the first of the predictions.
        top5: images whose label is among the first five.
        by_class: `top1` by label.
    """

    model_config = ConfigDict(extra="forbid")

    top1: int = 0
    top5: int = 0
    by_class: dict[int, int] = Field(default_factory=dict)

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch. Of equal logits the lower class comes first.

        Args:
            logits: `[B, classes]`, on any device.
            labels: int64 `[B]`, on the CPU.
        """
        logits, expected = logits.cpu(), labels[:, None]
        own = logits.gather(1, expected)
        lower = (logits == own) & (torch.arange(logits.shape[1]) < expected)
        rank = (~(logits <= own) | lower).sum(1)  # so that a NaN is no hit
        self.top1 += int((rank == 0).sum())
        self.top5 += int((rank < TOP).sum())
        for label in labels[rank == 0].tolist():
            self.by_class[label] = self.by_class.get(label, 0) + 1

    def add(self, other: Hits) -> None:
        self.top1 += other.top1
        self.top5 += other.top5
        add_up(self.by_class, other.by_class)


class Snapshot(BaseModel):
    """Counts at one number of timesteps: hits, and by layer spikes and synaptic operations."""

    model_config = ConfigDict(extra="forbid")

    hits: Hits = Field(default_factory=Hits)
    spikes: dict[str, int] = Field(default_factory=dict)
    operations: dict[str, int] = Field(default_factory=dict)

    def add(self, other: Snapshot) -> None:
        self.hits.add(other.hits)
        add_up(self.spikes, other.spikes)
        add_up(self.operations, other.operations)


class Tally(BaseModel):
    """Everything counted on some of the batches.

    Attributes:
        batches: number of batches.
        images: by class.
        snapshots: by number of timesteps.
        ann: hits of the ANN.
        seconds: time of each run, by its timesteps: measured, not counted.
        timed: images that took `seconds`; on a GPU only some are timed.
        memory: peak in bytes.
    """

    model_config = ConfigDict(extra="forbid")

    batches: int = 0
    images: dict[int, int] = Field(default_factory=dict)
    snapshots: dict[int, Snapshot] = Field(default_factory=dict)
    ann: Hits = Field(default_factory=Hits)
    seconds: dict[int, float] = Field(default_factory=dict)
    timed: int = 0
    memory: int = 0

    @classmethod
    def empty(cls, steps: Iterable[int], runs: Iterable[int]) -> Tally:
        """Return a tally with nothing counted, of snapshots at `steps` and `runs` to be timed."""
        return cls(snapshots={step: Snapshot() for step in steps}, seconds=dict.fromkeys(runs, 0.0))

    @classmethod
    def total(cls, parts: Iterable[Tally], *, at_once: bool = True) -> Tally:
        """Return the sum of several; counted `at_once`, they took as long as the slowest."""
        first, *others = parts
        whole = first.model_copy(deep=True)
        for other in others:
            whole.batches += other.batches
            whole.timed += other.timed
            add_up(whole.images, other.images)
            for step, counts in other.snapshots.items():
                whole.snapshots[step].add(counts)
            whole.ann.add(other.ann)
            for run, spent in other.seconds.items():
                whole.seconds[run] = (
                    max(whole.seconds[run], spent) if at_once else whole.seconds[run] + spent
                )
            whole.memory = max(whole.memory, other.memory)
        return whole


def add_up(total: dict[Any, int], part: Mapping[Any, int]) -> None:
    """Add to each count of `total` the one of `part`."""
    for name, count in part.items():
        total[name] = total.get(name, 0) + count


def load_state(path: Path, about: Mapping[str, object], start: Callable[[], Tally]) -> Tally:
    """Return what a state file holds, or a new tally where there is none.

    Raises:
        UsageError: the file is of another evaluation; the message names the first difference.
        IntegrityError: it is no state file.
    """
    if not path.exists():
        return start()
    try:
        state = json.loads(path.read_bytes())
        theirs, tally = state["about"], Tally.model_validate(state["tally"])
        differing = next((name for name in about if theirs.get(name) != about[name]), None)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        ValidationError,
    ) as error:
        raise IntegrityError(
            f"{path} is not what a stopped zoo eval left there: choose another file for `state`"
        ) from error
    if differing is not None:
        raise UsageError(
            f"{path} is of another evaluation, {differing} was "
            f"{str(theirs.get(differing))[:80]}, now it is {str(about[differing])[:80]}: "
            "delete it or choose another file for `state`"
        )
    return tally


def save_state(path: Path, about: Mapping[str, object], tally: Tally) -> None:
    """Replace the state file.

    Raises:
        ZooError: it cannot be written; the old one stays.
    """
    state = {"about": dict(about), "tally": tally.model_dump(mode="json")}
    with replaced_file(path, advice="free some space, then go on from it") as temporary:
        temporary.write_text(json.dumps(state), encoding="ascii")
