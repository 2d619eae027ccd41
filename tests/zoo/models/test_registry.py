"""What a name or path on the command line means, and what is refused in one line."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.results import Evaluation
from zoo.errors import IntegrityError, NotFoundError
from zoo.models import registry


@pytest.mark.parametrize("name", ["", "nothing", "x" * 300, "a\0b", "../nowhere", "~", "/"])
def test_what_is_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refuses(NotFoundError):
        registry.resolve(name)


def test_a_folder_goes_before_a_name(saved, tmp_path, monkeypatch):
    name = registry.shipped()[0].name
    assert registry.resolve(name) == registry._SHIPPED / name
    os.rename(saved, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert registry.resolve(name) == Path(name)


def test_near_names_are_listed():
    name = registry.shipped()[0].name
    with refuses(NotFoundError, name):
        registry.resolve(name.replace("-", "_"))


def test_entry_reads_the_facts(saved):
    plain = registry.entry(saved)
    assert (plain.name, plain.folder, plain.evaluation) == ("digits", saved, None)
    assert plain.size == sum(path.stat().st_size for path in saved.iterdir())
    text = (registry.resolve("s-resnet20-digits") / "eval.json").read_bytes()
    (saved / "eval.json").write_bytes(text)
    measured = registry.entry(saved, "another")
    assert (measured.name, measured.evaluation) == ("another", Evaluation.model_validate_json(text))
    assert measured.size == plain.size  # of the model, not of what is said about it


@pytest.mark.parametrize("name", ["config.json", "eval.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"rows": []}'])
def test_broken_files_are_named(saved, name, content):
    (saved / name).write_bytes(content)
    with refuses(IntegrityError, name):
        registry.entry(saved)


def test_data_of_a_model_is_what_it_was_calibrated_on(saved):
    assert registry.default_data(registry.entry(saved).config) == "digits"
    text = json.loads((saved / "config.json").read_text())
    del text["calibration"]["dataset"]
    (saved / "config.json").write_text(json.dumps(text))
    assert registry.default_data(registry.entry(saved).config) is None


def test_what_ships_is_small():
    """Int8 weights, a bias a channel and timestep, and at most eight int32 a channel besides.

    Under a megabyte each but for a ResNet-56 with 32 biases a channel (1.05 MB) and the wide
    ResNet-18 (11.6 MB); together 26 MB as a wheel compresses them, of the 30 MB that `make wheel`
    allows it.
    """
    shipped = registry.shipped()
    assert len(shipped) >= 7
    total = 0
    for entry in shipped:
        tensors = load_file(entry.folder / "model.safetensors")
        weights = sum(v.numel() for v in tensors.values() if v.dtype == torch.int8)
        biases = [v for name, v in tensors.items() if name.endswith(".bias") and v.ndim == 2]
        channels, rows = sum(v.shape[1] for v in biases), max(len(v) for v in biases)
        payload = (entry.folder / "model.safetensors").read_bytes()
        assert len(payload) <= weights + 4 * channels * (rows + 8), entry.name
        large = {("resnet56", 33): 1_050_000, ("resnet18_cifar", 33): 11_600_000}
        assert len(payload) < large.get((entry.config.arch, rows), 1_000_000), entry.name
        total += len(zlib.compress(payload))
    assert total < 26_000_000
