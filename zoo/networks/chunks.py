"""A run of a network: its images in chunks, each through `zoo.networks.executor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.backends import LayerBackend
from zoo.networks.executor import OnSpikes, run_causal, run_layerwise
from zoo.networks.pixels import as_pixels
from zoo.networks.preprocess import Preprocess
from zoo.networks.run import Head, Run, Schedule
from zoo.networks.topology import Topology


class Network(Protocol):
    """What is needed of a `SpikingResNet` to run it."""

    topology: Topology
    schedule: Schedule

    @property
    def layers(self) -> Mapping[str, SpikingConv]:
        """The layers by name."""

    @property
    def head(self) -> Head:
        """The classifier."""

    @property
    def device(self) -> torch.device:
        """Where its buffers are."""

    @property
    def preprocess(self) -> Preprocess | None:
        """How PIL images are fitted to its input."""

    def pixels(self, images: Tensor) -> Tensor:
        """Return uint8 images as the stem takes them."""

    def layer_backend(self, timesteps: int) -> LayerBackend:
        """Return its layers on its backend, for a run of `timesteps`."""

    def read_out(self, counts: Tensor) -> Tensor:
        """Return logits from cumulative pooled counts."""

    def with_layers(self, layers: Mapping[str, SpikingConv]) -> Network:
        """Return the network with other parameters of its layers."""


def pixels_to_run(network: Network, images: Any, timesteps: int) -> Tensor:
    """Return images as uint8 `[B, C, H, W]`; raise UsageError for timesteps < 1 as well."""
    if timesteps < 1:
        raise UsageError(f"timesteps must be 1 or more, not {timesteps}: 32 is a good start")
    return as_pixels(images, network.topology.in_channels, network.preprocess)


def run_chunks(
    network: Network,
    images: Any,
    timesteps: int,
    *,
    snapshots: Iterable[int] = (),
    chunk: int | None = None,
    window: int | None = None,
    on_spikes: OnSpikes | None = None,
) -> Run:
    """Run images: `SpikingResNet.run`."""
    pixels = pixels_to_run(network, images, timesteps)
    causal = network.schedule == "causal"
    steps = sorted({t for t in snapshots if t == timesteps or (t < timesteps and causal)})
    backend = network.layer_backend(timesteps)
    chunk = chunk or backend.chunk(*pixels.shape[-2:])
    window = window or backend.window
    logits: list[Tensor] = []
    spikes: dict[int, dict[str, Tensor]] = {step: {} for step in steps}
    for start in range(0, max(len(pixels), 1), chunk):
        images = pixels[start : start + chunk].to(network.device)
        part = _run_chunk(network, backend, images, timesteps, steps, window, on_spikes)
        logits.append(part.logits)
        # Added up layer by layer: the counts of a ResNet-152 at 224 pixels are 164 MB for each
        # snapshot.
        for step in steps:
            total, counts = spikes[step], part.spikes[step]
            for name in list(counts):
                count = counts.pop(name)
                total[name] = total[name] + count if name in total else count
    return Run(torch.cat(logits, 1), spikes)


def _run_chunk(
    network: Network,
    backend: LayerBackend,
    images: Tensor,
    timesteps: int,
    steps: Sequence[int],
    window: int,
    on_spikes: OnSpikes | None,
) -> Run:
    layerwise = network.schedule == "layerwise"
    x = backend.stem_input(network.pixels(images), timesteps, layerwise)
    size = (images.shape[-2], images.shape[-1])
    snapshots: dict[int, dict[str, Tensor]] = {}

    def pooled_counts(x: Tensor) -> Tensor:
        if layerwise:
            pooled, counts = run_layerwise(
                network.topology,
                backend,
                x,
                timesteps,
                count_spikes=bool(steps),
                on_spikes=on_spikes,
            )
            snapshots.update({timesteps: counts} if steps else {})
            return pooled
        pooled, found = run_causal(
            network.topology,
            backend,
            x,
            size,
            timesteps,
            window=window,
            snapshot_steps=steps,
            on_spikes=on_spikes,
        )
        snapshots.update(found)
        return pooled

    observed = bool(steps) or on_spikes is not None
    key = (*x.shape, size, timesteps, window)
    pooled = pooled_counts(x) if observed else backend.call(key, pooled_counts, x)
    if layerwise:
        return Run(network.head(pooled, timesteps)[None], snapshots)
    return Run(network.read_out(pooled.long().cumsum(0)), snapshots)
