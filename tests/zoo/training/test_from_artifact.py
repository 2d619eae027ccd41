"""Training on from an artifact: the ANN it still holds.

BatchNorm put back, and what the log says of it.
"""

from __future__ import annotations

import pytest
import torch

from tests.zoo.spiking_fixtures import random_model, random_pixels, refuses
from zoo.artifact.folder import read_artifact
from zoo.conversion.convert import convert
from zoo.errors import NotFoundError, UsageError
from zoo.models import registry
from zoo.networks.architectures import topology
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.pretrained.checkpoint import read_checkpoint
from zoo.render import card
from zoo.training import from_artifact, run
from zoo.training.trainer import save_checkpoint

DIGITS = "s-resnet20-digits"
PREP = Preprocess((1, 8, 8))


@pytest.mark.parametrize(
    "how",
    [{}, {"neuron": "multi-level"}, {"numerics": "float32"}, {"schedule": "layerwise"}],
    ids=str,
)
def test_the_ann_of_an_artifact(converted, digits_ann, digits_test, tmp_path, how):
    made = converted(parameters={"bias": "ann"}, **how)
    made.save(tmp_path / "net")
    config, tensors = read_artifact(tmp_path / "net")
    found = from_artifact.ann_params(config, tensors)
    for name, value in digits_ann.params.items():
        # int8 rounds to 1/254 of a channel's largest weight; errors make up for each other.
        near = 1e-5 if config.numerics == "float32" else 0.05
        assert (found[name] - value).norm() <= near * value.norm() + near, name
    for spec in digits_ann.net.layers:
        layer = made.network.layers[spec.name]
        assert torch.equal(
            found[f"{spec.name}.threshold"],
            layer.threshold * made.scales[spec.name] * layer.max_level,
        )
    pixels, _ = next(digits_test.batches(PREP, 360))
    image = look_up(
        image_table(config.preprocess.mean, config.preprocess.std, integer=False), pixels
    )
    same = ann_forward(digits_ann.net, found, image).argmax(1) == ann_forward(
        digits_ann.net, digits_ann.params, image
    ).argmax(1)
    assert same.float().mean() > 0.98


@pytest.mark.parametrize("levels", [0, 8])
@pytest.mark.parametrize(
    ("arch", "shortcut"), [("resnet20", "A"), ("resnet20", "B"), ("resnet18", None)]
)
def test_batchnorm_put_back_computes_what_was_folded(tmp_path, arch, shortcut, levels):
    side = 32 if arch == "resnet18" else 8
    net = topology(arch, num_classes=5, shortcut=shortcut)
    save_checkpoint(random_model(net).state_dict(), tmp_path / "net.safetensors")
    params = dict(read_checkpoint(tmp_path / "net.safetensors", arch, shortcut=shortcut).params)
    params |= {f"{spec.name}.threshold": torch.rand(spec.out_channels) + 1 for spec in net.layers}
    image = look_up(image_table((0.5,) * 3, (0.25,) * 3, integer=False), random_pixels(16, 3, side))
    model = from_artifact.trainable(net, params, image, levels)
    wanted = params | ({"levels": torch.tensor([float(levels)])} if levels else {})
    other = look_up(
        image_table((0.5,) * 3, (0.25,) * 3, integer=False), random_pixels(4, 3, side, seed=1)
    )
    with torch.no_grad():
        # Of a quantised network a value may lie on the edge between two levels.
        assert (
            torch.isclose(model(other), ann_forward(net, wanted, other), rtol=1e-3, atol=1e-3)
            .float()
            .mean()
            > 0.9
        )
        # Trained on, it starts from batches that look as the running statistics say.
        model.train()
        assert (
            torch.isclose(model(image), ann_forward(net, wanted, image), rtol=1e-2, atol=1e-2)
            .float()
            .mean()
            > 0.9
        )


def test_a_training_begins_from_a_model_of_the_zoo(tmp_path):
    settings = {
        "epochs": 1,
        "batch_size": 500,
        "peak_rate": 0.001,
        "precision": "float32",
        "levels": 8,
    }
    found = run.train("resnet32", "digits", tmp_path / "a", start=DIGITS, **settings)
    assert found["began"] == DIGITS and found["top1"] > 90
    facts = read_checkpoint(tmp_path / "a" / "resnet32.safetensors", "resnet32").training
    assert (facts.arch, facts.began, facts.start.arch, facts.start.began) == (
        "resnet32",
        DIGITS,
        "resnet20",
        None,
    )
    assert facts.start == registry.entry(
        registry.resolve(DIGITS)
    ).config.source.training.model_copy(update={"arch": "resnet20"})
    again = run.train(
        "resnet44",
        "digits",
        tmp_path / "b",
        start=tmp_path / "a" / "resnet32.safetensors",
        **settings,
    )
    assert again["began"] is None
    checkpoint = read_checkpoint(tmp_path / "b" / "resnet44.safetensors", "resnet44")
    assert (checkpoint.training.start.began, checkpoint.training.start.start.arch) == (
        DIGITS,
        "resnet20",
    )
    from zoo.data.open import open_images

    made = convert(
        checkpoint, open_images("digits", "train"), samples=16, timesteps=4, parameters={"rows": 2}
    )
    lines = card.train_commands(made.save(tmp_path / "c"))
    assert (
        len(lines) == 2
        and lines[0].startswith("zoo train resnet32 ")
        and f"--start {DIGITS} --out stage1" in lines[0]
    )
    assert "--start stage1/resnet32.safetensors --out ." in lines[1]


def test_weights_whose_training_nobody_recorded_are_named_by_what_follows(digits_file, tmp_path):
    from zoo.data.open import open_images

    settings = {"epochs": 1, "batch_size": 500, "precision": "float32"}
    images, made = open_images("digits", "train"), {"samples": 16, "timesteps": 4}
    public = read_checkpoint(digits_file, "resnet20")
    assert public.training is None
    geometry = {"mean": run.DIGITS_MEAN, "std": run.DIGITS_STD, "input_size": 8}
    convert(public, images, **made, **geometry).save(tmp_path / "public")
    begun = run.train("resnet20", "digits", tmp_path / "a", start=tmp_path / "public", **settings)
    assert (begun["start"], begun["began"]) == (None, "public")
    checkpoint = read_checkpoint(tmp_path / "a" / "resnet20.safetensors", "resnet20")
    config = convert(checkpoint, images, **made).save(tmp_path / "c")
    assert config.source.training.began == "public" and config.source.training.start is None
    (line,) = card.train_commands(config)
    assert line.endswith("--start public --out .")


def test_what_cannot_be_begun_from(tmp_path):
    with refuses(UsageError, "of another mean or std"):
        run.train("resnet20", "digits", tmp_path / "a", start="s-resnet20")
    with refuses(UsageError, "`start` does not fit"):
        run.train("resnet20", "digits", tmp_path / "a", start=DIGITS, shortcut="B")
    with refuses(NotFoundError, "neither a folder"):
        run.train("resnet20", "digits", tmp_path / "a", start="s-resnet21")
    assert not list(tmp_path.iterdir())
