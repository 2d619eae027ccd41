"""The trainable module: the artifact's spikes at the start, and gradients that pass them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.conversion.convert import Conversion
from zoo.errors import UsageError
from zoo.networks.neurons import SpikingNeurons
from zoo.networks.spiking import SpikingResNet
from zoo.networks.surrogate import SURROGATES, slope, surrogate_named
from zoo.networks.trainable import TrainableResNet, trainable_of

NAME = "s-resnet20-digits"


def spikes_of(network: SpikingResNet, pixels: Tensor, timesteps: int) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {}
    keep = lambda name, spikes: seen.setdefault(name, []).append(spikes)  # noqa: E731
    network.run(pixels, timesteps, chunk=len(pixels), on_spikes=keep)
    return {name: torch.cat(steps) for name, steps in seen.items()}


def hooked(module: TrainableResNet, pixels: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Return the spikes that hooks on the neurons see, and run the module."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.layer(spec.name).neuron.register_forward_hook(
            lambda cell, given, out, name=spec.name: seen.__setitem__(name, out.detach())
        )
        for spec in module.topology.layers
    ]
    module(pixels, timesteps)
    for hook in hooks:
        hook.remove()
    return seen


def differing(network: SpikingResNet, module: TrainableResNet, pixels: Tensor, steps: int) -> int:
    wanted, found = spikes_of(network, pixels, steps), hooked(module, pixels, steps)
    assert wanted.keys() == found.keys()
    return sum(int((found[name].to(torch.int8) != spikes).sum()) for name, spikes in wanted.items())


@pytest.mark.parametrize("neuron", ["if", "signed", "multi-level"])
@pytest.mark.parametrize("units", ["ann", "integer", "threshold"])
def test_it_starts_with_the_artifacts_spikes(
    neuron: str, units: str, converted: Callable[..., Conversion]
) -> None:
    made = converted(neuron=neuron)
    network = SpikingResNet(
        made.network.topology,
        made.network.layers,
        made.network.head,
        made.network.image_table,
        delay=made.network.delay,
        scales=made.scales,
        config=made.config,
    )
    pixels = random_pixels(3, 1, 8)
    for timesteps in (1, 11):
        module = trainable_of(network, units=units)  # type: ignore[arg-type]
        with torch.no_grad():
            assert differing(network, module, pixels, timesteps) == 0
        assert differing(network, module, pixels, timesteps) == 0  # with gradients, too
        logits = network.run(pixels, timesteps).logits
        torch.testing.assert_close(
            module(pixels, timesteps).double(), logits[-1], rtol=1e-5, atol=1e-5
        )
        every = module.forward_head(module.forward_features(pixels, timesteps))
        torch.testing.assert_close(every.double(), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["cifar", "imagenet", "v1"])
@pytest.mark.parametrize("neuron", ["if", "signed", "multi-level"])
def test_every_kind_of_layer_has_the_spikes(form: str, neuron: str) -> None:
    network = random_network(tiny_topology(form), neuron=neuron)
    pixels = random_pixels(2, network.topology.in_channels, 16)
    module = trainable_of(network, units="integer")
    assert differing(network, module, pixels, 6) == 0
    logits = network.run(pixels, 6).logits[-1]
    torch.testing.assert_close(module(pixels, 6).double(), logits, rtol=1e-5, atol=1e-3)


def test_gradients_reach_every_parameter() -> None:
    network = zoo.load(NAME)
    module, pixels = network.trainable(), random_pixels(8, 1, 8)
    F.cross_entropy(module(pixels, 4), torch.arange(8) % 10).backward()
    zero = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert zero == []
    row = module.layer("layer1.0.conv1").bias.grad
    assert row is not None and row[:3].any(1).all() and not row[4:].any()


class Soft(torch.autograd.Function):
    """A step forwards, the derivative of an arctangent backwards: somebody else's surrogate."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad / (1 + (math.pi * x) ** 2)


