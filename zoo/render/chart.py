"""Accuracy over timesteps as a picture: block characters for a terminal, a PNG for a document."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_EIGHTHS = " ▁▂▃▄▅▆▇█"


_AXIS = 5  # characters left of the first column


@dataclass(frozen=True)
class Curve:
    """Top-1 accuracy in percent by timesteps, and its interval where it is known."""

    label: str
    points: Mapping[int, float]
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def bar(share: float, width: int, *, ascii_only: bool = False) -> str:
    """Return a horizontal bar `width` characters long for a share of 1; anything above fills it."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if ascii_only:
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def columns(
    points: Mapping[int, float],
    ann: float | None = None,
    *,
    width: int = 72,
    height: int = 8,
    ascii_only: bool = False,
) -> list[str]:
    """Return the lines of a column chart from 0 to 100 percent.

    A column stands for each number of timesteps, a dashed line for the ANN.

    Where there are more numbers than room, evenly spaced ones are drawn, the last always.
    """
    room = max(width - _AXIS - len(" ANN 100.0"), 2)
    steps = sorted(points)
    most = room // 2
    if len(steps) > most:
        steps = [steps[(index + 1) * len(steps) // most - 1] for index in range(most)]
    pitch = min(8, room // len(steps))
    thick = max(1, pitch * 2 // 3)
    filled = {step: round(min(max(points[step], 0.0), 100.0) / 100 * height * 8) for step in steps}
    ann_row = None if ann is None else min(max(math.ceil(ann / 100 * height) - 1, 0), height - 1)
    lines = []
    for row in reversed(range(height)):
        label = {height - 1: "100", (height - 1) // 2: " 50"}.get(row, "   ")
        blank = ("-" if ascii_only else "╌") if row == ann_row else " "
        cells = []
        for step in steps:
            level = min(max(filled[step] - 8 * row, 0), 8)
            ink = ("#" if level >= 4 else " ") if ascii_only else _EIGHTHS[level]
            cells.append((blank if ink == " " else ink) * thick + blank * (pitch - thick))
        line = f"{label} {'|' if ascii_only else '│'}{''.join(cells)}"
        lines.append(f"{line} ANN {ann:.1f}" if row == ann_row else line.rstrip())
    lines.append(
        f"  0 {'+' if ascii_only else '└'}{('-' if ascii_only else '─') * (pitch * len(steps))}"
    )
    return [*lines, _labels(steps, pitch, thick)]


def _labels(steps: Sequence[int], pitch: int, thick: int) -> str:
    """Return each number under its column, the last always and the others where there is room."""
    placed: list[tuple[int, str]] = []
    for index, step in reversed(list(enumerate(steps))):
        start = _AXIS + index * pitch + max(thick - len(str(step)), 0) // 2
        if not placed or start + len(str(step)) < placed[-1][0]:
            placed.append((start, str(step)))
    line = "  T"
    for start, text in reversed(placed):
        line = line.ljust(start) + text
    return line


def require_matplotlib() -> None:
    """Raise UsageError when there is no matplotlib.

    A command can thus say so before it works for minutes.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "plots need matplotlib: pip install 'spiking-zoo[plots]', or leave `plot` out"
        ) from error


def plot_png(
    path: str | Path, curves: Sequence[Curve], *, ann: float | None = None, title: str = ""
) -> None:
    """Draw the curves over a logarithmic axis of timesteps, the ANN's accuracy as a dashed line.

    The same values give the same bytes. Raises UsageError without matplotlib (extra `plots`).
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    steps = sorted({step for curve in curves for step in curve.points})
    for curve in curves:
        known = sorted(curve.points)
        values = [curve.points[step] for step in known]
        bounds = [curve.intervals.get(step, (curve.points[step],) * 2) for step in known]
        below = [max(value - low, 0.0) for value, (low, _) in zip(values, bounds, strict=True)]
        above = [max(high - value, 0.0) for value, (_, high) in zip(values, bounds, strict=True)]
        axes.errorbar(
            known, values, yerr=[below, above], marker="o", capsize=3, label=_plain(curve.label)
        )
    if ann is not None:
        axes.axhline(ann, linestyle="--", color="grey", label=f"ANN {ann:.1f} %")
    axes.set_xscale("log", base=2)
    if len(steps) <= 12:
        axes.set_xticks(steps)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="timesteps", ylabel="top-1 accuracy in percent", title=_plain(title))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def training_png(
    path: str | Path, log: Sequence[Mapping[str, float]], *, top1: float, title: str = ""
) -> None:
    """Draw loss and training accuracy over the epochs of a log.

    The final test accuracy is a dashed line.

    The same values give the same bytes. Raises UsageError without matplotlib (extra `plots`).
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    left = figure.add_subplot()
    right = left.twinx()
    epochs = [row["epoch"] for row in log]
    drawn = left.plot(
        epochs,
        [row["accuracy"] for row in log],
        color="C0",
        label="training accuracy, augmented images",
    )
    drawn.append(
        left.axhline(
            top1, linestyle="--", color="grey", label=f"test accuracy at the end {top1:.2f} %"
        )
    )
    drawn += right.plot(epochs, [row["loss"] for row in log], color="C1", label="training loss")
    left.set(xlabel="epoch", ylabel="accuracy in percent", title=_plain(title))
    right.set_ylabel("loss")
    left.grid(alpha=0.3)
    left.legend(handles=drawn, loc="center right")
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})


def _plain(text: str) -> str:
    return text.replace(
        "$", r"\$"
    )  # matplotlib would read what is between two of them as a formula
