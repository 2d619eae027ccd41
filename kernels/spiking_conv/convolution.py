"""The convolution under a spiking layer, exact for integer weights.

Three paths compute it, chosen by `choose_path`:

* `onednn`: on a CPU with VNNI or AMX the int8 product runs in oneDNN and comes out as float32. That
  holds every sum under 2**24: those of one timestep, where the potentials of a run need float64.
  Its form with an accumulator (v = conv(x) + v in one call) is no gain: torch 2.13 adds in place
  and then returns a copy of the whole accumulator, 16 % of a run of ResNet-20.
* `direct`: on every other CPU a float convolution over integers, exact as long as no partial sum
  passes the mantissa; whoever makes a `Convolution` chooses the dtype so that none does. In float64
  it is slow (torch 2.13 has no oneDNN form), so integers whose sums float32 holds take that.
* `matmul`: integer weights on a GPU. cuDNN may pick a Winograd or FFT algorithm for a float32
  convolution, and those do not compute sums of the products: in a simulation of Winograd
  F(4x4, 3x3) over 300 tiles the worst error was 0.01 for spikes, but 0.28 for counts up to 32 and
  1.28 for counts up to 127 (512 channels), so rounding does not restore the integer. Here each tap
  of the kernel is one matrix product in float64. Every partial sum of the products, in whatever
  order a library adds them, is an integer of at most `sum_bound` < 2**53, which float64 holds
  exactly: nothing has to be rounded. Neither TF32 nor any other reduced precision that torch may be
  set to use for float32 applies to float64.

float32 weights take `direct` everywhere; on a GPU with TF32 off.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..precision import full_float32

Path = Literal["onednn", "direct", "matmul"]

_INTEGERS = (torch.uint8, torch.int8)

EXACT_FLOAT32, EXACT_FLOAT64 = 2**24, 2**53


def choose_path(*, integer: bool, device: str, narrow: bool) -> Path:
    """Return the path of a convolution.

    Args:
        integer: whether the weights are int8.
        device: type of the device, "cpu" or "cuda".
        narrow: whether inputs are integers in 8 bits, whose sums of products float32 holds.
    """
    if integer and device != "cpu":
        return "matmul"
    if integer and narrow and _onednn_is_exact():
        return "onednn"
    return "direct"


def sum_bound(weight: Tensor, largest: int) -> int:
    """Return the largest absolute value of any sum of the products that make one output element.

    With `largest` at `input_bound` it is at most `SpikingConv.current_bound`, and in a run of T
    timesteps at most T of those, which `SpikingConv.dtype` keeps under 2**53.
    """
    sums = weight.double().abs().sum((1, 2, 3))
    return int(sums.max().item()) * largest if len(sums) else 0


class Convolution:
    """Convolve with one weight.

    Args:
        weight: int8 or float `[Cout, Cin / groups, k, k]`.
        dtype: of the result, float32 or float64.
        largest: the largest absolute value in x; integers up to 255 may take the int8 path.

    Raises:
        OverflowError: float64 cannot hold every sum of integer products.
    """

    def __init__(
        self,
        weight: Tensor,
        stride: int,
        padding: int,
        dtype: torch.dtype,
        device: torch.device,
        largest: int,
        groups: int = 1,
    ) -> None:
        self.stride, self.padding, self.dtype, self.groups = stride, padding, dtype, groups
        integer = weight.dtype == torch.int8
        narrow = integer and largest <= 255 and sum_bound(weight, largest) < EXACT_FLOAT32
        self.path = choose_path(integer=integer, device=device.type, narrow=narrow)
        if self.path == "onednn":
            self.ones = torch.ones(len(weight))
            self.zeros = torch.zeros(len(weight), dtype=torch.int64)
            self.packed: dict[int, Tensor] = {}
        if self.path == "matmul":
            if sum_bound(weight, largest) >= EXACT_FLOAT64:
                raise OverflowError("sums of products can pass 2**53: run fewer timesteps")
            # [k, k, groups, Cin / groups, Cout / groups]: one matrix for each tap and group.
            parts = weight.to(device, torch.float64).unflatten(0, (groups, -1))
            self.taps = parts.permute(3, 4, 0, 2, 1).contiguous()
        else:
            # What is no integer in 8 bits takes this path under `onednn` too: floats are made when
            # something does, and before a GPU captures a graph.
            self.weight, self.narrow = weight.to(device), narrow
            self.floats: dict[torch.dtype, Tensor] = {}
            if device.type != "cpu":
                self._in(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Return conv(x, weight), float `[B, Cout, H, W]`, contiguous in channels_last.

        Args:
            x: `[B, Cin, H, W]`, uint8 (counts), int8 (spikes, from -1 up) or float.
        """
        if self.path == "matmul":
            return self._matmul(x)
        if self.path == "onednn" and x.dtype in _INTEGERS:
            # oneDNN wants unsigned inputs: -1, 0, 1 and so on go in as 0, 1, 2 with zero point 1.
            zero = 0 if x.dtype == torch.uint8 else 1
            x = x if zero == 0 else (x + 1).view(torch.uint8)
            product = self._onednn(x.contiguous(memory_format=torch.channels_last), zero)
            return product.to(self.dtype)
        if x.device.type == "cuda":
            with full_float32():
                return self._direct(x)
        return self._direct(x)

    def _direct(self, x: Tensor) -> Tensor:
        weight = self._in(torch.float32 if self.narrow and x.dtype in _INTEGERS else self.dtype)
        product = F.conv2d(
            x.to(weight.dtype), weight, None, self.stride, self.padding, groups=self.groups
        )
        return product.contiguous(memory_format=torch.channels_last).to(self.dtype)

    def _in(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in `dtype`, kept."""
        if dtype not in self.floats:
            weight = self.weight.to(dtype)
            self.floats[dtype] = weight.contiguous(memory_format=torch.channels_last)
        return self.floats[dtype]

    def _matmul(self, x: Tensor) -> Tensor:
        kernel, groups, channels = len(self.taps), self.groups, self.taps.shape[-1]
        batch = len(x)
        height, width = ((n + 2 * self.padding - kernel) // self.stride + 1 for n in x.shape[-2:])
        x = F.pad(x.permute(0, 2, 3, 1).double(), (0, 0, *[self.padding] * 4))
        total = torch.zeros(
            (groups, batch * height * width, channels), dtype=torch.float64, device=x.device
        )
        # The last row and column of each tap's inputs, counted from its first.
        last_y, last_x = self.stride * (height - 1), self.stride * (width - 1)
        for row in range(kernel):
            for column in range(kernel):
                seen = x[
                    :,
                    row : row + last_y + 1 : self.stride,
                    column : column + last_x + 1 : self.stride,
                ]
                parts = seen.flatten(0, 2).unflatten(1, (groups, -1)).transpose(0, 1)
                total.baddbmm_(parts, self.taps[row, column])
        total = total.transpose(0, 1).reshape(batch, height, width, groups * channels)
        return total.permute(0, 3, 1, 2).to(self.dtype)

    def _onednn(self, x: Tensor, zero: int) -> Tensor:
        if zero not in self.packed:
            self.packed[zero] = torch.ops.onednn.qconv_prepack(
                self.weight, self.ones, 1.0, zero, *self._geometry, self.groups, list(x.shape)
            )
        weight = self.packed[zero]
        scale, zeros = self.ones, self.zeros
        output = (1.0, 0, torch.float32)  # scale, zero point, dtype
        geometry = (*self._geometry, self.groups)
        return torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, zero, weight, scale, zeros, None, *geometry, *output, "none", [], ""
        )

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        return [self.stride] * 2, [self.padding] * 2, [1, 1]


@functools.cache
def _onednn_is_exact() -> bool:
    """Return whether oneDNN's int8 convolution is there, fast, and exact.

    Without VNNI it saturates pairs of products at 16 bits.
    """
    if (
        not torch.backends.mkldnn.is_available()
        or "AVX512" not in torch.backends.cpu.get_cpu_capability()
    ):
        return False
    probe = Convolution.__new__(Convolution)
    probe.stride, probe.padding, probe.groups = 1, 1, 1
    weight = torch.full((16, 16, 3, 3), 127, dtype=torch.int8)
    weight[1::2] = -127
    probe.weight, probe.packed = weight, {}
    probe.ones, probe.zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    try:
        for zero in (0, 1):
            x = torch.full((1, 16, 5, 5), 255 if zero == 0 else 2, dtype=torch.uint8)
            x[..., ::2] = 0
            expected = F.conv2d(x.double() - zero, weight.double(), padding=1)
            out = probe._onednn(x.contiguous(memory_format=torch.channels_last), zero)
            if not torch.equal(out.double(), expected):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True
