"""The reference of a spiking layer, in plain torch; every backend reproduces it spike for spike.

One layer, at timestep t (Hu, Tang and Pan, arXiv:1805.01352, with the initial potential of Bu et
al., arXiv:2303.04347):

    v[t] = v[t-1] + conv(s_in[t]) + bias[min(t, P-1)] + shortcut(s_src[t])      v[-1] = v_init
    `if`:          s[t] = 1 where v[t] >= threshold, else 0
    `signed`:      the same, and s[t] = -1 where v[t] < 0 and the neuron has emitted more +1 than -1
    `multi-level`: s[t] = clip(floor(v[t] / threshold), 0, 2**bits - 1), a graded spike (H-MT, Zhang
                   et al., AAAI 2026): as many binary spikes in one timestep, of weights 1, 2, 4,
                   ..., as it has bits set
    v[t] -= threshold * s[t]                                (soft reset, in the same timestep)

Layerwise, the layer fires after it has received all T inputs; then its spike count is
clip(floor((v_init + sum of currents) / threshold), 0, T), and one convolution on counts gives it.
All tensors of an integer layer hold integers; arithmetic runs in float32 while the bound on |v|
stays under 2**24 and in float64 beyond, so it is exact either way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..neuron import Neuron
from .convolution import EXACT_FLOAT32, EXACT_FLOAT64, Convolution

# Values of the currents that one convolution leaves behind for its neurons, 16 MB. ResNet-20, one
# core, compiled neurons, chunks of 25: 178 images/s with 2**21, 198 with 2**22, 190 with 2**23.
CURRENTS = 2**22


@dataclass
class Membrane:
    """The state of a layer from one window of timesteps to the next.

    Attributes:
        v: membrane potential after the last reset, float `[B, C, H, W]`.
        emitted: net spikes so far (`signed` only), in v's dtype.
        t: timesteps done.
    """

    v: Tensor
    emitted: Tensor | None = None
    t: int = 0


@dataclass(frozen=True, eq=False)
class SpikingConv:
    """Parameters of one spiking layer, and its reference execution.

    Integer form: weight and projection int8, everything else int32, in one scale per output channel
    with the amplitudes of the inputs folded in. Float form: float32 throughout, for research and
    for measuring what int8 costs.

    Attributes:
        weight: `[Cout, Cin / groups, k, k]`.
        bias: `[P, Cout]`, added at timestep min(t, P - 1).
        threshold, v_init: `[Cout]`; threshold > 0.
        gain: `[Cout]` of an identity shortcut, which reads every `shortcut_stride`-th row and
            column of its source and adds it to channels `shortcut_pad` to Cout - `shortcut_pad`.
        projection: `[Cout, Csrc, k, k]` of a projection shortcut, with `shortcut_stride` and
            `shortcut_padding`.
        max_pool: 3x3 max-pooling with stride 2 on the constant current (exact: ReLU and max
            commute).
        input_bound, source_bound: the largest absolute value of one element of the input and of the
            shortcut's source: 2**bits - 1 of their spikes; the stem's image has more, and so has a
            sum of spikes.
        summed: spikes that one element of the input is the sum of, more than one behind pooling
            over an area.
        bits: of its own spikes: 1, or more if `multi-level`.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    v_init: Tensor
    stride: int = 1
    padding: int = 0
    neuron: Neuron = "if"
    gain: Tensor | None = None
    projection: Tensor | None = None
    shortcut_stride: int = 1
    shortcut_pad: int = 0
    max_pool: bool = False
    input_bound: int = 1
    source_bound: int = 1
    bits: int = 1
    groups: int = 1
    shortcut_padding: int = 0
    summed: int = 1
    _prepared: dict[tuple[torch.dtype, int, int], tuple[Convolution, Convolution | None]] = field(
        init=False, default_factory=dict, repr=False
    )

    @property
    def integer(self) -> bool:
        return self.weight.dtype == torch.int8

    @property
    def max_level(self) -> int:
        """Return the largest spike."""
        return 2**self.bits - 1

    def to(self, device: torch.device | str) -> SpikingConv:
        """Return the same layer with its parameters on `device`."""
        move = {
            name: value.to(device)
            for name in ("weight", "bias", "threshold", "v_init", "gain", "projection")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **move)

    @functools.cached_property
    def current_bound(self) -> int:
        """Return the largest |current| one timestep can bring to any neuron, in integer units."""
        bound = self.weight.double().abs().sum(
            (1, 2, 3)
        ) * self.input_bound + self.bias.double().abs().amax(0)
        if self.gain is not None:
            bound += self.gain.double().abs() * self.source_bound
        if self.projection is not None:
            bound += self.projection.double().abs().sum((1, 2, 3)) * self.source_bound
        return int(bound.max().item())

    def potential_bound(self, timesteps: int) -> int:
        """Return the largest |v| of any neuron in a run of `timesteps`, in integer units."""
        return timesteps * self.current_bound + self._first_bound

    @functools.cached_property
    def _first_bound(self) -> int:
        # Kept: within the capture of a CUDA graph nothing may wait for the device.
        largest = self.v_init.double().abs() + self.threshold.double() * self.max_level
        return int(largest.max().item())

    def dtype(self, timesteps: int) -> torch.dtype:
        """Return the narrowest float that holds every potential of a run of `timesteps` exactly.

        Float layers run in float32.

        Raises:
            OverflowError: float64 cannot hold them either.
        """
        if not self.integer:
            return torch.float32
        largest = self.potential_bound(timesteps)
        if largest >= EXACT_FLOAT64:
            raise OverflowError(
                f"potentials of {timesteps} timesteps can pass 2**53: run fewer timesteps"
            )
        return torch.float32 if largest < EXACT_FLOAT32 else torch.float64

    def current(self, x: Tensor, timesteps: int) -> Tensor:
        """Return the current without bias that a constant input brings at every timestep.

        Float `[B, Cout, H, W]`, max-pooled; the constant input is the stem's image.
        """
        dtype = torch.float32
        if self.integer and self.current_bound >= EXACT_FLOAT32:
            dtype = torch.float64
        main, _ = self.convolutions(dtype)
        current = main(x)
        if self.max_pool:
            current = torch.nn.functional.max_pool2d(current, 3, 2, 1).contiguous(
                memory_format=torch.channels_last
            )
        return current.to(self.dtype(timesteps))

    def membrane(self, batch: int, height: int, width: int, timesteps: int) -> Membrane:
        """Return a membrane `[batch, Cout, height, width]` at v_init for a run of `timesteps`."""
        v = self._empty(batch, height, width, self.dtype(timesteps)).copy_(
            _column(self.v_init, self.dtype(timesteps))
        )
        return Membrane(v, torch.zeros_like(v) if self.neuron == "signed" else None)

    def run(
        self,
        x: Tensor,
        shortcut: Tensor | None,
        membrane: Membrane,
        window: int | None = None,
        adjust: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Step the layer through a window and return its spikes, int8 `[T, B, Cout, H, W]`.

        Spikes are 0 or 1, -1 to 1, or 0 to `max_level`.

        Args:
            x: spikes int8 `[T, B, Cin, H, W]` (uint8, where none is -1, is faster), or the stem's
                constant current (float `[B, Cout, H, W]`, with `window` = T).
            shortcut: spikes of the shortcut's source, int8 or uint8 `[T, B, Csrc, H', W']`, if the
                layer has one.
            membrane: carried in and out; updated in place.
            adjust: called with the timestep and the potential before the neurons fire; the `[Cout]`
                it returns is added to it. Calibration finds the bias of a timestep so.
        """
        v = membrane.v
        threshold, bias = _column(self.threshold, v.dtype), self.bias.to(v.dtype)
        steps = len(x) if window is None else window
        main, projection = self.convolutions(v.dtype)
        spikes = torch.empty(
            (steps, *v.permute(0, 2, 3, 1).shape), dtype=torch.int8, device=v.device
        )
        spikes = spikes.permute(0, 1, 4, 2, 3)
        fired, below, owed = (torch.empty_like(v) for _ in range(3))
        group = self.steps_at_once(v)
        for step in range(steps):
            part, within = slice(step, step + group), step % group
            if within == 0 and window is None:
                currents = convolve(main, x[part])
            if within == 0 and shortcut is not None and projection is not None:
                projected = convolve(projection, shortcut[part])
            v.add_(x if window is not None else currents[within])
            if projection is not None:
                v.add_(projected[within])
            elif shortcut is not None:
                self._add_identity(v, shortcut[step])
            v.add_(bias[min(membrane.t, len(bias) - 1)].view(-1, 1, 1))
            if adjust is not None:
                v.add_(adjust(membrane.t, v).view(-1, 1, 1))
            if self.bits == 1:
                torch.ge(v, threshold, out=fired)
            else:  # exact, as in `fire`
                torch.div(v, threshold, out=fired).floor_().clamp_(0, self.max_level)
            if membrane.emitted is not None:
                torch.lt(v, 0, out=below)
                torch.gt(membrane.emitted, 0, out=owed)
                fired.addcmul_(below, owed, value=-1)
                membrane.emitted.add_(fired)
            v.addcmul_(fired, threshold, value=-1)
            spikes[step].copy_(fired)
            membrane.t += 1
        return spikes

    def steps_at_once(self, v: Tensor) -> int:
        """Return how many timesteps one convolution takes: as many as leave currents in the cache.

        Float layers take one: another batch may round another way. So does a GPU.
        """
        if not self.integer or v.device.type != "cpu":
            return 1
        return max(1, CURRENTS // max(v.numel(), 1))

    def accumulated_input(
        self, x: Tensor, shortcut: Tensor | None, timesteps: int, constant: bool = False
    ) -> Tensor:
        """Return v_init plus all that a layerwise neuron receives in `timesteps`, before it fires.

        Args:
            x: counts of the source; with `constant`, the stem's current (float `[B, Cout, H, W]`).
            shortcut: counts of the shortcut's source.

        Returns:
            float `[B, Cout, H, W]`.
        """
        dtype = self.dtype(timesteps)
        if constant:
            total = x.to(dtype) * timesteps
        else:
            main, projection = self.convolutions(dtype, timesteps)
            total = main(x)
            if shortcut is not None and projection is not None:
                total.add_(projection(shortcut))
            elif shortcut is not None:
                self._add_identity(total, shortcut)
        return total.add_(_column(self.offset(timesteps), dtype))

    def offset(self, timesteps: int) -> Tensor:
        """Return v_init plus the bias of all `timesteps`, `[Cout]`.

        int64, or float of a float layer.
        """
        rows = self.bias.to(torch.int64 if self.integer else self.bias.dtype)
        return rows[:timesteps].sum(0) + max(timesteps - len(rows), 0) * rows[-1] + self.v_init

    def fire(self, accumulated: Tensor, timesteps: int) -> Tensor:
        """Return the spike counts clip(floor(accumulated / threshold), 0, T) of a layerwise layer.

        uint8 up to 255 timesteps, int32 beyond.
        """
        # The floor of the rounded quotient is the exact floor: both operands are integers under
        # half the mantissa's range.
        count = (
            accumulated.div(_column(self.threshold, accumulated.dtype))
            .floor_()
            .clamp_(0, timesteps)
        )
        return count.to(torch.uint8 if timesteps <= 255 else torch.int32)

    def count(
        self, x: Tensor, shortcut: Tensor | None, timesteps: int, constant: bool = False
    ) -> Tensor:
        """Return the spike counts `[B, Cout, H, W]` of a layerwise run.

        `fire` on `accumulated_input`.
        """
        return self.fire(self.accumulated_input(x, shortcut, timesteps, constant), timesteps)

    def _add_identity(self, v: Tensor, source: Tensor) -> None:
        assert self.gain is not None
        gain = _column(self.gain, v.dtype)
        inner = slice(self.shortcut_pad, v.shape[1] - self.shortcut_pad)
        source = source[:, :, :: self.shortcut_stride, :: self.shortcut_stride]
        v[:, inner].addcmul_(source, gain[inner])

    def _empty(self, batch: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
        shape = (batch, height, width, len(self.weight))
        return torch.empty(shape, dtype=dtype, device=self.weight.device).permute(0, 3, 1, 2)

    def convolutions(
        self, dtype: torch.dtype, largest: int | None = None
    ) -> tuple[Convolution, Convolution | None]:
        """Return the convolution and that of the projection.

        For spikes or counts up to `largest`, by default for the inputs of one timestep.
        """
        reads, side = self.input_bound, self.source_bound
        if largest is not None:
            reads, side = largest * self.summed, largest
        key = (dtype, min(reads, 256), min(side, 256))
        if key not in self._prepared:
            device, projection = self.weight.device, self.projection
            self._prepared[key] = (
                Convolution(
                    self.weight,
                    self.stride,
                    self.padding,
                    dtype,
                    device,
                    reads,
                    self.groups,
                ),
                None
                if projection is None
                else Convolution(
                    projection,
                    self.shortcut_stride,
                    self.shortcut_padding,
                    dtype,
                    device,
                    side,
                ),
            )
        return self._prepared[key]


def convolve(convolution: Convolution, x: Tensor) -> Tensor:
    """Return the convolution of `[T, B, C, H, W]` in one call, as `[T, B, Cout, H', W']`."""
    flat = x.permute(0, 1, 3, 4, 2).flatten(0, 1).permute(0, 3, 1, 2)
    return convolution(flat).unflatten(0, x.shape[:2])


def _column(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).view(-1, 1, 1)
