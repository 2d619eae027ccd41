"""Names of the zoo, and what a name, a path or a hub id means.

`zoo/models/index.json` says what every named model is: the sha256 of each of its files, its spike
checksum and, for one that does not ship, the repository and commit it is pulled from. `python -m
zoo.models.registry` writes it anew from the folders beside it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from zoo.artifact.config import CONFIG, EVALUATION, FILES, WEIGHTS, Config, Sha256, parse_config
from zoo.artifact.results import Evaluation, read_evaluation
from zoo.data.datasets import KNOWN
from zoo.errors import IntegrityError, NetworkError, NotFoundError, UsageError, ZooError
from zoo.hub import cache
from zoo.hub import client as hub
from zoo.models import recipes
from zoo.models.figures import Figures, recipe_figures
from zoo.models.measured import measured_here
from zoo.pretrained.published import RELEASES
from zoo.progress import Progress

if TYPE_CHECKING:
    from zoo.artifact.folder import Check
    from zoo.networks.backends import Backend

_SHIPPED = Path(__file__).parent


Origin = Literal["shipped", "cached", "made", "folder"]


class IndexEntry(BaseModel):
    """An entry of the index: one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, Sha256]
    spikes: Sha256
    repo: str | None = None
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None

    @model_validator(mode="after")
    def _can_be_had(self) -> IndexEntry:
        if not {CONFIG, WEIGHTS} <= self.files.keys() <= {*FILES}:
            raise ValueError(
                f"files must be of {', '.join(FILES)}, the first and the last among them"
            )
        if (self.repo is None) != (self.revision is None):
            raise ValueError("repo and revision go together")
        if self.repo is not None and not hub.is_repo(self.repo):
            raise ValueError("repo must be org/name")
        return self


