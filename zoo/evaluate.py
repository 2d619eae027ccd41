"""Measuring an artifact: accuracy at every timestep beside the ANN's, firing rates, synaptic operations, speed and memory."""

from __future__ import annotations

import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from zoo import __version__, artifact
from zoo.build import image_table
from zoo.checkpoint import Checkpoint, find_source, read_checkpoint
from zoo.config import Config
from zoo.data import ImageSet, Preprocess
from zoo.datasets import identify
from zoo.energy import dense_macs, footprint, modelled_energy, spiking_operations
from zoo.errors import UsageError
from zoo.network import look_up
from zoo.packed import Backend
from zoo.resnet import ann_forward

Progress = Callable[[str, int, int], None]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataFacts(_Model):
    """What was measured on; `sha256` is over pixels and labels, `dataset` the name of `zoo.datasets` it is a whole split of."""

    description: str
    dataset: str | None
    sha256: str
    images: int


class AnnFacts(_Model):
    """The ANN's top-1 accuracy in percent on the same images, and the file it came from."""

    top1: float
    source: str


class Row(_Model):
    """One number of timesteps.

    top1 in percent with its 95 % Wilson interval; firing_rate in spikes per neuron and timestep; operations per image;
    energy_nj per image, modelled at 45 nm (`zoo.energy`).
    """

    timesteps: int
    top1: float
    interval95: tuple[float, float]
    firing_rate: float
    effective_acs: float
    effective_macs: float
    energy_nj: dict[str, float]


class LayerRow(_Model):
    """Firing rate of one layer, in spikes per neuron and timestep, by number of timesteps."""

    name: str
    neurons: int
    firing_rate: dict[int, float]


class Evaluation(_Model):
    """Everything one evaluation measured, and the config of what was measured; `eval.json` is its dump, and makes a card alone.

    images_per_second is the time for the longest run alone (causal), memory the process's peak (on a GPU, the GPU's).
    """

    name: str
    arch: str
    method: str
    neuron: str
    schedule: str
    numerics: str
    weights_sha256: str
    data: DataFacts
    ann: AnnFacts | None
    rows: list[Row]
    layers: list[LayerRow]
    activation_sparsity: float
    footprint_bytes: int
    artifact_bytes: int
    images_per_second: dict[int, float]
    peak_memory_bytes: int
    seconds: float
    device: str
    backend: str = "torch"
    versions: dict[str, str]
    command: str
    config: Config


def preprocess_of(config: Config) -> Preprocess:
    """How images become this artifact's input."""
    made = config.preprocess
    return Preprocess(made.input_size, made.resize, made.interpolation)


