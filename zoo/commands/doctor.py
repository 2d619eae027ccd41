"""What `zoo doctor` says about this machine: versions, what would run a model, the hub, the cache."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from zoo.commands.common import Endpoint, Json, Offline, epilog, terminal
from zoo.commands.messages import in_option_words
from zoo.commands.terminal import print_lines, write_json
from zoo.errors import ZooError
from zoo.files import cache_folder
from zoo.text import human_bytes
from zoo.version import __version__

app = typer.Typer()

_PACKAGES = (
    "torch",
    "triton",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pydantic",
    "pyarrow",
    "matplotlib",
)


def examine(*, endpoint: str | None = None, offline: bool = False) -> dict[str, Any]:
    """Everything as plain values; what cannot be found out is None. Raises UsageError for an endpoint that is none."""
    return {
        "zoo": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": _device(),
        "hub": _hub(endpoint, offline),
        "cache": _cache(),
    }


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    import torch

    from zoo.networks.backends import choose_backend

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    major, minor = torch.cuda.get_device_capability() if gpu else (0, 0)
    return {
        "gpu": gpu,
        "capability": f"{major}.{minor}" if gpu else None,
        "cuda": torch.version.cuda,
        "backend": choose_backend("auto", torch.device("cuda" if gpu else "cpu")),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def _hub(endpoint: str | None, offline: bool) -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    from zoo.hub import client as hub

    where = hub.base(endpoint)
    found: dict[str, Any] = {
        "endpoint": where,
        "offline": hub.is_offline(offline),
        "answers": None,
        "problem": None,
    }
    # Whether there is a token, never which.
    found["token"] = (
        bool(get_token())
        and hub.token_for(endpoint) is None
        and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    )
    if found["offline"]:
        return found
    try:
        with hub.errors("the hub", endpoint):
            list(hub.api(endpoint).list_models(limit=1))
        found["answers"] = True
    except ZooError as error:
        found |= {"answers": False, "problem": in_option_words(str(error), "doctor")}
    return found


def _cache() -> dict[str, Any]:
    from huggingface_hub import constants

    from zoo.hub import cache
    from zoo.models import recipes

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    found = list(cache.snapshots())
    return {
        "folder": str(folder),
        "models": sum(one.whole for one in found),
        "unfinished": sum(not one.whole for one in found),
        "bytes": sum(one.size for one in found),
        "free": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK),
        "made": sum(1 for _ in recipes.everything()),
        "notes": str(cache_folder()),
    }


@app.command("doctor", epilog=epilog("zoo doctor", "zoo doctor --json"))
def doctor_command(
    endpoint: Endpoint = None, offline: Offline = False, json_output: Json = False
) -> None:
    """Report what works here: versions, GPU, hub, cache."""
    found = examine(endpoint=endpoint, offline=offline)
    if json_output:
        write_json(found)
        return
    runs, hub, kept = found["device"], found["hub"], found["cache"]
    state = {None: "not asked, offline", True: "answers", False: hub["problem"]}[hub["answers"]]
    lines = {
        "zoo": f"{found['zoo']}, Python {found['python']}, {found['platform']}",
        "packages": ", ".join(
            f"{name} {number or 'missing'}" for name, number in found["packages"].items()
        ),
        "GPU": f"{runs['gpu']}, capability {runs['capability']}, CUDA {runs['cuda']}"
        if runs["gpu"]
        else "none",
        "backend": f"{runs['backend']}, {runs['threads']} threads on {runs['cores']} cores",
        "hub": f"{hub['endpoint']}: {state}",
        "token": "yes" if hub["token"] else "none for this hub",
        "cache": f"{kept['folder']}: {kept['models']} models, {human_bytes(kept['bytes'])}, {human_bytes(kept['free'])} free",
        "made here": f"{kept['made']} models, in {kept['notes']}",
    }
    print_lines(terminal.out, [f"{name:<11}{line}" for name, line in lines.items()])
    if hub["answers"] is False:
        terminal.warn(
            "the hub does not answer: models that ship or are in the cache work all the same"
        )
    if not kept["writable"]:
        terminal.warn(f"{kept['folder']} cannot be written: set HF_HOME to a folder that can")
    if kept["unfinished"]:
        terminal.warn(
            f"{kept['unfinished']} pulls did not end: pull them again, or zoo cache prune"
        )
