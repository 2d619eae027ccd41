"""The steps of a training: SGD with momentum, one cosine, one seed, and the average that comes out.

Two flavors. `levels` = 0: a plain ResNet with ReLU. `levels` > 0: every ReLU is the quantization
clip-floor-shift activation of QCFS (Bu et al., ICLR 2022), with a learnt threshold per channel,

    q(z) = theta / L * clip(floor(L z / theta + 1/2), 0, L),

which is what an integrate-and-fire neuron with threshold theta and initial potential theta / 2
tends to; the conversion takes theta from the file. Gradients pass the rounding
(`zoo.networks.quantise`).

What comes out is the exponential moving average of the weights. Augmentation is a random shift by
`shift` pixels (zero padding in normalized units), for photographs a random mirror, and `cutout`. A
teacher answers the same augmented images (`zoo.training.teacher`). Every random draw depends on the
seed and the step alone, so a resumed run takes the steps that an uninterrupted one would have
taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.augment import augment
from zoo.data.images import ImageSet
from zoo.errors import IntegrityError, UsageError
from zoo.files import replaced_file
from zoo.kernels.precision import full_float32
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ResNet
from zoo.networks.schedule import warm_cosine
from zoo.networks.topology import Topology
from zoo.training.loader import Loader
from zoo.training.plan import Epoch, Plan, check_plan
from zoo.training.start import begin_thresholds, load_start
from zoo.training.teacher import Teacher, distance

_BATCH = 500

ADVICE = "free some space, then go on with `resume=True`"

_DAMAGED = "{} is no training state ({}): begin again in another `folder`"


class Trainer:
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
        step: number of steps taken.
        log: the epochs so far.

    Raises:
        UsageError: no whole batch of images, labels out of range, or a plan that cannot be run.
    """

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
        check_plan(net, images, plan)
        torch.manual_seed(plan.seed)
        self.plan, self.device = plan, torch.device(device)
        self.model = ResNet(net, levels=plan.levels)
        if start is not None:
            load_start(self.model, start)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.model) if plan.compiled else self.model
        )
        self._answers = None if teacher is None else teacher.on(self.device, mean, std)
        self._loader = Loader(images, prep, self.device)
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

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rising = max(1, round(self.plan.warm_up * self.steps))
        return warm_cosine(step, self.steps, rising, peak=self.plan.peak_rate, cosine_from=rising)

    def run(self, after_step: Callable[[Trainer], None] | None = None) -> None:
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
        plan, (epoch, index) = self.plan, divmod(self.step, self.steps_an_epoch)
        inputs = augment(
            look_up(self.table, pixels),
            draws(plan.seed, 2 * self.step + 1),
            shift=plan.shift,
            mirror=plan.mirror,
            cutout=plan.cutout,
        )
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            logits = self._forward(inputs)
            answers = None if self._answers is None else self._answers(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=plan.label_smoothing)
        if answers is not None:
            far = distance(logits.float(), answers.float(), plan.temperature)
            loss = (1 - plan.distil) * loss + plan.distil * far
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._update_average()
        self.step += 1
        right = (logits.argmax(1) == labels).double().mean()
        self._sums += torch.stack([loss.detach().double(), right])
        if index == self.steps_an_epoch - 1:
            self._end_epoch(epoch, begun)
        self._seconds += time.perf_counter() - begun

    def _end_epoch(self, epoch: int, begun: float) -> None:
        loss, right = (self._sums / self.steps_an_epoch).cpu().tolist()
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss is no number any more in epoch {epoch + 1}: lower `peak_rate`"
            )
        seconds = self._seconds + time.perf_counter() - begun
        self.log.append(
            Epoch(epoch + 1, loss, 100 * right, self.rate(self.step - 1), round(seconds, 1))
        )
        self._sums.zero_()
        self._seconds -= seconds

    @torch.no_grad()
    def _update_average(self) -> None:
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

    def save(self, path: Path) -> None:
        """Write everything needed to go on, atomically.

        The file is safetensors, with the plan and the log as a JSON tensor.

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
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        tensors = {"facts": text, "sums": self._sums}
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for p, state in self.optimizer.state.items():
            tensors[f"momentum.{names[p]}"] = state["momentum_buffer"]
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
        tensors, facts = _read(path)
        try:
            # What older states do not say they did without.
            plan = asdict(Plan()) | facts["plan"]
            step, self._seconds = int(facts["step"]), float(facts["seconds"])
            self._sums = tensors.pop("sums").to(self.device)
            self.log = [Epoch(**row) for row in facts["log"]]
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(_DAMAGED.format(path, str(error)[:80])) from error
        if plan != asdict(self.plan):
            odd = [
                f"{name} was {plan.get(name)}"
                for name, value in asdict(self.plan).items()
                if plan.get(name) != value
            ]
            raise UsageError(
                f"{path} was made with other settings ({', '.join(odd)}): use the same, or another "
                "`folder`"
            )
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "momentum": {}}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            parts.setdefault(kind, {})[rest] = value.to(self.device)
        try:
            self.model.load_state_dict(parts["model"])
            self.average = {name: parts["average"][name] for name in self.average}
            for name, p in self.model.named_parameters():
                if step:
                    self.optimizer.state[p]["momentum_buffer"] = parts["momentum"][name].to(p)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:80]
            raise IntegrityError(
                f"{path} belongs to another network ({reason}): use another `folder`"
            ) from error
        self.step = step


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the facts of a file of `Trainer.save`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        facts: dict[str, Any] = json.loads(bytes(tensors.pop("facts").tolist()))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(_DAMAGED.format(path, str(error)[:80])) from error
    return tensors, facts


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


def draws(seed: int, draw: int) -> torch.Generator:
    """Return the generator of one draw of a training; those of two draws differ."""
    return torch.Generator().manual_seed((seed * 1_000_003 + draw) % 2**63)
