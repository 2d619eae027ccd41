"""Compile every shipped tile without a GPU: registers, spills, shared memory, tensor-core use.

    python -m benchmarks.aot                      # every tile of the table, sm_80, sm_90 and sm_100
    python -m benchmarks.aot --json > benchmarks/results/aot.json
    python -m benchmarks.aot --arch sm_86 --arch sm_89 --arch sm_120   # not in the table

An architecture that is not in the table gets the tiles of sm_80, as at run time: there a spill is
reported and no error. Another Triton is tried by `pip install --target DIR --no-deps triton==3.6.0`
and DIR in front on PYTHONPATH.
Tiles are chosen for 3.9, under which none spills (benchmarks/results/aot.json). Under 3.6 three of
sm_80 spill 16 bytes and three of sm_90 8 or 16 (benchmarks/results/aot-triton-3.6.json): a matter
of speed, which `benchmarks.tune` decides there.

A tile is compiled with exactly what the launcher would pass, for a layer of each kind of shortcut
that has its number of channels. `roof` is a model, not a measurement: see `modelled_roof`.
Tests take from the result file what was compiled from the same code for the same launch
(`Compiled.inputs`), and compile the rest; writing the file anew after a change keeps them quick.
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from zoo.kernels.spiking_conv import PackedMembrane, PackedSpikes, SpikingConv, SpikingLayer, launch
from zoo.kernels.spiking_conv.tiles import BUCKETS, Tile, choose, table
from zoo.networks.architectures import topology

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# Run with the tiles of sm_80, which nothing was chosen for.
UNTUNED = ("sm_86", "sm_89", "sm_120")
RESULTS = Path(__file__).parent / "results" / "aot.json"
# Names of the int8 tensor-core instruction in the machine code.
TENSOR_CORE = dict.fromkeys(("sm_80", *UNTUNED), "IMMA") | {
    "sm_90": "IGMMA",
    "sm_100": "UTCIMMA",
}


@dataclass(frozen=True)
class Case:
    """A layer to compile a tile for.

    Attributes:
        kind: "if", "signed", "multi-level" (of 4 bits) or "layerwise".
        inputs, channels: of the convolution.
    """

    kind: str
    inputs: int
    channels: int
    kernel: int
    shortcut: str

    @property
    def name(self) -> str:
        size = f"{self.kernel}x{self.kernel} {self.inputs}->{self.channels}"
        return f"{size} {self.shortcut} {self.kind}"


@dataclass(frozen=True)
class Compiled:
    """A compiled tile.

    Attributes:
        registers: of a thread.
        tensor_core: tensor-core instructions.
        staged: tiles of spikes that are written to shared memory and read back on their way to the
            tensor core, in the innermost loop.
        roof: modelled, 0 to 1; None for what is no H200 and has no tiles of its own.
        inputs: sha256 of all that the compiler was given, see `inputs_of`; "" in older files.
    """

    triton: str
    architecture: str
    case: str
    tile: dict[str, int]
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core: int
    staged: int
    roof: float | None
    inputs: str = ""


def cases(kind: str, bucket: int) -> list[Case]:
    """Return the layers a default tile serves, at the bucket's number of channels.

    Both kernel sizes and every shortcut.
    """
    wide = bucket if bucket < BUCKETS[-1] else 256
    kind, _, projection = kind.partition(" ")
    # Bottlenecks: the last convolution, and the first, which has no shortcut.
    last = [Case(kind, wide // 4, wide, 1, projection or "identity")] if bucket >= 64 else []
    if projection:
        return [Case(kind, wide, wide, 3, "projection"), *last]
    first = [Case(kind, 4 * wide, wide, 1, "none")] if bucket >= 64 else []
    plain = [Case(kind, wide, wide, 3, shortcut) for shortcut in ("none", "identity")]
    return [*plain, *last, *first]


def layer_of(case: Case) -> SpikingConv:
    """Return a layer of random integers; `signed` layers also read signed spikes."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)

    ones = torch.ones(case.channels, dtype=torch.int32)
    return SpikingConv(
        draw(case.channels, case.inputs, case.kernel, case.kernel),
        0 * ones[None].repeat(32, 1),
        100 * ones,
        50 * ones,
        padding=case.kernel // 2,
        neuron=case.kind if case.kind in ("signed", "multi-level") else "if",  # type: ignore[arg-type]
        bits=_bits(case),
        gain=100 * ones if case.shortcut == "identity" else None,
        projection=draw(case.channels, case.inputs, 1, 1)
        if case.shortcut == "projection"
        else None,
    )


def _bits(case: Case) -> int:
    return 4 if case.kind == "multi-level" else 1


