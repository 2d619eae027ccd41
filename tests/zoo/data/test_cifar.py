"""CIFAR's archives are read in all four layouts.

Cut, altered and hostile ones are refused, and no pickle runs code.
"""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.zoo.image_fixtures import MakesFolder, nhwc, random_images, refused
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError


def python2_pickle(pixels: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """What CIFAR's authors published: Python 2 str, protocol 2, numpy.core.multiarray."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    n, raw = len(pixels), pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
        + text(b"b")
        + b"\x87R"
    )
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
    kind += number(-1) + number(-1) + b"K\x00tb"
    array += b"(K\x01" + number(n) + number(3072) + b"\x86" + kind + b"\x89" + text(raw) + b"tb"
    items = b"".join(number(label) for label in labels)
    head = b"\x80\x02}(" + text(b"batch_label") + text(b"testing batch")
    return head + text(key.encode()) + b"](" + items + b"e" + text(b"data") + array + b"u."


def flat(pixels: np.ndarray) -> np.ndarray:
    """As CIFAR's archives store pixels: [N, 3072], one colour plane after the other."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), 3072)


def binary_records(pixels: np.ndarray, labels: Sequence[int], coarse: bytes = b"") -> bytes:
    return b"".join(
        coarse + bytes([y]) + x.tobytes() for y, x in zip(labels, flat(pixels), strict=True)
    )


# The training files, the test file, the file of class names, and how many classes there are.
CIFAR_LAYOUTS = {
    "cifar-10-batches-py": (
        [f"data_batch_{i}" for i in range(1, 6)],
        "test_batch",
        "batches.meta",
        10,
    ),
    "cifar-100-python": (["train"], "test", "meta", 100),
    "cifar-10-batches-bin": (
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test_batch.bin",
        "batches.meta.txt",
        10,
    ),
    "cifar-100-binary": (["train.bin"], "test.bin", "fine_label_names.txt", 100),
}


def write_cifar(root: Path, layout: str = "cifar-10-batches-py", per_file: int = 4) -> Path:
    folder = root / layout
    folder.mkdir(parents=True)
    train, test, meta, classes = CIFAR_LAYOUTS[layout]
    prefix = "fine_" if classes == 100 else ""
    for seed, name in enumerate([test, *train]):
        pixels = random_images(per_file, seed=seed)
        labels = [(seed + i) % classes for i in range(per_file)]
        if name.endswith(".bin"):
            data = binary_records(pixels, labels, b"\x07" if classes == 100 else b"")
        elif name == test:
            data = python2_pickle(flat(pixels), labels, f"{prefix}labels")
        else:  # as Python 3 would write it
            batch = {
                b"data": flat(pixels),
                f"{prefix}labels": labels,
                "coarse_labels": [0] * per_file,
            }
            data = pickle.dumps(batch, 2)
        (folder / name).write_bytes(data)
    names = [f"class{i}" for i in range(classes)]
    if meta.endswith("txt"):
        (folder / meta).write_text("\n".join(names) + "\n\n")
    else:
        (folder / meta).write_bytes(
            pickle.dumps({f"{prefix}label_names": [n.encode() for n in names]}, 2)
        )
    return folder


def pack_tar(folder: Path, suffix: str = ".tar.gz") -> Path:
    path = folder.with_name(folder.name + suffix)
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
        tar.add(folder, folder.name)
    return path


@pytest.mark.parametrize("packed", ["folder", ".tar.gz", ".tar"])
@pytest.mark.parametrize("layout", CIFAR_LAYOUTS)
def test_cifar_archives(tmp_path, layout, packed):
    folder = write_cifar(tmp_path, layout)
    path = folder if packed == "folder" else pack_tar(folder, packed)
    train, test, _, classes = CIFAR_LAYOUTS[layout]
    images = open_images(path, "test")
    assert np.array_equal(nhwc(images), random_images(4))
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert images.class_names == tuple(f"class{i}" for i in range(classes))
    kind = "binary" if test.endswith(".bin") else "python"
    seen = f"4 of {classes} classes"
    assert images.description == f"CIFAR-{classes} {kind}, test split, 4 images of 32x32x3, {seen}"
    images = open_images(path, "train")
    assert np.array_equal(
        nhwc(images), np.concatenate([random_images(4, seed=1 + i) for i in range(len(train))])
    )
    assert images.labels.tolist() == [1 + i + j for i in range(len(train)) for j in range(4)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=st.lists(st.integers(0, 99), min_size=1, max_size=5),
    coarse=st.integers(0, 19),
    seed=st.integers(0, 1000),
    layout=st.sampled_from(["cifar-10-batches-bin", "cifar-100-binary"]),
)
def test_binary_round_trip(tmp_path, labels, coarse, seed, layout):
    folder = tmp_path / layout
    folder.mkdir(exist_ok=True)
    _, test, _, classes = CIFAR_LAYOUTS[layout]
    labels = [label % classes for label in labels]
    pixels = random_images(len(labels), seed=seed)
    (folder / test).write_bytes(
        binary_records(pixels, labels, bytes([coarse]) if classes == 100 else b"")
    )
    images = open_images(folder, "test")
    assert images.labels.tolist() == labels
    assert np.array_equal(nhwc(images), pixels)
    assert images.class_names is None


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_pickle_that_would_run_code_is_refused(tmp_path, name):
    folder = write_cifar(tmp_path)
    marker = tmp_path / "ran"
    attack = pickle.dumps({"data": MakesFolder(marker)}, 2)
    pickle.loads(attack)
    assert marker.exists(), "the attack must work on plain pickle, or this test proves nothing"
    marker.rmdir()
    (folder / name).write_bytes(attack)
    for path in (folder, pack_tar(folder)):
        refused(IntegrityError, rf"{name} was refused, forbidden global (posix|nt).mkdir", path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "os.system",
        "numpy.load",
        "numpy.core.multiarray.fromfile",
        "numpy.f2py.run_main",
        "_codecs.decode",
    ],
)
def test_pickle_may_name_only_array_constructors(tmp_path, name):
    folder = write_cifar(tmp_path)
    module, attribute = name.rsplit(".", 1)
    (folder / "test_batch").write_bytes(f"c{module}\n{attribute}\n.".encode())
    refused(IntegrityError, f"forbidden global {name}:", folder)


