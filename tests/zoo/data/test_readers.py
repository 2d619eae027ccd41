"""Every form of image set is opened and split as documented.

And damaged or hostile files are refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.zoo.image_fixtures import (
    CIFAR,
    EVERYTHING,
    MakesFolder,
    encoded,
    nhwc,
    random_images,
    refused,
    write_parquet,
)
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.preprocess import Preprocess

DIGITS = Path(__file__).parents[3] / "zoo" / "data" / "digits.npz"


def test_digits_are_scaled_and_split_once():
    with np.load(DIGITS) as raw:
        images, labels = raw["images"], raw["labels"]
    # As scikit-learn 1.9.1 gives them, in whose order every digits model was made.
    assert (
        hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
        == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )
    train, test = open_images("digits", "train"), open_images("digits", "test")
    order = np.random.default_rng(0).permutation(1797)
    assert (len(train), len(test)) == (1437, 360)
    both = np.concatenate([nhwc(s, Preprocess((1, 8, 8)))[..., 0] for s in (train, test)])
    expected = [
        [[round(v * 255 / 16) for v in row] for row in image] for image in images[order].tolist()
    ]
    assert np.array_equal(both, expected)
    assert np.array_equal(np.concatenate([train.labels, test.labels]), labels[order])
    assert test.description == "scikit-learn digits, test split, 360 images of 8x8x1, 10 classes"
    assert test.class_names == tuple("0123456789")


# CIFAR packs


def write_pack(root: Path, n: int = 45) -> Path:
    root.mkdir()
    manifest: dict = {"class_names": ["cat", "dog"], "splits": {}}
    for seed, split in enumerate(("test", "train")):
        pixels = random_images(n, seed=seed)
        tiles = np.concatenate([pixels, np.zeros((-n % 40, 32, 32, 3), np.uint8)]).reshape(
            -1, 40, 32, 32, 3
        )
        # Two rows of tiles in two files of one row each.
        for number, row in enumerate(tiles):
            mosaic = row.transpose(1, 0, 2, 3).reshape(32, 1280, 3)
            (root / f"{split}-{number:02d}.webp").write_bytes(
                encoded(mosaic, "webp", lossless=True)
            )
        sha = hashlib.sha256(pixels.tobytes()).hexdigest()
        manifest["splits"][split] = {
            "n": n,
            "labels": [i % 2 for i in range(n)],
            "sha256_uint8_nhwc": sha,
        }
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def test_pack_gives_each_split(tmp_path):
    root = write_pack(tmp_path / "pack")
    for seed, split in enumerate(("test", "train")):
        images = open_images(root, split)
        assert np.array_equal(nhwc(images), random_images(45, seed=seed))
        assert images.labels.tolist() == [i % 2 for i in range(45)]
        assert images.labels.dtype == np.int64
        assert images.class_names == ("cat", "dog")
        assert images.description == f"CIFAR pack, {split} split, 45 images of 32x32x3, 2 classes"
        assert (images.source, images.split) == (str(root), split)


def test_pack_reads_only_the_split_asked_for(tmp_path):
    root = write_pack(tmp_path / "pack")
    (root / "train-00.webp").write_bytes(b"not an image")
    assert len(open_images(root, "test")) == 45


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sha256_uint8_nhwc": "0" * 64}, "do not match manifest.json"),
        ({"labels": [0, 1]}, r"shape \[2\] for 45 images"),
        ({"labels": [2] * 45}, "labels outside 0 to 1"),
        ({"labels": ["cat"] * 45}, "one integer per image"),
        ({"labels": [[0], [0, 1]]}, "malformed"),
        ({"n": None, "labels": None}, "do not match manifest.json"),
        ({"class_names": 2}, "malformed"),
    ],
)
def test_pack_must_match_its_manifest(tmp_path, changes, match):
    root = write_pack(tmp_path / "pack")
    manifest = json.loads((root / "manifest.json").read_text())
    (manifest if "class_names" in changes else manifest["splits"]["test"]).update(changes)
    (root / "manifest.json").write_text(json.dumps(manifest))
    refused(IntegrityError, match, root)


def test_pack_without_a_split_or_a_file(tmp_path):
    root = write_pack(tmp_path / "pack")
    (root / "test-00.webp").unlink()
    refused(IntegrityError, "pixels do not match", root)
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["splits"]["train"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    refused(NotFoundError, "no train split, only test:", root, "train")


def one_bit_off(data: bytes) -> bytes:
    mosaic = np.asarray(Image.open(io.BytesIO(data))).copy()
    mosaic[0, 0, 0] ^= 1
    return encoded(mosaic, "webp", lossless=True)


@pytest.mark.parametrize(
    ("name", "damage", "match"),
    [
        ("test-01.webp", one_bit_off, "pixels do not match"),
        ("test-01.webp", lambda data: data[: len(data) // 2], r"test-01\.webp is cut"),
        ("test-00.webp", lambda _: encoded(random_images(1)[0], "webp"), "malformed"),
        ("manifest.json", lambda _: b'{"splits": ', r"manifest\.json is cut"),
    ],
)
def test_damaged_packs_are_refused(tmp_path, name, damage, match):
    root = write_pack(tmp_path / "pack")
    (root / name).write_bytes(damage((root / name).read_bytes()))
    refused(IntegrityError, match, root)


@pytest.mark.parametrize(
    ("name", "split", "n", "classes"),
    [("cifar10", "test", 10000, 10), ("cifar100", "train", 2000, 100)],
)
def test_shared_pack(shared, name, split, n, classes):
    folder = shared / "data" / name
    images = open_images(folder, split)
    assert (
        images.description == f"CIFAR pack, {split} split, {n} images of 32x32x3, {classes} classes"
    )
    mosaic = np.asarray(Image.open(folder / f"{split}-01.webp").convert("RGB"))
    # Image 1041 is the second of the second row of the second mosaic.
    assert np.array_equal(nhwc(images)[1041], mosaic[32:64, 32:64])


# Hub parquet


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
@pytest.mark.parametrize("where", ["", "plain_text"])
def test_parquet_folder_gives_each_split_in_file_order(tmp_path, image, label, where):
    pixels, test = random_images(8), random_images(2, seed=1)
    named = {"image": image, "label": label, "names": ["zero", "one", "two"]}
    # Written last part first: order must come from the names.
    write_parquet(tmp_path / where / "train-00001-of-00002.parquet", pixels[5:], [2, 1, 0], **named)
    write_parquet(
        tmp_path / where / "train-00000-of-00002.parquet", pixels[:5], [0, 1, 2, 0, 1], **named
    )
    held_out = tmp_path / where / "validation-00000-of-00001.parquet"
    write_parquet(held_out, test, [1, 1], image=image, label=label)
    images = open_images(tmp_path, "train")
    assert np.array_equal(nhwc(images), pixels)
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 1, 0]
    assert images.class_names == ("zero", "one", "two")
    assert images.description == "parquet, train split, 8 images, 3 classes"
    assert np.array_equal(
        images.batch([7, 0, 5, 0], CIFAR).numpy(), pixels[[7, 0, 5, 0]].transpose(0, 3, 1, 2)
    )
    images = open_images(tmp_path, "test")
    assert np.array_equal(nhwc(images), test)
    assert (images.class_names, images.split) == (None, "test")


def test_parquet_file_serves_the_split_its_name_states(tmp_path):
    stated = write_parquet(tmp_path / "test-00000.parquet", random_images(2), [0, 1])
    assert open_images(stated, "test").split == "test"
    for path in (stated, tmp_path):
        refused(NotFoundError, "no train split, only test:", path, "train")
    silent = write_parquet(tmp_path / "other" / "trainable.parquet", random_images(2), [0, 1])
    assert [open_images(silent, split).split for split in ("train", "test")] == [None, None]


def test_two_folders_of_parquet_are_two_sets(tmp_path):
    for name in ("a", "b"):
        write_parquet(tmp_path / name / "test-00000.parquet", random_images(1), [0])
    refused(UsageError, r"holds 2 sets of parquet files \(a, b\): give", tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(NotFoundError, r"pip install 'spiking-zoo\[data\]'", path)


def test_parquet_decodes_only_what_a_batch_asks_for(tmp_path):
    pixels = random_images(3)
    path = write_parquet(
        tmp_path / "a.parquet", [*pixels, b"broken"], [0, 1, 0, 1], fields=("bytes",)
    )
    images = open_images(path, "test")
    assert np.array_equal(nhwc(images.take(3, None)), pixels)
    with pytest.raises(IntegrityError, match=r"a\.parquet, row 3, is cut"):
        images.batch([3], CIFAR)


def test_damaged_parquet_is_refused(tmp_path):
    pixels = random_images(4)
    path = write_parquet(
        tmp_path / "a.parquet", pixels, [0, 1, 0, 1], compression="none", use_dictionary=False
    )
    data, page = path.read_bytes(), len(encoded(pixels[0]))
    for damaged in (data[: len(data) // 2], b"PAR1", b"nothing of the kind"):
        path.write_bytes(damaged)
        refused(IntegrityError, "cut", path)
    # Only the image pages are overwritten, so the file opens and the batch finds the damage.
    path.write_bytes(data[:4] + bytes(page) + data[4 + page :])
    refused(IntegrityError, "cut, altered", path)


@pytest.mark.parametrize(
    ("contents", "error", "match"),
    [
        ({"labels": [0, 1, None, 1]}, IntegrityError, "1 labels that are missing"),
        ({"labels": [0.5] * 4}, IntegrityError, "not integers"),
        ({"labels": [-1] * 4}, IntegrityError, "outside 0"),
        ({"labels": [0, 1, 2, 0], "names": ["a", "b"]}, IntegrityError, "outside 0 to 1"),
        ({"label": "coarse_label"}, IntegrityError, "lacks img or image"),
        ({"image": "photo", "fields": ("path",)}, IntegrityError, "it has photo, label"),
        ({"images": [None] * 4}, IntegrityError, "has no bytes for the image of row 0"),
        ({"images": [], "labels": np.zeros(0, int)}, UsageError, "has no images"),
    ],
)
def test_unusable_parquet_is_refused(tmp_path, contents, error, match):
    given = {"images": random_images(4), "labels": [0] * 4, **contents}
    refused(error, match, write_parquet(tmp_path / "a.parquet", **given))


# Image folders


def write_folder(root: Path, classes: dict[str, int]) -> Path:
    for seed, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(random_images(count, seed=seed)):
            (root / name / f"{i}.png").write_bytes(encoded(pixels))
    return root


def test_folder_by_class(tmp_path):
    root = write_folder(tmp_path / "photos", {"cat": 2, "ant": 1, "empty": 0})
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".cache").mkdir()
    images = open_images(root, "test")
    assert images.class_names == ("ant", "cat", "empty")
    assert images.labels.tolist() == [0, 1, 1]
    assert np.array_equal(
        nhwc(images), np.concatenate([random_images(1, seed=1), random_images(2, seed=0)])
    )
    assert images.description == "image folder, 3 images, 2 of 3 classes"
    assert images.split is None


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_folder_by_split_and_class(tmp_path, held_out):
    write_folder(tmp_path / held_out, {"a": 1, "b": 2})
    refused(NotFoundError, f"no train split, only {held_out}:", tmp_path, "train")
    write_folder(tmp_path / "train", {"a": 3, "b": 1})
    assert open_images(tmp_path, "test").labels.tolist() == [0, 1, 1]
    train = open_images(tmp_path, "train")
    assert train.labels.tolist() == [0, 0, 0, 1]
    assert train.description == "image folder, train split, 4 images, 2 classes"
    assert open_images(tmp_path / held_out, "test").split == "test"


def test_train_may_be_a_class(tmp_path):
    write_folder(tmp_path / "voc", {"bus": 1, "train": 2})
    assert open_images(tmp_path / "voc", "test").class_names == ("bus", "train")


@pytest.mark.parametrize("where", ["voc/val", "voc", "."])
def test_labels_follow_wnids(tmp_path, where):
    root = write_folder(tmp_path / "voc" / "val", {"n02": 1, "n03": 2})
    (tmp_path / where / "wnids.json").write_text('["n03", "n01", "n02"]')
    # From `voc/val` the list may lie in it or beside it; from `voc` also one further up.
    for path in [root.parent] if where == "." else [root, root.parent]:
        images = open_images(path, "test")
        assert images.labels.tolist() == [2, 0, 0]
        assert images.class_names == ("n03", "n01", "n02")


def test_wnids_of_another_set_or_malformed(tmp_path):
    root = write_folder(tmp_path / "set", {"a": 1, "b": 1})
    wnids = tmp_path / "wnids.json"
    wnids.write_text('["n01", "n02"]')
    assert open_images(root, "test").class_names == ("a", "b")
    wnids.write_text('["b", "c"]')
    refused(IntegrityError, r"does not list \(a\)", root)
    for text in ('["a", "b", "a"]', '{"a": 0}', "[1, 2]", "["):
        wnids.write_text(text)
        refused(IntegrityError, r"wnids\.json is", root)


def test_unlabelled_images_serve_calibration_only(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for name, pixels in zip("ba", random_images(2), strict=True):
        (root / f"{name}.PNG").write_bytes(encoded(pixels))
    images = open_images(root, "train")
    assert images.labels.tolist() == [-1, -1]
    assert np.array_equal(nhwc(images), random_images(2)[::-1])
    assert images.description == "images, 2 images, no labels"
    refused(UsageError, "have no labels", root)
    shutil.copytree(root, tmp_path / "outer" / "train")
    assert open_images(tmp_path / "outer", "train").labels.tolist() == [-1, -1]


def test_shared_imagenet_labels_index_the_wnids(shared):
    root = shared / "data" / "imagenet"
    wnids = json.loads((root / "wnids.json").read_text())
    images = open_images(root / "val", "test")
    classes = sorted(folder.name for folder in (root / "val").iterdir())
    assert len(images) == 1000
    assert [wnids[label] for label in images.labels] == [
        c for c in classes for _ in (root / "val" / c).iterdir()
    ]
    assert images.class_names == tuple(wnids)
    assert (
        images.description
        == f"image folder, test split, 1000 images, {len(classes)} of 1000 classes"
    )
    batch = images.take(4, seed=0).batch(EVERYTHING, Preprocess((3, 224, 224), resize=256))
    assert batch.shape == (4, 3, 224, 224)
    assert open_images(root, "test").sha256() == images.sha256()


# npz


@pytest.mark.parametrize(
    ("x", "y", "split"),
    [("x_test", "y_test", "test"), ("images", "labels", None), ("x", "y", None)],
)
def test_npz_keys(tmp_path, x, y, split):
    pixels, path = random_images(3), tmp_path / "a.npz"
    np.savez(path, **{x: pixels, y: np.array([[1], [0], [1]], np.uint8), "class_names": ["a", "b"]})
    images = open_images(path, "test")
    assert np.array_equal(nhwc(images), pixels)
    assert (images.labels.tolist(), images.labels.dtype) == ([1, 0, 1], np.int64)
    assert images.class_names == ("a", "b")
    assert images.split == split
    if split:
        refused(NotFoundError, "no train split, only test:", path, "train")


def test_npz_prefers_the_split_asked_for(tmp_path):
    path = tmp_path / "renamed.bin"
    pixels = {"x_train": random_images(2), "x_test": random_images(3, seed=1)}
    with path.open("wb") as file:
        np.savez_compressed(file, **pixels, y_train=[0, 1], y_test=[1, 0, 1])
    assert np.array_equal(nhwc(open_images(path, "train")), pixels["x_train"])
    assert np.array_equal(nhwc(open_images(path, "test")), pixels["x_test"])


@pytest.mark.parametrize("layout", ["grey", "NHWC", "NCHW", "NCHW grey"])
def test_npz_axes(tmp_path, layout):
    pixels = random_images(3, (32, 40, 1 if "grey" in layout else 3))
    stored = {"grey": pixels[..., 0], "NHWC": pixels}.get(layout, pixels.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "a.npz", x=stored, y=[0, 1, 2])
    images = open_images(tmp_path / "a.npz", "test")
    assert np.array_equal(nhwc(images, Preprocess((pixels.shape[3], 32, 40))), pixels)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"x": random_images(3).astype(np.float32), "y": [0, 1, 2]}, "x is float32"),
        ({"x": random_images(3)[..., :2], "y": [0, 1, 2]}, "store uint8"),
        ({"x": random_images(3)[0, 0], "y": [0, 1, 2]}, "store uint8"),
        ({"x": random_images(3)}, "without labels: add y"),
        ({"photos": random_images(3)}, r"has no x_test, images or x \(has photos\)"),
    ],
)
def test_unusable_npz_is_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(IntegrityError, match, tmp_path / "a.npz")


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=random_images(3), y=[0, 1, 2])
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:4], b"hello", data[:2000] + b"x" + data[2001:]):
        path.write_bytes(damaged)
        refused(IntegrityError, "cut, altered or malformed", path)


def test_npz_never_unpickles(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", x=random_images(1), y=np.array([MakesFolder(marker)], object))
    refused(IntegrityError, "allow_pickle", tmp_path / "a.npz")
    assert not marker.exists()
