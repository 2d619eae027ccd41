"""A hub on loopback, a client of it with an empty cache, and an artifact to share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.minihub import MiniHub
from tests.zoo.commands.conftest import zoo  # noqa: F401  # a fixture of these tests too
from tests.zoo.hub.children import constants_for
from zoo.artifact.config import FILES
from zoo.models import registry
from zoo.render import card

DIGITS = "s-resnet20-digits"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the client keeps its cache."""
    return tmp_path / "home"


@pytest.fixture
def constants(server: MiniHub, home: Path) -> dict[str, Any]:
    """The client's settings for this test, also for processes of their own."""
    return constants_for(server.url, home)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[MiniHub]:
    with MiniHub() as running:
        for name, value in constants_for(running.url, home).items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("ZOO_HOME", str(home / "zoo"))
        monkeypatch.setattr("zoo.hub.client._PAUSES", (0.01, 0.02))
        yield running


@pytest.fixture(scope="session")
def payload() -> dict[str, bytes]:
    """The files of an artifact as it is published."""
    folder = registry.resolve(DIGITS)
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    return files | {"README.md": card.for_folder(folder).encode()}


@pytest.fixture
def shared_net(server: MiniHub, payload: dict[str, bytes]) -> str:
    """The commit of org/net, an artifact on the hub."""
    return server.upload("org/net", payload)
