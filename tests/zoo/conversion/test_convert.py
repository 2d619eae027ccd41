"""Test conversion: the paper's algebra, calibration, rounding, the same bytes twice, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.zoo.spiking_fixtures import (
    files_of,
    image_set,
    random_pixels,
    refuses,
    tiny_topology,
)
from zoo.artifact.config import WEIGHTS
from zoo.artifact.folder import read_artifact, verify_artifact
from zoo.artifact.tensors import network_of
from zoo.conversion import build as building
from zoo.conversion import calibrate, thresholds
from zoo.conversion.build import Built
from zoo.conversion.convert import convert
from zoo.conversion.methods import hu2018
from zoo.conversion.readout import search_delay
from zoo.conversion.rounding import patches, round_to_int8
from zoo.conversion.trains import SpikeTrain
from zoo.errors import UsageError
from zoo.evaluation.energy import dense_macs, modelled_energy
from zoo.evaluation.evaluate import evaluate
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet

PREP = Preprocess((1, 8, 8))


@pytest.mark.parametrize("numerics", ["int8", "float32"])
@pytest.mark.parametrize(
    ("method", "neuron", "schedule"),
    [
        ("calibrated", "if", "causal"),
        ("calibrated", "signed", "causal"),
        ("calibrated", "if", "layerwise"),
        ("hu2018", "if", "causal"),
        ("hu2018", "signed", "causal"),
        ("hu2018", "if", "layerwise"),
    ],
)
def test_every_combination_saves_and_verifies(
    converted, tmp_path, method, neuron, schedule, numerics
):
    few = {"steps": 2} if method == "hu2018" else {"rows": 4}
    result = converted(
        method=method, neuron=neuron, schedule=schedule, numerics=numerics, parameters=few
    )
    result.save(tmp_path / "a")
    assert [check.ok for check in verify_artifact(tmp_path / "a", deep=True)] == [True] * 3
    assert all(np.isfinite(layer.error) and 0 <= layer.firing_rate <= 1 for layer in result.layers)
    assert len(result.layers) == 19 and result.summary()["agreement"] == result.agreement


@pytest.mark.parametrize("numerics", ["int8", "float32"])
@pytest.mark.parametrize("bits", [2, 4])
def test_graded_spikes(converted, digits_test, digits_file, tmp_path, bits, numerics):
    """Levels do the work of timesteps: T = 1 of 4 bits is closer to the ANN than T = 4 of one."""
    some = digits_test.take(200, 1)

    def right(name, timesteps, **how):
        result = converted(numerics=numerics, timesteps=4, **how)
        result.save(tmp_path / name)
        assert [check.ok for check in verify_artifact(tmp_path / name, deep=True)] == [True] * 3
        return evaluate(tmp_path / name, some, [timesteps], ann=digits_file)

    graded = right(
        "graded", 1 if bits == 4 else 2, neuron="multi-level", parameters={"rows": 4, "bits": bits}
    )
    binary = right("binary", 4, parameters={"rows": 4})
    assert graded.config.method.parameters["levels"] == 4 * (2**bits - 1)
    assert graded.config.spike_bits == bits and graded.rows[-1].top1 > binary.rows[-1].top1 + 2
    assert graded.rows[-1].top1 > graded.ann.top1 - 2
    config, tensors = read_artifact(tmp_path / "graded")
    network = network_of(config, tensors)
    seen = []
    network.run(some.batch(slice(20), PREP), 2, on_spikes=lambda name, spikes: seen.append(spikes))
    assert {int(s.max()) for s in seen} == {2**bits - 1} and min(int(s.min()) for s in seen) == 0
    # Every bit that is set is an operation, and the rival is as precise as T times the levels.
    run = network.run(some.batch(slice(20), PREP), 2, snapshots=[2])
    last = network.topology.layers[-1].name
    assert run.spikes[2][last].sum() == sum(((seen[-1] >> bit) & 1).sum() for bit in range(bits))
    levels = graded.rows[-1].timesteps * (2**bits - 1)
    assert graded.rows[-1].energy_nj["ann_quantised"] == pytest.approx(
        modelled_energy(0, 0, dense_macs(network, 8, 8), levels)["ann_quantised"]
    )


def test_converted_twice_gives_the_same_bytes(digits_ann, digits, tmp_path):
    for name in ("a", "b"):
        convert(
            digits_ann,
            digits,
            mean=(0.3,),
            std=(0.4,),
            input_size=8,
            samples=16,
            timesteps=4,
            parameters={"rows": 2},
        ).save(tmp_path / name)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_calibration_brings_the_network_nearer_to_its_ann(digits_ann, digits, digits_test):
    def divergence(**parameters):
        found = convert(
            digits_ann,
            digits,
            mean=(0.3053,),
            std=(0.3763,),
            input_size=8,
            samples=128,
            timesteps=16,
            parameters=parameters,
        )
        pixels, _ = next(digits_test.batches(PREP, 360))
        logits = found.network.run(pixels, 8).logits
        image = look_up(image_table((0.3053,), (0.3763,), integer=False), pixels)
        target = ann_forward(digits_ann.net, digits_ann.params, image).double().softmax(1)
        return [-(target * logits[t - 1].log_softmax(1)).sum(1).mean().item() for t in (4, 8)]

    plain, calibrated = divergence(bias="ann", delay="none"), divergence(rows=16, delay="none")
    assert all(after < 0.97 * before for before, after in zip(plain, calibrated, strict=True)), (
        plain,
        calibrated,
    )


def test_hu2018_is_the_papers_algebra(converted):
    result = converted(method="hu2018", numerics="float32", parameters={"steps": 1})
    layers, net = result.network.layers, result.network.topology
    scale = {}
    for spec in net.layers:
        theta = layers[spec.name].threshold
        assert (theta == theta[0]).all()
        assert torch.equal(layers[spec.name].v_init, theta / 2)
        scale[spec.name] = theta[0]
    for spec in net.layers:
        if spec.shortcut is not None and spec.shortcut.pad == 0:
            gain = layers[spec.name].gain
            # In unit-threshold form an identity shortcut has the weight lambda_in / lambda_out.
            assert torch.allclose(
                gain / scale[spec.name],
                (scale[spec.shortcut.source] / scale[spec.name]).expand_as(gain),
            )
    assert result.config.method.parameters["compensation"] == 1.0


def test_hu2018_compensation_scales_weights_and_shortcuts_alone(digits_ann, digits):
    from zoo.conversion.build import BuildSpec, build_network

    theta = {layer.name: torch.ones(layer.out_channels) for layer in digits_ann.net.layers}
    pixels = next(digits.batches(PREP, 8))[0]
    one, two = (
        build_network(
            BuildSpec(
                checkpoint=digits_ann,
                theta=theta,
                neuron="if",
                schedule="causal",
                numerics="float32",
                mean=(0.3,),
                std=(0.4,),
                calibration=None,
                compensation=factor,
            ),
            pixels,
            2,
        ).network
        for factor in (1.0, 1.5)
    )
    for name in one.layers:
        assert torch.allclose(two.layers[name].weight, 1.5 * one.layers[name].weight)
        assert torch.equal(two.layers[name].bias, one.layers[name].bias)
        if one.layers[name].gain is not None:
            assert torch.allclose(two.layers[name].gain, 1.5 * one.layers[name].gain)


def test_the_stems_weights_have_all_the_levels_of_int8(converted):
    """Pixels are up to 680 units: with other layers' units its weights would have four bits."""
    stem = converted(parameters={"rows": 2}, timesteps=2).network.layers["conv1"]
    assert (stem.weight.abs().amax((1, 2, 3)) == 127).all()


