"""The config.json of timm, old and new, and of transformers, beside either kind of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.zoo.pretrained.test_layouts import agrees, transformers
from tests.zoo.spiking_fixtures import random_model, refuses
from zoo.errors import IntegrityError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.resnet import ResNet
from zoo.pretrained.configs import read_stated
from zoo.pretrained.published import RELEASES
from zoo.pretrained.sources import read_source

FLAT = {
    "input_size": [3, 32, 32],
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.2471, 0.2435, 0.2616],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "first_conv": "conv1",
    "classifier": "fc",
    "num_classes": 10,
}
HF = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "layer_type": "basic",
    "id2label": {str(n): name for n, name in enumerate("abcde")},
}
CONVNEXT = {  # microsoft/resnet-50's
    "crop_pct": 0.875,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": 224,
}


@pytest.fixture(scope="module")
def cifar() -> ResNet:
    return random_model(topology("resnet18_cifar"))


def folder(
    path: Path, config: object, state: Any, weights: str = "model.safetensors", **more: object
) -> Path:
    path.mkdir()
    for name, content in {"config": config, **more}.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    save = save_file if weights.endswith("safetensors") else torch.save
    save(dict(state), path / weights)
    return path


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": FLAT},
        {"architecture": "resnet18", **FLAT},
        {
            "architecture": "resnet18",
            "num_classes": 10,
            "model_args": {"num_classes": 10, "in_chans": 3, "drop_rate": 0.1, "aa_layer": None},
            "pretrained_cfg": {**FLAT, "license": "", "tag": "", "first_conv": ["conv1"]},
        },
    ],
    ids=["today", "flat", "model_args"],
)
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_timms_forms(tmp_path: Path, cifar: ResNet, config: dict, weights: str) -> None:
    found = read_source(folder(tmp_path / "net", config, cifar.state_dict(), weights))
    assert found.net.arch == "resnet18_cifar" and agrees(found, cifar)
    made = found.origin
    assert (made.mean, made.input_size, made.crop) == ((0.4914, 0.4822, 0.4465), 32, 1.0)
    assert (made.interpolation, made.license) == ("bicubic", None)
    given = read_source(tmp_path / "net", "resnet18_cifar")
    assert given.net == found.net


@pytest.mark.parametrize(
    "args",
    [
        {"aa_layer": "blurpool"},
        {"block_args": {"attn_layer": "se"}},
        {"output_stride": 8},
        {"act_layer": "silu"},
        {"replace_stem_pool": True},
    ],
)
def test_model_args_that_change_the_network(tmp_path: Path, cifar: ResNet, args: dict) -> None:
    config = {"architecture": "resnet18", "model_args": args, "pretrained_cfg": FLAT}
    with refuses(UsageError, f"model_args {next(iter(args))}"):
        read_source(folder(tmp_path / "net", config, cifar.state_dict()))


def test_a_repository_of_transformers(tmp_path: Path) -> None:
    model = random_model(topology("resnet18", num_classes=5))
    state = transformers(model.state_dict())
    path = folder(tmp_path / "net", HF, state, preprocessor_config=CONVNEXT)
    found = read_source(path)
    assert (found.net.arch, found.net.stride_in) == ("resnet18", "3x3")
    assert agrees(found, model, 64)
    made = found.origin
    assert made.class_names == tuple("abcde") and made.interpolation == "bicubic"
    assert (made.input_size, made.crop, made.mean) == (224, 0.875, (0.485, 0.456, 0.406))
    bare = read_source(folder(tmp_path / "bare", HF, state, "pytorch_model.bin"))
    assert bare.origin.mean is None and agrees(bare, model, 64)
    with refuses(IntegrityError, "5 classes, its config.json says 3"):
        few = {**HF, "id2label": {"0": "a", "1": "b", "2": "c"}}
        read_source(folder(tmp_path / "few", few, state))


def stated(config: dict, preprocessor: dict | None = None) -> Any:
    made = None if preprocessor is None else json.dumps(preprocessor).encode()
    return read_stated(json.dumps(config).encode(), "org/net", made)


def test_what_transformers_says() -> None:
    assert stated({**HF, "downsample_in_bottleneck": True}).stride_in == "1x1"
    assert stated({**HF, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}).origin.class_names is None
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    own = stated(HF, {**CONVNEXT, **crop, "size": {"shortest_edge": 256}, "resample": 2}).origin
    assert (own.input_size, own.crop, own.interpolation) == (224, 0.875, "bilinear")
    raw = stated(HF, {**CONVNEXT, "do_normalize": False}).origin
    assert (raw.mean, raw.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("config", "preprocessor", "said"),
    [
        ({**HF, "hidden_act": "gelu"}, None, "activation gelu"),
        ({**HF, "downsample_in_first_stage": True}, None, "stride in its first stage"),
        ({**HF, "model_type": "vit"}, None, "is a vit of transformers"),
        (HF, {"do_rescale": False}, "not divided by 255"),
        (HF, {"resample": 0}, "resample 0"),
        (HF, {"size": {"height": 224, "width": 224}}, "squashed to a square"),
    ],
)
def test_what_transformers_has_and_the_zoo_has_not(
    config: dict, preprocessor: dict | None, said: str
) -> None:
    with refuses(UsageError, said):
        stated(config, preprocessor)


def test_damaged_configs_of_transformers() -> None:
    for damaged in ({**HF, "id2label": 3}, {**HF, "hidden_act": [1]}):
        with refuses(IntegrityError, "give the checkpoint file itself"):
            stated(damaged)


def test_published_names_are_architectures() -> None:
    for release in RELEASES.values():
        assert topology(release.arch, num_classes=release.num_classes)
