"""Every image set, whatever its form, is sampled, preprocessed and hashed as documented.

Unusable ones are refused.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.zoo.image_fixtures import (
    CIFAR,
    EVERYTHING,
    encoded,
    nhwc,
    random_images,
    refused,
    write_parquet,
)
from tests.zoo.spiking_fixtures import refuses
from zoo.data.images import ImageSet
from zoo.data.open import FORMS, open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.imagenet import imagenet_classes
from zoo.networks.preprocess import Preprocess, fit_image


def arrays(tmp_path: Path, pixels: np.ndarray) -> ImageSet:
    np.savez(tmp_path / "set.npz", x=pixels, y=np.arange(len(pixels)))
    return open_images(tmp_path / "set.npz", "test")


def files(tmp_path: Path, pixels: np.ndarray) -> ImageSet:
    for i, x in enumerate(pixels):
        (tmp_path / "set" / f"{i:03d}").mkdir(parents=True)
        (tmp_path / "set" / f"{i:03d}" / "x.png").write_bytes(encoded(x))
    return open_images(tmp_path / "set", "test")


def rows(tmp_path: Path, pixels: np.ndarray) -> ImageSet:
    return open_images(write_parquet(tmp_path / "set.parquet", pixels, range(len(pixels))), "test")


kinds = pytest.mark.parametrize("make", [arrays, files, rows])


@kinds
def test_take_is_a_fixed_draw(tmp_path, make):
    pixels = random_images(9)
    images = make(tmp_path, pixels)
    assert images.take(4, None).labels.tolist() == [0, 1, 2, 3]
    drawn = images.take(4, seed=3)
    assert drawn.labels.tolist() == np.random.default_rng(3).permutation(9)[:4].tolist()
    assert np.array_equal(nhwc(drawn), pixels[drawn.labels])
    assert drawn.labels.tolist() == images.take(6, seed=3).labels.tolist()[:4]
    assert drawn.take(2, None).labels.tolist() == drawn.labels.tolist()[:2]
    assert sorted(images.take(100, seed=3).labels) == list(range(9))
    assert images.take(100, None).labels.tolist() == list(range(9))
    assert images.take(100, None).description == images.description
    assert images.take(4, None).description == f"{images.description}; the first 4"
    assert drawn.description == f"{images.description}; 4 drawn with seed 3"
    for n in (0, -1):
        with pytest.raises(UsageError, match="ask for 1 or more"):
            images.take(n, None)


@kinds
def test_batches_cover_the_set_in_order(tmp_path, make):
    pixels = random_images(7)
    images = make(tmp_path, pixels)
    got = list(images.batches(CIFAR, 3))
    assert [len(x) for x, _ in got] == [3, 3, 1]
    assert all(
        x.dtype == torch.uint8 and x.is_contiguous() and y.dtype == torch.int64 for x, y in got
    )
    assert torch.equal(
        torch.cat([x for x, _ in got]), torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    )
    assert torch.cat([y for _, y in got]).tolist() == list(range(7))
    assert images.batch([], CIFAR).shape == (0, 3, 32, 32)
    assert torch.equal(images.batch(np.array([6, 2]), CIFAR), torch.cat([got[2][0], got[0][0][2:]]))
    with pytest.raises(UsageError, match="batch size 0"):
        next(images.batches(CIFAR, 0))


def test_a_batch_may_be_written_to(tmp_path):
    images = arrays(tmp_path, random_images(2, (8, 8, 1)))
    before = images.sha256()
    for x, y in images.batches(Preprocess((1, 8, 8)), 2):
        x.zero_()
        y.zero_()
    assert images.batch(EVERYTHING, Preprocess((1, 8, 8))).any()
    assert images.labels.tolist() == [0, 1]
    assert arrays(tmp_path, random_images(2, (8, 8, 1))).sha256() == before


@kinds
def test_sha256_is_over_content_then_labels(tmp_path, make):
    pixels = random_images(5)
    images = make(tmp_path, pixels)
    content = pixels.tobytes() if make is arrays else b"".join(map(encoded, pixels))
    assert (
        images.sha256() == hashlib.sha256(content + np.arange(5, dtype="<i8").tobytes()).hexdigest()
    )
    assert (
        len({images.sha256(), images.take(4, None).sha256(), images.take(5, seed=0).sha256()}) == 3
    )


# Preprocessing


@kinds
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_then_centre_crop(tmp_path, make, interpolation):
    pixels = random_images(2, (50, 75, 3))
    prep = Preprocess((3, 29, 30), resize=40, interpolation=interpolation)
    method = getattr(Image.Resampling, interpolation.upper())
    # 50 x 75 becomes 40 x 60; the crop of 29 x 30 starts at row round(5.5) = 6, column 15.
    expected = [
        np.asarray(Image.fromarray(x).resize((60, 40), method))[6:35, 15:45] for x in pixels
    ]
    assert np.array_equal(nhwc(make(tmp_path, pixels), prep), expected)


def test_resize_portrait_and_grey(tmp_path):
    pixels = random_images(1, (75, 50, 1))
    images = arrays(tmp_path, pixels)
    grey = Image.fromarray(pixels[0, ..., 0]).resize((40, 60), Image.Resampling.BILINEAR)
    assert np.array_equal(
        nhwc(images, Preprocess((1, 40, 40), resize=40))[0, ..., 0], np.asarray(grey)[10:50]
    )
    colour = nhwc(images, Preprocess((3, 40, 40), resize=40))[0]
    assert np.array_equal(colour, np.stack([np.asarray(grey)[10:50]] * 3, axis=-1))


@kinds
def test_wrong_sizes_are_refused(tmp_path, make):
    images = make(tmp_path, random_images(1, (40, 48, 3)))
    size = (
        "40x48x3, the network takes 32x32x3" if make is arrays else "40x48, the network takes 32x32"
    )
    for prep, match in (
        (CIFAR, size),
        (Preprocess((3, 32, 32), resize=20), "20x24 after resize 20, .* takes 32x32"),
    ):
        with pytest.raises(UsageError, match=match) as caught:
            images.batch([0], prep)
        assert ": " in str(caught.value)


@pytest.mark.parametrize("resize", [None, 32])
def test_colour_arrays_are_not_greyed(tmp_path, resize):
    with pytest.raises(UsageError, match="images are 32x32x3, the network takes 32x32x1"):
        arrays(tmp_path, random_images(1)).batch([0], Preprocess((1, 32, 32), resize))


@pytest.mark.parametrize(
    "arguments",
    [((2, 8, 8),), ((3, 0, 8),), ((3, 8),), ((3, 8, 8), 0), ((3, 8, 8), 8, "nearest")],
    ids=str,
)
def test_preprocess_checks_itself(arguments):
    with pytest.raises(UsageError, match=": "):
        Preprocess(*arguments)


def test_image_files_are_converted_to_the_networks_channels(tmp_path):
    (tmp_path / "a").mkdir()
    grey, colour = (
        Image.fromarray(random_images(1, (32, 32))[0]),
        Image.fromarray(random_images(1)[0]),
    )
    for number, image in enumerate((grey, colour, colour.convert("RGBA"), colour.convert("P"))):
        image.save(tmp_path / "a" / f"{number}.png")
    images = open_images(tmp_path, "test")
    assert np.array_equal(nhwc(images)[0], np.asarray(grey.convert("RGB")))
    assert np.array_equal(nhwc(images)[3], np.asarray(colour.convert("P").convert("RGB")))
    assert np.array_equal(
        nhwc(images, Preprocess((1, 32, 32)))[1, ..., 0], np.asarray(colour.convert("L"))
    )
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(tmp_path / "a" / "4.png")
    refused(IntegrityError, "more than 8 bits", tmp_path)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "bmp"])
def test_damaged_image_files_are_refused(tmp_path, form):
    root = tmp_path / "photos"
    (root / "cat").mkdir(parents=True)
    data = encoded(random_images(1)[0], form)
    path = root / "cat" / f"1.{form}"
    path.write_bytes(data)
    assert open_images(root, "test").batch([0], CIFAR).shape == (1, 3, 32, 32)
    for damaged in (data[: len(data) // 2], data[:10], b"", b"hello"):
        path.write_bytes(damaged)
        refused(IntegrityError, rf"1\.{form} is cut, altered or malformed", root)
    images = open_images(root, "test")
    path.unlink()
    with pytest.raises(IntegrityError, match="cannot be read any more"):
        images.batch([0], CIFAR)


# What every form must hold


@pytest.mark.parametrize(
    ("labels", "names", "match"),
    [
        ([0, 1], None, r"shape \[2\] for 3 images"),
        (np.eye(3, dtype=int), None, r"shape \[3, 3\]"),
        ([0.0, 1.0, 2.0], None, "float64 labels"),
        ([0, 1, -1], None, "labels outside 0 and up"),
        ([0, 1, 2], ["a", "b"], "labels outside 0 to 1"),
    ],
)
def test_labels_must_fit_the_images_and_names(tmp_path, labels, names, match):
    np.savez(
        tmp_path / "a.npz",
        x=random_images(3),
        y=labels,
        **({"class_names": names} if names else {}),
    )
    refused(IntegrityError, match, tmp_path / "a.npz")


def test_no_images_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=random_images(0), y=np.zeros(0, int))
    refused(UsageError, "has no images", tmp_path / "a.npz")


def test_unusable_paths(tmp_path):
    refused(NotFoundError, "does not exist", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "manifest.json").write_text('{"name": "some web app"}')
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "empty.txt").write_text("")
    for name in ("empty", "classes", "manifest", "a.txt", "empty.txt"):
        with pytest.raises(UsageError) as caught:
            open_images(tmp_path / name, "test")
        assert str(caught.value) == f"nothing recognised in {tmp_path / name}: accepted are {FORMS}"


def test_heavy_packages_load_only_when_used():
    code = (
        "import sys, zoo.data.open; print(sorted({'torch', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_labels_by_the_names_of_the_networks_classes(tmp_path):
    """Folders of some of a network's classes are labelled as the network does, or refused."""
    names = ("ant", "bee", "cat", "dog")
    for name in ("bee", "dog"):
        (tmp_path / "some" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "some" / name / "a.png")
    some = open_images(tmp_path / "some", "test")
    assert some.labels.tolist() == [0, 1]
    found = some.for_classes(4, names)
    assert found.labels.tolist() == [1, 3] and found.class_names == names
    assert some.for_classes(2).labels.tolist() == [
        0,
        1,
    ]  # a network without names, of as many classes
    with refuses(UsageError, "of which not all are the network's .*`labels=position`"):
        some.for_classes(2, ("fly", "fox"))
    assert some.for_classes(2, ("fly", "fox"), "position").labels.tolist() == [0, 1]
    assert some.for_classes(2, ("dog", "bee")).labels.tolist() == [1, 0]
    for classes, names in (
        (4, None),
        (1000, None),
        (3, ("ant", "bee", "cat")),
        (4, ("bee", "dog", "cat", "dog")),
    ):
        with refuses(UsageError, "wnids.json"):
            some.for_classes(classes, names)
    with refuses(UsageError, "bee as class 0, the network as class 1"):
        some.for_classes(2, ("fox", "bee"))


