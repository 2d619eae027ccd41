"""What is known of the accuracy of what a recipe makes, before it is made.

`figures.json` holds it, which benchmarks/recipes.py writes from result files. A
figure is of the zoo's own conversion of the very bytes that the recipe is pinned to. Where those
bytes could not be had there is none, and at most one of another checkpoint of the same
architecture, converted the same way.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from zoo.artifact.config import Sha256
from zoo.artifact.results import Percent
from zoo.errors import IntegrityError
from zoo.models.recipes import Recipe

_FILE = Path(__file__).with_name("figures.json")


class Figures(BaseModel):
    """Accuracies of one conversion, in percent.

    Attributes:
        recipe: `Recipe.digest` of what was followed; None where another checkpoint was converted.
        weights_sha256: of the artifact that was measured; None likewise.
        images: number of test images.
        ann: of the ANN, on the same images.
        top1: by number of timesteps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None
    weights_sha256: Sha256 | None
    images: Annotated[int, Field(ge=1)]
    ann: Percent
    top1: Annotated[dict[int, Percent], Field(min_length=1)]

    def at(self, timesteps: int) -> str:
        """Return the figure for these timesteps, or the most there are, in words."""
        steps = timesteps if timesteps in self.top1 else max(self.top1)
        return (
            f"{self.top1[steps]:.2f} % at T = {steps} (its ANN {self.ann:.2f} %) on "
            f"{self.images:,} images"
        )


class _Figures(RootModel[dict[str, Figures | str]]):
    """By recipe: its figures, or why there are none."""


@cache
def _figures() -> dict[str, Figures | str]:
    try:
        return _Figures.model_validate_json(_FILE.read_bytes()).root
    except (OSError, ValidationError) as error:
        raise IntegrityError(
            f"{_FILE} cannot be used ({str(error)[:120]}): install spiking-zoo again"
        ) from None


def recipe_figures(recipe: Recipe) -> Figures | None:
    """Return what was measured of what this recipe makes, as it is now; None for nothing."""
    found = _figures().get(recipe.name)
    return found if isinstance(found, Figures) and found.recipe == recipe.digest else None


def why_unmeasured(recipe: Recipe) -> str | None:
    """Return why nothing was measured of what this recipe makes; None where something was."""
    found = _figures().get(recipe.name)
    if not isinstance(found, Figures):
        return found or "its checkpoint could not be had"
    if found.recipe is None:
        return (
            "its checkpoint could not be had; the same conversion of another checkpoint: "
            f"{found.at(recipe.timesteps)}"
        )
    if found.recipe != recipe.digest:
        return f"its conversion changed since; before: {found.at(recipe.timesteps)}"
    return None
