"""Rasters of spikes: a network of digits is run on images, and each of its spikes drawn as a dot.

Only digits are ever shown: they come with scikit-learn, under its licence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from markupsafe import Markup

from zoo.artifact.config import Config
from zoo.artifact.folder import read_artifact, read_config
from zoo.artifact.tensors import network_of
from zoo.data.open import open_images
from zoo.models.registry import default_data
from zoo.networks.preprocess import Preprocess
from zoo.render.svg import Scale, drawing, element, number

# Of the test split, chosen by hand: the first is decided at once, over the other three the network
# changes its mind.
IMAGES = (0, 4, 7, 9)


_LEFT, _COLUMN, _ROW, _RIGHT = 34.0, 11.0, 4.0, 14.0


_PREDICTED, _LOGITS = 17.0, 84.0  # heights of what stands under the raster


@dataclass(frozen=True)
class Raster:
    """One image and what the network made of it.

    Attributes:
        index: of the image in the test split; `pixels` 0 to 255 by row.
        spikes: (timestep from 1, row, sign) of every spike of the chosen neurons, in order.
        neurons: how many neurons there are rows; `layer` and `of` say whose and of how many.
        predicted: the class after each timestep; `logits` [T][classes] what it was read from.
    """

    index: int
    label: int
    pixels: list[list[int]]
    layer: str
    neurons: int
    of: int
    spikes: list[tuple[int, int, int]]
    predicted: list[int]
    logits: list[list[float]]
    class_names: Sequence[str]

    @property
    def settled(self) -> int:
        """Return the timestep from which on the prediction stays what it is at the end."""
        last = self.predicted[-1]
        return max((t for t, found in enumerate(self.predicted, 1) if found != last), default=0) + 1


def can_show(config: Config) -> bool:
    """Return whether the network takes digits and has timesteps.

    A layerwise one only counts its spikes.
    """
    return default_data(config) == "digits" and config.schedule == "causal"


def watch(folder: Path, indices: Sequence[int] = IMAGES) -> list[Raster]:
    """Run the artifact on images of the test split for the timesteps it is meant for.

    The rows are the neurons of the last layer in the upper left corner, one of each channel.
    """
    config = read_config(folder)
    network = network_of(*read_artifact(folder))
    images = open_images("digits", "test")
    batch = images.batch(list(indices), Preprocess.of(config))
    layer = network.topology.layers[-1].name
    windows: list[torch.Tensor] = []

    def keep(name: str, spikes: torch.Tensor) -> None:
        if name == layer:
            windows.append(spikes)

    run = network.run(batch, config.timesteps, chunk=len(batch), on_spikes=keep)
    spikes = torch.cat(windows)  # [T, B, C, H, W]
    found = []
    for place, index in enumerate(indices):
        rows = spikes[:, place, :, 0, 0]
        fired = [(t + 1, row, int(rows[t, row])) for t, row in rows.nonzero().tolist()]
        logits = run.logits[:, place]
        label = int(images.labels[index])
        found.append(
            Raster(
                index=index,
                label=label,
                pixels=batch[place, 0].tolist(),
                layer=layer,
                neurons=rows.shape[1],
                of=spikes[0, 0].numel(),
                spikes=fired,
                predicted=logits.argmax(1).tolist(),
                logits=logits.tolist(),
                class_names=config.class_names or list(map(str, range(config.num_classes))),
            )
        )
    return found


def draw_image(raster: Raster, key: str) -> Markup:
    """Draw the image itself, a square a pixel."""
    squares = [
        element("rect", x=x, y=y, width=1, height=1, fill_opacity=value / 255)
        for y, row in enumerate(raster.pixels)
        for x, value in enumerate(row)
        if value
    ]
    name = raster.class_names[raster.label]
    said = f"A grey image of {len(raster.pixels[0])} by {len(raster.pixels)} pixels."
    return drawing(
        key,
        len(raster.pixels[0]),
        len(raster.pixels),
        f"Handwritten {name}",
        said,
        *squares,
        class_="digit",
    )


def draw_raster(raster: Raster, key: str) -> Markup:
    """Draw neurons by timesteps, a dot a spike.

    Under it stand the predicted class and the logits after each timestep.
    """
    steps = len(raster.predicted)
    bottom = 8 + raster.neurons * _ROW
    width, height = _LEFT + steps * _COLUMN + _RIGHT, bottom + _PREDICTED + 10 + _LOGITS + 34

    def across(t: float) -> float:
        return _LEFT + (t - 0.5) * _COLUMN

    def down(row: int) -> float:
        return 8 + (row + 0.5) * _ROW

    parts = [
        element(
            "rect",
            x=_LEFT,
            y=8.0,
            width=steps * _COLUMN,
            height=raster.neurons * _ROW,
            class_="paper",
        )
    ]
    for row in sorted({0, *range(15, raster.neurons, 16)}):
        parts.append(element("text", row + 1, x=_LEFT - 5, y=down(row) + 3.5, class_="tick end"))
    parts += [
        element(
            "circle",
            cx=across(t),
            cy=down(row),
            r=1.75 if sign > 0 else 1.5,
            class_="spike" if sign > 0 else "spike back",
        )
        for t, row, sign in raster.spikes
    ]
    at = bottom + 4
    for t, found in enumerate(raster.predicted, 1):
        right = found == raster.label
        said = f"after {t} timesteps: {raster.class_names[found]}"
        parts.append(
            element(
                "g",
                element("title", said),
                element(
                    "rect",
                    x=across(t) - _COLUMN / 2 + 0.5,
                    y=at,
                    width=_COLUMN - 1,
                    height=_PREDICTED,
                    rx=1.5,
                ),
                element(
                    "text", raster.class_names[found][:1], x=across(t), y=at + 12.5, class_="middle"
                ),
                class_="guess right" if right else "guess wrong",
            )
        )
    parts += _logits(raster, across, at + _PREDICTED + 8)
    for t in sorted({1, *range(8, steps + 1, 8)}):
        parts.append(element("text", t, x=across(t), y=height - 18, class_="tick middle"))
    parts.append(
        element(
            "text", "timesteps", x=_LEFT + steps * _COLUMN / 2, y=height - 4, class_="name middle"
        )
    )
    for label, middle in (
        (f"neuron of {raster.layer}", (8 + bottom) / 2),
        ("logits", at + _PREDICTED + 8 + _LOGITS / 2),
    ):
        turned = f"rotate(-90 9 {number(middle)})"
        parts.append(
            element("text", label, x=9.0, y=middle, transform=turned, class_="name middle")
        )
    name = raster.class_names[raster.label]
    description = (
        f"{len(raster.spikes)} spikes of {raster.neurons} neurons in {steps} timesteps. "
        "Predicted after each: "
        f"{' '.join(raster.class_names[found] for found in raster.predicted)}."
    )
    return drawing(
        key,
        round(width),
        round(height),
        f"Spikes on a handwritten {name}",
        description,
        *parts,
        class_="raster",
    )


def _logits(raster: Raster, across: Callable[[float], float], top: float) -> list[Markup]:
    """Draw a line for each class; those that are ever predicted.

    And the right one, have their name.
    """
    values = [value for row in raster.logits for value in row]
    scale = Scale(min(values), max(values), top + _LOGITS, top)
    named = {raster.label, *raster.predicted}
    lines: list[Markup] = []
    labels: list[tuple[float, str, str]] = []
    for index, name in enumerate(raster.class_names):
        places = " ".join(
            f"{number(across(t))},{number(scale(row[index]))}"
            for t, row in enumerate(raster.logits, 1)
        )
        kind = (
            "logit right" if index == raster.label else "logit other" if index in named else "logit"
        )
        # The right class last, so that it lies above the others.
        lines.insert(
            len(lines) if index == raster.label else 0,
            element("polyline", points=places, class_=kind),
        )
        if index in named:
            y = scale(raster.logits[-1][index]) + 4
            labels.append((y, name, "right" if index == raster.label else "other"))
    placed: list[Markup] = []
    above = float("-inf")
    for y, name, kind in sorted(labels):
        above = max(y, above + 11)
        x = across(len(raster.logits)) + 5
        placed.append(element("text", name[:1], x=x, y=above, class_=f"logit-name {kind}"))
    return lines + placed
