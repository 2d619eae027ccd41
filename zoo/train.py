"""Training the ANN that is converted later: plain torch, one-cycle SGD, one seed, one file out.

Augmentation is a random shift by `shift` pixels (zero padding in normalised units) and, for photographs, a random mirror,
drawn for a whole batch at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.artifact import write_synced
from zoo.build import image_table
from zoo.data import ImageSet, Preprocess
from zoo.network import look_up
from zoo.resnet import ResNet, Topology


@dataclass(frozen=True)
class Plan:
    """One training run. `peak_rate` is one-cycle SGD's highest learning rate for a batch of `batch_size`."""

    epochs: int = 60
    batch_size: int = 64
    peak_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    shift: int = 1
    mirror: bool = False
    seed: int = 0




def train(
    net: Topology, images: ImageSet, prep: Preprocess, plan: Plan, mean: Sequence[float], std: Sequence[float],
    progress: Callable[[int, int, float], None] | None = None,
) -> ResNet:  # fmt: skip
    """Trains `net` on labelled images and returns the module in eval mode.

    The same plan, thread count and torch give the same weights.

    progress: called after each epoch with epochs done, epochs in all and the mean loss.
    """
    generator = torch.Generator().manual_seed(plan.seed)
    torch.manual_seed(plan.seed)
    model = ResNet(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels, labels = next(images.batches(prep, len(images)))
    inputs = look_up(image_table(mean, std, integer=False), pixels)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=plan.peak_rate, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = len(inputs) // plan.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_rate, total_steps=plan.epochs * steps)
    for epoch in range(plan.epochs):
        model.train()
        order, total = torch.randperm(len(inputs), generator=generator), 0.0
        for step in range(steps):
            rows = order[step * plan.batch_size : (step + 1) * plan.batch_size]
            logits = model(augment(inputs[rows], plan, generator))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=plan.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if progress is not None:
            progress(epoch + 1, plan.epochs, total / steps)
    return model.eval()


def augment(images: Tensor, plan: Plan, generator: torch.Generator) -> Tensor:
    """Normalised images [B, C, H, W], each shifted and perhaps mirrored at random, as `plan` says."""
    height, width = images.shape[-2:]
    padded = F.pad(images, [plan.shift] * 4)
    offsets = torch.randint(0, 2 * plan.shift + 1, (2, len(images)), generator=generator)
    rows = offsets[0][:, None] + torch.arange(height)
    columns = offsets[1][:, None] + torch.arange(width)
    if plan.mirror:
        flip = torch.rand(len(images), generator=generator) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    batch = torch.arange(len(images))[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def save_checkpoint(model: ResNet, path: str | Path) -> str:
    """Writes the state dict as safetensors and returns its sha256."""
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    payload = save(state, metadata={"format": "pt"})
    write_synced(Path(path), payload)
    return hashlib.sha256(payload).hexdigest()
