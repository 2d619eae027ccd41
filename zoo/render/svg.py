"""SVG as text: elements whose text is escaped, scales, and the frame of a chart.

The same values give the same bytes.

Nothing here has a colour or a size of type: a style sheet gives them by class, so that one drawing
serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from zoo.text import printable

_SHAPES = ("circle", "diamond", "square", "triangle")


def text_of(value: object) -> Markup:
    """Return a value as the text of a page.

    What is Markup stays; everything else is escaped, without control characters.
    """
    return value if isinstance(value, Markup) else escape(printable(str(value)))


def number(value: float) -> str:
    """Return a coordinate, to a hundredth of a unit. Raises ValueError for what is no number."""
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be drawn")
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """Return one element.

    Attributes of value None are left out; `class_` is class and `stroke_width` stroke-width.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is None:
            continue
        shown = number(value) if isinstance(value, float) else value
        parts.append(f'{name.rstrip("_").replace("_", "-")}="{text_of(shown)}"')
    inside = "".join(map(text_of, children))
    return Markup(f"<{' '.join(parts)}>{inside}</{tag}>" if inside else f"<{' '.join(parts)}/>")


def drawing(
    key: str, width: int, height: int, title: str, description: str, *children: Markup, class_: str
) -> Markup:
    """Return a whole SVG with a name and a description for those who do not see it.

    `key` makes their ids unique in a page.
    """
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *children,
        class_=class_,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{key}-title",
        aria_describedby=f"{key}-desc",
    )


Kind = Literal["linear", "log", "percent"]


@dataclass(frozen=True)
class Scale:
    """Maps low..high to start..end in the drawing's units.

    `log` over the logarithm, for values above 0; `percent` over that of what is left to 102 %, so
    that 90 to 100 has as much room as 20 to 90.
    """

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def __call__(self, value: float) -> float:
        low, high, value = map(self._bent, (self.low, self.high, value))
        return self.start + (self.end - self.start) * (
            (value - low) / (high - low) if high > low else 0.5
        )

    def _bent(self, value: float) -> float:
        if self.kind == "log":
            return math.log(value)
        return value if self.kind == "linear" else -math.log(102 - value)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values within low..high at one distance of 1, 2 or 5 times a power of ten.

    They are at most `most` where there is a choice.
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        power * times
        for times in (1, 2, 5, 10, 20)
        if math.floor((high - low) / (power * times)) < most
    )
    return [
        round(index * step, 10)
        for index in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within low..high.

    Powers alone where those would be more than eight.
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            times * 10.0**decade
            for decade in decades
            for times in multiples
            if low <= times * 10.0**decade <= high
        ]
        if len(ticks) <= 7:
            break
    return ticks


@dataclass(frozen=True)
class Axis:
    """One axis of a chart: its range, its ticks with their labels, its name."""

    low: float
    high: float
    ticks: Mapping[float, str]
    name: str
    kind: Kind = "linear"


def timesteps_axis(steps: Sequence[int], name: str = "timesteps T") -> Axis:
    """Return a log2 axis over numbers of timesteps: a tick for each power of two in their range."""
    low, high = min(steps), max(steps)
    powers = [2**power for power in range(13) if low <= 2**power <= high] or [low]
    return Axis(
        low,
        high if high > low else 2 * low,
        {float(step): str(step) for step in powers},
        name,
        "log",
    )


class Plot:
    """A frame with axes, and what is drawn into it.

    `right` is the room right of the frame. Coordinates given to the methods are values, not units.
    """

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        width: int = 440,
        height: int = 270,
        left: int = 40,
        right: int = 12,
    ) -> None:
        self.width, self.height, self.left, self.right = (
            width,
            height,
            float(left),
            float(width - right),
        )
        self.top, self.bottom = 24.0, float(height - 40)
        inset = 8.0  # a marker on the first or last timestep does not touch the frame
        self.x = Scale(x.low, x.high, self.left + inset, self.right - inset, x.kind)
        self.y = Scale(y.low, y.high, self.bottom, self.top, y.kind)
        self.parts: list[Markup] = []
        for value, label in y.ticks.items():
            at = self.y(value)
            self.parts += [
                element("line", x1=self.left, y1=at, x2=self.right, y2=at, class_="grid"),
                element("text", label, x=self.left - 6, y=at + 4, class_="tick end"),
            ]
        for value, label in x.ticks.items():
            at = self.x(value)
            self.parts += [
                element("line", x1=at, y1=self.bottom, x2=at, y2=self.bottom + 4, class_="axis"),
                element("text", label, x=at, y=self.bottom + 17, class_="tick middle"),
            ]
        self.parts += [
            element(
                "line", x1=self.left, y1=self.bottom, x2=self.right, y2=self.bottom, class_="axis"
            ),
            element(
                "text", x.name, x=(self.left + self.right) / 2, y=height - 6.0, class_="name middle"
            ),
            element("text", y.name, x=2.0, y=12.0, class_="name"),
        ]

    def add(self, part: Markup) -> None:
        """Add anything made elsewhere, in the drawing's units."""
        self.parts.append(part)

    def path(self, points: Sequence[tuple[float, float]], class_: str = "line") -> Markup:
        """Return straight lines through points, to put into a group or to add."""
        places = " ".join(f"{number(self.x(x))},{number(self.y(y))}" for x, y in points)
        return element("polyline", points=places, class_=class_)

    def svg(self, key: str, title: str, description: str) -> Markup:
        """Return the whole drawing."""
        return drawing(key, self.width, self.height, title, description, *self.parts, class_="plot")


def mark(
    x: float,
    y: float,
    shape: int,
    *,
    title: str | None = None,
    class_: str = "mark",
    size: float = 3.8,
) -> Markup:
    """Return a marker by number: circle, diamond, square, triangle and again."""
    said = () if title is None else (element("title", title),)
    kind = _SHAPES[shape % len(_SHAPES)]
    if kind == "circle":
        return element("circle", *said, cx=x, cy=y, r=size, class_=class_)
    corners = {
        "diamond": ((0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)),
        "square": ((-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)),
        "triangle": ((0.0, -1.25), (1.2, 0.95), (-1.2, 0.95)),
    }[kind]
    places = " ".join(f"{number(x + dx * size)},{number(y + dy * size)}" for dx, dy in corners)
    return element("polygon", *said, points=places, class_=class_)
