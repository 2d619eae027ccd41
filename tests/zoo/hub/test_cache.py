"""zoo cache, zoo list, zoo search and zoo doctor.

What is said of the cache and the hub, and what is removed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

import zoo as package
from tests.minihub import MiniHub
from tests.minihub_data import Fault
from tests.zoo.commands.conftest import Zoo, spawn
from tests.zoo.hub.children import left_in
from zoo.artifact.config import FILES
from zoo.hub import cache
from zoo.models import recipes, registry


@pytest.fixture
def two(server: MiniHub, shared_net: str, payload: dict[str, bytes], zoo: Zoo) -> tuple[str, str]:
    """Two commits of org/net in the cache, main and the older v1, that differ in the card alone."""
    server.repos["model", "org/net"].tags["v1"] = shared_net
    zoo("pull", "org/net@v1")
    newer = server.upload("org/net", payload | {"README.md": b"newer"})
    zoo("pull", "org/net")
    return shared_net, newer


def test_ls_says_each_commit(two: tuple[str, str], zoo: Zoo, payload: dict[str, bytes]) -> None:
    rows = {row["commit"]: row for row in json.loads(zoo("cache", "ls", "--json").out)}
    assert {commit: row["refs"] for commit, row in rows.items()} == {
        two[0]: ["v1"],
        two[1]: ["main"],
    }
    assert rows[two[0]]["size"] == sum(map(len, payload.values())) and rows[two[0]]["whole"]
    assert two[0][:12] in zoo("cache", "ls").out
    listed = json.loads(zoo("list", "--json").out)
    assert [(row["name"], row["origin"]) for row in listed] == [
        *((entry.name, "shipped") for entry in registry.shipped()),
        *(("org/net", "cached") for _ in two),
        *((name, "recipe") for name in recipes.RECIPES),
    ]


@pytest.mark.parametrize("name", ["config.json", "eval.json"])
@pytest.mark.parametrize("damage", [b"{}", b"", b'{"format": "spiking-zoo", '])
def test_a_damaged_model_is_left_out_of_the_list(
    two: tuple[str, str], zoo: Zoo, name: str, damage: bytes
) -> None:
    path = cache.cached("org/net", two[0])
    assert path is not None
    whole = [row["name"] for row in json.loads(zoo("list", "--json").out)]
    data = damage if name == "eval.json" else b'{"format": "spiking-zoo"}' + damage
    (path / name).unlink()  # the other commit's link stays
    (path / name).write_bytes(data)
    ended = zoo("list", "--json")
    assert ended.code == 0 and ended.err.startswith("warning: left out org/net: ")
    assert f"{two[0]}/{name}" in ended.err and ended.err.count("\n") == 1
    left = [row["name"] for row in json.loads(ended.out)]
    assert left == [one for i, one in enumerate(whole) if i != whole.index("org/net")]
    assert zoo("list").code == 0
    with pytest.warns(UserWarning, match=f"left out org/net: .*{name}") as caught:
        assert [row.name for row in package.list_models("org/*")] == ["org/net"]
    assert Path(caught[0].filename) == Path(__file__)


@pytest.mark.parametrize("words", [["org/net@v1"], ["org/net"], ["org/net@main", "org/net@v1"]])
def test_rm_removes_what_is_named(
    two: tuple[str, str], zoo: Zoo, home: Path, words: list[str]
) -> None:
    ended = zoo("cache", "rm", *words)
    assert ended.code == 0 and "freed" in ended.out
    left = [one.commit for one in cache.snapshots()]
    assert left == ([two[1]] if words == ["org/net@v1"] else [])
    assert (cache.cached("org/net") is None) == (not left)
    assert (left_in(home) == []) == (not left)
    assert zoo("cache", "verify").code == 0  # what the removed commit shared is still there


@pytest.mark.parametrize(
    ("words", "code"), [(["org/none"], 3), (["org/net@v9"], 3), (["net"], 2), (["../net"], 2)]
)
def test_rm_of_what_is_not_there_removes_nothing(
    two: tuple[str, str], zoo: Zoo, words: list[str], code: int
) -> None:
    zoo("cache", "rm", "org/net@v1", *words).failed(code)
    assert len(list(cache.snapshots())) == 2


def test_other_models_of_the_cache_are_left_alone(
    two: tuple[str, str], zoo: Zoo, home: Path
) -> None:
    theirs = home / "hub" / "models--google--bert" / "snapshots" / ("a" * 40)
    theirs.mkdir(parents=True)
    (theirs / "config.json").write_text('{"model_type": "bert"}')
    unfinished = theirs.parents[1] / "blobs" / "x.incomplete"
    unfinished.parent.mkdir()
    unfinished.write_text("x")
    os.utime(unfinished, (0, 0))
    assert "bert" not in zoo("cache", "ls").out
    zoo("cache", "rm", "google/bert").failed(3)
    assert zoo("cache", "prune").code == zoo("cache", "verify").code == 0
    assert unfinished.exists() and (theirs / "config.json").exists()


def test_prune_removes_what_interrupted_pulls_left(
    server: MiniHub, shared_net: str, zoo: Zoo, home: Path
) -> None:
    server.faults.append(Fault("/model.safetensors", 503, times=-1))
    zoo("pull", "org/net").failed(4)
    half = next(cache.snapshots())
    assert not half.whole and "unfinished" in zoo("cache", "ls").out
    left = half.folder.parents[1] / "blobs" / "y.incomplete"
    left.write_bytes(bytes(1000))
    assert "0 B freed" in zoo("cache", "prune").out  # it may be running still
    old = time.time() - 2 * 3600
    for name in ("config.json", "README.md", "eval.json"):
        os.utime(half.folder / name, (old, old))
    assert "0 B freed" in zoo("cache", "prune").out  # the weights are coming
    os.utime(left, (old, old))
    found = json.loads(zoo("cache", "prune", "--json").out)
    assert len(found["removed"]) == 2 and found["freed"] > 1000
    assert left_in(home) == [] and list(cache.snapshots()) == []


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_a_file_that_decayed(two: tuple[str, str], zoo: Zoo, name: str) -> None:
    assert zoo("cache", "verify").code == 0
    path = (cache.cached("org/net", two[1]) or Path()) / name
    data = path.read_bytes()
    path.resolve().write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = zoo("cache", "verify")
    assert (
        ended.code == 5
        and f"FAILED  org/net@{two[1][:12]}: " in ended.out
        and "then pull it again" in ended.err
    )
    assert zoo("verify", f"org/net@{two[1]}").code == 5
    assert zoo("pull", f"org/net@{two[1]}").code == 0  # a decayed file is fetched again
    assert path.read_bytes() == data


def test_search_and_remote_list(server: MiniHub, payload: dict[str, bytes], zoo: Zoo) -> None:
    server.upload("org/first", payload)
    server.upload("you/second", payload)
    server.upload("org/other", {"README.md": b"---\ntags: [resnet]\n---\n"})
    server.upload("org/hidden", payload, private=True)
    names = [row["name"] for row in json.loads(zoo("list", "--remote", "--json").out)]
    assert names == ["org/first", "you/second"]
    assert [
        row["name"] for row in json.loads(zoo("list", "--remote", "--author", "you", "--json").out)
    ] == ["you/second"]
    row = json.loads(zoo("search", "FIRST", "--json").out)[0]
    measured = json.loads(payload["eval.json"])["rows"]
    assert row["top1"] == pytest.approx(
        max(measured, key=lambda one: one["timesteps"])["top1"], abs=1e-4
    )
    assert "org/first" in zoo("search", "first").out
    assert "no model of the zoo" in zoo("search", "nothing").err
    assert "add --remote" in zoo("list", "--author", "me").failed(2)


@pytest.mark.parametrize("kind", [500, "stall", "short", "endless"])
def test_a_hub_that_fails_to_list(
    server: MiniHub, zoo: Zoo, kind: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.upload("org/first", {"README.md": b"---\nlibrary_name: spiking-zoo\n---\n"})
    server.faults.append(Fault("GET /api/models", kind, times=-1))
    zoo("list", "--remote").failed(4)


def test_doctor(
    two: tuple[str, str], server: MiniHub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    found = json.loads(zoo("doctor", "--json").out)
    assert found["hub"] == {
        "endpoint": server.url,
        "offline": False,
        "answers": True,
        "problem": None,
        "token": True,
    }
    assert (
        found["cache"]["models"] == 2
        and found["cache"]["unfinished"] == 0
        and found["packages"]["torch"]
    )
    assert "hf_test" not in zoo("doctor").out
    count = len(server.log)
    assert "not asked" in zoo("doctor", "--offline").out and len(server.log) == count
    server.faults.append(Fault("GET /api/models", 503, times=-1))
    monkeypatch.setattr("time.sleep", lambda _: None)
    ended = zoo("doctor")
    assert ended.code == 0 and "answered 503" in ended.out and "does not answer" in ended.err


def test_the_variables_of_the_client_are_respected(
    server: MiniHub, shared_net: str, tmp_path: Path
) -> None:
    there = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_test",
    }
    ended = spawn("pull", "org/net", **there)
    assert ended.code == 0 and ended.out.startswith(str(tmp_path / "hf" / "hub")), ended
    assert {request.token for request in server.requests(path="org/net")} == {"Bearer hf_test"}
    count = len(server.log)
    assert spawn("show", "org/net", HF_HUB_OFFLINE="1", **there).code == 0
    spawn("pull", "org/none", HF_HUB_OFFLINE="1", **there).failed(4)
    assert len(server.log) == count
