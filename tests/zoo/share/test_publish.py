"""zoo publish: validated first, one commit or none, never over somebody else's.

And a model's way from one machine to another.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import zoo as package
from tests.minihub import MiniHub
from tests.minihub_data import Fault
from tests.zoo.commands.conftest import QUICK, Zoo
from tests.zoo.hub.conftest import DIGITS
from zoo.artifact.config import FILES
from zoo.models import registry
from zoo.networks.architectures import topology
from zoo.networks.resnet import ResNet
from zoo.render import card


@pytest.fixture(autouse=True)
def token(server: MiniHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact that is ready to be published."""
    return Path(shutil.copytree(registry.resolve(DIGITS), tmp_path / "net"))


def files_of(server: MiniHub, repo: str = "me/net") -> dict[str, bytes]:
    there = server.repos["model", repo]
    return {
        path: server.blobs[file.sha256]
        for path, file in there.trees[there.head].items()
        if path != ".gitattributes"
    }


def commits(server: MiniHub, repo: str = "me/net") -> list[str]:
    return (
        list(server.repos["model", repo].titles.values())[1:]
        if ("model", repo) in server.repos
        else []
    )


def test_one_commit_and_a_tag(
    server: MiniHub, folder: Path, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    (folder / "notes.txt").write_text("not for the hub")
    ended = zoo("publish", folder, "me/net", "--tag", "v1", "--message", "First", "--json")
    assert ended.code == 0, ended
    found, repo = json.loads(ended.out), server.repos["model", "me/net"]
    assert (
        files_of(server) == payload | {"README.md": files_of(server)["README.md"]}
        and not repo.private
    )
    assert (commits(server), repo.tags, repo.head) == (
        ["First"],
        {"v1": found["commit"]},
        found["commit"],
    )
    assert found["url"] == f"{server.url}/me/net" and found["committed"]
    assert ModelCard(files_of(server)["README.md"].decode()).data.library_name == "spiking-zoo"
    assert zoo(*found["pull"].split()[1:]).code == 0


def test_the_same_again_makes_no_commit(server: MiniHub, folder: Path, zoo: Zoo) -> None:
    first = json.loads(zoo("publish", folder, "me/net", "--json").out)
    again = zoo("publish", folder, "me/net", "--tag", "v1")
    assert "no new commit" in again.err and first["commit"] in again.out
    assert len(commits(server)) == 1 and server.repos["model", "me/net"].tags == {
        "v1": first["commit"]
    }
    assert (
        zoo("publish", folder, "me/net", "--tag", "v1").code == 0
    )  # the same tag for the same bytes


def test_a_new_version_is_a_commit_on_top(
    server: MiniHub, folder: Path, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    server.upload("me/net", payload | {"extra.txt": b"kept", "config.json": b"old"})
    assert zoo("publish", folder, "me/net").code == 0
    assert (
        files_of(server)["extra.txt"] == b"kept"
        and files_of(server)["config.json"] == payload["config.json"]
    )


def test_a_tag_that_is_taken(
    server: MiniHub, folder: Path, zoo: Zoo, payload: dict[str, bytes]
) -> None:
    old = server.upload("me/net", payload | {"config.json": b"old"})
    server.repos["model", "me/net"].tags["v1"] = old
    assert "nothing was published" in zoo("publish", folder, "me/net", "--tag", "v1", "-q").failed(
        2
    )
    assert server.repos["model", "me/net"].head == old


def test_a_dry_run_sends_nothing(server: MiniHub, folder: Path, zoo: Zoo) -> None:
    ended = zoo("publish", folder, "me/net", "--dry-run")
    assert ended.code == 0 and "nothing was sent" in ended.err and "model.safetensors" in ended.out
    assert server.log == []


def test_private(server: MiniHub, folder: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo("publish", folder, "me/net", "--private").code == 0
    assert server.repos["model", "me/net"].private
    monkeypatch.delenv("HF_TOKEN")
    assert "or is private" in zoo("pull", "me/net").failed(3)


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (lambda folder: (folder / "eval.json").unlink(), 3, "eval.json is missing"),
        (lambda folder: (folder / "eval.json").write_text("{}"), 5, "eval.json: "),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            5,
            "failed at model.safetensors",
        ),
        (lambda folder: edit(folder, "checksum", sha256="0" * 64), 5, "failed at spikes"),
        (lambda folder: unlicensed(folder), 7, "licence"),
        (lambda folder: shutil.rmtree(folder), 3, "is neither a folder, nor a model"),
    ],
)
def test_what_is_not_fit_to_publish(
    server: MiniHub, folder: Path, zoo: Zoo, damage: Any, code: int, says: str
) -> None:
    damage(folder)
    assert says in zoo("publish", folder, "me/net", "-q").failed(code)
    assert server.log == []


