"""Parse texts of the command line: a usable value, or one UsageError before any work begins."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

from zoo.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def timesteps(text: str) -> list[int]:
    """Return `4,8,16` as sorted numbers, each once."""
    from zoo.artifact.config import MAX_TIMESTEPS

    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(
            f"--timesteps {text!r} is not a list of whole numbers: write it like 4,8,16"
        ) from None
    if values[0] < 1 or values[-1] > MAX_TIMESTEPS:
        raise UsageError(f"--timesteps {text!r} leaves 1 to {MAX_TIMESTEPS}: write it like 4,8,16")
    return values


def per_channel(option: str, text: str | None) -> list[float] | None:
    """Return `0.5,0.5,0.5` as numbers."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise UsageError(
            f"{option} {text!r} is not one number per channel: write it like 0.485,0.456,0.406"
        )
    return values


def parameters(texts: Sequence[str]) -> dict[str, float | int | str | bool]:
    """Return `NAME=VALUE` pairs as a dictionary; a value that reads as a number is one."""
    pairs: dict[str, float | int | str | bool] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--parameter {text!r} has no value: write it like percentile=0.999")
        pairs[name] = value
        for kind in (float, int):
            with contextlib.suppress(ValueError):
                pairs[name] = kind(value)
    return pairs


def check_text(option: str, text: str | None) -> None:
    """Raise UsageError if a text would not fit into config.json."""
    if text is not None and not 1 <= len(text) <= 500:
        raise UsageError(
            f"{option} takes 1 to 500 characters, not {len(text)}: shorten it or leave it out"
        )


def check_statements(
    license: str | None,
    url: str | None,
    data_name: str | None,
    data_url: str | None,
    data_license: str | None,
) -> None:
    """Raise UsageError if what is stated for a card would not fit into its files."""
    stated = {
        "--license": license,
        "--url": url,
        "--data-name": data_name,
        "--data-url": data_url,
        "--data-license": data_license,
    }
    for option, text in stated.items():
        check_text(option, text)


def check_replaceable(folder: Path, force: bool, option: str = "--out") -> None:
    """Raise UsageError early, before the work, if `folder` is taken.

    --force replaces artifacts, never another folder.
    """
    if not folder.exists():
        return
    if not force:
        raise UsageError(
            f"{folder} exists already: choose another {option}, or pass --force to replace it"
        )
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / "config.json").is_file()):
        raise UsageError(
            f"{folder} is not an artifact, --force would delete what is in it: choose another "
            f"{option}"
        )


def check_writable(option: str, path: Path | None, suffix: str = "") -> None:
    """Raise an error early, before the work, if a file cannot be written at `path`.

    Raises:
        UsageError: another suffix, or no file at `path` that can be replaced.
        NotFoundError: its folder does not exist.
    """
    if path is None:
        return
    if not path.name.lower().endswith(suffix):
        raise UsageError(
            f"{option} {path} does not end in {suffix}, the only form there is: rename it"
        )
    if not path.absolute().parent.is_dir():
        raise NotFoundError(
            f"{path.absolute().parent} does not exist: create it, or choose another {option}"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file that can be replaced: choose another {option}")
