"""The steps of a fine-tuning through time: Adam, one cosine, one seed.

The loss is the cross-entropy of the logits after T timesteps, T what the network is to be good at,
and, with a teacher, the distance from its answers (`zoo.training.teacher`). Every random draw
depends on the seed and the step alone, so a resumed run takes the steps that an uninterrupted one
would have taken.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.augment import augment
from zoo.data.images import ImageSet
from zoo.errors import IntegrityError, UsageError
from zoo.files import replaced_file
from zoo.networks.pixels import look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.schedule import warm_cosine
from zoo.networks.trainable import TrainableResNet
from zoo.training.loader import Loader
from zoo.training.plan import Epoch
from zoo.training.teacher import distance
from zoo.training.trainer import ADVICE, draws

_WARM_UP = 0.05  # share of the steps over which the rate rises


@dataclass(frozen=True)
class TuningPlan:
    """One fine-tuning.

    Attributes:
        timesteps: that the network is trained for.
        epochs: passes over the training images.
        batch_size: images per step.
        peak_rate: Adam's highest learning rate, of all parameters.
        surrogate: a name of `zoo.networks.surrogate.SURROGATES`.
        shift: largest random shift in pixels.
        mirror: mirror half of the images.
        seed: of every random draw.
        teacher: sha256 of the network whose answers are learnt beside the labels; "" for none.
        distil, temperature: as in `zoo.training.plan.Plan`.
        precision: bf16 runs convolutions in bfloat16; weights and potentials stay float32.
    """

    timesteps: int
    epochs: int = 2
    batch_size: int = 100
    peak_rate: float = 2e-3
    surrogate: str = "arctan"
    shift: int = 4
    mirror: bool = True
    seed: int = 0
    teacher: str = ""
    distil: float = 0.9
    temperature: float = 4.0
    precision: Literal["bf16", "float32"] = "float32"


class Tuner:
    """A fine-tuning that can stop at any step and go on.

    Args:
        module: the network, on `device`; it is trained in place.
        images: labelled training images.
        prep: how an image becomes the network's input.
        answers: a teacher's logits of images as the module takes them, or None.

    Attributes:
        step: number of steps taken.
        log: the epochs so far.

    Raises:
        UsageError: no whole batch of images, no labels, or a plan that cannot be run.
    """

    def __init__(
        self,
        module: TrainableResNet,
        images: ImageSet,
        prep: Preprocess,
        plan: TuningPlan,
        *,
        device: str = "cpu",
        answers: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        _check(module.topology.num_classes, images, plan)
        self.module, self.plan, self.device = module, plan, torch.device(device)
        self.answers = answers
        self._loader = Loader(images, prep, self.device)
        self.optimizer = torch.optim.Adam(module.parameters(), lr=plan.peak_rate)
        self.step, self.log = 0, list[Epoch]()
        self._sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._seconds = 0.0

    @property
    def steps_an_epoch(self) -> int:
        """Number of whole batches; the images that are left over take part in another epoch."""
        return len(self._loader) // self.plan.batch_size

    @property
    def steps(self) -> int:
        """Number of steps of the whole fine-tuning."""
        return self.plan.epochs * self.steps_an_epoch

    def run(self, after_step: Callable[[Tuner], None] | None = None) -> None:
        """Take the steps that are left; `after_step` is called after each: it may save."""
        begun = time.perf_counter()
        with closing(self._loader.batches(self._rows())) as batches:
            for pixels, labels in batches:
                self._take_step(pixels, labels, begun)
                if after_step is not None:
                    after_step(self)
                begun = time.perf_counter()

    def _rows(self) -> Iterator[Tensor]:
        size, order = self.plan.batch_size, None
        for step in range(self.step, self.steps):
            epoch, index = divmod(step, self.steps_an_epoch)
            if index == 0 or order is None:
                order = torch.randperm(
                    len(self._loader), generator=draws(self.plan.seed, 2 * epoch)
                )
            yield order[index * size : (index + 1) * size]

    def _take_step(self, pixels: Tensor, labels: Tensor, begun: float) -> None:
        plan, module, index = self.plan, self.module, self.step % self.steps_an_epoch
        inputs = augment(
            look_up(module.image_table, pixels),
            draws(plan.seed, 2 * self.step + 1),
            shift=plan.shift,
            mirror=plan.mirror,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            logits = module(inputs, plan.timesteps)
        loss = self._loss(logits.float(), labels, inputs)
        rising = max(1, round(_WARM_UP * self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = warm_cosine(
                self.step, self.steps, rising, peak=plan.peak_rate, cosine_from=rising
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        right = (logits.argmax(1) == labels).double().mean()
        self._sums += torch.stack([loss.detach().double(), right])
        self.step += 1
        if index == self.steps_an_epoch - 1:
            self._end_epoch(begun)
        self._seconds += time.perf_counter() - begun

    def _loss(self, logits: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        loss, share = F.cross_entropy(logits, labels), self.plan.distil
        if self.answers is None:
            return loss
        precision = self.plan.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision):
            wanted = self.answers(inputs)
        taught = distance(logits, wanted.float(), self.plan.temperature)
        return (1 - share) * loss + share * taught

    def _end_epoch(self, begun: float) -> None:
        loss, right = (self._sums / self.steps_an_epoch).tolist()
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss is no number any more in epoch {len(self.log) + 1}: lower `peak_rate`"
            )
        seconds = self._seconds + time.perf_counter() - begun
        rate = self.optimizer.param_groups[0]["lr"]
        self.log.append(Epoch(len(self.log) + 1, loss, 100 * right, rate, round(seconds, 1)))
        self._sums.zero_()
        self._seconds -= seconds

    def save(self, path: Path) -> None:
        """Write everything needed to go on, atomically, as `Trainer.save` does.

        Raises:
            ZooError: the file cannot be written.
        """
        from safetensors.torch import save

        facts = {
            "plan": asdict(self.plan),
            "step": self.step,
            "seconds": self._seconds,
            "log": [asdict(row) for row in self.log],
        }
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        tensors = {"facts": text, "sums": self._sums}
        for name, value in self.module.named_parameters():
            tensors[f"model.{name}"] = value
            for kind in ("exp_avg", "exp_avg_sq") if self.step else ():
                tensors[f"{kind}.{name}"] = self.optimizer.state[value][kind]
        payload = save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            {"format": "pt"},
        )
        with replaced_file(path, advice=ADVICE) as temporary:
            temporary.write_bytes(payload)

    def resume(self, path: Path) -> None:
        """Go on from a file of `save`.

        Raises:
            UsageError: it belongs to another plan.
            IntegrityError: it is not such a file, or belongs to another network.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        again = "begin again with another `folder`"
        try:
            tensors = load_file(path)
            facts: dict[str, Any] = json.loads(bytes(tensors.pop("facts").tolist()))
            plan, step, seconds = facts["plan"], int(facts["step"]), float(facts["seconds"])
            sums, log = tensors.pop("sums"), [Epoch(**row) for row in facts["log"]]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                f"{path} is no state of a fine-tuning ({str(error)[:80]}): {again}"
            ) from error
        own = asdict(self.plan)
        if plan != own:
            odd = [f"{n} was {plan.get(n)}" for n in own if plan.get(n) != own[n]]
            raise UsageError(
                f"{path} was made with other settings ({', '.join(odd)}): use the same, or another "
                "`folder`"
            )
        parts = dict(self.module.named_parameters())
        kinds = ("model", "exp_avg", "exp_avg_sq") if step else ("model",)
        shapes = {f"{kind}.{name}": v.shape for kind in kinds for name, v in parts.items()}
        if {name: value.shape for name, value in tensors.items()} != shapes:
            raise IntegrityError(f"{path} belongs to another network: {again}")
        with torch.no_grad():
            for name, value in parts.items():
                value.copy_(tensors[f"model.{name}"])
                if step:
                    state = self.optimizer.state[value]
                    state["step"] = torch.tensor(float(step))
                    for kind in kinds[1:]:
                        state[kind] = tensors[f"{kind}.{name}"].to(value)
        self.step, self.log, self._seconds = step, log, seconds
        self._sums = sums.to(self.device)


def _check(classes: int, images: ImageSet, plan: TuningPlan) -> None:
    for what, value in (("timesteps", plan.timesteps), ("epochs", plan.epochs)):
        if value < 1:
            raise UsageError(f"{what} must be 1 or more, not {value}: 4 timesteps, 2 epochs do")
    if not 1 <= plan.batch_size <= len(images):
        raise UsageError(
            f"{images.description}: fewer than one batch of {plan.batch_size}: give more, or lower "
            "`batch_size`"
        )
    if images.labels.min() < 0 or images.labels.max() >= classes:
        raise UsageError(
            f"{images.description}: labels must be 0 to {classes - 1}: give labelled training "
            "images of the model's classes"
        )
