"""Accuracies that a training prints are of float32, and not of the TF32 a GPU takes by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.data.images import ImageSet
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.training.plan import Plan
from zoo.training.run import DIGITS_MEAN, DIGITS_STD
from zoo.training.trainer import Trainer
from zoo.training.tune import _accuracy

PREP = Preprocess((1, 8, 8))


class Precisions(TorchDispatchMode):
    """Note the precision that cuDNN would compute each convolution in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "conv" in str(func):
            self.seen.add(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
        return func(*args, **(kwargs or {}))


@contextmanager
def in_float32_alone() -> Iterator[None]:
    with Precisions() as precisions:
        yield
    assert precisions.seen == {"ieee"}


@pytest.fixture
def few(digits: ImageSet) -> ImageSet:
    return digits.take(20, 0)


def test_of_a_trained_ann(few: ImageSet) -> None:
    net = topology("resnet20", num_classes=10, in_channels=1)
    trainer = Trainer(net, few, PREP, Plan(batch_size=10), DIGITS_MEAN, DIGITS_STD)
    with in_float32_alone():
        trainer.accuracy(few, PREP)
    with pytest.raises(AssertionError), in_float32_alone():
        trainer.model(torch.zeros(1, 1, 8, 8))


def test_of_a_tuned_network(few: ImageSet) -> None:
    module = zoo.load("s-resnet20-digits").trainable()
    with in_float32_alone():
        _accuracy(module, few, PREP, 2, "cpu")
