"""Artifacts in the hub client's own cache: pulled whole or not at all, and found again offline.

The cache is the one `hf cache` and every other library use:
`models--org--name/snapshots/<commit>/`, and under `refs/` which commit a branch or tag was when it
was last pulled. The weights are fetched last, so a snapshot that has them is whole. The cache does
not know from which hub a copy came.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.artifact.config import CONFIG, FILES, MAX_BYTES, WEIGHTS, Config, parse_config
from zoo.errors import IntegrityError, NetworkError, NotFoundError, UsageError, ZooError
from zoo.files import cache_folder, replaced_file, replaced_folder, write_synced
from zoo.hub import client as hub
from zoo.hub import download
from zoo.progress import Progress

REVISION = re.compile(r"[A-Za-z0-9][\w.+/-]{0,199}", re.ASCII)


_REF = ".ref-"  # begins the name of a reference that is being written


_IN_USE = 3600.0  # seconds during which an unfinished file may belong to a pull that still runs


@dataclass(frozen=True)
class Pulled:
    """An artifact at hand.

    `files` gives size and sha256; `fetched` says whether a file came from the hub, or was made,
    just now.

    `made`: what it was converted from and how, where a recipe made it here.

    `warning`: why it may not be the newest, where the hub could not be asked; None otherwise.
    """

    name: str
    repo: str | None
    commit: str | None
    folder: Path
    files: dict[str, tuple[int, str]]
    fetched: bool
    made: str | None = None
    warning: str | None = None

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.files.values())


@dataclass(frozen=True)
class CachedSnapshot:
    """One commit of an artifact in the cache; `refs` are the branches and tags it was pulled as."""

    repo: str
    commit: str
    refs: tuple[str, ...]
    folder: Path

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in FILES if (self.folder / name).is_file()]

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def whole(self) -> bool:
        return (self.folder / WEIGHTS).is_file()

    @property
    def changed(self) -> float:
        """Time at which the last file came, in seconds since 1970; one that is coming counts."""
        coming = (self.folder.parents[1] / "blobs").glob("*.incomplete")
        return max((file.stat().st_mtime for file in (*self.files, *coming)), default=0.0)


def made_folder() -> Path:
    """Return the folder of what recipes made: a folder a recipe, in it one an artifact."""
    return cache_folder() / "made"


def parse(text: str) -> tuple[str, str | None] | None:
    """Return repository and revision of `org/name[@revision]`; None when the text is no such name.

    Raises UsageError for a revision that cannot be one.
    """
    repo, at, revision = text.partition("@")
    if not hub.is_repo(repo):
        return None
    if at and (
        not REVISION.fullmatch(revision) or ".." in revision or revision.endswith(("/", ".lock"))
    ):
        raise UsageError(
            f"{revision!r} cannot be a revision: write a commit, tag or branch, as in {repo}@v1"
        )
    return repo, revision if at else None


def cached(repo: str, revision: str | None = None) -> Path | None:
    """Return the folder of a whole artifact in the cache, or None; no hub is asked."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(repo, name, revision=revision or "main")
        for name in (CONFIG, WEIGHTS)
    ]
    return Path(found[1]).parent if all(isinstance(path, str) for path in found) else None  # type: ignore[arg-type]


