"""The convolution under a spiking layer, added to a membrane potential in place, exact for integer weights.

On a CPU with VNNI the int8 product runs in oneDNN with the membrane as its accumulator (v = conv(x) + v in one call): on two
Zen 5 cores 390 to 1,120 GMAC/s against 160 to 270 for float32. Everywhere else a float convolution over integers is exact
too, as long as no partial sum passes the mantissa; whoever makes a `Convolution` chooses the dtype so that none does.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


class Convolution:
    """Adds conv(x, weight) to a potential.

    Args:
        weight: int8 or float [Cout, Cin, k, k].
        dtype: of the potential, float32 or float64.
        largest: the largest absolute value in x; integers up to 255 may take the int8 path.
    """

    def __init__(
        self,
        weight: Tensor,
        stride: int,
        padding: int,
        dtype: torch.dtype,
        device: torch.device,
        largest: int,
    ) -> None:
        self.stride, self.padding, self.dtype = stride, padding, dtype
        self.integer = weight.dtype == torch.int8
        self.vnni = (
            self.integer
            and dtype == torch.float32
            and device.type == "cpu"
            and largest <= 255
            and _vnni_is_exact()
        )
        if self.vnni:
            self.ones = torch.ones(len(weight))
            self.zeros = torch.zeros(len(weight), dtype=torch.int64)
            self.packed: dict[int, Tensor] = {}
        self.weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.weight_int8 = weight if self.vnni else None

    def add_to(self, v: Tensor, x: Tensor) -> Tensor:
        """Returns v + conv(x, weight), float [B, Cout, H, W], in v's memory where it can.

        x [B, Cin, H, W] is uint8 (counts), int8 (spikes, from -1 up) or float; v must be contiguous in channels_last.
        """
        if self.vnni and x.dtype in (torch.uint8, torch.int8):
            # oneDNN wants unsigned inputs: -1, 0, 1 and so on go in as 0, 1, 2 with zero point 1.
            zero = 0 if x.dtype == torch.uint8 else 1
            x = x if zero == 0 else (x + 1).view(torch.uint8)
            return self._onednn(v, x.contiguous(memory_format=torch.channels_last), zero)
        if v.device.type == "cuda":
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ):
                current = F.conv2d(x.to(self.dtype), self.weight, None, self.stride, self.padding)
            # A Winograd algorithm is off by far less than one half: rounding restores the integer.
            return v.add_(current.round_() if self.integer else current)
        return v.add_(F.conv2d(x.to(self.dtype), self.weight, None, self.stride, self.padding))

    def _onednn(self, v: Tensor, x: Tensor, zero: int) -> Tensor:
        if zero not in self.packed:
            self.packed[zero] = torch.ops.onednn.qconv_prepack(
                self.weight_int8, self.ones, 1.0, zero, *self._geometry, 1, list(x.shape)
            )
        return torch.ops.onednn.qconv2d_pointwise.binary(
            x,
            1.0,
            zero,
            self.packed[zero],
            self.ones,
            self.zeros,
            v,
            None,
            *self._geometry,
            1,
            1.0,
            0,
            torch.float32,
            1.0,
            0,
            "sum",
            1.0,
            "none",
            [],
            "",
        )

    @property
    def _geometry(self) -> tuple[list[int], list[int], list[int]]:
        return [self.stride] * 2, [self.padding] * 2, [1, 1]


@functools.cache
def _vnni_is_exact() -> bool:
    """Whether oneDNN's int8 convolution is there, fast, and exact: without VNNI it saturates pairs of products at 16 bits."""
    if (
        not torch.backends.mkldnn.is_available()
        or "AVX512" not in torch.backends.cpu.get_cpu_capability()
    ):
        return False
    probe = Convolution.__new__(Convolution)
    probe.stride, probe.padding = 1, 1
    weight = torch.full((16, 16, 3, 3), 127, dtype=torch.int8)
    weight[1::2] = -127
    probe.weight_int8, probe.packed = weight, {}
    probe.ones, probe.zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    try:
        for zero in (0, 1):
            x = torch.full((1, 16, 5, 5), 255 if zero == 0 else 2, dtype=torch.uint8)
            x[..., ::2] = 0
            v = torch.full((1, 16, 5, 5), 3.0).contiguous(memory_format=torch.channels_last)
            expected = v.double() + F.conv2d(x.double() - zero, weight.double(), padding=1)
            out = probe._onednn(v, x.contiguous(memory_format=torch.channels_last), zero)
            if not torch.equal(out.double(), expected):
                return False
    except (AttributeError, RuntimeError):
        return False
    return True
