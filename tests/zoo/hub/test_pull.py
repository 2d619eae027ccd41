"""zoo pull: one commit, only an artifact's files, each checked; found again without a network.

Nothing else written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import zoo as package
from tests.minihub import MiniHub
from tests.minihub_data import Fault
from tests.zoo.commands.conftest import Zoo
from tests.zoo.hub.conftest import DIGITS
from zoo.artifact.config import FILES
from zoo.errors import IntegrityError
from zoo.hub import cache
from zoo.models import registry

PICKLE = b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."
pytestmark = pytest.mark.usefixtures("server")


def written(folder: Path) -> set[str]:
    """Names of the files of snapshots, and of everything outside a cache."""
    return {
        path.name
        for path in folder.rglob("*")
        if not path.is_dir() and not {"blobs", ".locks", "refs"} & {*path.parts}
    }


def test_a_pull_fetches_one_commit_and_says_so(
    server: MiniHub, shared_net: str, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    ended = zoo("pull", "org/net")
    assert ended.code == 0, ended
    folder = Path(ended.out.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == payload
    assert folder.name == shared_net and f"commit {shared_net}" in ended.err
    asked = {request.path for request in server.log}
    assert asked == {"/api/models/org/net/revision/main"} | {
        f"/org/net/resolve/{shared_net}/{name}" for name in payload
    }
    assert len(server.requests(path="revision")) == 1


def test_json_says_every_sha256(shared_net: str, zoo: Zoo, payload: dict[str, bytes]) -> None:
    found = json.loads(zoo("pull", "org/net", "--json").out)
    assert (found["repo"], found["commit"], found["fetched"]) == ("org/net", shared_net, True)
    assert {name: file["sha256"] for name, file in found["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in payload.items()
    }
    assert not json.loads(zoo("pull", "org/net", "--json").out)["fetched"]


def test_what_was_pulled_needs_no_network(server: MiniHub, shared_net: str, zoo: Zoo) -> None:
    server.repos["model", "org/net"].tags["v1"] = shared_net
    assert zoo("pull", "org/net@v1").code == 0
    before = len(server.log)
    for words in (
        ["pull", f"org/net@{shared_net}"],
        ["pull", "org/net@v1", "--offline"],
        ["verify", "org/net@v1", "--deep"],
        ["show", "org/net@v1"],
        ["card", "org/net@v1"],
        ["cache", "verify"],
        ["list"],
    ):
        assert zoo(*words).code == 0, words
    assert package.load(f"org/net@{shared_net}").topology.num_classes == 10
    assert len(server.log) == before
    assert "zoo is offline" in zoo("pull", "org/net", "--offline").failed(
        4
    )  # main was never pulled
    assert zoo("pull", "org/net").code == 0
    assert len(server.log) == before + 1  # only which commit main is


def test_a_model_is_pulled_when_it_is_used(server: MiniHub, shared_net: str, zoo: Zoo) -> None:
    ended = zoo("eval", "org/net", "--timesteps", "2", "--json", "--limit", "4")
    assert ended.code == 0 and json.loads(ended.out)["name"] == "org/net"
    before = len(server.log)
    assert package.load("org/net").topology.num_classes == 10
    assert len(server.log) == before


def test_the_newest_is_asked_for_again(
    server: MiniHub, shared_net: str, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    zoo("pull", "org/net")
    newer = server.upload("org/net", payload | {"README.md": b"newer"})
    assert registry.resolve("org/net").name == shared_net
    assert Path(zoo("pull", "org/net").out.strip()).name == newer
    assert registry.resolve("org/net").name == newer


def test_a_commit_in_the_middle_of_a_pull_changes_nothing(
    server: MiniHub, shared_net: str, payload: dict[str, bytes]
) -> None:
    server.faults.append(Fault("GET /org/net/resolve", "late", seconds=0.5))
    result: list[cache.Pulled] = []
    puller = threading.Thread(target=lambda: result.append(cache.fetch_artifact("org/net")))
    puller.start()
    while not server.requests(method="GET", path="resolve"):
        time.sleep(0.01)
    server.upload("org/net", {name: data + b" " for name, data in payload.items()})
    puller.join()
    assert {name: (result[0].folder / name).read_bytes() for name in payload} == payload
    assert result[0].commit == shared_net


@pytest.mark.parametrize("name", FILES)
def test_a_pull_that_fails_leaves_the_older_one(
    server: MiniHub, shared_net: str, zoo: Zoo, payload: dict[str, bytes], name: str
) -> None:
    zoo("pull", "org/net")
    config = json.loads(payload["config.json"]) | {
        "weights_sha256": hashlib.sha256(b"new\0").hexdigest()
    }
    new = {
        "config.json": json.dumps(config).encode(),
        "README.md": b"new",
        "eval.json": b"{}",
        "model.safetensors": b"new\0",
    }
    newer = server.upload("org/net", new)
    server.faults.append(Fault(f"GET /org/net/resolve/{newer}/{name}", 503, times=-1))
    zoo("pull", "org/net").failed(4)
    assert registry.resolve("org/net", offline=True).name == shared_net
    zoo("eval", f"org/net@{newer}", "--timesteps", "1").failed(
        4
    )  # no half of the newer one can be used


@pytest.mark.parametrize("kind", [503, "stall", "gone"])
@pytest.mark.parametrize("revision", ["", "@v1"])
def test_a_hub_that_is_gone_leaves_the_cache(
    server: MiniHub,
    shared_net: str,
    zoo: Zoo,
    revision: str,
    kind: str | int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.repos["model", "org/net"].tags["v1"] = shared_net
    zoo("pull", f"org/net{revision}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
    where: list[str] = []
    if kind == "gone":
        where = ["--endpoint", "http://127.0.0.1:9"]
    else:
        server.faults.append(Fault("/api/", kind, times=-1, seconds=2))
    ended = zoo("pull", f"org/net{revision}", *where)
    assert ended.code == 0 and Path(ended.out.strip()).name == shared_net
    assert f"warning: took org/net at commit {shared_net[:12]} from the cache" in ended.err
    found = json.loads(zoo("pull", f"org/net{revision}", "--json", *where).out)
    assert not found["fetched"] and (revision[1:] or "main") in found["warning"]
    zoo("pull", f"org/net{revision}", "--force", *where).failed(4)
    zoo("pull", "org/net@v2", *where).failed(4)  # never pulled
    if kind == 503:
        with pytest.warns(UserWarning, match="may no longer be: .* answered 503"):
            assert package.pull(f"org/net{revision}").commit == shared_net


def test_a_hub_that_answers_no_is_believed(server: MiniHub, shared_net: str, zoo: Zoo) -> None:
    repo = server.repos["model", "org/net"]
    repo.tags["v1"] = shared_net
    zoo("pull", "org/net@v1")
    del repo.tags["v1"]
    assert "no such revision" in zoo("pull", "org/net@v1").failed(3)
    del server.repos["model", "org/net"]
    zoo("pull", "org/net").failed(3)


@pytest.mark.parametrize("stored", ["variable", "file"])
def test_an_old_token_and_a_public_model(
    server: MiniHub,
    shared_net: str,
    zoo: Zoo,
    home: Path,
    stored: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The hub refuses a token that it does not know, whatever is asked for.
    server.faults.append(Fault("/api/models/org/net", 401, times=1))
    if stored == "variable":
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
    else:
        home.mkdir(exist_ok=True)
        (home / "token").write_text("hf_expired")
    said = zoo("pull", "org/net").failed(6)
    assert "refused the token" in said
    assert "unset HF_TOKEN or run hf auth logout for what is public" in said
    assert "hf_expired" not in said and server.log[0].token == "Bearer hf_expired"


@pytest.mark.parametrize("force", [False, True])
def test_force_fetches_again(server: MiniHub, shared_net: str, zoo: Zoo, force: bool) -> None:
    zoo("pull", "org/net")
    before = len(server.log)
    assert zoo("pull", "org/net", *(["--force"] if force else [])).code == 0
    assert bool(server.requests(since=before, method="GET", path="safetensors")) == force
    server.faults.append(Fault("resolve", 503, times=-1))
    assert zoo("pull", "org/net", "--force").code == 4
    assert zoo("verify", "org/net").code == 0  # what was there still is


def test_nothing_but_an_artifact_is_read_or_written(
    server: MiniHub,
    zoo: Zoo,
    payload: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    hostile = (
        "../escaped",
        "../../escaped",
        "/tmp/escaped",
        "a/../../../escaped",
        "pytorch_model.bin",
        "model.pkl",
        "zoo.py",
        "config.json/../../escaped",
        "con\x00fig",
        "sub/config.json",
        ".git/hooks/escaped",
        "C:\\escaped",
    )
    server.upload("org/net", payload | dict.fromkeys(hostile, PICKLE))
    assert zoo("pull", "org/net", "--local-dir", "copy").code == 0
    assert zoo("verify", "copy", "--deep").code == 0
    asked = {
        request.path.rsplit("/", 1)[1] for request in server.log if "/resolve/" in request.path
    }
    assert asked == {*FILES}
    assert written(tmp_path) - {"CACHEDIR.TAG"} == {*FILES}
    assert all(PICKLE not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("config.json", b"{}", "config.json: "),
        ("config.json", PICKLE, "is not valid JSON"),
        ("config.json", b" " * 5_000_000, "at most 4000000"),
        ("eval.json", b" " * 9_000_000, "at most 8000000"),
        ("model.safetensors", PICKLE + bytes(600), "it should be"),
        ("model.safetensors", bytes(9_000_000), "at most 4"),
    ],
)
def test_a_repository_that_is_no_artifact(
    server: MiniHub,
    zoo: Zoo,
    payload: dict[str, bytes],
    home: Path,
    name: str,
    data: bytes,
    says: str,
) -> None:
    server.upload("org/net", payload | {name: data})
    assert says in zoo("pull", "org/net").failed(5)
    assert (
        cache.cached("org/net") is None
        and not (home / "hub" / "models--org--net" / "refs").exists()
    )
    zoo("eval", "org/net", "--timesteps", "1").failed(5)
    big = [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 400_000]
    assert big == []


def test_weights_of_another_config(server: MiniHub, zoo: Zoo, payload: dict[str, bytes]) -> None:
    config = json.loads(payload["config.json"]) | {"weights_sha256": "0" * 64}
    server.upload("org/net", payload | {"config.json": json.dumps(config).encode()})
    assert f"it should be {'0' * 64}" in zoo("pull", "org/net").failed(5)
    assert cache.cached("org/net") is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["org/none"], 3, "is not at http"),
        (["org/net@v9"], 3, "no such revision"),
        (["org/net@../x"], 2, "cannot be a revision"),
        (["org/net@"], 2, "cannot be a revision"),
        (["org/other"], 3, "org/other/config.json is not at"),
        (["s-resnet20-digitz"], 3, "known: s-resnet20-digits"),
        (["../x"], 3, "neither a model of the zoo nor org/name"),
        (["org/net", "--endpoint", "http://127.0.0.1:9"], 4, "could not be reached"),
        (["org/net", "--endpoint", "nowhere"], 2, "is not the address of a hub"),
    ],
)
def test_what_cannot_be_pulled(
    server: MiniHub, shared_net: str, zoo: Zoo, words: list[str], code: int, says: str
) -> None:
    server.upload("org/other", {"weights.bin": PICKLE})
    assert says in zoo("pull", *words).failed(code)


def test_a_mistyped_path_is_not_told_to_a_hub(
    server: MiniHub, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert "neither a folder" in zoo("eval", "runs/nett").failed(3)
    assert server.log == []
    zoo("eval", "org/nett").failed(3)


@pytest.mark.parametrize("token", ["hf_test", "hf_expired", None])
def test_private_models(
    server: MiniHub,
    payload: dict[str, bytes],
    zoo: Zoo,
    token: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.upload("org/secret", payload, private=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    ended = zoo("pull", "org/secret")
    assert ended.code == {"hf_test": 0, "hf_expired": 6, None: 3}[token]
    assert {
        "hf_test": "every sha256 right",
        "hf_expired": "refused the token",
        None: "or is private",
    }[token] in ended.err
    assert "hf_" not in ended.err


def test_a_token_is_not_sent_to_another_endpoint(
    server: MiniHub,
    shared_net: str,
    payload: dict[str, bytes],
    zoo: Zoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with MiniHub() as other:
        other.upload("org/far", payload)
        assert zoo("pull", "org/far", "--endpoint", other.url).code == 0
        assert zoo("search", "far", "--endpoint", other.url).code == 0
        assert (
            zoo("publish", registry.resolve(DIGITS), "org/new", "--endpoint", other.url).code == 6
        )
        assert zoo("doctor", "--endpoint", other.url).code == 0
        assert other.log and {request.token for request in other.log} == {None}
    assert zoo("pull", "org/net").code == 0
    assert {request.token for request in server.log} == {"Bearer hf_test"}


def test_a_copy_appears_whole(
    shared_net: str, zoo: Zoo, tmp_path: Path, payload: dict[str, bytes]
) -> None:
    copy = tmp_path / "nets" / "copy"
    assert zoo("pull", "org/net", "--local-dir", copy).out.strip() == str(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == payload
    assert not any(path.is_symlink() for path in copy.iterdir())
    assert "--local-dir, or pass --force" in zoo("pull", "org/net", "--local-dir", copy).failed(2)
    (copy / "config.json").write_text("{}")
    assert zoo("pull", "org/net", "--local-dir", copy, "--force").code == 0
    assert (copy / "config.json").read_bytes() == payload["config.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "is not an artifact" in zoo(
        "pull", "org/net", "--local-dir", tmp_path / "mine", "--force"
    ).failed(2)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_a_link_at_the_destination_is_replaced_not_followed(
    shared_net: str, zoo: Zoo, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    zoo("pull", "org/net", "--local-dir", target)
    (tmp_path / "link").symlink_to(target)
    (target / "config.json").write_text("{}")
    assert zoo("pull", "org/net", "--local-dir", tmp_path / "link", "--force").code == 0
    assert (target / "config.json").read_text() == "{}" and not (tmp_path / "link").is_symlink()


def test_a_copy_of_a_file_that_changes_meanwhile(shared_net: str, tmp_path: Path) -> None:
    found = cache.fetch_artifact("org/net")
    (found.folder / "eval.json").resolve().write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="changed while it was copied"):
        cache.copy_out(found, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".copy*"))


def test_a_model_that_ships_is_pulled_without_a_hub(
    server: MiniHub, zoo: Zoo, tmp_path: Path
) -> None:
    assert zoo("pull", DIGITS).out.strip() == str(registry.resolve(DIGITS))
    assert zoo("pull", DIGITS, "--local-dir", tmp_path / "copy").code == 0
    assert zoo("verify", tmp_path / "copy", "--deep").code == 0
    assert server.log == []


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of shipped models, to change."""
    folder = Path(shutil.copytree(registry._SHIPPED, tmp_path / "models"))
    monkeypatch.setattr("zoo.models.registry._SHIPPED", folder)
    return folder


