"""The steps of a fine-tuning through time: Adam, one cosine, one seed.

The loss is the cross-entropy of the logits after T timesteps, T what the network is to be good at,
and, with a teacher, the distance from its answers (`zoo.training.teacher`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.augment import augment
from zoo.data.images import ImageSet
from zoo.errors import UsageError
from zoo.networks.pixels import look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.schedule import warm_cosine
from zoo.networks.trainable import TrainableResNet
from zoo.training.plan import check_images
from zoo.training.steps import Steps, draws
from zoo.training.teacher import distance

_WARM_UP = 0.05  # share of the steps over which the rate rises
_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam


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


class Tuner(Steps):
    """A fine-tuning that can stop at any step and go on.

    Args:
        module: the network, on `device`; it is trained in place.
        images: labelled training images.
        prep: how an image becomes the network's input.
        answers: a teacher's logits of images as the module takes them, or None.

    Raises:
        UsageError: no whole batch of images, no labels, or a plan that cannot be run.
    """

    plan: TuningPlan

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
        super().__init__(images, prep, plan, device)
        self.module, self.answers = module, answers
        self.optimizer = torch.optim.Adam(module.parameters(), lr=plan.peak_rate)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = max(1, round(_WARM_UP * self.steps))
        return warm_cosine(step, self.steps, rising, peak=self.plan.peak_rate, cosine_from=rising)

    def _loss(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        plan = self.plan
        inputs = augment(
            look_up(self.module.image_table, pixels),
            draws(plan.seed, 2 * self.step + 1),
            shift=plan.shift,
            mirror=plan.mirror,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            logits = self.module(inputs, plan.timesteps)
            answers = None if self.answers is None else self.answers(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        if answers is not None:
            far = distance(logits.float(), answers.float(), plan.temperature)
            loss = (1 - plan.distil) * loss + plan.distil * far
        return loss, logits

    def _state(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, value in self.module.named_parameters():
            tensors[f"model.{name}"] = value
            for kind in _MOMENTS if self.step else ():
                tensors[f"{kind}.{name}"] = self.optimizer.state[value][kind]
        return tensors

    def _load(self, state: dict[str, Tensor], step: int) -> None:
        parts = dict(self.module.named_parameters())
        kinds = ("model", *_MOMENTS) if step else ("model",)
        shapes = {f"{kind}.{name}": v.shape for kind in kinds for name, v in parts.items()}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise ValueError("its tensors are others")
        with torch.no_grad():
            for name, value in parts.items():
                value.copy_(state[f"model.{name}"])
                if step:
                    moments = {kind: state[f"{kind}.{name}"].to(value) for kind in _MOMENTS}
                    self.optimizer.state[value] = {"step": torch.tensor(float(step)), **moments}


def _check(classes: int, images: ImageSet, plan: TuningPlan) -> None:
    sizes = {"timesteps": plan.timesteps, "epochs": plan.epochs, "batch size": plan.batch_size}
    for what, value in sizes.items():
        if value < 1:
            raise UsageError(f"{what} must be 1 or more, not {value}: 4 timesteps, 2 epochs do")
    check_images(images, classes, plan.batch_size)
