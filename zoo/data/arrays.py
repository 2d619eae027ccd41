"""Readers of images in arrays: the digits of the package, CIFAR packs, and .npz."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from zoo.data.base import (
    AGAIN,
    SPLITS,
    Found,
    decode_image,
    is_image,
    no_split,
    pick_splits,
    read_json,
    reading,
)
from zoo.errors import IntegrityError, UsageError


def read_digits(split: str) -> Found:
    """Return 1437 training or 360 test images of handwritten digits, which the package holds.

    They are the test set of UCI's Optical Recognition of Handwritten Digits (E. Alpaydin and C.
    Kaynak, 1998, doi:10.24432/C50P49, CC BY 4.0; `digits.txt` beside the file), which scikit-learn
    made known: 8 x 8 pixels of 0 to 16, scaled to 0 to 255, split after one permutation.
    """
    if split not in SPLITS:
        raise no_split("digits", split, SPLITS)
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as raw:
        images, labels = raw["images"], raw["labels"]
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[-360:] if split == "test" else order[:-360]
    pixels = np.rint(images[chosen, :, :, None] * (255 / 16)).astype(np.uint8)
    return Found("scikit-learn digits", pixels, labels[chosen], range(10), split)


def read_pack(path: Path, split: str) -> Found | None:
    """Return a CIFAR pack's images: mosaics 40 images wide in lossless WebP, and manifest.json."""
    pack = read_json(path / "manifest.json")
    if not isinstance(pack, dict) or not isinstance(pack.get("splits"), dict):
        return None
    if split not in pack["splits"]:
        raise no_split(path, split, pack["splits"])

    def tiles(file: Path) -> np.ndarray:
        mosaic = np.asarray(decode_image(str(file), file.read_bytes()).convert("RGB"))
        return mosaic.reshape(-1, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)

    with reading(path), ThreadPoolExecutor() as pool:
        info = pack["splits"][split]
        parts = list(pool.map(tiles, sorted(path.glob(f"{split}-*.webp"))))
        pixels = np.concatenate([np.zeros((0, 32, 32, 3), np.uint8), *parts])[: info["n"]]
        if hashlib.sha256(pixels.data).hexdigest() != info["sha256_uint8_nhwc"]:
            raise IntegrityError(f"{path}: the {split} pixels do not match manifest.json: {AGAIN}")
        return Found("CIFAR pack", pixels, info["labels"], pack["class_names"], split)


def read_npz(path: Path, split: str) -> Found:
    """Return the images of an .npz.

    Its keys are x_test and y_test, test_images and test_labels, or, of no split, images and labels
    or x and y.
    """
    with reading(path), np.load(path, allow_pickle=False) as opened:
        have = list(opened.keys())
        keys: dict[str, tuple[str, str]] = {}
        for key in have:
            if form := re.fullmatch(r"([xX])_(\w+)", key):
                keys.setdefault(form[2].lower(), (key, f"{'yY'[form[1] == 'X']}_{form[2]}"))
            elif form := re.fullmatch(r"(\w+)_images", key):
                keys.setdefault(form[1].lower(), (key, f"{form[1]}_labels"))
        whole = [pair for pair in (("images", "labels"), ("x", "y")) if pair[0] in have]
        picked = pick_splits(split, keys)
        # A part without labels serves where no part has any.
        picked.sort(key=lambda alias: keys[alias][1] not in have)
        stated: str | None = None
        notes: tuple[str, ...] = ()
        if picked:
            x, y = keys[picked[0]]
            stated = split
            first = pick_splits(split, keys)[0]
            if first != picked[0]:
                stated = picked[0]
                notes = (f"{path}: {first} has no labels, so {picked[0]} is used",)
        elif whole:
            x, y = whole[0]
        elif keys:
            raise no_split(path, split, keys)
        elif any(is_image(name) for name in opened.files):
            raise UsageError(f"{path} is an archive of image files: unpack it, give the folder")
        else:
            raise IntegrityError(
                f"{path} has no x_{split}, images or x (has {', '.join(have)}): rename the keys"
            )
        if y not in have:
            raise IntegrityError(f"{path} has {x} without labels: add {y}")
        pixels, labels = opened[x], opened[y]
        names = opened["class_names"].ravel().astype(str) if "class_names" in have else None
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if (
        pixels.dtype != np.uint8
        or pixels.ndim != 4
        or pixels.shape[3] not in (1, 3)
        or 0 in pixels.shape[1:3]
    ):
        shape = f"{pixels.dtype} {list(pixels.shape)}"
        raise IntegrityError(f"{path}: {x} is {shape}: store uint8 [N, H, W, C] with C 1 or 3")
    return Found(".npz", np.ascontiguousarray(pixels), labels, names, stated, notes)
