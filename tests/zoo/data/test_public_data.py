"""Public data sets are read as they are downloaded, and what was assumed or passed over is said."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
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
from zoo.data.base import split_in, split_named
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.preprocess import Preprocess

PIXELS = random_images(8)


def put(root: Path, *paths: str) -> Path:
    """Write one image of `PIXELS` at each path, in turn."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(PIXELS[number % len(PIXELS)]))
    return root


def labels_by_name(images: ImageSet) -> dict[str, object]:
    """Return the name of each image's class, or its label, by file name."""
    names = images.class_names
    return {
        path.name: names[label] if names else label
        for path, label in zip(images._store.files.paths, images.labels.tolist(), strict=True)
    }


# Splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("train", "eval"),
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "valid"),
        ("TRAIN", "Validation"),
    ],
)
def test_folders_of_splits_by_any_usual_name(tmp_path, train, test):
    put(tmp_path, f"{train}/a/0.png", f"{train}/b/1.png", f"{test}/a/2.png", f"{test}/b/3.png")
    assert labels_by_name(open_images(tmp_path, "train")) == {"0.png": "a", "1.png": "b"}
    assert labels_by_name(open_images(tmp_path, "test")) == {"2.png": "a", "3.png": "b"}
    with pytest.raises(NotFoundError, match="no dev split, only"):
        open_images(tmp_path, "dev")


def test_a_split_is_asked_for_by_its_own_name(tmp_path):
    put(tmp_path, "train/a/0.png", "val/a/1.png", "test/a/2.png")
    assert labels_by_name(open_images(tmp_path, "val")) == {"1.png": "a"}
    assert labels_by_name(open_images(tmp_path, "validation")) == {"1.png": "a"}
    assert labels_by_name(open_images(tmp_path, "test")) == {"2.png": "a"}
    assert open_images(tmp_path, "val").description.startswith("image folder, val split, 1 images")
    with pytest.raises(NotFoundError, match="no val split"):
        open_images("digits", "val")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("imagenet1k-validation-00.tar", "validation"),
        ("train-00000-of-00001.parquet", "train"),
        ("my_test.parquet", "test"),
        ("trainable.parquet", None),
        ("train-test-split.parquet", None),
        ("0000.parquet", None),
    ],
)
def test_split_of_a_file(name, split):
    assert split_in(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("Test", "test"),
        ("partial-train", "train"),
        ("test_tube", None),
        ("trainer", None),
        ("", None),
    ],
)
def test_split_of_a_folder(name, split):
    assert split_named(name) == split


def test_val_serves_where_test_has_no_labels(tmp_path):
    put(tmp_path / "set", "train/a/0.png", "val/a/1.png", "val/b/2.png", "test/3.png")
    images = open_images(tmp_path / "set", "test")
    assert labels_by_name(images) == {"1.png": "a", "2.png": "b"}
    assert images.split == "val" and "val split" in images.description
    assert images.notes == (f"{tmp_path / 'set'}: test has no labels, so val is used",)
    put(tmp_path / "none", "train/a/0.png", "test/3.png")
    refused(
        UsageError, "have no labels: put them in one folder per class, or a list", tmp_path / "none"
    )


def test_validation_shards_serve_where_test_has_no_labels(tmp_path):
    data = tmp_path / "in1k" / "data"
    write_parquet(data / "validation-00000-of-00001.parquet", PIXELS[:3], [0, 1, 2])
    write_parquet(data / "test-00000-of-00001.parquet", PIXELS[3:5], [-1, -1])
    images = open_images(tmp_path / "in1k", "test")
    assert images.labels.tolist() == [0, 1, 2] and images.split == "validation"
    assert images.notes == (f"{tmp_path / 'in1k'}: test has no labels, so validation is used",)
    refused(IntegrityError, "labels outside 0", data / "test-00000-of-00001.parquet")


