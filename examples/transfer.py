"""Transfer: the features of a spiking network, and a new classifier on them.

python examples/transfer.py MODEL DATA [IMAGES]

A linear classifier is fitted to the features of a model on training images of another data set, and
becomes the model's own: from s-resnet20 (CIFAR-10) to cifar100, say. Nothing else is trained; to
train everything, begin a training from the model: zoo train resnet20 --dataset cifar100 --start
s-resnet20.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.nn import functional as F

import zoo
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet

TIMESTEPS = 16


def features(model: SpikingResNet, images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the classifier reads, float32 `[N, C]`, and labels `[N]`."""
    assert model.config is not None
    skip, parts, labels = model.delay_at(TIMESTEPS), [], []
    for pixels, known in images.batches(Preprocess.of(model.config), 100):
        parts.append(model.forward_features(pixels, TIMESTEPS)[skip:].mean(0).float())
        labels.append(known)
    return torch.cat(parts), torch.cat(labels)


def main(name: str, data: str, count: int) -> None:
    """Fit a classifier on `count` training images and measure it on as many test images."""
    model = zoo.load(name)
    train, test = (open_images(data, split).take(count, 0) for split in ("train", "test"))
    names = train.class_names
    classes = len(names) if names else int(train.labels.max()) + 1
    x, y = features(model, train)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4)
    torch.manual_seed(0)
    head = nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(head((x - mean) / std), y).backward()
        optimizer.step()
    with torch.no_grad():  # the classifier reads features as they are
        head.weight /= std
        head.bias -= head.weight @ mean
    made = model.with_head(head, names)
    right = 0
    for pixels, labels in test.batches(Preprocess.of(made.config), 100):
        right += int((made(pixels, TIMESTEPS).argmax(1) == labels).sum())
    print(f"{name} on {data}, T = {TIMESTEPS}: {right} of {len(test)} test images right")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 2000)
