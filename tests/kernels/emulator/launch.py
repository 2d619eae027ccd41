"""Stands in for the kernels' launcher: compiles with Triton for an architecture and emulates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch

from zoo.kernels.spiking_conv import launch
from zoo.networks import fused

from .memory import Copies, Segment
from .program import Program
from .ptx import EmulationError, parse

ARCHITECTURES = ("sm_80", "sm_90")
TRITON = "3.9"
_TYPES = {torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32"}


def why_not() -> str:
    """Return why kernels cannot be emulated here, or nothing.

    Another Triton writes other PTX. What it uses of the table would be emulated and the rest
    refused, but nobody has looked at what its instructions are ordered by; so the version that is
    installed must be the one this was made for.
    """
    try:
        installed = version("triton")
    except PackageNotFoundError:
        return f"needs triton {TRITON}"
    if installed.split(".")[:2] != TRITON.split("."):
        return f"the emulator is made for the PTX of triton {TRITON}, not {installed}"
    return ""


class Emulator:
    """The module of kernels, of which each launch is emulated on the CPU's tensors.

    Args:
        architecture: for which kernels are compiled, one of `ARCHITECTURES`.
        copies: when asynchronous copies arrive.
        checks: whether shared memory is checked.

    Attributes:
        programs: every kernel so far, by what it was compiled for.
        tally: launches and compiled kernels.

    Raises:
        EmulationError: another Triton is installed, or an argument is not known.
    """

    def __init__(self, architecture: str, copies: Copies = "poisoned", checks: bool = True) -> None:
        if why_not():
            raise EmulationError(why_not())
        if architecture not in ARCHITECTURES:
            raise EmulationError(f"{architecture} is not emulated: only {ARCHITECTURES} are")
        if copies not in get_args(Copies):
            raise EmulationError(f"copies arrive {get_args(Copies)}, not {copies!r}")
        self.architecture, self.copies, self.checks = architecture, copies, checks
        self.programs: dict[Any, Program] = {}
        self.tally: Counter[str] = Counter()

    def __getattr__(self, kernel: str) -> Any:
        return _Launches(self, kernel)

    @contextmanager
    def installed(self) -> Iterator[Emulator]:
        """Emulate what the launcher takes for compiled kernels, within the block."""
        real = launch.kernels

        def kernels(interpret: bool) -> Any:
            return real(True) if interpret else self

        with (
            mock.patch.object(launch, "kernels", kernels),
            mock.patch.object(launch, "architecture", lambda device: self.architecture),
        ):
            yield self

    @contextmanager
    def networks(self) -> Iterator[Emulator]:
        """Emulate networks on the backend `interpret` that run first within the block."""
        real = fused.FusedLayers

        def layers(*arguments: Any, interpret: bool, **more: Any) -> fused.FusedLayers:
            return real(*arguments, interpret=False, **more)

        with self.installed(), mock.patch.object(fused, "FusedLayers", layers):
            yield self

    def program(self, kernel: str, arguments: dict[str, Any]) -> Program:
        """Return the kernel compiled for a launch with these arguments."""
        key = (kernel, *(_specialized(name, value) for name, value in arguments.items()))
        if key not in self.programs:
            text, shared_bytes = compile_ptx(self.architecture, kernel, arguments)
            self.programs[key] = Program(parse(text), shared_bytes)
            self.tally["compiled"] += 1
        return self.programs[key]


class _Launches:
    """`kernel[grid](**arguments)` as Triton has it."""

    def __init__(self, emulator: Emulator, kernel: str) -> None:
        self.emulator, self.kernel = emulator, kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(**arguments: Any) -> None:
            emulator = self.emulator
            program = emulator.program(self.kernel, arguments)
            values = [arguments[name] for name in _run_time(self.kernel)]
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            emulator.tally["launches"] += 1
            program.run(
                grid,
                [
                    np.uint64(value.data_ptr())
                    if isinstance(value, torch.Tensor)
                    else np.uint32(value & 0xFFFFFFFF)
                    for value in values
                ],
                [Segment.of(tensor) for tensor in tensors if tensor.numel()],
                copies=emulator.copies,
                checks=emulator.checks,
            )

        return run


def compile_ptx(architecture: str, kernel: str, arguments: dict[str, Any]) -> tuple[str, int]:
    """Return the PTX that Triton writes for a launch, and the bytes of shared memory.

    It stops there: no machine code is made of it. Triton keeps the result in its cache.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(_compiled(), kernel)
    signature, constants, aligned = {}, {}, {}
    for index, parameter in enumerate(function.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                aligned[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {name: value for name, value in arguments.items() if name not in signature}
    target = GPUTarget("cuda", int(architecture[3:]), 32)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.add_stages_inspection_hook = _no_machine_code
        built = triton.compile(source, target=target, options=options)
    return built.asm["ptx"], built.metadata.shared


def _no_machine_code(backend: Any = None, stages: Any = None, *rest: Any) -> Any:
    """Triton's hook: without arguments the key of its cache, else a change of the stages."""
    if stages is None:
        return "PTX only", "PTX only"
    stages["cubin"] = lambda text, metadata: b""
    return None


# `launch.kernels` itself, whatever stands in for it later.
_kernels = launch.kernels


def _compiled() -> Any:
    return _kernels(False)


def _run_time(kernel: str) -> list[str]:
    """Return the names of a kernel's parameters that are no constants, in order."""
    parameters = getattr(_compiled(), kernel).params
    return [parameter.name for parameter in parameters if not parameter.is_constexpr]


def _specialized(name: str, value: Any) -> tuple[Any, ...]:
    """Return what of an argument changes the compiled kernel."""
    if isinstance(value, torch.Tensor):
        return name, value.dtype, value.data_ptr() % 16 == 0
    return (name, value) if name.isupper() or name.startswith(("num_", "enable_")) else (name,)
