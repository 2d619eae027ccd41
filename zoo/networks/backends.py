"""Which backend runs a network, and what a backend is.

Every backend gives the same spikes, bit for bit:

* `torch`: the reference in plain torch, on any device (`zoo.networks.reference`);
* `triton`: the fused kernels, on a CUDA GPU of compute capability 8.0 or newer
  (`zoo.networks.fused`);
* `interpret`: the same kernels in Triton's interpreter, on the CPU; slow, it checks them where no
  GPU is.

What has no kernel is torch's on every backend (`ON_TORCH`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import PoolState
from zoo.networks.topology import Pool

Backend = Literal["auto", "triton", "torch", "interpret"]
Chosen = Literal["triton", "torch", "interpret"]

ON_TORCH = (
    "max-pooling of spikes, and hidden fully connected layers, run in torch on every backend; a "
    "convolution in groups runs as one of all channels"
)

# The first GPUs with the integer tensor-core instructions that the kernels' tiles are made for.
MIN_CAPABILITY = (8, 0)


class LayerBackend(Protocol):
    """The layers of one network on one backend; `zoo.networks.executor` runs them.

    Between layers there are spikes in the backend's own form: int8 `[T, B, C, H, W]` in torch,
    packed bits in the kernels.

    Attributes:
        window: timesteps that a layer takes at a time by default.
        limit: the most timesteps of a run, None for no limit.
    """

    window: int
    limit: int | None

    def chunk(self, height: int, width: int) -> int:
        """Return how many images of `height` x `width` pixels run together by default."""

    def stem_input(self, pixels: Tensor, timesteps: int, layerwise: bool) -> Tensor:
        """Return what the stem receives at every timestep; of a layerwise network its spike counts.

        Args:
            pixels: float32 `[B, C, H, W]` as `zoo.networks.pixels.look_up` returns them.
        """

    def membrane(self, name: str, images: int, size: tuple[int, int], timesteps: int) -> Any:
        """Return the state of a layer before the first timestep."""

    def counter(self, name: str, size: tuple[int, int]) -> Tensor:
        """Return zeros that `spikes` adds a layer's spikes per neuron to, or `pool` a pooling's."""

    def spikes(
        self,
        name: str,
        x: Any,
        shortcut: Any,
        membrane: Any,
        *,
        steps: int | None,
        more: bool,
        counter: Tensor | None,
    ) -> Any:
        """Run a layer through one window of timesteps.

        Args:
            x: spikes of its source, or the stem's constant input with `steps` timesteps.
            shortcut: spikes of its shortcut's source, or None.
            membrane: of `membrane`; updated in place.
            more: whether another window follows.
            counter: of `counter`, or None to count nothing.
        """

    def pool(self, pool: Pool, x: Any, state: PoolState, counter: Tensor | None) -> Any:
        """Return what a pooling makes of one window of timesteps.

        Spikes of `max`; of `average` the net spikes of the area, int32 `[T, B, C, 1, 1]`.

        Args:
            x: spikes of its source.
            state: of the run; updated in place.
            counter: of `counter`, or None to count nothing.
        """

    def pool_counts(self, pool: Pool, counts: Tensor) -> Tensor:
        """Return what a pooling makes of the spike counts of a layerwise network."""

    def counts(self, name: str, x: Tensor, shortcut: Tensor | None, timesteps: int) -> Tensor:
        """Return the spike counts of a layer of a layerwise network from those of its sources."""

    def dense(self, spikes: Any) -> Tensor:
        """Return a copy of a window's spikes as int8 `[T, B, C, H, W]`."""

    def packed(self, name: str, spikes: Tensor) -> Any:
        """Return spikes of a layer, int8 `[T, B, C, H, W]`, in the form that `spikes` takes."""

    def potential(self, membrane: Any) -> Tensor:
        """Return a copy of the potentials after the last timestep, `[B, C, H, W]`.

        They are there after a window with `more`.
        """

    def of_images(self, membrane: Any, images: Tensor) -> Any:
        """Return the state of some images of a chunk alone, by their int64 indices."""

    def pooled(self, spikes: Any) -> Tensor:
        """Return net spikes summed over the area, integers `[T, B, C]`."""

    def total(self, counter: Tensor) -> Tensor:
        """Return a copy of a counter as int64 `[C, H, W]`."""

    def nchw(self, counts: Tensor) -> Tensor:
        """Return a view of layerwise counts as `[B, C, H, W]`."""

    def call(self, key: Hashable, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return `function(x)`; a backend may record the first call of a key and replay it."""


def choose_backend(requested: Backend, device: torch.device, *, integer: bool = True) -> Chosen:
    """Return the backend for a network on `device`: `auto` is triton where it can run, else torch.

    Args:
        integer: whether the network is int8; the kernels run no float32 network.

    Raises:
        UsageError: what is requested cannot run here.
    """
    on_gpu = device.type == "cuda"
    if requested == "torch":
        return "torch"
    if requested == "auto":
        able = on_gpu and integer and why_not_triton(device) is None
        return "triton" if able else "torch"
    if requested not in ("triton", "interpret"):
        raise UsageError(f"backend {requested!r} is unknown: use auto, triton, torch or interpret")
    if not _has_triton():
        raise UsageError(
            f"backend {requested} needs triton, which is not installed: pip install triton, or use "
            "torch"
        )
    if not integer:
        raise UsageError(
            f"backend {requested} runs int8 networks, and this one is float32: use the torch "
            "backend"
        )
    if requested == "interpret":
        if on_gpu:
            raise UsageError('backend interpret runs on the CPU: pass `device="cpu"` with it')
        return "interpret"
    if not torch.cuda.is_available():
        raise UsageError(
            "backend triton needs a CUDA GPU, and there is none here: use torch, or interpret to "
            "check kernels"
        )
    if not on_gpu:
        raise UsageError('backend triton runs on a CUDA GPU: pass `device="cuda"` with it')
    reason = why_not_triton(device)
    if reason is not None:
        raise UsageError(f"backend {reason}; or use `backend=torch`, which does without")
    return "triton"


def why_not_triton(device: torch.device) -> str | None:
    """Return why the kernels cannot run on a CUDA device and what to do; None where they can."""
    if not _has_triton():
        return "triton is not installed: pip install triton"
    if _capability(device) < MIN_CAPABILITY:
        have, least = (".".join(map(str, pair)) for pair in (_capability(device), MIN_CAPABILITY))
        return f"triton needs compute capability {least}, and this GPU has {have}: take a newer one"
    missing = missing_build_tool(sysconfig.get_paths()["include"])
    if missing is None or _starts():
        return None
    return f"triton builds its launcher with a C compiler, and {missing}"


def missing_build_tool(include: str | Path) -> str | None:
    """Return what of Triton's build at run time is not here, and how to get it; None if all is.

    Args:
        include: folder of Python's header files.
    """
    named = os.environ.get("CC")
    if named and shutil.which(named) is None:
        return f"CC names {named}, which is not here: install it, or unset CC"
    if not named and not any(map(shutil.which, ("gcc", "clang"))):
        return "there is none here: install gcc or clang (on Debian and Ubuntu: apt install gcc)"
    if not (Path(include) / "Python.h").is_file():
        return (
            f"{include} has no Python.h: install Python's header files (on Debian and Ubuntu: "
            "apt install python3-dev)"
        )
    return None


@functools.cache
def _starts() -> bool:
    """Return whether Triton's driver starts all the same, from what it built before."""
    try:
        importlib.import_module("triton").runtime.driver.active.get_current_device()
    except Exception:  # whatever it is, the launcher is not there
        return False
    return True


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
