"""`zoo tune`: an artifact better at few timesteps, that resumes, and refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo as library
from zoo.artifact.folder import read_artifact, read_config, verify_artifact
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.models import registry
from zoo.training.tune import tune
from zoo.training.tuner import Tuner, TuningPlan

from .conftest import Zoo

NAME = "s-resnet20-digits"
WORDS = ("--timesteps", "2", "--data", "digits", "--limit", "200", "--epochs", "2", "--samples", 32)


def test_it_is_better_at_few_timesteps_and_says_how_it_was_made(zoo: Zoo, tmp_path: Path) -> None:
    ended = zoo("tune", NAME, *WORDS, "--batch-size", "25", "--out", tmp_path / "made", "--json")
    assert ended.code == 0 and "epoch 2/2" in ended.err
    said = json.loads(ended.out)
    assert said["top1_rounded"] > said["top1_before"] + 5 and said["test_images"] == 200
    config = read_config(tmp_path / "made")
    assert config.timesteps == 2 and config.tuning is not None
    assert config.tuning.model_dump(mode="json") == said["tuning"]
    assert (config.tuning.began, config.tuning.images) == (NAME, 200)
    assert config.tuning.sha256 == read_config(registry.resolve(NAME)).weights_sha256
    assert config.tuning.rounding is not None and config.tuning.rounding.images == 32
    assert all(check.ok for check in verify_artifact(tmp_path / "made", deep=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made"]
    shown = zoo("show", tmp_path / "made").out
    assert "began" in shown and "surrogate" in shown
    assert "exists" in zoo("tune", NAME, *WORDS, "--out", tmp_path / "made").failed(2)
    plain = zoo(
        *("tune", tmp_path / "made", *WORDS, "--epochs", "1", "--teacher", NAME),
        *("--out", tmp_path / "again", "--precision", "float32"),
    )
    assert "before" in plain.out and "rounded to int8" in plain.out
    again = read_config(tmp_path / "again").tuning
    assert again is not None and again.teacher == NAME and again.start == config.tuning


def test_a_stopped_run_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    settings = {"timesteps": 2, "epochs": 2, "batch_size": 50, "limit": 100, "samples": 16}
    tune(NAME, "digits", tmp_path / "whole", **settings)  # type: ignore[arg-type]

    def stop(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(NAME, "digits", tmp_path / "made", progress=stop, **settings)  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists() and (tmp_path / "made.tuning").is_file()
    with pytest.raises(UsageError, match="`resume=True`"):
        tune(NAME, "digits", tmp_path / "made", **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="other settings"):
        tune(NAME, "digits", tmp_path / "made", **(settings | {"epochs": 3}), resume=True)  # type: ignore[arg-type]
    done = tune(NAME, "digits", tmp_path / "made", resume=True, **settings)  # type: ignore[arg-type]
    assert done["log"][0]["epoch"] == 1 and len(done["log"]) == 2
    whole, made = (read_artifact(tmp_path / name)[0] for name in ("whole", "made"))
    assert whole.weights_sha256 == made.weights_sha256
    assert not (tmp_path / "made.tuning").exists()


def test_what_cannot_be_is_said_before_any_work(zoo: Zoo, tmp_path: Path) -> None:
    words = ("tune", NAME, "--timesteps", "2", "--out", tmp_path / "made")
    zoo(*words, "--data", tmp_path / "none").failed(3)
    assert "--resume" in zoo(*words, "--data", "digits", "--resume").failed(3)
    assert "--batch-size" in zoo(*words, "--data", "digits", "--batch-size", "9999").failed(2)
    said = zoo(*words, "--data", "digits", "--teacher", "s-resnet20").failed(2)
    assert "channels" in said
    (tmp_path / "made.tuning").write_bytes(b"no state")
    assert "no training state" in zoo(*words, "--data", "digits", "--resume").failed(5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.tuning"]
    images = open_images("digits", "train").take(8, 0).without_labels("none")
    module = library.load(NAME).trainable()
    with pytest.raises(UsageError, match="labels"):
        Tuner(module, images, library.load(NAME).preprocess, TuningPlan(2, batch_size=4))
