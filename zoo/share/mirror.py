"""A folder of artifacts as a hub has them, DIR/org/name/, for `zoo serve`."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from zoo.artifact.config import CONFIG, FILES
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.hub import cache
from zoo.hub import client as hub
from zoo.progress import Progress

ORG = "spiking-zoo"  # of whatever comes without one


@dataclass(frozen=True)
class Mirrored:
    """One artifact in the folder; `changed` is False when the same bytes were there already."""

    id: str
    folder: Path
    size: int
    weights_sha256: str
    changed: bool


def repository(folder: Path, org: str = ORG) -> str:
    """Return `org/name` of an artifact: its own from a hub, else `org` and its folder's name.

    Raises UsageError when a hub would not take that.
    """
    name = cache.name_of(folder)
    found = name if hub.is_repo(name) else f"{org}/{name}"
    if not hub.is_repo(found):
        raise UsageError(
            f"{found!r} cannot name a repository: letters, digits, single - _ and . only; rename "
            "it or pass `name`"
        )
    return found


def mirror(
    root: str | Path, models: list[str], *, name: str = ORG, progress: Progress | None = None
) -> list[Mirrored]:
    """Copy artifacts into `root` as root/org/name, each checked as `zoo.load` checks it.

    An artifact appears whole or not at all. One that is there with the same bytes is left alone,
    another is replaced.

    Args:
        models: names of the zoo, artifact folders, or `org/name[@revision]` of a hub.
        name: the org of those that have none of their own.

    Raises:
        NotFoundError: a model does not exist.
        IntegrityError: an artifact is damaged; those before it are in place.
        UsageError: a hub would not take the id, two models have the same, or something else is in
            the way.
        NetworkError, AuthError: as `zoo.models.registry.resolve`.
        ZooError: the folder cannot be written.
    """
    from zoo.models import registry

    root = Path(root)
    wanted: dict[str, Path] = {}
    for model in models:
        folder = registry.resolve(model, progress=progress)
        identity = repository(folder, name)
        if wanted.setdefault(identity, folder) != folder:
            raise UsageError(
                f"{wanted[identity]} and {folder} would both be {identity}: mirror one under "
                "another `name`"
            )
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is not a folder: choose another")
    done = []
    for number, (identity, folder) in enumerate(wanted.items()):
        if progress is not None:
            progress("copying", number, len(wanted))
        done.append(_copy(folder, root / identity, identity))
    if progress is not None:
        progress("copying", len(wanted), len(wanted))
    return done


def _copy(source: Path, target: Path, identity: str) -> Mirrored:
    """Copy one artifact beside its place, check the copy, and move it in."""
    from zoo.artifact.folder import read_artifact
    from zoo.files import replaced_folder

    if target.exists() and not (target / CONFIG).is_file():
        raise UsageError(
            f"{target} is not an artifact and would be replaced: move it away, or choose another "
            "folder"
        )
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            copy = Path(place)
            for name in FILES:
                if (source / name).is_file():
                    _copy_synced(source / name, copy / name)
            try:
                config, _ = read_artifact(copy)
            except IntegrityError as error:
                raise IntegrityError(str(error).replace(place, str(source))) from error
            size = sum(path.stat().st_size for path in copy.iterdir())
            changed = not _same(copy, target)
            if changed:
                with replaced_folder(target) as temporary:
                    for path in copy.iterdir():
                        path.rename(temporary / path.name)
    except OSError as error:
        raise ZooError(
            f"{target} could not be written ({error.strerror}): free some space or choose another "
            "folder"
        ) from error
    finally:
        for (
            folder
        ) in missing:  # an error leaves no empty folder behind; one with an artifact in it stays
            with contextlib.suppress(OSError):
                folder.rmdir()
    return Mirrored(identity, target, size, config.weights_sha256, changed)


def _copy_synced(source: Path, target: Path) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _same(copy: Path, target: Path) -> bool:
    """Return whether `target` holds the files of `copy` and no others."""
    ours = sorted(path.name for path in copy.iterdir())
    if not target.is_dir() or ours != sorted(path.name for path in target.iterdir()):
        return False
    return all(filecmp.cmp(copy / name, target / name, shallow=False) for name in ours)
