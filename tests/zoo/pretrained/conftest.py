"""A web server on loopback in the place of every address that checkpoints are published at."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zoo.pretrained import published


@dataclass
class Site:
    """A web server with the files of `content`, which continues a download or does not.

    Attributes:
        cuts: after how many bytes each of the next answers ends.
        asked: path and Range of each request.
    """

    url: str
    content: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            found.asked.append((self.path, asked))
            data = found.content.get(self.path.rpartition("/")[2])
            begin = int(asked[6:-1]) if asked and found.ranges else 0
            if data is None or begin >= len(data):
                self.send_error(404 if data is None else 416)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            part = data[begin:]
            self.wfile.write(part[: found.cuts.pop(0)] if found.cuts else part)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(f"http://127.0.0.1:{server.server_address[1]}/")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for publisher in published.ADDRESSES:
        monkeypatch.setitem(published.ADDRESSES, publisher, f"{found.url}{publisher}/")
    monkeypatch.setattr("zoo.pretrained.fetch._PAUSES", (0.0, 0.0))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield found
    server.shutdown()
    server.server_close()
