"""Labels of a flat folder of images from the list that comes with it: val.txt, labels.csv, ...

A list has a line per image: its file's name and a label, in any usual order and form.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

from zoo.data.base import is_dropping, pick_splits, reading, split_in
from zoo.errors import UsageError

_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")

# Lists of Kaggle's ILSVRC lie beside the folder that holds everything, some levels up.
_FAR = "LOC_val_solution.csv"
_LEVELS = 5

_LARGEST = 2**28  # bytes: ImageNet's training images fill 60 MB

# Heads of the column with the label, letters and digits alone, most exact first.
_LABEL = (
    *("label", "labels", "class", "classid", "classlabel", "target", "category", "categoryid"),
    *("predictionstring", "wnid", "synset", "classname", "y"),
)


@dataclass(frozen=True)
class Listed:
    """What a list says.

    Attributes:
        file: the list.
        labels: label as text, by image's file name; some images may be missing.
    """

    file: Path
    labels: dict[str, str]


def find_list(images: list[Path], places: list[Path], split: str) -> Listed | None:
    """Return the list of labels of these images, in the nearest of the folders `places`.

    A list named after another split (train.txt for test) is not it; one named after this may leave
    images out, which then belong to other splits.

    Raises:
        UsageError: two lists contradict each other, or one names some of the images alone.
    """
    names = {image.name: image.name for image in images}
    stems: dict[str, str | None] = {}
    for image in images:
        stems[image.stem] = None if image.stem in stems else image.name
    keys = {**{stem: name for stem, name in stems.items() if name}, **names}
    for place in dict.fromkeys(places):
        whole: list[Listed] = []
        partly: list[Listed] = []
        for file in _files(place):
            stated = split_in(file.name)
            if stated is not None and not pick_splits(split, [stated]):
                continue
            listed = Listed(file, _read(file, keys))
            if len(listed.labels) == len(images):
                whole.append(listed)
            elif listed.labels:
                partly.append(listed)
        if len({tuple(sorted(listed.labels.items())) for listed in whole}) > 1:
            raise UsageError(
                f"{whole[0].file} and {whole[1].file.name} give images different labels: keep one"
            )
        if whole:
            return whole[0]
        named = [listed for listed in partly if split_in(listed.file.name)]
        if named:
            return max(named, key=lambda listed: len(listed.labels))
        if partly:
            most = max(partly, key=lambda listed: len(listed.labels))
            raise UsageError(
                f"{most.file} has labels for {len(most.labels)} of the {len(images)} images in "
                f"{images[0].parent}: complete it, or move the other images away"
            )
    return None


def bare_numbers(images: list[Path], places: list[Path]) -> Path | None:
    """Return a file beside the images that has a number for each of them, and no names."""
    for place in dict.fromkeys(places):
        for file in _files(place):
            with reading(file):
                text = file.read_text(errors="replace")
            lines = text.split()
            if len(lines) == len(images) and all(line.isdecimal() for line in lines):
                return file
    return None


def _files(place: Path) -> list[Path]:
    files = [file for file in place.iterdir() if not is_dropping(file.name) and file.is_file()]
    if place.name in ("CLS-LOC", "ILSVRC"):
        above = [parent / _FAR for parent in place.parents[:_LEVELS]]
        files += [file for file in above if file.is_file()][:1]
    return sorted(
        file
        for file in files
        if file.suffix.lower() in _SUFFIXES and file.stat().st_size <= _LARGEST
    )


def _read(file: Path, keys: dict[str, str]) -> dict[str, str]:
    """Return label by image's file name; `keys` maps what a list may call an image to that."""
    with reading(file), file.open(errors="replace", newline="") as opened:
        if file.suffix.lower() == ".jsonl":
            rows = _json_rows(opened.read().splitlines())
        else:
            lines = opened.read().splitlines()
            rows = _rows([line for line in lines if line.strip()])
    head: list[str] | None = None
    labels: dict[str, str] = {}
    for number, cells in enumerate(rows):
        at = next((i for i, cell in enumerate(cells[:6]) if _key(cell) in keys), None)
        if at is None:
            if number == 0:
                head = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in cells]
            continue
        column = next((head.index(name) for name in _LABEL if head and name in head), None)
        if column is None:
            column = at + 1 if at + 1 < len(cells) else at - 1
        if 0 <= column < len(cells) and cells[column].strip():
            # Kaggle's PredictionString has boxes behind the class.
            labels.setdefault(keys[_key(cells[at])], cells[column].split()[0])
    return labels


def _key(cell: str) -> str:
    return cell.strip().replace("\\", "/").rpartition("/")[2]


def _rows(lines: list[str]) -> list[list[str]]:
    if not lines:
        return []
    mark = next((mark for mark in "\t;," if mark in lines[0]), None)
    if mark is None:
        return [line.split() for line in lines]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]


def _json_rows(lines: list[str]) -> list[list[str]]:
    """Return the rows of a .jsonl as a table, the head first."""
    values = [json.loads(line) for line in lines if line.strip()]
    values = [value for value in values if isinstance(value, dict)]
    if not values:
        return []
    head = list(values[0])
    return [head, *([str(value.get(key, "")) for key in head] for value in values)]
