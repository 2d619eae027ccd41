"""Check the ImageNet benchmark: result files match their cases, statistics are BatchNorm's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import imagenet
from tests.zoo.spiking_fixtures import random_model, random_pixels
from zoo.data.images import unlabelled
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.networks.architectures import topology
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.pixels import image_table, look_up
from zoo.pretrained.checkpoint import Checkpoint

CASES = {case.name: case for case in imagenet.cases()}


def test_every_case_has_a_name_of_its_own() -> None:
    assert len(CASES) == len(imagenet.cases())


@pytest.mark.parametrize(
    "path", sorted(imagenet.RESULTS.glob("*.json")), ids=lambda path: path.stem
)
def test_a_result_file_is_of_its_case(path: Path) -> None:
    result = json.loads(path.read_text())
    case, config = CASES[path.stem], result["config"]
    assert (result["arch"], result["method"], result["neuron"], result["schedule"]) == (
        case.arch,
        case.method,
        case.neuron,
        case.schedule,
    )
    assert (config["timesteps"], config["calibration"]["images"]) == (case.made_for, case.samples)
    assert {
        name: config["method"]["parameters"][name] for name in case.parameters
    } == case.parameters
    assert result["data"]["images"] == case.images
    assert {row["timesteps"] for row in result["rows"]} == set(case.timesteps)


def test_recorded_moments_are_those_of_a_batchnorm() -> None:
    net = topology("resnet18", num_classes=5)
    params = fold_batchnorm(net, random_model(net).state_dict())
    pixels = random_pixels(11, 3, 256)
    images = unlabelled(pixels.permute(0, 2, 3, 1).contiguous().numpy(), "random", "random")
    moments = imagenet._moments(Checkpoint(net, params, "random", "0" * 64), images)
    assert set(moments) == {
        name.removesuffix(".weight") for name in params if name.endswith(".weight")
    } - {"fc"}
    stem = net.layers[0]
    image = look_up(
        image_table(IMAGENET_MEAN, IMAGENET_STD, integer=False), pixels[:, :, 16:240, 16:240]
    )
    norm = torch.nn.BatchNorm2d(stem.out_channels, momentum=None)
    norm(
        torch.nn.functional.conv2d(
            image,
            params[f"{stem.name}.weight"],
            params[f"{stem.name}.bias"],
            stem.stride,
            stem.padding,
        )
    )
    torch.testing.assert_close(moments[stem.name].mean, norm.running_mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        moments[stem.name].std, norm.running_var.sqrt(), rtol=1e-4, atol=1e-4
    )
