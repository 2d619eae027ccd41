"""The ANN beside an artifact is the one of its file's two networks that was converted."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.zoo.spiking_fixtures import QUICK
from zoo.conversion.convert import convert
from zoo.evaluation.evaluate import _ann_checkpoint
from zoo.pretrained.checkpoint import read_checkpoint


@pytest.fixture
def both(digits_file, tmp_path):
    state = load_file(digits_file)
    raw = state | {"fc.weight": -state["fc.weight"], "fc.bias": -state["fc.bias"]}
    path = tmp_path / "both.pth"
    torch.save({"state_dict": raw, "state_dict_ema": state}, path)
    return path, {"raw": raw, "ema": state}


@pytest.mark.parametrize("weights", ["raw", "ema", None])
def test_the_ann_is_the_network_that_was_converted(both, digits, tmp_path, weights):
    path, states = both
    which = weights or "ema"
    made = convert(read_checkpoint(path, weights=weights), digits, **QUICK)
    config = made.save(tmp_path / "net")
    assert config.source.weights == which
    ann = _ann_checkpoint(config, None)
    assert torch.equal(ann.params["fc.weight"], states[which]["fc.weight"])


def test_an_artifact_from_before_has_the_network_that_is_not_averaged(both, digits, tmp_path):
    path, states = both
    config = convert(read_checkpoint(path, weights="raw"), digits, **QUICK).save(tmp_path / "net")
    source = config.source.model_copy(update={"weights": None})
    ann = _ann_checkpoint(config.model_copy(update={"source": source}), path)
    assert torch.equal(ann.params["fc.weight"], states["raw"]["fc.weight"])


def test_a_file_with_one_network_records_nothing(digits_ann, digits, tmp_path):
    convert(digits_ann, digits, **QUICK).save(tmp_path / "net")
    assert '"weights":' not in (tmp_path / "net/config.json").read_text()