def evaluate(
    folder: str | Path, images: ImageSet, timesteps: Sequence[int], *, batch_size: int = 128,
    ann: str | Path | None = None, device: str = "cpu", backend: Backend = "auto", progress: Progress | None = None,
) -> Evaluation:  # fmt: skip
    """Measures the artifact at `folder` on labelled images.

    A causal network runs once, to the largest of `timesteps`; that run gives every smaller one. A layerwise network runs once
    each.

    Args:
        ann: the checkpoint it was converted from; without it, the file that `zoo convert` read, where it is still in its place.
        backend: as in `zoo.load`.
        progress: called with a stage, images done and images in all.

    Raises:
        UsageError: no labels, labels the network has no class for, timesteps < 1, images of the wrong size, an `ann` that is not
            the checkpoint the config names, or a backend that cannot run here.
    """
    started = time.perf_counter()
    config, tensors = artifact.read(folder)
    network = artifact.network_of(config, tensors).to(device).with_backend(backend)
    on_gpu = network.device.type == "cuda"
    wanted = sorted(set(timesteps))
    if not wanted or wanted[0] < 1:
        raise UsageError(f"timesteps must be 1 or more, not {list(timesteps)}: name some, such as 8,16,32")
    if len(images) == 0 or images.labels.min() < 0 or images.labels.max() >= config.num_classes:
        raise UsageError(
            f"{images.description}: labels must be 0 to {config.num_classes - 1} for {config.arch} with "
            f"{config.num_classes} classes: give a labelled test set with --data"
        )
    prep = preprocess_of(config)
    source = _ann_checkpoint(config, ann)

    correct = dict.fromkeys(wanted, 0)
    spikes: dict[int, dict[str, Tensor]] = {}
    active = torch.zeros(config.preprocess.input_size, dtype=torch.int64)
    runs = wanted if config.schedule == "layerwise" else wanted[-1:]
    seconds = dict.fromkeys(runs, 0.0)
    ann_correct = done = 0
    for batch, labels in images.batches(prep, batch_size):
        for run_to in runs:
            marks = [run_to] if config.schedule == "layerwise" else wanted
            begun = time.perf_counter()
            run = network.run(batch, run_to, snapshots=marks)
            if on_gpu:
                torch.cuda.synchronize()
            seconds[run_to] += time.perf_counter() - begun
            for mark in marks:
                logits = run.logits[-1] if config.schedule == "layerwise" else run.logits[mark - 1]
                correct[mark] += int((logits.argmax(1).cpu() == labels).sum())
                _accumulate(spikes.setdefault(mark, {}), run.spikes[mark])
        active += (network.pixels(batch.to(network.device)) != 0).sum(0).cpu()
        if source is not None:
            ann_correct += int((_ann_logits(source, config, batch).argmax(1) == labels).sum())
        done += len(labels)
        if progress is not None:
            progress("evaluating", done, len(images))

    count = len(images)
    height, width = config.preprocess.input_size[1:]
    ann_macs = dense_macs(network, height, width)
    rows = []
    for mark in wanted:
        operations = spiking_operations(network, spikes[mark], count, active)
        rows.append(
            Row(
                timesteps=mark, top1=100 * correct[mark] / count, interval95=wilson(correct[mark], count),
                firing_rate=_rate(spikes[mark].values(), count * mark),
                effective_acs=operations.acs, effective_macs=operations.macs,
                energy_nj=modelled_energy(operations.acs, operations.macs, ann_macs, mark),
            )
        )  # fmt: skip
    layers = [
        LayerRow(
            name=spec.name, neurons=spikes[wanted[-1]][spec.name].numel(),
            firing_rate={mark: _rate([spikes[mark][spec.name]], count * mark) for mark in wanted},
        )
        for spec in network.net.layers
    ]  # fmt: skip
    return Evaluation(
        name=Path(folder).resolve().name, arch=config.arch, method=config.method.name, neuron=config.neuron,
        schedule=config.schedule, numerics=config.numerics, weights_sha256=config.weights_sha256,
        data=DataFacts(
            description=images.description, dataset=identify(images), sha256=images.sha256(), images=count
        ),
        ann=None if source is None else AnnFacts(top1=100 * ann_correct / count, source=config.source.name),
        rows=rows, layers=layers, activation_sparsity=1 - rows[-1].firing_rate, footprint_bytes=footprint(network),
        artifact_bytes=sum((Path(folder) / name).stat().st_size for name in (artifact.CONFIG, artifact.WEIGHTS)),
        images_per_second={run_to: count / seconds[run_to] for run_to in runs},
        peak_memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else _peak_memory(),
        seconds=time.perf_counter() - started, device=device, backend=network.backend,
        versions=versions(network.backend, device), command="", config=config,
    )  # fmt: skip


def _ann_checkpoint(config: Config, given: str | Path | None) -> Checkpoint | None:
    path = Path(given) if given is not None else find_source(config.source.sha256)
    if path is None:
        return None
    found = read_checkpoint(path, config.arch, shortcut=config.shortcut, stride_in=config.stride_in)
    if found.sha256 != config.source.sha256:
        raise UsageError(f"{path} is not {config.source.name}, which this network was converted from: sha256 differs")
    params = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in found.params.items()
    }
    return Checkpoint(found.net, params, found.name, found.sha256)


@torch.inference_mode()
def _ann_logits(source: Checkpoint, config: Config, batch: Tensor) -> Tensor:
    table = image_table(config.preprocess.mean, config.preprocess.std, integer=False)
    return ann_forward(source.net, source.params, look_up(table, batch))


def _accumulate(total: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    for name, spikes in part.items():
        total[name] = total[name] + spikes.cpu() if name in total else spikes.cpu()


def _rate(layers: Iterable[Tensor], runs: int) -> float:
    totals = [(layer.sum().item(), layer.numel()) for layer in layers]
    return sum(spikes for spikes, _ in totals) / (sum(neurons for _, neurons in totals) * runs)


def wilson(correct: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share, in percent (Wilson 1927)."""
    share = correct / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 100 / (1 + z * z / count)
    return max(0.0, (middle - spread) * scale), min(100.0, (middle + spread) * scale)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def versions(backend: str = "torch", device: str = "cpu") -> dict[str, str]:
    """What a figure depends on: zoo, Python, torch, processor and threads; triton and the GPU where they took part."""
    found = {
        "spiking-zoo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if backend != "torch":
        found["triton"] = version("triton")
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found
