"""Compiled neurons on a CPU: `csrc/neuron.cpp`, built once on the user's machine.

In torch operations the neurons of a window are over half of a run: each operation reads and writes
every potential again. The compiled form reads and writes a potential once a window.

The library is a plain C one, loaded by ctypes: it needs no header of torch or Python and builds in
4 s. Its OpenMP calls are left unresolved and find torch's own runtime, so both use one pool of
threads; where they do not, a library without threads is built. Before it is used it must reproduce
torch operations on random and extreme inputs. What fails on the way (no compiler, a folder that
cannot be written, a wrong result) leaves the neurons in torch operations and is kept as the reason
that `zoo doctor` shows.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

SOURCE = Path(__file__).parent / "csrc" / "neuron.cpp"
# "torch" keeps the neurons in torch operations.
SWITCH = "ZOO_NEURON"
# A build takes 4 s of one core. A run of one model on a few images ends sooner and should not
# compete with a compiler.
PATIENCE = 5.0
LIMIT = 60.0
Neurons = Callable[..., None]
_FLAGS = ["-O3", "-std=c++17", "-fPIC", "-ffp-contract=off", "-w"]


class _Window(ctypes.Structure):
    """`Window` of neuron.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("v", "emitted", "current", "projected", "source")),
        *((name, ctypes.c_void_p) for name in ("gain", "bias", "threshold", "spikes")),
        *((name, ctypes.c_int64) for name in ("current_step", "pixels", "channels", "steps")),
        *((name, ctypes.c_int64) for name in ("max_level", "source_is_signed")),
    ]


class CompiledNeuron:
    """Neurons of one window, in the library at `path`.

    Attributes:
        form: "avx512" or "portable".
    """

    def __init__(self, path: Path, form: str | None = None) -> None:
        library = ctypes.CDLL(str(path))
        self._openmp = bool(library.has_openmp())
        self._run = {torch.float32: library.run_float32, torch.float64: library.run_float64}
        for function in self._run.values():
            function.argtypes = [ctypes.POINTER(_Window), ctypes.c_int, ctypes.c_int]
            function.restype = None
        self.form = form or ("avx512" if library.has_avx512() else "portable")

    def __repr__(self) -> str:
        return f"compiled ({self.form}{'' if self._openmp else ', one thread'})"

    def __call__(
        self,
        v: Tensor | None,
        emitted: Tensor | None,
        current: Tensor,
        projected: Tensor | None,
        source: Tensor | None,
        gain: Tensor | None,
        bias: Tensor,
        threshold: Tensor,
        spikes: Tensor,
        max_level: int = 1,
    ) -> None:
        """Fire the neurons of a window into `spikes`; `v` and `emitted` are updated in place.

        All tensors are contiguous, channels last in memory; values are integers. float32 may be
        float64 throughout.

        Args:
            v: float32 `[B, H, W, C]`, or None: starts at 0 and is not kept.
            emitted: net spikes so far of `signed`, as `v`, or None.
            current: float32 `[T, B, H, W, C]`; `[B, H, W, C]` is the same at every timestep.
            projected: the current of a projection shortcut, as `current`, or None.
            source: spikes of an identity shortcut, int8 or uint8 `[T, B, H, W, C]`, or None.
            gain: float32 `[C]` of `source`.
            bias: float32 `[T, C]`.
            threshold: float32 `[C]`.
            spikes: uint8 `[T, B, H, W, C]`, written; a -1 is 255.
            max_level: the largest spike.
        """
        steps, channels = bias.shape
        values = spikes.numel() // max(steps, 1)
        if not spikes.numel():
            return
        window = _Window(
            *(_pointer(t) for t in (v, emitted, current, projected, source)),
            *(_pointer(t) for t in (gain, bias, threshold, spikes)),
            values if current.ndim == spikes.ndim else 0,
            values // channels,
            channels,
            steps,
            max_level,
            source is not None and source.dtype == torch.int8,
        )
        self._run[current.dtype](window, self.form == "avx512", torch.get_num_threads())


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


