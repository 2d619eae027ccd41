"""The gallery: a folder of static pages about models of the zoo, which asks nothing of any network.

Every figure comes from an artifact's eval.json and config.json, or from running a digits network
(`zoo.render.raster`); one that is missing is an error. The same artifacts give the same bytes. A
page carries its own style and script, and allows no others.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zoo.artifact.config import EVALUATION
from zoo.artifact.folder import read_artifact
from zoo.artifact.results import AnnFacts, Evaluation, Row
from zoo.data.datasets import KNOWN
from zoo.errors import UsageError
from zoo.files import replaced_folder, write_synced
from zoo.models import registry
from zoo.models.figures import Figures, recipe_figures, why_unmeasured
from zoo.models.recipes import RECIPES, Recipe
from zoo.models.registry import Entry
from zoo.progress import Progress
from zoo.render import facts, figures, raster
from zoo.render.svg import text_of
from zoo.text import human_bytes, human_count
from zoo.version import __version__

MANIFEST = "site.json"


_GENERATOR = "spiking-zoo site"


_TEMPLATES = Path(__file__).parent / "templates" / "site"


@dataclass(frozen=True)
class Model:
    """One model of the gallery, all of whose figures are there.

    `page` is its file under models/, `given` what a command line calls it, `data` what `zoo eval`
    has to be given.
    """

    entry: Entry
    measured: Evaluation
    ann: AnnFacts
    series: figures.Series
    page: str
    given: str
    data: list[str]
    rasters: list[raster.Raster]

    @property
    def images(self) -> str:
        """The data set it was measured on, in a word or two."""
        data = self.measured.data
        if data.dataset in KNOWN:
            return KNOWN[data.dataset].title
        return data.name or data.description.split(",")[0]

    @property
    def by_timesteps(self) -> dict[int, Row]:
        """The row of each number of timesteps."""
        return {row.timesteps: row for row in self.measured.rows}

    @property
    def skips(self) -> list[int]:
        """Timesteps from which on the read-out leaves out more of the first ones."""
        delay = self.entry.config.readout_delay
        known = sorted(delay)
        return [
            step
            for before, step in zip([None, *known], known, strict=False)
            if delay[step] > delay.get(before or 0, 0)
        ]

    @property
    def row(self) -> Row:
        """The row at the timesteps the model is meant for, or the last one."""
        return self.by_timesteps.get(self.entry.config.timesteps, self.measured.rows[-1])


@dataclass(frozen=True)
class RecipePage:
    """A recipe in the gallery: its page, its data set, what was measured or why nothing was."""

    recipe: Recipe
    page: str
    images: str
    found: Figures | None
    why: str | None


def build_site(
    out: Path, names: Sequence[str] = (), *, force: bool = False, progress: Progress | None = None
) -> list[str]:
    """Write the gallery of some models to `out` and return its files, relative to `out`.

    Args:
        names: names of the zoo or artifact folders; all that ship by default.

    Raises:
        UsageError: `out` exists and `force` is not set, or it is not such a gallery; two models
            share a name; there is none; or a figure is missing, which is named.
        NotFoundError, IntegrityError: a model does not exist, or is not what its config says.
        ZooError: `out` cannot be written; what was there stays.
    """
    check_site_folder(out, force)
    models = load_pages(names, progress)
    pages = render_pages(models, [] if names else list(RECIPES.values()))
    files = {name: text.encode() for name, text in pages.items()}
    with replaced_folder(out) as temporary:
        (temporary / "models").mkdir()
        for name, data in {**files, MANIFEST: _manifest(files)}.items():
            write_synced(temporary / name, data)
    return [*files, MANIFEST]


def check_site_folder(out: Path, force: bool) -> None:
    """Raise UsageError, before the work, if `out` is taken.

    `force` replaces a gallery, never anything else, nor what was put beside it.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise UsageError(
            f"{out} exists already: choose another --out, or pass --force to replace it"
        )
    if out.is_symlink() or not out.is_dir():
        raise UsageError(f"{out} is not a folder: choose another --out")
    present = {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if not present:
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        ours = manifest["generator"] == _GENERATOR
        listed = {str(name) for name in manifest["files"]} | {MANIFEST}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        ours, listed = False, set()
    if not ours:
        raise UsageError(
            f"{out} was not made by zoo site, --force would delete what is in it: choose another "
            "--out"
        )
    if foreign := sorted(present - listed):
        stranger = f"{out}/{foreign[0]}"
        raise UsageError(
            f"--force would delete {stranger}, which zoo site did not make: move it, or choose "
            "another --out"
        )


def _manifest(files: dict[str, bytes]) -> bytes:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return (
        json.dumps({"generator": _GENERATOR, "version": __version__, "files": hashes}, indent=2)
        + "\n"
    ).encode()


def load_pages(names: Sequence[str] = (), progress: Progress | None = None) -> list[Model]:
    """Read and check the models, and run those of digits."""
    if names:
        folders = [registry.resolve(name) for name in names]
        entries = [registry.entry(folder) for folder in folders]
    else:
        entries = registry.shipped()
    if not entries:
        raise UsageError(
            "no model comes with this installation: name artifact folders that have an eval.json"
        )
    doubles = [
        entry.name
        for index, entry in enumerate(entries)
        if entry.name in [e.name for e in entries[:index]]
    ]
    if doubles:
        raise UsageError(
            f"two models are called {doubles[0]}: rename one of the folders, its name is its page"
        )
    measured = [measured_of(entry) for entry in entries]
    looks = figures.assign([entry.config.source.sha256 for entry in entries])
    pages = _pages([entry.name for entry in entries])
    found = []
    for index, (entry, (evaluation, ann)) in enumerate(zip(entries, measured, strict=True)):
        read_artifact(
            entry.folder
        )  # the page states what is in the file, so the file has to be that
        given = {"folder": f"./{entry.name}", "cached": f"{entry.name}@{entry.commit}"}.get(
            entry.origin, entry.name
        )
        found.append(
            Model(
                entry=entry,
                measured=evaluation,
                ann=ann,
                page=pages[index],
                given=given,
                series=figures.Series(entry.name, *looks[index], measured=evaluation, ann=ann),
                data=[] if registry.default_data(entry.config) else ["--data", "PATH"],
                rasters=raster.watch(entry.folder) if raster.can_show(entry.config) else [],
            )
        )
        if progress is not None:
            progress("models", index + 1, len(entries))
    return found


def measured_of(entry: Entry) -> tuple[Evaluation, AnnFacts]:
    """Return what was measured of a model, and of its ANN.

    Raises:
        UsageError: it was not measured, or a figure that the pages need is missing; which, is said.
    """
    where, found = f"{entry.folder}/{EVALUATION}", entry.figures
    again = f"measure again with zoo eval {shlex.quote(str(entry.folder))} --ann FILE --save"
    if found is None:
        raise UsageError(f"{where} is missing, and with it every figure of {entry.name}: {again}")
    if found.weights_sha256 != entry.config.weights_sha256:
        raise UsageError(
            f"{where}: weights_sha256 is not that of config.json, it was measured on other "
            f"weights: {again}"
        )
    if found.config != entry.config:
        raise UsageError(f"{where}: config is not what config.json says: {again}")
    if found.ann is None:
        raise UsageError(f"{where}: ann is missing: {again}")
    for row in found.rows:  # drawn on an axis of powers, which has no 0
        for name, energy in row.energy_nj.items():
            if energy == 0:
                raise UsageError(f"{where}: energy_nj.{name} at T = {row.timesteps} is 0: {again}")
    return found, found.ann


def _pages(names: Sequence[str]) -> list[str]:
    """Return a file name for each model.

    It is the model's where that is safe in a link and on every disk; no two differ by case alone.
    """
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "model"
        page, count = f"{plain}.html", 1
        while page.lower() in [other.lower() for other in found]:
            count += 1
            page = f"{plain}-{count}.html"
        found.append(page)
    return found


def render_pages(models: Sequence[Model], recipes: Sequence[Recipe] = ()) -> dict[str, str]:
    """Render every page; return them by their path in the folder."""
    files = _pages([model.entry.name for model in models] + [recipe.name for recipe in recipes])
    made = [
        RecipePage(
            recipe,
            page,
            KNOWN[recipe.dataset].title if recipe.dataset in KNOWN else "ImageNet",
            recipe_figures(recipe),
            why_unmeasured(recipe),
        )
        for recipe, page in zip(recipes, files[len(models) :], strict=True)
    ]
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "bytes": human_bytes,
        "percent": facts.percent,
        "count": human_count,
        "nj": figures.nanojoule,
        "grouped": "{:,}".format,
        "plain_nj": lambda value: figures.nanojoule(value).removesuffix(" nJ"),
        "lines": lambda text: Markup("\n").join(map(text_of, text.split("\n"))),
    }
    style, script = ((_TEMPLATES / name).read_text() for name in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src "
        f"'{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    common = {
        "style": Markup(style),
        "script": Markup(script),
        "policy": policy,
        "generator": _GENERATOR,
        "version": __version__,
        "figures": figures,
        "draw": raster,
    }
    steps = sorted({row.timesteps for model in models for row in model.measured.rows})
    shown = next((model for model in models if model.rasters), None)
    pages = {
        "index.html": environment.get_template("index.html").render(
            **common,
            models=models,
            groups=_by_images(models),
            recipes=made,
            steps=steps,
            shown=shown,
        )
    }
    for model in models:
        pages[f"models/{model.page}"] = environment.get_template("model.html").render(
            **common,
            model=model,
            config=model.entry.config,
            measured=model.measured,
            facts=_origin(model),
            snippets=snippets(model),
        )
    for one in made:
        pages[f"models/{one.page}"] = environment.get_template("recipe.html").render(
            **common, recipe=one.recipe, images=one.images, found=one.found, why=one.why
        )
    return pages


