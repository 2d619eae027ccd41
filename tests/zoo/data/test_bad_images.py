"""Images that cannot be decoded stop an evaluation, or are left out, counted and named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import zoo
from tests.zoo.image_fixtures import CIFAR, encoded, random_images, refused, write_parquet
from tests.zoo.spiking_fixtures import QUICK, random_model, refuses
from zoo.conversion.convert import convert
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.errors import IntegrityError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.pretrained.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[3]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Forty digits in folders by class, and three files that are none."""
    images = open_images("digits", "test").take(40, None)
    pixels = images.batch(slice(None), Preprocess((1, 8, 8))).numpy()[:, 0]
    root = tmp_path / "my digits"
    for number, (image, label) in enumerate(zip(pixels, images.labels, strict=True)):
        path = root / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (root / "0" / "bad.png").write_bytes(encoded(random_images(1)[0])[:60])
    (root / "3" / "page.png").write_text("<!DOCTYPE html>")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(root / "7" / "deep.png")
    return root


def test_an_evaluation_leaves_out_what_cannot_be_decoded_and_says_so(digits):
    with refuses(IntegrityError, 'or leave such images out with `on_bad_image="skip"`'):
        zoo.evaluate("s-resnet20-digits", digits, [2], batch_size=50)
    found = zoo.evaluate("s-resnet20-digits", digits, [2], on_bad_image="skip")
    assert found.data.images == 40 == sum(row.images for row in found.classes)
    assert "43 images, 10 classes; 3 of 43 images skipped, 40 left (" in found.data.description
    assert "bad.png is cut" in found.data.description
    assert "deep.png has more than 8 bits per channel" in found.data.description
    assert str(digits) not in found.data.description
    assert found.data.description.endswith("; labels by name")
    for name in ("0/bad.png", "3/page.png", "7/deep.png"):
        (digits / name).unlink()
    whole = zoo.evaluate("s-resnet20-digits", digits, [2])
    assert whole.rows[0].top1 == found.rows[0].top1 and whole.data.sha256 == found.data.sha256
    with refuses(UsageError, "unknown on_bad_image 'ignore': use stop or skip"):
        zoo.evaluate("s-resnet20-digits", digits, [2], on_bad_image="ignore")  # type: ignore[arg-type]


