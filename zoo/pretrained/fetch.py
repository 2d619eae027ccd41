"""Fetch a pinned file from an address into torch.hub's cache; a cut download goes on where it was.

What has arrived lies beside the file as `{name}.part`, across calls and processes too. Its sha256
alone decides what becomes of it: nothing has the file's name before the whole of it was right.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from zoo.errors import IntegrityError, NetworkError, ZooError
from zoo.hub.client import is_offline
from zoo.pretrained.checkpoint import sha256_of
from zoo.progress import Progress

_MAX_WEIGHTS = 2_000_000_000  # bytes; ResNet-152 has 241 MB

_TIMEOUT = 30  # seconds without a byte

_PAUSES = (1.0, 3.0)  # seconds before a download that was cut goes on

_HOME = "free some space or set TORCH_HOME"


def fetch_pinned(
    url: str, pin: str, *, offline: bool = False, progress: Progress | None = None
) -> tuple[Path, str]:
    """Return the file at `url` and its sha256, from torch.hub's cache or fetched into it.

    Args:
        pin: what its sha256 begins with, or the whole of it.
        offline: use the cache alone.
        progress: called with the file's name, bytes done and bytes in all.

    Raises:
        NetworkError: it cannot be reached, or was cut several times; what arrived is kept, and the
            next call goes on with it.
        IntegrityError: it is another file; nothing of it is kept.
        ZooError: the cache cannot be written.
    """
    import torch

    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file() and (sha256 := sha256_of(path)).startswith(pin):
        return path, sha256
    if is_offline(offline):
        raise NetworkError(
            f"{path} is not there or damaged, and the zoo is offline: fetch it once with a "
            "connection"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(
            f"{path.parent} cannot be written ({error.strerror}): set TORCH_HOME to another folder"
        ) from None
    with _part(path) as (file, part):
        resumed = file.seek(0, os.SEEK_END) > 0
        _receive_all(url, file, progress)
        sha256 = _finish(file)
        if resumed and not sha256.startswith(pin):  # what lay there may have been of another file
            _restart(file)
            _receive_all(url, file, progress)
            sha256 = _finish(file)
        if not sha256.startswith(pin):
            part.unlink(missing_ok=True)
            raise IntegrityError(
                f"{url} has sha256 {sha256[: len(pin)]}, not {pin}: nothing was kept; try again"
            )
        try:
            os.replace(part, path)
        except OSError as error:
            raise ZooError(f"{path} could not be stored ({error.strerror}): {_HOME}") from error
    return path, sha256


@contextlib.contextmanager
def _part(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield the file to download into, open, and its path.

    Where another process is downloading the same, it is a file of this one's own, which is removed.
    """
    part, own = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.{os.getpid()}")
    try:
        file = open(part, "a+b")  # noqa: SIM115 (closed below)
        if not _lock(file):
            file.close()
            part, file = own, open(own, "w+b")  # noqa: SIM115
    except OSError as error:
        raise ZooError(
            f"{part} cannot be written ({error.strerror}): set TORCH_HOME to another folder"
        ) from None
    try:
        yield file, part
    finally:
        empty = file.closed or file.seek(0, os.SEEK_END) == 0
        file.close()
        if part == own or empty:
            part.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> bool:
    """Return False if another process downloads into this file; True where locks do not exist."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    # The one who had it may have given the file its name in the meantime.
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    return False


def _restart(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _finish(file: BinaryIO) -> str:
    """Flush a file to the disk and return its sha256."""
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise ZooError(f"{file.name} could not be stored ({error.strerror}): {_HOME}") from error
    digest = hashlib.sha256()
    file.seek(0)
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


def _receive_all(url: str, file: BinaryIO, progress: Progress | None) -> None:
    """Append what is missing of `url` to `file`, and go on when the connection is cut."""
    for pause in (*_PAUSES, None):
        before = file.seek(0, os.SEEK_END)
        try:
            done, total = _receive(url, file, progress)
        except NetworkError:
            if pause is None or file.seek(0, os.SEEK_END) == before:
                raise
        else:
            if done >= total:
                return
            if pause is None or done == before:
                raise NetworkError(
                    f"{url} ended after {done} of {total} bytes: they are kept; try again to go on"
                )
        time.sleep(pause)


def _receive(url: str, file: BinaryIO, progress: Progress | None) -> tuple[int, int]:
    """Append the bytes of `url` that `file` does not have; return how many it has, and of how many.

    Raises:
        NetworkError: it cannot be reached, or stopped answering.
        IntegrityError: it has more bytes than any checkpoint.
        ZooError: the file cannot be written.
    """
    done, name = file.seek(0, os.SEEK_END), url.rpartition("/")[2]
    headers = {"User-Agent": "spiking-zoo", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        ) as answer:
            if done and answer.status != 206:  # all of it, from the beginning
                _restart(file)
                done = 0
            total = done + _length(answer.headers)
            while part := answer.read(1 << 20):
                done += len(part)
                if done > _MAX_WEIGHTS:
                    _restart(file)
                    raise IntegrityError(
                        f"{url} has more than {_MAX_WEIGHTS} bytes: nothing was kept; check the "
                        "address"
                    )
                try:
                    file.write(part)
                except OSError as error:
                    raise ZooError(
                        f"{name} could not be stored ({error.strerror}): {_HOME}"
                    ) from error
                if progress is not None:
                    progress(name, done, max(total, done))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing after what is here: its hash tells what it is
            return done, done
        raise NetworkError(
            f"{url} answered {error.code}: try again later, or give the file itself"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise NetworkError(
            f"{url} could not be reached ({str(why)[:120]}): check the connection, or give the "
            "file itself"
        ) from error
    return done, total


def _length(headers: Mapping[str, str]) -> int:
    text = headers.get("Content-Length") or ""
    return int(text) if text.isdecimal() else 0