def is_cached(folder: Path) -> bool:
    """Return whether a folder is one commit in a hub client's cache."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def is_made(folder: Path) -> bool:
    """Return whether a recipe made the folder."""
    return folder.parent.parent == made_folder()


def name_of(folder: Path) -> str:
    """Return the name that leads to a folder.

    It is `org/name` of one in the cache, the recipe's name of one that was made, else the folder's
    own name.
    """
    if is_cached(folder):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.parent.name if is_made(folder) else folder.resolve().name


def fetch_artifact(
    repo: str,
    revision: str | None = None,
    *,
    expected: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    offline: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Brings one commit of an artifact into the cache and checks every file of it.

    A branch or tag is looked up once; every file is of the commit it is at that time. When that
    fails for the network, the commit of the last look-up serves if it is whole in the cache, and
    `warning` says so. A commit in the cache needs no network.

    Args:
        revision: a commit, tag or branch; the newest of main without it.
        expected: file name -> sha256 of all the files there are to be; else the hub's own hashes,
            and that in config.json.
        force: fetch every file again.

    Raises:
        NetworkError, NotFoundError, AuthError, ZooError: as `zoo.hub.client.errors`.
        IntegrityError: a file is wrong or too large; it was removed from the cache and the artifact
            cannot be used.
    """
    local = hub.is_offline(offline)
    warning: str | None = None
    try:
        commit = _commit(repo, revision, endpoint, token, local)
    except NetworkError as error:
        folder_at_hand = None if local or force else cached(repo, revision)
        if folder_at_hand is None:
            raise
        commit, local = folder_at_hand.name, True
        warning = (
            f"took {repo} at commit {commit[:12]} from the cache, which {revision or 'main'} was "
            f"when it was last pulled and may no longer be: {error}"
        )
    had = None if force else cached(repo, commit)
    names = [name for name in FILES if expected is None or name in expected]
    files: dict[str, tuple[int, str]] = {}
    config: Config | None = None
    folder = Path()
    for name in names:
        limit = MAX_BYTES[name]
        if config is not None and name == WEIGHTS and had is None:
            limit = min(limit, _weights_limit(config))
        stated = config.weights_sha256 if config and name == WEIGHTS else None
        wanted = (expected or {}).get(name) or stated
        if had is not None and not (had / name).exists() and name not in (CONFIG, WEIGHTS):
            continue  # it was not there when the weights came, which came last
        try:
            path = download.fetch_file(
                repo,
                name,
                revision=commit,
                sha256=wanted,
                endpoint=endpoint,
                offline=local,
                token=token,
                progress=progress,
                limit=limit,
                force=force,
            )
        except (NotFoundError, NetworkError) as error:
            if (
                name in (CONFIG, WEIGHTS)
                or expected is not None
                or (isinstance(error, NetworkError) and not local)
            ):
                raise
            continue
        data = path.read_bytes()
        files[name], folder = (len(data), hashlib.sha256(data).hexdigest()), path.parent
        if name == CONFIG:
            config = parse_config(data, f"{repo}/{CONFIG}")
        if stated is not None and files[name][1] != stated:
            download.drop_cached(path)
            raise IntegrityError(
                f"{repo}/{WEIGHTS} does not match the sha256 in {CONFIG}; it was removed from the "
                "cache"
            )
    if revision != commit and warning is None:
        _remember(folder.parent.parent, revision or "main", commit)
    return Pulled(repo, repo, commit, folder, files, fetched=had is None, warning=warning)


def _commit(
    repo: str, revision: str | None, endpoint: str | None, token: str | None, local: bool
) -> str:
    if revision is not None and hub.COMMIT.fullmatch(revision):
        return revision
    if local:
        folder = cached(repo, revision)
        if folder is None:
            what = f"{repo}@{revision}" if revision else repo
            raise NetworkError(
                f"{what} is not in the cache, and the zoo is offline: pull it once with a "
                "connection"
            )
        return folder.name
    from huggingface_hub import constants

    with hub.errors(f"{repo}@{revision}" if revision else repo, endpoint):
        client, wait = hub.api(endpoint, token), constants.HF_HUB_ETAG_TIMEOUT
        commit = (
            hub.retried(
                lambda: client.model_info(repo, revision=revision or "main", timeout=wait)
            ).sha
            or ""
        )
        if not hub.COMMIT.fullmatch(commit):
            raise ValueError("no commit")
    return commit


def _weights_limit(config: Config) -> int:
    from zoo.artifact.tensors import (
        weights_limit,  # brings torch, which a pull of what is in the cache can do without
    )

    return weights_limit(config)


