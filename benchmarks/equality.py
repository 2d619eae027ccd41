"""Compare the spikes of the fused kernels with the reference's, bit for bit.

Every layer, neuron and timestep, and every logit.

    python -m benchmarks.equality ARTIFACT... --data DATA [--images N] [--timesteps 32] \\
      --out FILE.json
    # Random weights, every neuron, T = 1, 8, 9, 32 and 40:
    python -m benchmarks.equality --random resnet50 --out FILE.json
    python -m benchmarks.equality s-resnet20-digits --data digits --images 4 --timesteps 9 \\
      --backend interpret --out FILE.json
    python -m benchmarks.equality s-resnet20-digits --data digits --images 1 --timesteps 8 \\
      --backend emulated --architecture sm_90 --out FILE.json

The reference is the torch backend on the CPU; the kernels run on the GPU, with `--backend
interpret` in Triton's interpreter, or with `--backend emulated` as the PTX that Triton compiles
them to for an architecture, in the emulator of tests/kernels/emulator. ARTIFACT is a folder or a
name of the zoo, DATA what `zoo eval --data` takes. Spikes are compared packed, chunk by chunk. On a
GPU the logits of a run without an observer, which is a CUDA graph, are compared as well. Results go
into FILE under a name for each run; runs that it has already and that are not made again stay. Exit
code 7 when anything differs.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UsageError, ZooError
from zoo.kernels.spiking_conv import PackedSpikes, SpikingConv, count, pack
from zoo.kernels.spiking_conv.reference import Neuron
from zoo.networks.architectures import topology
from zoo.networks.backends import Backend
from zoo.networks.run import Head
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE, Topology

ROOT = Path(__file__).resolve().parents[1]
RANDOM_STEPS = (1, 8, 9, 32, 40)
NEURONS: tuple[Neuron, ...] = ("if", "signed", "multi-level")


@dataclass
class Comparison:
    """One network run by the reference and by the kernels.

    Attributes:
        layers: spikes of the reference and differing (neuron, timestep) pairs of each layer
            (layerwise: counts and differing neurons).
        sha256: of all packed spikes, of the reference and of the kernels.
        seconds: of either, with observing and packing.
    """

    images: int = 0
    layers: dict[str, list[int]] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    logits_equal: bool = True
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def spikes(self) -> int:
        return sum(spikes for spikes, _ in self.layers.values())

    @property
    def differences(self) -> int:
        return sum(differences for _, differences in self.layers.values())

    @property
    def equal(self) -> bool:
        return (
            self.logits_equal
            and not self.differences
            and self.sha256["reference"] == self.sha256["kernels"]
        )


@torch.inference_mode()
def compare(
    reference: SpikingResNet, kernels: SpikingResNet, chunks: Iterable[Tensor], timesteps: int
) -> Comparison:
    """Run both on each chunk of uint8 images and compare everything, on the kernels' device."""
    result = Comparison(seconds={"reference": 0.0, "kernels": 0.0})
    hashes = {
        side: {name: hashlib.sha256() for name in reference.layers} for side in result.seconds
    }
    for images in chunks:
        spikes, logits = {}, {}
        for side, network in (("reference", reference), ("kernels", kernels)):
            started = time.perf_counter()
            spikes[side], logits[side] = _observed(network, images, timesteps, kernels.device)
            result.seconds[side] += time.perf_counter() - started
            for name, values in spikes[side].items():
                hashes[side][name].update(values.contiguous().cpu().numpy())
        for name, expected in spikes["reference"].items():
            total, differing = _totals(
                expected, spikes["kernels"][name], reference.schedule == "layerwise"
            )
            before = result.layers.get(name, [0, 0])
            result.layers[name] = [before[0] + total, before[1] + differing]
        result.logits_equal &= torch.equal(logits["reference"], logits["kernels"])
        if kernels.backend == "triton":
            alone = kernels.run(images, timesteps, chunk=len(images)).logits.cpu()
            result.logits_equal &= torch.equal(logits["reference"], alone)
        result.images += len(images)
    for side, by_layer in hashes.items():
        text = "".join(f"{name} {digest.hexdigest()}\n" for name, digest in by_layer.items())
        result.sha256[side] = hashlib.sha256(text.encode()).hexdigest()
    return result


