"""Check `zoo train` from the command line, and `--backend`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .conftest import Material, Zoo


def test_train_writes_a_checkpoint_that_convert_takes(zoo: Zoo, tmp_path: Path) -> None:
    words = (
        "train",
        "resnet20",
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--batch-size",
        "200",
        "--out",
        str(tmp_path / "run"),
    )
    ended = zoo(*words)
    assert ended.code == 0 and "test images after 1 epochs" in ended.out
    assert "epoch 1/1" in ended.err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "resnet20.safetensors",
        "log.json",
        "training.safetensors",
    }
    assert "pass --resume" in zoo(*words).failed(2)
    again = zoo(*words, "--resume", "--json", "-q", "--plot", tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert (
        json.loads(again.out)["sha256"]
        == json.loads((tmp_path / "run" / "log.json").read_text())["sha256"]
    )
    converted = zoo(
        "convert",
        str(tmp_path / "run" / "resnet20.safetensors"),
        "--arch",
        "resnet20",
        "--calib",
        "digits",
        "--samples",
        "8",
        "--timesteps",
        "4",
        "--out",
        str(tmp_path / "s"),
    )
    assert converted.code == 0


def test_train_on_what_is_not_there(zoo: Zoo, tmp_path: Path) -> None:
    zoo(
        "train", "resnet20", "--dataset", str(tmp_path / "none"), "--out", str(tmp_path / "run")
    ).failed(3)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_is_one_line(zoo: Zoo, made: Material) -> None:
    said = zoo(
        "eval", str(made.artifact), "--data", str(made.images), "--backend", "triton", "-q"
    ).failed(2)
    assert "needs a CUDA GPU" in said


def test_interpret_measures_what_torch_measures(zoo: Zoo, made: Material) -> None:
    found = []
    for backend in ("torch", "interpret"):
        ended = zoo(
            "eval",
            str(made.artifact),
            "--data",
            str(made.images),
            "--limit",
            "2",
            "--timesteps",
            "3",
            "--json",
            "--backend",
            backend,
        )
        assert ended.code == 0
        result = json.loads(ended.out)
        assert result["backend"] == backend
        found.append((result["rows"], result["layers"]))
    assert found[0] == found[1]
