"""The client of one hub: its settings, its errors as the zoo's, and search.

The client (huggingface_hub) reads HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and
its time-outs itself.

A token belongs to one hub: HF_TOKEN, and the token of `hf auth login`, to that of HF_ENDPOINT
(huggingface.co by default). Another `endpoint` gets no token, unless one is passed with it.
"""

from __future__ import annotations

import contextlib
import errno
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from zoo.errors import AuthError, IntegrityError, NetworkError, NotFoundError, UsageError, ZooError
from zoo.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi


AGENT: dict[str, Any] = {"library_name": "spiking-zoo", "library_version": __version__}


COMMIT = re.compile(r"[0-9a-f]{40}")


_PART = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


_WRITING = 6  # a commit may take a hub this many times longer than an answer


_MAX_ANSWER = 64_000_000  # bytes of an answer about repositories


_PAUSES = (0.5, 2.0)  # seconds before each further try when a hub answers 5xx or hangs up


def base(endpoint: str | None = None) -> str:
    """Return the address of the hub; raise UsageError when `endpoint` is not one."""
    from huggingface_hub import constants

    found = (endpoint or constants.ENDPOINT).rstrip("/")
    try:
        parts = urlsplit(found)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        good = False
    if not good or parts.username or parts.query or parts.fragment:
        raise UsageError(
            f"endpoint {found!r} is not the address of a hub: write it like https://huggingface.co"
        )
    return found


def token_for(endpoint: str | None, token: str | None = None) -> str | bool | None:
    """Return the token for the client of a hub.

    It is the one that was passed; None, the client's own, for HF_ENDPOINT; False, none, for any
    other hub.
    """
    from huggingface_hub import constants

    if token:
        return token
    here, own = urlsplit(base(endpoint)), urlsplit(constants.ENDPOINT)
    same = (here.scheme, here.hostname, here.port) == (own.scheme, own.hostname, own.port)
    return None if same else False


def api(endpoint: str | None = None, token: str | None = None) -> HfApi:
    """Return the client of one hub."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=base(endpoint), token=token_for(endpoint, token), **AGENT)


def is_offline(offline: bool = False) -> bool:
    """Return whether nothing may be asked of a hub: `offline`, or HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return offline or bool(constants.HF_HUB_OFFLINE)


def is_repo(text: str) -> bool:
    """Return whether a text can be the `org/name` of a repository."""
    parts = text.split("/")
    fits = len(parts) == 2 and len(text) <= 96 and all(_PART.fullmatch(part) for part in parts)
    return fits and "--" not in text and ".." not in text and not text.endswith((".", "-", ".git"))


@contextlib.contextmanager
def errors(what: str, endpoint: str | None = None) -> Iterator[None]:
    """Turn errors of the client inside into the zoo's.

    No call waits or reads for ever, and the client's log and bars are kept quiet.

    Args:
        what: what is asked for, in the message: `org/name`, or a file of it.

    Raises:
        NetworkError: no hub answered, or it did not answer as one does.
        NotFoundError: there is no such repository, revision or file.
        AuthError: the hub refused the token, or wants one.
        IntegrityError: what came is not what was announced.
        ZooError: the disk is full, or the hub refused for another reason.
    """
    try:
        with _BOUNDS:
            yield
    except (ZooError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise_zoo_error(error, what, base(endpoint))


class _Bounds:
    """Changes to the client while it is in use: it logs and draws nothing; requests have limits."""

    def __init__(self) -> None:
        self.lock, self.inside, self.undo = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self._change()

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.undo.close()

    def _change(self) -> None:
        from huggingface_hub.utils import get_session, logging  # type: ignore[attr-defined]
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )

        self.undo.callback(logging.set_verbosity, logging.get_verbosity())
        logging.set_verbosity_error()
        if not are_progress_bars_disabled():
            disable_progress_bars()
            self.undo.callback(enable_progress_bars)
        session = get_session()
        hooks = session.event_hooks
        self.undo.callback(setattr, session, "event_hooks", hooks)
        session.event_hooks = {
            "request": [*hooks.get("request", []), _limit_time],
            "response": [*hooks.get("response", []), _limit_size],
        }


