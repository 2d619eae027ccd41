"""`zoo doctor`: report on this machine: versions, what would run a model, the hub, the cache."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
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
    """Return the report as plain values; None stands for what cannot be determined.

    Raises:
        UsageError: `endpoint` is not an address.
    """
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

    from zoo.kernels.spiking_conv.compiled import LIBRARY
    from zoo.networks.backends import (
        ON_TORCH,
        choose_backend,
        missing_build_tool,
        why_not_triton,
    )

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    major, minor = torch.cuda.get_device_capability() if gpu else (0, 0)
    return {
        "gpu": gpu,
        "capability": f"{major}.{minor}" if gpu else None,
        "cuda": torch.version.cuda,
        "backend": choose_backend("auto", torch.device("cuda" if gpu else "cpu")),
        "on_torch": ON_TORCH,
        "why_not_triton": why_not_triton(torch.device("cuda")) if gpu else None,
        "build_tool_missing": missing_build_tool(sysconfig.get_paths()["include"]),
        "neuron": LIBRARY.describe(cache_folder()),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def _hub(endpoint: str | None, offline: bool) -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    from zoo.hub import client as hub

    where = hub.base(endpoint)
    facts: dict[str, Any] = {
        "endpoint": where,
        "offline": hub.is_offline(offline),
        "answers": None,
        "problem": None,
    }
    # Only that there is a token, never the token itself.
    facts["token"] = (
        bool(get_token())
        and hub.token_for(endpoint) is None
        and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    )
    if facts["offline"]:
        return facts
    try:
        with hub.errors("the hub", endpoint):
            list(hub.api(endpoint).list_models(limit=1))
        facts["answers"] = True
    except ZooError as error:
        facts |= {"answers": False, "problem": in_option_words(str(error), "doctor")}
    return facts


def _cache() -> dict[str, Any]:
    from huggingface_hub import constants

    from zoo.hub import cache
    from zoo.models import recipes

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    snapshots = list(cache.snapshots())
    return {
        "folder": str(folder),
        "models": sum(snapshot.whole for snapshot in snapshots),
        "unfinished": sum(not snapshot.whole for snapshot in snapshots),
        "bytes": sum(snapshot.size for snapshot in snapshots),
        "free": shutil.disk_usage(existing).free,
        "writable": os.access(existing, os.W_OK),
        "made": sum(1 for _ in recipes.everything()),
        "notes": str(cache_folder()),
    }


@app.command("doctor", epilog=epilog("zoo doctor", "zoo doctor --json"))
def doctor_command(
    endpoint: Endpoint = None, offline: Offline = False, json_output: Json = False
) -> None:
    """Report what works here: versions, GPU, hub, cache."""
    report = examine(endpoint=endpoint, offline=offline)
    if json_output:
        write_json(report)
        return
    runs, hub, cached = report["device"], report["hub"], report["cache"]
    state = {None: "not asked, offline", True: "answers", False: hub["problem"]}[hub["answers"]]
    lines = {
        "zoo": f"{report['zoo']}, Python {report['python']}, {report['platform']}",
        "packages": ", ".join(
            f"{name} {number or 'missing'}" for name, number in report["packages"].items()
        ),
        "GPU": f"{runs['gpu']}, capability {runs['capability']}, CUDA {runs['cuda']}"
        if runs["gpu"]
        else "none",
        "backend": f"{runs['backend']}, {runs['threads']} threads on {runs['cores']} cores",
        "kernels": runs["on_torch"],
        "neuron": f"{runs['neuron']}, on a CPU",
        "hub": f"{hub['endpoint']}: {state}",
        "token": "yes" if hub["token"] else "none for this hub",
        "cache": f"{cached['folder']}: {cached['models']} models, {human_bytes(cached['bytes'])}, "
        f"{human_bytes(cached['free'])} free",
        "made here": f"{cached['made']} models, in {cached['notes']}",
    }
    if runs["build_tool_missing"]:
        lines["C compiler"] = f"{runs['build_tool_missing']}; on a GPU --backend torch needs none"
    print_lines(terminal.out, [f"{name:<11}{line}" for name, line in lines.items()])
    if runs["why_not_triton"]:
        terminal.warn(f"the GPU runs torch operations, not the kernels: {runs['why_not_triton']}")
    if hub["answers"] is False:
        terminal.warn(
            "the hub does not answer: models that ship or are in the cache work all the same"
        )
    if not cached["writable"]:
        terminal.warn(f"{cached['folder']} cannot be written: set HF_HOME to a folder that can")
    if cached["unfinished"]:
        terminal.warn(
            f"{cached['unfinished']} pulls did not end: pull them again, or zoo cache prune"
        )