def test_keys_of_npz_by_split(tmp_path):
    arrays = {
        f"{split}_images": PIXELS[i : i + 1] for i, split in enumerate(("train", "val", "test"))
    }
    arrays |= {f"{split}_labels": np.array([[i]]) for i, split in enumerate(("train", "val"))}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    images = open_images(tmp_path / "medmnist.npz", "test")
    assert images.labels.tolist() == [1] and images.split == "val"
    assert "test has no labels, so val is used" in images.notes[0]
    assert open_images(tmp_path / "medmnist.npz", "train").labels.tolist() == [0]
    np.savez(tmp_path / "upper.npz", X_test=PIXELS, Y_test=range(8))
    assert len(open_images(tmp_path / "upper.npz", "test")) == 8


@pytest.mark.parametrize("form", ["folder", "parquet"])
def test_a_folder_named_train_is_measured_only_with_a_word(tmp_path, form):
    root = tmp_path / "plain_text" / "train"
    if form == "folder":
        put(root, "a/0.png", "b/1.png")
    else:
        write_parquet(root / "0000.parquet", PIXELS[:2], [0, 1])
    images = open_images(root, "test")
    assert images.split == "train" and "train split" in images.description
    assert images.notes == (f"{root} is the train split, by its name, though test was asked for",)
    assert open_images(root, "train").notes == ()


# Files


def test_every_suffix_that_pillow_reads_is_read(tmp_path):
    forms = {
        "tif": "tiff",
        "tiff": "tiff",
        "ppm": "ppm",
        "pgm": "ppm",
        "jfif": "jpeg",
        "gif": "gif",
    }
    forms |= {"PNG": "png", "bmp": "bmp", "webp": "webp", "jp2": "jpeg2000", "tga": "tga"}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for suffix, form in forms.items():
            (tmp_path / name / f"x.{suffix}").write_bytes(encoded(PIXELS[0], form))
    images = open_images(tmp_path, "test")
    assert len(images) == 2 * len(forms) and images.notes == ()
    assert images.batch(EVERYTHING, CIFAR).shape == (len(images), 3, 32, 32)


def test_files_passed_over_are_counted_and_droppings_are_no_classes(tmp_path):
    put(tmp_path, "a/0.png", "b/1.png", "__MACOSX/a/0.png", ".ipynb_checkpoints/2.png", "3.png")
    for path in ("a/0.xml", "b/1.xml", "b/readme", "a/Thumbs.db", "a/._0.png", "b/.DS_Store"):
        (tmp_path / path).write_bytes(b"x")
    images = open_images(tmp_path, "test")
    assert images.class_names == ("a", "b") and len(images) == 2
    assert images.notes == (
        f"{tmp_path}: passed over 1 images in no class folder (3.png)",
        f"{tmp_path}: passed over 3 files that are no images (2 .xml, 1 no suffix)",
    )


def test_a_link_back_up_ends(tmp_path):
    put(tmp_path, "a/0.png", "b/1.png")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    assert labels_by_name(open_images(tmp_path, "test")) == {"0.png": "a", "1.png": "b"}


# Trees and lists of labels


def tiny_imagenet(root: Path) -> Path:
    put(root, *(f"train/n{c}/images/n{c}_{i}.JPEG" for c in (1, 2) for i in range(2)))
    put(
        root,
        *(f"val/images/val_{i}.JPEG" for i in range(3)),
        *(f"test/images/t{i}.JPEG" for i in (0,)),
    )
    rows = "".join(f"val_{i}.JPEG\tn{2 - i % 2}\t0\t0\t62\t62\n" for i in range(3))
    (root / "val" / "val_annotations.txt").write_text(rows)
    (root / "wnids.txt").write_text("n2\nn1\n")
    return root


def test_tiny_imagenet(tmp_path):
    root = tiny_imagenet(tmp_path / "tiny-imagenet-200")
    expected = {"val_0.JPEG": "n2", "val_1.JPEG": "n1", "val_2.JPEG": "n2"}
    for path in (root, root / "val"):
        images = open_images(path, "test")
        assert labels_by_name(images) == expected
        assert f"labels from {root / 'val' / 'val_annotations.txt'}" in images.notes
    for path in (root, root / "train"):
        assert open_images(path, "train").labels.tolist() == [0, 0, 1, 1]