def edit(folder: Path, part: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def unlicensed(folder: Path) -> None:
    found = json.loads((folder / "eval.json").read_text())
    found["config"]["source"]["license"] = None
    (folder / "eval.json").write_text(json.dumps(found))
    edit(folder, "source", license=None)


@pytest.mark.parametrize(
    ("repo", "words"), [("net", []), ("me/net/x", []), ("me/..", []), ("me/net", ["--tag", "a b"])]
)
def test_names_that_cannot_be(
    server: MiniHub, folder: Path, zoo: Zoo, repo: str, words: list[str]
) -> None:
    assert "write it like" in zoo("publish", folder, repo, *words, "-q").failed(2)
    assert server.log == []


@pytest.mark.parametrize(
    ("variable", "value", "code", "says"),
    [("HF_TOKEN", "hf_expired", 6, "refused the token"), ("HF_TOKEN", "", 6, "wants a token")],
)
def test_without_the_right_to(
    server: MiniHub,
    folder: Path,
    zoo: Zoo,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    code: int,
    says: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert says in zoo("publish", folder, "me/net", "-q").failed(code)
    assert server.repos == {} and server.blobs == {}


def test_a_lost_race(server: MiniHub, folder: Path, zoo: Zoo, payload: dict[str, bytes]) -> None:
    server.create("me/net")

    class Race(Fault):
        """Somebody else's commit arrives just before ours does."""

        @property
        def kind(self) -> str:
            server.upload("me/net", {"theirs.txt": b"theirs"})
            return "late"

        @kind.setter
        def kind(self, _: object) -> None:
            pass

    server.faults.append(Race("/commit/main", "late", seconds=0))
    assert "another commit in the meantime: nothing was published and nothing is lost" in (
        zoo("publish", folder, "me/net", "-q").failed(1)
    )
    assert files_of(server) == {"theirs.txt": b"theirs"}
    assert zoo("publish", folder, "me/net").code == 0
    assert files_of(server)["theirs.txt"] == b"theirs" and {*payload} < {*files_of(server)}


REQUESTS = (
    "repos/create",
    "GET /api/models/me/net",
    "preupload",
    "objects/batch",
    "PUT /_lfs",
    "verify",
    "commit/main",
    "tag/",
)


@pytest.mark.parametrize("kind", [500, "lost", "stall"])
@pytest.mark.parametrize("where", REQUESTS)
def test_a_hub_that_fails_while_publishing(
    server: MiniHub,
    folder: Path,
    zoo: Zoo,
    payload: dict[str, bytes],
    where: str,
    kind: str | int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    if kind == "stall":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr("zoo.hub.client._WRITING", 1)
    server.faults.append(Fault(where, kind, times=-1, seconds=5))
    ended = zoo("publish", folder, "me/net", "--tag", "v1", "-q")
    assert kind != "stall" or "did not answer within" in ended.err
    ended.failed(4)
    assert not commits(server) or {*files_of(server)} == {*payload}  # all or nothing
    server.faults.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 10)
    assert zoo("publish", folder, "me/net", "--tag", "v1", "-q").code == 0
    assert len(commits(server)) == 1 and {*files_of(server)} == {*payload}
    assert zoo("pull", "me/net@v1").code == 0


def test_what_the_hub_holds_is_compared(
    server: MiniHub, folder: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = server.put
    monkeypatch.setattr(
        server, "put", lambda data, large: put(data if large else data + b" ", large)
    )
    assert "holds another" in zoo("publish", folder, "me/net", "-q").failed(5)


def test_from_one_machine_to_another(
    server: MiniHub, zoo: Zoo, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "zoo"))
    torch.manual_seed(0)
    checkpoint, folder = tmp_path / "net.pth", tmp_path / "s-net"
    torch.save(ResNet(topology("resnet20", num_classes=10, in_channels=1)).state_dict(), checkpoint)
    source = ["--calib", "digits", "--license", "mit", "--url", "https://example.invalid/net.pth"]
    assert zoo("convert", checkpoint, "--out", folder, *QUICK, *source).code == 0
    steps = ["--timesteps", "1,2,4,8,16,32,64"]
    here = zoo(
        "eval", folder, "--ann", checkpoint, *steps, "--output", folder / "eval.json", "--json"
    )
    assert here.code == 0, here
    published = zoo("publish", folder, "me/s-net", "--tag", "v1")
    assert published.code == 0, published
    remote = json.loads(zoo("list", "--remote", "--author", "me", "--json").out)
    assert [row["name"] for row in remote] == ["me/s-net"] and zoo("search", "S-NET").out.count(
        "me/s-net"
    ) == 1
    assert json.loads(zoo("search", "nothing", "--json").out) == []

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert zoo(*published.out.splitlines()[-1].split()[1:]).code == 0
    verified = zoo("verify", f"me/s-net@{remote[0]['commit']}", "--deep", "--json")
    spikes = {check["name"]: check["detail"] for check in json.loads(verified.out)["checks"]}[
        "spikes"
    ]
    assert (
        verified.code == 0
        and json.loads((folder / "config.json").read_text())["checksum"]["sha256"] in spikes
    )
    there = zoo("eval", f"me/s-net@{remote[0]['commit']}", "--timesteps", "1,2,4,8", "--json")
    rows = [[row["top1"] for row in json.loads(ended.out)["rows"][:4]] for ended in (here, there)]
    assert rows[0] == rows[1]


def test_a_model_by_its_name(server: MiniHub, zoo: Zoo, payload: dict[str, bytes]) -> None:
    """One that ships, then one that was pulled, to a hub of its own."""
    ended = zoo("publish", DIGITS, "me/net", "--tag", "v1")
    assert ended.code == 0, ended
    # The card says the name that it can be pulled by.
    text = card.for_folder(registry.resolve(DIGITS), use="me/net")
    assert files_of(server) == payload | {"README.md": text.encode()}
    assert commits(server) == [f"Publish {DIGITS}"]
    assert zoo("pull", "me/net@v1").code == 0
    with MiniHub(token=None) as other:
        ended = zoo("publish", "me/net@v1", "you/net", "--endpoint", other.url)
        assert ended.code == 0
        there = files_of(other, "you/net")
        assert there.pop("README.md") == text.replace("me/net", "you/net").encode()
        assert there.items() <= payload.items() and len(there) == len(payload) - 1
        assert commits(other, "you/net") == ["Publish me/net"]
    assert "known: s-resnet20-digits" in zoo("publish", "s-resnet20-digitz", "me/net").err
    published = package.publish(DIGITS, "me/again")
    assert published.commit == server.repos["model", "me/again"].head


def test_the_client_sees_what_was_published(server: MiniHub, folder: Path, zoo: Zoo) -> None:
    zoo("publish", folder, "me/net")
    info = HfApi(endpoint=server.url, token="hf_test").model_info("me/net", files_metadata=True)
    assert {file.rfilename for file in info.siblings} == {*FILES, ".gitattributes"}