def soft(x: Tensor) -> Tensor:
    spikes: Tensor = Soft.apply(x)
    return spikes


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_the_gradient_is_what_autograd_finds_step_by_step(neuron: str, detach_reset: bool) -> None:
    gen = torch.Generator().manual_seed(0)
    current = torch.randn(5, 2, 3, 4, 4, generator=gen, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, 3, generator=gen, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 2, 3, 4, 4, generator=gen, dtype=torch.float64)
    cell = SpikingNeurons(
        torch.rand(3, generator=gen, dtype=torch.float64) + 0.3,
        torch.rand(3, generator=gen, dtype=torch.float64) - 0.5,
        neuron=neuron,  # type: ignore[arg-type]
        surrogate=soft,
        detach_reset=detach_reset,
    )
    inputs = [current, bias, cell.threshold, cell.v_init]
    found = torch.autograd.grad((cell(current, bias) * weight).sum(), inputs)

    theta = cell.threshold.view(-1, 1, 1)
    v, spikes = cell.v_init.view(-1, 1, 1), []
    emitted = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    for t in range(5):
        v = v + current[t] + bias[t].view(-1, 1, 1)
        u = v / theta
        spike = soft(u - 1)
        if neuron == "signed":
            spike = spike + (soft(u) - 1) * (emitted > 0)
            emitted = emitted + spike.detach()
        v = v - (spike.detach() if detach_reset else spike) * theta
        spikes.append(spike)
    assert torch.stack(spikes).min() == (-1 if neuron == "signed" else 0)
    wanted = torch.autograd.grad((torch.stack(spikes) * weight).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    named = SpikingNeurons(
        cell.threshold.detach(),
        cell.v_init.detach(),
        neuron=neuron,  # type: ignore[arg-type]
        detach_reset=detach_reset,
    )
    inputs = [current, bias, named.threshold, named.v_init]
    same = torch.autograd.grad((named(current, bias) * weight).sum(), inputs)
    for one, other in zip(found, same, strict=True):
        torch.testing.assert_close(one, other)  # soft is arctan


@pytest.mark.parametrize(
    ("name", "theirs"), [("rectangular", "Rect"), ("arctan", "ATan"), ("sigmoid", "Sigmoid")]
)
def test_surrogates_are_spikingjellys(name: str, theirs: str) -> None:
    surrogate = pytest.importorskip(
        "spikingjelly.activation_based.surrogate", reason="needs spikingjelly"
    )
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(
        slope(surrogate_named(name), x), slope(getattr(surrogate, theirs)(), x)
    )


def test_a_wide_surrogate_of_a_graded_spike_is_the_straight_through_estimator() -> None:
    cell = SpikingNeurons(
        torch.ones(1), torch.zeros(1), neuron="multi-level", bits=4, surrogate="rectangular"
    )
    current = torch.linspace(-2, 20, 400).view(1, 400, 1, 1, 1).requires_grad_()
    cell(current, torch.zeros(1, 1)).sum().backward()
    inside = (current > 0.5) & (current < 15.5)
    assert current.grad is not None and torch.equal(current.grad.bool(), inside)


def test_it_is_a_module_like_any_other() -> None:
    network = zoo.load(NAME)
    module, pixels = network.trainable("sigmoid"), random_pixels(2, 1, 8)
    assert sum(isinstance(part, SpikingNeurons) for part in module.modules()) == 19
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for value in twin.parameters():
            value.mul_(1.01)
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin(pixels, 3), module(pixels, 3))
    assert torch.equal(torch.nn.Sequential(module)(pixels)[0], module(pixels, 32)[0])
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(pixels, 3)
    assert torch.isfinite(logits).all()
    logits.float().sum().backward()
    assert module.layer("conv1").weight.grad is not None
    normalised = torch.zeros(2, 1, 8, 8, requires_grad=True)
    module(normalised, 3).sum().backward()
    assert normalised.grad is not None and normalised.grad.any()


def test_what_cannot_be_is_refused(converted: Callable[..., Conversion]) -> None:
    network = zoo.load(NAME)
    with refuses(UsageError, "unknown"):
        network.trainable("step")
    with refuses(UsageError, "function"):
        network.trainable(3)  # type: ignore[arg-type]
    with refuses(UsageError, "layerwise"):
        converted(schedule="layerwise").network.trainable()
    with refuses(UsageError, "scales"):
        random_network(tiny_topology("cifar")).trainable()
    with refuses(UsageError, "timesteps"):
        network.trainable()(random_pixels(1, 1, 8), 0)
    assert set(SURROGATES) == {"rectangular", "arctan", "sigmoid"}