def _remember(storage: Path, revision: str, commit: str) -> None:
    """Write which commit a branch or tag is, now that all of it is here.

    Offline the name then leads to a whole artifact.
    """
    path = storage / "refs" / revision
    if path.is_file() and path.read_text() == commit:
        return
    with hub.errors(f"refs/{revision}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        advice = "free some space (zoo cache ls) and try again"
        # Not under refs, where every file counts as a reference.
        with replaced_file(path, advice=advice, place=storage, prefix=_REF) as temporary:
            temporary.write_text(commit)


def copy_out(found: Pulled, folder: Path) -> Pulled:
    """Copy an artifact to a folder that then appears whole; its bytes are checked on the way.

    Raises IntegrityError when a file changed meanwhile, ZooError when the disk is full; nothing is
    left behind.
    """
    with replaced_folder(folder) as temporary:
        for name, (_, sha256) in found.files.items():
            data = (found.folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise IntegrityError(
                    f"{found.folder / name} changed while it was copied: pull it again"
                )
            write_synced(temporary / name, data)
    return replace(found, folder=folder)


def snapshots() -> Iterator[CachedSnapshot]:
    """Yield every commit of an artifact in the cache, whole or not; other models are left out."""
    from huggingface_hub import constants

    for path in sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*--*/snapshots/*/{CONFIG}")):
        folder, storage = path.parent, path.parents[2]
        if not hub.COMMIT.fullmatch(folder.name) or not _is_ours(path):
            continue
        refs = [
            ref
            for ref in (storage / "refs").rglob("*")
            if ref.is_file() and ref.read_text() == folder.name
        ]
        yield CachedSnapshot(
            name_of(folder),
            folder.name,
            tuple(sorted(ref.relative_to(storage / "refs").as_posix() for ref in refs)),
            folder,
        )


def _is_ours(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return (
                re.search(rb'"format":\s*"spiking-zoo"', file.read(4096)) is not None
            )  # also in one that has decayed
    except OSError:
        return False


def problem_of(folder: Path) -> str | None:
    """Return what is wrong with the files of an artifact in the cache, or None."""
    try:
        config = parse_config((folder / CONFIG).read_bytes(), f"{folder}/{CONFIG}")
    except (ZooError, OSError) as error:
        return str(error)
    if not (folder / WEIGHTS).is_file():
        return f"{WEIGHTS} is missing: it was not pulled to the end"
    for name in FILES:
        if (folder / name).is_file():
            problem = download.check_cached(
                folder / name, config.weights_sha256 if name == WEIGHTS else None
            )
            if problem is not None:
                return f"{name} {problem}"
    return None


def remove_cached(found: Iterable[CachedSnapshot]) -> int:
    """Remove commits, with the blobs that no other commit needs; return the bytes freed."""
    from huggingface_hub import constants, scan_cache_dir

    commits = [snapshot.commit for snapshot in found]
    if not commits:
        return 0
    with hub.errors("the cache"):
        strategy = scan_cache_dir(constants.HF_HUB_CACHE).delete_revisions(*commits)
        freed = strategy.expected_freed_size
        strategy.execute()
    return freed


def prune_cache(*, in_use: float = _IN_USE) -> tuple[list[CachedSnapshot], list[Path], int]:
    """Removes what an interrupted pull left: commits without their weights, and unfinished files.

    What changed in the last `in_use` seconds may belong to a pull that still runs, and stays.
    Returns the commits, the files and the bytes freed.
    """
    now = time.time()
    everything = list(snapshots())
    halves = [one for one in everything if not one.whole and now - one.changed > in_use]
    blobs = {one.folder.parents[1] / "blobs" for one in everything}
    left = [
        path
        for folder in sorted(blobs)
        for path in (*folder.glob("*.incomplete"), *folder.parent.glob(f"{_REF}*"))
    ]
    left = [path for path in left if now - path.stat().st_mtime > in_use]
    freed = sum(path.stat().st_size for path in left)
    for path in left:
        path.unlink(missing_ok=True)
    return halves, left, freed + remove_cached(halves)
