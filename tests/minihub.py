"""A hub on loopback for tests: the part of the Hugging Face protocol that the real client speaks.

Faults can be ordered.

What the client does here: create a repository, upload (LFS "basic", so HF_HUB_DISABLE_XET=1),
commit, tag, look up a repository, its tree and its files, list repositories, download. Repositories
live in memory. The client's own errors come from the header X-Error-Code, as the real hub sends it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.minihub_data import Fault, File, Repo, Request, git_hash, is_large, node


class MiniHub(ThreadingHTTPServer):
    """The server; `with MiniHub() as hub:` runs it in a thread.

    Attributes:
        token: the one token that may write and see private repositories; None lets everybody do
            all.
        log: the requests so far.
        faults: what goes wrong; see `Fault`.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, token: str | None = "hf_test", handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.token, self.log, self.faults = token, list[Request](), list[Fault]()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()

    def put(self, data: bytes, large: bool) -> File:
        """Stores bytes."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.blobs[sha256] = data
        lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{sha256}")
        pointer = "".join(f"{line}\n" for line in (*lines, f"size {len(data)}")).encode()
        return File(git_hash(pointer if large else data), sha256, len(data), large)

    def create(self, name: str, *, kind: str = "model", private: bool = False) -> Repo:
        repo = self.repos[kind, name] = Repo(private)
        self.commit(repo, {".gitattributes": self.put(b"", False)}, "initial commit")
        return repo

    def commit(self, repo: Repo, tree: dict[str, File], title: str) -> str:
        """A commit of exactly this tree on main."""
        parent = repo.branches.get("main")
        sha = hashlib.sha1(
            repr((parent, title, len(repo.trees), sorted(tree.items()))).encode()
        ).hexdigest()
        repo.trees[sha], repo.parents[sha], repo.titles[sha] = tree, parent, title
        repo.branches["main"] = sha
        return sha

    def upload(
        self, name: str, files: dict[str, bytes], *, kind: str = "model", private: bool = False
    ) -> str:
        """Put files into a repository without the client; return the commit."""
        with self.lock:
            repo = self.repos.get((kind, name)) or self.create(name, kind=kind, private=private)
            new = {path: self.put(data, is_large(path, data)) for path, data in files.items()}
            return self.commit(repo, repo.trees[repo.head] | new, "upload")

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.where in f"{method} {path}" and fault.times != 0:
                    fault.times -= 1
                    return fault
        return None

    def requests(self, *, since: int = 0, method: str = "", path: str = "") -> list[Request]:
        return [
            r for r in self.log[since:] if (not method or r.method == method) and path in r.path
        ]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that was killed is no news
            super().handle_error(request, client_address)

    def __enter__(self) -> MiniHub:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):  # keep-alive connections would go on answering
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: MiniHub
    ordered: Fault | None = None

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while count := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(count))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.data = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.log.append(Request(self.command, self.path, headers))
        self.ordered = self.server.fault(self.command, parts.path)
        if self.ordered and self.ordered.kind == "stall":
            self.server.stopping.wait(self.ordered.seconds)
            self.close_connection = True
            return
        if self.ordered and self.ordered.kind == "late":
            self.server.stopping.wait(self.ordered.seconds)
        if self.ordered and isinstance(self.ordered.kind, int):
            self.fail(self.ordered.kind, "out of order")
            return
        for methods, pattern, answer, writes in ROUTES:
            if self.command in methods and (match := pattern.fullmatch(parts.path)):
                if writes and not self.authorised():
                    self.fail(401, "Invalid credentials in Authorization header")
                    return
                words = {
                    name: unquote(value) if value else value
                    for name, value in match.groupdict().items()
                }
                with self.server.lock if writes else contextlib.nullcontext():
                    getattr(self, answer.__name__)(**words)
                return
        self.fail(404, f"no route for {self.command} {parts.path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def send(self, status: int, payload: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        kind = (
            self.ordered.kind if self.ordered and self.command != "HEAD" and status < 300 else None
        )
        if kind == "lost":
            self.close_connection = True
            return
        if kind == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if kind == "short":
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header(
            "Content-Type",
            "application/json" if not isinstance(payload, bytes) else "application/octet-stream",
        )
        if kind == "endless":
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for chunk in self.chunks(data, kind):
                self.wfile.write(chunk)

    def chunks(self, data: bytes, kind: str | int | None) -> Iterator[bytes]:
        assert kind is None or self.ordered
        if kind == "cut":
            yield data[: len(data) // 2]
            self.close_connection = True
        elif kind == "endless":
            while not self.server.stopping.is_set():
                yield b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
        elif kind == "slow":
            step = max(1, len(data) // 50)
            for start in range(0, len(data), step):
                yield data[start : start + step]
                self.server.stopping.wait(self.ordered.seconds / 50)  # type: ignore[union-attr]
        else:
            yield data

    def fail(
        self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None
    ) -> None:
        said = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, {"error": message}, said | (headers or {}))

    def authorised(self) -> bool:
        return (
            self.server.token is None
            or self.headers.get("Authorization") == f"Bearer {self.server.token}"
        )

    def find(self, kind: str, name: str, revision: str = "main") -> tuple[Repo, str] | None:
        """The repository and the commit; None after an answer that says what is missing."""
        sent = self.headers.get("Authorization") is not None
        if (
            sent and not self.authorised()
        ):  # as the real hub: a bad token is refused even where none is needed
            self.fail(401, "Invalid username or password.")
            return None
        repo = self.server.repos.get((kind, name))
        if repo is None or (repo.private and not self.authorised()):
            self.fail(404 if sent else 401, "Repository not found", "RepoNotFound")
            return None
        commit = repo.commit_of(revision)
        if commit is None:
            self.fail(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return repo, commit

    # Writing.

    def create(self) -> None:
        said = json.loads(self.data)
        name = f"{said.get('organization') or 'me'}/{said['name']}"
        kind = said.get("type") or "model"
        url = f"{self.server.url}/{name}"
        if (kind, name) in self.server.repos:
            self.send(409, {"error": "You already created this model repo", "url": url})
            return
        self.server.create(
            name,
            kind=kind,
            private=said.get("visibility") == "private" or bool(said.get("private")),
        )
        self.send(200, {"url": url, "name": name, "id": "0"})

    def validate_yaml(self) -> None:
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        tree, answer = found[0].trees[found[1]], []
        for said in json.loads(self.data)["files"]:
            known = tree.get(said["path"])
            large = is_large(said["path"], base64.b64decode(said.get("sample") or ""))
            oid = (known.sha256 if known.large else known.oid) if known else None
            answer.append(
                {
                    "path": said["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        self.send(200, {"files": answer, "commitOid": found[1]})

    def lfs_batch(self, name: str, prefix: str | None = None) -> None:
        answer = []
        for said in json.loads(self.data)["objects"]:
            one = {"oid": said["oid"], "size": said["size"]}
            if said["oid"] not in self.server.blobs:
                href = f"{self.server.url}/_lfs/{said['oid']}"
                one |= {
                    "authenticated": True,
                    "actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}},
                }
            answer.append(one)
        self.send(200, {"transfer": "basic", "objects": answer})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.data).hexdigest() != oid:
            self.fail(400, "sha256 mismatch")
            return
        self.server.put(self.data, large=True)
        self.send(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, oid: str) -> None:
        if oid in self.server.blobs:
            self.send(200, {})
        else:
            self.fail(404, "no such object")

    def commit(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        repo, sha = found
        tree, title = dict(repo.trees[sha]), ""
        for line in self.data.splitlines():
            said = json.loads(line)
            key, value = said["key"], said["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") and value["parentCommit"] != sha:
                    self.fail(412, "A commit has happened since. Please refresh and try again.")
                    return
            elif key == "file":
                tree[value["path"]] = self.server.put(
                    base64.b64decode(value["content"]), large=False
                )
            elif key == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    self.fail(400, f"LFS object {value['oid']} was never uploaded")
                    return
                tree[value["path"]] = self.server.put(self.server.blobs[value["oid"]], large=True)
            elif key == "deletedFile" and tree.pop(value["path"], None) is None:
                self.fail(404, "A file with this name doesn't exist", "EntryNotFound")
                return
        new = self.server.commit(repo, tree, title)
        url = f"{self.server.url}/{name}/commit/{new}"
        self.send(200, {"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})

    def tag(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        tag = json.loads(self.data)["tag"]
        if tag in found[0].tags:
            self.fail(409, "Tag reference exists already")
            return
        found[0].tags[tag] = found[1]
        self.send(200, {})

    # Reading.

    def described(self, name: str, repo: Repo, commit: str) -> dict[str, Any]:
        tree = repo.trees[commit]
        readme = self.server.blobs[tree["README.md"].sha256] if "README.md" in tree else b""
        head = re.match(rb"---\s*\n(.*?)\n---", readme, re.DOTALL)
        card = yaml.safe_load(head[1]) if head else {}
        library = card.get("library_name")
        siblings = [
            {"rfilename": path, "size": file.size, "blobId": file.oid}
            | (
                {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 134}}
                if file.large
                else {}
            )
            for path, file in sorted(tree.items())
        ]
        return {
            "_id": "0",
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit,
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "cardData": card,
            "library_name": library,
            "tags": [*(card.get("tags") or []), *([library] if library else [])],
            "siblings": siblings,
        }

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        found = self.find(kind, name, revision)
        if found is not None:
            self.send(200, self.described(name, *found))

    def list_repos(self, kind: str) -> None:
        def asked(option: str) -> Iterable[str]:
            return self.query.get(option, [])

        rows = [
            self.described(name, repo, repo.head)
            for (is_kind, name), repo in sorted(self.server.repos.items())
            if is_kind == kind and (self.authorised() or not repo.private)
        ]
        rows = [row for row in rows if all(row["author"] == author for author in asked("author"))]
        rows = [
            row
            for row in rows
            if all(text.lower() in row["id"].lower() for text in asked("search"))
        ]
        self.send(200, [row for row in rows if {*asked("filter")} <= {*row["tags"]}])

    def tree(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is not None:
            self.send(
                200, [node(path, file) for path, file in sorted(found[0].trees[found[1]].items())]
            )

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found = self.find(kind, name, revision)
        if found is None:
            return
        asked = (
            json.loads(self.data)["paths"]
            if self.data[:1] == b"{"
            else parse_qs(self.data.decode())["paths"]
        )
        tree = found[0].trees[found[1]]
        self.send(200, [node(path, tree[path]) for path in asked if path in tree])

    def resolve(self, name: str, revision: str, path: str, prefix: str | None = None) -> None:
        found = self.find((prefix or "models/")[:-2], name, revision)
        if found is None:
            return
        file, headers = (
            found[0].trees[found[1]].get(path),
            {"X-Repo-Commit": found[1], "Accept-Ranges": "bytes"},
        )
        kind = self.ordered.kind if self.ordered else None
        if kind == "other-commit":
            headers["X-Repo-Commit"] = "0" * 40
        if file is None:
            self.fail(404, "Entry not found", "EntryNotFound", headers)
            return
        etag = "../../../../escaped" if kind == "etag" else file.sha256 if file.large else file.oid
        headers |= {"ETag": f'"{etag}"'}
        if file.large:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{etag}"'}
        data = self.server.blobs[file.sha256]
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged:
            start, end = int(ranged[1]), int(ranged[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self.send(206, data[start : end + 1], headers)
        elif kind == "cut":
            self.send(200, data, headers | {"Content-Length": str(len(data))})
        else:
            self.send(200, data, headers)


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = r"/api/(?P<kind>model|dataset)s/" + _NAME
_FILES = r"/(?P<prefix>datasets/)?" + _NAME
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None], bool]] = [
    (("POST",), r"/api/repos/create", Handler.create, True),
    (("POST",), r"/api/validate-yaml", Handler.validate_yaml, False),
    (("GET",), r"/api/(?P<kind>model|dataset)s", Handler.list_repos, False),
    (("POST",), f"{_API}/preupload/{_REVISION}", Handler.preupload, True),
    (("POST",), f"{_API}/commit/{_REVISION}", Handler.commit, True),
    (("POST",), f"{_API}/tag/{_REVISION}", Handler.tag, True),
    (("GET",), f"{_API}/revision/{_REVISION}", Handler.info, False),
    (("GET",), f"{_API}/tree/{_REVISION}", Handler.tree, False),
    (("POST",), f"{_API}/paths-info/{_REVISION}", Handler.paths_info, False),
    (("GET",), _API, Handler.info, False),
    (("POST",), _FILES + r"\.git/info/lfs/objects/batch", Handler.lfs_batch, True),
    (("PUT",), r"/_lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put, False),
    (("POST",), r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", Handler.lfs_verify, True),
    (("GET", "HEAD"), f"{_FILES}/resolve/{_REVISION}/(?P<path>.+)", Handler.resolve, False),
]
ROUTES = [
    (methods, re.compile(pattern), answer, writes) for methods, pattern, answer, writes in _ROUTES
]

if __name__ == "__main__":
    with MiniHub() as server:
        print(server.url, flush=True)
        while True:
            time.sleep(3600)
