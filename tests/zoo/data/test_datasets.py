"""Named data sets are recognised in any order and any file form, and only whole."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zoo.data import datasets
from zoo.data.open import open_images
from zoo.networks.preprocess import Preprocess


@pytest.fixture(scope="module")
def digits():
    images = open_images("digits", "test")
    pixels = images.batch(slice(None), Preprocess((1, 8, 8))).permute(0, 2, 3, 1).numpy()
    return pixels, images.labels


def save(path, pixels, labels):
    np.savez(path, x=pixels, y=labels)
    return open_images(path, "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_digits(split):
    assert datasets.identify(open_images("digits", split)) == "digits"


def test_order_and_form_do_not_matter(digits, tmp_path):
    pixels, labels = digits
    order = np.random.default_rng(1).permutation(len(labels))
    assert datasets.identify(save(tmp_path / "a.npz", pixels[order], labels[order])) == "digits"
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (tmp_path / "folder" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "folder" / str(label) / f"{index}.png")
    assert datasets.identify(open_images(tmp_path / "folder", "test")) == "digits"


def test_one_pixel_or_label_or_image_less_is_something_else(digits, tmp_path):
    pixels, labels = digits
    other = pixels.copy()
    other[7, 3, 3, 0] ^= 1
    assert datasets.identify(save(tmp_path / "b.npz", other, labels)) is None
    wrong = labels.copy()
    wrong[[0, 1]] = (wrong[[0, 1]] + 1) % 10
    assert datasets.identify(save(tmp_path / "c.npz", pixels, wrong)) is None
    assert datasets.identify(save(tmp_path / "d.npz", pixels[:-1], labels[:-1])) is None
    assert datasets.identify(open_images("digits", "test").take(359, 0)) is None


def test_images_of_different_sizes_have_no_name(digits, tmp_path):
    pixels, labels = digits
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image[: 8 - index % 2, :, 0]).save(tmp_path / str(label) / f"{index}.png")
    assert datasets.identify(open_images(tmp_path, "test")) is None


@pytest.mark.parametrize(
    ("name", "split"), [("cifar10", "train"), ("cifar10", "test"), ("cifar100", "test")]
)
def test_shared_images_are_the_published_ones(shared, name, split):
    assert datasets.identify(open_images(shared / "data" / name, split)) == name
