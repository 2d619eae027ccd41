"""What the tests of image sets share: random images, writers, and how a refusal must read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.images import ImageSet
from zoo.data.open import open_images
from zoo.networks.preprocess import Preprocess

CIFAR = Preprocess((3, 32, 32))
EVERYTHING = slice(None)


def random_images(n: int, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "png", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def nhwc(images: ImageSet, prep: Preprocess = CIFAR) -> np.ndarray:
    return images.batch(EVERYTHING, prep).numpy().transpose(0, 2, 3, 1)


def refused(error: type[Exception], match: str, path: object, split: str = "test") -> None:
    """Opening (or then decoding) raises `error` with a one-line message that says what to do."""
    with pytest.raises(error, match=match) as caught:
        open_images(str(path), split).batch(EVERYTHING, CIFAR)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)


class MakesFolder:
    """Unpickling one makes a folder: what a hostile file could do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def write_parquet(
    path: Path,
    images: Sequence[np.ndarray | bytes | None] | np.ndarray,
    labels: Sequence | np.ndarray,
    *,
    image: str = "img",
    label: str = "label",
    names: list[str] | None = None,
    fields: tuple[str, ...] = ("bytes", "path"),
    **options: object,
) -> Path:
    """Row groups of three; pixels are encoded, bytes and None are stored as they are."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"bytes": pa.binary(), "path": pa.string()}
    rows = [{"bytes": encoded(x) if isinstance(x, np.ndarray) else x} for x in images]
    table = pa.table(
        {image: pa.array(rows, pa.struct([(f, kinds[f]) for f in fields])), label: pa.array(labels)}
    )
    if names:
        features = {label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path, row_group_size=3, **options)
    return path
