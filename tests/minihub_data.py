"""What the hub of the tests holds: files, repositories, faults to order, and requests seen."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, field
from typing import Any

LARGE = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet")


@dataclass(frozen=True)
class File:
    """A file of a commit: git's hash of it or of its LFS pointer.

    Its sha256, and whether it is large.
    """

    oid: str
    sha256: str
    size: int
    large: bool


@dataclass
class Repo:
    """A repository: trees by commit, and names of commits."""

    private: bool = False
    trees: dict[str, dict[str, File]] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.branches["main"]

    def commit_of(self, revision: str) -> str | None:
        return (
            self.branches.get(revision)
            or self.tags.get(revision)
            or (revision if revision in self.trees else None)
        )


@dataclass
class Fault:
    """A fault of the requests whose "METHOD path" holds `where`, `times` times (-1: always).

    Kinds: a number is answered as that status; `cut` breaks the connection in the middle of a body;
    `short` sends half of it as if that were all; `flip` changes a byte; `stall` says nothing for
    `seconds` and hangs up; `late` answers after `seconds`; `lost` does what was asked and hangs up
    instead of answering; `slow` spreads a body over `seconds`; `endless` never stops sending;
    `etag` says a hash that is a path; `other-commit` says another commit.
    """

    where: str
    kind: str | int
    times: int = 1
    seconds: float = 30.0


@dataclass(frozen=True)
class Request:
    """One request that came."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization")


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str, data: bytes) -> bool:
    return b"\0" in data[:512] or any(
        fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LARGE
    )


def node(path: str, file: File) -> dict[str, Any]:
    plain = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    return plain | (
        {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}} if file.large else {}
    )