_BOUNDS = _Bounds()


def _limit_time(request: Any) -> None:
    """Set a time-out; many requests of the client have none and would wait for ever."""
    from huggingface_hub import constants

    limits = request.extensions.get("timeout") or {}
    if all(limit is None for limit in limits.values()):
        seconds = float(constants.HF_HUB_DOWNLOAD_TIMEOUT) * (
            1 if request.method in ("GET", "HEAD") else _WRITING
        )
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)


def _limit_size(response: Any) -> None:
    """Raise ValueError for an answer that is too long; files have a limit of their own."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    if not response.request.url.path.startswith("/api/"):
        return
    stream = response.stream

    class Bounded(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            seen = 0
            for chunk in stream:
                seen += len(chunk)
                if seen > _MAX_ANSWER:
                    raise ValueError(f"more than {_MAX_ANSWER} bytes")
                yield chunk

        def close(self) -> None:
            stream.close()

    response.stream = Bounded()


def raise_zoo_error(error: BaseException, what: str, host: str) -> NoReturn:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        FileMetadataError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 in client 2

    if (
        isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
        and error.__cause__ is None
    ):
        raise NetworkError(
            f"{what} is not in the cache, and the zoo is offline: pull it once with a connection"
        ) from None
    if isinstance(error, LocalEntryNotFoundError | RuntimeError) and error.__cause__ is not None:
        raise_zoo_error(
            error.__cause__, what, host
        )  # what the client wraps: no copy in the cache either, or an upload that failed
    if isinstance(error, GatedRepoError):
        raise AuthError(
            f"{what} is gated: ask for access on its page at {host}, then set HF_TOKEN"
        ) from None
    if isinstance(error, HfHubHTTPError) and getattr(error, "response", None) is not None:
        _raise_status(error, what, host)
    if isinstance(error, httpx.TimeoutException):
        longest = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        raise NetworkError(
            f"{host} did not answer within {longest} s about {what}: try again, or raise "
            "HF_HUB_DOWNLOAD_TIMEOUT"
        ) from None
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        raise NetworkError(
            f"{host} ended the connection in the middle of {what}: try again"
        ) from None
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        raise NetworkError(
            f"{host} could not be reached for {what} ({_line(error)}): check the connection, "
            "HF_ENDPOINT and proxies, "
            "or use `offline=True`"
        ) from None
    if isinstance(error, HFValidationError):
        raise UsageError(
            f"{what} cannot be the name of a repository: write it like org/name"
        ) from None
    if isinstance(error, OSError) and error.errno in _DISK:
        raise ZooError(
            f"{what}: the disk or a quota is full: free some space (zoo cache ls) and try again"
        ) from None
    if isinstance(error, OSError) and str(error).startswith("Consistency check failed"):
        raise IntegrityError(
            f"{what} came cut: its size is not the one {host} announced; nothing was kept: try "
            "again"
        ) from None
    if isinstance(error, FileMetadataError | ValueError | KeyError | TypeError | AttributeError):
        raise NetworkError(
            f"{host} did not answer about {what} as a hub does ({_line(error)}): check HF_ENDPOINT "
            "and proxies"
        ) from None
    if isinstance(
        error, ConnectionError | TimeoutError | RuntimeError
    ):  # hf_xet, which moves large files
        raise NetworkError(
            f"{what} did not come through from {host} or go to it ({_line(error)}): try again"
        ) from None
    if isinstance(error, OSError):
        raise ZooError(
            f"{what} could not be stored ({error.strerror or _line(error)}): check HF_HOME"
        ) from None
    raise error


def _raise_status(error: Any, what: str, host: str) -> NoReturn:
    status, code = error.response.status_code, error.response.headers.get("X-Error-Code", "")
    signed = "authorization" in error.response.request.headers
    said = error.server_message or error.response.headers.get("X-Error-Message") or ""
    said = f" ({_line(said)})" if said else ""
    if status == 401 and signed:
        raise AuthError(
            f"{host} refused the token that is set{said}, which may be old: unset HF_TOKEN or run "
            "hf auth logout for what is public, make a new one for what is private"
        ) from None
    if (
        status == 401
        and code != "RepoNotFound"
        and "/resolve/" not in str(error.response.request.url)
    ):
        raise AuthError(
            f"{host} wants a token for {what}: set HF_TOKEN (it goes to HF_ENDPOINT alone, not to "
            "another `endpoint`)"
        ) from None
    if status == 401 or (status == 404 and code in ("", "RepoNotFound")):
        raise NotFoundError(
            f"{what} is not at {host}, or is private: check the name, or set HF_TOKEN"
        ) from None
    if status == 404 and code == "RevisionNotFound":
        raise NotFoundError(
            f"{what} has no such revision at {host}: leave the revision out for the newest"
        ) from None
    if status == 404:
        raise NotFoundError(
            f"{what} is not at {host}: check the name, or name another revision"
        ) from None
    if status == 403:
        raise AuthError(
            f"{host} does not allow this with the token{said}: use one that may read or write "
            f"{what}"
        ) from None
    if status == 429:
        raise NetworkError(
            f"{host} asks to wait before more requests: try again in some minutes, or set HF_TOKEN"
        ) from None
    if status >= 500:
        raise NetworkError(
            f"{host} answered {status} about {what}: it has a problem; try again later"
        ) from None
    raise ZooError(f"{host} answered {status} about {what}{said}: check the command") from None


def _line(error: object) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def retried(call: Callable[[], Any]) -> Any:
    """Return `call()`, tried up to three times when a hub answers 5xx or hangs up.

    For calls that change nothing.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx2 in client 2

    for pause in (*_PAUSES, None):
        try:
            return call()
        except (HfHubHTTPError, httpx.RemoteProtocolError, httpx.ReadError) as error:
            response = getattr(error, "response", None)
            if pause is None or (response is not None and response.status_code < 500):
                raise
            time.sleep(pause)
    return None


