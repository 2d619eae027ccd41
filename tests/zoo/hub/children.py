"""The command line in processes of its own that start at once.

They are killed, starved or run side by side.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Forked from a process that has only imported these: a child is ready in milliseconds, and has no
# threads of the tests.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.zoo.hub.heavy"])


def constants_for(url: str, home: Path) -> dict[str, Any]:
    """What the client reads from the environment when it is imported."""
    return {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_ETAG_TIMEOUT": 1,
        "HF_HUB_DOWNLOAD_TIMEOUT": 1,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }


def start(
    words: list[str],
    constants: dict[str, Any],
    output: Path,
    *,
    bytes_a_file: int | None = None,
    recipes: dict[str, Any] | None = None,
) -> BaseProcess:
    """Run `zoo words` in a child whose stdout and stderr go to `output`.

    No file of it can be longer than `bytes_a_file`.

    `recipes` are known to it instead of the zoo's own.
    """
    variables = {
        name: os.environ.get(name) for name in ("HF_TOKEN", "NO_PROXY", "no_proxy", "ZOO_HOME")
    }
    child = _CONTEXT.Process(
        target=_run, args=(words, constants, variables, str(output), bytes_a_file, recipes)
    )
    child.start()
    return child


def _run(
    words: list[str],
    constants: dict[str, Any],
    variables: dict[str, str | None],
    output: str,
    limit: int | None,
    recipes: dict[str, Any] | None,
) -> None:
    from huggingface_hub import constants as settings

    import zoo.hub.client
    import zoo.models.recipes
    from zoo.cli import main

    if recipes is not None:
        zoo.models.recipes.RECIPES = recipes

    for name, value in constants.items():
        setattr(settings, name, value)
    for name, text in variables.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text
    zoo.hub.client._PAUSES = (0.01, 0.02)
    stream = open(output, "w", buffering=1)  # noqa: SIM115 (until the end of the process)
    sys.stdout = sys.stderr = stream
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = main(words)
    stream.flush()
    os._exit(code)


def left_in(folder: Path) -> list[str]:
    """The files of a cache that hold data."""
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and "blobs" in path.parts
    )
