"""Where `zoo eval` keeps what it is told to save, and where that is found again.

A folder of one's own gets it as its eval.json. Beside a model that ships, that was pulled or that a
recipe made there is no room: its files are those that were published, and checked. What was
measured of it here lies in the zoo's cache, `measured/<sha256 of the weights>/<begin of the images'
sha256>.json`, and is never taken for the figures that came with the model.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from zoo.artifact.config import CONFIG, EVALUATION, ExitConfig
from zoo.artifact.results import Evaluation, read_evaluation
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.files import cache_folder, replaced_file

_NAME = re.compile(r"[0-9a-f]{16}\.json", re.ASCII)


def to_json(found: Evaluation) -> str:
    """Return an evaluation as the text of an eval.json."""
    return json.dumps(found.model_dump(mode="json"), indent=2) + "\n"


def save_measurement(folder: Path, found: Evaluation, *, own: bool) -> Path:
    """Write what was measured of the artifact at `folder`; return the file.

    Args:
        own: the folder is the user's, and the file is its eval.json; else it is one of the cache.

    Raises:
        UsageError: it was measured on other weights than the folder has.
        ZooError: it cannot be written; what was there stays.
    """
    from zoo.artifact.folder import read_config

    if read_config(folder).weights_sha256 != found.weights_sha256:
        raise UsageError(f"{folder} has other weights than were measured: measure it again")
    path = folder / EVALUATION
    if not own:
        path = _home(found.weights_sha256) / f"{found.data.sha256[:16]}.json"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ZooError(
                f"{path.parent} cannot be written ({error.strerror}): set ZOO_HOME to a folder "
                "that can"
            ) from error
    with replaced_file(path) as temporary:
        temporary.write_text(to_json(found), encoding="ascii")
    return path


def save_exit(folder: Path, found: ExitConfig) -> None:
    """Store a rule for early exit in an artifact folder; its eval.json keeps being of its config.

    Raises:
        ZooError: it cannot be written.
    """
    from zoo.artifact.folder import read_config

    config = read_config(folder)
    changed = config.model_copy(update={"exit": found})
    files = {CONFIG: changed.model_dump_json(indent=2) + "\n"}
    if (folder / EVALUATION).is_file():
        evaluation = read_evaluation(folder)
        if evaluation.config == config:
            files = {
                EVALUATION: to_json(evaluation.model_copy(update={"config": changed})),
                **files,
            }
    for name, text in files.items():
        with replaced_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def measured_here(weights_sha256: str) -> tuple[Evaluation, ...]:
    """Return what was measured here of the model with these weights, on most images first."""
    found = []
    for path in sorted(_home(weights_sha256).glob("*.json")):
        try:
            one = read_evaluation(path) if _NAME.fullmatch(path.name) else None
        except (IntegrityError, OSError):  # of another version of the zoo, or damaged: not a figure
            continue
        if one is not None and one.weights_sha256 == weights_sha256:
            found.append(one)
    return tuple(sorted(found, key=lambda one: -one.data.images))


def _home(weights_sha256: str) -> Path:
    return cache_folder() / "measured" / weights_sha256