@dataclass(frozen=True)
class Remote:
    """A model of the zoo on a hub; `top1` is its card's accuracy at the most timesteps."""

    name: str
    commit: str | None
    updated: str | None
    downloads: int
    top1: float | None


def search_hub(
    text: str | None = None,
    *,
    author: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    limit: int = 200,
) -> list[Remote]:
    """Return the models of the zoo on a hub whose name holds `text`, by the tag of their cards.

    Raises what `errors` does.
    """
    if is_offline():
        raise NetworkError(
            "a hub cannot be searched offline: unset HF_HUB_OFFLINE, or see zoo list"
        )
    client = api(endpoint, token)

    def ask() -> list[Any]:
        tag = AGENT["library_name"]
        return list(
            client.list_models(
                filter=tag, search=text, author=author, limit=limit, full=True, cardData=True
            )
        )

    with errors("the list of models", endpoint):
        return [
            Remote(
                str(row.id),
                row.sha,
                row.last_modified.strftime("%Y-%m-%d") if row.last_modified else None,
                row.downloads or 0,
                _top1(row.card_data),
            )
            for row in retried(ask)
        ]


def _top1(card: Any) -> float | None:
    best: tuple[int, float | None] = (0, None)
    for result in getattr(card, "eval_results", None) or []:
        found = re.fullmatch(r"accuracy at T = (\d{1,4})", str(result.metric_name))
        if found and isinstance(result.metric_value, int | float) and int(found[1]) > best[0]:
            best = int(found[1]), float(result.metric_value)
    return best[1]
