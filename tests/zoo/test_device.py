"""Conversion, deep verification and training on another device than the CPU: the same results.

The device is `far`, which computes on the CPU and refuses what a CUDA device would.
"""

from __future__ import annotations

import json

import pytest
import torch

from tests.far_device import far_device
from zoo.artifact.folder import verify_artifact
from zoo.conversion.convert import convert
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.training.run import DIGITS_MEAN, DIGITS_STD, train
from zoo.training.trainer import Plan, Trainer


@pytest.mark.parametrize(
    "how",
    [
        {"neuron": "signed", "parameters": {"rows": 2, "thresholds": "percentile"}},
        {"schedule": "layerwise", "parameters": {"tune": 1, "thresholds": "ltb", "iterations": 2}},
        {"method": "data-free", "parameters": {"steps": 1, "thresholds": "moments", "rows": 2}},
        {"method": "hu2018", "numerics": "float32", "parameters": {"steps": 2}},
    ],
    ids=lambda how: " ".join(map(str, how.values())),
)
def test_a_conversion_writes_the_same_bytes(digits_ann, digits, tmp_path, how):
    how = {
        "timesteps": 4,
        "samples": 20,
        "input_size": 8,
        "mean": DIGITS_MEAN,
        "std": DIGITS_STD,
        **how,
    }
    images = None if how.get("method") == "data-free" else digits
    near = convert(digits_ann, images, **how)
    near.save(tmp_path / "near")
    with far_device():
        far = convert(digits_ann, images, device="far:0", **how)
        far.save(tmp_path / "far")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    assert far.summary() == near.summary()


@pytest.mark.parametrize(
    "how", [{}, {"neuron": "signed"}, {"schedule": "layerwise"}], ids=["if", "signed", "layerwise"]
)
def test_deep_verification_finds_the_same_spikes(converted, tmp_path, how):
    converted(parameters={"rows": 4}, **how).save(tmp_path / "net")
    with far_device():
        assert all(
            check.ok for check in verify_artifact(tmp_path / "net", deep=True, device="far:0")
        )


@pytest.mark.parametrize("levels", [0, 4])
def test_a_training_and_its_resumption_end_alike(digits, tmp_path, levels):
    few, prep = digits.take(64, 0), Preprocess((1, 8, 8))
    plan = Plan(epochs=3, batch_size=32, peak_rate=0.05, levels=levels, shift=1, mirror=True)

    def new(device: str) -> Trainer:
        net = topology("resnet20", num_classes=10, in_channels=1)
        return Trainer(net, few, prep, plan, DIGITS_MEAN, DIGITS_STD, device=device)

    near = new("cpu")
    near.run()
    near.save(tmp_path / "near.safetensors")
    with far_device():
        first = new("far:0")
        with pytest.raises(InterruptedError):
            first.run(_stop_after_three)
        first.save(tmp_path / "far.safetensors")
        second = new("far:0")
        second.resume(tmp_path / "far.safetensors")
        assert second.step == 3
        second.run()
        assert second.model.fc.weight.device.type == "far"
        expected, got = near.state(), second.state()
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)
        assert second.accuracy(few, prep) == near.accuracy(few, prep)
        rows = [[(row.loss, row.accuracy) for row in t.log] for t in (near, second)]
    assert rows[0] == rows[1]


def _stop_after_three(trainer: Trainer) -> None:
    if trainer.step == 3:
        raise InterruptedError


def test_a_training_run_on_a_device_writes_the_same_checkpoint(tmp_path):
    how = {"epochs": 1, "batch_size": 700, "precision": "float32"}
    near = train("resnet20", "digits", tmp_path / "near", **how)
    with far_device():
        far = train("resnet20", "digits", tmp_path / "far", device="far:0", **how)
    assert far["sha256"] == near["sha256"] and far["top1"] == near["top1"]
    assert json.loads((tmp_path / "far" / "log.json").read_text())["device"] == "far:0"
