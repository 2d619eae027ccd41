"""Runs that are watched or disturbed: every layer's spikes and potentials, and perturbed spikes.

A causal network is run layer by layer, each over all timesteps of a chunk of images, so that a
layer's whole spike train is there at once. Potentials are those of the backend itself: for them it
is given one timestep at a time.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import PoolState
from zoo.networks.backends import LayerBackend
from zoo.networks.chunks import Network, pixels_to_run, run_chunks
from zoo.networks.executor import OnSpikes
from zoo.networks.perturb import Perturb, Perturbation, check_spikes, perturbation
from zoo.networks.reference import count_over_time_and_batch
from zoo.networks.run import Run
from zoo.networks.topology import IMAGE, Layer, Topology

What = Literal["spikes", "potential"]
# Called with what it is, a layer's name, the index of the first image, and `[T, B, C, H, W]`.
Sink = Callable[[What, str, int, Tensor], None]


@dataclass(repr=False)
class Recording:
    """What layers did in a run.

    Attributes:
        logits: float64 `[T, B, classes]`, as `Run.logits`.
        spikes: by layer, int8 `[T, B, C, H, W]`; empty where they were not asked for.
        potential: by layer, the membrane potential after the reset of each timestep, in the layer's
            integer units, int32 (int64 where they need it, float32 of a float network)
            `[T, B, C, H, W]`; empty where it was not asked for.
    """

    logits: Tensor
    spikes: dict[str, Tensor] = field(default_factory=dict)
    potential: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        timesteps, images, _ = self.logits.shape
        layers = len(self.spikes or self.potential)
        kinds = [kind for kind in ("spikes", "potential") if getattr(self, kind)]
        return f"Recording({timesteps=}, {images=}, {layers=}, what={kinds})"


def record(
    network: Network,
    images: Any,
    timesteps: int,
    *,
    layers: Sequence[str] | None = None,
    what: Sequence[What] = ("spikes",),
    perturb: Perturb | None = None,
    chunk: int | None = None,
) -> Recording:
    """Return spikes and potentials of layers, each as one tensor: `SpikingResNet.record`."""
    pixels = pixels_to_run(network, images, timesteps)
    names = layers_named(network.topology, layers)
    size = (pixels.shape[-2], pixels.shape[-1])
    shapes = recorded_shapes(network.topology, names, len(pixels), size, timesteps)
    found: dict[str, dict[str, Tensor]] = {
        kind: {
            name: torch.empty(shapes[name], dtype=recorded_dtype(network, name, kind, timesteps))
            for name in names
        }
        for kind in what
    }

    def keep(kind: What, name: str, first: int, values: Tensor) -> None:
        found[kind][name][:, first : first + values.shape[1]] = values.cpu()

    run = run_watched(
        network, pixels, timesteps, keep, layers=names, what=what, perturb=perturb, chunk=chunk
    )
    return Recording(run.logits, found.get("spikes", {}), found.get("potential", {}))


@torch.inference_mode()
def run_watched(
    network: Network,
    images: Any,
    timesteps: int,
    sink: Sink,
    *,
    layers: Sequence[str] | None = None,
    what: Sequence[What] = ("spikes",),
    perturb: Perturb | None = None,
    chunk: int | None = None,
) -> Run:
    """Run images and hand each layer's spikes and potentials on, a chunk of images at a time.

    Args:
        sink: called with "spikes" or "potential", a layer's name, the index of the first image and
            values `[T, B, C, H, W]` as in `Recording`, its own to keep.
        layers, what, perturb, chunk: as in `SpikingResNet.record`.

    Raises:
        UsageError: an unknown layer, nothing to record, a layerwise network (its layers have counts
            of spikes and no trains), or what `SpikingResNet.run` refuses.
    """
    names = {*layers_named(network.topology, layers)}
    if not what or not {*what} <= {"spikes", "potential"}:
        raise UsageError(f"`what` is {what!r}: name spikes, potential or both")
    if network.schedule != "causal":
        raise UsageError(
            "a layerwise network has counts of spikes after the run, no trains: convert it with "
            '`schedule="causal"`, or take the counts from run(on_spikes=...)'
        )

    def on_spikes(name: str, first: int, spikes: Tensor) -> None:
        if "spikes" in what and name in names:
            sink("spikes", name, first, spikes)

    def on_potential(name: str, first: int, potential: Tensor) -> None:
        sink("potential", name, first, potential)

    return _run(
        network,
        images,
        timesteps,
        perturb=perturbation(perturb) if perturb is not None else Perturbation(),
        on_spikes=on_spikes,
        potential_of=names if "potential" in what else set(),
        on_potential=on_potential,
        chunk=chunk,
    )


@torch.inference_mode()
def run_perturbed(
    network: Network,
    images: Any,
    timesteps: int,
    perturb: Perturb,
    *,
    snapshots: Iterable[int] = (),
    chunk: int | None = None,
    on_spikes: OnSpikes | None = None,
) -> Run:
    """Run images under a perturbation: `SpikingResNet.run` with `perturb`."""
    return _run(
        network,
        images,
        timesteps,
        perturb=perturbation(perturb),
        snapshots=snapshots,
        on_spikes=None if on_spikes is None else lambda name, _, spikes: on_spikes(name, spikes),
        chunk=chunk,
    )


def _run(
    network: Network,
    images: Any,
    timesteps: int,
    *,
    perturb: Perturbation,
    snapshots: Iterable[int] = (),
    on_spikes: Callable[[str, int, Tensor], None] | None = None,
    potential_of: set[str] | None = None,
    on_potential: Callable[[str, int, Tensor], None] | None = None,
    chunk: int | None = None,
) -> Run:
    pixels = pixels_to_run(network, images, timesteps)
    old = network.layers
    new = {name: perturb.layer(name, layer) for name, layer in old.items()}
    if any(new[name] is not old[name] for name in old):
        network = network.with_layers(new)
    if network.schedule != "causal":
        if type(perturb).spikes is not Perturbation.spikes:
            raise UsageError(
                "a layerwise network has no spike trains to perturb: perturb its parameters "
                '(`ThresholdNoise`, `FlipWeightBits`), or convert it with `schedule="causal"`'
            )
        return run_chunks(
            network,
            pixels,
            timesteps,
            snapshots=snapshots,
            chunk=chunk,
            on_spikes=None
            if on_spikes is None
            else lambda name, counts: on_spikes(name, 0, counts),
        )
    backend = network.layer_backend(timesteps)
    chunk = chunk or backend.chunk(*pixels.shape[-2:])
    logits: list[Tensor] = []
    steps = sorted({t for t in snapshots if t <= timesteps})
    counts: dict[int, dict[str, Tensor]] = {step: {} for step in steps}
    for first in range(0, max(len(pixels), 1), chunk):
        part = pixels[first : first + chunk].to(network.device)
        pass_on = _Chunk(
            network,
            backend,
            timesteps,
            first,
            perturb,
            on_spikes,
            potential_of or set(),
            on_potential,
        )
        logits.append(network.read_out(pass_on.run(part, counts).long().cumsum(0)))
    return Run(torch.cat(logits, 1), counts)


@dataclass
class _Chunk:
    """One chunk of images on its way through the layers."""

    network: Network
    backend: LayerBackend
    timesteps: int
    first: int
    perturb: Perturbation
    on_spikes: Callable[[str, int, Tensor], None] | None
    potential_of: set[str]
    on_potential: Callable[[str, int, Tensor], None] | None

    def run(self, images: Tensor, counts: dict[int, dict[str, Tensor]]) -> Tensor:
        """Return net spikes of the last layer summed over its area, integers `[T, B, C]`.

        Spikes per neuron after each timestep that is a key of `counts` are added to it.
        """
        topology, backend = self.network.topology, self.backend
        constant = backend.stem_input(self.network.pixels(images), self.timesteps, False)
        sizes = topology.sizes(images.shape[-2], images.shape[-1])
        trains: dict[str, Tensor] = {}  # of layers and poolings, over all timesteps
        for index, spec in enumerate(topology.layers):
            layer = self.network.layers[spec.name]
            membrane = backend.membrane(spec.name, len(images), sizes[spec.name], self.timesteps)
            fired = self._fire(spec, constant if spec.source == IMAGE else None, trains, membrane)
            sent = fired
            if type(self.perturb) is not Perturbation:
                given = self.perturb.spikes(spec.name, fired.clone(), self.first)
                low = -1 if layer.neuron == "signed" else 0
                sent = check_spikes(spec.name, given, fired, low, layer.max_level)
            trains[spec.name] = sent
            self._count(spec.name, sent, layer.bits, counts)
            if self.on_spikes is not None:
                self.on_spikes(spec.name, self.first, sent.clone())
            for pool in topology.pools_behind(spec.name):
                pooled = backend.pool(pool, backend.packed(spec.name, sent), PoolState(), None)
                if pool.kind == "max":
                    pooled = backend.dense(pooled)
                    self._count(pool.name, pooled, layer.bits, counts)
                else:
                    for total in counts.values():
                        total[pool.name] = total[spec.name].sum((1, 2), keepdim=True)
                trains[pool.name] = pooled
            for name in topology.released_after(index):
                trains.pop(name, None)
        return backend.pooled(backend.packed(topology.layers[-1].name, trains[topology.output]))

    def _count(
        self, name: str, spikes: Tensor, bits: int, counts: dict[int, dict[str, Tensor]]
    ) -> None:
        for step, total in counts.items():
            count = count_over_time_and_batch(spikes[:step], bits)
            total[name] = total[name] + count if name in total else count

    def _fire(
        self, spec: Layer, constant: Tensor | None, trains: Mapping[str, Tensor], membrane: Any
    ) -> Tensor:
        """Return the spikes of a layer over all timesteps, int8 `[T, B, C, H, W]`."""
        topology, backend = self.network.topology, self.backend
        areas = {pool.name for pool in topology.pools if pool.kind == "average"}

        def read(name: str, part: slice) -> Any:
            values = trains[name][part]
            return values if name in areas else backend.packed(topology.origin(name), values)

        def through(part: slice, *, more: bool) -> Tensor:
            return backend.dense(
                backend.spikes(
                    spec.name,
                    read(spec.source, part) if constant is None else constant,
                    read(spec.shortcut.source, part) if spec.shortcut else None,
                    membrane,
                    steps=None if constant is None else len(range(self.timesteps)[part]),
                    more=more,
                    counter=None,
                )
            )

        if spec.name not in self.potential_of or self.on_potential is None:
            return through(slice(None), more=False)
        fired, potentials = [], []
        for step in range(self.timesteps):
            fired.append(through(slice(step, step + 1), more=True))
            potentials.append(backend.potential(membrane))
        dtype = recorded_dtype(self.network, spec.name, "potential", self.timesteps)
        self.on_potential(spec.name, self.first, torch.stack(potentials).to(dtype))
        return torch.cat(fired)


def layers_named(topology: Topology, layers: Sequence[str] | None) -> list[str]:
    """Return the names of layers, in running order, that names or patterns such as `layer1.*` mean.

    Raises:
        UsageError: one of them means no layer.
    """
    names = [layer.name for layer in topology.layers]
    if layers is None:
        return names
    wanted = [layers] if isinstance(layers, str) else [*layers]
    for pattern in wanted:
        if not fnmatch.filter(names, pattern):
            raise UsageError(
                f"{pattern!r} is no layer: choose from {', '.join(names[:3])}, ..., {names[-1]}"
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, one) for one in wanted)]


def recorded_shapes(
    topology: Topology, names: Sequence[str], images: int, size: tuple[int, int], timesteps: int
) -> dict[str, tuple[int, ...]]:
    """Return the shape `[T, B, C, H, W]` of each layer's recording."""
    sizes, channels = topology.sizes(*size), topology.channels
    return {name: (timesteps, images, channels[name], *sizes[name]) for name in names}


def recorded_dtype(network: Network, name: str, what: str, timesteps: int) -> torch.dtype:
    """Return the dtype of a layer's recording: int8 of spikes, int32 or more of potentials."""
    layer = network.layers[name]
    if what == "spikes":
        return torch.int8
    if not layer.integer:
        return torch.float32
    return torch.int32 if layer.potential_bound(timesteps) < 2**31 else torch.int64
