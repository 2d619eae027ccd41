"""A run that stops gives what the rule finds afterwards in a whole run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.networks.exits import ExitRule, RuleName, exiting_run, sureness
from zoo.networks.spiking import SpikingResNet

STEPS = 14


def net(neuron: str = "if", form: str = "cifar") -> SpikingResNet:
    network = random_network(tiny_topology(form), neuron=neuron)
    network.delay = {1: 0, 4: 2, 9: 4}
    network.get_buffer("fc.scale").mul_(0.02)  # so that no entropy rounds to zero
    return network


def middle(logits: torch.Tensor, name: RuleName) -> ExitRule:
    """Return a rule by which some images exit early, and not all at once."""
    return ExitRule(name, float(sureness(logits, name).amax(0).median()), len(logits))


@pytest.mark.parametrize("name", ["margin", "entropy"])
@pytest.mark.parametrize(
    ("neuron", "form"),
    [
        ("if", "cifar"),
        ("signed", "cifar"),
        ("multi-level", "imagenet"),
        ("if", "deep"),
        ("signed", "head"),
    ],
)
def test_stopping_changes_no_answer(neuron: str, form: str, name: RuleName) -> None:
    network = net(neuron, form)
    images = random_pixels(17, network.topology.in_channels, 16)
    whole = network.run(images, STEPS).logits
    rule = middle(whole, name)
    times, answers = rule.exit_times(whole), rule.read(whole)
    assert int((times < STEPS).sum()) > 2 and len(times.unique()) > 1
    for chunk in (1, 5, 64):
        found = exiting_run(network, images, rule, chunk=chunk)
        assert torch.equal(found.timesteps, times)
        assert torch.equal(found.logits, answers)
    assert torch.equal(network(images, exit=rule), answers)
    assert torch.equal(network(images, 5, exit=rule), ExitRule(name, rule.threshold, 5).read(whole))


@pytest.mark.parametrize(("neuron", "form"), [("if", "cifar"), ("signed", "head")])
def test_the_kernels_stop_alike(neuron: str, form: str) -> None:
    pytest.importorskip("triton")
    network = net(neuron, form)
    images = random_pixels(4, network.topology.in_channels, 16)
    rule = middle(network.run(images, STEPS).logits, "margin")
    wanted = exiting_run(network, images, rule)
    found = exiting_run(network.with_backend("interpret"), images, rule)
    assert torch.equal(found.timesteps, wanted.timesteps)
    assert torch.equal(found.logits, wanted.logits)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 9),
    images=st.integers(0, 6),
    seed=st.integers(0, 99),
    threshold=st.floats(-2, 4),
)
def test_an_exit_is_the_first_timestep_that_is_sure(
    steps: int, images: int, seed: int, threshold: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(steps, images, 5, generator=generator, dtype=torch.float64)
    rule = ExitRule("margin", threshold, steps)
    times = rule.exit_times(logits)
    margins = logits.sort(-1).values.diff(dim=-1)[..., -1]
    for image, time in enumerate(times.tolist()):
        sure = [t for t in range(1, steps + 1) if margins[t - 1, image] >= threshold]
        assert time == (sure[0] if sure else steps)
        assert torch.equal(rule.read(logits)[image], logits[time - 1, image])
    assert torch.bincount(times, minlength=steps + 1)[1:].sum() == images


def test_never_and_always() -> None:
    network = net()
    images = random_pixels(3, 1, 9)
    whole = network.run(images, STEPS).logits
    never, always = (ExitRule("margin", bound, STEPS) for bound in (1e9, -1.0))
    assert exiting_run(network, images, never).timesteps.tolist() == [STEPS] * 3
    assert torch.equal(network(images, exit=never), whole[-1])
    assert exiting_run(network, images, always).timesteps.tolist() == [1] * 3
    assert torch.equal(network(images, exit=always), whole[0])
    assert network(images[:0], exit=never).shape == (0, 3)


def test_what_cannot_exit_is_refused() -> None:
    network = net()
    images = random_pixels(2, 1, 9)
    with refuses(UsageError, "holds no rule to exit by"):
        network(images, exit=True)
    layerwise = random_network(tiny_topology("cifar"), schedule="layerwise")
    with refuses(UsageError, "cannot exit early"):
        layerwise(images, exit=ExitRule("margin", 1.0, 4))
    with refuses(UsageError, "unknown rule"):
        network(images, exit=ExitRule("hunch", 1.0, 4))  # type: ignore[arg-type]


def test_a_shipped_network_stops() -> None:
    network = zoo.load("s-resnet20-digits")
    images = open_images("digits", "test").take(40, seed=0)
    pixels = images.batch(slice(None), network.preprocess)
    whole = network.run(pixels, 32).logits
    rule = ExitRule("margin", 2.5, 32)
    found = exiting_run(network, pixels, rule)
    assert torch.equal(found.logits, rule.read(whole)) and 3 < found.timesteps.double().mean() < 16
