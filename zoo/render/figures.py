"""The charts of the gallery.

Accuracy by timesteps, accuracy by energy, energy by timesteps, firing rate by layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoo.artifact.results import AnnFacts, Evaluation, Row, wilson
from zoo.render.svg import Axis, Plot, Scale, element, linear_ticks, log_ticks, mark, timesteps_axis

COLOURS = 8  # the style sheet has as many


@dataclass(frozen=True)
class Series:
    """What is drawn of one model.

    Networks made from the same ANN share a colour and differ in the shape of their marks.
    """

    name: str
    colour: int
    shape: int
    measured: Evaluation
    ann: AnnFacts


def assign(sources: Sequence[str]) -> list[tuple[int, int]]:
    """Return colour and shape of each model by the ANN it was made from.

    Where colours run out, the least used serves again.
    """
    chosen: dict[str, int] = {}
    used = [0] * COLOURS
    for source in dict.fromkeys(sources):
        chosen[source] = used.index(min(used))
        used[chosen[source]] += sources.count(source)
    colours = [chosen[source] for source in sources]
    return [(colour, colours[:index].count(colour)) for index, colour in enumerate(colours)]


def swatch(series: Series) -> Markup:
    """Draw the line and mark of a model, for a legend."""
    line = element("line", x1=0, y1=6, x2=26, y2=6, class_="line")
    inside = _group(series, line, mark(13.0, 6.0, series.shape))
    return element("svg", inside, class_="swatch", viewBox="0 0 26 12", aria_hidden="true")


def nanojoule(value: float) -> str:
    """Return an energy as 12.3 nJ or 1,234 nJ."""
    return f"{value:,.0f} nJ" if value >= 1000 else f"{value:.1f} nJ"


def ann_interval(measured: Evaluation, ann: AnnFacts) -> tuple[float, float]:
    """Return the ANN's 95 % interval, as that of the spiking network."""
    count = measured.data.images
    return wilson(round(ann.top1 * count / 100), count)


def spiking_is_cheaper(row: Row) -> bool:
    """Return whether the modelled energy is below that of an ANN as precise as the timesteps."""
    return row.energy_nj["snn_int8"] < row.energy_nj["ann_quantised"]


def _group(series: Series, *parts: Markup, **attributes: object) -> Markup:
    return element("g", *parts, class_=f"series c{series.colour}", **attributes)


def _accuracy_axis(values: Iterable[float]) -> Axis:
    low = min(90.0, math.floor(min(values) / 10) * 10.0)
    return Axis(low, 100, {tick: f"{tick:g}" for tick in linear_ticks(low, 100)}, "accuracy %")


def _stretched_axis(values: Iterable[float]) -> Axis:
    """Return an axis from the lowest value to 100 %, or 95 where no value is above.

    It has more room for the upper end, where the models meet.
    """
    values = list(values)
    low = min(90.0, math.floor(min(values) / 10) * 10.0)
    high = 95 if max(values) <= 95 else 100
    ticks = [tick for tick in (0, 20, 40, 60, 80, 90, 95, 100) if low <= tick <= high]
    return Axis(
        low,
        high,
        {float(tick): str(tick) for tick in ticks},
        "accuracy %, stretched towards 100",
        "percent",
    )


def _energy_axis(values: Sequence[float], name: str) -> Axis:
    low, high = min(values) / 1.15, max(values) * 1.15
    ticks = {
        tick: f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}" for tick in log_ticks(low, high)
    }
    return Axis(low, high, ticks, name, "log")


def _said(series: Series, row: Row) -> str:
    low, high = row.interval95
    return f"{series.name}, T = {row.timesteps}: {row.top1:.2f} % ({low:.1f}–{high:.1f})"


def _marks(
    series: Series, plot: Plot, places: Sequence[tuple[float, float, str, str]]
) -> list[Markup]:
    return [
        mark(plot.x(x), plot.y(y), series.shape, title=title, class_=class_)
        for x, y, title, class_ in places
    ]


