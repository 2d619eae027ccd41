"""The hub on loopback, for tests that share over it."""

from __future__ import annotations

from tests.zoo.hub.conftest import (  # noqa: F401
    constants,
    home,
    payload,
    server,
    shared_net,
    zoo,
)
from tests.zoo.pretrained.conftest import site  # noqa: F401
