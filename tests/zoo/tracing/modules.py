"""ResNets as people write them, with random weights, and what they are tried with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A basic block with a shortcut of option A, F.relu and an in-place addition."""

    def __init__(self, width: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pad = (channels - width) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        y += x
        return F.relu(y)


class HandWritten(nn.Module):
    """ResNet-8 of CIFAR, in names of its own."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(64, 10) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.norm(self.stem(x))))
        x = F.avg_pool2d(x, x.size(3)).view(x.size(0), -1)
        logits: Tensor = self.head(self.drop(x))
        return logits


def deep_head() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


class Free(nn.Module):
    """A stem and a mean before the classifier; `between` is what a test puts in the middle."""

    def __init__(self, between: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.fc, self.between = nn.Linear(16, 10), between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        found = self.between(self, F.relu(self.bn(self.conv(x))))
        return self.fc(found.mean((2, 3))) if isinstance(found, Tensor) else found


def conv(width: int = 16, channels: int = 16, kernel: int = 3, **options: Any) -> nn.Conv2d:
    padding = options.pop("padding", kernel // 2)
    return nn.Conv2d(width, channels, kernel, padding=padding, bias=False, **options)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in eval mode with BatchNorms that all differ from the identity."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            assert part.running_var is not None
            for values, low, high in ((part.weight, 0.5, 1.5), (part.running_var, 0.5, 2)):
                nn.init.uniform_(values, low, high)
            nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3)
    return module.eval()