def torch_neuron(
    v: Tensor | None,
    emitted: Tensor | None,
    current: Tensor,
    projected: Tensor | None,
    source: Tensor | None,
    gain: Tensor | None,
    bias: Tensor,
    threshold: Tensor,
    spikes: Tensor,
    max_level: int = 1,
) -> None:
    """Do what `CompiledNeuron` does, in float64 torch operations; the measure of its self-check."""
    total = torch.zeros(spikes.shape[1:], dtype=torch.float64) if v is None else v.double()
    for step in range(len(spikes)):
        total += (current[step] if current.ndim == spikes.ndim else current) + bias[step]
        if projected is not None:
            total += projected[step]
        if source is not None and gain is not None:
            total += source[step] * gain
        fired = (total / threshold).floor_().clamp_(0, max_level)
        if emitted is not None:
            fired[(total < 0) & (emitted > 0)] = -1
            emitted += fired
        total -= fired * threshold
        spikes[step] = fired.to(torch.int8).view(torch.uint8) if emitted is not None else fired
    if v is not None:
        v.copy_(total)


def reproduces_torch(neuron: Neurons) -> bool:
    """Return whether a library reproduces `torch_neuron` on random and extreme inputs.

    Every kind of neuron and shortcut, whole and partial vectors, potentials up to 2**24 and values
    at their thresholds.
    """
    gen = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=gen).float()

    limits = itertools.cycle((1, 40, 2**20))
    cases = itertools.product(
        ("if", "signed", "graded", "counts"),
        ("none", "projected", "uint8", "int8"),
        ((3, 19), (70, 64)),
        (torch.float32, torch.float64),
    )
    for kind, shortcut, (pixels, channels), real in cases:
        limit = next(limits)
        steps = 1 if kind == "counts" else 3
        shape = (steps, 1, 1, pixels, channels)
        top = {"graded": 63, "counts": 255}.get(kind, 1)
        v = None if kind == "counts" else integers(-limit, limit, *shape[1:])
        emitted = integers(-1, 3, *shape[1:]) if kind == "signed" else None
        current = integers(-limit, limit + 1, *shape)
        current = current[0] if pixels == 3 else current
        projected = integers(-limit, limit, *shape) if shortcut == "projected" else None
        source = gain = None
        if shortcut in ("uint8", "int8"):
            low, high = (0, top + 1) if shortcut == "uint8" else (-1, 2)
            source = integers(low, high, *shape).to(getattr(torch, shortcut))
            gain = integers(-limit // 16, limit // 16 + 1, channels)
        bias, threshold = integers(-3, 4, steps, channels), integers(1, 9, channels)
        results = []
        current, bias, threshold = current.to(real), bias.to(real), threshold.to(real)
        projected, gain = (None if t is None else t.to(real) for t in (projected, gain))
        forms: tuple[Neurons, Neurons] = (neuron, torch_neuron)
        for run in forms:
            state = [None if t is None else t.to(real, copy=True) for t in (v, emitted)]
            spikes = torch.full(shape, 77, dtype=torch.uint8)
            fixed = (current, projected, source, gain, bias, threshold)
            run(state[0], state[1], *fixed, spikes, top)
            results.append([spikes, *(t for t in state if t is not None)])
        if not all(map(torch.equal, *results)):
            return False
    return True


class Library:
    """The compiled neurons of this process and how they came to be, or why there are none.

    Attributes:
        neuron: None while neurons run in torch operations.
        reason: why `neuron` is None.
    """

    def __init__(self) -> None:
        self.neuron: CompiledNeuron | None = None
        self.reason = "a run of some seconds builds it"
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._started: float | None = None
        self._builder: threading.Thread | None = None

    def ready(self, folder: Path) -> CompiledNeuron | None:
        """Return the compiled neurons if there are any yet; called for every window of a layer.

        A library in `folder` is loaded at the first call. Without one, the first call after
        `PATIENCE` seconds starts a build in the background, and the run goes on meanwhile: spikes
        are the same before and after.
        """
        if os.environ.get(SWITCH) == "torch":
            return None
        if self._folder != folder:
            with self._lock:
                if self._folder != folder:
                    self._started = time.monotonic()
                    self._load(folder)
                    self._builder, self._folder = None, folder
        if self.neuron is None and self._builder is None and self._started is not None:
            with self._lock:
                if self._builder is None and time.monotonic() - self._started > PATIENCE:
                    self._builder = threading.Thread(target=self._build, daemon=True)
                    self._builder.start()
        return self.neuron

    def build(self, folder: Path) -> CompiledNeuron | None:
        """Load the library in `folder`, or build it now; None with a `reason` if that fails."""
        with self._lock:
            self._folder = folder
            if not self._load(folder):
                self._build()
        return self.neuron

    def describe(self, folder: Path) -> str:
        """Return what runs the neurons on this CPU, for `zoo doctor`; builds nothing."""
        if os.environ.get(SWITCH) == "torch":
            return f"torch ({SWITCH}=torch)"
        neuron = self.ready(folder)
        if neuron is not None:
            return repr(neuron)
        missing = " (no C++ compiler: install g++ or clang++ to run faster)"
        return "torch" + (missing if _compiler() is None else f" ({self.reason})")

    def _load(self, folder: Path) -> bool:
        self.neuron = None
        for openmp in (True, False):
            path = library_path(folder, openmp)
            if path.is_file() and self._accept(path):
                return True
        return False

    def _accept(self, path: Path) -> bool:
        try:
            neuron = CompiledNeuron(path)
        except (OSError, AttributeError) as error:
            self.reason = f"the library does not load: {error}"
            return False
        if not reproduces_torch(neuron):
            self.reason = "the library fails its check against torch"
            return False
        self.neuron = neuron
        return True

    def _build(self) -> None:
        assert self._folder is not None
        for openmp in (True, False):  # Apple's compiler knows no -fopenmp
            try:
                if self._accept(build_library(self._folder, openmp)):
                    return
            except (OSError, Timeout, subprocess.SubprocessError) as error:
                self.reason = str(error).partition("\n")[0]


LIBRARY = Library()


def library_path(folder: Path, openmp: bool) -> Path:
    """Return where the library of this source, platform and flags is kept under `folder`."""
    key = [SOURCE.read_text(encoding="utf-8"), *_FLAGS, str(openmp), platform.machine()]
    digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]
    return folder / "neuron" / f"neuron-{sys.platform}-{digest}.so"


