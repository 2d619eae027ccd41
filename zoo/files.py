"""Atomic writes of files and folders, git's hash of a file, and the cache folder of the zoo."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    from hashlib import _Hash


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place on success.

    On any error, Ctrl-C too, the temporary folder is removed and what was at `folder` stays.

    Raises:
        ZooError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ZooError(
            f"{folder} cannot be written ({error.strerror}): choose another `folder`"
        ) from error
    old: Path | None = None
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.rename(folder, old / "old")
        os.rename(temporary, folder)
        descriptor = os.open(folder.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:
        raise ZooError(
            f"{folder} could not be written ({error.strerror}): free some space and try again"
        ) from error
    finally:
        if old is not None:
            if not folder.exists() and (old / "old").exists():
                (old / "old").rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_file(
    path: Path,
    *,
    advice: str = "free some space or write elsewhere",
    place: Path | None = None,
    prefix: str | None = None,
) -> Iterator[Path]:
    """Yield the path of a temporary file that is flushed to the disk and takes the place of `path`.

    On any error, Ctrl-C too, the temporary file is removed and what was at `path` stays.

    Args:
        path: the file to write.
        advice: what the message of an error tells to do next.
        place: folder of the temporary file, on the same file system; default: the one of `path`.
        prefix: begin of the temporary file's name; default: `.{path.name}.`.

    Raises:
        ZooError: the file cannot be written.
    """
    # Not mkstemp, whose files only their owner can read: these get the mode of any new file.
    name = f"{f'.{path.name}.' if prefix is None else prefix}{uuid.uuid4().hex[:12]}"
    temporary = (place or path.parent) / name
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ZooError(f"{path} could not be written ({error.strerror}): {advice}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_synced(path: Path, data: bytes) -> None:
    """Write one file and flush it to the disk; not atomic: for files of a `replaced_folder`."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def git_blob(size: int, data: bytes = b"") -> _Hash:
    """Return a SHA-1 object whose digest is git's id of a file, once it was fed the file's content.

    Args:
        size: bytes of the whole file, which git hashes first.
        data: content that is fed at once.
    """
    return hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False)


def cache_folder() -> Path:
    """Return the folder for what the zoo can make or fetch again.

    It is $ZOO_HOME, or spiking-zoo in the user's cache folder.
    """
    home = os.environ.get("ZOO_HOME")
    return (
        Path(home)
        if home
        else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "spiking-zoo"
    )
