"""The callback that long work reports its progress to."""

from __future__ import annotations

from collections.abc import Callable

# Called with the stage, the units done and the units in all.
Progress = Callable[[str, int, int], None]
