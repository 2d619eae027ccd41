"""The interface of a conversion method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zoo.conversion.settings import MethodSettings, Request, Value
from zoo.errors import UsageError
from zoo.networks.preprocess import Preprocess
from zoo.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.artifact.config import MethodName
    from zoo.conversion.build import Built
    from zoo.data.images import ImageSet
    from zoo.pretrained.checkpoint import Checkpoint


@dataclass(frozen=True)
class Job:
    """Everything that a method builds a network from.

    Attributes:
        seed: of every random draw.
        prep: how images become the network's input.
        mean, std: of the ANN's training, per channel, for pixels in 0 to 1.
        images: the whole image set; None where the method makes its own.
        pixels: calibration images, uint8 `[B, C, H, W]`.
        labels: of these, int64 `[B]`; -1 where unknown.
        report: called with a stage, what is done and how much there is.
    """

    checkpoint: Checkpoint
    request: Request
    seed: int
    prep: Preprocess
    mean: Sequence[float]
    std: Sequence[float]
    images: ImageSet
    pixels: Tensor
    labels: Tensor
    report: Progress

    def building(self, done: int, total: int) -> None:
        """Report `done` of `total` layers as built."""
        self.report("converting", done, total)


class Method(ABC):
    """A conversion method: a file here, and its line in `zoo.conversion.registry`.

    Attributes:
        name: in config.json, and the `method` of a conversion.
        Settings: its settings with defaults and bounds.
        makes_images: whether it makes its own calibration images.
    """

    name: ClassVar[MethodName]
    Settings: ClassVar[type[MethodSettings]]
    makes_images: ClassVar[bool] = False

    def settings(
        self, request: Request, given: Mapping[str, Value], *, learnt_thresholds: bool = False
    ) -> MethodSettings:
        """Return the settings of a conversion.

        Args:
            given: by the user, in place of the defaults.
            learnt_thresholds: whether the ANN was trained with thresholds of its own.

        Raises:
            UsageError: as `MethodSettings.resolve`, or a network that the method cannot make.
        """
        return self.Settings.resolve(self.name, request, given)

    def check_images(self, given: bool) -> None:
        """Raise UsageError if the method lacks images, or has no use for those given."""
        if self.makes_images and given:
            raise UsageError(
                f"{self.name} conversion makes its own images: leave `images` out, or choose "
                "another `method`"
            )
        if not self.makes_images and not given:
            raise UsageError(
                f"`method={self.name}` calibrates on images: give training images with "
                "`images`, or use `method=data-free`"
            )

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
        """Return `count` calibration images made without data; for methods that make them."""
        raise NotImplementedError(self.name)

    @abstractmethod
    def build(self, job: Job, settings: MethodSettings) -> tuple[Built, dict[str, Value]]:
        """Return the network, and parameters that were found on the way, for config.json."""
