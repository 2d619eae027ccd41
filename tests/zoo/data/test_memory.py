"""Images in memory become image sets: tensors, arrays, PIL images, pairs, data sets, loaders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import zoo
from tests.zoo.image_fixtures import random_images
from tests.zoo.spiking_fixtures import refuses
from zoo.data.memory import image_set
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.networks.preprocess import Preprocess

PIXELS = random_images(6, (8, 8, 3))
LABELS = [0, 1, 2, 0, 1, 2]
PREP = Preprocess((3, 8, 8))
FIRST = np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2))


class Folder:
    """A data set as torchvision's are: by index, with classes, of PIL images."""

    classes = ("ant", "bee", "cat")

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(PIXELS[index]), LABELS[index]


def floats(mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    return (torch.from_numpy(FIRST).float() / 255 - mean) / std


@pytest.mark.parametrize(
    ("given", "labelled"),
    [
        (PIXELS, False),
        (torch.from_numpy(FIRST), False),
        (FIRST, False),
        ((PIXELS, LABELS), True),
        ((torch.from_numpy(FIRST), torch.tensor(LABELS)), True),
        ((floats(), np.array(LABELS)), True),
        ([Image.fromarray(one) for one in PIXELS], False),
        (([Image.fromarray(one) for one in PIXELS], LABELS), True),
        (list(zip(torch.from_numpy(FIRST), LABELS, strict=True)), True),
        ([(torch.from_numpy(FIRST[:4]), torch.tensor(LABELS[:4])), (floats()[4:], LABELS[4:])], 1),
        ([{"img": one, "label": label} for one, label in zip(PIXELS, LABELS, strict=True)], True),
        (Folder(), True),
        (torch.utils.data.TensorDataset(torch.from_numpy(FIRST), torch.tensor(LABELS)), True),
        (torch.utils.data.DataLoader(list(zip(floats(), LABELS, strict=True)), batch_size=4), True),
    ],
)
def test_every_form_gives_the_pixels(given: Any, labelled: bool) -> None:
    images = image_set(given)
    assert images.labels.tolist() == (LABELS if labelled else [-1] * 6)
    assert np.array_equal(images.batch(slice(None), PREP).numpy(), FIRST)
    assert image_set(images) is images
    few = image_set(given, limit=5)
    assert len(few) == 5 and few.labels.tolist() == images.labels.tolist()[:5]


def test_classes_of_a_data_set_are_kept() -> None:
    assert image_set(Folder()).class_names == Folder.classes
    loader = torch.utils.data.DataLoader(Folder(), batch_size=2, collate_fn=lambda x: x[0])
    assert image_set(loader).class_names == Folder.classes


@given(st.floats(0.1, 0.9), st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_normalised_pixels_are_known_again(mean: float, std: float) -> None:
    values = floats(mean, std)
    found = image_set(values, mean=(mean,) * 3, std=(std,) * 3)
    assert np.array_equal(found.batch(slice(None), PREP).numpy(), FIRST)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (floats(0.5, 0.25), "floats from .* not whole pixels divided by 255"),
        (floats() * 0.999, "not whole pixels divided by 255"),
        (torch.from_numpy(FIRST).int(), "images are int32"),
        (torch.zeros(6, 5, 8, 8, dtype=torch.uint8), r"images are uint8 \[6, 5, 8, 8\]"),
        ((PIXELS, LABELS[:3]), "labels are int64 .3. for 6 images"),
        ((PIXELS, [0.5] * 6), "labels are float64"),
        ((PIXELS, [-1] * 6), "labels begin at 0"),
        ([], "list has no images"),
        (["a.png"], "list yields str"),
        ([{"x": 1}], "yields x: name one image"),
        (3, "images cannot be int"),
        ([PIXELS[0], random_images(1, (9, 8, 3))[0]], "images are 8x8x3 and 9x8x3"),
    ],
)
def test_what_is_no_image_is_named(given: Any, says: str) -> None:
    with refuses(UsageError, says):
        image_set(given)


def test_the_same_accuracy_in_every_form() -> None:
    images = open_images("digits", "test").take(60, None)
    pixels = images.batch(slice(None), Preprocess((1, 8, 8)))
    rows = [
        zoo.evaluate("s-resnet20-digits", given, [4]).rows[0].top1
        for given in (images, (pixels, images.labels), (pixels.float() / 255, images.labels))
    ]
    assert len(set(rows)) == 1 and rows[0] > 50
    with refuses(UsageError, "labelled"):
        zoo.evaluate("s-resnet20-digits", pixels, [4])
