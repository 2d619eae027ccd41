"""Test images made from BatchNorm statistics, and the conversion that needs no other image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.zoo.spiking_fixtures import files_of, random_model, refuses
from zoo.conversion import synthetic
from zoo.conversion.convert import convert
from zoo.conversion.synthetic import make_images, mismatch
from zoo.errors import UsageError
from zoo.networks.architectures import topology
from zoo.networks.batchnorm import Moments
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ResNet, ann_forward
from zoo.pretrained.checkpoint import Checkpoint, read_checkpoint

PREP = Preprocess((1, 8, 8))
MEAN, STD = (0.3055,), (0.3759,)
OPTIONS = {"mean": MEAN, "std": STD, "images": 32, "steps": 12, "rate": 0.1, "seed": 0}


def pixels_of(checkpoint: Checkpoint, **changes):
    made = make_images(checkpoint, PREP.input_size, **(OPTIONS | changes))
    return made.batch(slice(None), PREP)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - MEAN[0]) / STD[0]


def recorded(folder, **form) -> tuple[Checkpoint, torch.Tensor]:
    """Return a random network whose BatchNorm has recorded exactly one batch, and that batch."""
    model = random_model(topology(**form)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data[::2] *= -1
    side = 64 if model.topology.layers[0].max_pool else 16
    image = torch.randn(
        64, model.topology.in_channels, side, side, generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        model(image)
    state = model.state_dict()
    # A convolution with a bias of its own in front of BatchNorm, which takes it out again.
    state["layer1.0.conv1.bias"] = torch.randn(len(state["layer1.0.bn1.weight"]))
    state["layer1.0.bn1.running_mean"] += state["layer1.0.conv1.bias"]
    save_file(state, folder / "net.safetensors")
    return read_checkpoint(folder / "net.safetensors", form["arch"]), image


@pytest.mark.parametrize(
    "form",
    [
        {"arch": "resnet20"},
        {"arch": "resnet20", "shortcut": "B", "in_channels": 1},
        {"arch": "resnet18", "num_classes": 3},
    ],
    ids=["A", "B", "imagenet"],
)
def test_what_was_recorded_is_what_the_folded_network_delivers(tmp_path, form):
    checkpoint, image = recorded(tmp_path, **form)
    seen = {}
    with torch.inference_mode():
        ann_forward(
            checkpoint.net,
            checkpoint.params,
            image,
            on_output=lambda name, z: seen.setdefault(name, z),
        )
        assert mismatch(checkpoint.net, checkpoint.params, checkpoint.moments, image) < 1e-3
        for change in (
            lambda m: Moments(m.mean + m.std, m.std),
            lambda m: Moments(m.mean, 2 * m.std),
        ):
            other = {name: change(m) for name, m in checkpoint.moments.items()}
            # One deviation off in the mean is 1; twice the deviation is (1 - 1/2)^2.
            target = 1 if other["conv1"].std.equal(checkpoint.moments["conv1"].std) else 0.25
            assert mismatch(
                checkpoint.net, checkpoint.params, other, image
            ).item() == pytest.approx(target, rel=0.05)
    projections = sum(
        layer.shortcut is not None and layer.shortcut.kind == "projection"
        for layer in checkpoint.net.layers
    )
    assert (
        seen.keys() == checkpoint.moments.keys()
        and len(seen) == len(checkpoint.net.layers) + projections
    )
    for name, z in seen.items():
        std, mean = torch.std_mean(z, (0, 2, 3))
        torch.testing.assert_close(mean, checkpoint.moments[name].mean, atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(std, checkpoint.moments[name].std, atol=2e-2, rtol=2e-2)


def test_made_images_match_far_better_than_the_noise_they_were(digits_ann, digits):
    def distance(pixels):
        with torch.inference_mode():
            return mismatch(
                digits_ann.net, digits_ann.params, digits_ann.moments, normalised(pixels)
            ).item()

    noise, made = distance(pixels_of(digits_ann, steps=0)), distance(pixels_of(digits_ann))
    real = distance(digits.take(360, 0).batch(slice(None), PREP))
    assert real < made < 0.25 * noise, (real, made, noise)


def test_the_seed_alone_decides_and_progress_is_whole(digits_ann):
    seen = []
    first = make_images(
        digits_ann,
        PREP.input_size,
        **OPTIONS,
        progress=lambda done, total: seen.append((done, total)),
    )
    again, other = (
        make_images(digits_ann, PREP.input_size, **(OPTIONS | {"seed": seed})) for seed in (0, 1)
    )
    assert first.sha256() == again.sha256() != other.sha256()
    assert seen == [(step, 12) for step in range(1, 13)]
    assert (
        len(first) == 32
        and first.size() == PREP.input_size
        and (first.labels == -1).all()
        and first.class_names is None
    )
    assert (
        first.description
        == "32 images of 8x8x1 made from BatchNorm statistics in 12 steps with seed 0"
    )


def test_many_images_are_made_in_batches_of_bounded_size(digits_ann, monkeypatch):
    monkeypatch.setattr(synthetic, "_PIXELS", 20 * 64)
    batches, seen = [], []
    matched = synthetic._matched
    monkeypatch.setattr(
        synthetic, "_matched", lambda *about: batches.append(len(about[2])) or matched(*about)
    )
    made = make_images(
        digits_ann,
        PREP.input_size,
        **(OPTIONS | {"images": 50, "steps": 2}),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert batches == [17, 17, 16] and len(made) == 50
    assert seen == [(step, 6) for step in range(1, 7)]
    monkeypatch.setattr(synthetic, "_PIXELS", 1)
    batches.clear()
    make_images(digits_ann, PREP.input_size, **(OPTIONS | {"images": 32, "steps": 0}))
    assert batches == [16, 16]


def test_pink_noise_falls_with_the_frequency_and_is_nearly_grey():
    noise = synthetic.pink_noise(64, (3, 32, 32), torch.Generator().manual_seed(0))
    power = torch.fft.fft2(noise - noise.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    # Amplitude 1 / frequency: twice the frequency has a quarter of the power.
    assert power[0, 4] / power[0, 8] == pytest.approx(4, rel=0.3)
    colours = noise.permute(1, 0, 2, 3).flatten(1)
    assert torch.corrcoef(colours)[0, 1] > 0.5
    assert ((noise > 0) & (noise < 1)).float().mean() > 0.9


def test_a_checkpoint_without_statistics_is_refused(digits_ann, tmp_path):
    folded = {name: value for name, value in digits_ann.params.items() if ".shortcut." not in name}
    save_file(folded, tmp_path / "folded.safetensors")
    fresh = ResNet(topology("resnet20", in_channels=1)).state_dict()
    save_file(fresh, tmp_path / "fresh.safetensors")
    for name in ("folded", "fresh"):
        checkpoint = read_checkpoint(tmp_path / f"{name}.safetensors", "resnet20")
        assert checkpoint.moments is None
        with refuses(UsageError, f"{name}.safetensors has no BatchNorm statistics.*`images`"):
            convert(checkpoint, None, method="data-free", mean=MEAN, std=STD, input_size=8)
    with refuses(UsageError, "no BatchNorm statistics to take thresholds from"):
        convert(
            replace(digits_ann, moments=None),
            pixels_set(digits_ann),
            mean=MEAN,
            std=STD,
            input_size=8,
            parameters={"thresholds": "moments"},
        )


def test_images_that_cannot_be_made_are_one_line(digits_ann):
    with refuses(
        UsageError, "no images of 1x1 match the statistics of digits.safetensors at rate 0.1"
    ):
        make_images(digits_ann, (1, 1, 1), **OPTIONS)


def pixels_set(checkpoint: Checkpoint):
    return make_images(checkpoint, PREP.input_size, **(OPTIONS | {"steps": 0, "images": 8}))


def test_images_where_none_are_wanted_and_none_where_some_are(digits_ann, digits):
    with refuses(UsageError, "leave `images` out"):
        convert(digits_ann, digits, method="data-free")
    for method in ("calibrated", "hu2018"):
        with refuses(UsageError, f"`method={method}` calibrates on images"):
            convert(digits_ann, None, method=method)


def test_quantised_activations_pass_the_gradient(digits_ann):
    """Rounding has none of its own; the images of a network trained with levels match too."""
    thresholds = {
        f"{layer.name}.threshold": torch.full((layer.out_channels,), 4.0)
        for layer in digits_ann.net.layers
    }
    levels = replace(
        digits_ann, params={**digits_ann.params, **thresholds, "levels": torch.tensor([8.0])}
    )

    def distance(pixels):
        with torch.inference_mode():
            return mismatch(levels.net, levels.params, levels.moments, normalised(pixels)).item()

    assert distance(pixels_of(levels)) < 0.5 * distance(pixels_of(levels, steps=0))
    made = convert(
        levels,
        None,
        method="data-free",
        mean=MEAN,
        std=STD,
        input_size=8,
        timesteps=2,
        samples=8,
        parameters={"steps": 1, "rows": 2},
    )
    assert made.config.method.parameters["thresholds"] == "learnt"


FEW = {"steps": 12, "rows": 16}


def test_a_network_converted_without_data_predicts_as_its_ann(digits_ann, digits_test, tmp_path):
    options = {
        "method": "data-free",
        "mean": MEAN,
        "std": STD,
        "input_size": 8,
        "timesteps": 16,
        "samples": 64,
    }
    made = convert(digits_ann, None, **options, parameters=FEW)
    config = made.save(tmp_path / "a")
    used = config.calibration
    assert (config.method.name, used.images, used.dataset, config.class_names) == (
        "data-free",
        64,
        None,
        None,
    )
    assert (
        used.description
        == "64 images of 8x8x1 made from BatchNorm statistics in 12 steps with seed 0"
    )
    assert config.method.parameters["images"] == 64 and config.method.parameters["steps"] == 12
    convert(digits_ann, None, **options, parameters=FEW).save(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")

    pixels = digits_test.batch(slice(None), PREP)
    with torch.inference_mode():
        target = ann_forward(digits_ann.net, digits_ann.params, normalised(pixels)).argmax(1)
    logits = made.network.run(pixels, 16).logits[15]
    assert (logits.argmax(1) == target).float().mean() > 0.9


def test_made_images_serve_as_any_other(digits_ann):
    """The same weights as a calibrated conversion on the images that data-free makes."""
    options = {"mean": MEAN, "std": STD, "input_size": 8, "timesteps": 2, "samples": 16}
    free = convert(
        digits_ann, None, method="data-free", **options, parameters={"steps": 2, "rows": 2}
    )
    images = make_images(digits_ann, PREP.input_size, **(OPTIONS | {"images": 16, "steps": 2}))
    calibrated = convert(digits_ann, images, **options, parameters={"rows": 2})
    assert free.config.calibration.sha256 == calibrated.config.calibration.sha256
    for name, layer in free.network.layers.items():
        assert torch.equal(layer.weight, calibrated.network.layers[name].weight)
        assert torch.equal(layer.bias, calibrated.network.layers[name].bias)


def test_what_moments_say_needs_no_images(digits_ann, monkeypatch):
    """Thresholds alone: other images change what is rounded, never a threshold."""
    options = {
        "method": "data-free",
        "mean": MEAN,
        "std": STD,
        "input_size": 8,
        "timesteps": 2,
        "samples": 8,
    }
    options["numerics"] = "float32"
    parameters = {"steps": 1, "thresholds": "moments", "bias": "ann", "delay": "none"}
    one, two = (
        convert(digits_ann, None, **options, seed=seed, parameters=parameters).network
        for seed in (0, 1)
    )
    for name, layer in one.layers.items():
        assert torch.equal(layer.threshold, two.layers[name].threshold)
        assert torch.equal(layer.bias, two.layers[name].bias) and torch.equal(
            layer.weight, two.layers[name].weight
        )
    assert one.delay == {}