def _by_images(models: Sequence[Model]) -> list[tuple[str, list[Model]]]:
    """Return the models by the data set they were measured on, the one with most models first.

    Accuracies on different images do not belong in one chart.
    """
    groups: dict[str, list[Model]] = {}
    for model in models:
        groups.setdefault(model.images, []).append(model)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _hash(text: str) -> str:
    """Return what a content security policy calls an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shown(value: object) -> Markup:
    """Return what a template prints; raise ValueError for None, which is a missing figure."""
    if value is None:
        raise ValueError("a template prints None")
    return text_of(value)


def snippets(model: Model) -> list[tuple[str, str]]:
    """Return what to type, each with what it is for."""
    config, steps = model.entry.config, ",".join(str(row.timesteps) for row in model.measured.rows)
    shape = ", ".join(map(str, config.preprocess.input_size))
    measure = shlex.join(["zoo", "eval", model.given, "--timesteps", steps, *model.data])
    python = (
        f"import zoo\n\nmodel = zoo.load({model.given!r})\n"
        f"logits = model(images, timesteps={config.timesteps})"
    )
    verify = shlex.join(["zoo", "verify", model.given, "--deep"])
    fetch = (
        []
        if model.entry.origin == "folder"
        else [("Fetch it, every file checked", shlex.join(["zoo", "pull", model.given]))]
    )
    return [
        *fetch,
        ("Measure it" + (" (PATH: its labelled test images)" if model.data else ""), measure),
        ("Check its files, and every spike against the checksum", verify),
        (f"Use it from Python; images are uint8 [B, {shape}], as decoded", python),
    ]


def _origin(model: Model) -> dict[str, dict[str, object]]:
    """Return where a model and its figures come from, heading -> label -> text."""
    config, measured = model.entry.config, model.measured
    groups: dict[str, dict[str, object]] = {
        heading: dict(group) for heading, group in facts.config_facts(config).items()
    }
    if config.source.url:
        groups["Source"]["url"] = _link(config.source.url)
    if training := facts.training_facts(config):
        groups["Training"] = dict(training)
    here = {} if measured is model.entry.evaluation else {"figures": "measured here, not published"}
    groups["Measurement"] = {**here, **facts.evaluation_facts(measured)}
    groups["Files"] = {**facts.size_facts(measured), **groups.pop("Checksums")}
    return groups


def _link(url: str) -> object:
    """Return a link, if it leads to the web, and the text otherwise."""
    if not re.match(r"https?://", url):
        return url
    return Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>').format(text_of(url))
