"""Networks as modules of other frameworks, with their neurons: the same spikes, to train or to run.

`to_spikingjelly`, `to_sinabs`, `to_norse` and `to_snntorch` return the module of
`zoo.networks.trainable` with a framework's own neurons in the place of ours. Thresholds are folded
into the weights that enter a neuron, so that all of them are 1, as these frameworks want it; biases
that differ by timestep and initial potentials are added to the currents that the neurons receive.
Potentials are half a unit of the artifact above its own, so none is equal to a threshold, and it
makes no difference whether a framework asks for > or >=. In float64 spikes are equal at any number
of timesteps; `.float()` is for training.

What is not a setting there:

* SpikingJelly: soft reset is `v_reset=None`; `signed` is SpikeZIP's `STBIFNode`, which runs
  but does not train.
* sinabs: one spike a timestep is `SingleSpike`, graded ones are `MaxSpike`.
* norse: `IAFCell` resets to a value, so its step here is norse's threshold and `reset_subtract`.
* snnTorch: `Leaky` with beta = 1; the reset of a spike is subtracted in the next timestep, as it is
  by default, which gives the same potentials.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.networks.neurons import SpikingNeurons
from zoo.networks.spiking import SpikingResNet
from zoo.networks.trainable import TrainableResNet, trainable_of

# The versions that the tests and benchmarks/results/frameworks.json ran with.
VERSIONS = {"spikingjelly": "2.0.0", "sinabs": "3.1.3", "norse": "1.1.0", "snntorch": "1.0.0"}

_MANY = 2**20  # spikes that an STBIFNode may have emitted, more than any run has timesteps


class FrameworkNeurons(nn.Module):
    """Neurons of another framework, called as `SpikingNeurons` are; thresholds are 1.

    Attributes:
        node: the framework's module.
        v_init: `[C]`, added to the first timestep's current.
    """

    def __init__(self, node: nn.Module, v_init: Tensor) -> None:
        super().__init__()
        self.node, self.v_init = node, nn.Parameter(v_init)

    def forward(self, current: Tensor, bias: Tensor) -> Tensor:
        """Return spikes `[T, B, C, H, W]` of currents of that shape and biases `[T, C]`."""
        first = torch.cat([self.v_init[None], torch.zeros_like(bias[1:])])
        current = current + (bias + first)[:, None, :, None, None]
        return self.run(current).to(current.dtype)

    def run(self, current: Tensor) -> Tensor:
        """Return the node's spikes, from its initial state on."""
        raise NotImplementedError


def to_spikingjelly(model: SpikingResNet, *, dtype: torch.dtype = torch.float64) -> TrainableResNet:
    """Return the network with neurons of SpikingJelly, in multi-step mode.

    `if` neurons are `IFNode`, `signed` ones `STBIFNode`; each run begins with `reset`.

    Raises:
        UsageError: other neurons, a layerwise network, or SpikingJelly is not installed.
    """
    _require("spikingjelly")
    from spikingjelly.activation_based import functional, neuron

    class Neurons(FrameworkNeurons):
        def run(self, current: Tensor) -> Tensor:
            functional.reset_net(self.node)
            spikes: Tensor = self.node(current)
            return spikes

    def make(cell: SpikingNeurons) -> nn.Module:
        if cell.rule.neuron == "signed":
            # Its state begins at 1/2, as the quantiser does that it was made for.
            node = neuron.STBIFNode(1.0, level=_MANY, step_mode="m")
            return Neurons(node, cell.v_init.detach() - 0.5)
        return Neurons(neuron.IFNode(1.0, None, step_mode="m"), cell.v_init.detach())

    return _with_neurons(model, "SpikingJelly", ("if", "signed"), make, dtype)


