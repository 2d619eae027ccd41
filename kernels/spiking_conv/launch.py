"""Starting the fused kernels: layout, tiles, membranes between windows.

Compiled on a CUDA device, interpreted anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..neuron import packed_bits
from .packing import PackedSpikes
from .reference import SpikingConv
from .tiles import Tile, choose

LAYERWISE_LIMIT = 127  # counts are the int8 operand of one dot product
_STEM_BLOCK = 1024


@functools.cache
def kernels(interpret: bool) -> ModuleType:
    """Return the module of kernels, compiled or for Triton's interpreter; both live in one process.

    A kernel is one or the other from the moment it is defined, and calls device functions of its
    own kind alone. So the files are loaded once for each, as modules of a package of that name.
    """
    import triton

    # No file of this folder has such a name: it would be found in place of the file.
    package = ModuleType(f"{__package__}._kernels_{'interpreted' if interpret else 'compiled'}")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules[package.__name__] = package
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = interpret
        return importlib.import_module(f"{package.__name__}.kernel")


@functools.cache
def architecture(device: torch.device) -> str:
    """Return the name of a CUDA device's architecture, `sm_90` and so on."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@dataclass
class PackedMembrane:
    """The state of a layer between windows of timesteps.

    Attributes:
        v: potentials, int32 `[B, H, W, C]`, None before the first window.
        emitted: net spikes so far (`signed`), as v.
        t: timesteps done.
    """

    v: Tensor | None = None
    emitted: Tensor | None = None
    t: int = 0


