"""The gallery prints and draws what was measured, and nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.zoo.render.pages import DIGITS, Page
from zoo.artifact.folder import read_config
from zoo.artifact.results import wilson
from zoo.data.open import open_images
from zoo.models import registry
from zoo.networks.preprocess import Preprocess
from zoo.render import figures, raster, site
from zoo.text import human_bytes, human_count


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def known_numbers(folder: Path) -> set[str]:
    """Every way in which a number of eval.json and config.json may stand on a page."""
    found, config = (
        json.loads((folder / file).read_text()) for file in ("eval.json", "config.json")
    )
    low_high = wilson(
        round(found["ann"]["top1"] * found["data"]["images"] / 100), found["data"]["images"]
    )
    shown: set[str] = set()
    for value in [*leaves(found), *leaves(config), *low_high]:
        if isinstance(value, str):
            shown |= set(numbers(value))
        elif isinstance(value, int | float):
            forms = [
                f"{value:g}",
                str(value),
                f"{value:,.0f}",
                *(f"{value:.{digits}f}" for digits in (1, 2, 4)),
            ]
            forms += [human_bytes(value), human_count(value)]
            shown |= {number for form in forms for number in numbers(form)}
    return shown


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)", text)


# Of the energy model and the intervals, as zoo.evaluation.energy has them; the version of the zoo
# in the footer.
CONSTANTS = {"45", "0.2", "0.1", "95", *numbers(zoo.__version__)}


@pytest.mark.parametrize("name", ["photos", "photos signed"])
def test_every_number_on_a_page_was_measured(gallery: Path, name: str) -> None:
    page = Page((gallery / f"models/{name.replace(' ', '-')}.html").read_text())
    spoken = page.text(("style.", "script.", "text.tick middle", "text.tick end"))
    known = known_numbers(gallery.parent / name) | CONSTANTS
    assert [number for number in numbers(spoken) if number not in known] == []


def test_every_measurement_is_on_the_page(gallery: Path) -> None:
    text = Page((gallery / "models/photos.html").read_text()).text()
    found = json.loads((gallery.parent / "photos/eval.json").read_text())
    for row in found["rows"]:
        energy = row["energy_nj"].values()
        for shown in (
            f"{row['top1']:.2f}",
            *(f"{bound:.1f}" for bound in row["interval95"]),
            human_count(row["effective_acs"]),
            *(f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" for value in energy),
        ):
            assert shown in text
    assert all(
        f"{rate:.4f}" in text for layer in found["layers"] for rate in layer["firing_rate"].values()
    )
    for shown in (
        found["weights_sha256"],
        found["config"]["checksum"]["sha256"],
        found["command"],
        "87.65",
        "apache-2.0",
        found["config"]["source"]["sha256"],
        human_bytes(537613),
        "zoo verify ./photos --deep",
    ):
        assert shown in text
    index = Page((gallery / "index.html").read_text()).text()
    assert all(f"{row['top1']:.2f}" in index for row in found["rows"])


def test_the_chart_is_drawn_to_scale(gallery: Path) -> None:
    model = site.load_pages([str(gallery.parent / "photos")])[0]
    rows = model.measured.rows
    circles = [
        a
        for a in Page(str(figures.energy_of(model.series))).all("circle")
        if "ann-mark" not in str(a["class"])
    ]
    across, up = ([float(str(a[name])) for a in circles] for name in ("cx", "cy"))
    steps = [b - a for a, b in zip(across, across[1:], strict=False)]
    assert max(steps) - min(steps) < 0.03  # powers of two, evenly
    logs = [math.log(row.energy_nj["snn_int8"]) for row in rows]
    slope = (up[-1] - up[0]) / (logs[-1] - logs[0])
    assert slope < 0 and all(
        abs(y - up[0] - slope * (value - logs[0])) < 0.03 for y, value in zip(up, logs, strict=True)
    )
    hollow = [str(a["class"]) == "mark hollow" for a in circles]
    assert hollow == [row.energy_nj["snn_int8"] >= row.energy_nj["ann_quantised"] for row in rows]


@pytest.mark.parametrize(
    ("cheaper", "short", "words"),
    [
        ((1, 1, 1), "every T", "at every T measured"),
        ((0, 0, 0), "no T", "the quantised ANN is cheaper at every T measured"),
        ((1, 1, 0), "T ≤ 2", "up to T = 2; from T = 4 on the ANN is cheaper"),
        ((0, 1, 0), "T = 2", "at T = 2; at T = 1, 4 the ANN is cheaper"),
    ],
)
def test_where_the_ann_wins(cheaper: tuple[int, ...], short: str, words: str) -> None:
    row = site.load_pages([DIGITS])[0].measured.rows[0]
    rows = [
        row.model_copy(
            update={
                "timesteps": 2**index,
                "energy_nj": {"snn_int8": 1.0, "ann_quantised": 1.0 + won},
            }
        )
        for index, won in enumerate(cheaper)
    ]
    assert figures.cheaper_steps(rows) == short
    assert figures.verdict(rows).endswith(words)


def test_the_dots_are_the_spikes_of_the_network(gallery: Path) -> None:
    folder = registry.resolve(DIGITS)
    config = read_config(folder)
    images = open_images("digits", "test").batch(list(raster.IMAGES), Preprocess.of(config))
    counts = zoo.load(DIGITS).run(images, config.timesteps, snapshots=[config.timesteps])
    shots = raster.watch(folder)
    assert [shot.predicted for shot in shots] == counts.logits.argmax(-1).T.tolist()
    total = torch.zeros(64, dtype=torch.int64)
    for shot in shots:
        for _, row, sign in shot.spikes:
            total[row] += abs(sign)
    assert torch.equal(total, counts.spikes[config.timesteps]["layer3.2.conv2"][:, 0, 0])
    page = Page((gallery / f"models/{DIGITS}.html").read_text())
    assert sum(a.get("class") == "spike" for a in page.all("circle")) == int(total.sum())
    drawn = Page(str(raster.draw_raster(shots[1], "key"))).all("circle")
    across, down = (sorted({float(str(a[name])) for a in drawn}) for name in ("cx", "cy"))
    places = {
        (round((float(str(a["cx"])) - across[0]) / 11), round((float(str(a["cy"])) - down[0]) / 4))
        for a in drawn
    }
    first = (min(t for t, _, _ in shots[1].spikes), min(row for _, row, _ in shots[1].spikes))
    assert places == {(t - first[0], row - first[1]) for t, row, _ in shots[1].spikes}


def test_only_digits_are_run(gallery: Path) -> None:
    assert "<circle" in (gallery / "models/photos.html").read_text()
    for name in ("photos", "photos-signed"):
        page = Page((gallery / f"models/{name}.html").read_text())
        assert not [
            a
            for tag, a in page.elements
            if a.get("class") in ("digit", "raster", "spike") or tag == "img"
        ]


def test_a_spike_that_is_taken_back_looks_different() -> None:
    shot = raster.Raster(
        0,
        1,
        [[0, 255]],
        "conv1",
        2,
        2,
        [(1, 0, 1), (2, 1, -1)],
        [0, 1],
        [[1.0, 0.0], [0.0, 1.0]],
        ["a", "b"],
    )
    assert [a["class"] for a in Page(str(raster.draw_raster(shot, "key"))).all("circle")] == [
        "spike",
        "spike back",
    ]
    assert shot.settled == 2


def test_up_to_a_dozen_models_look_different() -> None:
    sources = ["a", "b", "a", "c", "a", "d", "e", "f", "g", "h", "i", "i"]
    looks = figures.assign(sources)
    assert len({(colour, shape % 4) for colour, shape in looks}) == len(sources)
    assert looks[0][0] == looks[2][0] == looks[4][0] != looks[1][0]
    assert max(colour for colour, _ in looks) < figures.COLOURS


def test_each_data_set_has_its_own_charts(gallery: Path) -> None:
    page = Page((gallery / "index.html").read_text())
    headings = [a for a in page.all("h3") if a.get("class") == "images"]
    assert len(headings) == 2
    assert len([a for a in page.all("figure") if a.get("class") == "chart"]) == 2 * 2
    ids = [a["id"] for tag in ("title", "desc") for a in page.all(tag) if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_stretched_axis_ends_where_the_models_do() -> None:
    assert figures._stretched_axis([47.6, 91.5]).high == 95
    assert figures._stretched_axis([47.6, 95.1]).high == 100