def accuracy_of_all(models: Sequence[Series], key: str) -> Markup:
    """Draw a line for each model over its timesteps; `key` makes the drawing's ids unique.

    The ANN it was made from stands at the right, joined by a dashed line.
    """
    steps = [row.timesteps for series in models for row in series.measured.rows]
    values = [row.top1 for series in models for row in series.measured.rows] + [
        series.ann.top1 for series in models
    ]
    plot = Plot(timesteps_axis(steps), _stretched_axis(values), right=42)
    column = plot.right + 24
    plot.add(element("text", "ANN", x=column, y=plot.bottom + 17, class_="tick middle"))
    for series in models:
        rows, ann = series.measured.rows, series.ann.top1
        points = [(float(row.timesteps), row.top1) for row in rows]
        end, at = points[-1], plot.y(ann)
        dashed = element(
            "line", x1=plot.x(end[0]), y1=plot.y(end[1]), x2=column - 7, y2=at, class_="dashed"
        )
        said = element("title", f"{series.name}: the ANN has {ann:.2f} %")
        bar = element("line", said, x1=column - 7, y1=at, x2=column + 7, y2=at, class_="ann")
        marks = _marks(
            series,
            plot,
            [(float(row.timesteps), row.top1, _said(series, row), "mark") for row in rows],
        )
        plot.add(_group(series, dashed, bar, plot.path(points), *marks, data_series=series.name))
    best = "; ".join(
        f"{series.name} {series.measured.rows[0].top1:.2f} % at T = "
        f"{series.measured.rows[0].timesteps} to "
        f"{series.measured.rows[-1].top1:.2f} % at T = {series.measured.rows[-1].timesteps}, ANN "
        f"{series.ann.top1:.2f} %"
        for series in models
    )
    return plot.svg(
        f"accuracy-{key}", "Accuracy by timesteps", f"{best}. The table has every number."
    )


def energy_of_all(models: Sequence[Series], key: str) -> Markup:
    """Draw accuracy by modelled energy; `key` makes the drawing's ids unique.

    A mark is hollow where the quantised ANN, drawn dashed, is cheaper at the same precision.
    """
    rows = [row for series in models for row in series.measured.rows]
    energies = [row.energy_nj[which] for row in rows for which in ("snn_int8", "ann_quantised")]
    values = [row.top1 for row in rows] + [series.ann.top1 for series in models]
    plot = Plot(_energy_axis(energies, "modelled energy of one image, nJ"), _stretched_axis(values))
    for series in models:
        points, places, marks = [], [], []
        for row in series.measured.rows:
            spent, ann = row.energy_nj["snn_int8"], row.energy_nj["ann_quantised"]
            points.append((spent, row.top1))
            said = f"{_said(series, row)}, {nanojoule(spent)}; the quantised ANN {nanojoule(ann)}"
            places.append(
                (spent, row.top1, said, "mark" if spiking_is_cheaper(row) else "mark hollow")
            )
            x, y = plot.x(ann), plot.y(series.ann.top1)
            rival = (
                f"{series.name}: quantised ANN as precise as T = {row.timesteps}: {nanojoule(ann)}"
            )
            marks.append(
                element(
                    "line", element("title", rival), x1=x, y1=y - 4, x2=x, y2=y + 4, class_="ann"
                )
            )
        spans = [row.energy_nj["ann_quantised"] for row in series.measured.rows]
        dashed = plot.path([(min(spans), series.ann.top1), (max(spans), series.ann.top1)], "dashed")
        plot.add(
            _group(
                series,
                dashed,
                *marks,
                plot.path(points),
                *_marks(series, plot, places),
                data_series=series.name,
            )
        )
    verdicts = "; ".join(f"{series.name}: {verdict(series.measured.rows)}" for series in models)
    return plot.svg(f"energy-{key}", "Accuracy by modelled energy per image", f"{verdicts}.")


def accuracy_of(series: Series) -> Markup:
    """Draw one model's accuracy with 95 % intervals, the ANN's as a dashed line in a band."""
    measured, ann = series.measured, series.ann
    rows = measured.rows
    low, high = ann_interval(measured, ann)
    bounds = [bound for row in rows for bound in row.interval95]
    plot = Plot(timesteps_axis([row.timesteps for row in rows]), _accuracy_axis([*bounds, low]))
    band = element(
        "rect",
        x=plot.left,
        y=plot.y(high),
        width=plot.right - plot.left,
        height=plot.y(low) - plot.y(high),
        class_="band",
    )
    at = plot.y(ann.top1)
    plot.add(band)
    plot.add(element("line", x1=plot.left, y1=at, x2=plot.right, y2=at, class_="dashed"))
    plot.add(element("text", f"ANN {ann.top1:.2f} %", x=plot.right, y=at - 6, class_="label end"))
    points = [(float(row.timesteps), row.top1) for row in rows]
    whiskers = [
        element(
            "line",
            x1=plot.x(row.timesteps),
            x2=plot.x(row.timesteps),
            y1=plot.y(row.interval95[0]),
            y2=plot.y(row.interval95[1]),
            class_="whisker",
        )
        for row in rows
    ]
    marks = _marks(
        series, plot, [(float(row.timesteps), row.top1, _said(series, row), "mark") for row in rows]
    )
    plot.add(_group(series, *whiskers, plot.path(points), *marks))
    said = ", ".join(f"T = {row.timesteps}: {row.top1:.2f} %" for row in rows)
    return plot.svg(
        "accuracy",
        "Accuracy by timesteps, with 95 % intervals",
        f"{said}. The ANN: {ann.top1:.2f} %.",
    )


