"""Rules are calibrated on training images, and operations are counted for each image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import zoo
from tests.zoo.commands.conftest import Zoo
from tests.zoo.commands.conftest import zoo as command  # noqa: F401
from tests.zoo.spiking_fixtures import random_network, random_pixels, tiny_topology
from zoo.artifact.folder import read_config
from zoo.artifact.results import read_evaluation
from zoo.data.open import open_images
from zoo.evaluation.energy import count_operations, fan_out
from zoo.evaluation.exits import Observed, _operations, apply_rule, calibrate_rule
from zoo.models import registry
from zoo.render import card

DIGITS = "s-resnet20-digits"


@pytest.mark.parametrize(
    ("neuron", "form"),
    [
        ("if", "cifar"),
        ("signed", "imagenet"),
        ("multi-level", "deep"),
        ("if", "head"),
        ("signed", "v1"),
    ],
)
def test_operations_of_each_image_add_up(neuron: str, form: str) -> None:
    network = random_network(tiny_topology(form), neuron=neuron)
    images = random_pixels(5, network.topology.in_channels, 16)
    found, logits = _operations(network, images, 6, fan_out(network, 16, 16))
    run = network.run(images, 6, snapshots=(1, 4, 6))
    active = (network.pixels(images) != 0).sum(0)
    assert torch.equal(logits, run.logits)
    for step, spikes in run.spikes.items():
        wanted = sum(count_operations(network, spikes, active).values())
        assert int(found[step - 1].sum()) == wanted
    assert bool((found.diff(dim=0) >= 0).all())
    alone, _ = _operations(network, images[2:3], 6, fan_out(network, 16, 16))
    assert torch.equal(alone[:, 0], found[:, 2])


def observed() -> Observed:
    """Return 100 images whose sureness rises; the surer half is right from T = 2 on."""
    steps, count = 8, 100
    sure = torch.arange(1, steps + 1).double()[:, None] * torch.linspace(0.1, 1, count).double()
    right = torch.zeros(steps, count, dtype=torch.bool)
    right[1:, 50:] = True
    right[5:, :90] = True
    operations = torch.arange(1, steps + 1).double()[:, None].expand(steps, count).contiguous()
    return Observed({"margin": sure, "entropy": -1 / sure}, right, operations)


@pytest.mark.parametrize("name", ["margin", "entropy"])
@pytest.mark.parametrize("loss", [0.0, 0.5, 2.0, 10.0])
def test_a_rule_loses_no_more_than_it_may(name: str, loss: float) -> None:
    found = observed()
    row = apply_rule(found, calibrate_rule(found, name, loss), loss)  # type: ignore[arg-type]
    assert row.whole - row.top1 <= loss + 1e-9
    assert row.mean_timesteps < 8 and sum(row.images) == 100
    assert row.operations == pytest.approx(row.mean_timesteps)  # here one for each timestep
    soon = apply_rule(found, calibrate_rule(found, name, loss + 5), loss)  # type: ignore[arg-type]
    assert soon.mean_timesteps <= row.mean_timesteps


def test_where_nothing_may_be_lost_every_image_runs_to_the_end() -> None:
    right = torch.zeros(4, 10, dtype=torch.bool)
    right[3] = True
    found = Observed({"margin": torch.ones(4, 10).double()}, right, torch.ones(4, 10).double())
    row = apply_rule(found, calibrate_rule(found, "margin", 0), 0)
    assert row.images == [0, 0, 0, 10] and row.top1 == 100


def test_the_command_stores_the_rule(command: Zoo, tmp_path: Path) -> None:  # noqa: F811
    folder = Path(shutil.copytree(registry.resolve(DIGITS), tmp_path / "net"))
    before = card.for_folder(folder)
    words = ["eval", folder, "--exit", "margin", "--exit-loss", "0.5", "--limit", "40"]
    words += ["--exit-samples", "60", "--timesteps", "8,16", "--json"]
    plain = command(*words)
    assert plain.code == 0, plain
    assert read_config(folder).exit is None
    ended = command(*words, "--save")
    row = json.loads(ended.out)
    assert ended.code == 0 and row == json.loads(plain.out)
    assert len(row["images"]) == 16 and sum(row["images"]) == 40
    stored = read_config(folder).exit
    assert stored is not None and (stored.loss, stored.images, stored.timesteps) == (0.5, 60, 16)
    assert "train split" in stored.description and stored.threshold == row["rule"]["threshold"]
    # The card and eval.json are of the same config as before but for the rule.
    assert read_evaluation(folder).config == read_config(folder)
    assert {*card.for_folder(folder).splitlines()} > {*before.splitlines()}
    network = zoo.load(folder)
    images = open_images("digits", "test").take(40, seed=0)
    pixels = images.batch(slice(None), network.preprocess)  # type: ignore[arg-type]
    answers = network(pixels, exit=True)
    right = int((answers.argmax(-1) == torch.from_numpy(images.labels.copy())).sum())
    assert 100 * right / 40 == row["top1"]
    shown = command("show", folder).out
    assert "early exit    margin of" in shown
    assert "not in a folder of yours" in command("eval", DIGITS, *words[2:], "--save", "-q").failed(
        2
    )
    assert "are not for --exit" in command(*words, "--output", tmp_path / "a.json").failed(2)