class _Index(
    RootModel[dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")], IndexEntry]]
):
    pass


@dataclass(frozen=True)
class Entry:
    """An artifact that has a name.

    `size` is that of config.json and the weights in bytes, `evaluation` what its eval.json says, if
    it has one, `origin` where its folder is, `commit` that of the repository it was pulled from.
    `here` is what was measured of it here, apart from `evaluation`, on most images first.
    """

    name: str
    folder: Path
    config: Config
    size: int
    evaluation: Evaluation | None
    origin: Origin = "folder"
    commit: str | None = None
    here: tuple[Evaluation, ...] = ()

    @property
    def figures(self) -> Evaluation | None:
        """What came with the model, or where nothing did what was measured here."""
        return self.evaluation or next(iter(self.here), None)

    @property
    def dataset(self) -> str | None:
        """Name of the data set that it was measured on, else made for; None if it has none."""
        data = self.figures and self.figures.data
        return (data and (data.dataset or data.name)) or dataset_of(self.config)

    @property
    def of_recipe(self) -> Figures | None:
        """What was measured of the recipe that made it, if these are the weights it is of."""
        recipe = recipes.RECIPES.get(self.name) if self.origin == "made" else None
        found = recipe_figures(recipe) if recipe is not None else None
        same = found is not None and found.weights_sha256 == self.config.weights_sha256
        return found if same else None

    @property
    def top1(self) -> dict[int, float]:
        """Measured accuracy in percent by number of timesteps; empty where there is none."""
        if self.figures is not None:
            return {row.timesteps: row.top1 for row in self.figures.rows}
        return self.of_recipe.top1 if self.of_recipe is not None else {}

    @property
    def unmeasured(self) -> str | None:
        """Why `top1` is empty; None where it is not."""
        return None if self.top1 else f"zoo eval {self.name} measures it"


def index() -> dict[str, IndexEntry]:
    """Return the models that have a name; raise IntegrityError if the index is damaged."""
    path = _SHIPPED / "index.json"
    try:
        return _Index.model_validate_json(path.read_bytes()).root
    except (OSError, ValidationError) as error:
        raise IntegrityError(
            f"{path} cannot be used ({str(error)[:120]}): install spiking-zoo again"
        ) from None


def entry(folder: Path, name: str | None = None) -> Entry:
    """Return the facts of one artifact folder, without its tensors."""
    config = parse_config((folder / "config.json").read_bytes(), f"{folder}/config.json")
    evaluation = read_evaluation(folder) if (folder / EVALUATION).is_file() else None
    parts = [folder / file for file in (CONFIG, WEIGHTS)]
    size = sum(path.stat().st_size for path in parts if path.is_file())
    pulled = cache.is_cached(folder)
    origin: Origin = "folder"
    if folder.parent == _SHIPPED:
        origin = "shipped"
    elif pulled or cache.is_made(folder):
        origin = "cached" if pulled else "made"
    return Entry(
        name or cache.name_of(folder),
        folder,
        config,
        size,
        evaluation,
        origin,
        folder.name if pulled else None,
        measured_here(config.weights_sha256),
    )


def _folders() -> list[str]:
    return sorted(path.parent.name for path in _SHIPPED.glob("*/config.json"))


def shipped() -> list[Entry]:
    """Return the artifacts inside the package, by name."""
    return [entry(_SHIPPED / name) for name in _folders()]


def at_hand(on_error: Callable[[str], None]) -> list[Entry]:
    """Return the artifacts that need no network: shipped, whole in the cache, or made here.

    Args:
        on_error: called with what is wrong with one that is damaged, which is left out.
    """
    names = {(named.repo, named.revision): name for name, named in index().items() if named.repo}
    pulled = [one for one in cache.snapshots() if one.whole]
    made = [one.folder for one in recipes.everything() if one.state == "current"]
    folders: list[tuple[Path, str | None]] = [
        *((_SHIPPED / name, None) for name in _folders()),
        *((one.folder, names.get((one.repo, one.commit))) for one in pulled),
        *((one, None) for one in made),
    ]
    found = []
    for folder, name in folders:
        try:
            found.append(entry(folder, name))
        except (ZooError, OSError) as error:
            on_error(f"left out {name or cache.name_of(folder)}: {error}")
    return found


def to_make() -> list[recipes.Recipe]:
    """Return the recipes that were not followed yet."""
    return [
        recipe for name, recipe in recipes.RECIPES.items() if recipes.current_artifact(name) is None
    ]


def resolve(
    name_or_path: str | Path,
    *,
    offline: bool = False,
    token: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return the artifact folder of what a user names, the first of these that it is:

    a folder; a model that ships; one that a recipe made; a pinned name or an `org/name[@revision]`
    in the hub client's cache; the same on the hub, from where it is pulled. `org/name` of the cache
    is the newest that was pulled; `zoo pull` looks for a newer one, and it alone makes what a
    recipe makes.

    Raises:
        NotFoundError: it is none of these, and lists near names; or a recipe was not followed yet.
        NetworkError, AuthError, IntegrityError: as `zoo.hub.cache.fetch_artifact`.
    """
    text, path = str(name_or_path), Path(name_or_path)
    try:
        if (path / "config.json").is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name too long for a file, or with a null byte in it
        is_folder = False
    if text in _folders():
        return _SHIPPED / text
    named = index().get(text)
    if named is None and text in recipes.RECIPES:
        made = recipes.current_artifact(text)
        if made is None:
            raise NotFoundError(f"{text} is not here yet: {recipes.how_to(text)}")
        return made
    wanted = (
        (str(named.repo), named.revision)
        if named
        else cache.parse(text)
        if isinstance(name_or_path, str)
        else None
    )
    folder = cache.cached(*wanted) if wanted else None
    if folder is not None:
        return folder
    if is_folder and text:
        raise NotFoundError(
            f"{path} has no config.json: it is not an artifact; make one with zoo convert"
        )
    if wanted is None or (
        named is None and Path(wanted[0]).parent.is_dir()
    ):  # a mistyped path is not for a hub to know
        raise NotFoundError(
            f"{text} is neither a folder, nor a model of the zoo, nor org/name of a hub; "
            f"{near(text)}"
        )
    try:
        expected = named.files if named else None
        return cache.fetch_artifact(
            *wanted, expected=expected, token=token, offline=offline, progress=progress
        ).folder
    except (NotFoundError, NetworkError) as error:
        raise type(error)(f"{text} is no folder here, and {error}") from None


def near(text: str) -> str:
    """Return the names that are nearest to a text, as words of a message."""
    names = sorted({*index(), *_folders(), *recipes.RECIPES})
    found = difflib.get_close_matches(text, names, n=3, cutoff=0.4) or _folders()
    return f"known: {', '.join(found) or 'none is shipped'}"


def pull(
    text: str,
    *,
    images: str | Path | None = None,
    samples: int | None = None,
    on_bad_image: Literal["stop", "skip"] = "stop",
    endpoint: str | None = None,
    offline: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> cache.Pulled:
    """Make a model ready for use without a network, every file checked.

    Args:
        text: a name of the zoo, or `org/name[@revision]` of a hub.
        images, samples, on_bad_image, log: of a model that a recipe makes; see
            `zoo.models.recipes.make`.
        endpoint: another hub than HF_ENDPOINT; it gets no token.
        offline: take what is in the package or the cache.
        force: fetch or make it again.
        progress: called with a stage, what is done and how much there is.

    Warns:
        UserWarning: the hub does not answer, and a branch or tag is what it was when it was last
            pulled; `Pulled.warning` says the same.

    Raises NotFoundError for a name that does not exist, IntegrityError, and what
    `zoo.hub.cache.fetch_artifact` and `zoo.models.recipes.make` raise.
    """
    named = index().get(text)
    if named is None and text in recipes.RECIPES:
        return recipes.make(
            text,
            images=images,
            samples=samples,
            on_bad_image=on_bad_image,
            endpoint=endpoint,
            offline=offline,
            force=force,
            progress=progress,
            log=log,
        )
    if images is not None or samples is not None:
        raise UsageError(
            f"{text} is not converted here: `images` and `samples` are for "
            f"{', '.join(recipes.RECIPES)}"
        )
    if named is not None and text in _folders():
        problem = check(_SHIPPED / text)
        if problem is not None:
            raise IntegrityError(f"{_SHIPPED / text}: {problem}: install spiking-zoo again")
        files = {
            name: ((_SHIPPED / text / name).stat().st_size, sha256)
            for name, sha256 in named.files.items()
        }
        return cache.Pulled(text, None, None, _SHIPPED / text, files, fetched=False)
    wanted = (str(named.repo), named.revision) if named else cache.parse(text)
    if wanted is None:
        raise NotFoundError(
            f"{text} is neither a model of the zoo nor org/name of a hub; {near(text)}"
        )
    pulled = cache.fetch_artifact(
        *wanted,
        expected=named.files if named else None,
        endpoint=endpoint,
        offline=offline,
        force=force,
        progress=progress,
    )
    if pulled.warning is not None:
        warnings.warn(pulled.warning, stacklevel=2)
    return pulled


def check(folder: Path) -> str | None:
    """Return what differs between a shipped folder and the index, or None."""
    named = index().get(folder.name)
    if named is None:
        return "is not in the index: python -m zoo.models.registry writes it anew"
    return _difference(folder, named.files)


def _difference(folder: Path, files: Mapping[str, str]) -> str | None:
    found = {path.name for path in folder.iterdir() if path.name in FILES}
    for name in sorted(found ^ files.keys()):
        return f"{name} is {'missing' if name in files else 'not in the index'}"
    for name, sha256 in files.items():
        have = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if have != sha256:
            return f"{name} has sha256 {have}, the index says {sha256}"
    return None


def verify_model(
    folder: Path, *, deep: bool = False, device: str = "cpu", backend: Backend = "auto"
) -> list[Check]:
    """Return the checks of a model: files against the index or the hub, then the artifact.

    Args:
        deep, device, backend: as in `zoo.artifact.folder.verify_artifact`.
    """
    from zoo.artifact.folder import Check, verify_artifact

    first = []
    if folder.parent == _SHIPPED:
        problem = check(folder)
        first = [
            Check("index", problem is None, problem or "every file has the sha256 of the index")
        ]
    elif cache.is_cached(folder):
        problem = cache.problem_of(folder)
        first = [Check("cache", problem is None, problem or "every file has the hash of the hub")]
    return first + verify_artifact(folder, deep=deep, device=device, backend=backend)


def dataset_of(config: Config) -> str | None:
    """Return the name of the data set that a model is for, None where none is known.

    It is the one that the model was calibrated on, or the one that its checkpoint is published for.
    """
    source = RELEASES.get(config.source.name)
    return config.calibration.dataset or (source.dataset if source is not None else None)


def default_data(config: Config) -> str | None:
    """Return the data set that an evaluation takes by default, None for none.

    It is the one that the model is for, where the zoo can fetch that.
    """
    name = dataset_of(config)
    return name if name in KNOWN else None


def make_index() -> dict[str, Any]:
    """Return the index of the folders as they are; entries of models that do not ship are kept."""
    kept = index() if (_SHIPPED / "index.json").is_file() else {}
    made = {name: named for name, named in kept.items() if named.repo is not None}
    for found in shipped():
        files = {
            name: hashlib.sha256((found.folder / name).read_bytes()).hexdigest()
            for name in sorted(FILES)
            if (found.folder / name).is_file()
        }
        before = kept.get(found.name)
        made[found.name] = IndexEntry.model_validate(
            {
                "files": files,
                "spikes": found.config.checksum.sha256,
                "repo": before.repo if before else None,
                "revision": before.revision if before else None,
            }
        )
    return {name: made[name].model_dump() for name in sorted(made)}


if __name__ == "__main__":
    try:
        text = json.dumps(make_index(), indent=2) + "\n"
    except ZooError as error:
        raise SystemExit(f"error: {error}") from None
    (_SHIPPED / "index.json").write_text(text)
    print(f"wrote {_SHIPPED / 'index.json'}")
