"""What `zoo doctor` says about this machine: versions, what would run a model, the hub, the cache."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo import __version__, hub, recipes, store
from zoo.errors import ZooError

_PACKAGES = ("torch", "triton", "safetensors", "huggingface-hub", "numpy", "pydantic", "pyarrow", "matplotlib")


def examine(*, endpoint: str | None = None, offline: bool = False) -> dict[str, Any]:
    """Everything as plain values; what cannot be found out is None. Raises UsageError for an endpoint that is none."""
    return {
        "zoo": __version__, "python": platform.python_version(), "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES}, "device": _device(),
        "hub": _hub(endpoint, offline), "cache": _cache(),
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    major, minor = torch.cuda.get_device_capability() if gpu else (0, 0)
    return {
        "gpu": gpu, "capability": f"{major}.{minor}" if gpu else None, "cuda": torch.version.cuda,
        "backend": "triton" if gpu and _version("triton") else "torch", "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }  # fmt: skip


def _hub(endpoint: str | None, offline: bool) -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    where = hub.base(endpoint)
    found: dict[str, Any] = {"endpoint": where, "offline": hub.is_offline(offline), "answers": None, "problem": None}
    # Whether there is a token, never which.
    found["token"] = bool(get_token()) and hub.token_for(endpoint) is None and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN
    if found["offline"]:
        return found
    try:
        with hub.errors("the hub", endpoint):
            list(hub.api(endpoint).list_models(limit=1))
        found["answers"] = True
    except ZooError as error:
        found |= {"answers": False, "problem": str(error)}
    return found


def _cache() -> dict[str, Any]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    found = list(store.snapshots())
    return {
        "folder": str(folder), "models": sum(one.whole for one in found), "unfinished": sum(not one.whole for one in found),
        "bytes": sum(one.size for one in found), "free": shutil.disk_usage(there).free, "writable": os.access(there, os.W_OK),
        "made": sum(1 for _ in recipes.everything()), "notes": str(store.cache_folder()),
    }  # fmt: skip
