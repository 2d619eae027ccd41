"""Networks as modules of SpikingJelly, sinabs, norse and snnTorch: spike for spike ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import zoo
from tests.zoo.networks.test_trainable import differing
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo import exchange
from zoo.errors import UsageError
from zoo.exchange import frameworks
from zoo.networks.spiking import SpikingResNet

NAME = "s-resnet20-digits"
WAYS = {
    "spikingjelly": (frameworks.to_spikingjelly, ("if", "signed")),
    "sinabs": (frameworks.to_sinabs, ("if", "multi-level")),
    "norse": (frameworks.to_norse, ("if",)),
    "snntorch": (frameworks.to_snntorch, ("if",)),
}
PAIRS = [(name, kind) for name, (_, kinds) in WAYS.items() for kind in kinds]


def module_of(name: str) -> object:
    return pytest.importorskip(name, reason=f"needs {name}")


@pytest.mark.parametrize("name", WAYS)
def test_a_shipped_model_has_its_spikes(name: str) -> None:
    module_of(name)
    network, pixels = zoo.load(NAME), random_pixels(3, 1, 8)
    module = WAYS[name][0](network)
    with torch.no_grad():
        assert differing(network, module, pixels, 35) == 0  # past the last bias row
        assert differing(network, module, pixels, 5) == 0  # from the beginning, with another batch
        logits = module(pixels, 35)
    torch.testing.assert_close(logits, network(pixels, 35))
    theirs = [
        part
        for part in module.modules()
        if any(base.__module__.partition(".")[0] == name for base in type(part).__mro__)
    ]
    assert len(theirs) >= 19
    module(pixels, 4).sum().backward()
    assert module.layer("conv1").weight.grad is not None
    assert getattr(exchange, f"to_{name}") is WAYS[name][0]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
@pytest.mark.parametrize("form", ["cifar", "imagenet"])
def test_every_kind_of_neuron_and_layer(name: str, kind: str, form: str) -> None:
    module_of(name)
    network = random_network(tiny_topology(form), neuron=kind)
    module = WAYS[name][0](network)
    pixels = random_pixels(2, network.topology.in_channels, 16)
    with torch.no_grad():
        assert differing(network, module, pixels, 9) == 0


@pytest.mark.parametrize("name", WAYS)
def test_neurons_that_a_framework_does_not_have_are_refused(name: str) -> None:
    module_of(name)
    convert: Callable[[SpikingResNet], object] = WAYS[name][0]
    for kind in {"signed", "multi-level"} - set(WAYS[name][1]):
        with refuses(UsageError, kind):
            convert(random_network(tiny_topology("cifar"), neuron=kind))
    with refuses(UsageError, "layerwise"):
        convert(random_network(tiny_topology("cifar"), schedule="layerwise"))


def test_a_framework_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, (convert, _) in WAYS.items():
        with refuses(UsageError, f"pip install {name}=="):
            convert(zoo.load(NAME))


def test_nothing_else_is_in_the_package() -> None:
    with pytest.raises(AttributeError, match="to_nowhere"):
        exchange.to_nowhere  # noqa: B018
    with pytest.raises(AttributeError, match="nothing"):
        exchange.nothing  # noqa: B018
