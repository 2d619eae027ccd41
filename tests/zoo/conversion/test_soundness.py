"""A conversion notices pixels that its ANN was not trained on, and says what it assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import zoo
from tests.zoo.spiking_fixtures import QUICK
from zoo.cli import app
from zoo.conversion.convert import convert
from zoo.conversion.inputs import normalisation
from zoo.conversion.soundness import ann_accuracy, poor_accuracy, stem_distance
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.pretrained.checkpoint import Checkpoint, read_checkpoint
from zoo.training.run import DIGITS_MEAN, DIGITS_STD

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
HALF = ((0.5,) * 3, (0.5,) * 3)
PLAIN = ((0.0,) * 3, (1.0,) * 3)
BYTES = ((0.0,) * 3, (1 / 255,) * 3)
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))

COLOUR = Checkpoint(topology("resnet20"), {}, "colour.pth", "0" * 64)


def retrained(checkpoint, mean, std):
    """The same function of the pixels, as training under another normalisation would give it.

    Only the stem knows of the normalisation; zero padding differs, at the border alone.
    """
    before, scale = (torch.tensor(values).double() for values in IMAGENET)
    center, spread = torch.tensor(mean).double(), torch.tensor(std).double()
    weight = checkpoint.params["conv1.weight"].double()
    # W ((x - m0) / s0) = W' ((x - m1) / s1) + W (m1 - m0) / s0, with W' = W s1 / s0.
    moved = (weight.sum((2, 3)) * ((center - before) / scale)).sum(1)
    params = checkpoint.params | {
        "conv1.weight": (weight * (spread / scale)[None, :, None, None]).float(),
        "conv1.bias": (checkpoint.params["conv1.bias"].double() + moved).float(),
    }
    return replace(checkpoint, params=params)


def read(shared, name, arch, data, count):
    path = next((shared / "data/checkpoints").glob(f"{name}*"))
    images = open_images(str(shared / "data" / data), "train").take(count, 3)
    return read_checkpoint(path, arch), images


PUBLIC = [
    ("resnet20", "resnet20", "cifar10"),
    ("resnet56", "resnet56", "cifar10"),
    ("cifar100_resnet56", "resnet56", "cifar100"),
]


@pytest.mark.parametrize("count", [32, 200])
@pytest.mark.parametrize(("name", "arch", "data"), PUBLIC)
def test_right_and_wrong_normalisations_are_told_apart(shared, name, arch, data, count):
    checkpoint, images = read(shared, name, arch, data, count)
    pixels = images.batch(slice(None), Preprocess((3, 32, 32)))
    for trained in (IMAGENET, HALF, PLAIN, CIFAR):
        network = retrained(checkpoint, *trained)
        for given in (IMAGENET, HALF, PLAIN, BYTES, CIFAR):
            near = trained is given or {id(trained), id(given)} == {id(IMAGENET), id(CIFAR)}
            distance = stem_distance(network, pixels, *given)
            assert (distance < 0.45) == near, (trained, given, distance)


@pytest.mark.parametrize(
    ("trained", "given", "named"),
    [
        (IMAGENET, HALF, "`mean=0.485,0.456,0.406` `std=0.229,0.224,0.225`"),
        (PLAIN, IMAGENET, "`mean=0,0,0` `std=1,1,1`"),
        (HALF, PLAIN, "`mean=0.5,0.5,0.5` `std=0.5,0.5,0.5`"),
        (BYTES, IMAGENET, "`mean=0,0,0` `std=0.003922,0.003922,0.003922`"),
        (((0.2,) * 3, (0.02,) * 3), IMAGENET, "no usual one fits"),
    ],
)
def test_a_wrong_normalisation_is_named_and_the_likely_one(shared, trained, given, named):
    checkpoint, images = read(shared, "resnet20", "resnet20", "cifar10", 32)
    made = convert(
        retrained(checkpoint, *trained),
        images,
        mean=given[0],
        std=given[1],
        timesteps=4,
        parameters={"rows": 2},
    )
    assert named in made.warnings[0]
    assert made.assumed == ()


def test_a_right_normalisation_is_not_warned_of(shared):
    checkpoint, images = read(shared, "resnet20", "resnet20", "cifar10", 32)
    made = convert(checkpoint, images, timesteps=4, parameters={"rows": 2})
    assert made.warnings == ()
    assert made.ann_accuracy > 0.9
    assert "0.485,0.456,0.406" in made.assumed[0] and "0.229,0.224,0.225" in made.assumed[0]


def test_one_channel(digits_ann, digits):
    pixels = digits.take(200, 0).batch(slice(None), Preprocess((1, 8, 8)))
    assert stem_distance(digits_ann, pixels, DIGITS_MEAN, DIGITS_STD) < 0.45
    assert stem_distance(digits_ann, pixels, (0.0,), (1 / 255,)) > 0.45
    assert stem_distance(replace(digits_ann, moments=None), pixels, (0.0,), (1.0,)) is None
    made = convert(digits_ann, digits, **(QUICK | {"mean": (0.0,), "std": (1 / 255,)}))
    assert any("BatchNorm recorded" in text for text in made.warnings)


def test_wrong_labels_show_in_the_accuracy(digits_ann, digits):
    shifted = replace(digits, labels=(digits.labels + 1) % 10)
    made = convert(digits_ann, shifted, **QUICK)
    assert made.ann_accuracy < 0.3 and "the ANN itself is right on only" in made.warnings[-1]
    sound = convert(digits_ann, digits, **QUICK)
    assert sound.ann_accuracy > 0.8 and sound.warnings == ()


def test_data_free_is_not_compared_with_its_own_images(digits_ann):
    made = convert(
        digits_ann,
        None,
        method="data-free",
        mean=(0.0,),
        std=(1 / 255,),
        input_size=8,
        samples=16,
        timesteps=4,
        parameters={"rows": 2, "steps": 2},
    )
    assert made.warnings == () and made.ann_accuracy is None


def test_accuracy_counts_labelled_images_alone():
    logits = torch.eye(4)
    assert ann_accuracy(logits, torch.tensor([0, 1, -1, 0])) == pytest.approx(2 / 3)
    assert ann_accuracy(logits, torch.full((4,), -1)) is None
    labels = torch.arange(16)
    assert poor_accuracy(0.49, labels) is not None
    assert poor_accuracy(0.5, labels) is None
    assert poor_accuracy(0.0, labels[:15]) is None
    assert poor_accuracy(None, labels - 99) is None


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "`mean` has 123.675"),
        ((123.675, 116.28, 103.53), (1.0, 1.0, 1.0), "`mean` has 123.675"),
        ((0.5, 0.5, 0.5), (127.5, 127.5, 127.5), "`std` has 127.5"),
        ((0.5, 0.5, 1.01), (0.5, 0.5, 0.5), "`mean` has 1.01"),
        ((0.5, -0.5, 0.5), (0.5, 0.5, 0.5), "not -0.5"),
    ],
)
def test_values_for_other_pixels_are_refused(mean, std, said):
    with pytest.raises(UsageError) as caught:
        normalisation(COLOUR, mean, std)
    assert said in str(caught.value)


def test_the_division_is_done_for_the_user():
    with pytest.raises(UsageError, match=r"`mean=0\.485,0\.456,0\.406` `std=0\.229,0\.224,0\.225`"):
        normalisation(COLOUR, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_python_warns(digits_ann, digits):
    with pytest.warns(UserWarning, match="BatchNorm recorded"):
        zoo.convert(digits_ann, digits, **(QUICK | {"mean": (0.0,), "std": (1 / 255,)}))


def test_the_command_says_it_in_options(shared, tmp_path):
    source = next((shared / "data/checkpoints").glob("resnet20*"))
    command = ["convert", str(source), "--arch", "resnet20", "--samples", "24", "--timesteps", "4"]
    command += ["--calib", str(shared / "data/cifar10"), "--parameter", "rows=2"]
    half = CliRunner().invoke(
        app,
        [*command, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--out", str(tmp_path / "a")],
    )
    assert half.exit_code == 0 and "--mean 0.485,0.456,0.406" in " ".join(half.stderr.split())
    plain = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "b")])
    assert "assumed; give --mean and --std" in " ".join(plain.stderr.split())
    assert "the ANN is right on" in plain.stdout
