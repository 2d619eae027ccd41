"""Test sources of ANNs: files, timm's layout on a hub and in a folder, torchvision; refusals."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from tests.minihub import MiniHub
from tests.zoo.spiking_fixtures import image_set, random_model, random_pixels, refuses
from zoo.conversion.convert import convert
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.imagenet import imagenet_classes
from zoo.networks.architectures import topology
from zoo.networks.resnet import ann_forward
from zoo.pretrained import sources
from zoo.pretrained.sources import find_checkpoint, read_source

CONFIG: dict[str, Any] = {
    "architecture": "resnet20",
    "num_classes": 7,
    "num_features": 64,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "custom_load": False,
        "input_size": [3, 40, 40],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.25],
        "num_classes": 7,
        "pool_size": [2, 2],
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "apache-2.0",
        "origin_url": "https://example.org/a.pth",
    },
}


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(topology("resnet20", num_classes=7))


@pytest.fixture(scope="module")
def weights(model: Any) -> bytes:
    return save(dict(model.state_dict()), metadata={"format": "pt"})


def changed(**changes: Any) -> bytes:
    """Return the config with other entries, those of pretrained_cfg behind `cfg_`."""
    config = {**CONFIG, "pretrained_cfg": dict(CONFIG["pretrained_cfg"])}
    for name, value in changes.items():
        (config["pretrained_cfg"] if name.startswith("cfg_") else config)[
            name.removeprefix("cfg_")
        ] = value
    return json.dumps(config).encode()


def folder_with(path: Path, weights: bytes, config: bytes) -> Path:
    path.mkdir()
    (path / "config.json").write_bytes(config)
    (path / "model.safetensors").write_bytes(weights)
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MiniHub]:
    """Start a hub, with a client that knows no other and has an empty cache."""
    with MiniHub() as running:
        for name, value in {
            "ENDPOINT": running.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        yield running


def test_a_file_says_nothing_of_itself(tmp_path: Path, model: Any) -> None:
    path = tmp_path / "net.pth"
    torch.save(model.state_dict(), path)
    found = read_source(path, "resnet20")
    assert (found.name, found.origin) == ("net.pth", sources.Origin())
    assert read_source(path).net == found.net
    other = OrderedDict(model.state_dict())
    del other["layer2.2.conv1.weight"]
    torch.save(other, path)
    with refuses(UsageError, "pass `arch`"):
        read_source(path)


def test_a_repository_in_timms_layout(
    hub: MiniHub, weights: bytes, model: Any, tmp_path: Path
) -> None:
    first = hub.upload(
        "timm/small.a1_in1k", {"config.json": changed(), "model.safetensors": weights}
    )
    hub.upload("timm/small.a1_in1k", {"config.json": changed(cfg_crop_pct=0.5)})
    seen: list[tuple[str, int, int]] = []
    found = read_source(f"timm/small.a1_in1k@{first}", progress=lambda *step: seen.append(step))
    made = found.origin
    assert (found.name, found.net.arch, found.net.num_classes) == (
        "timm/small.a1_in1k",
        "resnet20",
        7,
    )
    assert (made.license, made.url, made.revision) == (
        "apache-2.0",
        f"{hub.url}/timm/small.a1_in1k",
        first,
    )
    assert (made.mean, made.std, made.input_size) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 40)
    assert (made.crop, made.interpolation, made.class_names) == (0.95, "bicubic", None)
    assert ("model.safetensors", len(weights), len(weights)) in seen
    image = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(ann_forward(found.net, found.params, image), model(image), atol=1e-4)
    # The newest, by no revision; both files of one commit.
    newest = read_source("timm/small.a1_in1k").origin
    assert (
        newest.crop == 0.5
        and newest.revision == hub.repos["model", "timm/small.a1_in1k"].head != first
    )
    # `zoo eval` finds the ANN again in the client's cache, where files lie under names without a
    # suffix.
    from zoo.pretrained.checkpoint import find_source, read_checkpoint, remember_source

    assert found.path is not None
    remember_source(found.sha256, found.path)
    again = find_source(found.sha256)
    assert again is not None and read_checkpoint(again, "resnet20").sha256 == found.sha256


def test_what_a_hub_has_not(hub: MiniHub, weights: bytes) -> None:
    hub.upload("org/bare", {"README.md": b"none"})
    hub.upload("org/half", {"config.json": changed()})
    for name, said in (
        ("org/bare", "no config.json"),
        ("org/half", "no model.safetensors"),
        ("org/none", "not at"),
    ):
        with refuses(NotFoundError, said):
            find_checkpoint(name)
    with refuses(NotFoundError, "no such revision"):
        find_checkpoint("org/half@v9")
    assert len(hub.log) > 0
    before = len(hub.log)
    for name in ("nothing.pth", "runs/nothing.pth", "org/half@", "a/b/c", "x" * 5000, "nul\0nul"):
        with refuses(NotFoundError, "does not exist"):
            find_checkpoint(name)
    assert len(hub.log) == before


def test_preprocessing_goes_into_the_artifact(tmp_path: Path, weights: bytes) -> None:
    from zoo.artifact.folder import read_config

    path = folder_with(tmp_path / "small", weights, changed(label_names=list("abcdefg")))
    images = image_set(tmp_path, random_pixels(8, 3, 50), [0, 1, 2, 3, 4, 5, 6, 0])
    quick = {"method": "hu2018", "parameters": {"steps": 1}, "timesteps": 2, "samples": 4}
    convert(read_source(path), images, **quick).save(tmp_path / "net")
    config = read_config(tmp_path / "net")
    made = config.preprocess
    # floor(40 / 0.95)
    assert (made.input_size, made.resize, made.interpolation) == ((3, 40, 40), 42, "bicubic")
    assert (made.mean, made.std, config.class_names) == (
        [0.5, 0.4, 0.3],
        [0.2, 0.3, 0.25],
        list("abcdefg"),
    )
    assert (config.source.license, config.source.url) == ("apache-2.0", "https://example.org/a.pth")
    own = convert(
        read_source(path),
        images,
        mean=(0.1,) * 3,
        std=(0.9,) * 3,
        input_size=16,
        interpolation="bilinear",
        license="mine",
        **quick,
    ).config
    changed_to = own.preprocess
    assert (changed_to.resize, changed_to.interpolation, changed_to.mean) == (
        16,
        "bilinear",
        [0.1] * 3,
    )
    assert own.source.license == "mine"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "dla34"}, "is a dla34, which the zoo cannot convert"),
        ({"architecture": "seresnet50"}, "is a seresnet50, which has squeeze-excite"),
        ({"architecture": "resnetblur50"}, "has anti-aliasing"),
        ({"architecture": "resnetrs50"}, "squeeze-excite in its blocks, and no max-pooling"),
        ({"architecture": "resnetv2_50"}, "has pre-activation"),
        ({"architecture": "resnet50_gn"}, "has GroupNorm"),
        ({"cfg_first_conv": "conv1.0"}, "first_conv conv1.0"),
        ({"model_args": {"act_layer": "silu"}}, "model_args act_layer"),
        ({"cfg_crop_mode": "squash"}, "crop_mode squash"),
        ({"cfg_interpolation": "nearest"}, "interpolation nearest"),
        ({"cfg_input_size": [3, 40, 48]}, "40x48"),
    ],
)
def test_networks_the_zoo_has_not(
    tmp_path: Path, weights: bytes, changes: dict[str, Any], said: str
) -> None:
    with refuses(UsageError, said):
        read_source(folder_with(tmp_path / "net", weights, changed(**changes)))


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"[]",
        b"{",
        b'{"architecture": 3}',
        changed(cfg_mean=[0.5]),
        changed(cfg_crop_pct=0),
        changed(cfg_std=[0, 1, 1]),
        changed(num_classes=8),
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_config_that_is_not_timms(tmp_path: Path, weights: bytes, config: bytes) -> None:
    with refuses(IntegrityError):
        read_source(folder_with(tmp_path / "net", weights, config))


def test_other_folders(tmp_path: Path, weights: bytes) -> None:
    with refuses(NotFoundError, "no config.json"):
        find_checkpoint(tmp_path)
    with refuses(UsageError, "spiking network already"):
        find_checkpoint(folder_with(tmp_path / "spiking", weights, b'{"format": "spiking-zoo"}'))
    with refuses(UsageError, "is a resnet20, not a resnet56"):
        read_source(folder_with(tmp_path / "net", weights, changed()), "resnet56")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("layer2.0.downsample.2.weight", "averages in its shortcuts"),
        ("layer1.0.se.fc1.weight", "squeeze-excite"),
        ("layer2.0.aa.filt", "anti-aliasing"),
    ],
)
def test_parts_that_other_networks_have(tmp_path: Path, model: Any, key: str, said: str) -> None:
    path = tmp_path / "net.safetensors"
    save_file({**model.state_dict(), key: torch.zeros(1)}, path)
    with refuses(UsageError, said):
        read_source(path, "resnet20")


def test_imagenets_classes() -> None:
    names = imagenet_classes()
    assert len(set(names)) == 1000 and list(names) == sorted(names)
    assert (names[0], names[1], names[999]) == ("n01440764", "n01443537", "n15075141")


@pytest.mark.shared
def test_imagenets_classes_are_those_of_the_images(shared: Path) -> None:
    assert list(imagenet_classes()) == json.loads(
        (shared / "data" / "imagenet" / "wnids.json").read_text()
    )


def test_the_command_line_needs_no_architecture(
    tmp_path: Path, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoo.cli import main

    path = folder_with(tmp_path / "small", weights, changed())
    torch.manual_seed(0)
    images = image_set(tmp_path, random_pixels(4, 3, 50), [0, 1, 2, 3]).source
    quick = (
        "--method",
        "hu2018",
        "--parameter",
        "steps=1",
        "--timesteps",
        "2",
        "--samples",
        "2",
        "--json",
    )
    assert (
        main(["convert", str(path), "--calib", images, "--out", str(tmp_path / "net"), *quick]) == 0
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["config"]["arch"] == "resnet20" and "small: license apache-2.0" in err
    other = dict(random_model(topology("resnet20")).state_dict())
    del other["layer2.2.conv1.weight"]
    save_file(other, tmp_path / "file.safetensors")
    assert (
        main(
            [
                "convert",
                str(tmp_path / "file.safetensors"),
                "--calib",
                images,
                "--out",
                str(tmp_path / "file"),
            ]
        )
        == 2
    )
    assert "pass --arch" in capsys.readouterr().err
