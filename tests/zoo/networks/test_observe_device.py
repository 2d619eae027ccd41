"""Recordings, perturbations, exits and sheets of a network that is on another device than the CPU.

The device is `far`, which computes on the CPU and refuses what a CUDA device would.
"""

from __future__ import annotations

import pytest
import torch

from tests.far_device import far_device
from tests.zoo.spiking_fixtures import random_network, random_pixels, tiny_topology
from zoo.evaluation.energy import fan_out
from zoo.evaluation.exits import _operations
from zoo.networks.exits import ExitRule, exiting_run, sureness
from zoo.networks.perturb import DeleteSpikes, FlipWeightBits, JitterSpikes, ThresholdNoise

EVERYTHING = [ThresholdNoise(0.1), FlipWeightBits(0.01), DeleteSpikes(0.1), JitterSpikes(1)]


@pytest.mark.parametrize(
    ("neuron", "form"), [("if", "cifar"), ("signed", "head"), ("multi-level", "deep")]
)
def test_the_figures_are_those_of_the_cpu(neuron: str, form: str) -> None:
    network = random_network(tiny_topology(form), neuron=neuron)
    network.get_buffer("fc.scale").mul_(0.02)
    images = random_pixels(4, network.topology.in_channels, 16)
    wanted = network.record(images, 5, what=("spikes", "potential"), perturb=EVERYTHING)
    plain = network.run(images, 5).logits
    rules = [
        ExitRule(name, float(sureness(plain, name).amax(0).median()), 5)  # type: ignore[arg-type]
        for name in ("margin", "entropy")
    ]
    stopped = [exiting_run(network, images, rule) for rule in rules]
    counted, _ = _operations(network, images, 5, fan_out(network, 16, 16))
    with far_device():
        far = network.to("far")
        found = far.record(images, 5, what=("spikes", "potential"), perturb=EVERYTHING)
        assert torch.equal(found.logits.cpu(), wanted.logits)
        for name, spikes in wanted.spikes.items():
            assert torch.equal(found.spikes[name], spikes)
            assert torch.equal(found.potential[name], wanted.potential[name])
        for rule, one in zip(rules, stopped, strict=True):
            again = exiting_run(far, images, rule)
            assert torch.equal(again.logits.cpu(), one.logits)
            assert torch.equal(again.timesteps.cpu(), one.timesteps)
        operations, _ = _operations(far, images, 5, fan_out(far, 16, 16))
        assert torch.equal(operations, counted)
