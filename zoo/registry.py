"""Names of the zoo: the artifacts shipped inside the package, and what a name or path on the command line means."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.config import Config, parse_config
from zoo.errors import IntegrityError, NotFoundError

_SHIPPED = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Entry:
    """An artifact that has a name.

    `size` is that of its files in bytes, `evaluation` what its eval.json says, if it has one.
    """

    name: str
    folder: Path
    config: Config
    size: int
    evaluation: dict[str, Any] | None


def entry(folder: Path, name: str | None = None) -> Entry:
    """Reads the facts of one artifact folder, without its tensors."""
    config = parse_config((folder / "config.json").read_bytes(), f"{folder}/config.json")
    measured = folder / "eval.json"
    try:
        evaluation = json.loads(measured.read_text()) if measured.is_file() else None
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{measured} is not valid JSON ({str(error)[:80]}): fetch the artifact again") from error
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Entry(name or folder.name, folder, config, size, evaluation)


def shipped() -> list[Entry]:
    """The artifacts inside the package, by name."""
    return [entry(path) for path in sorted(_SHIPPED.glob("*")) if (path / "config.json").is_file()]


def resolve(name_or_path: str | Path) -> Path:
    """The artifact folder of a path or a name of the zoo.

    Raises NotFoundError, which lists near names.
    """
    path = Path(name_or_path)
    try:
        if (path / "config.json").is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name too long for a file, or with a null byte in it
        is_folder = False
    names = [path.parent.name for path in sorted(_SHIPPED.glob("*/config.json"))]
    if str(name_or_path) in names:
        return _SHIPPED / str(name_or_path)
    if is_folder and str(name_or_path):
        raise NotFoundError(f"{path} has no config.json: it is not an artifact; make one with zoo convert")
    near = difflib.get_close_matches(str(name_or_path), names, n=3, cutoff=0.4) or names
    raise NotFoundError(
        f"{name_or_path} is neither a folder nor a model of the zoo; known: {', '.join(near) or 'none is shipped'}"
    )


def default_data(config: Config) -> str | None:
    """What `zoo eval` measures on when no --data is given: the data set it was calibrated on, where that one has a name."""
    return config.calibration.dataset