class SpikingLayer:
    """One integer layer, laid out for the fused kernels; spikes equal `SpikingConv`'s bit for bit.

    A convolution in groups runs as one of all channels, with weights of zero between the groups.

    Args:
        layer: the parameters, on the device where it will run.
        interpret: run in Triton's interpreter, on the CPU.
        tile: instead of the table's, for tests and the tuner.

    Raises:
        ValueError: the layer is not an integer one.
    """

    def __init__(
        self, layer: SpikingConv, *, interpret: bool = False, tile: Tile | None = None
    ) -> None:
        if not layer.integer:
            raise ValueError(
                "fused kernels take integer layers: run float32 networks on the torch backend"
            )
        self.layer, self.interpret, self.tile = layer, interpret, tile
        self.channels, inputs, self.kernel = (layer.weight.shape[i] for i in (0, 1, 3))
        self.inputs = inputs * layer.groups
        self.shortcut = 1 if layer.gain is not None else 2 if layer.projection is not None else 0
        self._laid_out: dict[Tile, dict[str, Any]] = {}

    def key(self, height: int, width: int, kind: str = "") -> str:
        """Return the name of this layer in the table of tiles.

        Args:
            height, width: of its output.
            kind: "layerwise", else the layer's neuron.
        """
        shortcut = ("none", "identity", "projection")[self.shortcut]
        convolution = f"{self.kernel}x{self.kernel}/{self.layer.stride}"
        size = f"{self.inputs}->{self.channels} {height}x{width}"
        return f"{convolution} {size} {shortcut} {kind or self.layer.neuron}"

    def run(
        self,
        x: PackedSpikes | Tensor,
        source: PackedSpikes | None,
        membrane: PackedMembrane,
        *,
        steps: int | None = None,
        save: bool = True,
        counts: Tensor | None = None,
    ) -> PackedSpikes:
        """Run one window of timesteps and return its spikes.

        Planes are `[S, ceil(T width / 8), B, H, W, Cout]`.

        Args:
            x: input spikes, or the stem's constant current int32 `[B, H, W, Cout]` with `steps`
                timesteps.
            source: spikes of the shortcut's source.
            membrane: state of the run; updated in place.
            save: whether another window follows; without it potentials are not written.
            counts: int32 `[H, W, Cout]`; each neuron's spikes, over the batch, are added to it.
        """
        layer = self.layer
        signed = layer.neuron == "signed"
        if isinstance(x, PackedSpikes):
            steps, (batch, *size) = x.timesteps, x.planes.shape[2:5]
            height, width = (
                (n + 2 * layer.padding - self.kernel) // layer.stride + 1 for n in size
            )
        else:
            assert steps is not None
            batch, height, width = x.shape[:3]
        device = layer.weight.device
        shape = (batch, height, width, self.channels)
        bits, field = layer.bits, packed_bits(layer.bits)
        planes = torch.empty(
            (1 + signed, -(-steps * field // 8), *shape), dtype=torch.uint8, device=device
        )
        first = membrane.v is None
        v = (
            membrane.v
            if membrane.v is not None
            else torch.empty(shape if save else 0, dtype=torch.int32, device=device)
        )
        emitted = membrane.emitted
        if emitted is None:
            emitted = torch.empty(shape if save and signed else 0, dtype=torch.int32, device=device)
        pixels = batch * height * width
        shared = {
            "v_ptr": v,
            "emitted_ptr": emitted,
            "out_ptr": planes,
            "count_ptr": v if counts is None else counts,
            "timesteps": steps,
            "first_timestep": membrane.t,
            "BIAS_ROWS": len(layer.bias),
            "SIGNED": signed,
            "BITS": bits,
            "FIELD": field,
            "FIRST_WINDOW": first,
            "SAVE_MEMBRANE": save,
            "COUNT_SPIKES": counts is not None,
        }
        if steps == 0:
            return PackedSpikes(planes, steps, bits)
        if save:
            membrane.v, membrane.emitted = v, emitted
        membrane.t += steps
        if pixels == 0:
            return PackedSpikes(planes, steps, bits)
        with _on(device):
            if isinstance(x, Tensor):
                self._run_constant(x, height * width, shared)
                return PackedSpikes(planes, steps, bits)
            tile = self._tile_for(pixels, height, width, layer.neuron)
            laid_out = self._layout(tile)
            source_planes = None if source is None else source.planes
            source_field = field if source is None else source.width
            kernels(self.interpret).spiking_conv[_grid(pixels, laid_out, tile)](
                x_ptr=x.planes,
                source_ptr=x.planes if source_planes is None else source_planes,
                **_tensors(laid_out, "weight", "projection", "gain", "bias", "threshold", "v_init"),
                pixels=pixels,
                INPUT_SIGNED=x.signed,
                SOURCE_SIGNED=source is not None and source.signed,
                INPUT_FIELD=x.width,
                SOURCE_FIELD=source_field,
                # A group lies within one byte of each.
                GROUP=min(tile.group, 8 // max(field, x.width, source_field)),
                INTERPRETED=self.interpret,
                **shared,
                **self._geometry(x.planes, source_planes, height, width, laid_out),
                **self._blocks(tile, laid_out),
            )
        return PackedSpikes(planes, steps, bits)

    def count(self, x: Tensor, source: Tensor | None, timesteps: int) -> Tensor:
        """Return the spike counts of a layerwise run, uint8 `[B, H, W, Cout]`.

        Args:
            x: counts of the layer's source, uint8 `[B, H, W, Cin]`.
            source: counts of the shortcut's source, uint8 `[B, H', W', Csrc]`.

        Raises:
            OverflowError: more than 127 timesteps.
        """
        if timesteps > LAYERWISE_LIMIT:
            raise OverflowError(
                f"layerwise kernels take up to {LAYERWISE_LIMIT} timesteps, not {timesteps}: "
                "use the torch backend"
            )
        layer = self.layer
        batch, *size = x.shape[:3]
        height, width = ((n + 2 * layer.padding - self.kernel) // layer.stride + 1 for n in size)
        out = torch.empty((batch, height, width, self.channels), dtype=torch.uint8, device=x.device)
        pixels = batch * height * width
        if pixels == 0:
            return out
        tile = self._tile_for(pixels, height, width, "layerwise")
        laid_out = self._layout(tile)
        offset = torch.zeros(laid_out["PADDED_CHANNELS"], dtype=torch.int32, device=x.device)
        offset[: self.channels] = layer.offset(timesteps).to(torch.int32)
        with _on(x.device):
            kernels(self.interpret).layerwise_conv[_grid(pixels, laid_out, tile)](
                x_ptr=x,
                source_ptr=x if source is None else source,
                **_tensors(laid_out, "weight", "projection", "gain", "threshold"),
                offset_ptr=offset,
                out_ptr=out,
                pixels=pixels,
                timesteps=timesteps,
                **self._geometry(x, source, height, width, laid_out),
                **self._blocks(tile, laid_out),
            )
        return out

    def _run_constant(self, current: Tensor, area: int, shared: dict[str, Any]) -> None:
        layer, neurons = self.layer, current.numel()
        block = _STEM_BLOCK if not self.interpret else 1 << min(20, neurons.bit_length())
        kernels(self.interpret).constant_input[(-(-neurons // block),)](
            current_ptr=current,
            bias_ptr=layer.bias,
            threshold_ptr=layer.threshold,
            v_init_ptr=layer.v_init,
            neurons=neurons,
            AREA=area,
            OUT_CHANNELS=self.channels,
            BLOCK_NEURONS=block,
            **shared,
            **_options(self.interpret),
        )

    def _tile_for(self, pixels: int, height: int, width: int, kind: str) -> Tile:
        if self.tile is not None:
            return self.tile
        if self.interpret:
            # Few large programs: every operation costs the interpreter some 50 microseconds.
            return Tile(_power(min(pixels, 4096)), _power(min(self.channels, 512)), 64, 8, 4, 1)
        key = self.key(height, width, kind)
        kind += " projection" if self.shortcut == 2 else ""
        return choose(architecture(self.layer.weight.device), kind, self.channels, key)

    def _layout(self, tile: Tile) -> dict[str, Any]:
        """Return the parameters as the kernels read them under `tile`.

        K runs over (row, column, input channel); all is padded to whole tiles.
        """
        if tile not in self._laid_out:
            layer, device = self.layer, self.layer.weight.device
            sources = self.inputs if layer.projection is None else layer.projection.shape[1]
            # A depth that divides the channels keeps a block within one tap, which addresses a
            # whole row at once.
            depth = (
                tile.depth
                if self.inputs % tile.depth == 0 and sources % tile.depth == 0
                else min(32, tile.depth)
            )
            padded = -(-self.channels // tile.channels) * tile.channels

            def per_channel(values: Tensor | None, fill: int = 0) -> Tensor:
                out = torch.full((padded,), fill, dtype=torch.int32, device=device)
                if values is not None:
                    out[: self.channels] = values
                return out

            def matrix(weight: Tensor | None) -> Tensor:
                if weight is None:
                    return torch.zeros(0, dtype=torch.int8, device=device)
                rows = weight.permute(0, 2, 3, 1).flatten(1)
                out = torch.zeros(
                    (padded, -(-rows.shape[1] // depth) * depth), dtype=torch.int8, device=device
                )
                out[: self.channels, : rows.shape[1]] = rows
                return out

            bias = torch.zeros((len(layer.bias), padded), dtype=torch.int32, device=device)
            bias[:, : self.channels] = layer.bias
            weight, projection = matrix(_dense(layer)), matrix(layer.projection)
            self._laid_out[tile] = {
                "weight": weight,
                "projection": projection,
                "gain": per_channel(layer.gain),
                "bias": bias,
                "threshold": per_channel(layer.threshold, 1),
                "v_init": per_channel(layer.v_init),
                "PADDED_CHANNELS": padded,
                "BLOCK_DEPTH": depth,
                "DEPTH_BLOCKS": weight.shape[1] // depth,
                "PROJECTION_BLOCKS": projection.shape[1] // depth if projection.numel() else 0,
            }
        return self._laid_out[tile]

    def _geometry(
        self,
        x: Tensor,
        source: Tensor | None,
        height: int,
        width: int,
        laid_out: dict[str, Any],
    ) -> dict[str, int]:
        layer = self.layer
        rows, columns, channels = (1, 1, 1) if source is None else source.shape[-3:]
        return {
            "IN_HEIGHT": x.shape[-3],
            "IN_WIDTH": x.shape[-2],
            "IN_CHANNELS": self.inputs,
            "OUT_HEIGHT": height,
            "OUT_WIDTH": width,
            "OUT_CHANNELS": self.channels,
            "PADDED_CHANNELS": laid_out["PADDED_CHANNELS"],
            "KERNEL_SIZE": self.kernel,
            "STRIDE": layer.stride,
            "PADDING": layer.padding,
            "DEPTH_BLOCKS": laid_out["DEPTH_BLOCKS"],
            "SHORTCUT": self.shortcut,
            "SOURCE_HEIGHT": rows,
            "SOURCE_WIDTH": columns,
            "SOURCE_CHANNELS": channels,
            "SHORTCUT_STRIDE": layer.shortcut_stride,
            "SHORTCUT_PAD": layer.shortcut_pad,
            "PROJECTION_KERNEL": 1 if layer.projection is None else layer.projection.shape[-1],
            "PROJECTION_PADDING": layer.shortcut_padding,
            "PROJECTION_BLOCKS": laid_out["PROJECTION_BLOCKS"],
        }

    def _blocks(self, tile: Tile, laid_out: dict[str, Any]) -> dict[str, Any]:
        blocks = {
            "BLOCK_PIXELS": tile.pixels,
            "BLOCK_CHANNELS": tile.channels,
            "BLOCK_DEPTH": laid_out["BLOCK_DEPTH"],
        }
        if self.interpret:
            return blocks
        return {
            **blocks,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **_options(self.interpret),
        }


def _dense(layer: SpikingConv) -> Tensor:
    """Return the weights `[Cout, Cin, k, k]` of a convolution without its groups."""
    if layer.groups == 1:
        return layer.weight
    parts = layer.weight.unflatten(0, (layer.groups, -1)).unbind()
    outputs, inputs = parts[0].shape[:2]
    dense = layer.weight.new_zeros((len(layer.weight), layer.groups * inputs, *parts[0].shape[2:]))
    for group, part in enumerate(parts):
        rows, columns = group * outputs, group * inputs
        dense[rows : rows + outputs, columns : columns + inputs] = part
    return dense


def pooled_counts(packed: PackedSpikes, interpret: bool = False) -> Tensor:
    """Return the net spikes of each channel over its area, at each timestep: int32 `[T, B, C]`."""
    planes = packed.planes
    batch, height, width, channels = planes.shape[2:]
    out = torch.empty((packed.timesteps, batch, channels), dtype=torch.int32, device=planes.device)
    if out.numel() == 0:
        return out
    block = min(_power(channels), 64)
    with _on(planes.device):
        kernels(interpret).sum_over_area[(batch, -(-channels // block))](
            x_ptr=planes,
            out_ptr=out,
            images=batch,
            timesteps=packed.timesteps,
            AREA=height * width,
            CHANNELS=channels,
            FIELD=packed.width,
            SIGNED=packed.signed,
            BLOCK_AREA=_power(height * width),
            BLOCK_CHANNELS=block,
            **_options(interpret),
        )
    return out


def _options(interpret: bool) -> dict[str, Any]:
    # Nothing here is floating-point; said all the same, since Triton 3.9 warns where it is left to
    # a default that will change.
    return {} if interpret else {"enable_fp_fusion": False}


def _tensors(laid_out: dict[str, Any], *names: str) -> dict[str, Tensor]:
    return {f"{name}_ptr": laid_out[name] for name in names}


def _grid(pixels: int, laid_out: dict[str, Any], tile: Tile) -> tuple[int]:
    return (-(-pixels // tile.pixels) * (laid_out["PADDED_CHANNELS"] // tile.channels),)


def _power(n: int) -> int:
    return 1 << max(4, (n - 1).bit_length())


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
