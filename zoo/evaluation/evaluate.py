"""Measuring an artifact beside its ANN.

Accuracy at every timestep, firing rates, synaptic operations, speed and memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo import distributed
from zoo.artifact.config import CONFIG, MAX_TIMESTEPS, WEIGHTS, Config
from zoo.artifact.folder import read_artifact
from zoo.artifact.results import AnnFacts, ClassRow, DataFacts, Evaluation, LayerRow, Row, wilson
from zoo.artifact.tensors import network_of
from zoo.data.datasets import Terms, identify
from zoo.data.images import ImageSet
from zoo.data.rule import LabelRule
from zoo.environment import peak_memory, versions
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.evaluation.energy import (
    count_operations,
    footprint,
    macs_by_bits,
    modelled_energy,
    per_image,
    whole_numbers,
)
from zoo.evaluation.tally import TOP, Hits, Tally, load_state, save_state
from zoo.networks.backends import Backend
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ann_forward
from zoo.networks.spiking import SpikingResNet
from zoo.pretrained.checkpoint import Checkpoint, find_source, read_checkpoint
from zoo.pretrained.sources import find_checkpoint
from zoo.pretrained.state import Weights
from zoo.progress import Progress

# Seconds between two state files.
_STORE_EVERY = 10.0

# Of one part of a batch: 512 images of 32 x 32, 10 of 224 x 224 (0.4 GB).
_ANN_PIXELS = 2**19

# Batches of each process that are run once more to be timed, on a GPU.
_TIMED_BATCHES = 4


def evaluate(
    folder: str | Path,
    images: ImageSet,
    timesteps: Sequence[int],
    *,
    batch_size: int = 128,
    ann: str | Path | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    labels: LabelRule = "auto",
    on_bad_image: Literal["stop", "skip"] = "stop",
    state: str | Path | None = None,
    terms: Terms | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the artifact at `folder` on labelled images.

    A causal network runs once, to the largest of `timesteps`; that run gives every smaller one. A
    layerwise network runs once for each. Under torchrun the batches are shared out, and every
    process returns the figures of all (`zoo.distributed`).

    On the CPU `images_per_second` is the speed of the runs that are measured. On a GPU those are
    slowed by the statistics they gather, and the first by compiling; there it is the speed of runs
    that give logits alone, warm, of each process's first batches.

    Args:
        ann: the checkpoint the artifact was converted from, as `zoo.pretrained.sources` takes it;
            without it, the file that `zoo.convert` read, where it is still in its place.
        backend: as in `zoo.load`.
        labels: how the labels become the network's, as `ImageSet.for_classes` takes it.
        on_bad_image: "skip" leaves out images that cannot be decoded, which takes a pass over all
            of them before; the description of the data then counts and names them.
        state: a file that keeps what is counted, and where it exists says where to go on; the
            figures are those of a run that was never stopped. It is removed at the end. Under
            torchrun each process has its own, with its number behind the name.
        terms: name, source and licence of the images, for the card; default: those of the data set
            that they are a whole split of, if they are.
        progress: called with a stage, images done and images in all (of this process).

    Raises:
        UsageError: no labels, labels the network has no class for, timesteps < 1, images of the
            wrong size, an `ann` that is not the checkpoint the config names, a backend that cannot
            run here, or a state of another evaluation.
        IntegrityError: the state file is none.
    """
    started = time.perf_counter()
    config, tensors = read_artifact(folder)
    network = network_of(config, tensors).to(device).with_backend(backend)
    steps = sorted(set(timesteps))
    if not steps or steps[0] < 1 or steps[-1] > MAX_TIMESTEPS:
        raise UsageError(
            f"timesteps must be 1 or more and at most {MAX_TIMESTEPS}, not {list(timesteps)}: name "
            "some, such as 8,16,32"
        )
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is too small: use 1 or more")
    if on_bad_image not in ("stop", "skip"):
        raise UsageError(f"unknown on_bad_image {on_bad_image!r}: use stop or skip")
    images = images.for_classes(config.num_classes, config.class_names, labels)
    if len(images) == 0 or images.labels.min() < 0 or images.labels.max() >= config.num_classes:
        raise UsageError(
            f"{images.description}: labels must be 0 to {config.num_classes - 1} for {config.arch} "
            f"with {config.num_classes} classes: give a labelled test set with `images`"
        )
    source = _ann_checkpoint(config, ann)
    ranks = distributed.current_ranks()
    if on_bad_image == "skip":
        images = _readable(images, ranks, progress)
    # One process reads all images for their hash, not each.
    texts = ranks.exchange(
        f"{images.sha256() if ranks.first else ''} {'without' if source is None else 'with'}"
    )
    sha256 = texts[0].partition(" ")[0]
    if len({text.partition(" ")[2] for text in texts}) > 1:
        raise UsageError(
            "the ANN is not at hand for every process: pass `ann` with a path that all of them have"
        )
    about = {
        "weights": config.weights_sha256,
        "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
        "images": sha256,
        "timesteps": steps,
        "batch size": batch_size,
        "ann": None if source is None else source.sha256,
        "process": f"{ranks.rank} of {ranks.world}",
    }
    if state is not None and ranks.world > 1:
        state = Path(state).with_name(f"{Path(state).name}.{ranks.rank}-of-{ranks.world}")
    mine = _count(
        network,
        config,
        images,
        source,
        steps,
        about,
        batch_size=batch_size,
        ranks=ranks,
        state=None if state is None else Path(state),
        progress=progress,
    )
    mine.memory = (
        torch.get_device_module(network.device).max_memory_allocated(network.device)
        if _on_gpu(network)
        else peak_memory()
    )
    tally = Tally.total(
        [Tally.model_validate_json(part) for part in ranks.exchange(mine.model_dump_json())]
    )
    if state is not None:
        Path(state).unlink(missing_ok=True)

    count = len(images)
    height, width = config.preprocess.input_size[1:]
    ann_macs = macs_by_bits(network, height, width)
    neurons = _neurons(network, height, width)
    rows = []
    for step in steps:
        snapshot = tally.snapshots[step]
        operations = per_image(network, snapshot.operations, count)
        rows.append(
            Row(
                timesteps=step,
                top1=100 * snapshot.hits.top1 / count,
                interval95=wilson(snapshot.hits.top1, count),
                top5=_top5(config, snapshot.hits, count),
                firing_rate=sum(snapshot.spikes.values()) / (sum(neurons.values()) * count * step),
                effective_acs=operations.acs,
                effective_macs=operations.macs,
                energy_nj=modelled_energy(operations.acs, operations.macs, ann_macs, step),
            )
        )
    layers = [
        LayerRow(
            name=name,
            neurons=size,
            firing_rate={
                step: tally.snapshots[step].spikes[name] / (size * count * step) for step in steps
            },
            operations={step: tally.snapshots[step].operations[name] / count for step in steps},
        )
        for name, size in neurons.items()
    ]
    return Evaluation(
        name=Path(folder).resolve().name,
        arch=config.arch,
        method=config.method.name,
        neuron=config.neuron,
        schedule=config.schedule,
        numerics=config.numerics,
        weights_sha256=config.weights_sha256,
        data=DataFacts(
            description=f"{images.description}; labels {images.matched}",
            dataset=identify(images) if ranks.first else None,
            sha256=sha256,
            images=count,
            **(vars(terms) if terms is not None else {}),
        ),
        ann=None
        if source is None
        else AnnFacts(
            top1=100 * tally.ann.top1 / count,
            top5=_top5(config, tally.ann, count),
            source=config.source.name,
        ),
        rows=rows,
        layers=layers,
        classes=_class_rows(config, images, tally, steps[-1], with_ann=source is not None),
        activation_sparsity=1 - rows[-1].firing_rate / _mean_bits(network, neurons),
        footprint_bytes=footprint(network),
        artifact_bytes=sum((Path(folder) / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        images_per_second={run_to: tally.timed / spent for run_to, spent in tally.seconds.items()},
        peak_memory_bytes=tally.memory,
        seconds=time.perf_counter() - started,
        device=device,
        backend=network.backend,
        versions=versions(network.backend, device, ranks.world),
        command="",
        config=config,
    )


def _mean_bits(network: SpikingResNet, neurons: Mapping[str, int]) -> float:
    """Return the bits of a spike, the mean over all neurons."""
    if len({kind.bits for kind in network.neurons.values()}) == 1:
        return network.spike_bits
    bits = sum(kind.bits * neurons[name] for name, kind in network.neurons.items())
    return bits / sum(neurons.values())


def _readable(images: ImageSet, ranks: distributed.Ranks, progress: Progress | None) -> ImageSet:
    """Return the images without those that cannot be decoded; the processes share the work."""
    first, last = (len(images) * (ranks.rank + i) // ranks.world for i in (0, 1))
    parts = ranks.exchange(json.dumps(images.unreadable(first, last, progress)))
    return images.without({int(i): why for part in parts for i, why in json.loads(part).items()})


def _count(
    network: SpikingResNet,
    config: Config,
    images: ImageSet,
    source: Checkpoint | None,
    steps: list[int],
    about: Mapping[str, object],
    *,
    batch_size: int,
    ranks: distributed.Ranks,
    state: Path | None,
    progress: Progress | None,
) -> Tally:
    """Count on this process's batches, from where a state file says it stopped."""
    runs = steps if config.schedule == "layerwise" else steps[-1:]
    prep = Preprocess.of(config)

    def start() -> Tally:
        return Tally.empty(steps, runs)

    tally = start() if state is None else load_state(state, about, start)
    mine = range(0, len(images), batch_size)[ranks.rank :: ranks.world]
    share = sum(min(batch_size, len(images) - begin) for begin in mine)
    stored = time.monotonic()
    try:
        for begin in mine[tally.batches :]:
            part = slice(begin, begin + batch_size)
            try:
                batch = images.batch(part, prep)
            except IntegrityError as error:
                raise IntegrityError(
                    f'{error}, or leave such images out with `on_bad_image="skip"`'
                ) from None
            labels = torch.from_numpy(images.labels[part].copy())
            # Counted apart and added at once, so that an interruption never leaves half a batch.
            fresh = start()
            fresh.batches = 1
            fresh.images = dict(Counter(labels.tolist()))
            _count_batch(network, batch, labels, fresh)
            if not _on_gpu(network):
                fresh.timed = len(batch)
            elif tally.batches < _TIMED_BATCHES:
                fresh.timed = len(batch)
                fresh.seconds = {run_to: _warm_seconds(network, batch, run_to) for run_to in runs}
            else:
                fresh.seconds = dict.fromkeys(runs, 0.0)
            if source is not None:
                fresh.ann.count(_ann_logits(source, config, batch), labels)
            tally = Tally.total([tally, fresh], at_once=False)
            if state is not None and time.monotonic() - stored > _STORE_EVERY:
                save_state(state, about, tally)
                stored = time.monotonic()
            if progress is not None:
                progress("evaluating", sum(tally.images.values()), share)
    except BaseException:
        if state is not None and tally.batches:
            with contextlib.suppress(ZooError):  # the error that ended it is the one to report
                save_state(state, about, tally)
        raise
    if state is not None:
        save_state(state, about, tally)  # the other processes may not be done, or be stopped
    return tally


def _count_batch(network: SpikingResNet, batch: Tensor, labels: Tensor, tally: Tally) -> None:
    """Run a batch and set what `tally` has of each snapshot, and the seconds of each run.

    All is counted on the network's device.
    """
    layerwise = network.schedule == "layerwise"
    active = (network.pixels(batch.to(network.device)) != 0).sum(0)
    for run_to in tally.seconds:
        steps = [run_to] if layerwise else list(tally.snapshots)
        started = time.perf_counter()
        run = network.run(batch, run_to, snapshots=steps)
        tally.seconds[run_to] = time.perf_counter() - started
        for step in steps:
            snapshot, spikes = tally.snapshots[step], run.spikes[step]
            snapshot.hits.count(run.logits[-1 if layerwise else step - 1], labels)
            names = (spec.name for spec in network.topology.layers)
            snapshot.spikes = whole_numbers({name: spikes[name].sum() for name in names})
            snapshot.operations = count_operations(network, spikes, active)


def _warm_seconds(network: SpikingResNet, batch: Tensor, timesteps: int) -> float:
    """Return the seconds of a run on a GPU that gives logits alone.

    A run of the same shape goes before it: it compiles the kernels and captures the CUDA graph.
    """
    synchronize = torch.get_device_module(network.device).synchronize
    network.run(batch, timesteps)
    synchronize(network.device)
    started = time.perf_counter()
    network.run(batch, timesteps)
    synchronize(network.device)
    return time.perf_counter() - started


def _on_gpu(network: SpikingResNet) -> bool:
    return network.device.type != "cpu"


def _neurons(network: SpikingResNet, height: int, width: int) -> dict[str, int]:
    sizes = network.topology.sizes(height, width)
    return {
        spec.name: spec.out_channels * math.prod(sizes[spec.name])
        for spec in network.topology.layers
    }


def _top5(config: Config, hits: Hits, count: int) -> float | None:
    return 100 * hits.top5 / count if config.num_classes > TOP else None


def _class_rows(
    config: Config, images: ImageSet, tally: Tally, timesteps: int, *, with_ann: bool
) -> list[ClassRow]:
    names = config.class_names or (
        images.class_names if len(images.class_names or ()) == config.num_classes else None
    )
    hits = tally.snapshots[timesteps].hits.by_class
    return [
        ClassRow(
            label=label,
            name=names[label] if names else None,
            images=count,
            top1=100 * hits.get(label, 0) / count,
            ann=100 * tally.ann.by_class.get(label, 0) / count if with_ann else None,
        )
        for label, count in sorted(tally.images.items())
    ]


def _ann_checkpoint(config: Config, ann: str | Path | None) -> Checkpoint | None:
    if ann is not None:
        source = find_checkpoint(ann)
        path, sha256 = source.path, source.sha256
    elif (noted := find_source(config.source.sha256)) is not None:
        path, sha256 = noted, config.source.sha256
    else:
        return None

    def read(weights: Weights | None) -> Checkpoint:
        return read_checkpoint(
            path,
            config.arch,
            shortcut=config.shortcut,
            stride_in=config.stride_in,
            weights=weights,
            sha256=sha256,
        )

    checkpoint = read(config.source.weights)
    if checkpoint.weights is not None and config.source.weights is None:
        # An artifact from before files with two networks were told apart: of those that stand in
        # wrappers of their own, the one that is not averaged was read.
        checkpoint = read("raw")
    if checkpoint.sha256 != config.source.sha256:
        raise UsageError(
            f"{path} is not {config.source.name}, which this network was converted from: "
            "sha256 differs"
        )
    params = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in checkpoint.params.items()
    }
    return Checkpoint(checkpoint.net, params, checkpoint.name, checkpoint.sha256)


@torch.inference_mode()
def _ann_logits(source: Checkpoint, config: Config, batch: Tensor) -> Tensor:
    """Return the ANN's logits `[B, classes]`, always computed on the CPU."""
    table = image_table(config.preprocess.mean, config.preprocess.std, integer=False)
    at_once = max(1, _ANN_PIXELS // math.prod(batch.shape[2:]))
    return torch.cat(
        [
            ann_forward(source.net, source.params, look_up(table, part))
            for part in batch.split(at_once)
        ]
    )
