"""Images that a program has in memory: tensors, arrays, PIL images, data sets and loaders."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.data.images import ImageSet, _Arrays, _Encoded
from zoo.errors import UsageError

_FORMS = (
    "uint8 images as a tensor [B, C, H, W], a numpy array [B, H, W, C], PIL images, a pair of "
    "images and labels, or a data set or loader that yields such pairs"
)
_IMAGE_KEYS, _LABEL_KEYS = ("image", "img", "pixel_values", "images"), ("label", "labels", "target")


@dataclass(frozen=True)
class _Pictures:
    """PIL images as image files."""

    images: Sequence[Any]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: np.ndarray) -> list[tuple[str, bytes]]:
        return [(f"image {row}", _png(self.images[row])) for row in rows.tolist()]


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.convert("L" if image.mode in ("1", "L") else "RGB").save(file, "PNG")
    return file.getvalue()


def image_set(
    images: Any,
    *,
    limit: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageSet:
    """Return images in memory as an ImageSet; an ImageSet as it is.

    Float images are taken where they are whole pixels divided by 255, perhaps normalised with
    `mean` and `std`: then the pixels are known exactly.

    Args:
        images: a uint8 tensor `[B, C, H, W]` or array `[B, H, W, C]`; PIL images; a pair of such
            images and integer labels `[B]`; or an iterable of images, pairs or mappings with
            `image` and `label`, one at a time or in batches, as torch's data sets and loaders are.
        limit: most images to read from an iterable; default: all.
        mean, std: per channel, that float images were normalised with.

    Raises:
        UsageError: anything else, with the mistake named.
    """
    if isinstance(images, ImageSet):
        return images
    kind = type(images).__name__
    if images is None or isinstance(images, str | bytes | Mapping):
        raise UsageError(f"images cannot be {kind}: give {_FORMS}")
    names = _class_names(images)
    parts: Iterable[Any]
    if _is_array(images) or _is_picture(images):
        parts = [(images, None)]
    elif _is_pair(images):
        parts, kind = [tuple(images)], type(images[0]).__name__
    else:
        parts = _pairs(images, kind)
    pixels: list[np.ndarray] = []
    pictures: list[Any] = []
    labels: list[int] = []
    count = 0
    for image, label in parts:
        more = _pictures(image)
        if more is not None:
            pictures += more
        else:
            pixels.append(_as_bytes(image, mean, std))
        size = len(more) if more is not None else len(pixels[-1])
        labels += _labels(label, size)
        count += size
        if limit is not None and count >= limit:
            break
    if pixels and pictures:
        raise UsageError("images are arrays and PIL images at once: give one of them")
    if not count:
        raise UsageError(f"{kind} has no images: give {_FORMS}")
    shapes = {part.shape[1:] for part in pixels}
    if len(shapes) > 1:
        first, second = ("x".join(map(str, shape)) for shape in sorted(shapes)[:2])
        raise UsageError(f"images are {first} and {second}: resize them, or give PIL images")
    count = min(count, limit or count)
    known = np.asarray(labels[:count], np.int64)
    if known.min() < 0 and known.max() >= 0:
        raise UsageError("some images have labels and some have none: give all or none")
    if names is not None and known.max() >= len(names):
        raise UsageError(f"a label is {known.max()} of {len(names)} classes: correct the labels")
    store: _Arrays | _Encoded
    if pixels:
        store = _Arrays(np.concatenate(pixels)[:count], prepared=True)
        size_text = f" of {'x'.join(map(str, store.pixels.shape[1:]))}"
    else:
        store, size_text = _Encoded(_Pictures(pictures[:count])), ""
    seen = len(np.unique(known[known >= 0]))
    description = f"{kind}, {count} images{size_text}" + (
        f", {seen} classes" if seen else ", no labels"
    )
    return ImageSet(known, names, description, kind, None, store, np.arange(count))


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _is_picture(value: Any) -> bool:
    return hasattr(value, "convert") and hasattr(value, "getbands")


def _is_pair(value: Any) -> bool:
    """Return whether a value is images and their labels, not two images."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    images, labels = value
    numbers = isinstance(labels, list | tuple) and not any(
        _is_picture(one) or isinstance(one, list | tuple) or getattr(one, "ndim", 0)
        for one in labels
    )
    numbers = numbers or isinstance(labels, int) or (_is_array(labels) and labels.ndim <= 1)
    return numbers and (
        _is_array(images) or _is_picture(images) or isinstance(images, list | tuple)
    )