def test_labels_do_not_matter(digits_ann, tmp_path):
    pixels = random_pixels(12, 1, 8)
    options = {
        "mean": (0.3,),
        "std": (0.4,),
        "input_size": 8,
        "timesteps": 4,
        "parameters": {"rows": 2},
    }
    kinds = [image_set(tmp_path, pixels, labels) for labels in ([0] * 12, [3] * 12)]
    for images, name in zip(kinds, "ab", strict=True):
        convert(digits_ann, images, **options).save(tmp_path / name)
    first, second = ((tmp_path / name / WEIGHTS).read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "magic"}, "`method=magic`"),
        ({"neuron": "lif"}, "neuron 'lif'"),
        ({"schedule": "random"}, "schedule 'random'"),
        ({"neuron": "signed", "schedule": "layerwise"}, "`neuron=if`"),
        ({"timesteps": 0}, "timesteps must be 1"),
        ({"samples": 0}, "at least one image"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}, "takes 1 channels"),
        ({"std": (0.0,)}, "`std` must be positive"),
        ({"input_size": 16}, "8x8x1"),
        ({"parameters": {"colour": 1}}, "no parameter 'colour'"),
        (
            {"parameters": {"thresholds": "magic"}},
            "thresholds 'magic' is unknown: use mmse, percent",
        ),
        ({"parameters": {"bias": "magic"}}, "bias 'magic'"),
        ({"neuron": "multi-level", "parameters": {"bits": 3}}, "bits 3 is unknown: use 2 or 4"),
        ({"parameters": {"levels": 0}}, "not 0: it is 16 by default"),
        ({"schedule": "layerwise", "parameters": {"levels": 0}}, "not 0: it is 2 by default"),
        ({"neuron": "multi-level", "parameters": {"levels": 0}}, "not 0: it is 60 by default"),
        (
            {"neuron": "multi-level", "parameters": {"bits": 2, "levels": "many"}},
            "not 'many': it is 12 by default",
        ),
    ],
)
def test_bad_input_is_one_line(digits_ann, digits, changes, match):
    options = {"mean": (0.3,), "std": (0.4,), "input_size": 8, "samples": 4, "timesteps": 2}
    with refuses(UsageError, match):
        convert(digits_ann, digits, **(options | changes))


