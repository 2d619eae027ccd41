"""`zoo.list_models`: the models that are here, and those that recipes can make."""

from __future__ import annotations

import fnmatch
import warnings
from dataclasses import dataclass
from typing import Literal

from zoo.models.figures import recipe_figures, why_unmeasured
from zoo.models.registry import Origin, at_hand, to_make


@dataclass(frozen=True)
class ModelInfo:
    """A row of `list_models`.

    Attributes:
        name: for `zoo.load` and `zoo.pull`.
        arch, neuron: architecture of the ANN, kind of the neurons.
        timesteps: what the model is meant for; it runs at any other number too.
        dataset: name of the data set that it is for, None where it has none.
        top1: measured accuracy in percent by number of timesteps; empty where nothing was measured.
        origin: shipped, cached (pulled from a hub), made (by a recipe), or recipe (`zoo.pull`
            makes it).
        unmeasured: why nothing was measured; None where something was.
    """

    name: str
    arch: str
    neuron: str
    timesteps: int
    dataset: str | None
    top1: dict[int, float]
    origin: Origin | Literal["recipe"]
    unmeasured: str | None = None


def list_models(filter: str | None = None, dataset: str | None = None) -> list[ModelInfo]:
    """Return the models that are here and the recipes of those that can be made, by name.

    Models of a hub are found with `zoo search`.

    Args:
        filter: a pattern such as `s-resnet20*`, or a part of the name.
        dataset: only models for the data set of this name, `cifar10` for example.

    Warns:
        UserWarning: a model that is damaged, and left out.
    """
    problems: list[str] = []
    rows = [
        ModelInfo(
            name=model.name,
            arch=model.config.arch,
            neuron=model.config.neuron,
            timesteps=model.config.timesteps,
            dataset=model.dataset,
            top1=model.top1,
            origin=model.origin,
            unmeasured=model.unmeasured,
        )
        for model in at_hand(problems.append)
    ]
    for recipe in to_make():
        found = recipe_figures(recipe)
        rows.append(
            ModelInfo(
                recipe.name,
                recipe.arch,
                recipe.neuron,
                recipe.timesteps,
                recipe.dataset,
                found.top1 if found else {},
                "recipe",
                why_unmeasured(recipe),
            )
        )
    for text in problems:
        warnings.warn(text, stacklevel=2)
    pattern = "*" if filter is None else filter if set(filter) & set("*?[") else f"*{filter}*"
    return sorted(
        (
            row
            for row in rows
            if fnmatch.fnmatchcase(row.name, pattern) and dataset in (None, row.dataset)
        ),
        key=lambda row: row.name,
    )
