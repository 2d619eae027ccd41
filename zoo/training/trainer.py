"""The steps of a training: SGD with momentum, one cosine, one seed, and the average that comes out.

Two flavors. `levels` = 0: a plain ResNet with ReLU. `levels` > 0: every ReLU is the quantization
clip-floor-shift activation of QCFS (Bu et al., ICLR 2022), with a learnt threshold per channel,

    q(z) = theta / L * clip(floor(L z / theta + 1/2), 0, L),

which is what an integrate-and-fire neuron with threshold theta and initial potential theta / 2
tends to; the conversion takes theta from the file. Gradients pass the rounding
(`zoo.networks.quantise`).

What comes out is the exponential moving average of the weights. Augmentation is a random shift by
`shift` pixels (zero padding in normalized units), for photographs a random mirror, and where the
plan asks for them cutout, mixup and progressive resizing. A teacher answers the same augmented
images, whole (`zoo.training.teacher`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.augment import augment, mixed
from zoo.data.images import ImageSet
from zoo.files import replaced_file
from zoo.kernels.precision import full_float32
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ResNet
from zoo.networks.schedule import warm_cosine
from zoo.networks.topology import Topology
from zoo.training.plan import Plan, check_plan
from zoo.training.start import begin_thresholds, load_start
from zoo.training.steps import ADVICE, Steps, draws
from zoo.training.teacher import Teacher, distance

_BATCH = 500


class Trainer(Steps):
    """A training run that can stop at any step and go on.

    Args:
        net: what to train.
        images: labelled training images.
        prep: how an image becomes the network's input.
        plan: the settings.
        mean: per color channel, for pixels in 0 to 1.
        std: standard deviation, likewise.
        device: where to train.
        teacher: the network that `plan.teacher` names, else None.
        start: result of another training, to begin from instead of random weights: a ReLU network
            that is to learn `levels`, say, or a shallower network, whose missing blocks begin as
            identities.

    Attributes:
        model: the network that is trained.
        average: the state dict that comes out.

    Raises:
        UsageError: no whole batch of images, labels out of range, or a plan that cannot be run.
    """

    plan: Plan

    def __init__(
        self,
        net: Topology,
        images: ImageSet,
        prep: Preprocess,
        plan: Plan,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: str = "cpu",
        teacher: Teacher | None = None,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        check_plan(net, images, plan, prep.input_size[1])
        super().__init__(images, prep, plan, device)
        self.prep = prep
        torch.manual_seed(plan.seed)
        self.model = ResNet(net, levels=plan.levels)
        if start is not None:
            load_start(self.model, start)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model, dynamic=False) if plan.compiled else self.model
        )
        answers = None if teacher is None else teacher.on(self.device, mean, std)
        if answers is not None and plan.compiled:
            answers = torch.compile(answers, dynamic=False)
        self._answers = answers
        self.table = image_table(mean, std, integer=False).to(self.device)
        if plan.levels and start is not None and "levels" not in start:
            first = self._loader.pixels(torch.arange(min(_BATCH, len(images))))
            begin_thresholds(self.model, look_up(self.table, first), plan.levels)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": plan.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=plan.peak_rate,
            momentum=0.9,
            nesterov=True,
        )
        self.average = {
            name: value.detach().clone() for name, value in self.model.state_dict().items()
        }

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = max(1, round(self.plan.warm_up * self.steps))
        return warm_cosine(step, self.steps, rising, peak=self.plan.peak_rate, cosine_from=rising)

    def side(self, step: int) -> int:
        """Return the side of the images of a step, in pixels; there are at most five."""
        full, smallest = self.prep.input_size[1], self.plan.smallest
        grown = 1.5 * (step // self.steps_an_epoch) / self.plan.epochs
        if not smallest or grown >= 1:
            return full
        # torch.compile compiles each anew, and gives up after eight.
        apart = 4 * max(1, math.ceil((full - smallest) / 16))
        return min(full, smallest + int(grown * (full - smallest)) // apart * apart)

    def _loss(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        plan, generator = self.plan, draws(self.plan.seed, 2 * self.step + 1)
        whole = augment(
            look_up(self.table, pixels),
            generator,
            shift=plan.shift,
            mirror=plan.mirror,
            cutout=plan.cutout,
        )
        if plan.mixup:
            whole, others, share = mixed(whole, labels, generator, plan.mixup)
        inputs, side = whole, self.side(self.step)
        if side < whole.shape[-1]:
            inputs = F.interpolate(whole, (side, side), mode="bilinear", antialias=True)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            logits = self._forward(inputs)
            # Whole: trained on whole images, it is wrong about many small ones.
            answers = None if self._answers is None else self._answers(whole)
        entropy = partial(F.cross_entropy, logits.float(), label_smoothing=plan.label_smoothing)
        loss = entropy(labels)
        if plan.mixup:
            loss = share * loss + (1 - share) * entropy(others)
        if answers is not None:
            far = distance(logits.float(), answers.float(), plan.temperature)
            loss = (1 - plan.distil) * loss + plan.distil * far
        return loss, logits

    @torch.no_grad()
    def _update(self) -> None:
        super()._update()
        # From the first steps on the average follows closely; `ema` holds once 1 / (1 - ema) steps
        # are done.
        weight = max(1 - self.plan.ema, 1 / (self.step + 1))
        state = self.model.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floating], [state[name] for name in floating], weight
        )
        for name in state.keys() - floating:
            self.average[name].copy_(state[name])

    def state(self) -> dict[str, Tensor]:
        """Return the averaged network in torchvision's keys.

        With quantized activations it has `{layer}.threshold` and `levels` besides.
        """
        return exported(self.average, self.plan.levels)

    @torch.inference_mode()
    def accuracy(self, images: ImageSet, prep: Preprocess) -> float:
        """Return the accuracy of the averaged network in percent, float32."""
        model = ResNet(self.model.topology, levels=self.plan.levels).to(self.device)
        model.load_state_dict(self.average)
        model.eval()
        right = 0
        with full_float32():
            for pixels, labels in images.batches(prep, _BATCH):
                logits = model(look_up(self.table, pixels.to(self.device)))
                right += int((logits.argmax(1).cpu() == labels).sum())
        return 100 * right / len(images)

    def _state(self) -> dict[str, Tensor]:
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for p, state in self.optimizer.state.items():
            tensors[f"momentum.{names[p]}"] = state["momentum_buffer"]
        return tensors

    def _load(self, state: dict[str, Tensor], step: int) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "momentum": {}}
        for name, value in state.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value
        self.model.load_state_dict(parts["model"])
        self.average = {name: parts["average"][name] for name in self.average}
        for name, p in self.model.named_parameters():
            if step:
                self.optimizer.state[p]["momentum_buffer"] = parts["momentum"][name].to(p)


def exported(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Return a state dict as it is published: thresholds for their logarithms, and `levels`."""
    out = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if name.endswith(".log_threshold"):
            out[name.removesuffix("log_threshold") + "threshold"] = value.exp()
        else:
            out[name] = value
    if levels:
        out["levels"] = torch.tensor([levels], dtype=torch.int32)
    return out


def save_checkpoint(state: dict[str, Tensor], path: str | Path) -> str:
    """Write a state dict as safetensors, atomically, and return its sha256.

    Raises:
        ZooError: the file cannot be written.
    """
    from safetensors.torch import save

    payload = save(state, metadata={"format": "pt"})
    with replaced_file(Path(path), advice=ADVICE) as temporary:
        temporary.write_bytes(payload)
    return hashlib.sha256(payload).hexdigest()