def build_library(folder: Path, openmp: bool) -> Path:
    """Compile the library into `folder`, whole or not at all, and return its path.

    Raises:
        OSError: there is no compiler, it fails, or `folder` cannot be written.
        Timeout: another process has built for `LIMIT` seconds.
        subprocess.SubprocessError: it took longer than `LIMIT` seconds.
    """
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C++ compiler")
    path = library_path(folder, openmp)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), timeout=LIMIT):
        if path.is_file():
            return path
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work, "neuron.o"), Path(work, path.name)
            threads = ["-fopenmp"] if openmp else []
            commands = [
                [compiler, *_FLAGS, *threads, "-c", str(SOURCE), "-o", str(made[0])],
                # Without -fopenmp: its calls stay open, for torch's runtime to answer.
                [compiler, "-shared", str(made[0]), "-o", str(made[1])],
            ]
            for command in commands:
                done = subprocess.run(
                    [*_nice(), *command], capture_output=True, text=True, timeout=LIMIT
                )
                if done.returncode:
                    lines = [line for line in done.stderr.splitlines() if "error" in line]
                    raise OSError(f"{compiler} fails: {next(iter(lines), done.returncode)}")
            made[1].replace(path)
    return path


def _compiler() -> str | None:
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _nice() -> list[str]:
    nice = shutil.which("nice")
    return [nice, "-n", "10"] if nice else []
