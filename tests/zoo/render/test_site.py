"""The gallery says what was measured and nothing else, whole or not at all, and asks nothing of any network."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.folder import read_config
from zoo.artifact.results import wilson
from zoo.data.open import open_images
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError
from zoo.models import registry
from zoo.networks.preprocess import Preprocess
from zoo.render import figures, raster, site
from zoo.text import human_bytes, human_count

DIGITS = "s-resnet20-digits"
VOID = {"meta", "link", "input", "br"}
HOSTILE = '<script>alert("1")</script>&amp;'
Change = Callable[[dict[str, Any], dict[str, Any]], None]


class Page(HTMLParser):
    """What a page holds: its elements with their attributes and text. Fails where a tag is not closed, or closed twice."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[tuple[tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} says {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(f"{tag}.{dict(attrs).get('class') or ''}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or any(
            parent.startswith("svg.") for parent in [*self.open, f"{tag}."]
        ), f"<{tag}/>"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop().split(".")[0] == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.said.append((tuple(self.open), data))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def text(self, without: tuple[str, ...] = ("style.", "script.")) -> str:
        return "\n".join(
            said for path, said in self.said if not any(part in without for part in path)
        )


def copy(folder: Path, name: str, change: Change | None = None) -> Path:
    """A copy of the shipped artifact under another name; `change` gets its config and eval.json before they are written."""
    target = folder / name
    shutil.copytree(registry.resolve(DIGITS), target)
    config, found = (
        json.loads((target / file).read_text()) for file in ("config.json", "eval.json")
    )
    found["config"] = config
    if change is not None:
        change(config, found)
    (target / "config.json").write_text(json.dumps(config))
    (target / "eval.json").write_text(json.dumps(found))
    return target


