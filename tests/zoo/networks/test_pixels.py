"""Images as people have them: tensors, arrays, PIL; and messages that name the mistake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.zoo.spiking_fixtures import refuses
from zoo.errors import UsageError
from zoo.networks.pixels import as_pixels
from zoo.networks.preprocess import Preprocess

RGB = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
GREY = RGB[:, :1]


def arrays(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("images", "channels", "expected"),
    [
        (RGB, 3, RGB),
        (RGB[0], 3, RGB[:1]),
        (arrays(RGB), 3, RGB),
        (arrays(RGB)[0], 3, RGB[:1]),
        (RGB.numpy(), 3, RGB),
        (arrays(GREY), 1, GREY),
        (arrays(GREY)[..., 0], 1, GREY),
        (arrays(GREY)[0, ..., 0], 1, GREY[:1]),
        (list(arrays(RGB)), 3, RGB),
        ([Image.fromarray(image) for image in arrays(RGB)], 3, RGB),
        (Image.fromarray(arrays(RGB)[0]), 3, RGB[:1]),
        ((arrays(RGB)[0], Image.fromarray(arrays(RGB)[1])), 3, RGB),
        (Image.fromarray(arrays(GREY)[0, ..., 0]), 1, GREY[:1]),
        (RGB[:0], 3, RGB[:0]),
    ],
)
def test_every_form_gives_the_same_pixels(
    images: object, channels: int, expected: torch.Tensor
) -> None:
    found = as_pixels(images, channels)
    assert found.dtype == torch.uint8 and torch.equal(found, expected)


@pytest.mark.parametrize(
    ("images", "channels", "match"),
    [
        (RGB.float() / 255, 3, r"not float32 \[2, 3, 4, 5\]: do not normalise"),
        (RGB.half(), 3, "do not normalise"),
        (arrays(RGB) / 255, 3, "not float64.*do not normalise"),
        (RGB.int(), 3, "not int32.*convert them to uint8"),
        (RGB.permute(0, 2, 3, 1), 3, r"channels last.*permute\(0, 3, 1, 2\)"),
        (GREY, 3, r"not uint8 \[2, 1, 4, 5\]: the network takes 3 channels"),
        (RGB, 1, "the network takes grey images"),
        (RGB[0, 0], 3, r"not uint8 \[4, 5\]"),
        ("dog.jpg", 3, "not str: decode files first"),
        (None, 3, "not NoneType"),
        ([], 3, "list of images is empty"),
        ([RGB, RGB[..., 1:]], 3, "several sizes, 4x4 and 4x5"),
    ],
)
def test_the_message_names_the_mistake(images: object, channels: int, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        as_pixels(images, channels)
    assert "\n" not in str(caught.value)


def test_pil_images_are_fitted_and_tensors_must_fit() -> None:
    prep = Preprocess((3, 4, 4), resize=4)
    assert as_pixels(Image.new("RGB", (12, 8)), 3, prep).shape == (1, 3, 4, 4)
    assert as_pixels(Image.new("L", (4, 4)), 3, prep).shape == (1, 3, 4, 4)
    with refuses(UsageError, "images are 4x5, the network takes 4x4"):
        as_pixels(RGB, 3, prep)


def test_a_model_runs_a_pil_image() -> None:
    model = zoo.load("s-resnet20-digits")
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    tensor = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    assert torch.equal(model(picture, 4), model(tensor, 4))
    with refuses(UsageError, "images are 28x28, the network takes 8x8"):
        model(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), 4)