@pytest.mark.parametrize("name", ["config.json", "eval.json", "model.safetensors"])
def test_a_shipped_file_that_changed(models: Path, zoo: Zoo, name: str) -> None:
    path = models / DIGITS / name
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{name} has sha256" in zoo("pull", DIGITS).failed(5)
    ended = zoo("verify", DIGITS)
    assert ended.code == 5 and f"FAILED  index               {name} has sha256" in ended.out
    path.unlink()
    if name != "config.json":
        assert f"{name} is missing" in zoo("pull", DIGITS).failed(5)


def pin(models: Path, commit: str, payload: dict[str, bytes], **changes: Any) -> None:
    files = {name: hashlib.sha256(data).hexdigest() for name, data in payload.items()}
    spikes = json.loads(payload["config.json"])["checksum"]["sha256"]
    entry = {"files": files, "spikes": spikes, "repo": "org/net", "revision": commit} | changes
    (models / "index.json").write_text(
        json.dumps(json.loads((models / "index.json").read_text()) | {"s-far": entry})
    )


def test_a_pinned_name(
    server: MiniHub, shared_net: str, models: Path, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    pin(models, shared_net, payload)
    server.upload("org/net", {"config.json": b"newer"})
    assert zoo("pull", "s-far").code == 0
    assert server.requests(path="/api/") == []
    before = len(server.log)
    assert zoo("pull", "s-far").code == zoo("verify", "s-far").code == 0
    assert package.load("s-far").topology.num_classes == 10
    rows = {row["name"]: row for row in json.loads(zoo("list", "--json").out)}
    assert (rows["s-far"]["origin"], rows["s-far"]["commit"]) == ("cached", shared_net)
    assert rows[DIGITS]["sha256"] == rows["s-far"]["sha256"] and rows[DIGITS]["origin"] == "shipped"
    assert len(server.log) == before


def test_a_pinned_name_with_other_bytes(
    server: MiniHub, shared_net: str, models: Path, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    pin(models, shared_net, payload | {"eval.json": b"{}"})
    assert "eval.json has sha256" in zoo("pull", "s-far").failed(5)
    assert cache.cached("org/net", shared_net) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"repo": None},
        {"revision": "main"},
        {"repo": "net"},
        {"files": {}},
        {"spikes": "x"},
        {"more": 1},
        {"files": {"config.json": "0" * 64, "model.safetensors": "0" * 64, "../x": "0" * 64}},
    ],
)
def test_an_index_that_is_wrong(
    models: Path, payload: dict[str, bytes], zoo: Zoo, changes: dict[str, Any]
) -> None:
    pin(models, "0" * 40, payload, **changes)
    assert "index.json cannot be used" in zoo("pull", DIGITS).failed(5)


def test_the_index_is_that_of_the_folders(models: Path, payload: dict[str, bytes]) -> None:
    written_here = json.loads((models / "index.json").read_text())
    assert registry.make_index() == written_here, "run python -m zoo.models.registry"
    pin(models, "0" * 40, payload)
    assert (
        registry.make_index().keys() == {DIGITS, "s-far"} | written_here.keys()
    )  # a name that does not ship is kept