def test_a_causal_network_is_tuned_for_its_levels_and_converted_as_one_trained_so(
    digits_ann, digits, monkeypatch
):
    options = {"mean": (0.3053,), "std": (0.3763,), "input_size": 8, "samples": 16, "timesteps": 4}
    seen = []
    build_network = building.build_network
    monkeypatch.setattr(
        building,
        "build_network",
        lambda spec, *about: seen.append(spec) or build_network(spec, *about),
    )
    result = convert(
        digits_ann,
        digits,
        **options,
        parameters={"tune": 2, "tune_images": 64, "levels": 8, "rows": 2},
    )
    (spec,) = seen
    assert spec.checkpoint.params["levels"].item() == 8 and spec.calibration is not None
    for name, theta in spec.theta.items():
        assert torch.equal(theta, spec.checkpoint.params[f"{name}.threshold"])
    assert not torch.equal(
        spec.checkpoint.params["conv1.weight"], digits_ann.params["conv1.weight"]
    )
    assert "levels" not in digits_ann.params
    assert result.config.source.sha256 == digits_ann.sha256 and result.config.bias_rows == 3
    assert result.agreement > 0.5


def test_tuned_layerwise_converts(digits_ann, digits):
    result = convert(
        digits_ann,
        digits,
        schedule="layerwise",
        mean=(0.3,),
        std=(0.4,),
        input_size=8,
        samples=16,
        timesteps=4,
        parameters={"tune": 2, "tune_images": 64},
    )
    assert result.config.method.parameters["tune"] == 2 and result.config.bias_rows == 1


def test_percentile_takes_the_papers_index():
    sample = torch.arange(1000.0).reshape(2, 500).flip(1)
    assert thresholds.percentile(sample, 0.999, per_channel=False).tolist() == [999.0, 999.0]
    assert thresholds.percentile(sample, 0.5, per_channel=True).tolist() == [250.0, 750.0]


def test_mmse_is_the_best_of_its_grid():
    sample = torch.rand(3, 500, generator=torch.Generator().manual_seed(0)) ** 4
    theta = thresholds.mmse(sample, 4)

    def error(values, candidate):
        return (
            ((values * 4 / candidate + 0.5).floor().clamp(0, 4) * candidate / 4 - values)
            .square()
            .mean()
        )

    for values, found in zip(sample, theta, strict=True):
        best = min(error(values, values.max() * (1 - step / 64)) for step in range(64))
        assert error(values, found) == pytest.approx(best.item(), rel=1e-4)


