"""Text for people: control characters out, numbers with units."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def printable(text: str) -> str:
    """Return text from a file with "?" for the control characters that would drive the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def human_bytes(count: float) -> str:
    """Return 12345 as 12.3 kB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"


def human_count(value: float) -> str:
    """Return 12345 as 12.35 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f}"


def first_fault(error: ValidationError) -> str:
    """Return "rows.0.top5: what is wrong with it" of the first field that pydantic refused."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))[:100] or "the file"
    return f"{place}: {first['msg'].removeprefix('Value error, ')[:160]}"
