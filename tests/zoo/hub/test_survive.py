"""What is left of a pull or a publish that is killed, starved of disk, or one of eight at once.

Nothing half, nothing lost.

ZOO_KILLS=50 kills each that often, at random moments.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.minihub import MiniHub
from tests.minihub_data import Fault
from tests.zoo.commands.conftest import Zoo
from tests.zoo.hub.children import left_in, start
from tests.zoo.hub.conftest import DIGITS
from zoo.artifact.config import FILES
from zoo.errors import ZooError
from zoo.hub import cache
from zoo.models import registry

KILLS = int(os.environ.get("ZOO_KILLS", "5"))
SLOW = 0.08  # seconds by which each answer is late, so that a kill may come between any two


@pytest.fixture(autouse=True)
def ready(constants: dict[str, Any], tmp_path: Path) -> None:
    """The process that the children are forked from has started."""
    start(["--version"], constants, tmp_path / "output").join(60)


def after_first_request(
    server: MiniHub, words: list[str], constants: dict[str, Any], output: Path
) -> BaseProcess:
    """A command that has just asked the hub something for the first time."""
    before = len(server.log)
    child = start(words, constants, output)
    while len(server.log) == before and child.is_alive():
        time.sleep(0.005)
    return child


def killed(child: BaseProcess, seconds: float) -> bool:
    """Kills a command after so many seconds; whether it had not ended before."""
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode == -9


def duration(child: BaseProcess, output: Path) -> float:
    """How long the command goes on when it is let be."""
    before = time.monotonic()
    child.join(60)
    assert child.exitcode == 0, output.read_text()
    return time.monotonic() - before


def test_kill_during_pull(
    server: MiniHub,
    shared_net: str,
    constants: dict[str, Any],
    home: Path,
    zoo: Zoo,
    tmp_path: Path,
    payload: dict[str, bytes],
) -> None:
    server.faults += [
        Fault("GET /org/net/resolve", "slow", times=-1, seconds=0.3),
        Fault("/org/net", "late", -1, SLOW),
    ]
    output, copy = tmp_path / "output", tmp_path / "copy"
    words = ["pull", "org/net", "--local-dir", str(copy)]
    seconds = duration(after_first_request(server, words, constants, output), output)
    chance, halves, killings = random.Random(0), 0, 0
    for number in range(KILLS):
        shutil.rmtree(home / "hub", ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        killings += killed(
            after_first_request(server, words, constants, output), chance.uniform(0, seconds)
        )
        folder = cache.cached("org/net")
        assert folder is None or cache.problem_of(folder) is None, number
        assert not copy.exists() or registry.verify_model(copy)[-1].ok, number
        if folder is None:
            halves += bool(left_in(home))
            with pytest.raises(ZooError):
                registry.resolve("org/net", offline=True)
        if number % 5 == 0:  # and the next pull ends well
            server.faults, kept = [], server.faults
            assert (
                zoo("pull", "org/net", "-q").code == 0
                and cache.problem_of(registry.resolve("org/net", offline=True)) is None
            )
            cache.prune_cache(in_use=0)
            assert len(left_in(home)) == len(payload)
            server.faults = kept
    print(
        f"{KILLS} pulls, {killings} killed, {halves} of them with files in the cache; none could "
        "be used half"
    )
    assert killings


def test_kill_during_a_newer_pull_keeps_the_older(
    server: MiniHub,
    shared_net: str,
    constants: dict[str, Any],
    zoo: Zoo,
    tmp_path: Path,
    payload: dict[str, bytes],
) -> None:
    assert zoo("pull", "org/net").code == 0
    server.upload("org/net", payload | {"README.md": b"newer", "eval.json": b"{ }"})
    server.faults.append(Fault("/org/net", "late", times=-1, seconds=SLOW))
    assert killed(
        after_first_request(server, ["pull", "org/net"], constants, tmp_path / "output"), 0.5
    )
    folder = registry.resolve("org/net", offline=True)
    assert folder.name == shared_net and cache.problem_of(folder) is None


def test_kill_during_publish(
    server: MiniHub,
    constants: dict[str, Any],
    zoo: Zoo,
    tmp_path: Path,
    payload: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    server.faults.append(Fault("", "late", times=-1, seconds=SLOW))
    output, words = (
        tmp_path / "output",
        ["publish", str(registry.resolve(DIGITS)), "me/net", "--tag", "v1"],
    )
    seconds = duration(after_first_request(server, words, constants, output), output)
    chance, killings, states = random.Random(0), 0, []
    for number in range(KILLS):
        server.repos.clear()
        server.blobs.clear()
        killings += killed(
            after_first_request(server, words, constants, output), chance.uniform(0, seconds)
        )
        time.sleep(2 * SLOW)  # what the hub was asked last, it does
        repo = server.repos.get(("model", "me/net"))
        tree = set() if repo is None else {*repo.trees[repo.head]} - {".gitattributes"}
        assert tree in (set(), {*payload}), number  # all of the artifact or nothing of it
        states.append(
            "no repository"
            if repo is None
            else "no artifact"
            if not tree
            else "all"
            if repo.tags
            else "no tag"
        )
        if number % 5 == 0:
            server.faults, kept = [], server.faults
            assert zoo(*words, "-q").code == 0  # the same command again makes it whole
            repo = server.repos["model", "me/net"]
            assert repo.tags == {"v1": repo.head} and len(repo.trees) == 2
            server.faults = kept
    print(
        f"{KILLS} publishes, {killings} killed, which left: "
        f"{', '.join(f'{states.count(s)} {s}' for s in sorted({*states}))}"
    )
    assert killings


def test_eight_pulls_at_once(
    server: MiniHub,
    shared_net: str,
    constants: dict[str, Any],
    home: Path,
    tmp_path: Path,
    payload: dict[str, bytes],
) -> None:
    server.faults.append(Fault("GET /org/net/resolve", "slow", times=-1, seconds=0.2))
    constants |= {
        "HF_HUB_ETAG_TIMEOUT": 20,
        "HF_HUB_DOWNLOAD_TIMEOUT": 20,
    }  # eight processes on two cores
    outputs = [tmp_path / f"output-{number}" for number in range(8)]
    children = [start(["pull", "org/net"], constants, output) for output in outputs]
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 8, [
        output.read_text() for output in outputs
    ]
    folders = {output.read_text().splitlines()[-1] for output in outputs}
    assert len(folders) == 1 and cache.problem_of(Path(folders.pop())) is None
    assert len(left_in(home)) == len(payload)  # no unfinished file, no second copy


def test_eight_threads_at_once(server: MiniHub, shared_net: str, home: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from huggingface_hub.utils import get_session, logging

    before = get_session().event_hooks, logging.get_verbosity()
    server.faults.append(Fault("GET /org/net/resolve", "late", times=-1, seconds=0.1))
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: cache.fetch_artifact("org/net").folder, range(8)))
    assert len(folders) == 1 and cache.problem_of(folders.pop()) is None
    assert len(left_in(home)) == len(FILES) and not list(home.rglob(".ref-*"))
    assert (get_session().event_hooks, logging.get_verbosity()) == before  # the client is as it was


@pytest.mark.parametrize("limit", [1_000, 10_000, 200_000])
def test_a_full_disk_while_pulling(
    server: MiniHub,
    shared_net: str,
    constants: dict[str, Any],
    home: Path,
    zoo: Zoo,
    tmp_path: Path,
    limit: int,
) -> None:
    child = start(["pull", "org/net"], constants, tmp_path / "output", bytes_a_file=limit)
    child.join(60)
    said = (tmp_path / "output").read_text()
    assert (
        child.exitcode == 1 and "the disk or a quota is full" in said and said.count("\n") == 1
    ), said
    assert cache.cached("org/net") is None and not [
        name for name in left_in(home) if "incomplete" in name
    ]
    assert zoo("pull", "org/net").code == 0


def test_a_full_disk_while_copying(
    server: MiniHub, shared_net: str, constants: dict[str, Any], zoo: Zoo, tmp_path: Path
) -> None:
    assert zoo("pull", "org/net").code == 0
    copy = tmp_path / "copy"
    for words in (
        ["pull", "org/net", "--local-dir", str(copy)],
        ["pull", DIGITS, "--local-dir", str(copy)],
    ):
        child = start(words, constants, tmp_path / "output", bytes_a_file=200_000)
        child.join(60)
        said = (tmp_path / "output").read_text()
        assert child.exitcode == 1 and "free some space" in said, said
        assert not copy.exists() and not list(tmp_path.glob(".copy*"))
    assert zoo("verify", "org/net").code == 0


def test_a_full_disk_keeps_what_force_would_replace(
    server: MiniHub, shared_net: str, constants: dict[str, Any], zoo: Zoo, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    assert zoo("pull", "org/net", "--local-dir", copy).code == 0
    words = ["pull", "org/net", "--force", "--local-dir", str(copy)]
    child = start(words, constants, tmp_path / "output", bytes_a_file=200_000)
    child.join(60)
    assert child.exitcode == 1
    assert zoo("verify", copy).code == zoo("verify", "org/net").code == 0


def test_ctrl_c(
    server: MiniHub, shared_net: str, constants: dict[str, Any], home: Path, tmp_path: Path
) -> None:
    import signal

    server.faults.append(Fault("GET /org/net/resolve", "slow", times=-1, seconds=5))
    child = start(["pull", "org/net"], constants, tmp_path / "output")
    while not server.requests(method="GET", path="/resolve/"):
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(int(child.pid or 0), signal.SIGINT)
    child.join(30)
    assert child.exitcode == 130 and "interrupted" in (tmp_path / "output").read_text()
    assert cache.cached("org/net") is None and left_in(home) == []
