"""Evaluation: the numbers of a direct computation, operations by brute force, registry names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.zoo.spiking_fixtures import (
    image_set,
    random_network,
    random_pixels,
    refuses,
    tiny_topology,
)
from zoo.artifact.folder import read_artifact, verify_artifact
from zoo.artifact.results import wilson
from zoo.artifact.tensors import network_of
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.evaluation.energy import dense_macs, footprint, modelled_energy, spiking_operations
from zoo.evaluation.evaluate import evaluate
from zoo.models import registry
from zoo.networks.architectures import topology
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.networks.topology import IMAGE


def test_accuracy_is_that_of_a_direct_computation(saved, digits_file, digits_test):
    some = digits_test.take(100, 0)
    result = evaluate(saved, some, [8, 2, 8], batch_size=33, ann=digits_file)
    network = network_of(*read_artifact(saved))
    pixels, labels = next(some.batches(Preprocess((1, 8, 8)), 100))
    run = network.run(pixels, 8, snapshots=(2, 8))
    assert [row.timesteps for row in result.rows] == [2, 8]
    for row in result.rows:
        assert row.top1 == pytest.approx(
            100 * (run.logits[row.timesteps - 1].argmax(1) == labels).float().mean().item()
        )
        spikes = run.spikes[row.timesteps]
        total, neurons = (
            sum(int(s.sum()) for s in spikes.values()),
            sum(s.numel() for s in spikes.values()),
        )
        assert row.firing_rate == pytest.approx(total / (neurons * 100 * row.timesteps))
    assert result.ann is not None and result.ann.top1 > 80
    assert result.data.images == 100 and result.layers[0].neurons == 16 * 64


def test_the_ann_is_found_where_it_was_converted_from(saved, converted, digits_test, tmp_path):
    some = digits_test.take(10, 0)
    assert evaluate(saved, some, [1]).ann is None
    converted(parameters={"rows": 2}, timesteps=2).save(tmp_path / "another")
    assert evaluate(saved, some, [1]).ann is not None
    other = tmp_path / "other.safetensors"
    from zoo.networks.resnet import ResNet
    from zoo.training.trainer import save_checkpoint

    save_checkpoint(ResNet(topology("resnet20", in_channels=1)).state_dict(), other)
    with refuses(UsageError, "sha256 differs"):
        evaluate(saved, some, [1], ann=other)


def test_layerwise_runs_once_for_each_number_of_timesteps(converted, digits_test, tmp_path):
    converted(schedule="layerwise").save(tmp_path / "lw")
    result = evaluate(tmp_path / "lw", digits_test.take(20, 0), [2, 5])
    assert set(result.images_per_second) == {2, 5} and len(result.rows) == 2


@pytest.mark.parametrize(("labels", "timesteps"), [([10] * 4, [1]), ([0] * 4, [0]), ([0] * 4, [])])
def test_bad_measurements(saved, tmp_path, labels, timesteps):
    with refuses(UsageError):
        evaluate(saved, image_set(tmp_path, random_pixels(4, 1, 8), labels), timesteps)


def test_wilson_interval():
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(40.38, abs=0.01), pytest.approx(59.62, abs=0.01))
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(100)


@pytest.mark.parametrize("form", ["cifar", "imagenet"])
def test_operations_against_counting_each_one(form):
    net = tiny_topology(form)
    network = random_network(net)
    side = 9 if form == "cifar" else 16
    pixels = random_pixels(2, net.in_channels, side)
    seen = {}
    network.run(
        pixels,
        5,
        window=5,
        chunk=2,
        on_spikes=lambda name, spikes: seen.setdefault(name, spikes.numpy()),
    )
    run = network.run(pixels, 5, snapshots=(5,))
    active = (network.pixels(pixels) != 0).sum(0)
    result = spiking_operations(network, run.spikes[5], 2, active)
    acs = macs = 0
    for spec in net.layers:
        layer = network.layers[spec.name]
        inputs = (
            (network.pixels(pixels) != 0).numpy()[None]
            if spec.source == IMAGE
            else seen[spec.source] != 0
        )
        met = brute(inputs, layer.weight.numpy(), spec.stride, spec.padding)
        if spec.source == IMAGE:
            macs += met
        else:
            acs += met
        if spec.shortcut is not None and layer.projection is not None:
            acs += brute(
                seen[spec.shortcut.source] != 0, layer.projection.numpy(), spec.shortcut.stride, 0
            )
        elif spec.shortcut is not None:
            acs += int(
                (
                    seen[spec.shortcut.source][
                        ..., :: spec.shortcut.stride, :: spec.shortcut.stride
                    ]
                    != 0
                ).sum()
            )
    assert result.acs == pytest.approx(acs / 2)
    assert result.macs == pytest.approx(macs / 2 + int((network.head.weight != 0).sum()))


def brute(inputs: np.ndarray, weight: np.ndarray, stride: int, padding: int) -> int:
    """Count non-zero inputs `[T, B, C, H, W]` that meet non-zero weights, position by position."""
    padded = np.pad(inputs, ((0, 0), (0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    kernel, total = weight.shape[-1], 0
    for y in range(0, padded.shape[3] - kernel + 1, stride):
        for x in range(0, padded.shape[4] - kernel + 1, stride):
            window = padded[..., y : y + kernel, x : x + kernel]
            total += int(
                np.einsum("tbcij,ocij->", window.astype(np.int64), (weight != 0).astype(np.int64))
            )
    return total


@pytest.mark.parametrize(
    ("arch", "side", "macs"), [("resnet20", 32, 40_551_040), ("resnet50", 224, 4_089_184_256)]
)
def test_dense_macs(arch, side, macs):
    from zoo.kernels.spiking_conv import SpikingConv
    from zoo.networks.run import Head
    from zoo.networks.spiking import SpikingResNet

    net = topology(arch, num_classes=10 if side == 32 else 1000)
    layers = {}
    for spec in net.layers:
        weight = torch.empty(
            spec.out_channels, spec.in_channels, spec.kernel, spec.kernel, dtype=torch.int8
        )
        one = torch.ones(1, dtype=torch.int32)
        side_weight = None
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            side_weight = torch.empty(
                spec.out_channels, net.channels[spec.shortcut.source], 1, 1, dtype=torch.int8
            )
        layers[spec.name] = SpikingConv(weight, one[None], one, one, projection=side_weight)
    head = Head(
        torch.empty(net.num_classes, net.features, dtype=torch.int8), torch.ones(1), torch.ones(1)
    )
    network = SpikingResNet(net, layers, head, torch.zeros(3, 256, dtype=torch.int16))
    assert dense_macs(network, side, side) == macs
    assert footprint(network) > sum(layer.weight.numel() for layer in layers.values())


def test_energy_by_hand():
    energy = modelled_energy(acs=1000, macs=10, ann_macs=500, timesteps=8)
    assert energy["snn_float"] == pytest.approx((1000 * 0.9 + 10 * 4.6) / 1000)
    assert energy["ann_float"] == pytest.approx(500 * 4.6 / 1000)
    assert energy["snn_int8"] == pytest.approx((1000 * 0.1 + 10 * 0.3) / 1000)
    assert energy["ann_quantised"] == pytest.approx(500 * (0.2 * 4 / 8 + 0.1) / 1000)
    assert modelled_energy(0, 0, 1, 1)["ann_quantised"] == pytest.approx((0.2 / 8 + 0.1) / 1000)


def test_registry_resolves_names_and_folders(saved, tmp_path):
    assert registry.resolve(saved) == saved
    assert registry.resolve("s-resnet20-digits").name == "s-resnet20-digits"
    with refuses(NotFoundError, "s-resnet20-digits"):
        registry.resolve("s-resnet20-digit")
    with refuses(NotFoundError, "no config.json"):
        registry.resolve(tmp_path)


def test_every_shipped_model_is_sound_and_measured():
    for entry in registry.shipped():
        assert all(check.ok for check in verify_artifact(entry.folder, deep=True))
        assert entry.evaluation is not None
        assert entry.evaluation.weights_sha256 == entry.config.weights_sha256
        assert entry.name == entry.evaluation.name
        named = {"digits": "digits", "c100": "cifar100"}
        wanted = next((named[part] for part in entry.name.split("-") if part in named), "cifar10")
        assert registry.default_data(entry.config) == wanted


def test_every_shipped_model_runs_on_the_kernels() -> None:
    results = Path(__file__).parents[3] / "benchmarks" / "results" / "equality-emulated.json"
    runs = json.loads(results.read_text())["runs"].values()
    equal = {(run["weights_sha256"], run["architecture"]) for run in runs if run["equal"]}
    run = set[str]()
    for entry in registry.shipped():
        network = zoo.load(entry.name).with_backend("interpret")
        limit = network.layer_backend(1).limit
        assert limit is not None and limit >= 256, entry.name
        if entry.config.neuron not in run:  # one of each kind: a run takes three seconds
            run.add(entry.config.neuron)
            pixels = torch.zeros(1, *entry.config.preprocess.input_size, dtype=torch.uint8)
            assert torch.equal(
                network.run(pixels, 2).logits, zoo.load(entry.name).run(pixels, 2).logits
            )
        for architecture in ("sm_80", "sm_90"):
            assert (entry.config.weights_sha256, architecture) in equal, entry.name


def test_the_shipped_digits_model_measures_what_its_file_says(digits_test):
    entry = next(entry for entry in registry.shipped() if entry.name == "s-resnet20-digits")
    result = evaluate(entry.folder, digits_test, [1, 8])
    said = {row.timesteps: row.top1 for row in entry.evaluation.rows}
    assert {row.timesteps: row.top1 for row in result.rows} == {
        1: pytest.approx(said[1]),
        8: pytest.approx(said[8]),
    }
    assert result.data.sha256 == entry.evaluation.data.sha256


def test_a_broken_evaluation_file(saved, tmp_path):
    (saved / "eval.json").write_text("{")
    with refuses(IntegrityError, "eval.json"):
        registry.entry(Path(saved))
    shutil.rmtree(saved)


@pytest.mark.parametrize("schedule", ["causal", "layerwise"])
def test_every_figure_of_a_small_evaluation(
    converted, digits_ann, digits_file, digits_test, tmp_path, schedule
):
    parameters = {"rows": 4}
    converted(schedule=schedule, parameters=parameters).save(tmp_path / "net")
    some = digits_test.take(23, 1)
    result = evaluate(tmp_path / "net", some, [3, 5], batch_size=10, ann=digits_file)
    network = network_of(*read_artifact(tmp_path / "net"))
    pixels, labels = next(some.batches(Preprocess((1, 8, 8)), 23))
    table = image_table((0.3053,), (0.3763,), integer=False)
    with torch.inference_mode():
        right = (
            ann_forward(digits_ann.net, digits_ann.params, look_up(table, pixels)).argmax(1)
            == labels
        )
    assert result.ann is not None and result.ann.top1 == pytest.approx(
        100 * right.float().mean().item()
    )
    for row in result.rows:
        t = row.timesteps
        run = network.run(pixels, t, snapshots=[t])
        hits = int((run.logits[-1].argmax(1) == labels).sum())
        assert row.top1 == pytest.approx(100 * hits / 23) and row.interval95 == wilson(hits, 23)
        for layer in result.layers:
            spikes = run.spikes[t][layer.name]
            assert layer.neurons == spikes.numel()
            assert layer.firing_rate[t] == pytest.approx(
                spikes.sum().item() / (spikes.numel() * 23 * t)
            )
        operations = spiking_operations(
            network, run.spikes[t], 23, (network.pixels(pixels) != 0).sum(0)
        )
        assert (row.effective_acs, row.effective_macs) == pytest.approx(
            (operations.acs, operations.macs)
        )
        macs = dense_macs(network, 8, 8)
        assert row.energy_nj == pytest.approx(
            modelled_energy(operations.acs, operations.macs, macs, t)
        )
    assert result.activation_sparsity == pytest.approx(1 - result.rows[-1].firing_rate)
    assert result.footprint_bytes == footprint(network)


def test_images_without_labels_or_of_another_size(saved, tmp_path):
    for pixels, labels in (
        (random_pixels(2, 1, 8), None),
        (random_pixels(2, 1, 9), [0, 1]),
        (random_pixels(2, 3, 8), [0, 1]),
    ):
        with refuses(UsageError):
            evaluate(saved, image_set(tmp_path, pixels, labels), [1])


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    # statsmodels' proportion_confint(method="wilson").
    [
        (0, 10, 0.0, 27.7533),
        (5, 10, 23.6593, 76.3407),
        (9, 10, 59.5850, 98.2124),
        (95, 100, 88.8249, 97.8463),
    ],
)
def test_wilson_against_known_values(correct, count, low, high):
    assert wilson(correct, count) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))
