"""A network is found wherever training code put it, and nothing of it is lost without a word."""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.zoo.spiking_fixtures import random_model, refuses
from zoo.errors import IntegrityError, UsageError
from zoo.networks.architectures import topology
from zoo.pretrained.checkpoint import Checkpoint, read_checkpoint
from zoo.pretrained.sources import read_source


@pytest.fixture(scope="module")
def state() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict(random_model(topology("resnet20", num_classes=7)).state_dict())


@pytest.fixture(scope="module")
def other(state: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((key, value + 1) for key, value in state.items())


def under(prefix: str, state: dict) -> OrderedDict:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def head(name: str, state: dict, prefix: str = "") -> OrderedDict:
    return OrderedDict(
        (name + key[2:] if key.startswith("fc.") else prefix + key, value)
        for key, value in state.items()
    )


def read(folder: Path, content: object, name: str = "net.pth", **how: Any) -> Checkpoint:
    path = folder / name
    torch.save(content, path)
    return read_checkpoint(path, **how)


def same(read: Checkpoint, folder: Path, state: dict) -> bool:
    plain = folder / "plain.pth"
    torch.save(OrderedDict(state), plain)
    wanted = read_checkpoint(plain, "resnet20")
    return read.net == wanted.net and all(
        torch.equal(read.params[name], value) for name, value in wanted.params.items()
    )


class Config:
    """A user's own class, as a file may hold one."""

    def __init__(self) -> None:
        self.lr = 0.1


# Wrappers, prefixes and heads; the last four of each kind stand in no public report.
PLACES = {
    "lightning": lambda s: {"state_dict": under("net.", s), "callbacks": {}, "epoch": 1},
    "criterion": lambda s: {"state_dict": under("model.", s) | {"criterion.weight": torch.ones(7)}},
    "openmmlab": lambda s: {"meta": {}, "state_dict": head("head.fc", s, "backbone.")},
    "sequential": lambda s: under("0.", s),
    "ema-alone": lambda s: {"ema": s, "epoch": 1},
    "params": lambda s: {"params": s},
    "averaged": lambda s: under("module.", s) | {"n_averaged": torch.tensor(5)},
    "compiled": lambda s: under("_orig_mod.module.", s),
    "dropout-head": lambda s: head("fc.1", s),
    "any-prefix": lambda s: under("student.encoder.trunk.", s),
    "any-wrapper": lambda s: {"weights_of_today": {"inner": {"best": s}}},
    "any-head": lambda s: head("classifier.last", s),
    "twice-the-same": lambda s: {"state_dict": s, "model": {k: v.clone() for k, v in s.items()}},
}


@pytest.mark.parametrize("name", PLACES)
def test_a_network_is_found(tmp_path, state, name):
    found = read(tmp_path, PLACES[name](state))
    assert found.net.arch == "resnet20" and found.weights is None
    assert same(found, tmp_path, state)


# What training code leaves beside tensors; the last five stand in no public report.
OBJECTS = {
    "namespace": argparse.Namespace(lr=0.1, milestones=[1, 2]),
    "numpy-scalar": np.float64(91.7),
    "numpy-array": np.arange(5.0),
    "path": PurePosixPath("runs/1"),
    "simple-namespace": SimpleNamespace(a=1),
    "defaultdict": defaultdict(list, {"loss": [0.3]}),
    "counter": Counter("abca"),
    "own-class": Config(),
    "nested": {"a": [argparse.Namespace(b=np.int32(3)), Config()]},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_tensors_are_passed_over(tmp_path, state, name, zipped):
    path = tmp_path / "net.pth"
    torch.save(
        {"args": OBJECTS[name], "state_dict": state},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    found = read_checkpoint(path)
    assert same(found, tmp_path, state)
    if name != "counter":
        assert "passed over" in found.notes[0]


def test_a_passed_over_class_is_never_made(tmp_path, state, monkeypatch):
    made = []
    path = tmp_path / "net.pth"
    torch.save({"args": Config(), "state_dict": state}, path)
    for hook in ("__new__", "__init__", "__setstate__"):
        monkeypatch.setattr(
            Config, hook, lambda *a, **k: made.append(a) or object.__new__(a[0]), raising=False
        )
    assert read_checkpoint(path).notes and not made


class Calls:
    def __init__(self, function: Any, *given: object) -> None:
        self.what = function, given

    def __reduce__(self) -> Any:
        return self.what


@pytest.mark.parametrize("function", [eval, os.system, getattr, __import__, os.putenv, exec])
def test_a_call_is_refused_by_its_name(tmp_path, state, function):
    with refuses(IntegrityError, rf"calls \w+\.{function.__name__}.*nothing was executed"):
        read(tmp_path, {"state_dict": state, "x": Calls(function, "1", "2")})


def test_two_networks_are_told_apart(tmp_path, state, other):
    files = {
        "timm": {"state_dict": other, "state_dict_ema": state},
        "torchvision": {
            "model": other,
            "model_ema": under("module.", state) | {"n_averaged": torch.tensor(9)},
        },
        "lightning": {"state_dict": under("net.", other) | under("ema_net.", state)},
        "side-by-side": other | under("ema.", state),
        "swa": {"net": other, "swa_state_dict": state},
    }
    for name, content in files.items():
        found = read(tmp_path, content)
        assert found.weights == "ema" and same(found, tmp_path, state), name
        assert "holds two networks" in found.notes[-1] and "`weights=raw`" in found.notes[-1]
        raw = read(tmp_path, content, weights="raw")
        assert raw.weights == "raw" and same(raw, tmp_path, other), name


def test_which_of_several_is_asked(tmp_path, state, other):
    for content in (
        under("student.", state) | under("teacher.", other),
        {"generator": state, "discriminator": other},
    ):
        with refuses(UsageError, "holds 2 networks"):
            read(tmp_path, content)
    with refuses(UsageError, "holds one network, the plain keys, which is not what `weights=ema`"):
        read(tmp_path, state, weights="ema")
    with refuses(UsageError, "holds one network, state_dict_ema"):
        read(tmp_path, {"state_dict_ema": state}, weights="raw")


def test_heads(tmp_path, state):
    bare = OrderedDict(state)
    del bare["fc.bias"]
    found = read(tmp_path, bare)
    assert "no bias" in found.notes[0] and not found.params["fc.bias"].any()
    two = head("fc.0", state) | {"fc.3.weight": torch.zeros(7, 7), "fc.3.bias": torch.zeros(7)}
    with refuses(UsageError, r"2 linear layers \(fc\.0, fc\.3\)"):
        read(tmp_path, two)


@pytest.mark.parametrize(
    "part",
    [
        {"neck.scale": torch.ones(64)},
        {"fc_norm.weight": torch.ones(64), "fc_norm.bias": torch.zeros(64)},
        {"layer1.0.alpha": torch.tensor(0.1)},
        {"fc.1.running_mean": torch.zeros(7)},
    ],
)
def test_a_part_of_the_network_is_never_left_out(tmp_path, state, part):
    with refuses(UsageError, "unexpected"):
        read(tmp_path, state | part, arch="resnet20")
    with refuses(UsageError, "unexpected"):
        read(tmp_path, under("backbone.", state) | part, arch="resnet20")


def test_a_normalising_layer_says_mean_and_std(tmp_path, state):
    values = {"mean": torch.tensor([0.49, 0.48, 0.45]), "std": torch.tensor([0.25, 0.24, 0.26])}
    layers = {
        "robustbench": under("1.", state) | under("0.", values),
        "own-names": under("net.", state)
        | {"mu": values["mean"].view(1, 3, 1, 1), "sigma": values["std"].view(1, 3, 1, 1)},
        "inside": state | under("normalize.", values),
    }
    for name, content in layers.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        found = read_source(path)
        assert found.origin.mean == pytest.approx((0.49, 0.48, 0.45)), name
        assert found.origin.std == pytest.approx((0.25, 0.24, 0.26)), name
        assert "normalising layer has mean 0.49,0.48,0.45" in found.notes[0]
        assert same(found, tmp_path, state)


def test_a_wrong_arch_is_told_the_right_one(tmp_path, state):
    with refuses(UsageError, "its keys are those of resnet20, leave `arch` out"):
        read(tmp_path, state, arch="resnet32")


@pytest.mark.parametrize("name", ["NET.SAFETENSORS", "pytorch_model.bin", "checkpoint"])
def test_safetensors_under_other_names(tmp_path, state, name):
    save_file(dict(state), tmp_path / name)
    assert same(read_checkpoint(tmp_path / name), tmp_path, state)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path, state, name):
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with refuses(IntegrityError, "Git LFS pointer"):
        read_checkpoint(path)
    path.write_bytes(b"\n<!DOCTYPE html><html>Sign in</html>")
    with refuses(IntegrityError, "web page"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pth.gz", b"\x1f\x8b\x08" + bytes(99), "is compressed with gzip: unpack it"),
        ("a.pth", b"\x89HDF\r\n\x1a\n" + bytes(99), "is HDF5 .Keras., not PyTorch"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "is a .onnx network of another runtime"),
        ("a.pth", b"\x93NUMPY\x01\x00", "is a NumPy array: save a state_dict"),
        ("a.zip", {"model/net.pth": b"x", "README": b"x"}, "is a zip archive .model/net.pth, READ"),
        ("a.npz", {"conv1.weight.npy": b"x"}, "is an .npz of NumPy arrays"),
    ],
)
def test_files_of_other_formats_say_what_they_are(tmp_path, name, data, says):
    if isinstance(data, dict):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in data.items():
                archive.writestr(member, content)
    else:
        (tmp_path / name).write_bytes(data)
    with refuses(IntegrityError, says):
        read_checkpoint(tmp_path / name)


def test_modules_and_archives_say_what_they_are(tmp_path):
    with refuses(IntegrityError, "whole pickled object"):
        read(tmp_path, nn.Linear(2, 2))
    with refuses(IntegrityError, "nothing was executed"):
        read(tmp_path, {"model": nn.Linear(2, 2)}["model"])
    script, path = io.BytesIO(), tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    path.write_bytes(script.getvalue())
    with refuses(IntegrityError, "TorchScript"):
        read_checkpoint(path)
