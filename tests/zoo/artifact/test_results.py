"""An evaluation is read within bounds: whatever is out of them is refused by its name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.results import read_evaluation
from zoo.errors import IntegrityError, NotFoundError

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "zoo" / "models").glob("*/eval.json"))
DIGITS = ROOT / "zoo" / "models" / "s-resnet20-digits"

ZERO = {"label": 0, "name": None, "images": 359, "top1": 50.0, "ann": None}


def changed(folder: Path, value: object, *path: str | int) -> Path:
    """Write the shipped evaluation with one value replaced, or removed where it is `...`."""
    found: Any = json.loads((DIGITS / "eval.json").read_text())
    part = found
    for key in path[:-1]:
        part = part[key]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    (folder / "eval.json").write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_every_shipped_evaluation_is_within_the_bounds(path):
    found = read_evaluation(path)
    assert found == read_evaluation(path.parent)
    assert found.model_dump(mode="json", exclude_unset=True) == json.loads(path.read_text())
    assert found.best.timesteps == max(row.timesteps for row in found.rows)


def test_dumped_evaluations_of_the_benchmarks_are_within_the_bounds():
    paths = sorted((ROOT / "benchmarks" / "results" / "family").glob("*.json"))
    assert len(paths) > 5
    for path in paths:
        read_evaluation(path)


def test_without_an_ann_an_evaluation_is_whole(tmp_path):
    assert read_evaluation(changed(tmp_path, None, "ann")).ann is None


@pytest.mark.parametrize(
    ("value", "path", "named"),
    [
        (..., ("rows", 2, "top1"), "rows.2.top1"),
        (..., ("rows", 2, "interval95"), "rows.2.interval95"),
        (..., ("footprint_bytes",), "footprint_bytes"),
        (100.5, ("rows", 0, "top1"), "rows.0.top1"),
        (-0.5, ("rows", 0, "top1"), "rows.0.top1"),
        (math.nan, ("rows", 0, "top1"), "rows.0.top1"),
        (math.nan, ("ann", "top1"), "ann.top1"),
        (101.0, ("ann", "top1"), "ann.top1"),
        (99.0, ("ann", "top5"), "top5 99 is below top1 100"),
        (1.0, ("rows", 0, "top5"), "rows.0: top5 1 is below top1 42.2222"),
        ([50.0, 60.0], ("rows", 0, "interval95"), "rows.0: interval95 50 to 60"),
        ([30.0, 40.0], ("rows", 0, "interval95"), "does not contain top1 42.2222"),
        (-1e-9, ("rows", 0, "firing_rate"), "rows.0.firing_rate"),
        (4.5, ("rows", 0, "firing_rate"), "rows.0.firing_rate"),
        (-1.0, ("rows", 0, "effective_acs"), "rows.0.effective_acs"),
        (math.inf, ("rows", 0, "effective_macs"), "rows.0.effective_macs"),
        (..., ("rows", 2, "energy_nj", "ann_quantised"), "energy_nj.ann_quantised is missing"),
        (1.0, ("rows", 2, "energy_nj", "tpu"), "energy_nj.tpu is not an energy"),
        (math.inf, ("rows", 2, "energy_nj", "snn_float"), "rows.2.energy_nj.snn_float"),
        (-1.0, ("rows", 2, "energy_nj", "snn_float"), "rows.2.energy_nj.snn_float"),
        ([], ("rows",), "rows: List should have at least 1"),
        (2, ("rows", 0, "timesteps"), "rows are not by rising timesteps"),
        (100, ("rows", 0, "timesteps"), "rows are not by rising timesteps"),
        (0, ("rows", 0, "timesteps"), "rows.0.timesteps"),
        (4097, ("rows", 6, "timesteps"), "rows.6.timesteps"),
        ([], ("layers",), "layers: List should have at least 1"),
        (0, ("layers", 0, "neurons"), "layers.0.neurons"),
        (..., ("layers", 3, "firing_rate", "4"), "of layer layer1.1.conv1 at T = 4 is missing"),
        (math.nan, ("layers", 3, "firing_rate", "4"), "layers.3.firing_rate.4"),
        ({}, ("images_per_second",), "images_per_second"),
        (0, ("data", "images"), "data.images"),
        ([ZERO], ("classes",), "classes have 359 images, data.images is 360"),
        ("x", ("data", "sha256"), "data.sha256"),
        (1.5, ("activation_sparsity",), "activation_sparsity"),
        (-1, ("peak_memory_bytes",), "peak_memory_bytes"),
        ("0" * 64, ("weights_sha256",), "weights_sha256 is not that of config"),
        ("resnet32", ("arch",), "arch is not that of config"),
        ("hu2018", ("method",), "method is not that of config"),
        ("signed", ("neuron",), "neuron is not that of config"),
        ("layerwise", ("schedule",), "schedule is not that of config"),
        ("float32", ("numerics",), "numerics is not that of config"),
        (1, ("surplus",), "surplus"),
    ],
)
def test_what_cannot_have_been_measured_is_refused_by_name(tmp_path, value, path, named):
    with refuses(IntegrityError, named):
        read_evaluation(changed(tmp_path, value, *path))


def test_a_missing_or_oversized_file_is_named(tmp_path):
    with refuses(NotFoundError, "eval.json is missing: run zoo eval"):
        read_evaluation(tmp_path)
    with refuses(NotFoundError, "eval.json is missing: measure"):
        read_evaluation(tmp_path / "eval.json", "measure it")
    (tmp_path / "eval.json").write_bytes(b" " * 8_000_001)
    with refuses(IntegrityError, "more than 8000000 bytes"):
        read_evaluation(tmp_path)
