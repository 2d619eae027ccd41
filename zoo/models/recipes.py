"""Models that are made here: a public ANN is fetched, converted, verified and kept.

A recipe says which checkpoint, pinned to its bytes, and how it is converted. Where the hub's own
pages were seen to state the sha256 of timm's file (ResNet-18, 50 and 152) the source is that file,
at its commit; else it is torchvision's, whose name holds the first eight digits of its sha256. Both
are torchvision's ImageNet weights. The CIFAR networks of `zoo.pretrained.published` are named as
timm names weights, by a tag that says whose they are and for which data set:
`s-resnet56.akamaster_c10`. A CIFAR network's name without a tag means the zoo's own.

What is made lies in the zoo's own cache, not the hub client's, which holds only what has a hub's
hash:

    made/s-resnet50/<recipe's digest>-data-free-32         an artifact; with images:
    <digest>-calib-<images>-<their digest> made/s-resnet50/current
    which of them the name means: the one that was pulled last

An artifact appears only after it was verified. A recipe that changed has another digest, and is
made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.artifact.config import CONFIG, FILES, WEIGHTS, parse_config
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.files import replaced_file
from zoo.hub import cache
from zoo.pretrained.published import RELEASES, is_published
from zoo.progress import Progress

if TYPE_CHECKING:
    from zoo.data.images import ImageSet
    from zoo.pretrained.checkpoint import Checkpoint


# Part of every digest: raise it when the zoo's conversion gives other artifacts than before.
CONVERSION = 3


_KEY = re.compile(r"[0-9a-f]{12}-(data-free-\d+|calib-\d+-[0-9a-f]{12})", re.ASCII)


_CURRENT, _LOCK = "current", ".lock"


@dataclass(frozen=True)
class Recipe:
    """A checkpoint and how it is converted.

    Attributes:
        source: as `zoo.pretrained.sources` reads it, with a commit where it is a hub's.
        sha256: of the weights; None where `zoo.pretrained.published` knows the first eight digits.
        megabytes: what is fetched.
        dataset: that the checkpoint was trained on.
        samples: images to calibrate on, or to make; at 224 x 224 each takes memory.
        parameters: of a method, where they are not its defaults; each method takes those that it
            has.
    """

    name: str
    arch: str
    source: str
    megabytes: int
    sha256: str | None = None
    neuron: Literal["if", "signed", "multi-level"] = "if"
    timesteps: int = 32
    samples: int = 32
    parameters: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    dataset: str = "imagenet"

    @property
    def digest(self) -> str:
        """Cache key: changes whenever the conversion would."""
        facts = asdict(self) | {"conversion": CONVERSION}
        del facts["dataset"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Made:
    """An artifact that a recipe made; `key` names its folder, `state` says if its name means it."""

    name: str
    key: str
    folder: Path
    state: Literal["current", "made", "outdated"]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


_CHECKPOINTS: tuple[tuple[str, str, int, str | None], ...] = (
    (
        "resnet18",
        "timm/resnet18.tv_in1k@a987fd6b60f845221bfff84b6f0191273ba56ead",
        47,
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
    ),
    ("resnet34", "torchvision:resnet34", 87, None),
    (
        "resnet50",
        "timm/resnet50.tv_in1k@aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8",
        102,
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
    ),
    ("resnet101", "torchvision:resnet101", 179, None),
    (
        "resnet152",
        "timm/resnet152.tv_in1k@2a9b5c2460893a2ab13d8625db2383f3094d704f",
        241,
        "15897077afdf4d6334dc0c3f8e6fb483afb3faa9298c139f3c6eb29bca6ae5b2",
    ),
)


# Binary neurons of the bottleneck networks need 64 timesteps and more, at which what thresholds
# clip weighs more than how soon neurons fire.
_LONG: dict[str, Any] = {"timesteps": 64, "parameters": {"levels": 32, "rows": 64}}


_TAGS = {"cifar10": "c10", "cifar100": "c100"}


# A quarter more operations than 4 bits in every layer take: of a ResNet-56 for CIFAR-100, 89.2 % of
# the predictions are the ANN's at T = 1 and 93.7 % at T = 2 (benchmarks/results/strong).
_CIFAR_FEW: dict[str, Any] = {
    "neuron": "multi-level",
    "timesteps": 2,
    "parameters": {"budget": 1.25, "rows": 8, "delay": "error"},
}


_CIFAR = [
    Recipe(
        f"s-{one.arch}{suffix}.{one.publisher}_{_TAGS[one.dataset]}",
        one.arch,
        one.source,
        one.megabytes,
        one.sha256,
        samples=128,
        dataset=one.dataset,
        **how,
    )
    for one in RELEASES.values()
    if one.dataset in _TAGS
    for suffix, how in (("", {}), ("-multi-level", _CIFAR_FEW))
]


_IMAGENET = [
    recipe
    for arch, source, megabytes, sha256 in _CHECKPOINTS
    for recipe in (
        Recipe(
            f"s-{arch}",
            arch,
            source,
            megabytes,
            sha256,
            **(_LONG if arch not in ("resnet18", "resnet34") else {}),
        ),
        Recipe(
            f"s-{arch}-signed",
            arch,
            source,
            megabytes,
            sha256,
            neuron="signed",
            parameters={"levels": 32},
        ),
        Recipe(
            f"s-{arch}-multi-level",
            arch,
            source,
            megabytes,
            sha256,
            neuron="multi-level",
            timesteps=4,
            parameters={"budget": 1.25, "rows": 8},
        ),
    )
]


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*_CIFAR, *_IMAGENET)}


def everything() -> Iterator[Made]:
    """Yield every artifact that was made here, also by recipes that have changed since."""
    for config in sorted(cache.made_folder().glob(f"*/*/{CONFIG}")):
        folder, name = config.parent, config.parents[1].name
        if not _KEY.fullmatch(folder.name) or not (folder / WEIGHTS).is_file():
            continue
        recipe = RECIPES.get(name)
        if recipe is None or not folder.name.startswith(f"{recipe.digest}-"):
            yield Made(name, folder.name, folder, "outdated")
        else:
            yield Made(
                name, folder.name, folder, "current" if folder == current_artifact(name) else "made"
            )


def current_artifact(name: str) -> Path | None:
    """Return the folder that a recipe's name means, None if it was not followed as it is."""
    home = cache.made_folder() / name
    try:
        key = (home / _CURRENT).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    fits = _KEY.fullmatch(key) and key.startswith(f"{RECIPES[name].digest}-")
    return (
        home / key
        if fits and all((home / key / file).is_file() for file in (CONFIG, WEIGHTS))
        else None
    )


