"""A set of labelled images, in memory or on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.readers import (
    ImageFiles,
    decode_image,
)
from zoo.errors import UsageError
from zoo.imagenet import imagenet_classes
from zoo.networks.preprocess import Preprocess, fit_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 [N, H, W, C]

    def decode(self, rows: np.ndarray, prep: Preprocess) -> np.ndarray:
        """Return the images of these rows as uint8 `[B, H, W, C]`."""
        (c, h, w), have = prep.input_size, self.pixels.shape[1:]
        sizes = f"images are {'x'.join(map(str, have))}, the network takes {h}x{w}x{c}"
        if prep.resize is None:
            if have != (h, w, c):
                raise UsageError(f"{sizes}: give images of that size, or set a resize")
            return self.pixels[rows]
        if have[2] > c:
            raise UsageError(f"{sizes}: give grey images, or use a network for colour")
        from PIL import Image

        def one(row: int) -> np.ndarray:
            image = Image.fromarray(
                self.pixels[row].squeeze(-1) if have[2] == 1 else self.pixels[row]
            )
            return fit_image(image, prep, "images are")

        return _stack(one, rows, prep)

    def size(self, row: int) -> tuple[int, int, int]:
        """Return channels, height and width of one image, as it is stored."""
        height, width, channels = self.pixels.shape[1:]
        return channels, height, width

    def contents(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yield the bytes that `ImageSet.sha256` hashes for these rows."""
        for start in range(0, len(rows), 1024):
            yield self.pixels[rows[start : start + 1024]].tobytes()


@dataclass(frozen=True)
class _Encoded:
    """The counterpart of `_Arrays` for image files in whatever holds them."""

    files: ImageFiles

    def decode(self, rows: np.ndarray, prep: Preprocess) -> np.ndarray:
        def one(file: tuple[str, bytes]) -> np.ndarray:
            name, data = file
            return fit_image(decode_image(name, data), prep, f"{name} is")

        return _stack(one, self.files.read(rows), prep)

    def size(self, row: int) -> tuple[int, int, int]:
        image = decode_image(*self.files.read(np.array([row]))[0])
        return (1 if image.mode in ("1", "L") else 3), image.height, image.width

    def contents(self, rows: np.ndarray) -> Iterator[bytes]:
        for start in range(0, len(rows), 256):
            yield from (data for _, data in self.files.read(rows[start : start + 256]))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images; `open_images` makes them.

    Attributes:
        labels: int64 `[N]`; -1 throughout for images without labels.
        class_names: in label order, where the source names them.
        description: one line for the user.
        source: the path or name that was opened.
        split: "train" or "test"; None where the source does not say.
    """

    labels: np.ndarray
    class_names: tuple[str, ...] | None
    description: str
    source: str
    split: str | None
    _store: _Arrays | _Encoded
    _rows: np.ndarray  # int64 [N], rows of the store

    def __len__(self) -> int:
        return len(self._rows)

    def size(self) -> tuple[int, int, int]:
        """Return channels, height and width of the first image, as it is stored."""
        return self._store.size(int(self._rows[0]))

    def take(self, n: int, seed: int | None) -> ImageSet:
        """Return the first n images, or with a seed n drawn without replacement.

        Of one seed a smaller n is a prefix of a larger one; an n above the size gives every image.

        Raises:
            UsageError: n is less than 1.
        """
        if n < 1:
            raise UsageError(f"cannot take {n} images: ask for 1 or more")
        order = (
            np.arange(len(self))
            if seed is None
            else np.random.default_rng(seed).permutation(len(self))
        )
        how = f"the first {n}" if seed is None else f"{n} drawn with seed {seed}"
        description = f"{self.description}; {how}" if n < len(self) else self.description
        chosen = order[:n]
        return replace(
            self, labels=self.labels[chosen], description=description, _rows=self._rows[chosen]
        )

    def for_classes(self, classes: int, names: Sequence[str] | None = None) -> ImageSet:
        """Return the images with the labels of a network of so many classes, perhaps with `names`.

        Where every class that has images is a class of the network by name, names decide: a folder
        with some of a network's classes is labelled right. A network of 1,000 classes without names
        has ImageNet's, if the folders are named by WordNet ids. Else the labels stay, if there are
        as many classes.

        Raises:
            UsageError: names contradict each other, or they are not the network's and not as many.
        """
        if self.class_names is None or self.labels.min(initial=0) < 0:
            return self
        seen = np.unique(self.labels)
        used = [self.class_names[label] for label in seen]
        if names is None and classes == 1000:
            names = imagenet_classes()
            names = names if set(used) <= set(names) else None
        often = Counter(names)
        label_of = {
            name: label for label, name in enumerate(names or ()) if often[name] == 1
        }  # ImageNet has two cranes
        if names is not None and set(used) <= label_of.keys():
            table = np.zeros(len(self.class_names), np.int64)
            table[seen] = [label_of[name] for name in used]
            return replace(self, labels=table[self.labels], class_names=tuple(names))
        if len(self.class_names) != classes:
            raise UsageError(
                f"{self.source} has {len(self.class_names)} named classes "
                f"({', '.join(used[:2])}, ...), the network {classes} and not all of these: add a "
                "wnids.json beside the folders, a list of the network's classes in its order"
            )
        for label, name in zip(seen.tolist(), used, strict=True):
            if label_of.get(name, label) != label:
                raise UsageError(
                    f"{self.source} has {name} as class {label}, the network as class "
                    f"{label_of[name]}, and other names differ: name all classes as the network "
                    "does"
                )
        return self

    def batch(self, indices: slice | Sequence[int] | np.ndarray, prep: Preprocess) -> torch.Tensor:
        """Return the images at these indices as contiguous uint8 `[B, C, H, W]`.

        Raises:
            UsageError: they do not have the network's size and `prep` does not resize.
            IntegrityError: an image file is damaged.
        """
        import torch

        pixels = self._store.decode(self._rows[indices], prep)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))

    def batches(
        self, prep: Preprocess, batch_size: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield every image in order: pixels uint8 `[B, C, H, W]`, labels int64 `[B]`.

        The last batch may be smaller.
        """
        import torch

        if batch_size < 1:
            raise UsageError(f"batch size {batch_size} is too small: use 1 or more")
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.batch(part, prep), torch.from_numpy(self.labels[part].copy())

    def sha256(self) -> str:
        """Return the sha256 over the images in order, then the int64 labels.

        Of arrays the uint8 NHWC pixels are hashed, of files the encoded image bytes.
        """
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for data in self._store.contents(self._rows):
            digest.update(data)
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def unlabelled(pixels: np.ndarray, description: str, source: str) -> ImageSet:
    """Return images without labels from an array, uint8 `[N, H, W, C]`."""
    rows = np.arange(len(pixels))
    return ImageSet(
        np.full(len(pixels), -1, np.int64), None, description, source, None, _Arrays(pixels), rows
    )


def _stack(one: Callable[[Any], np.ndarray], items: Iterable[Any], prep: Preprocess) -> np.ndarray:
    c, h, w = prep.input_size
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(one, items))
    return np.stack(images) if images else np.zeros((0, h, w, c), np.uint8)
