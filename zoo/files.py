"""Files and folders that appear whole or not at all, and where the zoo keeps its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place on success; on any error, Ctrl-C too, it vanishes."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ZooError(
            f"{folder} cannot be written ({error.strerror}): choose another --out"
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


def write_synced(path: Path, data: bytes) -> None:
    """Writes and flushes one file to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place on success; on any error, Ctrl-C too, it vanishes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ZooError(
            f"{path} could not be written ({error.strerror}): free some space or write elsewhere"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where the zoo keeps what it can make or fetch again: $ZOO_HOME, or spiking-zoo in the user's cache folder."""
    home = os.environ.get("ZOO_HOME")
    return (
        Path(home)
        if home
        else Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "spiking-zoo"
    )