def how_to(name: str) -> str:
    """Return the words of a message about a recipe that was not followed yet."""
    megabytes = RECIPES[name].megabytes
    return f"make it with zoo pull {name} (downloads {megabytes} MB and converts, minutes)"


def make(
    name: str,
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
    """Makes the artifact of a recipe, or finds it made, and lets the name mean it.

    Two processes that make the same take turns, and the second finds it made. What is killed leaves
    nothing that could be used.

    Args:
        images: training images to calibrate on, as `zoo.data.open.open_images` reads them;
            data-free without.
        samples: how many of them, or how many to make (default: the recipe's).
        on_bad_image: as `zoo.conversion.convert.convert` takes it.
        endpoint: another hub than HF_ENDPOINT.
        offline: the checkpoint has to be in its cache.
        force: make it again; a checkpoint in its cache serves.
        progress: called with a file or a stage, what is done and how much there is.
        log: called with lines for the user.

    Raises:
        NetworkError, NotFoundError, AuthError: the checkpoint cannot be had.
        IntegrityError: it is not the one of the recipe, or the artifact failed its verification;
            nothing of it is kept.
        UsageError: the images cannot be used, or an endpoint for a checkpoint that is not a hub's.
        ZooError: the cache cannot be written.
    """
    recipe = RECIPES[name]
    calibration: ImageSet | None = None
    if endpoint is not None and is_published(recipe.source):
        raise UsageError(
            f"{name} is made from {recipe.source}, which no hub has: leave `endpoint` out"
        )
    count = recipe.samples if samples is None else samples
    key, how = f"{recipe.digest}-data-free-{count}", f"data-free, on {count} images made for it"
    if images is not None:
        from zoo.data.open import open_images

        calibration = open_images(images, "train")
        drawn = calibration.take(count, 0)
        key, how = (
            f"{recipe.digest}-calib-{len(drawn)}-{drawn.sha256()[:12]}",
            f"on {images}: {drawn.description}",
        )
    folder = cache.made_folder() / name / key
    if not force and (found := _found(recipe, folder)):
        return found
    from zoo.pretrained.sources import read_source

    checkpoint = read_source(
        recipe.source,
        recipe.arch,
        sha256=recipe.sha256,
        endpoint=endpoint,
        offline=offline,
        progress=progress,
    )
    with _turn(folder.parent, log):
        if not force and (found := _found(recipe, folder)):
            return found
        _sweep(folder.parent)
        log(f"{name}: converting {checkpoint.name} {how}; this takes minutes")
        if calibration is not None:
            from zoo.conversion.inputs import with_network_labels

            for note in calibration.notes:
                log(note)
            labels = with_network_labels(checkpoint, calibration).matched or "none"
            log(f"calibrating on {images}: {calibration.description}; labels: {labels}")
        _make(recipe, checkpoint, calibration, count, on_bad_image, folder, progress, log)
        made = _found(recipe, folder, fetched=True)
    if made is None:
        raise IntegrityError(
            f"{folder} changed while it was made: pull {name} with `force=True` to make it again"
        )
    return made


def _make(
    recipe: Recipe,
    checkpoint: Checkpoint,
    images: ImageSet | None,
    samples: int,
    on_bad_image: Literal["stop", "skip"],
    folder: Path,
    progress: Progress | None,
    log: Callable[[str], None],
) -> None:
    from zoo.artifact.folder import verify_artifact
    from zoo.conversion.convert import convert
    from zoo.conversion.registry import method_named
    from zoo.files import replaced_folder

    method: Literal["data-free", "calibrated"] = "data-free" if images is None else "calibrated"
    result = convert(
        checkpoint,
        images,
        method=method,
        neuron=recipe.neuron,
        timesteps=recipe.timesteps,
        samples=samples,
        on_bad_image=on_bad_image,
        # The rule of the read-out's delay that older recipes' measured figures were made with.
        parameters={"delay": "search"}
        | {
            name: value
            for name, value in recipe.parameters.items()
            if name in method_named(method).Settings.model_fields
        },
        progress=progress,
    )
    with replaced_folder(folder) as temporary:
        result.save(temporary, force=True)
        bad = [check for check in verify_artifact(temporary, deep=True) if not check.ok]
        if bad:
            raise IntegrityError(
                f"{recipe.name}: what was made is not sound ({bad[0].detail}): nothing was kept; "
                "try again"
            )
    for text in (*result.assumed, *result.warnings):
        log(text)
    log(
        f"{recipe.name} predicts what the ANN predicts on {result.agreement:.1%} of these images "
        f"at T = {recipe.timesteps}"
    )


def _found(recipe: Recipe, folder: Path, *, fetched: bool = False) -> cache.Pulled | None:
    """Return an artifact that was made before if its files are sound; the name then means it."""
    try:
        data = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
        config = parse_config(data[CONFIG], f"{folder}/{CONFIG}")
        if hashlib.sha256(data[WEIGHTS]).hexdigest() != config.weights_sha256:
            return None
    except (KeyError, OSError, IntegrityError):
        return None
    if current_artifact(recipe.name) != folder:
        with replaced_file(folder.parent / _CURRENT) as temporary:
            temporary.write_text(folder.name, encoding="ascii")
    files = {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in data.items()
    }
    how = (
        "data-free"
        if config.method.name == "data-free"
        else f"on {config.calibration.images} images"
    )
    return cache.Pulled(
        recipe.name, None, None, folder, files, fetched, made=f"{config.source.name}, {how}"
    )


@contextlib.contextmanager
def _turn(
    home: Path, log: Callable[[str], None] = lambda _: None, *, wait: bool = True
) -> Iterator[bool]:
    """Hold a folder's lock; yield whether it is held: without `wait` another may have it.

    The system takes it back from a process that is killed.
    """
    from filelock import FileLock, Timeout

    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                yield False
                return
            log(f"another process is making {home.name}: waiting for it")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ZooError(
            f"{home} cannot be written ({why}): set ZOO_HOME to a folder that can"
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _sweep(home: Path) -> tuple[list[Path], int]:
    """Removes what interrupted makings left in a folder where nobody else makes anything now."""
    left = [path for path in sorted(home.glob(".*")) if path.is_dir()]
    freed = sum(path.stat().st_size for one in left for path in one.rglob("*") if path.is_file())
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return left, freed


def remove_made(found: Iterable[Made]) -> int:
    """Removes what was made; returns the bytes freed. The checkpoints stay in their caches."""
    freed = 0
    for one in found:
        freed += one.size
        # Renamed first: half of it is never found as if it were all.
        gone = one.folder.with_name(f".{one.key}.{os.getpid()}")
        try:
            one.folder.rename(gone)
        except OSError as error:
            raise ZooError(
                f"{one.folder} could not be removed ({error.strerror}): check its owner"
            ) from error
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            if (one.folder.parent / _CURRENT).read_text() == one.key:
                (one.folder.parent / _CURRENT).unlink()
    return freed


def prune_made() -> tuple[list[Path], int]:
    """Remove what interrupted conversions left and what no recipe leads to any more.

    Returns:
        The paths and the bytes freed.
    """
    outdated = [one for one in everything() if one.state == "outdated"]
    removed, freed = [one.folder for one in outdated], remove_made(outdated)
    for home in sorted(cache.made_folder().glob("*/")):
        with _turn(home, wait=False) as alone:
            if alone:
                left, size = _sweep(home)
                removed, freed = removed + left, freed + size
    return removed, freed
