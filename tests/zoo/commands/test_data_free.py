"""Check the output and the refusals of `zoo convert` without images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.zoo.commands.conftest import QUICK, Material, Zoo
from zoo.networks.architectures import topology
from zoo.networks.resnet import ResNet

SMALL = (
    *QUICK[: QUICK.index("--method")],
    "--method",
    "data-free",
    "--samples",
    "8",
    "--parameter",
    "steps=2",
    "--parameter",
    "rows=2",
)


@pytest.fixture(scope="module")
def seasoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose BatchNorm has seen images; that of `made` has not."""
    torch.manual_seed(0)
    model = ResNet(topology("resnet20", num_classes=10, in_channels=1)).train()
    with torch.no_grad():
        model(torch.randn(16, 1, 8, 8))
    path = tmp_path_factory.mktemp("seasoned") / "net.pth"
    torch.save(model.state_dict(), path)
    return path


def test_an_artifact_without_any_image(zoo: Zoo, seasoned: Path, tmp_path: Path) -> None:
    ended = zoo("convert", seasoned, "--out", tmp_path / "net", *SMALL)
    assert ended.code == 0, ended.err
    assert f"next: zoo eval {tmp_path}/net --data IMAGES\n" in ended.err
    config = json.loads((tmp_path / "net/config.json").read_text())
    made = "8 images of 8x8x1 made from BatchNorm statistics in 2 steps with seed 0"
    assert (config["method"]["name"], config["calibration"]["description"]) == ("data-free", made)
    assert config["calibration"]["dataset"] is None and config["calibration"]["images"] == 8
    shown = zoo("info", tmp_path / "net")
    assert shown.code == 0 and made in " ".join(shown.out.split()) and "drawn" not in shown.out
    assert zoo("verify", tmp_path / "net", "--deep").code == 0


def test_the_artifact_runs_on_images(
    zoo: Zoo, made: Material, seasoned: Path, tmp_path: Path
) -> None:
    words = ("--neuron", "signed", "--parameter", "thresholds=moments", "--parameter", "bias=ann")
    assert zoo("convert", seasoned, "--out", tmp_path / "net", *SMALL, *words, "-q").code == 0
    ended = zoo("eval", tmp_path / "net", "--data", made.images, "--timesteps", "2,4", "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert (said["method"], said["neuron"]) == ("data-free", "signed")


def test_images_are_refused_or_wanted_before_any_work(zoo: Zoo, tmp_path: Path) -> None:
    none = ("--arch", "resnet20", "--out", tmp_path / "net")
    said = zoo("convert", "none.pth", *none, "--method", "data-free", "--calib", "none").failed(2)
    assert "makes its own images: leave --calib out" in said
    for method in ("calibrated", "hu2018"):
        said = zoo("convert", "none.pth", *none, "--method", method).failed(2)
        assert f"--method {method} calibrates on images: give training images with --calib" in said


def test_a_checkpoint_without_statistics_is_one_line(
    zoo: Zoo, made: Material, tmp_path: Path
) -> None:
    said = zoo("convert", made.checkpoint, "--out", tmp_path / "net", *SMALL).failed(2)
    assert "net.pth has no BatchNorm statistics" in said and "--calib" in said
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    "words", ["steps=0", "rate=0", "rate=nan", "images=0", "tune=5", "thresholds=learnt"]
)
def test_parameters_that_cannot_be_used(
    zoo: Zoo, seasoned: Path, tmp_path: Path, words: str
) -> None:
    zoo("convert", seasoned, "--out", tmp_path / "net", *SMALL, "--parameter", words).failed(2)
    assert not (tmp_path / "net").exists()
