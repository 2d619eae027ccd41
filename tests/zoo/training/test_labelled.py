"""Training and test images get the same labels for the same classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.zoo.image_fixtures import encoded, random_images
from zoo.data.open import open_images
from zoo.training.run import _labelled


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([str(i) for i in range(12)], [str(i) for i in range(12)]),
        (["ant", "bee", "cat"], ["ant", "bee", "cat"]),
        ([f"c{i}" for i in range(12)], sorted(f"c{i}" for i in range(12))),
    ],
)
def test_a_class_that_test_lacks_moves_no_other(
    tmp_path: Path, names: list[str], order: list[str]
) -> None:
    for split, present in (("train", names), ("test", names[:1] + names[2:])):
        for name in present:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "x.png").write_bytes(encoded(random_images(1)[0]))
    images, test = _labelled(open_images(tmp_path, "train"), open_images(tmp_path, "test"))
    for part, present in ((images, names), (test, names[:1] + names[2:])):
        folders = sorted(present)  # the order in which images are read
        assert part.labels.tolist() == [order.index(name) for name in folders]
