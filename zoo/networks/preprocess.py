"""From a decoded image to the uint8 pixels that a network takes: resize and centre crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from zoo.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from zoo.artifact.config import Config


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input, on uint8 with Pillow so that it is reproducible.

    Attributes:
        input_size: channels (1 or 3), height, width of the network's input.
        resize: the shorter side in pixels before the centre crop; None: images must already have
            that height and width.
        interpolation: "bilinear" or "bicubic".

    Raises:
        UsageError: a value that no image can be fitted to.
    """

    input_size: tuple[int, int, int]
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @classmethod
    def of(cls, config: Config) -> Preprocess:
        """Return how images become the input of an artifact with this config."""
        made = config.preprocess
        return cls(made.input_size, made.resize, made.interpolation)

    def __post_init__(self) -> None:
        if (
            len(self.input_size) != 3
            or self.input_size[0] not in (1, 3)
            or min(self.input_size) < 1
        ):
            raise UsageError(
                f"input size {self.input_size} is not (1 or 3, height, width): correct the model's "
                "config"
            )
        if self.resize is not None and self.resize < 1:
            raise UsageError(
                f"resize {self.resize} is not a number of pixels: use 1 or more, or none"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise UsageError(
                f"unknown interpolation {self.interpolation!r}: use bilinear or bicubic"
            )


def fit_image(image: Image.Image, prep: Preprocess, subject: str) -> np.ndarray:
    """Return an image as uint8 `[H, W, C]`: shorter side to `prep.resize`, then the centre crop.

    Sizes round as torchvision's do.

    Args:
        subject: begins the message of an error, such as "dog.jpg is".

    Raises:
        UsageError: the image has another size than the network takes and `prep` does not resize it.
    """
    from PIL.Image import Resampling

    c, h, w = prep.input_size
    image = image.convert("RGB" if c == 3 else "L")
    if prep.resize is not None:
        short = min(image.size)
        size = (int(prep.resize * image.width / short), int(prep.resize * image.height / short))
        image = image.resize(size, Resampling[prep.interpolation.upper()])
        if image.width < w or image.height < h:
            have = f"{image.height}x{image.width} after resize {prep.resize}"
            raise UsageError(f"{subject} {have}, the network takes {h}x{w}: resize to more")
    elif image.size != (w, h):
        have = f"{image.height}x{image.width}"
        raise UsageError(
            f"{subject} {have}, the network takes {h}x{w}: give images of that size, or set a "
            "resize"
        )
    left, top = round((image.width - w) / 2), round((image.height - h) / 2)
    return np.asarray(image.crop((left, top, left + w, top + h))).reshape(h, w, c)
