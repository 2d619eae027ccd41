"""A read-only server of artifacts that speaks the hub's protocol, for clusters without internet.

`HF_ENDPOINT=http://host:port` makes huggingface_hub, and all that is built on it, download from
here. There are no redirects and
no xet headers, so a client takes every file over plain HTTP.

What may be read: the files of `zoo.artifact.config.FILES` in root/org/name, and only while they are
a whole artifact: config.json is valid and the sha256 it states is that of model.safetensors. Every
step from the root down is opened relative to the one before, and no link is followed, so nothing
outside the root can be reached whatever a request says.

An ETag and the bytes sent under it belong together even if a file is changed in place meanwhile:
with its sha256 a file gets the sha256 of each of its blocks, and a block is sent only when it still
has it. If not, the connection is cut and the next request sees the new file. At most one block for
each download is in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from zoo.artifact.config import WEIGHTS
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.files import git_blob
from zoo.share.folder import Changed, Folder, ServedSnapshot, Stored, _blocks

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


_CONNECTIONS = 1024


_GRACE = 3  # seconds that downloads get to end after Ctrl-C


Log = Callable[[str], None]


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return begin and end of the range that a header asks for, (size, size) behind the file.

    None without such a header. What is not understood, several ranges too, counts as none: the
    answer is then the whole file (RFC 9110, 14.2).
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header or "")
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = int(match[2])
        return (max(size - length, 0), size) if length and size else (size, size)
    begin = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < begin:
        return None
    return (begin, end) if begin < size else (size, size)


def _has_tag(header: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return f'"{etag}"' in tags or "*" in tags


class Hub:
    """The protocol: each method answers one kind of request."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        # Many clients that come for the same new artifact have it hashed once, and do not hold up
        # the others' threads.
        self._locks = [asyncio.Lock() for _ in range(64)]

    async def _look(
        self, org: str, name: str, want: str | None = None
    ) -> tuple[ServedSnapshot, BinaryIO | None]:
        from starlette.concurrency import run_in_threadpool

        with contextlib.suppress(Changed):
            return await run_in_threadpool(self.folder.look, org, name, want, hashing=False)
        async with self._locks[hash((org, name)) % len(self._locks)]:
            return await run_in_threadpool(self.folder.look, org, name, want)

    async def models(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        query = request.query_params
        limit = query.get("limit", "")
        most = int(limit) if re.fullmatch(r"[0-9]{1,9}", limit) else None
        rows = []
        for identity in await run_in_threadpool(self.folder.ids):
            org, _, name = identity.partition("/")
            if (
                query.get("author") not in (None, org)
                or query.get("search", "").lower() not in identity.lower()
            ):
                continue
            with contextlib.suppress(NotFoundError, IntegrityError, Changed):
                row = _facts((await self._look(org, name))[0])
                if set(query.getlist("filter")) <= set(row["tags"]):
                    rows.append(row)
        return JSONResponse(rows[:most])

    async def info(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        snapshot, _ = await self._look(request.path_params["org"], request.path_params["name"])
        if not _is_revision(request.path_params.get("revision", "main"), snapshot):
            return _missing("RevisionNotFound", "no such revision", snapshot)
        return JSONResponse(
            _facts(snapshot, blobs=request.query_params.get("blobs", "").lower() in ("1", "true"))
        )

    async def tree(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        snapshot, _ = await self._look(request.path_params["org"], request.path_params["name"])
        revision, _, path = request.path_params["rest"].partition("/")
        if not _is_revision(revision, snapshot):
            return _missing("RevisionNotFound", "no such revision", snapshot)
        if path:
            return _missing("EntryNotFound", "an artifact has no folders", snapshot)
        return JSONResponse(
            [_node(name, stored) for name, stored in sorted(snapshot.files.items())]
        )

    async def refs(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        snapshot, _ = await self._look(request.path_params["org"], request.path_params["name"])
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": snapshot.commit}
        return JSONResponse({"branches": [main], "tags": [], "converts": []})

    async def resolve(self, request: Request) -> Response:
        from starlette.responses import Response, StreamingResponse

        revision, _, path = request.path_params["rest"].partition("/")
        snapshot, file = await self._look(
            request.path_params["org"], request.path_params["name"], path
        )
        if not _is_revision(revision, snapshot) or file is None:
            if file is not None:
                file.close()
            if not _is_revision(revision, snapshot):
                return _missing("RevisionNotFound", "no such revision", snapshot)
            return _missing("EntryNotFound", "no such file", snapshot)
        stored, asked = snapshot.files[path], request.headers
        head = {
            "X-Repo-Commit": snapshot.commit,
            "ETag": f'"{stored.etag}"',
            "Accept-Ranges": "bytes",
        }
        if path == WEIGHTS:
            head |= {"X-Linked-Etag": head["ETag"], "X-Linked-Size": str(stored.size)}
        part = byte_range(asked.get("range"), stored.size) if request.method == "GET" else None
        if part is not None and asked.get("if-range") not in (None, head["ETag"]):
            part = None
        begin, end = part or (0, stored.size)
        status = 200 if part is None else 206
        if _has_tag(asked.get("if-none-match"), stored.etag):
            status = 304
        elif part is not None:
            head["Content-Range"] = f"bytes {begin}-{end - 1}/{stored.size}"
            if begin == end:
                status, head["Content-Range"] = 416, f"bytes */{stored.size}"
        if status not in (200, 206) or request.method == "HEAD":
            file.close()
            length = {} if status == 304 else {"Content-Length": str(end - begin)}
            return Response(status_code=status, headers=head | length)
        head["Content-Length"] = str(end - begin)
        return StreamingResponse(
            self._send(snapshot, file, stored, begin, end),
            status,
            head,
            media_type="application/octet-stream",
        )

    async def _send(
        self, snapshot: ServedSnapshot, file: BinaryIO, stored: Stored, begin: int, end: int
    ) -> AsyncIterator[bytes]:
        from starlette.concurrency import run_in_threadpool

        with file:
            blocks = _blocks(file, stored, begin, end)
            try:
                while block := await run_in_threadpool(next, blocks, b""):
                    yield block
            except Changed:
                self.folder.forget(snapshot.id)
                raise


def _is_revision(revision: str, snapshot: ServedSnapshot) -> bool:
    return revision in ("main", snapshot.commit)


def _missing(code: str, message: str, snapshot: ServedSnapshot | None = None) -> Response:
    from starlette.responses import JSONResponse

    head = {"X-Error-Code": code, "X-Error-Message": message}
    if snapshot is not None:
        head["X-Repo-Commit"] = snapshot.commit
    return JSONResponse({"error": message}, 404, head)


def _node(name: str, stored: Stored) -> dict[str, Any]:
    """Return a file as the tree lists it: a large one is a pointer to its sha256."""
    if name != WEIGHTS:
        return {"type": "file", "path": name, "size": stored.size, "oid": stored.etag}
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{stored.sha256}")
    pointer = "".join(f"{line}\n" for line in (*lines, f"size {stored.size}")).encode()
    oid = git_blob(len(pointer), pointer).hexdigest()
    large = {"oid": stored.sha256, "size": stored.size, "pointerSize": len(pointer)}
    return {"type": "file", "path": name, "size": stored.size, "oid": oid, "lfs": large}


def _facts(snapshot: ServedSnapshot, blobs: bool = False) -> dict[str, Any]:
    siblings = []
    for name, stored in sorted(snapshot.files.items()):
        node = _node(name, stored)
        row: dict[str, Any] = {"rfilename": name}
        if blobs:
            row |= {"size": stored.size, "blobId": node["oid"]}
            if "lfs" in node:
                row["lfs"] = {
                    "sha256": stored.sha256,
                    "size": stored.size,
                    "pointerSize": node["lfs"]["pointerSize"],
                }
        siblings.append(row)
    return {
        "_id": snapshot.commit[:24],
        "id": snapshot.id,
        "modelId": snapshot.id,
        "author": snapshot.id.partition("/")[0],
        "sha": snapshot.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "lastModified": snapshot.modified,
        "createdAt": snapshot.modified,
        "library_name": "spiking-zoo",
        "pipeline_tag": "image-classification",
        "tags": ["spiking-zoo", "image-classification", snapshot.arch],
        "siblings": siblings,
    }


def app(folder: Folder, log: Log | None = None) -> ASGIApp:
    """Return the ASGI application over a folder; `log` gets one line for each answer.

    Raises UsageError without starlette.
    """
    _require()
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    hub = Hub(folder)
    api = "/api/models/{org}/{name}"
    routes = [
        Route("/api/models", hub.models),
        Route(api, hub.info),
        Route(f"{api}/revision/{{revision:path}}", hub.info),
        Route(f"{api}/tree/{{rest:path}}", hub.tree),
        Route(f"{api}/refs", hub.refs),
        Route("/{org}/{name}/resolve/{rest:path}", hub.resolve),
    ]

    async def absent(request: Request, error: Exception) -> Response:
        return _missing("RepoNotFound", "no such repository, or it is damaged here")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def changing(request: Request, error: Exception) -> Response:
        return JSONResponse(
            {"error": "the artifact is changing: ask again"}, 503, {"Retry-After": "1"}
        )

    handlers = {
        NotFoundError: absent,
        IntegrityError: absent,
        HTTPException: refused,
        Changed: changing,
    }
    inner = Starlette(routes=routes, exception_handlers=handlers)
    inner.router.redirect_slashes = False

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await inner(scope, receive, note)
        except Exception as error:
            if not isinstance(_cause(error), Changed):
                raise
            # The head has gone out: ending here without the rest makes the server cut the
            # connection.
            if log is not None:
                log(f"{scope['path']} changed while it was sent: the download was cut")
            return
        if log is not None and scope["type"] == "http":
            log(f"{(scope.get('client') or ('-',))[0]} {scope['method']} {scope['path']} {status}")

    return outer


def _cause(error: BaseException) -> BaseException:
    """Return the error under the RuntimeError that starlette makes of one behind the head."""
    return (
        error.__cause__
        if isinstance(error, RuntimeError) and error.__cause__ is not None
        else error
    )


def _require() -> None:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "zoo serve needs starlette and uvicorn: pip install 'spiking-zoo[serve]'"
        ) from error


def serve(
    folder: Folder, host: str, port: int, *, ready: Callable[[str], None], log: Log | None = None
) -> None:
    """Serves until a signal; `ready` gets the URL when connections are taken.

    Port 0 is any free one.

    Ctrl-C lets downloads go on for three seconds, then raises KeyboardInterrupt.

    Raises UsageError when the address cannot be had, or without the extra `serve`.
    """
    _require()
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot listen on {host} port {port} ({reason}): choose another `host` or `port`"
        ) from error
    config = uvicorn.Config(
        app(folder, log),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE,
    )
    with listener:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])
