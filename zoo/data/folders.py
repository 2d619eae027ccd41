"""Reader of folders of image files: one folder per class, or flat with a list of labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from zoo.data.base import (
    AGAIN,
    Found,
    first_labelled,
    group_of,
    is_dropping,
    is_image,
    no_split,
    pick_splits,
    read_json,
    split_named,
)
from zoo.data.label_lists import bare_numbers, find_list
from zoo.errors import IntegrityError, UsageError

# Folders that only hold the images of what is around them: Tiny ImageNet's train/CLASS/images.
_PLAIN = frozenset(("images", "image", "imgs", "img", "jpegimages", "data"))

# How deep below a class its images are looked for, and below the path its splits.
_DEEP = 5

# More folders side by side are classes: splits are not looked for below them.
_WIDE = 64


@dataclass
class _Tree:
    """The image files below a folder, in order, and what else is there."""

    files: list[Path] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)  # suffixes of files that are no images


def read_image_folder(path: Path, split: str) -> Found | None:
    """Return the image files in one folder per class, with a list of labels, or without labels.

    A folder per split may be around the classes, and folders that hold nothing else around those.

    Raises:
        NotFoundError: there are splits, but not this one.
        UsageError: no image of a split for measuring has a label, or it cannot be told which.
        IntegrityError: a list of classes or of labels is malformed.
    """
    given = path.resolve()
    holder = _holder(given)
    if holder is None:
        found = _read_one(given, given, split)
        if found is not None and found.labels is None and split != "train":
            raise _no_labels(given)
        if found is not None and found.split in pick_splits(split, [found.split or ""]):
            found = replace(found, split=split)
        return found
    splits = _splits_in(holder)
    aliases = pick_splits(split, splits)
    if not aliases:
        raise no_split(path, split, splits)

    def read(alias: str) -> Found | None:
        found = _read_one(splits[alias], given, alias)
        return None if found is None else replace(found, split=split)

    found = first_labelled(given, split, ((alias, read(alias)) for alias in aliases))
    if found is not None and found.labels is None and split != "train":
        raise _no_labels(splits[aliases[0]])
    return found


def _no_labels(root: Path) -> UsageError:
    images = _tree(root).files
    if (numbers := bare_numbers(images, [root, root.parent])) is not None:
        return UsageError(
            f"{numbers} has numbers without the names of images (ILSVRC's devkit counts classes in "
            f"an order of its own): write a line `name label` for each image in {root}"
        )
    return UsageError(
        f"the images in {root} have no labels: put them in one folder per class, or a list beside "
        "them, labels.csv, with a line name,label for each"
    )


def _splits_in(path: Path) -> dict[str, Path]:
    """Return the folders of splits in a folder, by split; empty if its folders are classes."""
    folders = subfolders(path)
    splits: dict[str, Path] = {}
    for folder in folders:
        if (alias := split_named(folder.name)) is not None:
            splits.setdefault(alias, folder)
    # "train" may also be a class (Pascal VOC): one among others, with no folders of its own.
    several = len({group_of(alias) for alias in splits}) > 1
    if several or len(splits) == len(folders) or any(map(subfolders, splits.values())):
        return splits
    return {}


def _holder(path: Path) -> Path | None:
    """Return the folder that holds the splits: this one, or the only one below it; None: none."""
    level = [path]
    for _ in range(_DEEP):
        holders = [
            f for f in level if (parts := _splits_in(f)) and any(map(_has_images, parts.values()))
        ]
        if path in holders:
            return path
        if len(holders) > 1:
            names = ", ".join(str(f.relative_to(path)) for f in holders[:3])
            raise UsageError(
                f"{path} holds {len(holders)} folders with splits of their own ({names}): give one"
            )
        if holders:
            # Beside a class whose folder is in parts lie other classes.
            others = [f for f in level if f != holders[0] and _has_images(f)]
            return None if others else holders[0]
        level = [below for f in level if not _images_in(f) for below in subfolders(f)]
        if len(level) > _WIDE:
            return None
    return None


def _has_images(path: Path, deep: int = _DEEP) -> bool:
    """Return whether an image lies below; looks at the first of many files and folders alone."""
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)[:200]
    if any(is_image(e.name) and not is_dropping(e.name) and e.is_file() for e in entries):
        return True
    return deep > 0 and any(_has_images(f, deep - 1) for f in subfolders(path)[:20])


def _images_in(path: Path) -> list[Path]:
    return sorted(
        Path(entry)
        for entry in os.scandir(path)
        if is_image(entry.name) and not is_dropping(entry.name) and entry.is_file()
    )


def subfolders(path: Path) -> list[Path]:
    return sorted(
        Path(entry) for entry in os.scandir(path) if entry.is_dir() and not is_dropping(entry.name)
    )


def _tree(path: Path, deep: int = _DEEP, above: frozenset[Path] = frozenset()) -> _Tree:
    """Return what lies in a folder, its own files first, then those of each folder in it."""
    tree, own = _Tree(), []
    for entry in os.scandir(path):
        if is_dropping(entry.name) or not entry.is_file():
            continue
        if is_image(entry.name):
            own.append(Path(entry))
        else:
            tree.other[Path(entry.name).suffix.lower() or "no suffix"] += 1
    tree.files = sorted(own)
    if deep:
        above = above | {path.resolve()}
        for folder in subfolders(path):
            if folder.resolve() not in above:  # a link back up
                below = _tree(folder, deep - 1, above)
                tree.files += below.files
                tree.other += below.other
    return tree


def _read_one(root: Path, given: Path, split: str) -> Found | None:
    """Return the images of one split, or of a folder that has no splits."""
    stated = split_named(root.name)
    root = _innermost(root, stated)
    trees = {
        folder.name: _tree(folder, above=frozenset((root.resolve(),)))
        for folder in subfolders(root)
    }
    direct = _images_in(root)
    used = [name for name, tree in trees.items() if tree.files]
    if not used or (len(used) == 1 and used[0].lower() in _PLAIN and not direct):
        flat = trees[used[0]].files if used else direct
        return _read_flat(root, given, flat, split, stated) if flat else None
    files = tuple(file for tree in trees.values() for file in tree.files)
    names = _wnids((root, root.parent, given.parent), trees) or list(trees)
    if unlisted := [name for name in used if name not in names]:
        raise IntegrityError(
            f"{root} has classes that wnids.json does not list ({unlisted[0]}): rename or move them"
        )
    label_of = {name: label for label, name in enumerate(names)}
    labels = [label_of[name] for name, tree in trees.items() for _ in tree.files]
    notes = []
    if direct:
        notes.append(
            f"{root}: passed over {len(direct)} images in no class folder ({direct[0].name})"
        )
    if other := sum((tree.other for tree in trees.values()), Counter()):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in other.most_common(4))
        notes.append(
            f"{root}: passed over {sum(other.values())} files that are no images ({kinds})"
        )
    finer = _finer(root, files)
    return Found("image folder", _Files(files), labels, names, stated, tuple(notes), finer)


def _innermost(root: Path, stated: str | None) -> Path:
    """Return the folder that has the classes, below folders that hold nothing but it.

    Kaggle's archives repeat the split's name: training_set/training_set/cats.
    """
    for _ in range(_DEEP):
        used = [folder for folder in subfolders(root) if _has_images(folder)]
        if len(used) != 1 or _images_in(root) or _images_in(used[0]):
            return root
        below = [folder for folder in subfolders(used[0]) if _has_images(folder)]
        again = stated is not None and split_named(used[0].name) == stated
        if len(below) < 2 and not again:
            return root
        root = used[0]
    return root


def _finer(root: Path, files: tuple[Path, ...]) -> tuple[list[int], list[str]] | None:
    """Return labels and names of the innermost folders, if these are classes of their own."""
    tops = Counter(file.relative_to(root).parts[0] for file in files)
    leaves: dict[str, set[Path]] = {}
    for file in files:
        leaves.setdefault(file.parent.name, set()).add(file.parent)
    if len(leaves) <= len(tops) or any(len(places) > 1 for places in leaves.values()):
        return None
    names = sorted(leaves)
    label_of = {name: label for label, name in enumerate(names)}
    return [label_of[file.parent.name] for file in files], names


def _read_flat(root: Path, given: Path, files: list[Path], split: str, stated: str | None) -> Found:
    """Return images in one folder, with the labels of a list where there is one."""
    places = [files[0].parent, root, root.parent]
    places += [parent for parent in root.parents if parent.is_relative_to(given)]
    listed = find_list(files, places, split)
    if listed is None:
        return Found("images", _Files(tuple(files)), None, None, stated)
    notes = [f"labels from {listed.file}"]
    if len(listed.labels) < len(files):
        left = len(files) - len(listed.labels)
        notes.append(f"{root}: passed over {left} images that {listed.file.name} does not name")
        files = [file for file in files if file.name in listed.labels]
    texts = [listed.labels[file.name] for file in files]
    images = _Files(tuple(files))
    if all(text.removeprefix("-").isdecimal() for text in texts):
        return Found("images with a list", images, [*map(int, texts)], None, stated, tuple(notes))
    names = _wnids((root, root.parent, given.parent), texts) or sorted(set(texts))
    label_of = {name: label for label, name in enumerate(names)}
    if unlisted := [text for text in texts if text not in label_of]:
        raise IntegrityError(
            f"{listed.file} has classes that wnids.json does not list ({unlisted[0]}): correct them"
        )
    labels = [label_of[text] for text in texts]
    return Found("images with a list", images, labels, names, stated, tuple(notes))


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        try:
            return [(str(self.paths[row]), self.paths[row].read_bytes()) for row in rows]
        except OSError as error:
            raise IntegrityError(
                f"{error.filename} cannot be read any more ({error.strerror}): restore it"
            ) from None


def _wnids(places: Iterable[Path], classes: Iterable[str]) -> list[str] | None:
    file = next(
        (place / "wnids.json" for place in places if (place / "wnids.json").is_file()), None
    )
    wnids = read_json(file) if file else []
    if (
        not isinstance(wnids, list)
        or not all(isinstance(w, str) for w in wnids)
        or len(set(wnids)) != len(wnids)
    ):
        raise IntegrityError(f"{file} is not a list of different names: {AGAIN}")
    # A list beside the folder that names none of its classes belongs to another data set.
    return wnids if set(wnids).intersection(classes) else None
