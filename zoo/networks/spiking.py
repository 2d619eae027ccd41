"""The spiking network: a `torch.nn.Module` whose buffers are the integers of an artifact.

A batch is cut into chunks of images and a run into windows of timesteps (`zoo.networks.executor`).
Neither the chunk nor the window, the backend nor the number of threads changes a single spike:
integer arithmetic is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.kernels.neuron import NeuronKind
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.backends import Backend, Chosen, LayerBackend, choose_backend
from zoo.networks.chunks import pixels_to_run, run_chunks
from zoo.networks.executor import OnSpikes
from zoo.networks.exits import ExitRule, exiting_run
from zoo.networks.features import counting, features_of, new_head
from zoo.networks.observe import Recording, What, record, run_perturbed
from zoo.networks.perturb import Perturb
from zoo.networks.pixels import look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.reference import ReferenceLayers
from zoo.networks.run import Head, Run, Schedule, steps_skipped
from zoo.networks.surrogate import Surrogate
from zoo.networks.topology import Topology
from zoo.networks.trainable import TrainableResNet, trainable_of

if TYPE_CHECKING:
    from zoo.artifact.config import Config

# Tensors of a SpikingConv, by the names they have in an artifact.
_TENSORS = {
    "weight": "weight",
    "bias": "bias",
    "threshold": "threshold",
    "v_init": "v_init",
    "gain": "shortcut.gain",
    "projection": "shortcut.weight",
}


# What an instance has beside its class.
_ATTRIBUTES = ("backend", "config", "delay", "image", "fc", "schedule", "topology", "training")


class SpikingResNet(nn.Module):
    """A converted network, ready to run.

    Call it for logits (`model(images, timesteps=32)`), or `run` it for logits at every timestep and
    spike statistics.

    Its buffers are the tensors of the artifact under the artifact's names (`conv1.weight`,
    `layer1.0.conv2.shortcut.gain`, `fc.weight`, ...), so `state_dict`, `to`, `deepcopy` and
    `pickle` do what they do for every module. It has no parameters and no training mode. Moving it
    keeps the backend that was asked for; `auto` chooses again.

    Args:
        topology: the layers and how they are connected.
        layers: one SpikingConv per layer of `topology`, by name.
        image_table: int16 (or float) `[C, 256]`: what a uint8 pixel of channel C becomes.
        delay: timesteps the read-out skips: `delay[t]` for a run read after t timesteps, from the
            largest key <= t.
        scales: float32 `[C]` per layer, one integer unit in ANN units, kept for whoever saves or
            trains the network.
        config: of the artifact; gives `timesteps`, `class_names` and the preprocessing of PIL
            images.
        backend: what runs it; see `zoo.networks.backends`. No backend changes a spike.

    Attributes:
        config: the artifact's config, or None.
        delay: as above.
    """

    def __init__(
        self,
        topology: Topology,
        layers: Mapping[str, SpikingConv],
        head: Head,
        image_table: Tensor,
        *,
        schedule: Schedule = "causal",
        delay: Mapping[int, int] | None = None,
        scales: Mapping[str, Tensor] | None = None,
        config: Config | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.topology, self.schedule, self.delay = topology, schedule, dict(delay or {})
        self.config = config
        self._settings: dict[str, dict[str, Any]] = {}
        self._set_buffer("image.table", image_table)
        for name, layer in layers.items():
            check_name(name)
            for field, suffix in _TENSORS.items():
                tensor = getattr(layer, field)
                if tensor is not None:
                    self._set_buffer(f"{name}.{suffix}", tensor)
            if scales is not None:
                self._set_buffer(f"{name}.scale", scales[name])
            self._settings[name] = {
                field.name: getattr(layer, field.name)
                for field in fields(layer)
                if field.name not in _TENSORS and not field.name.startswith("_")
            }
        for part in ("weight", "scale", "bias"):
            self._set_buffer(f"fc.{part}", getattr(head, part))
        self._requested: Backend = backend
        # Derived from the buffers: which these were, the layers on them, and their forms on each
        # backend.
        self._known: tuple[tuple[int, int], ...] | None = None
        self._layers: dict[str, SpikingConv] = {}
        self._backends: dict[str, LayerBackend] = {}
        self.backend: Chosen = choose_backend(backend, self.device, integer=self.integer)

    def _set_buffer(self, name: str, tensor: Tensor) -> None:
        *path, last = name.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(last, tensor)

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
        """Return `zoo.load` of a model, by the argument names that other libraries have.

        Args:
            revision: commit, tag or branch of `org/name` on a hub.
        """
        from zoo import load

        name = name_or_path if revision is None else f"{name_or_path}@{revision}"
        return load(name, device=device, backend=backend, offline=local_files_only, token=token)

    @property
    def device(self) -> torch.device:
        return self.image_table.device

    @property
    def image_table(self) -> Tensor:
        return self.get_buffer("image.table")

    @property
    def head(self) -> Head:
        return Head(*(self.get_buffer(f"fc.{part}") for part in ("weight", "scale", "bias")))

    @property
    def layers(self) -> dict[str, SpikingConv]:
        """The layers by name, on the buffers' own memory; made again after a buffer has changed."""
        state = self._fingerprint()
        if state != self._known:
            # Prepared weights, laid out kernels and captured graphs are of the old buffers.
            self._layers, self._backends = {}, {}
            buffers = dict(self.named_buffers(remove_duplicate=False))
            for name, settings in self._settings.items():
                tensors: dict[str, Any] = {
                    field: buffers[f"{name}.{suffix}"]
                    for field, suffix in _TENSORS.items()
                    if f"{name}.{suffix}" in buffers
                }
                self._layers[name] = SpikingConv(**tensors, **settings)
            self._known = state
        return self._layers

    @property
    def scales(self) -> dict[str, Tensor]:
        """One integer unit of each layer in ANN units, float32 `[C]`; empty if built without."""
        ending = ".scale"
        buffers = self.named_buffers(remove_duplicate=False)
        found = {n.removesuffix(ending): b for n, b in buffers if n.endswith(ending)}
        return {name: found[name] for name in self._settings if name in found}

    @property
    def integer(self) -> bool:
        """Whether it computes in integers (int8 weights), as every network of the zoo does."""
        return all(self.get_buffer(f"{name}.weight").dtype == torch.int8 for name in self._settings)

    @property
    def neurons(self) -> dict[str, NeuronKind]:
        """What the neurons of each layer are."""
        return {name: NeuronKind(s["neuron"], s["bits"]) for name, s in self._settings.items()}

    @property
    def spike_bits(self) -> int:
        """Bits of the largest spike of any layer: 1, or more where spikes are graded."""
        return max(kind.bits for kind in self.neurons.values())

    @property
    def timesteps(self) -> int | None:
        """The number of timesteps that the artifact is meant for, None without a config."""
        return None if self.config is None else self.config.timesteps

    @property
    def class_names(self) -> list[str] | None:
        return None if self.config is None else self.config.class_names

    @property
    def exit_rule(self) -> ExitRule | None:
        """When a run may stop, None where the artifact does not say."""
        found = self.config and self.config.exit
        return ExitRule(found.rule, found.threshold, found.timesteps) if found else None

    @property
    def preprocess(self) -> Preprocess | None:
        """How PIL images are fitted to its input, None without a config."""
        return None if self.config is None else Preprocess.of(self.config)

    def __repr__(self) -> str:
        models = {kind.neuron for kind in self.neurons.values()}
        neuron = "mixed" if len(models) > 1 else next(iter(models), "no layers")
        facts = [self.topology.arch, f"{self.topology.num_classes} classes"]
        facts += ["int8" if self.integer else "float32", f"{neuron} {self.schedule}"]
        facts += [] if self.timesteps is None else [f"timesteps={self.timesteps}"]
        facts += [
            f"layers={len(self._settings)}",
            f"device={self.device}",
            f"backend={self.backend}",
        ]
        return f"{type(self).__name__}({', '.join(facts)})"

    def with_backend(self, backend: Backend) -> SpikingResNet:
        """Return the same network, sharing its buffers, on another backend.

        Raises:
            UsageError: that backend cannot run on the network's device.
        """
        return self._rebuilt(self.layers, backend)

    def with_layers(self, layers: Mapping[str, SpikingConv]) -> SpikingResNet:
        """Return the network with other parameters of its layers, on the same backend."""
        return self._rebuilt(layers, self._requested)

    def _rebuilt(
        self, layers: Mapping[str, SpikingConv], backend: Backend, **changes: Any
    ) -> SpikingResNet:
        parts: dict[str, Any] = {
            "topology": self.topology,
            "head": self.head,
            "image_table": self.image_table,
            "schedule": self.schedule,
            "delay": self.delay,
            "scales": self.scales or None,
            "config": self.config,
        }
        return SpikingResNet(layers=layers, backend=backend, **(parts | changes))

    def forward_features(self, images: Any, timesteps: int | None = None) -> Tensor:
        """Return pooled activations by timestep, `[T, B, C]`, see `zoo.networks.features`."""
        steps = self.timesteps if timesteps is None else timesteps
        pixels = pixels_to_run(self, images, steps or 0)
        run = self._rebuilt(self.layers, self._requested, **counting(self)).run(pixels, steps or 0)
        return features_of(self, run, len(run.logits), (pixels.shape[-2], pixels.shape[-1]))

    def with_head(
        self, head: nn.Linear | int, class_names: Sequence[str] | None = None
    ) -> SpikingResNet:
        """Return the network with another classifier, see `zoo.networks.features.new_head`."""
        changes = new_head(self, head, class_names)
        return self._rebuilt(self.layers, self._requested, **changes)

    def trainable(self, surrogate: Surrogate = "arctan", **settings: Any) -> TrainableResNet:
        """Return a module in ANN units with these spikes, see `zoo.networks.trainable`."""
        return trainable_of(self, surrogate=surrogate, **settings)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SpikingResNet:
        # `to`, `cuda`, `cpu`, `half` and so on come through here. All is checked before anything
        # moves.
        for name, buffer in self.named_buffers():
            probe = fn(buffer[:0])
            if probe.dtype != buffer.dtype:
                raise UsageError(
                    f"{name} is {str(buffer.dtype).removeprefix('torch.')} and would become "
                    f"{str(probe.dtype).removeprefix('torch.')}: spikes are exact in the "
                    "artifact's own numbers alone, "
                    "so move the network without a dtype"
                )
        target = fn(self.image_table[:0]).device
        backend = choose_backend(self._requested, target, integer=self.integer)
        super()._apply(fn, recurse)
        self.backend = backend
        return self

    def _fingerprint(self) -> tuple[tuple[int, int], ...]:
        # A tensor made in inference mode counts no versions; nobody changes one in place outside of
        # it.
        return tuple(
            (id(buffer), 0 if buffer.is_inference() else buffer._version)
            for buffer in self.buffers()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None, "_layers": {}, "_backends": {}}

    def forward(
        self, images: Any, timesteps: int | None = None, *, exit: bool | ExitRule = False
    ) -> Tensor:
        """Return logits after `timesteps`, float64 `[B, classes]`.

        Args:
            images: as in `run`.
            timesteps: default: those the artifact is meant for.
            exit: stop for an image when it is sure, by the rule that the artifact holds or by this
                one; the logits are those at its exit. `exiting_run` of `zoo.networks.exits` gives
                the timesteps too.

        Raises:
            UsageError: as `run`, or `exit` of an artifact without a rule.
        """
        if exit:
            rule = exit if isinstance(exit, ExitRule) else self.exit_rule
            if rule is None:
                raise UsageError(
                    "the artifact holds no rule to exit by: pass an ExitRule, or let zoo eval find "
                    "and store one"
                )
            rule = rule if timesteps is None else replace(rule, timesteps=timesteps)
            return exiting_run(self, images, rule).logits
        timesteps = self.timesteps if timesteps is None else timesteps
        if timesteps is None:
            raise UsageError(
                "the network has no config that says how many timesteps: pass `timesteps`"
            )
        return self.run(images, timesteps).logits[-1]

    @torch.inference_mode()
    def run(
        self,
        images: Any,
        timesteps: int,
        *,
        snapshots: Iterable[int] = (),
        chunk: int | None = None,
        window: int | None = None,
        on_spikes: OnSpikes | None = None,
        perturb: Perturb | None = None,
    ) -> Run:
        """Run images for `timesteps`.

        Args:
            images: uint8 tensor `[B, C, H, W]`, uint8 numpy array `[B, H, W, C]` or PIL images, as
                decoded (not normalised).
            snapshots: timesteps at which to report spikes per neuron; a layerwise network has them
                after the last alone.
            chunk, window: images that run together, and timesteps a layer takes at a time. Both
                only change speed and memory; the default is what is fast on the backend.
            on_spikes: called with each layer's name and a copy of its spikes, int8 `[T, B, C, H,
                W]` of one window and chunk (layerwise: counts `[B, C, H, W]`).
            perturb: changes what layers send, or their parameters, the same way on every backend: a
                function of a layer's name and a copy of its spikes, int8 `[T, B, C, H, W]` over all
                timesteps, that returns what is sent instead; one of `zoo.networks.perturb`; or a
                list of these. `window` is then all timesteps.

        Returns:
            Run: logits at every timestep, and the snapshots.

        Raises:
            UsageError: timesteps < 1, images of another dtype or shape than the network takes, or a
                run too long for the backend.
        """
        if perturb is not None:
            return run_perturbed(
                self,
                images,
                timesteps,
                perturb,
                snapshots=snapshots,
                chunk=chunk,
                on_spikes=on_spikes,
            )
        return run_chunks(
            self,
            images,
            timesteps,
            snapshots=snapshots,
            chunk=chunk,
            window=window,
            on_spikes=on_spikes,
        )

    def record(
        self,
        images: Any,
        timesteps: int,
        *,
        layers: Sequence[str] | None = None,
        what: Sequence[What] = ("spikes",),
        perturb: Perturb | None = None,
        chunk: int | None = None,
    ) -> Recording:
        """Run images and return what layers did, one tensor `[T, B, C, H, W]` each, on the CPU.

        Args:
            images, perturb, chunk: as in `run`.
            layers: names of layers, or patterns such as `layer1.*`; default: all.
            what: "spikes" (int8) and "potential" (after each timestep's reset, int32).

        Raises:
            UsageError: as `zoo.networks.observe.run_watched`, which hands on a chunk at a time what
                does not fit into memory.
        """
        return record(
            self, images, timesteps, layers=layers, what=what, perturb=perturb, chunk=chunk
        )

    def layer_backend(self, timesteps: int) -> LayerBackend:
        """Return the layers on the backend, for a run of `timesteps`."""
        layers = self.layers
        if self.backend != "torch":
            if self.backend not in self._backends:
                from zoo.networks.fused import FusedLayers

                self._backends[self.backend] = FusedLayers(
                    self.topology,
                    layers,
                    self.device,
                    layerwise=self.schedule == "layerwise",
                    interpret=self.backend == "interpret",
                )
            fused = self._backends[self.backend]
            if fused.limit is None or timesteps <= fused.limit:
                return fused
            if self._requested != "auto":
                raise UsageError(
                    f"backend {self.backend} runs this network for at most {fused.limit} "
                    f"timesteps, not {timesteps}: "
                    "run fewer, or use the torch backend"
                )
        if "torch" not in self._backends:
            self._backends["torch"] = ReferenceLayers(self.topology, layers, self.device)
        return self._backends["torch"]

    def pixels(self, images: Tensor) -> Tensor:
        """Return uint8 images `[B, C, H, W]` as the stem takes them, float32 in channels_last."""
        return look_up(self.image_table, images)

    def read_out(self, counts: Tensor) -> Tensor:
        """Return logits `[T, B, classes]` from cumulative pooled counts `[T, B, C]`."""
        delays = [self.delay_at(t) for t in range(1, len(counts) + 1)]
        read = [t - skip for t, skip in enumerate(delays, start=1)]
        # One copy to the device, not one each.
        skips, steps = torch.tensor([delays, read], dtype=torch.int64).to(counts.device)
        before = torch.cat([torch.zeros_like(counts[:1]), counts])[skips]
        return self.head(counts - before, steps.view(-1, 1, 1))

    def delay_at(self, timesteps: int) -> int:
        """Return the number of first timesteps that the read-out after `timesteps` skips."""
        return steps_skipped(self.delay, timesteps)


def check_name(layer: str) -> None:
    """Raise UsageError where a layer's tensors cannot be buffers of the network under its name."""
    first = layer.partition(".")[0]
    if hasattr(SpikingResNet, first) or first in _ATTRIBUTES:
        raise UsageError(
            f"a layer cannot be called {layer}: {first} is an attribute of the network, choose "
            "another name"
        )
