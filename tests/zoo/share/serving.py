"""What the tests of the server share: a running server, requests, artifacts."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn

from zoo.models import registry
from zoo.share import serve
from zoo.share.folder import Folder

REPO = Path(__file__).resolve().parents[3]
ID = "spiking-zoo/s-resnet20-digits"
SHIPPED = registry.resolve("s-resnet20-digits")


@contextmanager
def serving(folder: Folder) -> Iterator[str]:
    """The server in a thread; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            serve.app(folder), log_config=None, lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


@contextmanager
def process(*words: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`zoo serve` in a process of its own; gives it and its URL."""
    line = [sys.executable, "-m", "zoo", "serve", *map(str, words), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def ask(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request, with the path as it is written."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return (
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read(),
        )
    finally:
        connection.close()


def artifact(folder: Path, size: int, seed: int = 0) -> bytes:
    """An artifact as the server sees one, with weights that are `size` random bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = hashlib.shake_256(b"%d" % seed).digest(size)
    config = json.loads((SHIPPED / "config.json").read_text()) | {
        "weights_sha256": hashlib.sha256(weights).hexdigest()
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return weights
