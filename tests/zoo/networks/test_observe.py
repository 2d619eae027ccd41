"""What is recorded is what ran, and a perturbation is the same on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import zoo
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.errors import UsageError
from zoo.kernels.spiking_conv import SpikingConv
from zoo.networks.perturb import (
    DeleteSpikes,
    FlipWeightBits,
    JitterSpikes,
    Perturb,
    Perturbation,
    ThresholdNoise,
)
from zoo.networks.spiking import SpikingResNet

NEURONS = ("if", "signed", "multi-level")
STEPS = 11


def net(neuron: str = "if", form: str = "cifar") -> SpikingResNet:
    network = random_network(tiny_topology(form), neuron=neuron)
    network.delay = {1: 0, 4: 2}
    return network


def pixels_of(network: SpikingResNet, count: int = 3) -> Tensor:
    side = 16 if network.topology.pools else 9
    return random_pixels(count, network.topology.in_channels, side)


def expected_potentials(network: SpikingResNet, spikes: dict[str, Tensor], images: Tensor):
    """Return potentials by the reference's own steps, layer by layer, from recorded spikes."""
    found = {}
    for spec in network.topology.layers:
        layer, own = network.layers[spec.name], spikes[spec.name]
        stem = spec.source == "image"
        x = layer.current(network.pixels(images), STEPS) if stem else spikes[spec.source]
        seen: list[Tensor] = []

        def note(_: int, v: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(v.clone())
            return torch.zeros(v.shape[1])

        membrane = layer.membrane(own.shape[1], *own.shape[-2:], STEPS)
        source = spikes[spec.shortcut.source] if spec.shortcut else None
        layer.run(x, source, membrane, STEPS if stem else None, adjust=note)
        reset = layer.threshold.view(-1, 1, 1) * own.to(torch.int64)
        found[spec.name] = (torch.stack(seen).long() - reset).to(torch.int32)
    return found


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("form", ["cifar", "imagenet"])
def test_a_recording_is_the_run(neuron: str, form: str) -> None:
    network = net(neuron, form)
    images = pixels_of(network)
    pieces: dict[str, list[Tensor]] = {}
    run = network.run(
        images, STEPS, chunk=3, on_spikes=lambda n, s: pieces.setdefault(n, []).append(s)
    )
    for chunk in (1, 2, 64):
        found = network.record(images, STEPS, what=("spikes", "potential"), chunk=chunk)
        assert torch.equal(found.logits, run.logits)
        assert list(found.spikes) == list(found.potential) == list(pieces)
        wanted = expected_potentials(network, found.spikes, images)
        for name, parts in pieces.items():
            assert found.spikes[name].dtype == torch.int8
            assert torch.equal(found.spikes[name], torch.cat(parts))
            assert found.potential[name].dtype == torch.int32
            assert torch.equal(found.potential[name], wanted[name])
    assert sum(int(s.count_nonzero()) for s in found.spikes.values()) > 500


def test_layers_are_chosen_by_name_and_pattern() -> None:
    network = net()
    images = pixels_of(network, 2)
    whole = network.record(images, 4)
    some = network.record(images, 4, layers=["layer1.*", "conv1"], what=["potential"])
    assert list(some.potential) == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert not some.spikes and torch.equal(some.logits, whole.logits)
    assert repr(some) == "Recording(timesteps=4, images=2, layers=3, what=['potential'])"
    with refuses(UsageError, "'layer9' is no layer"):
        network.record(images, 4, layers=["conv1", "layer9"])
    with refuses(UsageError, "name spikes, potential or both"):
        network.record(images, 4, what=("volts",))  # type: ignore[arg-type]
    nothing = network.record(images[:0], 4, what=("spikes", "potential"))
    assert nothing.spikes["conv1"].shape == (4, 0, 4, 9, 9) == nothing.potential["conv1"].shape


def test_a_layerwise_network_has_no_trains() -> None:
    network = random_network(tiny_topology("cifar"), schedule="layerwise")
    images = pixels_of(network)
    with refuses(UsageError, "no trains"):
        network.record(images, 4)
    with refuses(UsageError, "no spike trains to perturb"):
        network.run(images, 4, perturb=DeleteSpikes(0.1))
    noisy = network.run(images, 4, perturb=ThresholdNoise(0.3))
    assert not torch.equal(noisy.logits, network.run(images, 4).logits)


def drop_every_third(name: str, spikes: Tensor) -> Tensor:
    spikes[::3] = 0  # in place: it is a copy
    return spikes


PERTURBATIONS: dict[str, Perturb] = {
    "function": drop_every_third,
    "deletion": DeleteSpikes(0.2),
    "jitter": JitterSpikes(2),
    "threshold noise": ThresholdNoise(0.2),
    "bit flips": FlipWeightBits(0.05),
    "several": [ThresholdNoise(0.1, seed=1), DeleteSpikes(0.1, seed=2), drop_every_third],
}


@pytest.mark.parametrize(
    ("kind", "neuron", "form"),
    [
        *((kind, "if", "cifar") for kind in PERTURBATIONS),
        ("several", "signed", "deep"),
        ("jitter", "multi-level", "head"),
    ],
)
def test_a_perturbation_is_the_same_on_every_backend(kind: str, neuron: str, form: str) -> None:
    pytest.importorskip("triton")
    network, perturb = net(neuron, form), PERTURBATIONS[kind]
    images = pixels_of(network)
    wanted = network.run(images, STEPS, snapshots=(5, STEPS), perturb=perturb)
    assert not torch.equal(wanted.logits, network.run(images, STEPS).logits)
    few = images[:1]
    kernels = network.with_backend("interpret")
    for other, chunk in ((network, 1), (kernels, 64)):
        found = other.run(images, STEPS, snapshots=(5, STEPS), chunk=chunk, perturb=perturb)
        assert torch.equal(found.logits, wanted.logits)
        for step, counts in wanted.spikes.items():
            for name, total in counts.items():
                assert found.spikes[step][name].dtype == torch.int64
                assert torch.equal(found.spikes[step][name], total), (step, name)
    mine, theirs = (
        one.record(few, 4, what=("spikes", "potential"), perturb=perturb)
        for one in (network, kernels)
    )
    for name, spikes in mine.spikes.items():
        assert torch.equal(spikes, theirs.spikes[name])
        assert torch.equal(mine.potential[name], theirs.potential[name])
    assert torch.equal(mine.logits, network.run(few, 4, perturb=perturb).logits)
    assert torch.equal(mine.logits, theirs.logits)


@pytest.mark.parametrize("form", ["cifar", "deep", "head"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_no_perturbation_changes_nothing(neuron: str, form: str) -> None:
    network = net(neuron, form)
    images = pixels_of(network)
    plain = network.run(images, STEPS, snapshots=(4, STEPS))
    for nothing in (Perturbation(), DeleteSpikes(0.0), FlipWeightBits(0.0), [], lambda _, s: s):
        found = network.run(images, STEPS, snapshots=(4, STEPS), perturb=nothing)
        assert torch.equal(found.logits, plain.logits)
        assert found.spikes[4].keys() == plain.spikes[4].keys()
        assert all(
            torch.equal(found.spikes[step][name], total)
            for step, counts in plain.spikes.items()
            for name, total in counts.items()
        )


def test_deletion_and_jitter_do_what_they_say() -> None:
    spikes = (torch.rand(40, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).to(
        torch.int8
    )
    kept = DeleteSpikes(0.25).spikes("a", spikes, 0)
    assert bool((kept <= spikes).all())
    assert abs(int(kept.sum()) / int(spikes.sum()) - 0.75) < 0.03
    assert not DeleteSpikes(1.0).spikes("a", spikes, 0).any()
    alone = torch.zeros_like(spikes)
    alone[20] = 1  # so that none meets another
    moved = JitterSpikes(3).spikes("a", alone, 0)
    assert torch.equal(moved.sum(0), alone.sum(0))
    at = moved.nonzero()[:, 0]
    assert {*at.tolist()} == {*range(17, 24)}
    # Of the first image of a chunk the draws are those of that image in any other.
    both, second = (JitterSpikes(3).spikes("a", spikes[:, i:], i) for i in (0, 1))
    assert torch.equal(both[:, 1:], second)
    assert not torch.equal(both, JitterSpikes(3, seed=1).spikes("a", spikes, 0))
    signed = spikes - 2 * spikes.flip(0) * spikes
    assert {*JitterSpikes(2).spikes("a", signed, 0).unique().tolist()} <= {-1, 0, 1}


def test_bit_flips_flip_bits_and_leave_the_network_alone() -> None:
    network = net()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    layer: SpikingConv = network.layers["layer1.0.conv1"]
    flipped = FlipWeightBits(0.5).layer("layer1.0.conv1", layer).weight
    assert int(flipped.min()) >= -127
    changed = (flipped.view(torch.uint8) ^ layer.weight.view(torch.uint8)).flatten()
    bits = sum(int(((changed >> bit) & 1).sum()) for bit in range(8))
    assert abs(bits / (8 * changed.numel()) - 0.5) < 0.05
    network.run(pixels_of(network), 3, perturb=[FlipWeightBits(0.5), ThresholdNoise(0.5)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda name, spikes: None, "returned NoneType"),
        (lambda name, spikes: spikes[1:], "return spikes of shape"),
        (lambda name, spikes: spikes + 1, "other spikes than 0 to 1"),
        (lambda name, spikes: spikes * 0.5, "other spikes than 0 to 1"),
        (0.1, "`perturb` is float"),
    ],
)
def test_what_no_spikes_can_be_is_refused(wrong: Callable[..., Tensor], says: str) -> None:
    network = net()
    with refuses(UsageError, says):
        network.run(pixels_of(network), 4, perturb=wrong)
    for make in (lambda: DeleteSpikes(1.5), lambda: JitterSpikes(0), lambda: FlipWeightBits(-1)):
        with pytest.raises(UsageError):
            make()


def test_a_shipped_network_on_both_backends() -> None:
    pytest.importorskip("triton")
    network = zoo.load("s-resnet20-digits")
    images = random_pixels(1, 1, 8)
    mine, theirs = (
        one.record(images, 3, layers=["conv1", "layer2.0.conv2"], what=("spikes", "potential"))
        for one in (network, network.with_backend("interpret"))
    )
    assert torch.equal(mine.logits, theirs.logits)
    for name in mine.spikes:
        assert torch.equal(mine.spikes[name], theirs.spikes[name])
        assert torch.equal(mine.potential[name], theirs.potential[name])
