"""The folder of a gallery appears whole or not at all, and replaces nothing but a gallery."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.render.pages import DIGITS, Change, Page, copy, unlike
from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.folder import read_config
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError
from zoo.models.figures import recipe_figures, why_unmeasured
from zoo.models.recipes import RECIPES
from zoo.render import site


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


def test_the_same_artifacts_give_the_same_bytes(gallery: Path, tmp_path: Path) -> None:
    models = [DIGITS, *(str(gallery.parent / name) for name in ("photos", "photos signed"))]
    site.build_site(tmp_path / "again", models)
    for path in gallery.rglob("*"):
        assert (
            path.is_dir()
            or path.read_bytes() == (tmp_path / "again" / path.relative_to(gallery)).read_bytes()
        )


def without(*path: str | int) -> Change:
    def change(config: dict[str, Any], found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]  # type: ignore[index]
        del found[path[-1]]  # type: ignore[arg-type]

    return change


def replacing(value: object, *path: str | int) -> Change:
    def change(config: dict[str, Any], found: dict[str, Any]) -> None:
        for key in path[:-1]:
            found = found[key]  # type: ignore[index]
        found[path[-1]] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        (without("rows", 2, "top1"), IntegrityError, "rows.2.top1"),
        (
            replacing(0, "rows", 2, "energy_nj", "snn_int8"),
            UsageError,
            "energy_nj.snn_int8 at T = 4",
        ),
        (replacing(None, "ann"), UsageError, "ann is missing"),
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


def test_a_model_of_the_cache_is_named_by_repository_and_commit(tmp_path: Path) -> None:
    (tmp_path / "models--me--net/snapshots").mkdir(parents=True)
    folder = copy(tmp_path / "models--me--net/snapshots", "a" * 40, unlike)
    site.build_site(tmp_path / "site", [str(folder)])
    text = Page((tmp_path / "site/models/me-net.html").read_text()).text()
    assert f"zoo pull me/net@{'a' * 40}\n" in text and str(tmp_path) not in text


def test_pages_have_names_of_their_own() -> None:
    found = site._pages(["a b", "a-b", "A b", "..", "日本", "x" * 300])
    assert found[:5] == ["a-b.html", "a-b-2.html", "A-b-3.html", "model.html", "model-2.html"]
    assert len(found[5]) < 100


def test_each_recipe_has_a_page_that_says_its_figure_or_why_not() -> None:
    found = [recipe for recipe in RECIPES.values() if recipe_figures(recipe)]
    others = [recipe for recipe in RECIPES.values() if not recipe_figures(recipe)]
    recipes = [*found[:1], *others[:2]]
    pages = site.render_pages(site.load_pages([DIGITS]), recipes)
    assert len(pages) == 2 + len(recipes)
    for recipe in recipes:
        text = Page(pages[f"models/{recipe.name}.html"]).text()
        measured = recipe_figures(recipe)
        if measured is None:
            assert f"Unmeasured: {why_unmeasured(recipe)}." in text
        else:
            assert all(f"{value:.2f}" in text for value in measured.top1.values())
        assert f"zoo pull {recipe.name}" in text
        assert recipe.source in text
        assert f"models/{recipe.name}.html" in pages["index.html"]
