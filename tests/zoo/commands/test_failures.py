"""Check wrong inputs and damaged artifacts.

Each gives one line on stderr and the right exit code, and nothing is written.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .conftest import QUICK, Material, Zoo, spawn


class Attack:
    """An object that would run `touch pwned` when pickle loads it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["pickle 2", "pickle 4", "torch"])
def test_a_pickle_that_would_run_code_does_not(made: Material, tmp_path: Path, form: str) -> None:
    mark, evil = tmp_path / "pwned", tmp_path / "evil.pth"
    if form == "torch":
        torch.save({"conv1.weight": Attack(mark)}, evil)
    else:
        evil.write_bytes(pickle.dumps({"conv1.weight": Attack(mark)}, int(form[-1])))
    ended = spawn("convert", evil, "--calib", made.images, "--out", tmp_path / "net", *QUICK)
    assert "nothing was executed" in ended.failed(5)
    assert list(tmp_path.iterdir()) == [evil]


@pytest.fixture(scope="session")
def bad(made: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder of inputs that no command takes."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "cut.pth").write_bytes(made.checkpoint.read_bytes()[:50_000])
    (folder / "text.pth").write_text("not a checkpoint")
    np.savez(folder / "large.npz", x_train=np.zeros((4, 9, 9, 1), np.uint8), y_train=np.arange(4))
    np.savez(folder / "none.npz", x_train=np.zeros((0, 8, 8, 1), np.uint8), y_train=np.arange(0))
    np.savez(folder / "eleven.npz", x_test=np.zeros((1, 8, 8, 1), np.uint8), y_test=np.array([10]))
    (folder / "empty").mkdir()
    return folder


# Words that replace or follow those of a good command, exit code, part of the message.
BAD_CONVERSIONS = [
    ("BAD/no.pth", 3, "no.pth does not exist"),
    ("BAD", 3, "has no config.json"),
    ("torchvision:resnet51", 3, "use one of torchvision:resnet18"),
    ("--stride-in 1x1", 2, "no bottlenecks"),
    ("BAD/cut.pth", 5, "cut.pth"),
    ("BAD/text.pth", 5, "text.pth"),
    ("--arch resnet21", 2, "'resnet21' is unknown"),
    ("--arch resnet32", 2, "does not fit --arch resnet32"),
    ("--shortcut B", 2, "missing (layer2.0.downsample.0.weight"),
    ("--calib BAD/no", 3, "no does not exist"),
    ("--calib BAD/empty", 2, "nothing recognised"),
    ("--calib BAD/none.npz", 2, "no images"),
    ("--calib BAD/large.npz", 2, "images are 9x9x1, the network takes 8x8x1"),
    ("--timesteps 0", 2, "--timesteps '0' leaves 1 to 4096"),
    ("--timesteps 4097", 2, "--timesteps '4097' leaves 1 to 4096"),
    ("--timesteps many", 2, "--timesteps 'many' is not a list of whole numbers"),
    ("--timesteps 4,8", 2, "one number"),
    ("--samples 0", 2, "--samples"),
    ("--seed -1", 2, "--seed"),
    ("--mean grey", 2, "--mean 'grey'"),
    ("--mean nan", 2, "--mean 'nan'"),
    ("--mean 0.5,0.5,0.5", 2, "1 channel"),
    ("--std 0", 2, "--std must be positive"),
    ("--parameter steps", 2, "'steps' has no value"),
    ("--parameter magic=1", 2, "no parameter 'magic'"),
    ("--neuron signed --schedule layerwise", 2, "--neuron if"),
    ("--neuron multi-level --schedule layerwise", 2, "--neuron if"),
    ("--neuron multi-level --method hu2018", 2, "use --method calibrated"),
    ("--parameter bits=4", 2, "no parameter 'bits'"),
    ("--license ''", 2, "--license takes 1 to 500 characters"),
    (f"--url {'x' * 501}", 2, "--url takes 1 to 500 characters"),
    ("--out BAD/text.pth/net", 1, "cannot be written"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD_CONVERSIONS)
def test_convert_refuses(
    zoo: Zoo, made: Material, bad: Path, tmp_path: Path, words: str, code: int, said: str
) -> None:
    given = shlex.split(words.replace("BAD", str(bad)))
    source = [made.checkpoint] if given[0].startswith("--") else []
    ended = zoo(
        "convert", "-q", "--calib", made.images, "--out", tmp_path / "net", *QUICK, *source, *given
    )
    assert said in ended.failed(code)
    assert list(tmp_path.iterdir()) == []


BAD_EVALUATIONS = [
    ("--timesteps 0", 2, "leaves 1 to 4096"),
    ("--timesteps 4,-1", 2, "leaves 1 to 4096"),
    ("--timesteps 1,4097", 2, "leaves 1 to 4096"),
    ("--timesteps ''", 2, "not a list of whole numbers"),
    ("--timesteps 4,,8", 2, "not a list of whole numbers"),
    ("--timesteps 1.5", 2, "not a list of whole numbers"),
    ("--data BAD/no", 3, "no does not exist"),
    ("--data BAD/large.npz", 3, "no test split"),
    ("--data BAD/large.npz --split train", 2, "9x9x1"),
    ("--data BAD/eleven.npz", 2, "labels must be 0 to 9"),
    ("--batch-size 0", 2, "--batch-size"),
    ("--ann BAD/no.pth", 3, "no.pth does not exist"),
    ("--ann BAD/cut.pth", 5, "cut.pth"),
    ("--min-accuracy 101", 2, "--min-accuracy"),
    ("--plot BAD/plot.jpg", 2, "does not end in .png"),
    ("--plot BAD/no/plot.png", 3, "no does not exist"),
    ("--output BAD/no/eval.json", 3, "no does not exist"),
    ("--output BAD", 2, "not a file"),
    ("--output /dev/null", 2, "not a file"),
    ("--resume BAD/no/eval.part", 3, "no does not exist"),
    ("--resume BAD/text.pth", 5, "choose another file for --resume"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD_EVALUATIONS)
def test_eval_refuses(
    zoo: Zoo, made: Material, bad: Path, words: str, code: int, said: str
) -> None:
    before = sorted(bad.iterdir())
    given = shlex.split(words.replace("BAD", str(bad)))
    ended = zoo("eval", made.artifact, "-q", "--data", made.images, "--timesteps", "4", *given)
    assert said in ended.failed(code)
    assert sorted(bad.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_eval_refuses_a_gpu_that_is_not_there(zoo: Zoo, made: Material) -> None:
    assert "--device cpu" in zoo(
        "eval", made.artifact, "-q", "--data", made.images, "--device", "cuda"
    ).failed(2)


def test_a_plot_without_matplotlib(
    zoo: Zoo, made: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Python does for a module that is not installed.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ended = zoo("eval", made.artifact, "-q", "--data", made.images, "--plot", tmp_path / "plot.png")
    assert "pip install 'spiking-zoo[plots]'" in ended.failed(2)
    assert list(tmp_path.iterdir()) == []


def edit(artifact: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((artifact / "config.json").read_text())
    change(config)
    (artifact / "config.json").write_text(json.dumps(config))


def cut_weights(artifact: Path) -> None:
    data = (artifact / "model.safetensors").read_bytes()
    (artifact / "model.safetensors").write_bytes(data[: len(data) // 2])


def flip_a_bit(artifact: Path) -> None:
    data = bytearray((artifact / "model.safetensors").read_bytes())
    data[-1000] ^= 1
    (artifact / "model.safetensors").write_bytes(data)


# Ways to damage an artifact, and a part of the message.
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (cut_weights, "sha256"),
    "flipped bit": (flip_a_bit, "sha256"),
    "no weights": (lambda artifact: (artifact / "model.safetensors").unlink(), "is missing"),
    "other arch": (
        lambda artifact: edit(artifact, lambda c: c.update(arch="resnet32")),
        "model.safetensors",
    ),
    "unknown arch": (
        lambda artifact: edit(artifact, lambda c: c.update(arch="resnet21")),
        "resnet21",
    ),
    "other hash": (
        lambda artifact: edit(artifact, lambda c: c.update(weights_sha256="0" * 64)),
        "sha256",
    ),
    "wrong type": (
        lambda artifact: edit(artifact, lambda c: c.update(timesteps="four")),
        "timesteps",
    ),
    "unknown key": (lambda artifact: edit(artifact, lambda c: c.update(magic=1)), "magic"),
    "missing key": (lambda artifact: edit(artifact, lambda c: c.pop("neuron")), "neuron"),
    "newer format": (
        lambda artifact: edit(artifact, lambda c: c.update(format_version=2)),
        "pip install -U",
    ),
    "no JSON": (lambda artifact: (artifact / "config.json").write_text("{"), "not valid JSON"),
    "no text": (
        lambda artifact: (artifact / "config.json").write_bytes(b"\xff\xfe\x00"),
        "config.json",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_artifact(zoo: Zoo, made: Material, artifact: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(artifact)
    ended = zoo("verify", artifact)
    assert ended.code == 5
    assert "FAILED" in ended.out and said in ended.out
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1
    assert json.loads(zoo("verify", artifact, "--json").out)["ok"] is False
    ended = zoo("eval", artifact, "-q", "--data", made.images, "--timesteps", "1")
    assert said in ended.failed(3 if name == "no weights" else 5)


@pytest.mark.parametrize(
    "name", ["wrong type", "unknown key", "newer format", "no JSON", "no text"]
)
def test_show_of_a_damaged_config(zoo: Zoo, artifact: Path, name: str) -> None:
    DAMAGE[name][0](artifact)
    assert DAMAGE[name][1] in zoo("show", artifact).failed(5)


def test_show_of_a_damaged_measurement(zoo: Zoo, artifact: Path) -> None:
    (artifact / "eval.json").write_text("{")
    assert "eval.json" in zoo("show", artifact).failed(5)


def test_deep_verification_finds_what_the_hash_cannot(zoo: Zoo, artifact: Path) -> None:
    edit(artifact, lambda config: config["checksum"].update(sha256="0" * 64))
    assert zoo("verify", artifact).code == 0
    ended = zoo("verify", artifact, "--deep")
    assert ended.code == 5
    assert "FAILED  spikes" in ended.out


def test_a_folder_that_is_no_artifact(zoo: Zoo, tmp_path: Path) -> None:
    assert zoo("verify", tmp_path).code == 5
    assert "not an artifact" in zoo("show", tmp_path).failed(3)


def test_a_bug_is_one_line_unless_asked_for(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("zoo.models.registry.at_hand", fails)
    assert (
        zoo("list").failed(1)
        == "bug: RuntimeError: two lines: please report it with what ZOO_DEBUG=1 shows\n"
    )
    monkeypatch.setenv("ZOO_DEBUG", "1")
    with pytest.raises(RuntimeError, match="two"):
        zoo("list")


def test_ctrl_c_that_python_wraps(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr("zoo.models.registry.at_hand", fails)
    assert zoo("list").failed(130) == "interrupted\n"