def test_the_command_says_it(digits):
    words = ["eval", "s-resnet20-digits", "--data", digits, "--timesteps", "1", "--no-layers"]
    for more, code, said in (
        ([], 5, "or leave such images out with --on-bad-image skip"),
        (["--on-bad-image", "skip"], 0, "labels: by name"),
    ):
        command = [sys.executable, "-m", "zoo", *map(str, words), *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code and said in done.stderr, done.stderr
    assert "3 of 43 images skipped, 40 left (" in done.stdout


def test_a_conversion_draws_another_image_and_says_so(digits, tmp_path):
    net = topology("resnet20", num_classes=10, in_channels=1)
    torch.save(random_model(net).state_dict(), tmp_path / "net.pth")
    checkpoint = read_checkpoint(tmp_path / "net.pth", "resnet20")
    how = {**QUICK, "samples": 16, "method": "hu2018", "parameters": {"steps": 1}}
    images = open_images(digits, "train")
    seeds = [seed for seed in range(9) if images.take(16, seed).unreadable(0, 16)]
    with refuses(IntegrityError, 'or leave such images out with `on_bad_image="skip"`'):
        convert(checkpoint, images, seed=seeds[0], **how)
    found = convert(checkpoint, images, seed=seeds[0], on_bad_image="skip", **how)
    calibration = found.config.calibration
    bad = len(images.take(16, seeds[0]).unreadable(0, 16))
    said = f"{bad} of {16 + bad} images skipped, 16 left ("
    assert calibration.images == 16 and said in calibration.description
    assert any(text.startswith(f"{digits}: {said}") for text in found.assumed)
    assert found.config.method.parameters["images"] == 16
    # Where none of the draw is damaged the artifact is that of "stop".
    sound = next(seed for seed in range(99) if not images.take(4, seed).unreadable(0, 4))
    both = [
        convert(checkpoint, images, seed=sound, on_bad_image=rule, **how | {"samples": 4})
        for rule in ("stop", "skip")
    ]
    assert both[0].config == both[1].config
    assert "skipped" not in both[1].config.calibration.description
    with refuses(UsageError, "unknown on_bad_image 'ignore': use stop or skip"):
        convert(checkpoint, images, on_bad_image="ignore", **how)


@given(st.sets(st.integers(0, 11)), st.integers(1, 14), st.integers(0, 3))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_as_many_sound_images_as_are_needed(tmp_path_factory, bad, count, seed):
    root = tmp_path_factory.mktemp("cells")
    cells = [b"broken" if i in bad else cell for i, cell in enumerate(random_images(12))]
    images = open_images(write_parquet(root / "a.parquet", cells, range(12)), "train")
    if len(bad) == 12:
        with refuses(UsageError, "none of its 12 images can be decoded"):
            images.decodable(count, seed)
        return
    found, said = images.decodable(count, seed)
    order = images.take(12, seed).labels.tolist()
    tried = [i for i in order if i not in bad][:count]
    assert found.take(count, seed).unreadable(0, min(count, len(found))) == {}
    if said is None:
        assert found is images and not bad & set(order[:count])
    else:
        assert found.labels.tolist() == tried and "images skipped" in found.description


def test_an_image_too_large_to_decode_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    Image.new("1", (200, 200)).save(tmp_path / "a" / "big.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(IntegrityError, "has 40000 pixels, more than the 200 that are decoded", tmp_path)
    with pytest.raises(IntegrityError) as caught:
        open_images(tmp_path, "test").batch([0], CIFAR)
    assert "cut" not in str(caught.value) and str(caught.value).endswith(": save it smaller")


def test_a_page_in_place_of_an_image_is_named_as_such(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_text("<html>")
    refused(IntegrityError, "its bytes are of no image format that Pillow reads", tmp_path)
    with pytest.raises(IntegrityError) as caught:
        open_images(tmp_path, "test").batch([0], CIFAR)
    assert "BytesIO" not in str(caught.value)


def parquet(tmp_path: Path) -> ImageSet:
    cells = [*random_images(3), b"broken", *random_images(1), None]
    return open_images(write_parquet(tmp_path / "a.parquet", cells, range(6)), "test")


def folder(tmp_path: Path) -> ImageSet:
    for number, cell in enumerate([*map(encoded, random_images(3)), b"broken", b"png", b"gone"]):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "x.png").write_bytes(cell)
    (tmp_path / "4" / "x.png").write_bytes(encoded(random_images(1)[0]))
    images = open_images(tmp_path, "test")
    (tmp_path / "5" / "x.png").unlink()
    return images


@pytest.mark.parametrize("make", [parquet, folder])
def test_bad_images_by_index(tmp_path, make):
    images = make(tmp_path)
    steps: list[tuple[str, int, int]] = []
    bad = images.unreadable(0, 6, lambda *step: steps.append(step))
    assert sorted(bad) == [3, 5] and steps == [("trying images", 6, 6)]
    assert not any(str(tmp_path) in why for why in bad.values())
    assert images.unreadable(4, 6).keys() == {5} and images.unreadable(0, 3) == {}
    rest = images.without(bad)
    assert rest.labels.tolist() == [0, 1, 2, 4] and len(rest.batch(slice(None), CIFAR)) == 4
    assert "; 2 of 6 images skipped, 4 left (" in rest.description
    assert images.without({}) is images
    with refuses(UsageError, "none of its 6 images can be decoded"):
        images.without(dict.fromkeys(range(6), "broken"))
    np.savez(tmp_path / "a.npz", x=random_images(2), y=[0, 1])
    assert open_images(tmp_path / "a.npz", "test").unreadable(0, 2) == {}
