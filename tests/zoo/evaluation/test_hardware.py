"""The hardware sheet says what the integers are; what images brought stays within its bounds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.zoo.commands.conftest import Zoo
from tests.zoo.commands.conftest import zoo as command  # noqa: F401
from tests.zoo.spiking_fixtures import random_network, refuses, tiny_topology
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.evaluation.energy import count_operations, fan_out
from zoo.evaluation.hardware import _synapses, _width, hardware_sheet
from zoo.models import registry

DIGITS = "s-resnet20-digits"
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("form", ["cifar", "imagenet", "deep", "head"])
def test_synapses_and_fan_out_are_two_views_of_the_same_weights(form: str) -> None:
    network = random_network(tiny_topology(form))
    net, sizes = network.topology, network.topology.sizes(16, 16)
    met, synapses = fan_out(network, 16, 16), _synapses(network, (16, 16))
    assert sum(int(one.sum()) for one in met.values()) == sum(synapses.values())
    # One spike more at one neuron costs what its fan-out says.
    name = net.layers[0].name
    if not net.pools_behind(name):
        none = {
            one: torch.zeros((net.channels[one], *sizes[one]), dtype=torch.int64)
            for one in net.channels
        }
        still = torch.zeros((net.in_channels, 16, 16), dtype=torch.int64)
        for place in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
            spikes = {**none, name: none[name].clone()}
            spikes[name][place] = 1
            assert sum(count_operations(network, spikes, still).values()) == int(met[name][place])


@pytest.mark.parametrize(
    ("values", "bits"),
    [([0], 1), ([1], 1), ([7], 3), ([8], 4), ([-1], 1), ([-8, 7], 4), ([-9], 5), ([-8, 8], 5)],
)
def test_widths(values: list[int], bits: int) -> None:
    assert _width(torch.tensor(values)) == bits


def test_the_sheet_of_a_shipped_network() -> None:
    network = zoo.load(DIGITS)
    entry = registry.entry(registry.resolve(DIGITS))
    images = open_images("digits", "test").take(6, seed=0)
    sheet = hardware_sheet(network, 16, measured=entry.evaluation, images=images)
    assert [row.name for row in sheet.layers] == [*network.layers]
    stem, second = sheet.layers[:2]
    assert (stem.neurons, stem.fan_in, second.fan_in) == (16 * 64, 9, 144)
    assert all(row.weight_bits <= 8 and row.neuron == "if" for row in sheet.layers)
    for row in sheet.layers:
        layer = network.layers[row.name]
        assert row.accumulator_seen is not None and row.accumulator_seen <= row.accumulator_bits
        assert 2 ** (row.accumulator_bits - 1) > layer.potential_bound(16)
        assert row.accumulator_bits == 2 + (layer.potential_bound(16)).bit_length() - 1
        assert int(layer.threshold.max()) < 2**row.threshold_bits
        assert row.operations is not None and row.operations[16] > 0
    assert sheet.neurobench["Footprint"] == entry.evaluation.footprint_bytes  # type: ignore[union-attr]
    assert sheet.neurobench["Effective_ACs"] == entry.evaluation.best.effective_acs  # type: ignore[union-attr]
    more = hardware_sheet(network, 64)
    assert all(
        long.accumulator_bits >= short.accumulator_bits
        for long, short in zip(more.layers, sheet.layers, strict=True)
    )
    assert more.seen_on is None and more.layers[0].accumulator_seen is None


def test_accumulators_seen_are_those_of_a_recording() -> None:
    network = zoo.load(DIGITS)
    images = open_images("digits", "test").take(5, seed=0)
    sheet = hardware_sheet(network, 8, images=images)
    pixels = images.batch(slice(None), network.preprocess)  # type: ignore[arg-type]
    found = network.record(pixels, 8, what=("spikes", "potential"))
    for row in sheet.layers:
        theta = network.layers[row.name].threshold.view(-1, 1, 1)
        before = found.potential[row.name] + theta * found.spikes[row.name].int()
        low, high = int(before.min()), int(before.max())
        bits = row.accumulator_seen
        assert bits is not None and -(2 ** (bits - 1)) <= low and high < 2**bits
        assert low < -(2 ** (bits - 2)) or high >= 2 ** (bits - 2)


def test_a_float_network_has_no_widths() -> None:
    with refuses(UsageError, "no bit widths"):
        hardware_sheet(random_network(tiny_topology("cifar")), 8)  # without a config either


def test_operations_by_layer_are_kept_when_measured(command: Zoo, tmp_path: Path) -> None:  # noqa: F811
    folder = Path(shutil.copytree(registry.resolve(DIGITS), tmp_path / "net"))
    assert "not measured by layer" in command("show", folder, "--hardware").out
    words = ["eval", folder, "--timesteps", "4,8", "--limit", "20", "--save", "-q"]
    assert command(*words).code == 0
    ended = command("show", folder, "--hardware", "--timesteps", "8", "--json")
    assert ended.code == 0, ended
    sheet, found = json.loads(ended.out), json.loads((folder / "eval.json").read_text())
    for row, layer in zip(sheet["layers"], found["layers"], strict=True):
        assert row["operations"] == layer["operations"] and {*row["operations"]} == {"4", "8"}
    # They add up to what the rows say, the classifier aside.
    for row in found["rows"]:
        behind = sum(one["operations"][str(row["timesteps"])] for one in found["layers"][1:])
        assert behind == pytest.approx(row["effective_acs"])
    shown = command("show", folder, "--hardware")
    assert "ops T=8" in shown.out and "NeuroBench: Footprint" in shown.out
    assert "about --hardware" in command("show", folder, "--data", "digits").failed(2)


def test_golden_vectors_and_their_reader(command: Zoo, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "vectors.npz"
    words = ["export", DIGITS, "--format", "golden", "--limit", "2", "--timesteps", "3"]
    assert command(*words, "--out", path).code == 0
    network = zoo.load(DIGITS)
    with np.load(path) as found:
        images = torch.from_numpy(found["images"])
        wanted = network.record(images, 3, what=("spikes", "potential"))
        for name in network.layers:
            assert np.array_equal(found[f"spikes/{name}"], wanted.spikes[name].numpy())
            assert np.array_equal(found[f"potential/{name}"], wanted.potential[name].numpy())
    reader = ROOT / "examples" / "golden_vectors.py"
    assert len(reader.read_text().splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, str(reader), str(path), "layer3.2.conv2"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + 2 * 3
    bits = np.packbits(wanted.spikes["layer3.2.conv2"][0, 1].numpy().ravel()).tobytes().hex()
    assert lines[4].startswith(f"{bits}  // image 1, timestep 0, potentials [")
    wrong = subprocess.run(
        [sys.executable, str(reader), str(path), "layer9"], capture_output=True, text=True
    )
    assert wrong.returncode == 1 and wrong.stderr.startswith("no layer layer9: conv1, ")
