"""Neurons that gradients pass, through time: the cells of `zoo.networks.trainable`.

In timestep t, with the current I[t] and potentials in any unit,

    m[t] = w[t-1] + I[t] + bias[t]                       w[-1] = v_init
    s[t] = what `zoo.kernels.spiking_conv.reference` says that a neuron of potential m[t] emits
    w[t] = m[t] - threshold * s[t]

Backwards ds/dm = g / threshold, with g the surrogate's slope at u - k, u = m / threshold, k the
nearest level (1 of a binary spike); a `signed` neuron that owes a spike has the slope at u besides.
The gradient runs back through w, timestep by timestep (back-propagation through time).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.kernels.neuron import Neuron
from zoo.networks.surrogate import Surrogate, slope, surrogate_named


class SpikingNeurons(nn.Module):
    """The neurons of one layer; a module of its own, so that hooks see its spikes.

    Args:
        threshold, v_init: `[C]`; both become parameters.
        neuron, bits: as in `zoo.kernels.spiking_conv.SpikingConv`.
        surrogate: as in `zoo.networks.surrogate`.
        detach_reset: no gradient passes through the spike that a reset subtracts.
        compiled: fuse the operations of a training step with `torch.compile`, several times as fast
            after the seconds it takes once for each shape; the surrogate is one of SURROGATES.
    """

    def __init__(
        self,
        threshold: Tensor,
        v_init: Tensor,
        *,
        neuron: Neuron = "if",
        bits: int = 1,
        surrogate: Surrogate = "arctan",
        detach_reset: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.rule = Rule(neuron, bits, surrogate_named(surrogate), detach_reset, compiled)
        self.threshold, self.v_init = nn.Parameter(threshold), nn.Parameter(v_init)

    def extra_repr(self) -> str:
        return f"{len(self.threshold)}, {self.rule.neuron}, {self.rule.surrogate}"

    def forward(self, current: Tensor, bias: Tensor) -> Tensor:
        """Return spikes `[T, B, C, H, W]` of currents of that shape and biases `[T, C]`.

        Spikes have the currents' dtype, potentials the threshold's.
        """
        given = (current, bias, self.threshold, self.v_init)
        if torch.is_grad_enabled() and any(part.requires_grad for part in given):
            spikes: Tensor = _Fire.apply(*given, self.rule)
            return spikes
        return _forward(*given, self.rule)[0]


@dataclass(frozen=True)
class Rule:
    """What neurons do and how gradients pass them; the arguments of `SpikingNeurons`."""

    neuron: Neuron
    bits: int
    surrogate: Any
    detach_reset: bool
    compiled: bool

    def fire(self, v: Tensor, theta: Tensor, emitted: Tensor | None) -> Tensor:
        """Return the spikes of potentials, where `emitted` net spikes came before (`signed`)."""
        if self.bits > 1:
            return (v / theta).floor().clamp(0, 2**self.bits - 1)
        spike = (v >= theta).to(v.dtype)
        return spike if emitted is None else spike - ((v < 0) & (emitted > 0)).to(v.dtype)

    def slope(self, u: Tensor, emitted: Tensor | None) -> Tensor:
        """Return ds/du at u = potential / threshold."""
        level = u.round().clamp(1, 2**self.bits - 1) if self.bits > 1 else 1
        found = slope(self.surrogate, u - level)
        return found if emitted is None else found + slope(self.surrogate, u) * (emitted > 0)


def _forward(
    current: Tensor, bias: Tensor, threshold: Tensor, v_init: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Return spikes and u, in the currents' dtype."""
    theta, v, spikes, levels = _column(threshold), _column(v_init), [], []
    emitted = torch.zeros_like(v) if rule.neuron == "signed" else None
    for t in range(current.shape[0]):
        v = v + (current[t] + _column(bias[t]))
        spike = rule.fire(v, theta, emitted)
        levels.append((v / theta).to(current.dtype))
        spikes.append(spike.to(current.dtype))
        v = v - spike * theta
        emitted = None if emitted is None else emitted + spike
    return torch.stack(spikes), torch.stack(levels)


def _backward(
    grad: Tensor, levels: Tensor, spikes: Tensor, threshold: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of currents, of biases and of the threshold."""
    theta, currents, biases = _column(threshold), [], []
    by_threshold = torch.zeros_like(threshold)
    after = torch.zeros_like(levels[0], dtype=threshold.dtype)  # of w, the potential kept
    emitted = spikes.sum(0, dtype=threshold.dtype) if rule.neuron == "signed" else None
    for t in reversed(range(grad.shape[0])):
        u, spike = levels[t].to(threshold.dtype), spikes[t].to(threshold.dtype)
        emitted = None if emitted is None else emitted - spike
        of_spike = grad[t] if rule.detach_reset else grad[t] - after * theta
        of_spike = of_spike * (rule.slope(u, emitted) / theta)
        by_threshold = by_threshold - (of_spike * u + after * spike).sum((0, 2, 3))
        after = after + of_spike
        currents.append(after.to(grad.dtype))
        biases.append(after.sum((0, 2, 3)))
    return torch.stack(currents[::-1]), torch.stack(biases[::-1]), by_threshold


@functools.cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    # A form for each shape of a network's layers; of ResNet-50 there are more than the default.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(function, dynamic=False)


class _Fire(torch.autograd.Function):
    """Spikes with the surrogate's gradient; keeps u and the spikes, in the currents' dtype."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, bias: Tensor, threshold: Tensor, v_init: Tensor, rule: Rule
    ) -> Tensor:
        run = _fused(_forward) if rule.compiled else _forward
        spikes, levels = run(current, bias, threshold, v_init, rule)
        ctx.rule = rule
        ctx.save_for_backward(levels, spikes, threshold)
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        run = _fused(_backward) if ctx.rule.compiled else _backward
        levels, spikes, threshold = ctx.saved_tensors
        currents, biases, by_threshold = run(grads[0], levels, spikes, threshold, ctx.rule)
        # What a timestep's bias changes, the initial potential changes in the first.
        return currents, biases, by_threshold, biases[0], None


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)