def unlike(config: dict[str, Any], found: dict[str, Any]) -> None:
    """Other numbers throughout, each its own, and no digits: nothing of it can be drawn from a run."""
    config["calibration"] |= {"dataset": None, "description": "photographs, train split"}
    found["data"] |= {"dataset": None, "description": "photographs, test split", "images": 4327}
    found["ann"]["top1"], found["classes"] = 87.654, []
    found |= {
        "footprint_bytes": 523411,
        "artifact_bytes": 537613,
        "images_per_second": {"64": 31.83},
    }
    for index, row in enumerate(found["rows"], 1):
        row |= {
            "top1": 11.137 * index,
            "interval95": [11.137 * index - 1.37, 11.137 * index + 1.61],
        }
        row |= {
            "firing_rate": 0.1117 * index,
            "effective_acs": 61379.3 * index**3,
            "effective_macs": 9173.0 + index,
        }
        row["energy_nj"] = {name: value * 1.37 + index for name, value in row["energy_nj"].items()}
    for index, layer in enumerate(found["layers"], 1):
        layer["firing_rate"] = {
            step: 0.0137 * index + 0.0003 * int(step) for step in layer["firing_rate"]
        }


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships, beside two models of one ANN that are not about digits."""
    folder = tmp_path_factory.mktemp("gallery")

    def signed(config: dict[str, Any], found: dict[str, Any]) -> None:
        unlike(config, found)
        config["neuron"] = found["neuron"] = "signed"
        config["source"] |= {"url": "https://example.org/net.th?a=1&b=2", "sha256": "1" * 64}
        found["rows"] = found["rows"][2:5]

    models = [DIGITS, copy(folder, "photos", unlike), copy(folder, "photos signed", signed)]
    site.build_site(folder / "site", list(map(str, models)))
    return folder / "site"


def pages(folder: Path) -> dict[str, Page]:
    return {
        path.relative_to(folder).as_posix(): Page(path.read_text())
        for path in sorted(folder.rglob("*.html"))
    }


def test_one_page_for_each_model_and_a_manifest(gallery: Path) -> None:
    files = sorted(
        path.relative_to(gallery).as_posix() for path in gallery.rglob("*") if path.is_file()
    )
    assert files == [
        "index.html",
        "models/photos-signed.html",
        "models/photos.html",
        f"models/{DIGITS}.html",
        "site.json",
    ]
    assert sorted(json.loads((gallery / "site.json").read_text())["files"]) == files[:-1]


def test_every_link_resolves(gallery: Path) -> None:
    known = {
        name: {a["id"] for _, a in page.elements if "id" in a}
        for name, page in pages(gallery).items()
    }
    for name, page in pages(gallery).items():
        local = [
            href
            for a in page.all("a")
            if not (href := str(a["href"])).startswith("https://example.org/")
        ]
        assert local
        for href in local:
            path, _, part = href.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert target in known, href
            assert not part or part in known[target], href
    assert {f"models/{model}.html" for model in (DIGITS, "photos", "photos-signed")} <= {
        a["href"] for a in Page((gallery / "index.html").read_text()).all("a")
    }


def test_pages_can_be_used_without_seeing_them(gallery: Path) -> None:
    for page in pages(gallery).values():
        tags = [tag for tag, _ in page.elements]
        assert [tags.count(tag) for tag in ("main", "header", "footer", "nav", "h1", "title")][
            :5
        ] == [1] * 5
        ids = [a["id"] for _, a in page.elements if a.get("id")]
        assert len(ids) == len(set(ids))
        for _, attributes in page.elements:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                assert set((attributes.get(name) or "").split()) <= set(ids)
        drawn = [a for a in page.all("svg") if "aria-hidden" not in a]
        assert drawn and all(
            a["role"] == "img" and a["aria-labelledby"] and a["aria-describedby"] for a in drawn
        )
        assert all(a.get("scope") for a in page.all("th"))
        assert tags.count("table") == tags.count("caption")


def test_nothing_is_loaded(gallery: Path) -> None:
    for path in gallery.rglob("*.html"):
        text, page = path.read_text(), Page(path.read_text())
        assert not [
            a
            for _, a in page.elements
            if {"src", "srcset", "data", "poster", "xlink:href"} & a.keys()
        ]
        assert [a["href"] for a in page.all("link")] == ["data:,"]
        assert not re.search(r"@import|url\(", text)
        assert len(page.all("script")) == len(page.all("style")) == 1
        policy = next(
            a["content"]
            for a in page.all("meta")
            if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy and policy.startswith("default-src 'none'; ") and "unsafe" not in policy
        web = {a.get("href") for a in page.all("a") if "://" in str(a.get("href"))}
        assert len(re.findall(r"\w+://", text)) == 2 * len(web)  # a link and its text


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


# Of the energy model and the intervals, as zoo.evaluation.energy has them; the version of the zoo in the footer.
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


def test_text_from_a_model_is_only_text(tmp_path: Path) -> None:
    def hostile(config: dict[str, Any], found: dict[str, Any]) -> None:
        config["source"] |= {"license": HOSTILE, "name": HOSTILE, "url": "javascript:alert(1)"}
        config["calibration"]["description"] = f"\x00\x1b[31m{HOSTILE}"
        config["class_names"] = [f"{HOSTILE}{digit}" for digit in range(10)]
        config["method"]["parameters"][HOSTILE] = HOSTILE
        found["ann"]["source"] = found["command"] = found["device"] = found["layers"][0]["name"] = (
            HOSTILE
        )
        found["versions"] = {HOSTILE: HOSTILE}
        found["data"] |= {"description": HOSTILE, "dataset": None}

    name = HOSTILE.replace("/", "")
    folder = copy(tmp_path, name, hostile)
    site.build_site(tmp_path / "site", [str(folder)])
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (tmp_path / "site").rglob("*"))
    for page in pages(tmp_path / "site").values():
        assert len(page.all("script")) == 1
        assert not [a for a in page.all("a") if ":" in str(a.get("href"))]
        assert not [tag for tag, a in page.elements for key in a if key.startswith("on")]
        assert name in page.text() and not re.search(r"[\x00-\x08\x1b]", page.text())
    assert page.text().count(HOSTILE) > 30


def test_the_same_artifacts_give_the_same_bytes(gallery: Path, tmp_path: Path) -> None:
    models = [DIGITS, *(str(gallery.parent / name) for name in ("photos", "photos signed"))]
    site.build_site(tmp_path / "again", models)
    for path in gallery.rglob("*"):
        assert (
            path.is_dir()
            or path.read_bytes() == (tmp_path / "again" / path.relative_to(gallery)).read_bytes()
        )


def _without(*path: str | int) -> Change:
    def change(config: dict[str, Any], found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]  # type: ignore[index]
        del found[path[-1]]  # type: ignore[arg-type]

    return change


def _with(value: object, *path: str | int) -> Change:
    def change(config: dict[str, Any], found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]  # type: ignore[index]
        found[path[-1]] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (_without("rows", 2, "top1"), IntegrityError, "rows.2.top1"),
        (_with(0, "rows", 2, "energy_nj", "snn_int8"), UsageError, "energy_nj.snn_int8 at T = 4"),
        (_with(None, "ann"), UsageError, "ann is missing"),
    ],
)
def test_a_missing_figure_is_an_error_that_names_it(
    tmp_path: Path, change: Change, error: type[ZooError], named: str
) -> None:
    folder = copy(tmp_path, "net", change)
    with refuses(error, named):
        site.build_site(tmp_path / "site", [str(folder)])
    assert not (tmp_path / "site").exists()


def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path, "net")
    text = (folder / "eval.json").read_text()
    sha256 = read_config(folder).weights_sha256
    (folder / "eval.json").write_text(text.replace(sha256, "0" * 64))
    with refuses(UsageError, "measured on other weights"):
        site.build_site(tmp_path / "site", [str(folder)])


def test_models_that_cannot_be_shown(tmp_path: Path) -> None:
    folder = copy(tmp_path, "net")
    (folder / "eval.json").unlink()
    with refuses(UsageError, "eval.json is missing"):
        site.load_pages([str(folder)])
    other = copy(tmp_path, "other")
    (other / "config.json").write_text(
        (other / "config.json").read_text().replace('"seed": 0', '"seed": 1')
    )
    with refuses(UsageError, "config is not what config.json says"):
        site.load_pages([str(other)])
    (copy(tmp_path, "bad", unlike) / "model.safetensors").write_bytes(b"cut")
    with refuses(IntegrityError, "model.safetensors"):
        site.load_pages([str(tmp_path / "bad")])
    with refuses(NotFoundError, "no-such-model"):
        site.load_pages(["no-such-model"])
    with refuses(UsageError, f"two models are called {DIGITS}"):
        site.load_pages([DIGITS, str(copy(tmp_path, DIGITS))])


def test_the_folder_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    site.build_site(out, [DIGITS])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    written = 0

    def full(path: Path, data: bytes) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(site, "write_synced", full)
    with refuses(ZooError, "No space left"):
        site.build_site(out, [DIGITS], force=True)
    assert written == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_only_a_gallery_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "site"
    out.mkdir()
    site.build_site(out, [DIGITS], force=True)  # an empty folder
    with refuses(UsageError, "--force"):
        site.build_site(out, [DIGITS])
    site.build_site(out, [DIGITS], force=True)
    (out / "notes.txt").write_text("mine")
    with refuses(UsageError, "notes.txt"):
        site.build_site(out, [DIGITS], force=True)
    (out / "notes.txt").unlink()
    (out / "site.json").write_text('{"generator": "another", "files": {}}')
    with refuses(UsageError, "not made by zoo site"):
        site.build_site(out, [DIGITS], force=True)
    (out / "site.json").unlink()
    with refuses(UsageError, "not made by zoo site"):
        site.build_site(out, [DIGITS], force=True)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(out)
    for name in ("file", "link"):
        with refuses(UsageError, "is not a folder"):
            site.build_site(tmp_path / name, [DIGITS], force=True)
    assert (tmp_path / "file").read_text() == "mine" and (out / "index.html").is_file()


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


def test_a_model_of_the_cache_is_named_by_repository_and_commit(tmp_path: Path) -> None:
    (tmp_path / "models--me--net/snapshots").mkdir(parents=True)
    folder = copy(tmp_path / "models--me--net/snapshots", "a" * 40, unlike)
    site.build_site(tmp_path / "site", [str(folder)])
    text = Page((tmp_path / "site/models/me-net.html").read_text()).text()
    assert f"zoo pull me/net@{'a' * 40}\n" in text and str(tmp_path) not in text


def test_up_to_a_dozen_models_look_different() -> None:
    sources = ["a", "b", "a", "c", "a", "d", "e", "f", "g", "h", "i", "i"]
    looks = figures.assign(sources)
    assert len({(colour, shape % 4) for colour, shape in looks}) == len(sources)
    assert looks[0][0] == looks[2][0] == looks[4][0] != looks[1][0]
    assert max(colour for colour, _ in looks) < figures.COLOURS


def test_pages_have_names_of_their_own() -> None:
    found = site._pages(["a b", "a-b", "A b", "..", "日本", "x" * 300])
    assert found[:5] == ["a-b.html", "a-b-2.html", "A-b-3.html", "model.html", "model-2.html"]
    assert len(found[5]) < 100
