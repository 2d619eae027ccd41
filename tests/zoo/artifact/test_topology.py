"""A network that goes by no name is described in config.json, and what cannot be is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.spiking_fixtures import image_set, random_pixels, refuses, tiny_topology
from zoo.artifact.config import CONFIG, Config
from zoo.artifact.folder import read_artifact, verify_artifact
from zoo.artifact.tensors import description, expected_tensors, network_of, topology_of
from zoo.conversion.convert import convert
from zoo.errors import IntegrityError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.topology import IMAGE, Layer, Pool, Topology
from zoo.pretrained.checkpoint import Checkpoint


def checkpoint(net: Topology) -> Checkpoint:
    torch.manual_seed(0)
    params = {}
    for layer in net.layers:
        shape = (layer.out_channels, layer.in_channels // layer.groups, *[layer.kernel] * 2)
        params[f"{layer.name}.weight"] = torch.randn(shape) / (shape[1] * layer.kernel**2) ** 0.5
        params[f"{layer.name}.bias"] = 0.1 * torch.randn(shape[0])
        side = layer.shortcut
        if side is not None and side.kind == "projection":
            width = net.channels[side.source]
            shape = (layer.out_channels, width, side.kernel, side.kernel)
            params[f"{layer.name}.shortcut.weight"] = torch.randn(shape) / 8
    params["fc.weight"] = torch.randn(net.num_classes, net.features)
    params["fc.bias"] = torch.zeros(net.num_classes)
    return Checkpoint(net, params, "module", "0" * 64)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for form, side in (("deep", 16), ("head", 6)):
        folder = tmp_path_factory.mktemp(form)
        net = replace(tiny_topology(form), named=False)
        images = image_set(folder, random_pixels(24, 3, side), [i % 4 for i in range(24)])
        how: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": side}
        made = convert(
            checkpoint(net), images, timesteps=8, samples=16, parameters={"rows": 8}, **how
        )
        made.save(folder / "net")
        folders[form] = folder / "net"
    return folders


@pytest.mark.parametrize("form", ["deep", "head"])
def test_a_described_network_is_written_and_read(saved: dict[str, Path], form: str) -> None:
    assert all(check.ok for check in verify_artifact(saved[form], deep=True))
    config, tensors = read_artifact(saved[form])
    net, found = tiny_topology(form), topology_of(config)
    assert [replace(layer, bn="", shortcut=None) for layer in net.layers] == [
        replace(layer, shortcut=None) for layer in found.layers
    ]
    assert (found.pools, found.output, found.channels) == (net.pools, net.output, net.channels)
    assert found.sizes(16, 16) == net.sizes(16, 16)
    assert description(found) == config.topology
    assert network_of(config, tensors).topology == found


def test_a_named_network_is_not_described() -> None:
    assert description(topology("resnet50d")) is None


def changed(saved: Path, **changes: Any) -> Config:
    """Return the config of the deep form with other values at dotted paths."""
    raw = json.loads((saved / CONFIG).read_text())
    for path, value in changes.items():
        at: Any = raw["topology"]
        *parts, last = path.split("__")
        for part in parts:
            at = at[int(part)] if part.isdecimal() else at[part]
        at[int(last) if last.isdecimal() else last] = value
    return Config.model_validate_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers__1__source": "layer1.0.conv1"}, "does not come before"),
        ({"layers__0__source": "conv1.3"}, "reads the image"),
        ({"layers__2__source": "image"}, "does not come before"),
        ({"layers__3__name": "conv1.0"}, "is taken"),
        ({"layers__3__name": "fc.weight"}, "is taken"),
        ({"layers__3__name": "forward.0", "layers__4__source": "forward.0"}, "is an attribute"),
        ({"layers__3__name": "conv1.0.weight"}, "that of a tensor"),
        ({"layers__3__groups": 3}, "groups do not divide"),
        ({"layers__1__max_pool": True}, "the first layer alone"),
        ({"layers__4__shortcut__stride": 1}, "another size"),
        ({"layers__4__shortcut__kind": "identity"}, "identity with a kernel"),
        ({"pools__0__source": "nothing"}, "what is no layer"),
        ({"pools__0__kernel": 0}, "impossible kernel"),
        ({"pools__0__padding": 2}, "impossible kernel"),
        ({"pools__0__kind": "average"}, "averages the whole area"),
        ({"layers__0__channels": 2**16, "layers__1__channels": 2**16}, "weights, at most"),
        ({"layers__0__kernel": 64}, "too small"),
    ],
    ids=str,
)
def test_layers_that_do_not_fit_are_refused(
    saved: dict[str, Path], changes: dict[str, Any], said: str
) -> None:
    with refuses(IntegrityError, said):
        topology_of(changed(saved["deep"], **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": []},
        {"layers__0__name": "a b"},
        {"layers__0__name": "../x"},
        {"layers__0__channels": 2**17},
        {"layers__0__kernel": 65},
        {"layers__0__stride": 0},
        {"layers__0__extra": 1},
        {"pools__0__kind": "min"},
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused(saved: dict[str, Path], changes: dict) -> None:
    with pytest.raises(ValueError):
        changed(saved["deep"], **changes)


def test_a_long_description_takes_no_time(saved: dict[str, Path]) -> None:
    """A thousand layers are checked; one more is refused before."""
    raw = json.loads((saved["deep"] / CONFIG).read_text())
    layer = raw["topology"]["layers"][0]
    chain = [{**layer, "stride": 1}]
    for n in range(1, 1024):
        one = {"name": f"l{n}", "source": chain[-1]["name"], "stride": 1, "kernel": 1, "padding": 0}
        chain.append({**layer, **one})
    raw["topology"] = {"layers": chain, "pools": []}
    raw["shortcut"] = "A"
    config = Config.model_validate_json(json.dumps(raw))
    assert len(expected_tensors(config, topology_of(config))) > 5000
    raw["topology"]["layers"].append({**chain[-1], "name": "more"})
    with pytest.raises(ValueError):
        Config.model_validate_json(json.dumps(raw))


def test_a_pooling_behind_the_last_layer_is_what_the_classifier_reads() -> None:
    layers = (Layer("a", "", IMAGE, 1, 4, 3), Layer("b", "", "a", 4, 5, 3))
    net = Topology("net", "A", 1, 3, layers, pools=(Pool("top", "b", "max", 2, 2),), named=False)
    assert net.checked().output == "top" and net.sizes(6, 6)["top"] == (3, 3)
    assert net.released_after(1) == ("a", "b")
    with refuses(UsageError, "at most one max-pooling"):
        replace(net, pools=(Pool("top", "b", "average"),)).checked()
