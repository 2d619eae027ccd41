"""Test reading checkpoints: names in use, wrong files in one line, nothing executed."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.zoo.spiking_fixtures import random_model, refuses
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.resnet import ann_forward
from zoo.pretrained.checkpoint import find_source, read_checkpoint, remember_source


@pytest.fixture(scope="module")
def model():
    return random_model(topology("resnet20", num_classes=7))


@pytest.fixture(scope="module")
def state(model):
    return model.state_dict()


def saved(folder: Path, content: object, name: str = "net.pth") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def renamed(state, prefix: str = "", **names: str):
    out = OrderedDict()
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        out[prefix + key] = value
    return out


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": renamed(s, "module.", **{"fc.": "linear."}), "best_prec1": 91.7},
        lambda s: {"model": renamed(s, "_orig_mod.")},
        lambda s: {"net": {"state_dict": renamed(s, "module.model.")}},
    ],
)
def test_names_and_wrappers_give_the_same_network(tmp_path, model, state, wrap):
    read = read_checkpoint(saved(tmp_path, wrap(state)), "resnet20")
    image = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(ann_forward(read.net, read.params, image), model(image), atol=1e-4)
    assert read.net.num_classes == 7


def test_safetensors_and_projection_shortcuts(tmp_path):
    model = random_model(topology("resnet20", shortcut="B", in_channels=1))
    path = tmp_path / "b.safetensors"
    save_file(dict(model.state_dict()), path)
    read = read_checkpoint(path, "resnet20")
    image = torch.randn(2, 1, 8, 8)
    assert read.net.shortcut == "B" and read.net.in_channels == 1
    with torch.inference_mode():
        assert torch.allclose(ann_forward(read.net, read.params, image), model(image), atol=1e-4)


def test_shortcut_is_another_name_of_downsample(tmp_path):
    model = random_model(topology("resnet20", shortcut="B"))
    plain = read_checkpoint(saved(tmp_path, model.state_dict()), "resnet20")
    other = renamed(
        model.state_dict(), "module.", **{".downsample.": ".shortcut.", "fc.": "linear."}
    )
    read = read_checkpoint(saved(tmp_path, other, "other.pth"), "resnet20")
    assert read.net == plain.net and read.net.shortcut == "B"
    assert all(torch.equal(read.params[name], values) for name, values in plain.params.items())


def test_batchnorm_folded_by_its_authors(tmp_path, model, state):
    read = read_checkpoint(saved(tmp_path, state), "resnet20")
    folded = {key: value for key, value in read.params.items() if ".shortcut." not in key}
    again = read_checkpoint(saved(tmp_path, folded, "folded.pth"), "resnet20")
    assert all(torch.equal(read.params[key], again.params[key]) for key in read.params)


def test_wrong_architecture_names_what_is_missing_and_unexpected(tmp_path, state):
    path = saved(tmp_path, state)
    with refuses(UsageError, r"`arch=resnet32`: \d+ missing \(.*layer1\.3"):
        read_checkpoint(path, "resnet32")
    with refuses(UsageError, "does not fit `arch=resnet18`.*unexpected"):
        read_checkpoint(path, "resnet18")
    with refuses(UsageError, "unknown"):
        read_checkpoint(path, "resnet21")


def test_missing_key_wrong_shape_and_bad_values(tmp_path, state):
    short = OrderedDict(state)
    del short["layer2.1.bn2.running_var"]
    with refuses(UsageError, r"1 missing \(layer2\.1\.bn2\.running_var\)"):
        read_checkpoint(saved(tmp_path, short), "resnet20")
    odd = OrderedDict(state) | {"layer1.0.conv1.weight": torch.zeros(16, 16, 5, 5)}
    with refuses(UsageError, r"layer1\.0\.conv1\.weight is \[16, 16, 5, 5\]"):
        read_checkpoint(saved(tmp_path, odd), "resnet20")
    for value in (float("nan"), float("inf")):
        weight = state["layer3.0.conv2.weight"].clone()
        weight[3, 2, 1, 0] = value
        with refuses(IntegrityError, "layer3.0.conv2.weight has NaN"):
            read_checkpoint(
                saved(tmp_path, OrderedDict(state) | {"layer3.0.conv2.weight": weight}), "resnet20"
            )
    with refuses(IntegrityError, "negative variances"):
        read_checkpoint(
            saved(tmp_path, OrderedDict(state) | {"bn1.running_var": torch.full((16,), -1.0)}),
            "resnet20",
        )


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_would_execute_code_does_not(tmp_path, state, plain):
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"state_dict": state, "extra": Evil(marker)}
    if plain:
        path.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, path)
    with refuses(IntegrityError, "nothing was executed"):
        read_checkpoint(path, "resnet20")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is no checkpoint", bytes(range(256)) * 9, b"PK\x03\x04" + b"\0" * 60],
)
def test_not_a_checkpoint(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with refuses(IntegrityError):
        read_checkpoint(path, "resnet20")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_files(tmp_path, state, share):
    whole = saved(tmp_path, state).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(len(whole) * share)])
    with refuses(IntegrityError):
        read_checkpoint(path, "resnet20")


def test_no_file_and_no_state(tmp_path):
    with refuses(NotFoundError, "does not exist"):
        read_checkpoint(tmp_path / "nothing.pth", "resnet20")
    with refuses(IntegrityError, "holds a list"):
        read_checkpoint(saved(tmp_path, [1, 2]), "resnet20")


def test_a_source_is_found_again_until_it_changes(tmp_path, zoo_home, state):
    path = saved(tmp_path, state)
    read = read_checkpoint(path, "resnet20")
    sha256 = read.sha256
    assert read.path == path.absolute() and list(zoo_home.iterdir()) == []
    assert find_source(sha256) is None
    remember_source(sha256, path.absolute())
    assert find_source(sha256) == path.absolute()
    path.write_bytes(path.read_bytes() + b"x")
    assert find_source(sha256) is None and find_source("0" * 64) is None


@pytest.mark.shared
@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_public_checkpoints(shared, depth):
    path = next((shared / "data" / "checkpoints").glob(f"resnet{depth}-*.th"))
    read = read_checkpoint(path, f"resnet{depth}")
    assert read.sha256.startswith(path.stem.split("-")[1]) and len(read.net.layers) == depth - 1


def test_prefixes_in_either_order(tmp_path, state):
    for name, prefix in (("a.pth", "module._orig_mod."), ("b.pth", "_orig_mod.module.")):
        assert (
            read_checkpoint(
                saved(tmp_path, renamed(state, prefix), name), "resnet20"
            ).net.num_classes
            == 7
        )


@pytest.mark.parametrize(
    "odd",
    [
        {"fc.weight": torch.tensor(1.0)},
        {"fc.weight": torch.zeros(7, 64).to_sparse()},
        {"fc.weight": torch.zeros(0, 64), "fc.bias": torch.zeros(0)},
        {"conv1.weight": torch.zeros(16, 0, 3, 3)},
        {"conv1.weight": torch.zeros(16, 3, 3, 3).to(torch.float8_e4m3fn)},
        {"conv1.weight": torch.zeros(16, 3, 3, 3, device="meta")},
        {"conv1.weight": torch.full((16, 3, 3, 3), 1e300, dtype=torch.float64)},
        {"bn1.weight": torch.full((16,), 3e38), "bn1.running_var": torch.zeros(16)},
    ],
    ids=[
        "scalar",
        "sparse",
        "no-classes",
        "no-channels",
        "float8",
        "meta",
        "float64-overflow",
        "folding-overflow",
    ],
)
def test_tensors_that_cannot_be_used(tmp_path, state, odd):
    """Folded parameters are float32 and finite, or the file is refused."""
    with pytest.raises((IntegrityError, UsageError)) as caught:
        read_checkpoint(saved(tmp_path, OrderedDict(state) | odd), "resnet20")
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(5, method="signal")
def test_a_wrapper_that_wraps_itself(tmp_path):
    endless: dict = {}
    endless["model"] = endless
    with refuses((IntegrityError, UsageError)):
        read_checkpoint(saved(tmp_path, endless), "resnet20")


@pytest.mark.parametrize("zipped", [True, False])
def test_every_cut_and_every_damaged_byte_is_one_line(tmp_path, zipped):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    step = 7 if zipped else 1
    damaged = [whole[:cut] for cut in range(0, len(whole), step)]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        for at in range(0, len(whole), step)
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises((IntegrityError, UsageError)) as caught:
            read_checkpoint(path, "resnet20")
        assert "\n" not in str(caught.value)
