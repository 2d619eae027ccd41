"""Running a spiking ResNet: layer by layer over windows of timesteps, with bounded memory.

A batch is cut into chunks of images and a run into windows of timesteps; within a window each layer takes all its timesteps
at once, so only one window of spikes exists for the layers that are still read, and one membrane per layer for the chunk.
Neither the chunk nor the window nor the number of threads changes a single spike (integer arithmetic is exact;
tests/zoo/test_network.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import Membrane, SpikingConv
from zoo.networks.fused import CHUNK as PACKED_CHUNK
from zoo.networks.fused import WINDOW as PACKED_WINDOW
from zoo.networks.fused import Backend, PackedNetwork, pick_backend
from zoo.networks.pixels import look_up
from zoo.networks.run import Head, Run, Schedule, count_over_time_and_batch, windows
from zoo.networks.topology import IMAGE, Topology

# Measured on two Zen 5 cores, ResNet-20, T = 32 (benchmarks/results/cpu.json): smaller chunks pay per call, larger ones leave
# the cache.
CHUNK = 64


WINDOW = 8


# Neurons of a chunk's widest layer, so that a step's potentials stay in the cache: 64 images of CIFAR's networks, one of a
# ResNet-50 at 224 pixels (one Zen 5 core, T = 64: 2.2 s an image, with 4 at a time 3.8 s).
_WIDEST = 2**20


class SpikingResNet:
    """A converted network, ready to run.

    Call it for logits (`model(images, timesteps=32)`), or `run` it for logits at every timestep and spike statistics.

    Args:
        net: the topology.
        layers: one SpikingConv per layer of `net`, by name.
        image_table: int16 (or float) [C, 256]: what a uint8 pixel of colour channel C becomes.
        delay: timesteps the read-out skips: `delay[t]` for a run read after t timesteps, from the largest key <= t.

    `spike_bits` are those of each spike: 1, or more where they are graded.

    `backend` is torch until `with_backend` says otherwise; no backend changes a spike.
    """

    def __init__(
        self,
        net: Topology,
        layers: Mapping[str, SpikingConv],
        head: Head,
        image_table: Tensor,
        *,
        schedule: Schedule = "causal",
        delay: Mapping[int, int] | None = None,
    ) -> None:
        self.net, self.layers, self.head, self.image_table = net, dict(layers), head, image_table
        self.schedule, self.delay = schedule, dict(delay or {})
        self.backend: Backend = "torch"
        self._automatic = False
        self._packed: PackedNetwork | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        device: str = "cpu",
        backend: Backend = "auto",
    ) -> SpikingResNet:
        """`zoo.load` by the names that other libraries have for its arguments; `revision` is for `org/name` of a hub."""
        from zoo import load

        name = name_or_path if revision is None else f"{name_or_path}@{revision}"
        return load(name, device=device, backend=backend, offline=local_files_only, token=token)

    @property
    def device(self) -> torch.device:
        return self.image_table.device

    @property
    def integer(self) -> bool:
        """Whether it computes in integers (int8 weights), as every network of the zoo does."""
        return all(layer.integer for layer in self.layers.values())

    @property
    def spike_bits(self) -> int:
        return self.layers[self.net.layers[0].name].bits

    def with_backend(self, backend: Backend) -> SpikingResNet:
        """The same network on another backend: `auto`, `triton`, `torch` or `interpret` (`zoo.networks.fused`).

        Raises UsageError when that cannot run on the network's device.
        """
        network = SpikingResNet(
            self.net,
            self.layers,
            self.head,
            self.image_table,
            schedule=self.schedule,
            delay=self.delay,
        )
        network.backend, network._automatic = pick_backend(backend, self), backend == "auto"
        return network

    def to(self, device: torch.device | str) -> SpikingResNet:
        """The same network with its tensors on `device`, on the torch backend."""
        layers = {name: layer.to(device) for name, layer in self.layers.items()}
        return SpikingResNet(
            self.net,
            layers,
            self.head.to(device),
            self.image_table.to(device),
            schedule=self.schedule,
            delay=self.delay,
        )

    def __call__(self, images: Tensor, timesteps: int) -> Tensor:
        """Logits float64 [B, classes] after `timesteps`, for uint8 images [B, C, H, W] as decoded (not normalised)."""
        return self.run(images, timesteps).logits[-1]

    @torch.inference_mode()
    def run(
        self,
        images: Tensor,
        timesteps: int,
        *,
        snapshots: Iterable[int] = (),
        chunk: int | None = None,
        window: int | None = None,
        watch: Callable[[str, Tensor], None] | None = None,
    ) -> Run:
        """Runs uint8 images [B, C, H, W] for `timesteps`.

        Args:
            snapshots: timesteps at which to report spikes per neuron; a layerwise network has them after the last alone.
            chunk: images that run together; window: timesteps a layer takes at a time. Both only change speed and memory; by
                default what is fast on the backend.
            watch: called with each layer's name and its spikes, int8 [T, B, C, H, W] of one window and chunk (layerwise: counts
                [B, C, H, W]).

        Raises:
            UsageError: timesteps < 1, images of another dtype or shape than the network takes, or a run too long for the
                backend.
        """
        if timesteps < 1:
            raise UsageError(f"timesteps must be 1 or more, not {timesteps}: 32 is a good start")
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or images.shape[1] != self.net.in_channels
        ):
            raise UsageError(
                f"images must be uint8 [B, {self.net.in_channels}, H, W] as decoded, "
                f"not {str(images.dtype).removeprefix('torch.')} {list(images.shape)}: do not normalise them"
            )
        marks = sorted(
            {
                t
                for t in snapshots
                if t == timesteps or (t < timesteps and self.schedule == "causal")
            }
        )
        packed = self._packed_for(timesteps)
        on_gpu = packed is not None and not packed.interpret
        chunk = chunk or (PACKED_CHUNK if on_gpu else self._chunk(*images.shape[-2:]))
        window = window or (WINDOW if packed is None else PACKED_WINDOW)
        run_chunk = self._run_chunk if packed is None else packed.run_chunk
        logits: list[Tensor] = []
        spikes: dict[int, dict[str, Tensor]] = {mark: {} for mark in marks}
        for start in range(0, max(len(images), 1), chunk):
            part = run_chunk(
                images[start : start + chunk].to(self.device), timesteps, marks, window, watch
            )
            logits.append(part.logits)
            # Added up layer by layer: the counts of a ResNet-152 at 224 pixels are 164 MB for each mark.
            for mark in marks:
                total, counts = spikes[mark], part.spikes[mark]
                for name in list(counts):
                    count = counts.pop(name)
                    total[name] = total[name] + count if name in total else count
        return Run(torch.cat(logits, 1), spikes)

    def _chunk(self, height: int, width: int) -> int:
        """Images that run together by default: fewer where they are large, for speed and for memory."""
        sizes = self.net.sizes(height, width)
        widest = max(spec.out_channels * math.prod(sizes[spec.name]) for spec in self.net.layers)
        return max(1, min(CHUNK, _WIDEST // max(widest, 1)))

    def _packed_for(self, timesteps: int) -> PackedNetwork | None:
        if self.backend == "torch":
            return None
        if self._packed is None:
            self._packed = PackedNetwork(self, interpret=self.backend == "interpret")
        if timesteps <= self._packed.limit:
            return self._packed
        if self._automatic:
            return None
        raise UsageError(
            f"backend {self.backend} runs this network for at most {self._packed.limit} timesteps, not {timesteps}: "
            "run fewer, or use the torch backend"
        )

    def _run_chunk(
        self,
        images: Tensor,
        timesteps: int,
        marks: Sequence[int],
        window: int,
        watch: Callable[[str, Tensor], None] | None,
    ) -> Run:
        stem = self.layers[self.net.layers[0].name]
        current = stem.current(self.pixels(images), timesteps)
        if self.schedule == "layerwise":
            return self._run_layerwise(current, timesteps, marks, watch)
        sizes = self.net.sizes(*images.shape[-2:])
        membranes = {
            name: layer.membrane(len(images), *sizes[name], timesteps)
            for name, layer in self.layers.items()
        }
        totals = {
            name: torch.zeros(m.v.shape[1:], dtype=torch.int64, device=m.v.device)
            for name, m in membranes.items()
        }
        pooled, spikes = [], {}
        for begin, end in windows(timesteps, window, marks):
            pooled.append(
                self._run_window(current, end - begin, membranes, totals if marks else None, watch)
            )
            if end in marks:
                spikes[end] = {name: total.clone() for name, total in totals.items()}
        return Run(self.read_out(torch.cat(pooled).cumsum(0)), spikes)

    def _run_window(
        self,
        current: Tensor,
        steps: int,
        membranes: Mapping[str, Membrane],
        totals: Mapping[str, Tensor] | None,
        watch: Callable[[str, Tensor], None] | None,
    ) -> Tensor:
        """One window through every layer; the last layer's spikes summed over its area, int64 [T, B, C]."""
        out: dict[str, Tensor] = {}
        last = self.net.last_reader()
        for index, spec in enumerate(self.net.layers):
            layer, membrane = self.layers[spec.name], membranes[spec.name]
            if spec.source == IMAGE:
                spikes = layer.run(current, None, membrane, window=steps)
            else:
                spikes = layer.run(
                    out[spec.source], out[spec.shortcut.source] if spec.shortcut else None, membrane
                )
            if totals is not None:
                totals[spec.name].add_(count_over_time_and_batch(spikes, layer.bits))
            if watch is not None:
                watch(spec.name, spikes)
            # Without a -1 among them oneDNN takes spikes as they are.
            out[spec.name] = spikes if layer.neuron == "signed" else spikes.view(torch.uint8)
            for name in [name for name in out if last[name] <= index and name != spec.name]:
                del out[name]
        return spikes.sum((3, 4), dtype=torch.int64)

    def _run_layerwise(
        self,
        current: Tensor,
        timesteps: int,
        marks: Sequence[int],
        watch: Callable[[str, Tensor], None] | None,
    ) -> Run:
        out: dict[str, Tensor] = {}
        totals = {}
        last = self.net.last_reader()
        for index, spec in enumerate(self.net.layers):
            layer = self.layers[spec.name]
            if spec.source == IMAGE:
                count = layer.count(current, None, timesteps, constant=True)
            else:
                count = layer.count(
                    out[spec.source],
                    out[spec.shortcut.source] if spec.shortcut else None,
                    timesteps,
                )
            if timesteps in marks:
                totals[spec.name] = count.sum(0, dtype=torch.int64)
            if watch is not None:
                watch(spec.name, count)
            out[spec.name] = count
            for name in [name for name in out if last[name] <= index and name != spec.name]:
                del out[name]
        pooled = count.sum((2, 3), dtype=torch.int64)
        return Run(
            self.head(pooled, timesteps)[None], {timesteps: totals} if timesteps in marks else {}
        )

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] as the stem takes them, float32 in channels_last."""
        return look_up(self.image_table, images)

    def read_out(self, counts: Tensor) -> Tensor:
        """Logits [T, B, classes] from the cumulative pooled counts [T, B, C], skipping the first `delay` timesteps."""
        skips = [self.delay_at(t) for t in range(1, len(counts) + 1)]
        before = torch.cat([torch.zeros_like(counts[:1]), counts])[skips]
        steps = torch.tensor(
            [t - skip for t, skip in enumerate(skips, start=1)], device=counts.device
        )
        return self.head(counts - before, steps.view(-1, 1, 1))

    def delay_at(self, timesteps: int) -> int:
        """Timesteps the read-out after `timesteps` skips."""
        known = [t for t in self.delay if t <= timesteps]
        return min(self.delay[max(known)], timesteps - 1) if known else 0
