"""A folder of models as a hub serves it: what it holds, by commit, and the hash of every byte."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo.artifact.config import CONFIG, FILES, MAX_BYTES, WEIGHTS, parse_config
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.files import git_blob
from zoo.hub.client import is_repo

if TYPE_CHECKING:
    pass


BLOCK = 256 * 1024


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_FILE = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # O_NONBLOCK: opening a pipe must not wait


class Changed(Exception):
    """A file is no longer what its ETag says."""


@dataclass(frozen=True)
class Stored:
    """A file as it was when it was hashed.

    etag: on the hub sha256 for the weights, git's blob id for small files. blocks: the sha256 of
    each block, one after another.
    """

    identity: tuple[int, ...]
    size: int
    sha256: str
    etag: str
    blocks: bytes


@dataclass(frozen=True)
class ServedSnapshot:
    """One artifact; `commit` comes from its contents, the same on every server and restart."""

    id: str
    commit: str
    modified: str
    arch: str
    files: dict[str, Stored]


def _hash(file: BinaryIO, found: os.stat_result) -> Stored:
    whole, blob, blocks = hashlib.sha256(), git_blob(found.st_size), []
    done = 0
    while block := os.pread(file.fileno(), BLOCK, done):
        whole.update(block)
        blob.update(block)
        blocks.append(hashlib.sha256(block).digest())
        done += len(block)
    if done != found.st_size:
        raise Changed
    return Stored(_identity(found), done, whole.hexdigest(), blob.hexdigest(), b"".join(blocks))


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Folder:
    """The part of a folder that may be read.

    `name` is the org of a folder that holds artifacts directly; without it the folder is
    root/org/name.
    """

    def __init__(self, root: str | Path, name: str | None = None) -> None:
        self.root, self.org = Path(root), name
        if not self.root.is_dir():
            raise NotFoundError(f"{root} is not a folder: fill one with zoo mirror")
        if name is not None and not is_repo(f"{name}/x"):
            raise UsageError(
                f"`name={name}` cannot be an org: letters, digits, single - _ and . only"
            )
        self._known: dict[str, ServedSnapshot] = {}

    def ids(self) -> list[str]:
        """Return every org/name that has a folder, whole or not."""
        orgs = [self.org] if self.org is not None else self._folders(self.root)
        place = {org: self.root if self.org is not None else self.root / org for org in orgs}
        return [f"{org}/{name}" for org in orgs for name in self._folders(place[org])]

    @staticmethod
    def _folders(place: Path) -> list[str]:
        try:
            with os.scandir(place) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return sorted(name for name in names if is_repo(f"org/{name}"))

    def look(
        self, org: str, name: str, want: str | None = None, *, hashing: bool = True
    ) -> tuple[ServedSnapshot, BinaryIO | None]:
        """Return an artifact as it is now, and its file `want`, open, if it has one.

        Raises:
            NotFoundError: there is no such artifact.
            IntegrityError: it is damaged.
            Changed: it changes while it is read, or a file has to be hashed and `hashing` is False.
        """
        identity = f"{org}/{name}"
        if not is_repo(identity) or self.org not in (None, org):
            raise NotFoundError(f"no repository {identity!r} here: zoo mirror adds one")
        with contextlib.ExitStack() as stack:
            try:
                files = self._open(stack, [name] if self.org is not None else [org, name])
            except OSError:
                files = {}
            if CONFIG not in files or WEIGHTS not in files:
                self._known.pop(identity, None)
                raise NotFoundError(f"no artifact {identity} here: zoo mirror adds one")
            snapshot = self._snapshot(identity, files, hashing)
            kept = files.get(want) if want is not None else None
            return snapshot, None if kept is None else os.fdopen(
                os.dup(kept.fileno()), "rb", buffering=0
            )

    def _open(self, stack: contextlib.ExitStack, parts: list[str]) -> dict[str, BinaryIO]:
        place = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, place)
        for part in parts:
            place = os.open(part, _DIRECTORY, dir_fd=place)
            stack.callback(os.close, place)
        files: dict[str, BinaryIO] = {}
        for name in FILES:
            with contextlib.suppress(OSError):
                descriptor = os.open(name, _FILE, dir_fd=place)
                file = stack.enter_context(os.fdopen(descriptor, "rb", buffering=0))
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    files[name] = file
        return files

    def _snapshot(self, identity: str, files: dict[str, BinaryIO], hashing: bool) -> ServedSnapshot:
        found = {name: os.fstat(file.fileno()) for name, file in files.items()}
        known = self._known.get(identity)
        before = known.files if known is not None else {}
        fresh = {
            name
            for name in files
            if name not in before or before[name].identity != _identity(found[name])
        }
        if known is not None and not fresh and before.keys() == files.keys():
            return known
        if not hashing:
            raise Changed
        for name in fresh:
            if found[name].st_size > MAX_BYTES[name]:
                raise IntegrityError(
                    f"{identity}/{name} has {found[name].st_size} bytes: mirror it again"
                )
        stored = {
            name: _hash(file, found[name]) if name in fresh else before[name]
            for name, file in files.items()
        }
        text = os.pread(files[CONFIG].fileno(), MAX_BYTES[CONFIG], 0)
        if hashlib.sha256(text).hexdigest() != stored[CONFIG].sha256:
            raise Changed
        config = parse_config(text, f"{identity}/{CONFIG}")
        if config.weights_sha256 != stored[WEIGHTS].sha256:
            raise IntegrityError(
                f"{identity}/{WEIGHTS} does not match the sha256 in {CONFIG}: mirror it again"
            )
        stored[WEIGHTS] = Stored(**{**vars(stored[WEIGHTS]), "etag": stored[WEIGHTS].sha256})
        contents = "".join(f"{name} {file.sha256}\n" for name, file in sorted(stored.items()))
        commit = hashlib.sha1(f"{identity}\n{contents}".encode()).hexdigest()
        modified = datetime.fromtimestamp(max(entry.st_mtime for entry in found.values()), UTC)
        snapshot = ServedSnapshot(
            identity, commit, f"{modified:%Y-%m-%dT%H:%M:%S}.000Z", config.arch, stored
        )
        self._known[identity] = snapshot
        return snapshot

    def forget(self, identity: str) -> None:
        """Drop the hashes of an artifact whose bytes turned out to be others."""
        self._known.pop(identity, None)


def _blocks(file: BinaryIO, stored: Stored, begin: int, end: int) -> Iterator[bytes]:
    """Yield bytes `begin` to `end` of a file, checked; raise Changed if they are others."""
    for index in range(begin // BLOCK, -(-end // BLOCK)):
        start = index * BLOCK
        block = os.pread(file.fileno(), BLOCK, start)
        if hashlib.sha256(block).digest() != stored.blocks[32 * index : 32 * index + 32]:
            raise Changed
        yield block[max(begin - start, 0) : end - start]
