"""data-free: calibrated, on images made from the checkpoint's BatchNorm statistics.

`zoo.conversion.synthetic` makes them in `steps` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from zoo.conversion.methods.calibrated import Calibrated
from zoo.conversion.settings import CalibratedSettings, MethodSettings
from zoo.networks.preprocess import Preprocess
from zoo.progress import Progress

if TYPE_CHECKING:
    from zoo.data.images import ImageSet
    from zoo.pretrained.checkpoint import Checkpoint


class DataFreeSettings(CalibratedSettings):
    """Settings of data-free.

    Attributes:
        steps: of making the images.
        rate: their learning rate.
    """

    images: int = Field(128, ge=1, le=2**31)
    steps: int = Field(50, ge=1, le=2**31)
    rate: float = Field(0.1, ge=1e-9, le=10.0)


class DataFree(Calibrated):
    """Thresholds per channel and a bias for each timestep, without any image."""

    name = "data-free"
    Settings = DataFreeSettings
    makes_images = True

    def make_images(
        self,
        checkpoint: Checkpoint,
        settings: MethodSettings,
        *,
        count: int,
        seed: int,
        prep: Preprocess,
        mean: Sequence[float],
        std: Sequence[float],
        report: Progress,
    ) -> ImageSet:
        """Return images whose statistics are those that BatchNorm recorded.

        Raises:
            UsageError: the checkpoint has no BatchNorm statistics.
        """
        from zoo.conversion.synthetic import make_images

        assert isinstance(settings, DataFreeSettings)
        return make_images(
            checkpoint,
            prep.input_size,
            mean,
            std,
            images=count,
            steps=settings.steps,
            rate=settings.rate,
            seed=seed,
            progress=lambda done, total: report("making images", done, total),
        )