class _Recorder:
    """Stand-in for the module of kernels that keeps what each was launched with."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Any]] = {}

    def __getattr__(self, kernel: str) -> Any:
        recorder = self

        class Launch:
            def __getitem__(self, grid: Any) -> Any:
                return lambda **arguments: recorder.calls.__setitem__(kernel, arguments)

        return Launch()


@contextmanager
def recorded() -> Iterator[_Recorder]:
    """Record launches of compiled kernels within the block instead of carrying them out."""
    recorder = _Recorder()
    with mock.patch.object(launch, "kernels", lambda interpret: recorder):
        yield recorder


def launch_of(case: Case, tile: Tile) -> tuple[str, dict[str, Any]]:
    """Return the kernel and the arguments with which the case runs under `tile`."""
    layer = SpikingLayer(layer_of(case), tile=tile)
    side, sets = 14, 2 if case.kind == "signed" else 1
    channels = case.channels if case.shortcut == "identity" else case.inputs
    with recorded() as recorder:
        if case.kind == "layerwise":
            x, source = (
                torch.zeros((2, side, side, c), dtype=torch.uint8) for c in (case.inputs, channels)
            )
            layer.count(x, None if case.shortcut == "none" else source, 32)
        else:
            x, source = (
                torch.zeros((sets, 4, 2, side, side, c), dtype=torch.uint8)
                for c in (case.inputs, channels)
            )
            bits = _bits(case)
            spikes = PackedSpikes(source, 32 // bits, bits)
            side_input = None if case.shortcut == "none" else spikes
            layer.run(PackedSpikes(x, 32 // bits, bits), side_input, PackedMembrane(), save=False)
    ((kernel, arguments),) = recorder.calls.items()
    return kernel, arguments


def build(architecture: str, kernel: str, arguments: dict[str, Any]) -> Any:
    """Compile a kernel for the launch with `arguments`; tensors are aligned to 16 bytes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(launch.kernels(False), kernel)
    types = {torch.uint8: "*u8", torch.int8: "*i8", torch.int32: "*i32"}
    signature, constants, aligned = {}, {}, {}
    for index, parameter in enumerate(function.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = types[value.dtype]
            aligned[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {name: value for name, value in arguments.items() if name not in signature}
    target = GPUTarget("cuda", int(architecture[3:]), 32)
    return triton.compile(source, target=target, options=options)


@functools.cache
def _code() -> str:
    """Return the kernels' code without comments, docstrings and places of lines."""
    text = ""
    for name in ("kernel", "primitives"):
        tree = ast.parse((Path(launch.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
                del node.body[0]
        text += ast.dump(tree)
    return text


def inputs_of(architecture: str, kernel: str, arguments: dict[str, Any]) -> str:
    """Return the sha256 of Triton's version, the kernels' code and what a launch passes."""
    given = {
        name: str(value.dtype) if isinstance(value, torch.Tensor) else repr(value)
        for name, value in arguments.items()
    }
    facts = [version("triton"), architecture, kernel, sorted(given.items()), _code()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def compiled(architecture: str, case: Case, tile: Tile) -> Compiled:
    """Return a tile of the result file that was compiled from the same, or compile it."""
    found = _known().get(inputs_of(architecture, *launch_of(case, tile)))
    return compile_tile(architecture, case, tile) if found is None else found


@functools.cache
def _known() -> dict[str, Compiled]:
    rows = [Compiled(**row) for row in json.loads(RESULTS.read_text())]
    return {row.inputs: row for row in rows if row.inputs}


def compile_tile(architecture: str, case: Case, tile: Tile) -> Compiled:
    """Compile one case for one architecture."""
    kernel, arguments = launch_of(case, tile)
    built = build(architecture, kernel, arguments)
    usage, code = inspect_cubin(built.asm["cubin"])
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert match is not None
    registers, stack = (int(number) for number in match.groups())
    return Compiled(
        version("triton"),
        architecture,
        case.name,
        asdict(tile),
        registers,
        stack,
        built.metadata.shared,
        len(re.findall(rf"\b{TENSOR_CORE[architecture]}", code)),
        staged_tiles(built.asm["ttgir"]),
        None if architecture in UNTUNED else modelled_roof(case, tile),
        inputs_of(architecture, kernel, arguments),
    )


def staged_tiles(ttgir: str) -> int:
    """Return how many register tiles Triton puts into shared memory.

    With a group of fewer timesteps than a byte holds, the shift that takes spikes out of a byte is
    a run-time value, and each timestep's spikes make this round trip: store, barrier, load. With a
    constant shift the bytes themselves come from shared memory once.
    """
    return len(re.findall(r"ttg\.local_alloc %", ttgir))


def inspect_cubin(cubin: bytes) -> tuple[str, str]:
    """Return cuobjdump's text on a cubin's resources, and its machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(  # type: ignore[return-value]
            subprocess.run(
                [tool, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for option in ("-res-usage", "-sass")
        )


def modelled_roof(case: Case, tile: Tile) -> float:
    """Return the share of an H200's int8 peak that a tile could reach.

    It assumes that each of these units works without waiting for the others. Cycles of one SM for
    eight timesteps of one tile: the tensor core at 4,096 multiply-adds; L2 at 24 bytes (5.5 TB/s
    over 132 SMs at 1.75 GHz) for packed inputs and weights, which every group of timesteps loads
    again; 64 integer lanes for two operations per four spikes unpacked and ten per neuron and
    timestep; shared memory at 128 bytes for the operands of the tensor core, and three times that
    for spikes that are staged (stored, and loaded in the operand's layout). The largest decides.
    """
    steps = 1 if case.kind == "layerwise" else 8
    groups = 1 if case.kind == "layerwise" else 8 // tile.group
    channels = min(tile.channels, case.channels)
    k = case.kernel**2 * case.inputs + (case.inputs if case.shortcut == "projection" else 0)
    useful = steps * tile.pixels * channels * k / 4096
    tensor = steps * tile.pixels * max(tile.channels, 16) * k / 4096
    sets = 2 if case.kind == "signed" else 1
    traffic = groups * k * (sets * tile.pixels + tile.channels) / 24
    unpack = (
        0 if case.kind == "layerwise" else steps * tile.pixels * k / 4 * (2 if sets == 1 else 6)
    )
    neurons = steps * tile.pixels * channels * (10 if sets == 1 else 18)
    bytes_held = 1 if case.kind == "layerwise" else 8 // (4 if case.kind == "multi-level" else 1)
    staged = case.kind != "layerwise" and tile.group < bytes_held
    shared = steps * k * (tile.pixels * (3 if staged else 1) / 128)
    shared += groups * k * tile.channels / 128
    return useful / max(tensor, traffic, (unpack + neurons) / 64, shared)


def modelled_network(arch: str, architecture: str) -> float:
    """Return `modelled_roof` of a whole network's fused layers, weighted by their multiply-adds.

    At 224 px, or 32 px for the CIFAR form.
    """
    net = topology(arch)
    sizes = net.sizes(*(224, 224) if net.halves_image else (32, 32))
    total = needed = 0.0
    for spec in net.layers[1:]:
        kind = spec.shortcut.kind if spec.shortcut else "none"
        case = Case("if", spec.in_channels, spec.out_channels, spec.kernel, kind)
        tile = choose(
            architecture, "if projection" if kind == "projection" else "if", spec.out_channels, ""
        )
        height, width = sizes[spec.name]
        work = height * width * spec.out_channels * spec.kernel**2 * spec.in_channels
        total += work
        needed += work / modelled_roof(case, tile)
    return total / needed


def shipped(architecture: str) -> Iterator[tuple[Case, Tile]]:
    """Yield every tile of the committed table with the layers to compile it for."""
    tiles = table().get(architecture) or table()["sm_80"]
    for kind in sorted(tiles.keys() - {"layers"}):
        for bucket, values in tiles[kind].items():
            for case in cases(kind, int(bucket)):
                yield case, Tile(**values)
    for key, values in tiles["layers"].items():
        kernel, inputs, channels, shortcut, kind = parse_key(key)
        yield Case(kind, inputs, channels, kernel, shortcut), Tile(**values)


def parse_key(key: str) -> tuple[int, int, int, str, str]:
    """Return kernel, input and output channels, shortcut and kind of a key of the tile table.

    Raises:
        ValueError: it is no such key.
    """
    match = re.fullmatch(r"(\d+)x\d+/\d+ (\d+)->(\d+) \d+x\d+ (\w+) ([\w-]+)", key)
    if match is None:
        raise ValueError(f"{key!r} is no key of the tile table")
    kernel, inputs, channels, shortcut, kind = match.groups()
    return int(kernel), int(inputs), int(channels), shortcut, kind


def main() -> None:
    """Run the command line; exit code 7 when a tile spills or does not use the tensor cores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHITECTURES + UNTUNED, action="append")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    for architecture in args.arch or ARCHITECTURES:
        for case, tile in shipped(architecture):
            result = compile_tile(architecture, case, tile)
            results.append(result)
            if not args.json:
                size = f"{tile.pixels}x{tile.channels}x{tile.depth} group {tile.group}"
                size += f", {tile.warps} warps"
                print(
                    f"{architecture:7}{result.case:42}{size:34}{result.registers:4} registers "
                    f"{result.spill_bytes:4} B spilt {result.shared_bytes / 1024:6.1f} KiB shared "
                    f"{result.tensor_core:3} {TENSOR_CORE[architecture]} {result.staged} staged "
                    + (
                        f"{100 * result.roof:5.1f} % of the int8 roof (modelled)"
                        if result.roof
                        else ""
                    ),
                    flush=True,
                )
        # The model's peak and bandwidth are an H200's.
        if architecture == "sm_90" and not args.json:
            for arch in ("resnet50", "resnet18", "resnet20", "resnet56"):
                share = 100 * modelled_network(arch, architecture)
                print(f"{architecture:7}{arch}: {share:.1f} % of the int8 roof (modelled)")
    if args.json:
        print("[\n" + ",\n".join(json.dumps(asdict(result)) for result in results) + "\n]")
    tuned = [result for result in results if result.architecture not in UNTUNED]
    if any(result.spill_bytes for result in tuned) or not all(r.tensor_core for r in results):
        print("error: a tile spills, or does without the tensor cores", file=sys.stderr)
        raise SystemExit(7)


if __name__ == "__main__":
    main()
