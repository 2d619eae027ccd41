"""One file from a hub: what is checked, what is kept, and what is said when it fails.

With the real client.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.minihub import MiniHub
from tests.minihub_data import Fault
from tests.zoo.hub.children import left_in
from zoo.errors import AuthError, IntegrityError, NetworkError, NotFoundError, UsageError, ZooError
from zoo.hub import client as hub
from zoo.hub import download

BIG = bytes(range(256)) * 4096
FILES = {"config.json": b'{"a": 1}', "data.parquet": BIG}
EMPTY_SHA = "0" * 64


@pytest.fixture(autouse=True)
def data(server: MiniHub) -> None:
    """One repository of each kind."""
    server.upload("org/data", FILES)
    server.upload("org/data", FILES, kind="dataset")


def fetch(path: str = "data.parquet", **options: object) -> Path:
    options = {"revision": "main", **options}
    return download.fetch_file("org/data", path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("path", FILES)
def test_a_file_is_fetched_once(server: MiniHub, path: str, kind: str) -> None:
    commit = server.repos[kind, "org/data"].head
    seen = []
    got = fetch(path, repo_type=kind, revision=commit, progress=lambda *step: seen.append(step))
    assert got.read_bytes() == FILES[path]
    assert seen[-1] == (path, len(FILES[path]), len(FILES[path]))
    before = len(server.log)
    sha256 = hashlib.sha256(FILES[path]).hexdigest()
    assert fetch(path, repo_type=kind, revision=commit, sha256=sha256) == got
    assert fetch(path, repo_type=kind, revision=commit, offline=True) == got
    assert len(server.log) == before


def test_a_branch_is_looked_up_each_time(server: MiniHub) -> None:
    fetch("config.json")
    server.upload("org/data", {"config.json": b"new"})
    assert fetch("config.json").read_bytes() == b"new"


def test_a_branch_falls_back_to_the_cache(server: MiniHub) -> None:
    fetch("config.json")
    server.faults.append(Fault("HEAD", 503, times=-1))
    assert fetch("config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("where", ["HEAD", "GET"])
def test_a_hub_that_recovers(server: MiniHub, where: str) -> None:
    server.faults.append(Fault(f"{where} /org/data/resolve", 500, times=2))
    assert fetch().read_bytes() == BIG


@pytest.mark.parametrize("where", ["HEAD", "GET"])
def test_a_hub_that_does_not(server: MiniHub, tmp_path: Path, where: str) -> None:
    server.faults.append(Fault(f"{where} /org/data/resolve", 502, times=-1))
    with pytest.raises(NetworkError, match="answered 502"):
        fetch()
    assert left_in(tmp_path) == []


def test_a_cut_connection_is_resumed(server: MiniHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.faults.append(Fault("GET /org/data/resolve", "cut"))
    assert fetch().read_bytes() == BIG
    assert any("range" in request.headers for request in server.log)


def test_a_short_file_is_not_kept(server: MiniHub, tmp_path: Path) -> None:
    server.faults.append(Fault("GET /org/data/resolve", "short"))
    with pytest.raises(IntegrityError, match="came cut"):
        fetch()
    assert left_in(tmp_path) == []
    assert fetch().read_bytes() == BIG


@pytest.mark.parametrize("path", FILES)
def test_a_wrong_byte_is_not_kept(server: MiniHub, tmp_path: Path, path: str) -> None:
    server.faults.append(Fault("GET /org/data/resolve", "flip"))
    with pytest.raises(IntegrityError, match="does not match the hash"):
        fetch(path)
    assert left_in(tmp_path) == []
    assert fetch(path).read_bytes() == FILES[path]


def test_another_file_than_the_one_meant(server: MiniHub, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"it should be {EMPTY_SHA}"):
        fetch(sha256=EMPTY_SHA)
    assert left_in(tmp_path) == []


def test_a_copy_that_decayed_is_fetched_again(server: MiniHub) -> None:
    commit = server.repos["model", "org/data"].head
    got = fetch(revision=commit)
    got.resolve().write_bytes(BIG[:-1] + b"?")
    assert fetch(revision=commit).read_bytes() == BIG
    got.resolve().write_bytes(BIG[:-1] + b"?")
    with pytest.raises(IntegrityError, match="removed from the cache"):
        fetch(revision=commit, offline=True)
    with pytest.raises(NetworkError, match="is not in the cache, and the zoo is offline"):
        fetch(revision=commit, offline=True)


@pytest.mark.parametrize("where", ["HEAD", "GET"])
def test_a_stalled_hub(
    server: MiniHub, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's own pauses between its tries
    server.faults.append(Fault(f"{where} /org/data/resolve", "stall", times=-1))
    with pytest.raises(NetworkError, match="did not answer within 1 s"):
        fetch()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("kind", ["too large", "endless"])
def test_a_file_past_its_limit(server: MiniHub, tmp_path: Path, kind: str) -> None:
    if kind == "endless":
        server.faults.append(Fault("GET /org/data/resolve", "endless"))
    with pytest.raises(
        IntegrityError,
        match="at most 5 bytes|has 1048576 bytes, at most|has more than 2000000 bytes",
    ):
        fetch(limit=5 if kind == "too large" else 2_000_000)
    assert left_in(tmp_path) == []
    assert bool(server.requests(method="GET", path="resolve")) == (kind == "endless")


@pytest.mark.parametrize("kind", ["etag", "other-commit"])
def test_a_hub_that_answers_with_paths_or_another_commit(
    server: MiniHub, tmp_path: Path, kind: str
) -> None:
    server.faults.append(Fault("/org/data/resolve", kind, times=-1))
    with pytest.raises(
        (NetworkError, IntegrityError), match="as a hub does|answered with commit 0{40}"
    ):
        fetch(revision=server.repos["model", "org/data"].head)
    assert not list(tmp_path.rglob("*escaped*")) and left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("repo", "path", "revision", "error", "says"),
    [
        (
            "org/none",
            "config.json",
            "main",
            NotFoundError,
            "org/none/config.json is not at http.*or is private",
        ),
        ("org/data", "none.json", "main", NotFoundError, "name another revision"),
        ("org/data", "config.json", "v9", NotFoundError, "no such revision"),
        ("org", "config.json", "main", UsageError, "write it like org/name"),
        ("../x", "config.json", "main", UsageError, "write it like org/name"),
        ("org/data", "../x", "main", ZooError, "org/data/../x"),
    ],
)
def test_what_is_not_there(
    server: MiniHub, repo: str, path: str, revision: str, error: type[ZooError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        download.fetch_file(repo, path, revision=revision)
    # One exception for a Python user, not the client's and the zoo's.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_private_repositories(server: MiniHub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.upload("org/secret", FILES, private=True)
    with pytest.raises(NotFoundError, match="or is private: check the name, or set HF_TOKEN"):
        download.fetch_file("org/secret", "config.json", revision="main")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(AuthError, match="refused the token"):
        download.fetch_file("org/secret", "config.json", revision="main")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert (
        download.fetch_file("org/secret", "config.json", revision="main").read_bytes()
        == FILES["config.json"]
    )


def test_a_token_goes_to_its_hub_alone(server: MiniHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with MiniHub() as other:
        other.upload("org/data", {"a.json": b"1", "b.json": b"2"})
        download.fetch_file("org/data", "a.json", revision="main", endpoint=other.url)
        assert other.log and all(request.token is None for request in other.log)
        count = len(other.log)
        download.fetch_file(
            "org/data", "b.json", revision="main", endpoint=other.url, token="hf_test"
        )
        assert all(request.token == "Bearer hf_test" for request in other.log[count:])
    fetch("config.json", endpoint=f"{server.url}/")
    assert server.log and all(request.token == "Bearer hf_test" for request in server.log)


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1", "ftp://127.0.0.1", "http://", "http://me:secret@host", "http://host:x"],
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a hub"):
        hub.base(endpoint)


def test_no_hub_at_all(server: MiniHub) -> None:
    with pytest.raises(NetworkError, match="could not be reached"):
        fetch("config.json", endpoint="http://127.0.0.1:9")