def test_pickle_cannot_make_objects_of_raw_bytes(tmp_path):
    folder = write_cifar(tmp_path)
    # numpy.ndarray((1,), "O", buffer) would take eight bytes of the file as an object's address.
    array = b"cnumpy\nndarray\n(K\x01\x85X\x01\x00\x00\x00OC\x08" + b"\xff" * 8 + b"tR"
    batch = b"\x80\x03}(X\x04\x00\x00\x00data" + array + b"X\x06\x00\x00\x00labels](K\x00eu."
    (folder / "test_batch").write_bytes(batch)
    refused(IntegrityError, r"is not uint8 \[1, 3072\]", folder)


BATCH = {"data": flat(random_images(2)), "labels": [0, 1]}


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ([1, 2], "malformed"),
        ({"labels": [0, 1]}, "lacks data or labels"),
        ({"data": BATCH["data"]}, "lacks data or labels"),
        ({**BATCH, "labels": [0]}, r"not uint8 \[1, 3072\] for its 1 labels"),
        ({**BATCH, "labels": [0, 10]}, "labels that are not 0 to 9"),
        ({**BATCH, "labels": [0, -1]}, "labels that are not 0 to 9"),
        ({**BATCH, "labels": [0, "1"]}, "labels that are not 0 to 9"),
        ({**BATCH, "data": BATCH["data"].astype(np.float32)}, "not uint8"),
        ({**BATCH, "data": BATCH["data"].view(np.int8)}, "not uint8"),
        ({**BATCH, "data": BATCH["data"][:, :3000]}, "not uint8"),
    ],
)
def test_malformed_python_batches_are_refused(tmp_path, batch, match):
    folder = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(batch, 2))
    refused(IntegrityError, match, folder)


def test_other_python_batches(tmp_path):
    folder = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(
        pickle.dumps({**BATCH, "data": np.asfortranarray(BATCH["data"])}, 2)
    )
    assert np.array_equal(nhwc(open_images(folder, "test")), random_images(2))
    data = pickle.dumps(BATCH, 2)
    (folder / "test_batch").write_bytes(data[: len(data) // 2])
    refused(IntegrityError, "test_batch is cut", folder)
    (folder / "test_batch").write_bytes(python2_pickle(np.zeros((0, 3072), np.uint8), []))
    refused(UsageError, "has no images", folder)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat"]}, 2))
    refused(IntegrityError, "does not name 10 classes", folder)


def test_incomplete_binary_archives_are_refused(tmp_path):
    folder = write_cifar(tmp_path, "cifar-10-batches-bin")
    (folder / "data_batch_3.bin").unlink()
    refused(IntegrityError, r"lacks data_batch_3\.bin:", folder, "train")
    test = folder / "test_batch.bin"
    data = test.read_bytes()
    test.write_bytes(data[:-1])
    refused(IntegrityError, "not a multiple of 3073", folder)
    test.write_bytes(b"\x0a" + data[1:])
    refused(IntegrityError, r"test_batch\.bin has labels that are not 0 to 9", folder)
    test.write_bytes(b"")
    refused(UsageError, "has no images", folder)
    test.unlink()
    refused(NotFoundError, "no test split, only train:", folder)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_cut_tar_is_refused(tmp_path, suffix, kept):
    path = pack_tar(write_cifar(tmp_path, per_file=8), suffix)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refused(IntegrityError, "cut|lacks", path, "train")


def test_tar_of_something_else(tmp_path):
    (tmp_path / "notes" / "test").mkdir(parents=True)
    (tmp_path / "notes" / "a.txt").write_text("hello")
    refused(UsageError, "nothing recognised", pack_tar(tmp_path / "notes"))
    (tmp_path / "b.tar").write_bytes(b"hello" * 200)
    refused(IntegrityError, "cut", tmp_path / "b.tar")
