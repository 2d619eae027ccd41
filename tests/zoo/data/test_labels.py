"""Labels become a network's by name, by number or by position, are said, and are never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.zoo.image_fixtures import encoded, random_images, write_parquet
from tests.zoo.spiking_fixtures import refuses
from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.imagenet import imagenet_classes

ANIMALS = ("ant", "bee", "cat", "dog")


def folders(root: Path, names: Sequence[str]) -> ImageSet:
    """An image set of one image in each class folder."""
    data = encoded(random_images(1, (4, 4, 3))[0])
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "x.png").write_bytes(data)
    return open_images(root, "test")


def label_by_folder(images: ImageSet) -> dict[str, int]:
    paths = images._store.files.paths  # type: ignore[union-attr]
    names = [path.parent.name for path in paths]
    return dict(zip(names, images.labels.tolist(), strict=True))


def label_by_file(images: ImageSet) -> dict[str, int]:
    paths = images._store.files.paths  # type: ignore[union-attr]
    return dict(zip([path.name for path in paths], images.labels.tolist(), strict=True))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("names", [None, tuple("abcdefghijkl")])
def test_numbered_folders_are_labelled_by_their_number(tmp_path, first, names):
    images = folders(tmp_path, [str(i + first) for i in range(12)]).for_classes(12, names)
    assert label_by_folder(images) == {str(i + first): i for i in range(12)}
    assert images.matched is not None
    assert images.matched.startswith(
        f"by number in the folder names ({first} to {11 + first}, counted from {first})"
    )
    # Sorted as text 10 comes before 2: that is what a network without names may have learnt.
    assert ("order as text" in images.matched) == (names is None)


def test_a_tree_as_imagenetv2_has_it_is_labelled_as_imagenet(tmp_path, shared):
    root = shared / "data" / "imagenet" / "val"
    named = open_images(root, "test").for_classes(1000, imagenet_classes())
    label_of = {wnid: label for label, wnid in enumerate(imagenet_classes())}
    for folder in root.iterdir():
        (tmp_path / str(label_of[folder.name])).symlink_to(folder)
    numbered = open_images(tmp_path, "test")
    # Some of 1,000 classes, 0 among them or not: numbers, counted from 0 if that is said.
    rule = "auto" if 0 in named.labels else "number"
    numbered = numbered.for_classes(1000, imagenet_classes(), rule)
    assert label_by_file(numbered) == label_by_file(named)
    assert numbered.class_names == imagenet_classes()


def test_numbers_that_could_mean_two_things_are_asked_for(tmp_path):
    images = folders(tmp_path, ["3", "7"])
    with refuses(UsageError, "from 0 or from 1: choose with `labels=number` or"):
        images.for_classes(10, None)
    assert images.for_classes(10, None, "number").labels.tolist() == [3, 7]
    assert images.for_classes(10, None, "number-from-1").labels.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("names", "classes", "match"),
    [
        ([str(10 * i) for i in range(11)], 11, "numbered 0 to 100, which are not"),
        ([f"class_{i}" for i in range(11)], 11, "order as numbers and as text differ"),
        ([f"s{i}" for i in range(1, 12)], 11, "order as numbers and as text differ"),
    ],
)
def test_numbers_that_fit_in_no_way_are_refused(tmp_path, names, classes, match):
    images = folders(tmp_path, names)
    with refuses(UsageError, f"{match}.*`labels=position`"):
        images.for_classes(classes)
    by_position = images.for_classes(classes, None, "position")
    assert label_by_folder(by_position) == {name: i for i, name in enumerate(sorted(names))}
    assert by_position.matched == "by position"


def test_numbers_behind_one_word_count_where_that_is_said(tmp_path):
    images = folders(tmp_path, [f"class_{i}" for i in range(11)]).for_classes(11, None, "number")
    assert label_by_folder(images) == {f"class_{i}": i for i in range(11)}


def test_padded_numbers_need_no_choice(tmp_path):
    images = folders(tmp_path, [f"c{i:02d}" for i in range(12)]).for_classes(12)
    assert images.labels.tolist() == list(range(12))


@pytest.mark.parametrize(
    "names",
    [
        ["Ant", "Bee", "CAT", "dog"],
        ["0_ant", "1_bee", "2_cat", "3_dog"],
        ["007.ant", "012.dog", "100.bee"],
    ],
)
def test_names_in_other_spellings_are_the_networks(tmp_path, names):
    images = folders(tmp_path, names).for_classes(4, ANIMALS)
    spelt = {name: ANIMALS.index(name.lower().split("_")[-1].split(".")[-1]) for name in names}
    assert label_by_folder(images) == spelt
    assert images.matched is not None and images.matched.startswith("by name, ")


def test_words_behind_a_wordnet_id_are_set_aside(tmp_path):
    images = folders(tmp_path, ["n01440764-tench", "n15075141_toilet_tissue"]).for_classes(1000)
    assert images.labels.tolist() == [0, 999] and images.matched == "by WordNet id"


def test_two_spellings_of_one_class_are_not_one(tmp_path):
    with refuses(UsageError, "wnids.json"):
        folders(tmp_path, ["Dog", "dog", "bee"]).for_classes(4, ANIMALS)


@pytest.mark.parametrize(
    "names", [["eins", "zwei", "drei", "vier"], ["w", "x", "y", "z"], ["ant 1", "ant 2", "b", "c"]]
)
def test_none_of_a_networks_names_is_refused(tmp_path, names):
    images = folders(tmp_path, names)
    with refuses(UsageError, r"not all are the network's \(ant, bee, \.\.\.\).*`labels=position`"):
        images.for_classes(4, ANIMALS)
    with refuses(UsageError, "not all are the network's"):
        images.for_classes(4, ANIMALS, "names")
    with refuses(UsageError, "names are no numbers|are not the network's"):
        images.for_classes(4, ANIMALS, "number")
    placed = images.for_classes(4, ANIMALS, "position")
    assert placed.labels.tolist() == [0, 1, 2, 3] and placed.class_names == ANIMALS


def test_numbers_against_a_network_named_by_numbers(tmp_path):
    images = folders(tmp_path, [str(i) for i in range(1, 11)])
    with refuses(UsageError, "has 1 as class 0, the network as class 1"):
        images.for_classes(10, tuple("0123456789"))


def test_the_rest_of_the_names_at_their_places(tmp_path):
    images = folders(tmp_path, ["ant", "bee", "cats", "dog"]).for_classes(4, ANIMALS)
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert images.matched == "by position (3 of 4 names are the network's, at their places)"


def test_a_folder_without_images_is_no_class_of_a_network_of_fewer(tmp_path):
    images = folders(tmp_path, ["cat", "dog"])
    (tmp_path / "annotations").mkdir()
    images = open_images(tmp_path, "test").for_classes(2)
    assert images.labels.tolist() == [0, 1]
    assert images.matched == "by position (2 folders that have images, 1 have none in order)"


def test_classes_in_folders_of_folders(tmp_path):
    """Superclass and class, as some give CIFAR-100: what the network knows decides which it is."""
    names = ["big/cat", "big/dog", "small/ant", "small/bee"]
    images = folders(tmp_path, names)
    assert images.class_names == ("big", "small")
    assert label_by_folder(images.for_classes(4, ANIMALS)) == {
        "cat": 2,
        "dog": 3,
        "ant": 0,
        "bee": 1,
    }
    assert images.for_classes(2).labels.tolist() == [0, 0, 1, 1]
    four = images.for_classes(4)
    assert four.matched == "by position (4 names of the innermost folders in order)"
    assert images.take(2, 0).for_classes(4, ANIMALS).labels.tolist() == [
        images.for_classes(4, ANIMALS).labels[i]
        for i in np.random.default_rng(0).permutation(4)[:2]
    ]


def test_parts_of_classes_are_no_classes(tmp_path):
    images = folders(tmp_path, ["a/part1", "a/part2", "a/part3", "b/part1"])
    with refuses(UsageError, "has 2 named classes .a, b., the network 3"):
        images.for_classes(3)
    assert images.for_classes(2).labels.tolist() == [0, 0, 0, 1]


def test_a_draw_is_labelled_as_the_whole_set_is(tmp_path):
    images = folders(tmp_path, [str(i) for i in range(12)])
    drawn = images.take(3, 1).for_classes(12)
    assert drawn.labels.tolist() == images.for_classes(12).take(3, 1).labels.tolist()
    letters = tuple("abcdefghijkl")
    named = images.for_classes(12, letters)
    assert named.for_classes(12, letters).matched == named.matched != "by name"
    again = drawn.for_classes(12)
    assert (again.labels.tolist(), again.matched) == (drawn.labels.tolist(), drawn.matched)


def test_labels_without_names_are_as_stored(tmp_path):
    np.savez(tmp_path / "a.npz", x=random_images(3), y=[1, 2, 3])
    images = open_images(tmp_path / "a.npz", "test")
    assert images.for_classes(4).matched == "as stored (1 to 3, 3 of the network's 4 classes)"
    with refuses(UsageError, "count from 1, say so with `labels=number-from-1`"):
        images.for_classes(3)
    assert images.for_classes(3, None, "number-from-1").labels.tolist() == [0, 1, 2]
    with refuses(UsageError, "does not name its classes"):
        images.for_classes(4, ANIMALS, "names")
    with refuses(UsageError, "unknown labels 'guess': use one of auto, names"):
        images.for_classes(4, None, "guess")  # type: ignore[arg-type]


def test_names_that_parquet_gives_are_matched_as_folders_are(tmp_path):
    path = write_parquet(
        tmp_path / "a.parquet", random_images(3), [0, 1, 2], names=["1", "2", "10"]
    )
    with refuses(UsageError, "numbered 1 to 10, which are not the network's 0 to 2|of a network"):
        open_images(path, "test").for_classes(3, ("a", "b", "c"))
    assert open_images(path, "test").for_classes(10).labels.tolist() == [0, 1, 9]