def energy_of(series: Series) -> Markup:
    """Draw one model's modelled energy by timesteps beside that of the quantised ANN."""
    rows = series.measured.rows
    spans = {
        which: [row.energy_nj[which] for row in rows] for which in ("snn_int8", "ann_quantised")
    }
    axis = _energy_axis([*spans["snn_int8"], *spans["ann_quantised"]], "nJ per image, modelled")
    plot = Plot(timesteps_axis([row.timesteps for row in rows]), axis, left=48)
    steps = [float(row.timesteps) for row in rows]
    plot.add(plot.path(list(zip(steps, spans["ann_quantised"], strict=True)), "dashed"))
    for row in rows:
        spent = row.energy_nj["ann_quantised"]
        rival = f"quantised ANN as precise as T = {row.timesteps}: {nanojoule(spent)}"
        plot.add(mark(plot.x(row.timesteps), plot.y(spent), 0, title=rival, class_="ann-mark"))
    places = [
        (
            float(row.timesteps),
            row.energy_nj["snn_int8"],
            f"{series.name}, T = {row.timesteps}: {nanojoule(row.energy_nj['snn_int8'])}",
            "mark" if spiking_is_cheaper(row) else "mark hollow",
        )
        for row in rows
    ]
    line = plot.path([(x, y) for x, y, _, _ in places])
    plot.add(_group(series, line, *_marks(series, plot, places)))
    return plot.svg("energy", "Modelled energy by timesteps", f"{verdict(rows)}.")


def rates_of(series: Series, timesteps: int) -> Markup:
    """Draw each layer's firing rate after `timesteps`, in running order."""
    layers = series.measured.layers
    rates = [layer.firing_rate[timesteps] for layer in layers]
    high = max(max(rates) * 1.05, 1e-6)
    ticks = {tick: f"{tick:g}" for tick in linear_ticks(0.0, high, 5)}
    width, left = 440, 40
    plot = Plot(
        Axis(0, 1, {}, "layers, in running order"),
        Axis(0, high, ticks, "spikes per neuron and timestep"),
        height=220,
    )
    place = Scale(0, len(layers), left + 4.0, width - 16.0)
    stage = ""
    bars = []
    for index, (layer, rate) in enumerate(zip(layers, rates, strict=True)):
        x, thick = place(index), (place(1) - place(0)) * 0.72
        title = element("title", f"{layer.name}: {rate:.4f}")
        bars.append(
            element(
                "rect",
                title,
                x=x,
                y=plot.y(rate),
                width=thick,
                height=plot.bottom - plot.y(rate),
                class_="bar",
            )
        )
        group = layer.name.split(".")[0]
        # A first layer alone leaves no room for its name beside the next one.
        if group != stage and sum(other.name.split(".")[0] == group for other in layers) > 1:
            plot.add(element("text", group, x=x, y=plot.bottom + 15, class_="tick"))
        stage = group
    plot.add(_group(series, *bars))
    said = (
        f"From {min(rates):.4f} to {max(rates):.4f} at T = {timesteps}. "
        "The table below has every number."
    )
    return plot.svg("rates", "Firing rate of each layer", said)


def cheaper_steps(rows: Sequence[Row]) -> str:
    """Return in a few characters at which measured timesteps the spiking network is cheaper."""
    won, lost, parted = _won(rows)
    if not (won and lost):
        return "every T" if won else "no T"
    return f"T ≤ {won[-1]}" if parted else f"T = {', '.join(map(str, won))}"


def verdict(rows: Sequence[Row]) -> str:
    """Return in words which of the two is cheaper, and where."""
    won, lost, parted = _won(rows)
    if not won:
        return "the quantised ANN is cheaper at every T measured"
    spiking = "the spiking network is cheaper than the quantised ANN"
    if not lost:
        return f"{spiking} at every T measured"
    if parted:
        return f"{spiking} up to T = {won[-1]}; from T = {lost[0]} on the ANN is cheaper"
    cheaper, dearer = (", ".join(map(str, steps)) for steps in (won, lost))
    return f"{spiking} at T = {cheaper}; at T = {dearer} the ANN is cheaper"


def _won(rows: Sequence[Row]) -> tuple[list[int], list[int], bool]:
    """Return the timesteps at which the spiking network is cheaper, and those at which it is not.

    The third value is whether all of the latter come after the former.
    """
    won = [row.timesteps for row in rows if spiking_is_cheaper(row)]
    lost = [row.timesteps for row in rows if not spiking_is_cheaper(row)]
    return won, lost, max(won, default=0) < min(lost, default=math.inf)
