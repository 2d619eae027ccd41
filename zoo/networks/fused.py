"""Running a network on the fused kernels: packed spikes between layers, nothing else in memory.

The backends of a network, each giving the same spikes bit for bit:

* `torch`: the reference, on any device (`zoo.networks.spiking`);
* `triton`: the fused kernels, on a CUDA device;
* `interpret`: the same kernels in Triton's interpreter, on the CPU; slow, for checking them where no GPU is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.kernels.spiking_conv import (
    LAYERWISE_LIMIT,
    PackedMembrane,
    PackedSpikes,
    SpikingLayer,
    pooled_counts,
    unpack,
)
from zoo.networks.topology import IMAGE

if TYPE_CHECKING:
    from zoo.networks.run import Run
    from zoo.networks.spiking import SpikingResNet

Backend = Literal["auto", "triton", "torch", "interpret"]


# Four planes: what one float32 activation takes. A multiple of eight fills every byte.
WINDOW = 32


CHUNK = 256


_GRAPHS = 4


_INT32 = 2**31


def pick_backend(
    wanted: Backend, network: SpikingResNet
) -> Literal["triton", "torch", "interpret"]:
    """The backend to use for a network on its device: `auto` is triton on a CUDA device where it can run, else torch.

    Raises UsageError when what is asked for cannot run here.
    """
    on_gpu = network.device.type == "cuda"
    if wanted == "auto":
        able = (
            on_gpu
            and network.integer
            and _has_triton()
            and torch.cuda.get_device_capability(network.device) >= (8, 0)
        )
        return "triton" if able else "torch"
    if wanted == "torch":
        return "torch"
    if not _has_triton():
        raise UsageError(
            f"backend {wanted} needs triton, which is not installed: pip install triton, or use torch"
        )
    if not network.integer:
        raise UsageError(
            f"backend {wanted} runs int8 networks, and this one is float32: use the torch backend"
        )
    if wanted == "interpret":
        if on_gpu:
            raise UsageError("backend interpret runs on the CPU: pass the device cpu with it")
        return "interpret"
    if not torch.cuda.is_available():
        raise UsageError(
            "backend triton needs a CUDA GPU, and there is none here: use torch, or interpret to check kernels"
        )
    if not on_gpu:
        raise UsageError("backend triton runs on a CUDA GPU: pass the device cuda with it")
    return "triton"


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class PackedNetwork:
    """A SpikingResNet's layers laid out for the fused kernels.

    Attributes:
        limit: the most timesteps it can run: int32 potentials, and int8 counts of a layerwise run.
    """

    def __init__(self, network: SpikingResNet, *, interpret: bool = False) -> None:
        self.network, self.interpret = network, interpret
        self.layers = {
            name: SpikingLayer(layer, interpret=interpret) for name, layer in network.layers.items()
        }
        self.limit = min(
            (_INT32 - layer.potential_bound(0)) // max(layer.current_bound, 1) - 1
            for layer in network.layers.values()
        )
        if network.schedule == "layerwise":
            self.limit = min(self.limit, LAYERWISE_LIMIT)
        self._graphs: dict[tuple[int, ...], _Graph] = {}

    def run_chunk(
        self,
        images: Tensor,
        timesteps: int,
        marks: Sequence[int],
        window: int,
        watch: Callable[[str, Tensor], None] | None,
    ) -> Run:
        """One chunk of images, as `SpikingResNet.run` does it; on a GPU as one CUDA graph when nothing is to be observed."""
        from zoo.networks.run import Run

        x = self._stem_input(images, timesteps)
        spikes: dict[int, dict[str, Tensor]] = {}
        if x.device.type == "cuda" and not marks and watch is None and len(x):
            key = (*x.shape, timesteps, window)
            if key not in self._graphs:
                while len(self._graphs) >= _GRAPHS:
                    del self._graphs[next(iter(self._graphs))]
                self._graphs[key] = _Graph(
                    lambda x: self._body(x, timesteps, (), window, {}, None)[0], x
                )
            pooled = self._graphs[key](x)
        else:
            sizes = self.network.net.sizes(*images.shape[-2:])
            totals = {
                name: torch.zeros(
                    (*sizes[name], layer.channels), dtype=torch.int32, device=x.device
                )
                for name, layer in self.layers.items()
                if marks
            }
            pooled, spikes = self._body(x, timesteps, marks, window, totals, watch)
        if self.network.schedule == "layerwise":
            return Run(self.network.head(pooled.long(), timesteps)[None], spikes)
        return Run(self.network.read_out(pooled.long().cumsum(0)), spikes)

    def _stem_input(self, images: Tensor, timesteps: int) -> Tensor:
        """The stem's constant current, int32 [B, H, W, C]; of a layerwise network its counts, uint8.

        Once a run, so torch does it: the convolution of one image where the kernels do T timesteps.
        """
        network = self.network
        stem = network.layers[network.net.layers[0].name]
        current = stem.current(network.pixels(images), timesteps)
        if network.schedule == "layerwise":
            return (
                stem.count(current, None, timesteps, constant=True).permute(0, 2, 3, 1).contiguous()
            )
        return current.permute(0, 2, 3, 1).to(torch.int32).contiguous()

    def _body(
        self,
        x: Tensor,
        timesteps: int,
        marks: Sequence[int],
        window: int,
        totals: Mapping[str, Tensor],
        watch: Callable[[str, Tensor], None] | None,
    ) -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
        """Everything behind the stem's input: pooled spikes by timestep, [T, B, C] (layerwise: [B, C]), and spikes by mark."""
        from zoo.networks.run import windows

        if self.network.schedule == "layerwise":
            return self._layerwise(x, timesteps, marks, watch)
        membranes = {name: PackedMembrane() for name in self.layers}
        pooled, spikes = [], {}
        for begin, end in windows(timesteps, window, marks):
            last = self._run_window(x, end - begin, end < timesteps, membranes, totals, watch)
            pooled.append(pooled_counts(last, self.interpret))
            if end in marks:
                spikes[end] = {
                    name: total.permute(2, 0, 1).long() for name, total in totals.items()
                }
        return torch.cat(pooled), spikes

    def _run_window(
        self,
        current: Tensor,
        steps: int,
        save: bool,
        membranes: Mapping[str, PackedMembrane],
        totals: Mapping[str, Tensor],
        watch: Callable[[str, Tensor], None] | None,
    ) -> PackedSpikes:
        out: dict[str, PackedSpikes] = {}
        net = self.network.net
        last = net.last_reader()
        for index, spec in enumerate(net.layers):
            layer, membrane, counts = (
                self.layers[spec.name],
                membranes[spec.name],
                totals.get(spec.name),
            )
            if spec.source == IMAGE:
                spikes = layer.run(current, None, membrane, steps=steps, save=save, counts=counts)
            else:
                source = out[spec.shortcut.source] if spec.shortcut else None
                spikes = layer.run(out[spec.source], source, membrane, save=save, counts=counts)
            if watch is not None:
                watch(spec.name, unpack(spikes))
            out[spec.name] = spikes
            for name in [name for name in out if last[name] <= index and name != spec.name]:
                del out[name]
        return spikes

    def _layerwise(
        self,
        stem: Tensor,
        timesteps: int,
        marks: Sequence[int],
        watch: Callable[[str, Tensor], None] | None,
    ) -> tuple[Tensor, dict[int, dict[str, Tensor]]]:
        out: dict[str, Tensor] = {}
        totals = {}
        net = self.network.net
        last = net.last_reader()
        for index, spec in enumerate(net.layers):
            count = stem
            if spec.source != IMAGE:
                source = out[spec.shortcut.source] if spec.shortcut else None
                count = self.layers[spec.name].count(out[spec.source], source, timesteps)
            if timesteps in marks:
                totals[spec.name] = count.sum(0, dtype=torch.int64).permute(2, 0, 1)
            if watch is not None:
                watch(spec.name, count.permute(0, 3, 1, 2))
            out[spec.name] = count
            for name in [name for name in out if last[name] <= index and name != spec.name]:
                del out[name]
        return count.sum((1, 2), dtype=torch.int64), {
            timesteps: totals
        } if timesteps in marks else {}


class _Graph:
    """A function of one tensor captured as a CUDA graph: one launch instead of some 200."""

    def __init__(self, function: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self.input = example.clone()
        side = torch.cuda.Stream(example.device)
        side.wait_stream(torch.cuda.current_stream(example.device))
        with torch.cuda.stream(side):
            function(self.input)  # compiles and allocates what a capture must not
        torch.cuda.current_stream(example.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(self.input)

    def __call__(self, x: Tensor) -> Tensor:
        self.input.copy_(x)
        self.graph.replay()
        return self.output.clone()