def _pairs(images: Any, kind: str) -> Iterator[tuple[Any, Any]]:
    """Yield images with their labels, None for none, from an iterable or a data set by index."""
    items = images
    if not isinstance(images, Iterable):
        if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
            raise UsageError(f"images cannot be {kind}: give {_FORMS}")
        # A data set by index need not say where it ends.
        items = (images[index] for index in range(len(images)))
    for item in items:
        if isinstance(item, Mapping):
            image = next((item[key] for key in _IMAGE_KEYS if key in item), None)
            if image is None:
                raise UsageError(f"{kind} yields {', '.join(map(str, item))}: name one image")
            yield image, next((item[key] for key in _LABEL_KEYS if key in item), None)
        elif _is_array(item) or _is_picture(item):
            yield item, None
        elif isinstance(item, tuple | list) and len(item) >= 2:
            yield item[0], item[1]
        else:
            raise UsageError(f"{kind} yields {type(item).__name__}: give {_FORMS}")


def _pictures(image: Any) -> list[Any] | None:
    """Return PIL images as a list; None for arrays."""
    if _is_picture(image):
        return [image]
    if isinstance(image, list | tuple) and image and all(map(_is_picture, image)):
        return list(image)
    return None


def _labels(label: Any, count: int) -> list[int]:
    if label is None:
        return [-1] * count
    values = np.asarray(label)
    if values.dtype.kind not in "iu" or values.size != count or values.ndim > 1:
        raise UsageError(
            f"labels are {values.dtype} {list(values.shape)} for {count} images: give one integer "
            "for each"
        )
    if values.min() < 0:
        raise UsageError(f"a label is {values.min()}: labels begin at 0; leave them out for none")
    return [int(value) for value in values.reshape(-1)]


def _class_names(images: Any) -> tuple[str, ...] | None:
    """Return what torchvision's data sets call `classes`, also of the data set in a loader."""
    for holder in (images, getattr(images, "dataset", None)):
        names = getattr(holder, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return None


def _as_bytes(image: Any, mean: Sequence[float] | None, std: Sequence[float] | None) -> np.ndarray:
    """Return images as uint8 `[N, H, W, C]`."""
    if isinstance(image, list | tuple):
        if not image:
            return np.zeros((0, 1, 1, 3), np.uint8)
        return np.concatenate([_as_bytes(one, mean, std) for one in image])
    tensor = hasattr(image, "detach")
    values = image.detach().cpu().numpy() if tensor else np.asarray(image)
    shape = list(values.shape)
    if values.ndim == 2 or (values.ndim == 3 and shape[0 if tensor else -1] in (1, 3)):
        values = values[None] if values.ndim == 3 else values[None, ..., None]
        tensor = tensor and len(shape) == 3
    if values.ndim == 3:
        values = values[..., None]  # grey images [N, H, W]
    elif values.ndim == 4 and (tensor or shape[-1] not in (1, 3)) and values.shape[1] in (1, 3):
        values = values.transpose(0, 2, 3, 1)
    if values.ndim != 4 or values.shape[3] not in (1, 3) or 0 in values.shape[1:]:
        raise UsageError(f"images are {values.dtype} {shape}: give {_FORMS}")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise UsageError(f"images are {values.dtype} {shape}: give uint8 pixels, 0 to 255")
    return _whole_pixels(values.astype(np.float64), mean, std)


def _whole_pixels(
    values: np.ndarray, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    """Return float images as the uint8 pixels that they were made from."""
    ways = [(0.0, 1.0)] if values.min() > -1e-3 and values.max() < 1.001 else []
    if mean is not None and std is not None and len(mean) == len(std) == values.shape[3]:
        ways.append((np.asarray(mean), np.asarray(std)))  # type: ignore[arg-type]
    for center, spread in ways:
        pixels = (values * spread + center) * 255
        whole = np.rint(pixels)
        if whole.min() >= 0 and whole.max() <= 255 and np.abs(pixels - whole).max() < 0.02:
            return whole.astype(np.uint8)
    raise UsageError(
        f"images are floats from {values.min():.3g} to {values.max():.3g}, not whole pixels "
        "divided by 255: give them as uint8, before they are normalised, resized or augmented, or "
        "the `mean` and `std` that they were normalised with"
    )