def test_error_feedback_beats_the_nearest_and_keeps_the_mean():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(4000, 8, generator=generator) @ torch.rand(8, 36, generator=generator) / 8
    weight = torch.randn(5, 36, generator=generator) * 3
    rounded, shift = round_to_int8(weight, inputs)
    target, nearest = inputs @ weight.T, inputs @ weight.round().T
    found = inputs @ rounded.float().T + shift
    assert (found.mean(0) - target.mean(0)).abs().max() < 1e-3
    spread = (found - target).var(0).sum()
    assert spread < 0.5 * (nearest - target).var(0).sum()
    assert round_to_int8(1000 * weight, inputs)[0].abs().max() == 127


def test_patches_are_the_inputs_of_a_convolution():
    x, weight = torch.rand(3, 2, 7, 7), torch.rand(4, 2, 3, 3)
    found = patches(x, 3, 2, 1, torch.Generator().manual_seed(0)) @ weight.flatten(1).T
    target = torch.nn.functional.conv2d(x, weight, None, 2, 1).permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.allclose(found.sort(0).values, target.sort(0).values, atol=1e-5)


@pytest.mark.parametrize("neuron", ["if", "signed", "multi-level"])
def test_calibrated_channels_fire_as_often_as_wanted(neuron):
    bits = 4 if neuron == "multi-level" else 1
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-60, 60, (4, 3, 3, 3), generator=generator).to(torch.int8)
    threshold = torch.tensor([300, 500, 200, 400], dtype=torch.int32)
    bias = torch.full((1, 4), -150, dtype=torch.int32)
    layer = SpikingConv(
        weight, bias, threshold, threshold // 2, padding=1, neuron=neuron, bits=bits
    )
    spikes = (torch.rand(12, 40, 3, 10, 10, generator=generator) < 0.3).to(torch.int8)
    target = torch.rand(40, 4, 10, 10, generator=generator) * threshold.view(-1, 1, 1) * 0.6
    train = SpikeTrain(signed=False, bits=bits)
    for now in spikes:
        train.append(now)
    found, kept = calibrate.causal(
        layer, train, None, target, 12, calibrate.Settings(rows=12, sample=10**6)
    )
    fired = torch.stack([kept[t] for t in range(12)])
    rate = fired.float().mean((0, 1, 3, 4))
    assert torch.allclose(rate, target.mean((0, 2, 3)) / threshold, atol=0.01)
    assert found.bias.shape == (13, 4) and found.bias.dtype == torch.int32
    membrane = found.membrane(40, 10, 10, 12)
    assert torch.equal(found.run(spikes, None, membrane), fired)


def test_layerwise_totals_are_met_at_every_number_of_timesteps():
    threshold = torch.tensor([100, 250], dtype=torch.int32)
    layer = SpikingConv(
        torch.zeros(2, 1, 1, 1, dtype=torch.int8),
        torch.tensor([[7, -3]], dtype=torch.int32),
        threshold,
        threshold // 2,
    )
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(30, 2, 6, 6, generator=generator) * threshold.view(-1, 1, 1)
    drive = target * 0.8 + 5
    inputs = {steps: drive * steps + threshold.view(-1, 1, 1) / 2 for steps in (1, 4, 8)}
    found = calibrate.layerwise(layer, inputs, target, calibrate.Settings(sample=10**6))
    assert found.bias.shape == (9, 2)
    for steps, accumulated in inputs.items():
        extra = found.bias[:steps].sum(0) - steps * layer.bias[0]
        counts = found.fire(accumulated + extra.view(-1, 1, 1), steps).float()
        assert torch.allclose(
            counts.mean((0, 2, 3)) / steps, target.mean((0, 2, 3)) / threshold, atol=0.03
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"numerics": "int4"},
        {"std": (float("nan"),)},
        {"mean": (float("inf"),)},
        {"seed": -1},
        {"license": ""},
        {"timesteps": 4097, "method": "hu2018", "samples": 1, "parameters": {"steps": 1}},
        {"parameters": {"levels": 0}},
        {"parameters": {"levels": "many"}},
        {"parameters": {"rows": 0}},
        {"parameters": {"iterations": 0, "thresholds": "ltb"}},
        {"parameters": {"thresholds": "percentile", "percentile": -1.0}},
        {"parameters": {"thresholds": "percentile", "percentile": float("nan")}},
        {"method": "hu2018", "parameters": {"percentile": -1.0}},
        {"method": "hu2018", "parameters": {"steps": 0}},
    ],
    ids=str,
)
def test_values_that_cannot_be_used_are_one_line(digits_ann, digits, tmp_path, changes):
    """They are refused by the time the artifact is saved at the latest."""
    options = {"mean": (0.3,), "std": (0.4,), "input_size": 8, "samples": 2, "timesteps": 1}
    with refuses(UsageError):
        convert(digits_ann, digits, **(options | changes)).save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["hu2018", "calibrated"])
