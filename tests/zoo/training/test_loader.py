"""A set too large for memory is trained on batch by batch, to the same weights in less memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.zoo.image_fixtures import encoded, random_images
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.errors import IntegrityError
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.training import loader
from zoo.training.loader import Loader
from zoo.training.plan import Plan
from zoo.training.run import DIGITS_MEAN, DIGITS_STD
from zoo.training.trainer import Trainer

CPU = torch.device("cpu")
PREP = Preprocess((1, 8, 8))
PLAN = Plan(epochs=2, batch_size=32, peak_rate=0.05, shift=1, mirror=False, levels=4)


def trained(images: ImageSet, state: Path, stop: int | None = None) -> Trainer:
    """Train on the images from `state` on, if it exists; at step `stop` save there and end."""

    def after_step(trainer: Trainer) -> None:
        if trainer.step == stop:
            raise KeyboardInterrupt

    net = topology("resnet20", num_classes=10, in_channels=1)
    trainer = Trainer(net, images, PREP, PLAN, DIGITS_MEAN, DIGITS_STD)
    if state.exists():
        trainer.resume(state)
    if stop is None:
        trainer.run(after_step)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.run(after_step)
        trainer.save(state)
    return trainer


def test_batches_read_when_due_give_the_same_weights(digits, tmp_path, monkeypatch):
    few = digits.take(100, 0)
    held = trained(few, tmp_path / "none").state()
    monkeypatch.setattr(loader, "IN_MEMORY", 100 * 64 - 1)
    asked: list[int] = []
    batch = ImageSet.batch

    def counting(self: ImageSet, rows, prep):
        asked.append(len(rows))
        return batch(self, rows, prep)

    monkeypatch.setattr(ImageSet, "batch", counting)
    trained(few, tmp_path / "state", stop=4)
    streamed = trained(few, tmp_path / "state").state()
    assert max(asked) == PLAN.batch_size
    assert held.keys() == streamed.keys()
    assert all(torch.equal(held[name], streamed[name]) for name in held)


def test_the_next_batch_is_read_ahead(digits, monkeypatch):
    monkeypatch.setattr(loader, "IN_MEMORY", 0)
    few = digits.take(9, 0)
    images = Loader(few, PREP, CPU)
    given: list[int] = []

    def rows():
        for start in (0, 3, 6):
            given.append(start)
            yield torch.arange(start, start + 3)

    batches = images.batches(rows())
    first, labels = next(batches)
    assert given == [0, 3]
    assert torch.equal(first, few.batch(slice(0, 3), PREP))
    assert labels.tolist() == few.labels[:3].tolist()
    assert [labels.tolist() for _, labels in batches] == [
        few.labels[3:6].tolist(),
        few.labels[6:].tolist(),
    ]


def test_a_damaged_image_ends_the_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "IN_MEMORY", 0)
    for name, pixels in (("a", random_images(2)), ("b", random_images(2, seed=1))):
        (tmp_path / name).mkdir()
        for number, image in enumerate(pixels):
            (tmp_path / name / f"{number}.png").write_bytes(encoded(image))
    images = Loader(open_images(tmp_path, "train"), Preprocess((3, 32, 32)), CPU)
    (tmp_path / "b" / "0.png").write_bytes(b"no image")
    batches = images.batches([torch.tensor([0]), torch.tensor([2]), torch.tensor([1])])
    next(batches)
    with pytest.raises(IntegrityError, match=r"0\.png"):
        next(batches)


_PEAK = """
import sys
from zoo.data.open import open_images
from zoo.environment import peak_memory
from zoo.networks.preprocess import Preprocess
from zoo.networks.architectures import topology
from zoo.training import loader
from zoo.training.plan import Plan
from zoo.training.trainer import Trainer

loader.IN_MEMORY = int(sys.argv[2])
plan = Plan(epochs=1, batch_size=4)
prep = Preprocess((3, 128, 128))
images = open_images(sys.argv[1], "train")
net = topology("resnet20", num_classes=2)
trainer = Trainer(net, images, prep, plan, (0.5,) * 3, (0.5,) * 3)

class Done(Exception):
    pass

def after_step(trainer):
    if trainer.step == 3:
        raise Done

try:
    trainer.run(after_step)
except Done:
    print(peak_memory())
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    jpeg = encoded(random_images(1, (128, 128, 3))[0], "jpeg")

    def peak(count: int, in_memory: int = 0) -> int:
        root = tmp_path / str(count)
        for label in ("a", "b"):
            (root / label).mkdir(parents=True, exist_ok=True)
            for number in range(count // 2):
                (root / label / f"{number}.jpg").write_bytes(jpeg)
        words = [sys.executable, "-c", _PEAK, str(root), str(in_memory)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many, decoded = peak(40), peak(3000), 3000 * 128 * 128 * 3
    assert many - few < decoded / 4
    assert peak(3000, in_memory=decoded) - few > decoded / 2  # so the measure can tell