def to_sinabs(model: SpikingResNet, *, dtype: torch.dtype = torch.float64) -> TrainableResNet:
    """Return the network with `IAF` neurons of sinabs, which take `[B, T, C, H, W]`.

    `multi-level` neurons have the `MaxSpike` activation.

    Raises:
        UsageError: other neurons, a layerwise network, or sinabs is not installed.
    """
    _require("sinabs")
    from sinabs.activation import MaxSpike, SingleSpike
    from sinabs.layers import IAF

    class Neurons(FrameworkNeurons):
        def run(self, current: Tensor) -> Tensor:
            batch_first = current.transpose(0, 1)
            # Of the currents' dtype, which a state that sinabs makes is not.
            self.node.v_mem = torch.zeros_like(batch_first[:, 0])
            spikes: Tensor = self.node(batch_first)
            return spikes.transpose(0, 1)

    def make(cell: SpikingNeurons) -> nn.Module:
        graded = MaxSpike(2**cell.rule.bits - 1) if cell.rule.bits > 1 else SingleSpike
        node = IAF(torch.tensor(1.0, dtype=dtype), spike_fn=graded)
        return Neurons(node, cell.v_init.detach())

    return _with_neurons(model, "sinabs", ("if", "multi-level"), make, dtype)


def to_norse(model: SpikingResNet, *, dtype: torch.dtype = torch.float64) -> TrainableResNet:
    """Return the network with `IAFCell` neurons of norse that have a soft reset.

    Raises:
        UsageError: other neurons than `if`, a layerwise network, or norse is not installed.
    """
    _require("norse")
    from norse.torch.functional.iaf import IAFFeedForwardState, IAFParameters
    from norse.torch.functional.reset import reset_subtract
    from norse.torch.functional.threshold import threshold
    from norse.torch.module.iaf import IAFCell

    class SoftResetCell(IAFCell):
        def forward(self, given: Tensor, state: Any = None) -> tuple[Tensor, Any]:
            p = self.p
            v = given if state is None else state.v + given
            spikes = threshold(v - p.v_th, p.method, p.alpha)
            return spikes, IAFFeedForwardState(reset_subtract(spikes, v, p.v_reset, p.v_th))

    class Neurons(FrameworkNeurons):
        def run(self, current: Tensor) -> Tensor:
            state, steps = None, []
            for given in current:
                spikes, state = self.node(given, state)
                steps.append(spikes)
            return torch.stack(steps)

    def make(cell: SpikingNeurons) -> nn.Module:
        return Neurons(SoftResetCell(IAFParameters()), cell.v_init.detach())

    return _with_neurons(model, "norse", ("if",), make, dtype)


def to_snntorch(model: SpikingResNet, *, dtype: torch.dtype = torch.float64) -> TrainableResNet:
    """Return the network with `Leaky` neurons of snnTorch that do not leak.

    Raises:
        UsageError: other neurons than `if`, a layerwise network, or snnTorch is not installed.
    """
    _require("snntorch")
    import snntorch

    class Neurons(FrameworkNeurons):
        def run(self, current: Tensor) -> Tensor:
            potential, steps = torch.zeros_like(current[0]), []
            for given in current:
                spikes, potential = self.node(given, potential)
                steps.append(spikes)
            return torch.stack(steps)

    def make(cell: SpikingNeurons) -> nn.Module:
        return Neurons(snntorch.Leaky(beta=1.0, threshold=1.0), cell.v_init.detach())

    return _with_neurons(model, "snnTorch", ("if",), make, dtype)


def _with_neurons(
    model: SpikingResNet,
    framework: str,
    kinds: tuple[str, ...],
    make: Callable[[SpikingNeurons], nn.Module],
    dtype: torch.dtype,
) -> TrainableResNet:
    module = trainable_of(model, units="threshold", dtype=dtype)
    for spec in module.topology.layers:
        layer = module.layer(spec.name)
        cell = layer.neuron
        assert isinstance(cell, SpikingNeurons)
        if cell.rule.neuron not in kinds:
            raise UsageError(
                f"{framework} has no {cell.rule.neuron} neurons: convert with `neuron` one of "
                f"{', '.join(kinds)}"
            )
        layer.neuron = make(cell)
    return module.to(dtype)


def _require(name: str) -> None:
    from importlib.util import find_spec

    if find_spec(name) is None:
        raise UsageError(f"{name} is not installed: pip install {name}=={VERSIONS[name]}")