def test_images_without_labels_and_none_at_all(digits_ann, tmp_path, method):
    options = {"mean": (0.3,), "std": (0.4,), "input_size": 8, "timesteps": 2, "method": method}
    images = image_set(tmp_path, random_pixels(4, 1, 8), None)
    assert (images.labels == -1).all()
    assert len(convert(digits_ann, images, **options).layers) == 19
    empty = replace(images, labels=images.labels[:0], _rows=images._rows[:0])
    with refuses(UsageError, "at least one image"):
        convert(digits_ann, empty, **options)


def test_hu2018_in_unit_threshold_form(converted, digits_ann):
    """Weights and identities are scaled by lambda_in / lambda_out, biases by 1 / lambda_out."""
    result = converted(method="hu2018", numerics="float32", parameters={"steps": 1})
    layers, params = result.network.layers, digits_ann.params
    scale = {name: layer.threshold[0].item() for name, layer in layers.items()} | {"image": 1.0}
    for spec in result.network.topology.layers:
        layer, out = layers[spec.name], scale[spec.name]
        target = params[f"{spec.name}.weight"] * scale[spec.source] / out
        torch.testing.assert_close(layer.weight / out, target)
        torch.testing.assert_close(layer.bias[0] / out, params[f"{spec.name}.bias"] / out)
        if spec.shortcut is not None:
            inner = layer.gain[spec.shortcut.pad : len(layer.gain) - spec.shortcut.pad] / out
            torch.testing.assert_close(
                inner, torch.full_like(inner, scale[spec.shortcut.source] / out)
            )


def test_hu2018_searches_with_the_anns_predictions_where_labels_are_missing(
    digits_ann, digits, monkeypatch
):
    options = {
        "mean": (0.3053,),
        "std": (0.3763,),
        "input_size": 8,
        "timesteps": 2,
        "method": "hu2018",
    }
    options["parameters"] = {"steps": 2}
    images = digits.take(24, 0)
    image = look_up(
        image_table(options["mean"], options["std"], integer=False),
        next(images.batches(PREP, 24))[0],
    )
    predicted = ann_forward(digits_ann.net, digits_ann.params, image).argmax(1)
    truths = []
    accuracy, build_network = hu2018.accuracy, building.build_network
    # As if no neuron fired at every timestep, which would leave no room to search.
    monkeypatch.setattr(
        building, "build_network", lambda *about: replace(build_network(*about), peak_rate=0.5)
    )
    monkeypatch.setattr(
        hu2018,
        "accuracy",
        lambda built, t, truth: truths.append(truth) or accuracy(built, t, truth),
    )
    wrong = (predicted.numpy() + 3) % 10
    for labels, target in ((np.full(24, -1), predicted), (wrong, torch.from_numpy(wrong))):
        truths.clear()
        convert(digits_ann, replace(images, labels=labels), **options)
        # convert draws them in an order of its own.
        assert [truth.sort().values.tolist() for truth in truths] == [
            target.sort().values.tolist()
        ] * 2


@pytest.mark.parametrize("rule", ["error", "search"])
@pytest.mark.parametrize("late", range(8))
def test_the_read_out_skips_what_comes_too_early(late, rule):
    """Counts are wrong for the first `late` eighths of 16 timesteps and right afterwards."""
    right = torch.eye(3)
    steps = torch.stack([right.roll(1, 1) if t < 2 * late else right for t in range(16)])
    head = Head(torch.eye(3), torch.full((3,), 4.0), torch.zeros(3))
    network = SpikingResNet(tiny_topology("cifar"), {}, head, torch.zeros(1, 256))
    built = Built(network, {}, [], 4 * right, steps.cumsum(0), 1.0)
    assert search_delay(built, rule)[16] == 2 * late
