"""The same over Xet, which the real hub uses for large files.

hf_xet's own storage, in a folder instead of on a server.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.minihub import Handler, MiniHub
from tests.minihub_data import File, git_hash
from tests.zoo.commands.conftest import Zoo
from tests.zoo.hub.children import constants_for, left_in
from tests.zoo.hub.conftest import DIGITS
from zoo.artifact.config import WEIGHTS
from zoo.hub import cache
from zoo.models import registry

hf_xet = pytest.importorskip("hf_xet", reason="needs hf_xet")


class XetHandler(Handler):
    """What a hub with Xet answers more: where the storage is, and a file's hash there."""

    server: XetHub

    def handle_any(self) -> None:
        if "/xet-read-token/" in self.path or "/xet-write-token/" in self.path:
            expires = str(int(time.time()) + 3600)
            where = {
                "X-Xet-Cas-Url": f"local://{self.server.cas}",
                "X-Xet-Access-Token": "x",
                "X-Xet-Token-Expiration": expires,
            }
            self.server.tokens.append(self.path)
            self.send(
                200,
                {"casUrl": where["X-Xet-Cas-Url"], "accessToken": "x", "exp": int(expires)},
                where,
            )
        else:
            super().handle_any()

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def resolve(self, name: str, revision: str, path: str, prefix: str | None = None) -> None:
        found = self.find("model", name, revision)
        file = found[0].trees[found[1]].get(path) if found else None
        if found is None or file is None or not file.large:
            super().resolve(name, revision, path, prefix)
            return
        assert self.command == "HEAD", "a client with Xet asks the storage for the bytes"
        link = f'<{self.server.url}/api/models/{name}/xet-read-token/{found[1]}>; rel="xet-auth"'
        self.send(
            200,
            b"",
            {
                "X-Repo-Commit": found[1],
                "X-Linked-Etag": f'"{file.sha256}"',
                "X-Linked-Size": str(file.size),
                "ETag": '"x"',
                "X-Xet-Hash": self.server.hashes[file.sha256],
                "Link": link,
            },
        )


class XetHub(MiniHub):
    """A hub whose large files are in `cas`; `hashes` gives the hash there of a sha256."""

    def __init__(self, cas: Path) -> None:
        super().__init__(handler=XetHandler)
        self.cas, self.hashes, self.tokens = cas, dict[str, str](), list[str]()

    def store_large(self, data: bytes) -> File:
        """Puts bytes into the storage, as an upload by somebody else would."""
        from huggingface_hub.utils._xet import get_xet_session

        with get_xet_session().new_upload_commit(
            endpoint=f"local://{self.cas}",
            token="x",
            token_expiry_unix_secs=int(time.time()) + 3600,
            token_refresh_url=f"{self.url}/xet-write-token/",
            token_refresh_headers={},
        ) as commit:
            handle = commit.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256)
        info = handle.result().xet_info
        self.hashes[info.sha256] = info.hash
        return File(git_hash(data), info.sha256, len(data), True)


@pytest.fixture
def server(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[XetHub]:
    (tmp_path / "cas").mkdir()
    with XetHub(tmp_path / "cas") as running:
        for name, value in (
            constants_for(running.url, home) | {"HF_HUB_DISABLE_XET": False}
        ).items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield running


def upload(server: XetHub, payload: dict[str, bytes], weights: bytes) -> str:
    commit = server.upload("org/net", payload)
    repo = server.repos["model", "org/net"]
    tree = repo.trees[commit] | {WEIGHTS: server.store_large(weights)}
    return server.commit(repo, tree, "weights")


def test_a_pull_over_xet(server: XetHub, payload: dict[str, bytes], zoo: Zoo) -> None:
    commit = upload(server, payload, payload[WEIGHTS])
    steps: list[tuple[str, int, int]] = []
    found = cache.fetch_artifact("org/net", progress=lambda *step: steps.append(step))
    size = len(payload[WEIGHTS])
    assert found.commit == commit and (WEIGHTS, size, size) in steps
    assert all(done <= total for _, done, total in steps)
    assert zoo("verify", "org/net", "--deep").code == 0
    assert server.tokens and not [
        r for r in server.requests(method="GET", path="resolve") if WEIGHTS in r.path
    ]


@pytest.mark.parametrize("weights", [b"\0" * 400_000, b"\0" * 9_000_000])
def test_wrong_weights_over_xet(
    server: XetHub, payload: dict[str, bytes], zoo: Zoo, home: Path, weights: bytes
) -> None:
    upload(server, payload, weights)
    zoo("pull", "org/net").failed(5)
    assert cache.cached("org/net") is None
    assert not [name for name in left_in(home) if "incomplete" in name or len(name) == 64]


def test_storage_that_lost_the_file(
    server: XetHub, payload: dict[str, bytes], zoo: Zoo, home: Path
) -> None:
    upload(server, payload, payload[WEIGHTS])
    for path in server.cas.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    ended = zoo("pull", "org/net")
    assert (
        ended.code in (4, 5) and ended.err.startswith("error: ") and ended.err.count("\n") == 1
    ), ended
    assert cache.cached("org/net") is None and not [
        name for name in left_in(home) if len(name) == 64
    ]


def test_a_publish_over_xet(
    server: XetHub, payload: dict[str, bytes], zoo: Zoo, tmp_path: Path
) -> None:
    weights = payload[WEIGHTS]
    other = XetHub(tmp_path / "other")
    server.hashes |= {
        hashlib.sha256(weights).hexdigest(): other.hashes[other.store_large(weights).sha256]
    }
    other.server_close()
    server.blobs[hashlib.sha256(weights).hexdigest()] = (
        weights  # what the real hub learns from the storage
    )
    assert zoo("publish", registry.resolve(DIGITS), "me/net", "--tag", "v1").code == 0
    assert any("xet-write-token" in path for path in server.tokens) and not server.requests(
        method="PUT"
    )
    assert zoo("pull", "me/net@v1").code == zoo("verify", "me/net@v1", "--deep").code == 0
