"""What every training shares: steps over shuffled batches that stop at any of them and go on.

Every random draw depends on the seed and the step alone, so a resumed run takes the steps that an
uninterrupted one would have taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from zoo.data.images import ImageSet
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.files import replaced_file
from zoo.networks.preprocess import Preprocess
from zoo.progress import Progress
from zoo.training.loader import Loader
from zoo.training.plan import Epoch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    class PlanOfSteps(DataclassInstance, Protocol):
        """What a plan says of its steps."""

        @property
        def epochs(self) -> int: ...
        @property
        def batch_size(self) -> int: ...
        @property
        def seed(self) -> int: ...


ADVICE = "free some space, then go on with `resume=True`"

_EVERY = 120.0  # seconds between two saves


class Steps(ABC):
    """Steps over batches of labelled images, in an order of their own in each epoch.

    A subclass has an `optimizer`, says what the loss and the rate are, and what has to be saved.

    Args:
        images: labelled training images.
        prep: how an image becomes the network's input.
        plan: the settings, a dataclass.
        device: where to train.

    Attributes:
        step: number of steps taken.
        log: the epochs so far.
    """

    plan: PlanOfSteps
    optimizer: torch.optim.Optimizer

    def __init__(self, images: ImageSet, prep: Preprocess, plan: PlanOfSteps, device: str) -> None:
        self.plan, self.device = plan, torch.device(device)
        self._loader = Loader(images, prep, self.device)
        self._labels = hashlib.sha256(images.labels.tobytes()).hexdigest()
        self.step, self.log = 0, list[Epoch]()
        # Loss and accuracy summed over the epoch so far, on the device: reading them at every step
        # would make a GPU wait.
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._seconds = 0.0

    @property
    def steps_an_epoch(self) -> int:
        """Number of whole batches; the images that are left over take part in another epoch."""
        return len(self._loader) // self.plan.batch_size

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return self.plan.epochs * self.steps_an_epoch

    @abstractmethod
    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""

    @abstractmethod
    def _loss(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and its logits."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return the tensors that are needed to go on."""

    @abstractmethod
    def _load(self, state: dict[str, Tensor], step: int) -> None:
        """Go on from `_state` after `step` steps; raise ValueError if it is another network's."""

    def run(self, after_step: Callable[[Self], None] | None = None) -> None:
        """Take the steps that are left; `after_step` is called after each: it may save."""
        begun = time.perf_counter()
        with closing(self._loader.batches(self._rows())) as batches:
            for pixels, labels in batches:
                self._take_step(pixels, labels, begun)
                if after_step is not None:
                    after_step(self)
                begun = time.perf_counter()

    def _rows(self) -> Iterator[Tensor]:
        """Yield the rows of each step that is left, int64 `[batch_size]`."""
        size, order = self.plan.batch_size, None
        for step in range(self.step, self.steps):
            epoch, index = divmod(step, self.steps_an_epoch)
            if index == 0 or order is None:
                generator = draws(self.plan.seed, 2 * epoch)
                order = torch.randperm(len(self._loader), generator=generator)
            yield order[index * size : (index + 1) * size]

    def _take_step(self, pixels: Tensor, labels: Tensor, begun: float) -> None:
        loss, logits = self._loss(pixels, labels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._update()
        self.step += 1
        right = (logits.argmax(1) == labels).double().mean()
        self._sums += torch.stack([loss.detach().double(), right])
        if self.step % self.steps_an_epoch == 0:
            self._end_epoch(begun)
        self._seconds += time.perf_counter() - begun

    def _update(self) -> None:
        self.optimizer.step()

    def _end_epoch(self, begun: float) -> None:
        epoch = self.step // self.steps_an_epoch
        loss, right = (self._sums / self.steps_an_epoch).cpu().tolist()
        if not math.isfinite(loss):
            raise UsageError(f"the loss is no number any more in epoch {epoch}: lower `peak_rate`")
        seconds = self._seconds + time.perf_counter() - begun
        self.log.append(
            Epoch(epoch, loss, 100 * right, self.rate(self.step - 1), round(seconds, 1))
        )
        self._sums.zero_()
        self._seconds -= seconds

    def save(self, path: Path) -> None:
        """Write everything needed to go on, atomically.

        The file is safetensors, with the plan and the log as a JSON tensor.

        Raises:
            ZooError: the file cannot be written.
        """
        from safetensors.torch import save

        facts = {
            "plan": asdict(self.plan),
            "labels": self._labels,
            "step": self.step,
            "seconds": self._seconds,
            "log": [asdict(row) for row in self.log],
        }
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        tensors = {"facts": text, "sums": self._sums, **self._state()}
        payload = save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            {"format": "pt"},
        )
        with replaced_file(path, advice=ADVICE) as temporary:
            temporary.write_bytes(payload)

    def resume(self, path: Path) -> None:
        """Go on from a file of `save`.

        Raises:
            UsageError: it belongs to another plan, or to images with other labels.
            IntegrityError: it is not such a file, or belongs to another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            facts: dict[str, Any] = json.loads(bytes(tensors.pop("facts").tolist()))
            # What older states do not say they did without.
            defaults = {f.name: f.default for f in fields(self.plan) if f.default is not MISSING}
            plan = defaults | facts["plan"]
            step, seconds = int(facts["step"]), float(facts["seconds"])
            sums, log = tensors.pop("sums"), [Epoch(**row) for row in facts["log"]]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path} is no training state ({str(error)[:80]}): begin again in another `folder`"
            ) from error
        own = asdict(self.plan)
        if plan != own:
            odd = [f"{n} was {plan.get(n)}" for n in own if plan.get(n) != own[n]]
            raise UsageError(
                f"{path} was made with other settings ({', '.join(odd)}): use the same, or another "
                "`folder`"
            )
        # Older states do not say it.
        if facts.get("labels", self._labels) != self._labels:
            raise UsageError(
                f"{path} was made with other images: go on with the same, or use another `folder`"
            )
        try:
            self._load({name: value.to(self.device) for name, value in tensors.items()}, step)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:80]
            raise IntegrityError(
                f"{path} belongs to another network ({reason}): use another `folder`"
            ) from error
        self.step, self.log, self._seconds = step, log, seconds
        self._sums = sums.to(self.device)


def run_saving(
    training: Steps,
    path: Path,
    stage: str,
    progress: Progress | None,
    log: Callable[[str], None] | None,
) -> None:
    """Take the steps that are left, and save the state in `path` now and then and at any end.

    Args:
        stage: what `progress` is called with.
        log: called with a line after each epoch.
    """
    saved = begun = time.monotonic()
    first, epochs = training.step, training.steps // training.steps_an_epoch

    def after_step(training: Steps) -> None:
        nonlocal saved
        if time.monotonic() - saved > _EVERY:
            training.save(path)
            saved = time.monotonic()
        if progress is not None:
            progress(stage, training.step, training.steps)
        if log is not None and training.step % training.steps_an_epoch == 0:
            row, left = training.log[-1], training.steps - training.step
            minutes = (time.monotonic() - begun) / (training.step - first) * left / 60
            log(
                f"epoch {row.epoch}/{epochs}: loss {row.loss:.3f}, training accuracy "
                f"{row.accuracy:.1f} %, {row.seconds:.0f} s, {minutes:.0f} minutes left"
            )

    try:
        training.run(after_step)
    finally:
        training.save(path)


def check_resumes(path: Path, resume: bool) -> None:
    """Raise if there is a state that would be lost, or none to go on from.

    Raises:
        UsageError: `path` exists, and is not to be resumed.
        NotFoundError: it is to be resumed and does not exist.
    """
    if path.exists() and not resume:
        raise UsageError(
            f"{path} exists already: pass `resume=True` to go on with it, or choose another "
            "`folder`"
        )
    if resume and not path.exists():
        raise NotFoundError(
            f"{path} does not exist: there is nothing to resume; leave `resume` out"
        )


def draws(seed: int, draw: int) -> torch.Generator:
    """Return the generator of one draw of a training; those of two draws differ."""
    return torch.Generator().manual_seed((seed * 1_000_003 + draw) % 2**63)
