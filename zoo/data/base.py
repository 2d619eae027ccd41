"""What the readers of image sets share: what they return, names of splits, how errors read."""

from __future__ import annotations

import io
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zoo.errors import IntegrityError, NotFoundError, ZooError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from PIL import Image

# Each split with the names that sources give it, most usual first.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation", "val", "validation", "valid"),
}

# Names of one part of a set that are asked for by any of them.
_SAME = (("train", "training"), ("test", "testing"), ("val", "validation", "valid"))

_SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}

# Words beside the split's name in the name of a folder: training_set, seg_test, partial-train.
_BESIDE = frozenset(
    ("set", "sets", "split", "image", "images", "img", "imgs", "data", "dataset", "folder")
    + ("seg", "partial")
)

AGAIN = "download or copy it again"

# Formats whose files Pillow opens without being able to draw them, or by a program beside it.
_NO_IMAGES = frozenset(("BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"))

# Files and folders that systems leave beside data.
_DROPPINGS = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "__pycache__", "$recycle.bin")
)


class ImageFiles(Protocol):
    """Encoded images in whatever holds them."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        """Return the image files of these rows, each with the name that messages give it."""


@dataclass(frozen=True)
class Found:
    """Images as a reader returns them; labels and names are as they were stored.

    Attributes:
        kind: the form, for the user.
        images: uint8 [N, H, W, C], or image files.
        labels: one per image; None: the images have none.
        names: the classes in label order; None: the source does not name them.
        split: "train", "test" or the name that was asked for; None: the source does not say.
        notes: lines for the user about what was assumed and what was passed over.
        finer: labels and names of the innermost folders, where classes lie in folders of folders.
    """

    kind: str
    images: np.ndarray | ImageFiles
    labels: Any
    names: Any
    split: str | None
    notes: tuple[str, ...] = ()
    finer: tuple[list[int], list[str]] | None = None

    @property
    def labelled(self) -> bool:
        """Return whether any image has a label; -1 throughout is how hubs mark that none has."""
        if self.labels is None:
            return False
        values = np.asarray(self.labels)
        return values.dtype.kind not in "iu" or values.size == 0 or bool((values != -1).any())


def split_named(name: str) -> str | None:
    """Return the split that a folder's name is, such as "val" for Val or "training" for
    training_set; None for any other name."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word and word not in _BESIDE]
    return words[0] if len(words) == 1 and words[0] in _SPLIT_OF else None


def split_in(name: str) -> str | None:
    """Return the one split that a file's name has as a word, as in imagenet-train-003.tar."""
    words = set(re.split(r"[\W\d_]+", name.lower())) & _SPLIT_OF.keys()
    return words.pop() if len(words) == 1 else None


def group_of(alias: str) -> str:
    """Return "train" or "test", of which `alias` is a name; any other name is its own."""
    return _SPLIT_OF.get(alias, alias)


def pick_splits(split: str, present: Iterable[str]) -> list[str]:
    """Return which of the names that a set has are meant by `split`, best first."""
    have = list(present)
    same = next((names for names in _SAME if split in names), (split,))
    return [name for name in SPLITS.get(split, same) if name in have]


def no_split(path: Path | str, split: str, present: Iterable[str]) -> NotFoundError:
    have = " and ".join(sorted(present)) or "none"
    return NotFoundError(
        f"{path} has no {split} split, only {have}: ask for one it has, or give another path"
    )


def first_labelled(
    path: Path, split: str, candidates: Iterable[tuple[str, Found | None]]
) -> Found | None:
    """Return the first of the candidates (name of the split, its images) that has labels.

    Of candidates without labels the first is returned, for calibration. A note says which part was
    taken where it is not the first.
    """
    passed: list[tuple[str, Found]] = []
    for alias, found in candidates:
        if found is None:
            continue
        if found.labelled:
            if not passed:
                return found
            without = " and ".join(name for name, _ in passed)
            note = f"{path}: {without} has no labels, so {alias} is used"
            return replace(found, split=alias, notes=(note, *found.notes))
        passed.append((alias, found))
    return passed[0][1] if passed else None


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the image files that Pillow reads."""
    from PIL import Image

    Image.init()
    read = {
        suffix
        for suffix, form in Image.EXTENSION.items()
        if form in Image.OPEN and form not in _NO_IMAGES
    }
    # torchvision's list, whatever this Pillow reads: none of it is passed over.
    usual = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
    return frozenset((*read, *usual))


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in image_suffixes()


def is_dropping(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left there by a system."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def decode_image(name: str, data: bytes) -> Image.Image:
    """Return the image in these bytes, which messages call `name`.

    Raises:
        IntegrityError: it is damaged, too large, or has more than 8 bits per channel.
    """
    from PIL import Image, UnidentifiedImageError

    with reading(name):
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
        except UnidentifiedImageError:
            raise ValueError("its bytes are of no image format that Pillow reads") from None
        except Image.DecompressionBombError as error:
            sizes = re.findall(r"\d+", str(error))
            raise IntegrityError(
                f"{name} has {sizes[0]} pixels, more than the {sizes[1]} that are decoded, as a "
                "guard against files that fill the memory: save it smaller"
            ) from None
    if image.mode[0] in "IF":
        raise IntegrityError(
            f"{name} has more than 8 bits per channel ({image.mode}): save it with 8"
        )
    return image


def read_json(file: Path) -> Any:
    """Return what the file holds; None where there is no such file."""
    if not file.is_file():
        return None
    with reading(file):
        return json.loads(file.read_bytes())


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn whatever a parser raises on damaged bytes into an IntegrityError.

    The exceptions of the parsers share no base class.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise IntegrityError(f"{name} is cut, altered or malformed ({why}): {AGAIN}") from None
