"""What a server sends while the artifacts it serves are damaged, changed or replaced."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub

from tests.zoo.share.serving import ID, artifact, ask, process, serving
from tests.zoo.spiking_fixtures import refuses
from zoo.errors import IntegrityError
from zoo.share.folder import Folder
from zoo.share.mirror import mirror


def test_a_damaged_artifact_is_not_served(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    weights = artifact(tmp_path / "lab" / "net", 1000)
    assert folder.look("lab", "net")[0].files["model.safetensors"].size == 1000
    (tmp_path / "lab/net/model.safetensors").write_bytes(weights[:-1])
    with refuses(IntegrityError, "does not match"):
        folder.look("lab", "net")
    with serving(folder) as address:
        assert ask(address, "/lab/net/resolve/main/config.json")[0] == 404
        assert json.loads(ask(address, "/api/models")[2]) == []
        (tmp_path / "lab/net/model.safetensors").write_bytes(
            weights
        )  # mended: no restart is needed
        assert ask(address, "/lab/net/resolve/main/model.safetensors")[2] == weights
        (tmp_path / "lab/net/config.json").write_text("{" * 100_000)
        assert ask(address, "/lab/net/resolve/main/model.safetensors")[0] == 404
        with open(tmp_path / "lab/net/eval.json", "wb") as file:
            file.truncate(10**12)  # sparse: takes no room, and must not be read
        started = time.perf_counter()
        assert (
            ask(address, "/lab/net/resolve/main/eval.json")[0] == 404
            and time.perf_counter() - started < 2
        )


def test_a_file_changed_in_place_cuts_the_download(tmp_path: Path) -> None:
    size = 24_000_000
    old = artifact(tmp_path / "lab" / "net", size)
    path = tmp_path / "lab/net/model.safetensors"
    before = path.stat()
    with serving(Folder(tmp_path)) as address:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", urlsplit(address).port))
            client.sendall(
                b"GET /lab/net/resolve/main/model.safetensors HTTP/1.1\r\nHost: x\r\n\r\n"
            )
            got = client.recv(65536)
            with open(path, "r+b") as file:  # the same inode, size and time of change
                file.write(artifact(tmp_path / "other", size, seed=1))
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            while part := client.recv(1 << 20):
                got += part
        head, _, body = got.partition(b"\r\n\r\n")
        assert f'etag: "{hashlib.sha256(old).hexdigest()}"'.encode() in head.lower()
        assert 0 < len(body) < size and body == old[: len(body)]
        shutil.copy(tmp_path / "other" / "config.json", tmp_path / "lab" / "net")
        _, head_now, now = ask(address, "/lab/net/resolve/main/model.safetensors")
        assert (
            head_now["etag"] == f'"{hashlib.sha256(now).hexdigest()}"'
            and now == path.read_bytes() != old
        )


def test_tag_and_bytes_belong_together_while_artifacts_are_replaced(tmp_path: Path) -> None:
    versions = [tmp_path / "versions" / name / "net" for name in "ab"]
    for seed, version in enumerate(versions):
        artifact(version, 700_000, seed)
    root = tmp_path / "hub"
    target = root / "lab" / "net"
    shutil.copytree(versions[0], target)
    seen, over = set(), threading.Event()

    def swap() -> None:
        for turn in range(60):
            version = versions[turn // 2 % 2]
            if turn % 2:  # a new folder in the place of the old one
                shutil.copytree(version, tmp_path / f"new{turn}")
                target.rename(tmp_path / f"old{turn}")
                (tmp_path / f"new{turn}").rename(target)
            else:  # the same files with other bytes, as a careless copy leaves them
                for name in ("model.safetensors", "config.json"):
                    shutil.copyfile(version / name, target / name)
            time.sleep(0.01)
        over.set()

    with serving(Folder(root)) as address:
        swapper = threading.Thread(target=swap, daemon=True)
        swapper.start()
        while not over.is_set():
            try:
                status, head, body = ask(address, "/lab/net/resolve/main/model.safetensors")
            except (http.client.IncompleteRead, ConnectionError):
                continue
            assert status in (200, 404, 503)
            if status == 200:
                assert head["etag"] == f'"{hashlib.sha256(body).hexdigest()}"'
                seen.add(head["etag"])
        swapper.join()
    assert seen


def test_commits_come_from_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        mirror(tmp_path / name, ["s-resnet20-digits"])
    ids = ID.split("/")
    first, second = (Folder(tmp_path / name).look(*ids)[0] for name in ("one", "two"))
    assert first.commit == second.commit
    (tmp_path / "two" / ID / "README.md").write_text("# Another\n")
    changed = Folder(tmp_path / "two")
    assert changed.look(*ids)[0].commit != first.commit
    (tmp_path / "two" / ID / "notes.txt").write_text("not a part of it")
    assert changed.look(*ids)[0].commit == Folder(tmp_path / "two").look(*ids)[0].commit


def test_eight_clients_at_once(tmp_path: Path) -> None:
    size = 2_000_000
    weights = artifact(tmp_path / "hub" / "lab" / "net", size)
    with process(tmp_path / "hub", "-q") as (running, address):

        def pull(number: int) -> bool:
            cache = tmp_path / f"cache{number}"
            place = huggingface_hub.snapshot_download("lab/net", endpoint=address, cache_dir=cache)
            return (Path(place) / "model.safetensors").read_bytes() == weights

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(pull, range(8)))
        if Path("/proc/self/status").exists():
            lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
            assert peak < 150_000  # kB; it never imports torch
