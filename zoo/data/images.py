"""A set of labelled images, in memory or on disk."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.data.base import ImageFiles, decode_image
from zoo.data.labels import Named, match_labels, match_numbers
from zoo.data.rule import LabelRule
from zoo.errors import IntegrityError, UsageError
from zoo.networks.preprocess import Preprocess, fit_image
from zoo.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import torch


# Image files that are held at a time while all of a set are tried.
_AT_ONCE = 64


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 [N, H, W, C]
    prepared: bool = False  # whether pixels of the network's size are its input as they are

    def decode(self, rows: np.ndarray, prep: Preprocess) -> np.ndarray:
        """Return the images of these rows as uint8 `[B, H, W, C]`."""
        (c, h, w), have = prep.input_size, self.pixels.shape[1:]
        sizes = f"images are {'x'.join(map(str, have))}, the network takes {h}x{w}x{c}"
        if prep.resize is None or (self.prepared and have == (h, w, c)):
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

    def problems(self, rows: np.ndarray) -> dict[int, str]:
        """Return why images of these rows cannot be decoded, by position in `rows`."""

        def alone(row: int) -> str | None:
            try:
                return _problem(self.files.read(np.array([row]))[0])
            except IntegrityError as error:
                return _short(error)

        try:
            files = self.files.read(rows)
        except IntegrityError:  # of one of them
            found = [alone(row) for row in rows]
        else:
            with ThreadPoolExecutor() as pool:
                found = list(pool.map(_problem, files))
        return {i: why for i, why in enumerate(found) if why is not None}

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
        split: "train", "test" or another name that was asked for; None where the source does not
            say.
        notes: lines for the user about what was assumed and what was passed over.
        matched: how the labels became a network's, such as "by name"; None: they are the source's.
    """

    labels: np.ndarray
    class_names: tuple[str, ...] | None
    description: str
    source: str
    split: str | None
    _store: _Arrays | _Encoded
    _rows: np.ndarray  # int64 [N], rows of the store
    notes: tuple[str, ...] = ()
    matched: str | None = None
    # Labels and names of the innermost folders, where they are other classes than `labels`.
    _finer: tuple[np.ndarray, tuple[str, ...]] | None = None
    # Labels that have images in the whole set; None: it is whole.
    _seen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def prepared(self) -> bool:
        """Whether these are arrays of a program, which are input as they are if the size fits."""
        return isinstance(self._store, _Arrays) and self._store.prepared

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
        return replace(self._chosen(order[:n]), description=description)

    def for_classes(
        self, classes: int, names: Sequence[str] | None = None, labels: LabelRule = "auto"
    ) -> ImageSet:
        """Return the images with the labels of a network of so many classes, perhaps with `names`.

        `matched` of the result says how they were found: by name, by number or by position, as
        `zoo.data.labels.match_labels` does it. Images without labels stay as they are.

        Args:
            labels: the only way to try; "auto" tries each and refuses what could mean two things.

        Raises:
            UsageError: names contradict each other, or they are not the network's and not as many.
        """
        if len(self) == 0 or self.labels.min() < 0:
            return self
        if self.class_names is None:
            match = match_numbers(self.labels, self._classes_seen(), classes, labels, self.source)
        else:
            match = match_labels(self.source, self._candidates(), classes, names, labels)
        again = self.matched is not None and np.array_equal(match.labels, self.labels)
        return replace(
            self,
            labels=match.labels,
            class_names=match.names,
            matched=self.matched if again else match.how,
            _finer=None,
            _seen=match.seen,
        )

    def without_labels(self, why: str) -> ImageSet:
        """Return the images without labels and names of classes; `matched` says why."""
        return replace(
            self,
            labels=np.full(len(self), -1),
            class_names=None,
            matched=why,
            _finer=None,
            _seen=None,
        )

    def _classes_seen(self) -> np.ndarray:
        return np.unique(self.labels) if self._seen is None else self._seen

    def _candidates(self) -> list[Named]:
        """Return the classes as they are, as the innermost folders, and without empty ones."""
        assert self.class_names is not None
        folders = self.description.startswith("image folder")
        seen = self._classes_seen()
        what = f"{'folder' if folders else 'class'} names"
        found = [Named(self.labels, self.class_names, what, seen)]
        if self._finer is not None:
            every = np.arange(len(self._finer[1]))
            found.append(Named(*self._finer, "names of the innermost folders", every))
        if folders and len(seen) < len(self.class_names):
            used = [self.class_names[label] for label in seen]
            what = f"folders that have images, {len(self.class_names) - len(used)} have none"
            labels = np.searchsorted(seen, self.labels)
            found.append(Named(labels, used, what, np.arange(len(used))))
        return found

    def unreadable(self, start: int, stop: int, progress: Progress | None = None) -> dict[int, str]:
        """Return which images from `start` to `stop` cannot be decoded, and why, by index.

        Every one is decoded; of arrays none can be damaged.
        """
        found: dict[int, str] = {}
        for first in range(start, stop, _AT_ONCE):
            if isinstance(self._store, _Arrays):
                break
            last = min(first + _AT_ONCE, stop)
            why = self._store.problems(self._rows[first:last])
            found.update((first + i, reason) for i, reason in why.items())
            if progress is not None:
                progress("trying images", last - start, stop - start)
        return found

    def decodable(
        self, count: int, seed: int, progress: Progress | None = None
    ) -> tuple[ImageSet, str | None]:
        """Return a set whose first `count` images of a draw can be decoded, and what was left out.

        Only as many images are tried as are needed. Where one is damaged the set becomes those that
        were found to be sound; its description counts and names the others, as the text does.

        Args:
            count: how many are needed; fewer come if there are no more.
            seed: of the draw, as in `take`.

        Raises:
            UsageError: none can be decoded.
        """
        order, bad, tried = self.take(len(self), seed), dict[int, str](), 0
        while tried < min(count + len(bad), len(order)):
            stop = min(count + len(bad), len(order))
            bad |= order.unreadable(tried, stop, progress)
            tried = stop
        if not bad:
            return self, None
        sound = order._chosen(np.arange(tried)).without(bad)
        return sound, f"{self.source}: {sound.description.removeprefix(f'{self.description}; ')}"

    def without(self, bad: Mapping[int, str]) -> ImageSet:
        """Return the images without those at some indices; the description counts and names them.

        Args:
            bad: why they are left out, by index.

        Raises:
            UsageError: none would be left.
        """
        if not bad:
            return self
        count = len(self)
        if len(bad) == count:
            raise UsageError(
                f"{self.source}: none of its {count} images can be decoded: replace it"
            )
        some = "; ".join(bad[i] for i in sorted(bad)[:3]) + ("; ..." if len(bad) > 3 else "")
        kept = np.delete(np.arange(count), sorted(bad))
        description = (
            f"{self.description}; {len(bad)} of {count} images skipped, {len(kept)} left ({some})"
        )
        return replace(self._chosen(kept), description=description)

    def _chosen(self, rows: np.ndarray) -> ImageSet:
        finer = None if self._finer is None else (self._finer[0][rows], self._finer[1])
        seen = self._classes_seen()
        return replace(
            self, labels=self.labels[rows], _rows=self._rows[rows], _finer=finer, _seen=seen
        )

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


def _problem(file: tuple[str, bytes]) -> str | None:
    """Return why an image cannot be decoded, for a list: no folders and no advice."""
    name, data = file
    try:
        decode_image(name.rpartition("/")[2], data)
    except IntegrityError as error:
        return _short(error)
    return None


def _short(error: IntegrityError) -> str:
    return re.sub(r"^/?(?:[^/()]*/)+", "", str(error).rpartition(": ")[0])


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