def test_folders_named_by_wordnet_ids_are_imagenets_classes(tmp_path):
    for name in ("n15075141", "n01443537"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "val" / name / "a.png")
    found = open_images(tmp_path / "val", "test").for_classes(1000)
    assert found.labels.tolist() == [1, 999] and found.class_names == imagenet_classes()
    with refuses(UsageError, "wnids.json"):
        open_images(tmp_path / "val", "test").for_classes(100)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    resize=st.integers(4, 20),
    side=st.integers(1, 4),
)
def test_resize_and_crop_are_torchvisions(width, height, resize, side):
    """Shorter side to `resize`, the longer cut to whole pixels; offsets round half to even."""
    ramp = np.arange(width * height, dtype=np.uint32).astype(np.uint8).reshape(height, width)
    image = Image.fromarray(np.stack([ramp] * 3, -1))
    long = resize * max(width, height) // min(width, height)
    w, h = (resize, long) if width <= height else (long, resize)
    left, top = (Fraction(n - side, 2) for n in (w, h))
    wanted = np.asarray(image.resize((w, h), Image.Resampling.BICUBIC))[
        round(top) :, round(left) :
    ][:side, :side]
    assert np.array_equal(
        fit_image(image, Preprocess((3, side, side), resize, "bicubic"), "it is"), wanted
    )
