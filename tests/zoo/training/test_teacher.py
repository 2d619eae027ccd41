"""Distillation, cutout, mixup, small images, compiled steps: exact, resumable, refused if wrong."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.zoo.spiking_fixtures import refuses
from zoo.data.augment import augment, mixed
from zoo.data.images import ImageSet
from zoo.errors import NotFoundError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.networks.topology import Topology
from zoo.pretrained.checkpoint import read_checkpoint
from zoo.training.compiled import can_compile
from zoo.training.plan import Plan
from zoo.training.run import DIGITS_MEAN as MEAN
from zoo.training.run import DIGITS_STD as STD
from zoo.training.run import train
from zoo.training.steps import draws
from zoo.training.teacher import Teacher, distance, read_teacher
from zoo.training.trainer import Trainer, save_checkpoint

PREP = Preprocess((1, 8, 8))
PLAN = Plan(epochs=2, batch_size=32, peak_rate=0.05, shift=1, mirror=False, ema=0.9, cutout=3)


@pytest.fixture
def net() -> Topology:
    return topology("resnet20", num_classes=10, in_channels=1)


@pytest.fixture
def teacher(digits_file: Path, digits: ImageSet) -> Teacher:
    return read_teacher(digits_file, digits, PREP, MEAN, STD)


def new(net: Topology, images: ImageSet, plan: Plan, teacher: Teacher | None = None) -> Trainer:
    plan = plan if teacher is None else replace(plan, teacher=teacher.sha256)
    return Trainer(net, images, PREP, plan, MEAN, STD, teacher=teacher)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def until(trainer: Trainer, step: int) -> None:
    class Stop(Exception):
        pass

    def after(trainer: Trainer) -> None:
        if trainer.step == step:
            raise Stop

    with pytest.raises(Stop):
        trainer.run(after)


def check_resumes(
    net: Topology, images: ImageSet, plan: Plan, teacher: Teacher | None, tmp_path: Path
) -> Trainer:
    whole = new(net, images, plan, teacher)
    whole.run()
    first = new(net, images, plan, teacher)
    until(first, 4)
    first.save(tmp_path / "t.safetensors")
    second = new(net, images, plan, teacher)
    second.resume(tmp_path / "t.safetensors")
    second.run()
    assert same(whole.state(), second.state())
    assert [row.loss for row in whole.log] == [row.loss for row in second.log]
    return whole


def test_a_taught_run_resumes_and_differs(
    net: Topology, digits: ImageSet, teacher: Teacher, tmp_path: Path
) -> None:
    few = digits.take(100, 0)
    taught = check_resumes(net, few, PLAN, teacher, tmp_path)
    alone = new(net, few, PLAN)
    alone.run()
    assert not same(taught.state(), alone.state())
    with refuses(UsageError, f"teacher was {teacher.sha256}"):
        alone.resume(tmp_path / "t.safetensors")


@pytest.mark.skipif(not can_compile("cpu"), reason="needs a C++ compiler for torch.compile")
def test_a_compiled_run_resumes(
    net: Topology, digits: ImageSet, teacher: Teacher, tmp_path: Path
) -> None:
    small = replace(net, layers=net.layers[:3])
    plan = replace(PLAN, compiled=True)
    compiled = check_resumes(small, digits.take(100, 0), plan, teacher, tmp_path)
    plain = new(small, digits.take(100, 0), replace(plan, compiled=False), teacher)
    plain.run()
    assert compiled.log[-1].loss == pytest.approx(plain.log[-1].loss, rel=1e-2)


def test_the_distance_by_hand() -> None:
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    # At temperature 1 the teacher says 3/4 and 1/4, the student 1/2 and 1/2.
    far = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert distance(student, teacher, 1.0).item() == pytest.approx(far)
    # Twice the logits at twice the temperature are the same, but for tau^2.
    assert distance(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * far)
    assert distance(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-7)
    assert distance(student.expand(5, 2), teacher.expand(5, 2), 1.0).item() == pytest.approx(far)


def test_the_loss_is_both(net: Topology, digits: ImageSet, teacher: Teacher) -> None:
    few = digits.take(64, 0)
    losses = {}
    for share in (0.0, 0.25, 1.0):
        plan = replace(PLAN, epochs=1, batch_size=64, distil=share, ema=0.0)
        trainer = new(net, few, plan, teacher)
        trainer.run()
        losses[share] = trainer.log[0].loss
    assert losses[0.25] == pytest.approx(0.75 * losses[0.0] + 0.25 * losses[1.0], rel=1e-5)
    plain = new(net, few, replace(PLAN, epochs=1, batch_size=64, ema=0.0))
    plain.run()
    assert plain.log[0].loss == pytest.approx(losses[0.0], rel=1e-6)


def test_a_teacher_sees_the_images_whole(net: Topology, digits: ImageSet, teacher: Teacher) -> None:
    plan = replace(PLAN, batch_size=64, smallest=4, mixup=1.0, distil=1.0)
    trainer = new(net, digits.take(64, 0), plan, teacher)
    pixels, labels = next(digits.take(64, 0).batches(PREP, 64))
    targets = torch.as_tensor(labels)
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    loss, logits = trainer._loss(pixels, targets)
    trainer.model.load_state_dict(state)
    generator = draws(0, 1)
    whole = augment(look_up(trainer.table, pixels), generator, shift=1, mirror=False, cutout=3)
    whole, _, _ = mixed(whole, targets, generator, 1.0)
    small = torch.nn.functional.interpolate(whole, (4, 4), mode="bilinear", antialias=True)
    assert torch.allclose(trainer.model(small), logits, atol=1e-5)
    answers = teacher.on(torch.device("cpu"), MEAN, STD)
    assert loss.item() == pytest.approx(distance(logits, answers(whole), 4.0).item(), rel=1e-5)
    assert loss.item() != pytest.approx(distance(logits, answers(small), 4.0).item(), rel=1e-2)


def test_a_teacher_sees_its_own_normalisation(digits: ImageSet, teacher: Teacher) -> None:
    other = replace(teacher, mean=(0.5,), std=(0.25,))
    pixels, _ = next(digits.batches(PREP, 50))
    direct = ann_forward(
        other.net, other.params, look_up(image_table((0.5,), (0.25,), integer=False), pixels)
    )
    answers = other.on(torch.device("cpu"), MEAN, STD)
    found = answers(look_up(image_table(MEAN, STD, integer=False), pixels))
    assert torch.allclose(found, direct, atol=1e-3) and not found.requires_grad
    assert "does not say its mean and std" in teacher.notes[0]
    assert "is right on 9" in teacher.notes[1]


def test_an_artifact_teaches(digits: ImageSet) -> None:
    found = read_teacher("s-resnet20-digits", digits, PREP, MEAN, STD)
    assert found.name == "s-resnet20-digits" and "right on" in found.notes[-1]


def test_who_cannot_teach(digits: ImageSet, digits_file: Path, tmp_path: Path) -> None:
    with refuses(NotFoundError, "nobody does not exist"):
        read_teacher("nobody", digits, PREP, MEAN, STD)
    with refuses(UsageError, "takes 3 channels, the images have 1"):
        read_teacher("s-resnet20", digits, PREP, MEAN, STD)
    few = digits.take(100, 0)
    named = replace(few, class_names=tuple("abc"))
    with refuses(UsageError, "has 10 classes, the images have 3"):
        read_teacher(digits_file, named, PREP, MEAN, STD)
    untrained = Trainer(topology("resnet20", in_channels=1), few, PREP, PLAN, MEAN, STD)
    save_checkpoint(untrained.state(), tmp_path / "net.safetensors")
    with refuses(UsageError, "its classes or its normalisation are others"):
        read_teacher(tmp_path / "net.safetensors", digits, PREP, MEAN, STD)


def test_cutout_blanks_one_square() -> None:
    images = torch.ones(300, 2, 7, 5)
    plain = augment(images, torch.Generator().manual_seed(0), shift=0, mirror=True)
    for side in (1, 2, 3):
        generator = torch.Generator().manual_seed(0)
        found = augment(images, generator, shift=0, mirror=True, cutout=side)
        gone = found[:, 0] == 0
        assert torch.equal(gone, found[:, 1] == 0) and torch.equal(
            found[~gone.unsqueeze(1).expand_as(found)], plain[~gone.unsqueeze(1).expand_as(found)]
        )
        rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
        assert torch.equal(gone.flatten(1).sum(1), rows * columns)  # whole rectangles
        assert (rows.max(), columns.max()) == (side, side) and rows.min() >= (side + 1) // 2
        assert gone.any(0).all()  # every pixel may be it


def test_mixup_mixes_pairs_by_one_share() -> None:
    images = torch.eye(6).view(6, 1, 1, 6)
    labels, shares = torch.arange(6), []
    for draw in range(200):
        found, others, share = mixed(images, labels, torch.Generator().manual_seed(draw), 0.4)
        shares.append(share)
        expected = share * images + (1 - share) * images[others]
        assert (
            torch.allclose(found, expected, atol=1e-6)
            and sorted(others.tolist()) == labels.tolist()
        )
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    mean, variance = float(np.mean(shares)), float(np.var(shares))
    assert abs(mean - 0.5) < 0.1 and abs(variance - 1 / 7.2) < 0.03
    again = mixed(images, labels, torch.Generator().manual_seed(3), 0.4)
    assert again[2] == shares[3]


def test_the_loss_of_mixed_images_is_that_of_both_labels(net: Topology, digits: ImageSet) -> None:
    trainer = new(net, digits.take(64, 0), replace(PLAN, batch_size=64, mixup=1.0, cutout=0))
    pixels, labels = next(digits.take(64, 0).batches(PREP, 64))
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    loss, logits = trainer._loss(pixels, torch.as_tensor(labels))
    trainer.model.load_state_dict(state)
    generator = draws(0, 1)
    plain = augment(look_up(trainer.table, pixels), generator, shift=1, mirror=False)
    inputs, others, share = mixed(plain, torch.as_tensor(labels), generator, 1.0)
    assert torch.equal(trainer.model(inputs), logits)
    each = (
        torch.nn.functional.cross_entropy(logits, target, label_smoothing=PLAN.label_smoothing)
        for target in (torch.as_tensor(labels), others)
    )
    assert loss.item() == pytest.approx(
        sum(part * one.item() for part, one in zip((share, 1 - share), each, strict=True))
    )


def test_images_grow_over_two_thirds_of_the_epochs(
    net: Topology, digits: ImageSet, tmp_path: Path
) -> None:
    few = digits.take(100, 0)
    trainer = new(net, few, replace(PLAN, epochs=6, smallest=4, mixup=0.3))
    sizes = [trainer.side(step) for step in range(0, trainer.steps, trainer.steps_an_epoch)]
    assert sizes == [4, 4, 4, 4, 8, 8]
    large = replace(PLAN, epochs=60, smallest=128)
    trainer.prep, trainer.plan = Preprocess((1, 224, 224)), large
    sides = [trainer.side(epoch * trainer.steps_an_epoch) for epoch in range(60)]
    assert sorted(set(sides)) == [128, 152, 176, 200, 224] and sides == sorted(sides)
    assert sides[39] < 224 == sides[40]
    trainer = new(net, few, replace(PLAN, epochs=6, smallest=4, mixup=0.3))
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[-1]))
    trainer.run()
    assert seen == [size for size in sizes for _ in range(trainer.steps_an_epoch)]
    check_resumes(net, few, replace(PLAN, smallest=4, mixup=0.3), None, tmp_path)
    for wrong in (3, 9):
        with refuses(UsageError, "`smallest` must be 4 to 8, the side of the images"):
            new(net, few, replace(PLAN, smallest=wrong))
    for alpha in (-0.1, math.nan):
        with refuses(UsageError, "`mixup` must be 0"):
            new(net, few, replace(PLAN, mixup=alpha))


def test_other_images_are_not_gone_on_with(net: Topology, digits: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    new(net, digits.take(100, 0), PLAN).save(path)
    new(net, digits.take(100, 0), PLAN).resume(path)
    with refuses(UsageError, "was made with other images"):
        new(net, digits.take(100, 1), PLAN).resume(path)


def test_a_state_from_before_these_settings_goes_on(
    net: Topology, digits: ImageSet, tmp_path: Path
) -> None:
    path, few = tmp_path / "t.safetensors", digits.take(100, 0)
    plan = replace(PLAN, cutout=0)
    first = new(net, few, plan)
    until(first, 2)
    first.save(path)
    tensors = load_file(path)
    facts: dict[str, Any] = json.loads(bytes(tensors["facts"].tolist()))
    for name in (*("cutout", "mixup", "smallest", "teacher", "distil", "temperature", "compiled"),):
        del facts["plan"][name]
    assert facts["plan"].keys() < asdict(plan).keys()
    text = bytearray(json.dumps(facts).encode())
    save_file(tensors | {"facts": torch.frombuffer(text, dtype=torch.uint8)}, path)
    second = new(net, few, plan)
    second.resume(path)
    assert second.step == 2


def test_the_log_names_the_teacher(digits_file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    train(
        "resnet20",
        "digits",
        tmp_path / "a",
        epochs=1,
        batch_size=500,
        precision="float32",
        teacher=digits_file,
        cutout=2,
        log=lines.append,
    )
    assert any("is right on" in line for line in lines)
    log = json.loads((tmp_path / "a" / "log.json").read_text())
    assert log["teacher"]["name"] == digits_file.name
    assert log["plan"]["teacher"] == log["teacher"]["sha256"] and log["plan"]["cutout"] == 2
    assert log["teacher"]["training"] is None and log["began"] is None


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_the_log_holds_how_the_teacher_was_trained(
    net: Topology, digits: ImageSet, digits_file: Path, shortcut: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 500, "precision": "float32"}
    folder = tmp_path / "teacher"
    train("resnet20", "digits", folder, start=digits_file, **settings)
    own = json.loads((folder / "log.json").read_text())
    assert (own["start"], own["began"]) == (None, digits_file.name)
    if shortcut == "B":  # its facts do not hold the shortcut, so that they would not make it again
        other = Trainer(
            topology("resnet20", in_channels=1, shortcut="B"), digits, PREP, PLAN, MEAN, STD
        )
        other.run()
        sha256 = save_checkpoint(other.state(), folder / "resnet20.safetensors")
        (folder / "log.json").write_text(json.dumps(own | {"sha256": sha256}))
    taught = train(
        "resnet20", "digits", tmp_path / "b", teacher=folder / "resnet20.safetensors", **settings
    )
    training = read_checkpoint(tmp_path / "b" / "resnet20.safetensors", "resnet20").training
    assert training is not None and training.teacher == "resnet20.safetensors"
    if shortcut == "B":
        assert taught["teacher"]["training"] is None and training.taught is None
    else:
        assert (
            training.taught == read_checkpoint(folder / "resnet20.safetensors", "resnet20").training
        )
        assert training.taught is not None and training.taught.began == digits_file.name