def test_kaggles_ilsvrc(tmp_path):
    root = put(
        tmp_path / "imagenet",
        "ILSVRC/Data/CLS-LOC/train/n1/n1_0.JPEG",
        "ILSVRC/Data/CLS-LOC/train/n2/n2_0.JPEG",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_1.JPEG",
        "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_2.JPEG",
        "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_1.JPEG",
    )
    for part in ("train/n1", "val"):
        (root / "ILSVRC" / "Annotations" / "CLS-LOC" / part).mkdir(parents=True)
        (root / "ILSVRC" / "Annotations" / "CLS-LOC" / part / "x.xml").write_text("<a/>")
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_1,n2 85 1 499 272\n"
        "ILSVRC2012_val_2,n1 1 1 9 9 n1 2 2 8 8\n"
    )
    for path in (root, root / "ILSVRC/Data/CLS-LOC", root / "ILSVRC/Data/CLS-LOC/val"):
        images = open_images(path, "test")
        assert labels_by_name(images) == {
            "ILSVRC2012_val_1.JPEG": "n2",
            "ILSVRC2012_val_2.JPEG": "n1",
        }
    assert open_images(root, "train").labels.tolist() == [0, 1]


LISTS = {
    "val.txt": "a.png 3\nb.png 1\n",
    "labels.csv": "filename,label\nb.png,1\na.png,3\n",
    "GT-final_test.csv": "Filename;Width;Roi.X1;ClassId\na.png;32;5;3\nb.png;32;6;1\n",
    "annotations.tsv": "some/folder/a.png\t3\nsome/folder/b.png\t1\n",
    "metadata.jsonl": '{"file_name": "a.png", "label": 3}\n{"file_name": "b.png", "label": 1}\n',
    "trainLabels.txt": "a.png 3\nb.png 1\n",
    "ids.csv": "id,label\na,3\nb,1\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_labels(tmp_path, name):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text(LISTS[name])
    split = "train" if name == "trainLabels.txt" else "test"
    images = open_images(tmp_path, split)
    assert labels_by_name(images) == {"a.png": 3, "b.png": 1}
    assert images.notes == (f"labels from {tmp_path / name}",)
    assert np.array_equal(nhwc(images), PIXELS[:2])


def test_lists_of_splits_in_one_folder(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "train.txt").write_text("a.png 0\nb.png 1\n")
    (tmp_path / "val.txt").write_text("c.png 1\n")
    assert labels_by_name(open_images(tmp_path, "train")) == {"a.png": 0, "b.png": 1}
    images = open_images(tmp_path, "test")
    assert labels_by_name(images) == {"c.png": 1}
    assert images.notes[1] == f"{tmp_path}: passed over 2 images that val.txt does not name"


def test_lists_that_cannot_be_trusted(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text("a.png,1\n")
    refused(UsageError, "labels for 1 of the 2 images", tmp_path)
    (tmp_path / "list.csv").write_text("a.png,1\nb.png,2\n")
    (tmp_path / "other.txt").write_text("a.png 2\nb.png 1\n")
    refused(UsageError, "list.csv and other.txt give images different labels: keep one", tmp_path)
    (tmp_path / "list.csv").unlink()
    (tmp_path / "other.txt").write_text("490\n361\n")
    refused(UsageError, "has numbers without the names of images .ILSVRC's devkit", tmp_path)


def test_several_sets_are_asked_for(tmp_path):
    put(tmp_path, "x/train/a/0.png", "x/test/a/0.png", "y/train/a/0.png", "y/test/a/0.png")
    refused(UsageError, r"holds 2 folders with splits of their own \(x, y\): give one", tmp_path)


# Parquet


def test_parquet_by_folders(tmp_path):
    for number, split in enumerate(("partial-train", "test")):
        write_parquet(tmp_path / "default" / split / "0000.parquet", PIXELS[:2], [number, number])
    for path in (tmp_path, tmp_path / "default"):
        assert open_images(path, "test").labels.tolist() == [1, 1]
        assert open_images(path, "train").labels.tolist() == [0, 0]
    write_parquet(tmp_path / "other" / "test" / "0000.parquet", PIXELS[:2], [0, 1])
    refused(UsageError, r"holds 2 sets of parquet files \(default, other\)", tmp_path)


def test_the_snapshot_of_the_hub_clients_cache(tmp_path):
    cache = tmp_path / "datasets--me--c10"
    for number, commit in enumerate(("0" * 40, "1" * 40)):
        blob = write_parquet(cache / "blobs" / str(number), PIXELS[:1], [number])
        link = cache / "snapshots" / commit / "data" / "test-00000-of-00001.parquet"
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
    refused(UsageError, "holds 2 snapshots and no refs/main: give one", cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("1" * 40)
    assert open_images(cache, "test").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("image", "label", "note"),
    [
        ("image", "labels", True),
        ("jpg", "cls", True),
        ("pixel_values", "label", False),
        ("foto", "target", True),
        ("webp", "y", True),
    ],
)
def test_usual_columns(tmp_path, image, label, note):
    path = write_parquet(tmp_path / "a.parquet", PIXELS[:2], [0, 1], image=image, label=label)
    images = open_images(path, "test")
    assert images.labels.tolist() == [0, 1] and np.array_equal(nhwc(images), PIXELS[:2])
    assert images.notes == ((f"labels from the column {label}",) if note else ())


def test_columns_that_are_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", PIXELS[:2], [0, 1], image="x1", label="kind")
    refused(IntegrityError, "it has x1, kind; name the label's, `label_column`", path)
    images = open_images(path, "test", image_column="x1", label_column="kind")
    assert images.labels.tolist() == [0, 1] and np.array_equal(nhwc(images), PIXELS[:2])
    with pytest.raises(UsageError, match="no column z, only x1, kind: choose one, `label_column`"):
        open_images(path, "test", label_column="z")
    put(tmp_path / "folder", "a/0.png")
    with pytest.raises(UsageError, match="is no parquet but image folder: leave"):
        open_images(tmp_path / "folder", "test", label_column="z")


def table(tmp_path: Path, columns: Mapping[str, Sequence], features: Mapping = {}) -> Path:
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow.parquet as pq

    made = pa.table(dict(columns))
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(made.replace_schema_metadata(info), tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (["cat", "ant", "cat"], [1, 0, 1], ("ant", "cat")),
        (["10", "2", "0"], [10, 2, 0], None),
        ([2.0, 0.0, 1.0], [2, 0, 1], None),
    ],
)
@pytest.mark.parametrize("form", ["bytes", "lists", "grey lists", "channels first"])
def test_forms_of_labels_and_images(tmp_path, labels, expected, names, form):
    lists = {
        "lists": PIXELS[:3],
        "grey lists": PIXELS[:3, :, :, 0],
        "channels first": PIXELS[:3].transpose(0, 3, 1, 2),
    }
    cells = [encoded(x) for x in PIXELS[:3]] if form == "bytes" else lists[form].tolist()
    images = open_images(table(tmp_path, {"image": cells, "label": labels}), "test")
    assert images.labels.tolist() == expected and images.class_names == names
    prep = Preprocess((1, 32, 32)) if form == "grey lists" else CIFAR
    assert np.array_equal(
        nhwc(images, prep), PIXELS[:3, :, :, :1] if form == "grey lists" else PIXELS[:3]
    )


def test_images_beside_parquet(tmp_path):
    cells = [{"bytes": None, "path": f"{i}.png"} for i in range(2)]
    cells[0]["bytes"] = encoded(PIXELS[0])
    path = table(tmp_path, {"image": cells, "label": [0, 1]})
    refused(IntegrityError, r"paths in place of images \(1.png\), and no such file is beside", path)
    (tmp_path / "1.png").write_bytes(encoded(PIXELS[1]))
    assert np.array_equal(nhwc(open_images(path, "test")), PIXELS[:2])
    # Never a file outside the folder, even where there is one.
    (tmp_path / "a").mkdir()
    cells[1]["path"] = "a/../1.png"
    refused(
        IntegrityError,
        "paths in place of images",
        table(tmp_path, {"image": cells, "label": [0, 1]}),
    )


def test_what_parquet_says_of_its_columns_decides(tmp_path):
    cells = [encoded(x) for x in PIXELS[:2]]
    kinds = {"kind": {"names": ["x", "y"], "_type": "ClassLabel"}, "photo": {"_type": "Image"}}
    columns = {"thumb": cells[::-1], "photo": cells, "kind": [1, 0]}
    images = open_images(table(tmp_path, columns, kinds), "test")
    assert np.array_equal(nhwc(images), PIXELS[:2])
    assert images.labels.tolist() == [1, 0] and images.class_names == ("x", "y")
    columns = {"image": cells, "fine_label": [1, 0], "coarse_label": [0, 0]}
    kinds = {name: {"names": ["x", "y"], "_type": "ClassLabel"} for name in list(columns)[1:]}
    images = open_images(table(tmp_path, columns, kinds), "test")
    assert images.labels.tolist() == [1, 0]
    assert "there is also coarse_label" in images.notes[0]
    del columns["fine_label"]
    columns["group"] = columns["coarse_label"]
    kinds["group"] = kinds.pop("fine_label")
    refused(IntegrityError, "name the label's, `label_column`", table(tmp_path, columns, kinds))


# Shards


def shard(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("suffix", "label"),
    [
        ("cls", lambda y: str(y)),
        ("json", lambda y: json.dumps({"label": y})),
        ("label", lambda y: f"{y}\n"),
    ],
)
def test_webdataset(tmp_path, suffix, label):
    for part, rows in enumerate((range(3), range(3, 5))):
        members = {}
        for i in rows:
            members[f"./{i:06d}.png"] = encoded(PIXELS[i])
            members[f"./{i:06d}.{suffix}"] = label(9 - i).encode()
        shard(tmp_path / f"set-validation-{part:02d}.tar", members)
    shard(tmp_path / "set-train-00.tar", {"a.png": encoded(PIXELS[7]), "a.cls": b"1"})
    images = open_images(tmp_path, "test")
    assert images.description == "webdataset, test split, 5 images, 5 classes"
    assert images.labels.tolist() == [9, 8, 7, 6, 5] and np.array_equal(nhwc(images), PIXELS[:5])
    assert open_images(tmp_path / "set-validation-01.tar", "test").labels.tolist() == [6, 5]
    assert open_images(tmp_path, "train").labels.tolist() == [1]


def test_shards_that_cannot_be_used(tmp_path):
    image = encoded(PIXELS[0])
    flat = shard(tmp_path / "val.tar", {"a.png": image, "b.png": image})
    refused(UsageError, "images without labels .no .cls or .json", flat)
    packed = shard(tmp_path / "p.tar.gz", {"a.png": image, "a.cls": b"0"}, "w:gz")
    refused(UsageError, "compressed archive of images: unpack it", packed)
    part = shard(tmp_path / "q.tar", {"a.png": image, "a.cls": b"0", "b.png": image})
    refused(IntegrityError, "no label for b", part)
    words = shard(tmp_path / "w.tar", {"a.png": image, "a.cls": b"dog"})
    assert open_images(words, "test").class_names == ("dog",)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(part.read_bytes()[:700])
    refused(IntegrityError, "cut", cut)


def test_forms_that_need_a_step_are_named(tmp_path):
    (tmp_path / "saved" / "test").mkdir(parents=True)
    (tmp_path / "saved" / "test" / "data-00000-of-00001.arrow").write_bytes(b"x")
    refused(UsageError, "arrow files of datasets.save_to_disk: write parquet", tmp_path / "saved")
    import zipfile

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a/0.png", encoded(PIXELS[0]))
    refused(UsageError, "archive of image files: unpack it", tmp_path / "images.zip")
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    refused(UsageError, "nothing recognised", tmp_path / "one.png")