def pair(
    network: SpikingResNet, device: str, backend: Backend
) -> tuple[SpikingResNet, SpikingResNet]:
    """Return the network on the torch backend where it is, and a copy on `device` and `backend`."""
    return network.with_backend("torch"), copy.deepcopy(network).to(device).with_backend(backend)


def _observed(
    network: SpikingResNet, images: Tensor, timesteps: int, where: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    """Return every layer's spikes on `where`, and all logits.

    Spikes are uint8 planes `[S, P, B, H, W, C]` (layerwise: counts `[B, H, W, C]`).
    """
    parts: dict[str, list[Tensor]] = {}

    def keep(name: str, spikes: Tensor) -> None:
        spikes = spikes.to(where)
        if spikes.ndim == 4:
            planes = spikes.permute(0, 2, 3, 1).contiguous()[None, None]
        else:
            signed = network.layers[name].neuron == "signed"
            planes = pack(spikes, signed, network.layers[name].bits).planes
        parts.setdefault(name, []).append(planes)

    # Windows differ between backends and are multiples of 8, so that their planes line up.
    logits = network.run(images, timesteps, chunk=len(images), on_spikes=keep).logits.cpu()
    return {name: torch.cat(planes, 1) for name, planes in parts.items()}, logits


def _totals(expected: Tensor, got: Tensor, counts: bool) -> tuple[int, int]:
    if expected.shape != got.shape:
        return int(expected.count_nonzero()), expected.numel()
    if counts:
        return int(expected.sum(dtype=torch.int64)), int((expected != got).sum())
    differing = (
        (expected ^ got).amax(0, keepdim=True)
        if len(expected) == 1
        else (expected[:1] ^ got[:1]) | (expected[1:] ^ got[1:])
    )
    steps = 8 * expected.shape[1]
    return tuple(
        int(count(PackedSpikes(planes, steps)).sum(dtype=torch.int64))
        for planes in (expected, differing)
    )  # type: ignore[return-value]


def random_network(
    net: Topology,
    *,
    neuron: Neuron = "if",
    schedule: Literal["causal", "layerwise"] = "causal",
    seed: int = 0,
) -> SpikingResNet:
    """Return an integer network of random numbers whose layers all fire.

    Weights are normal with a standard deviation of 32, like rounded trained ones, so that
    potentials are as small as theirs and the reference runs in float32 where it does for them.
    Spikes of a multi-level network have 4 bits.
    """
    gen, bits = torch.Generator().manual_seed(seed), 4 if neuron == "multi-level" else 1

    def weights(*shape: int) -> Tensor:
        return (32 * torch.randn(shape, generator=gen)).round_().clamp_(-127, 127).to(torch.int8)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=gen).to(torch.int32)

    layers = {}
    if any(pool.kind == "average" for pool in net.pools):
        raise UsageError(
            f"{net.arch} has hidden layers behind an average: convert one that has none"
        )
    for spec in net.layers:
        stem, c, inputs = spec.source == IMAGE, spec.out_channels, spec.in_channels // spec.groups
        size = int(32 * (inputs * spec.kernel**2) ** 0.5 * (300 if stem else 1))
        gain = projection = None
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            kernel = spec.shortcut.kernel
            projection = weights(c, net.channels[spec.shortcut.source], kernel, kernel)
        elif spec.shortcut is not None:
            gain = draw(size // 4, size // 2, c)
        threshold = draw(size // 2, 3 * size // 2, c)
        layers[spec.name] = SpikingConv(
            weights(c, inputs, spec.kernel, spec.kernel),
            draw(-size // 20, size // 10, 32, c),
            threshold,
            threshold // 2,
            spec.stride,
            spec.padding,
            neuron,
            gain,
            projection,
            spec.shortcut.stride if spec.shortcut else 1,
            spec.shortcut.pad if spec.shortcut else 0,
            spec.max_pool,
            input_bound=512 if stem else 2**bits - 1,
            source_bound=2**bits - 1,
            bits=bits,
            groups=spec.groups,
            shortcut_padding=spec.shortcut.padding if spec.shortcut else 0,
        )
    head = Head(
        weights(net.num_classes, net.features),
        torch.rand(net.num_classes, generator=gen) + 0.01,
        torch.randn(net.num_classes, generator=gen),
    )
    table = draw(-512, 512, net.in_channels, 256).to(torch.int16)
    return SpikingResNet(net, layers, head, table, schedule=schedule)


def random_images(batch: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Return random images, uint8 `[B, C, side, side]`."""
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, side, side), generator=gen, dtype=torch.uint8)


def random_spikes(
    shape: Sequence[int], timesteps: int, signed: bool, device: torch.device, seed: int
) -> PackedSpikes:
    """Return packed spikes `[B, H, W, C]` of which an eighth is not zero."""
    gen = torch.Generator(device).manual_seed(seed)
    planes = -(-timesteps // 8)

    def bits() -> Tensor:
        return torch.randint(
            0, 256, (1, planes, *shape), generator=gen, device=device, dtype=torch.uint8
        )

    up = bits() & bits() & bits()
    packed = torch.cat([up, bits() & bits() & bits() & ~up]) if signed else up
    if timesteps % 8:
        packed[:, -1] &= (1 << timesteps % 8) - 1
    return PackedSpikes(packed, timesteps)


def facts() -> dict[str, str]:
    """Return what a figure depends on.

    GPU and driver, versions, commit and a hash of the code that ran.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "gpu": gpu,
        "driver": (_output(query) or "unknown").splitlines()[0] if gpu != "none" else "none",
        "torch": torch.__version__,
        "triton": installed("triton"),
        "python": platform.python_version(),
        "commit": commit(),
        "sources": sources(),
    }


def commit() -> str:
    """Return the checkout's commit, with `-dirty` where tracked files differ.

    A copy without git has it in SPIKING_ZOO_COMMIT.
    """
    described = _output(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    )
    return described or os.environ.get("SPIKING_ZOO_COMMIT", "unknown")


def sources(*patterns: str) -> str:
    """Return sha256, 16 digits, over the files at these patterns.

    By default over what runs a network, with the table of tiles.
    """
    digest = hashlib.sha256()
    for pattern in patterns or (
        "zoo/networks/*.py",
        "kernels/**/*.py",
        "kernels/**/*.json",
    ):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def installed(package: str) -> str:
    """Return the version of an installed package, or "none"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def write(path: Path, text: str) -> None:
    """Replace the file at once, so that a run that is cut off leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@dataclass
class _Task:
    name: str
    network: SpikingResNet
    chunks: Iterable[Tensor]
    timesteps: int
    about: dict[str, Any]


def _artifact_tasks(args: argparse.Namespace) -> Iterator[_Task]:
    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.data.open import open_images
    from zoo.models import registry
    from zoo.networks.preprocess import Preprocess

    images = open_images(args.data, "test")
    images = images if args.images is None else images.take(args.images, None)
    for name_or_path in args.artifact:
        folder = registry.resolve(name_or_path)
        config, tensors = read_artifact(folder)
        for steps in args.timesteps or (32,):
            chunks = (batch for batch, _ in images.batches(Preprocess.of(config), args.chunk))
            about = {
                "weights_sha256": config.weights_sha256,
                "data": images.description,
                "data_sha256": images.sha256(),
            }
            name = f"{folder.resolve().name} T={steps} data {images.sha256()[:12]}"
            yield _Task(name, network_of(config, tensors), chunks, steps, about)


def _random_tasks(args: argparse.Namespace) -> Iterator[_Task]:
    cifar = topology(args.random).shortcut != "B"  # its default; the ImageNet form always projects
    side = args.size or (32 if cifar else 224)
    for shortcut in ("A", "B") if cifar else ("B",):
        net = topology(args.random, shortcut=shortcut)  # type: ignore[arg-type]
        for schedule, neuron in (*(("causal", neuron) for neuron in NEURONS), ("layerwise", "if")):
            network = random_network(net, neuron=neuron, schedule=schedule)  # type: ignore[arg-type]
            for steps in args.timesteps or RANDOM_STEPS:
                images = random_images(args.images or 2, net.in_channels, side, seed=steps)
                name = (
                    f"random {args.random} shortcut {shortcut} {neuron} {schedule} "
                    f"T={steps} {side} px"
                )
                yield _Task(name, network, images.split(args.chunk), steps, {})


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", nargs="*", help="folders or names of the zoo")
    parser.add_argument("--data", help="test images")
    parser.add_argument("--random", metavar="ARCH", help="a network of random weights instead")
    parser.add_argument("--size", type=int, help="side of the random images; 32 or 224 otherwise")
    parser.add_argument(
        "--images", type=int, help="how many; all of DATA, or 2 random ones, otherwise"
    )
    parser.add_argument("--timesteps", type=numbers, help="one or several with commas")
    parser.add_argument("--chunk", type=int, default=64, help="images that run together")
    backends = ("triton", "interpret", "emulated")
    parser.add_argument("--backend", choices=backends, default="triton")
    parser.add_argument("--architecture", default="sm_90", help="of what is emulated")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if bool(args.random) == bool(args.artifact) or (args.artifact and not args.data):
        parser.error("give ARTIFACTs with --data, or --random ARCH")
    try:
        tasks = _random_tasks(args) if args.random else _artifact_tasks(args)
        equal = _run(tasks, args.backend, args.out, args.architecture)
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    if not equal:
        print(
            f"error: the kernels' spikes differ from the reference's: see {args.out}",
            file=sys.stderr,
        )
        raise SystemExit(7)


def _run(tasks: Iterable[_Task], backend: str, out: Path, architecture: str) -> bool:
    """Carry the tasks out, writing the report after each; return whether every one was equal."""
    if backend == "triton" and not torch.cuda.is_available():
        raise UsageError(
            "backend triton needs a CUDA GPU, and there is none here: pass --backend interpret"
        )
    report: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    equal = True
    for task in tasks:
        device = "cuda" if backend == "triton" else "cpu"
        with _emulation(backend, architecture) as about:
            chosen: Backend = "triton" if backend == "triton" else "interpret"
            reference, kernels = pair(task.network, device, chosen)
            result = compare(reference, kernels, task.chunks, task.timesteps)
        equal &= result.equal
        if about:
            task.name += f" {architecture}"
        report["runs"][task.name] = {
            "equal": result.equal,
            "images": result.images,
            "timesteps": task.timesteps,
            "backend": backend,
            "spikes": result.spikes,
            "differences": result.differences,
            "logits_equal": result.logits_equal,
            "sha256": result.sha256,
            "seconds": result.seconds,
            **task.about,
            **about,
            **facts(),
            "command": command("equality"),
            "layers": {
                name: {"spikes": s, "differences": d} for name, (s, d) in result.layers.items()
            },
        }
        report["equal"] = all(run["equal"] for run in report["runs"].values())
        write(out, json.dumps(report, indent=1) + "\n")
        print(
            f"{'equal ' if result.equal else 'DIFFER'} {task.name}: {result.images} images, "
            f"{result.spikes:,} spikes, {result.differences:,} differ, "
            f"logits {'equal' if result.logits_equal else 'differ'}; "
            f"reference {result.seconds['reference']:.1f} s, "
            f"{backend} {result.seconds['kernels']:.1f} s",
            flush=True,
        )
    return equal


@contextmanager
def _emulation(backend: str, architecture: str) -> Iterator[dict[str, Any]]:
    """Emulate within the block, if that is the backend; yields what to report of it."""
    if backend != "emulated":
        yield {}
        return
    from tests.kernels.emulator.launch import Emulator

    emulator = Emulator(architecture)
    about: dict[str, Any] = {"architecture": architecture, "copies": emulator.copies}
    with emulator.networks():
        yield about
    about.update(emulator.tally)


def command(module: str) -> str:
    """Return how this process was started, without the folders that exist on one machine alone."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{module}", *words])


def numbers(text: str) -> tuple[int, ...]:
    """Parse positive integers with commas between them."""
    values = tuple(int(part) for part in text.split(","))
    if min(values) < 1:
        raise ValueError(text)
    return values


if __name__ == "__main__":
    main()
