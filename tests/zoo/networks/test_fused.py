"""Whole networks on the fused kernels equal the reference; which backend runs where."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import zoo
from tests.kernels.kernel_fixtures import interpreted, poisoned
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.conversion.convert import convert
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.networks.backends import choose_backend
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.pretrained.checkpoint import read_checkpoint

DIGITS = "s-resnet20-digits"
# A 2x2 average needs even sizes; the fixture's head sums 3x3 pixels.
SIDES = {"deep": 16, "head": 6}
KINDS = [
    ("if", "causal"),
    ("signed", "causal"),
    ("multi-level", "causal"),
    ("mixed", "causal"),
    ("if", "layerwise"),
]


def observe(network: SpikingResNet, images: Tensor, timesteps: int, **how: object) -> tuple:
    """Return the run, and each layer's spikes `[T, B, C, H, W]` (layerwise: counts)."""
    seen: dict[str, list[Tensor]] = {}
    run = network.run(
        images,
        timesteps,
        on_spikes=lambda name, spikes: seen.setdefault(name, []).append(spikes.cpu().clone()),
        **how,
    )
    whole = {
        name: parts[0] if network.schedule == "layerwise" else torch.cat(parts)
        for name, parts in seen.items()
    }
    return run, whole


def check(
    network: SpikingResNet,
    backend: str,
    images: Tensor,
    timesteps: int,
    marks: tuple[int, ...] = (),
    **how: int,
):
    """Everything that can be seen of a run on `backend` is what the reference gives on the CPU."""
    wanted, spikes = observe(network.to("cpu"), images, timesteps, snapshots=marks)
    with poisoned():
        found, again = observe(
            network.with_backend(backend), images, timesteps, snapshots=marks, **how
        )
    assert list(again) == list(spikes) == [layer.name for layer in network.topology.layers]
    for name in spikes:
        assert again[name].dtype == spikes[name].dtype and torch.equal(again[name], spikes[name]), (
            name
        )
    assert found.logits.dtype == torch.float64 and torch.equal(found.logits.cpu(), wanted.logits)
    assert set(found.spikes) == set(wanted.spikes)
    for mark, layers in wanted.spikes.items():
        for name, total in layers.items():
            assert found.spikes[mark][name].dtype == torch.int64
            assert torch.equal(found.spikes[mark][name].cpu(), total), (mark, name)
    return spikes


@interpreted
@pytest.mark.parametrize(("timesteps", "marks"), [(8, (3, 8)), (9, ())])
def test_shipped_model(digits_test, timesteps, marks):
    network = zoo.load(DIGITS, backend="interpret")
    assert network.backend == "interpret"
    images = digits_test.batch(slice(2), Preprocess((1, 8, 8)))
    spikes = check(network, "interpret", images, timesteps, marks)
    assert all(0.001 < s.double().mean() < 0.9 for s in spikes.values())


@interpreted
@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
@pytest.mark.parametrize("form", ["cifar", "imagenet", "v1", "deep", "head"])
def test_every_kind_of_network(form, neuron, schedule):
    network = random_network(tiny_topology(form), neuron=neuron, schedule=schedule)
    network.delay = {1: 0, 4: 2}
    images = random_pixels(3, network.topology.in_channels, SIDES.get(form, 11))
    spikes = check(
        network, "interpret", images, 13, (13,) if schedule == "layerwise" else (1, 9, 13)
    )
    back = sum((s < 0).sum() for s in spikes.values())
    assert back > {"signed": 20, "mixed": 1}.get(neuron, -1)


@interpreted
@pytest.mark.parametrize("window", [5, 8, 32])
@pytest.mark.parametrize("neuron", ["if", "signed", "multi-level"])
def test_windows_change_nothing(neuron, window):
    network = random_network(tiny_topology("cifar"), neuron=neuron, seed=1)
    check(network, "interpret", random_pixels(2, 1, 6), 33, (33,), window=window)


@interpreted
@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
def test_chunks_and_empty_batches_change_nothing(neuron, schedule):
    network = random_network(tiny_topology("cifar"), neuron=neuron, schedule=schedule)
    images = random_pixels(3, 1, 6)
    wanted, packed = network.run(images, 6, snapshots=[6]), network.with_backend("interpret")
    for chunk in (1, 2, 64):
        found = packed.run(images, 6, snapshots=[6], chunk=chunk)
        assert torch.equal(found.logits, wanted.logits)
        assert all(
            torch.equal(found.spikes[6][name], total) for name, total in wanted.spikes[6].items()
        )
    nothing = packed.run(images[:0], 6, snapshots=[6])
    assert torch.equal(nothing.logits, network.run(images[:0], 6).logits)
    assert not any(total.any() for total in nothing.spikes[6].values())


@interpreted
def test_spikes_at_a_mark_stay_what_they_were():
    network = random_network(tiny_topology("cifar")).with_backend("interpret")
    images = random_pixels(2, 1, 6)
    both = network.run(images, 9, snapshots=[4, 9]).spikes
    alone = network.run(images, 4, snapshots=[4]).spikes
    assert all(torch.equal(both[4][name], total) for name, total in alone[4].items())
    assert any(not torch.equal(both[9][name], total) for name, total in alone[4].items())


def small(schedule: str = "causal") -> SpikingResNet:
    return random_network(tiny_topology("cifar"), schedule=schedule)


def floating(network: SpikingResNet) -> SpikingResNet:
    """The network in float32."""
    names = ("weight", "bias", "threshold", "v_init")
    layers = {
        name: replace(
            layer,
            **{n: getattr(layer, n).float() for n in names},
            gain=None if layer.gain is None else layer.gain.float(),
        )
        for name, layer in network.layers.items()
    }
    return SpikingResNet(network.topology, layers, network.head, network.image_table.float())


needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what happens without a GPU"
)


@needs_no_gpu
def test_triton_without_a_gpu_is_refused():
    with refuses(UsageError, "triton needs a CUDA GPU"):
        zoo.load(DIGITS, backend="triton")
    with refuses(UsageError, "triton needs a CUDA GPU"):
        small().with_backend("triton")


@pytest.mark.parametrize("backend", ["interpret", "triton"])
def test_float32_is_refused(backend):
    network = floating(small())
    assert (
        not network.integer
        and choose_backend("auto", network.device, integer=network.integer)
        == choose_backend("torch", network.device, integer=network.integer)
        == "torch"
    )
    with refuses(UsageError, "float32: use the torch backend"):
        network.with_backend(backend)


@pytest.mark.parametrize("backend", ["interpret", "triton"])
def test_a_machine_without_triton(backend, monkeypatch):
    monkeypatch.setattr("zoo.networks.backends._has_triton", lambda: False)
    with refuses(UsageError, "pip install triton"):
        choose_backend(backend, small().device, integer=small().integer)
    assert choose_backend("auto", small().device, integer=small().integer) == "torch"


def test_auto_on_the_cpu_is_torch():
    network = small()
    assert choose_backend("auto", network.device, integer=network.integer) == "torch"
    assert network.with_backend("auto").backend == network.backend == "torch"
    assert zoo.load(DIGITS).backend == "torch"


def test_a_backend_leaves_the_network_alone():
    network = small()
    network.delay = {1: 0, 4: 2}
    packed = network.with_backend("interpret")
    assert (packed.backend, network.backend) == ("interpret", "torch")
    assert packed.delay == network.delay and packed.schedule == network.schedule
    assert packed.to("cpu") is packed and packed.backend == "interpret"


@interpreted
def test_layerwise_runs_to_127_timesteps():
    network, images = small("layerwise").with_backend("interpret"), random_pixels(1, 1, 6)
    assert torch.equal(network.run(images, 127).logits, small("layerwise").run(images, 127).logits)
    with refuses(UsageError, "at most 127 timesteps, not 128"):
        network.run(images, 128)


@interpreted
def test_potentials_that_could_pass_int32_are_refused():
    network = small()
    network.layers["layer1.0.conv1"].bias[:, 0] = 2**29
    images = random_pixels(1, 1, 6)
    layer = network.layers["layer1.0.conv1"]
    limit = (2**31 - layer.potential_bound(0)) // layer.current_bound - 1
    packed = network.with_backend("interpret")
    assert 1 <= limit < 8 and layer.potential_bound(limit) < 2**31
    assert torch.equal(packed.run(images, limit).logits, network.run(images, limit).logits)
    with refuses(UsageError, f"at most {limit} timesteps, not {limit + 1}"):
        packed.run(images, limit + 1)


@interpreted
def test_auto_falls_back_where_kernels_cannot_run(monkeypatch):
    network, images = small("layerwise"), random_pixels(1, 1, 6)
    monkeypatch.setattr("zoo.networks.spiking.choose_backend", lambda *_, **__: "interpret")
    wanted = network.run(images, 128).logits
    assert torch.equal(network.with_backend("auto").run(images, 128).logits, wanted)


@pytest.mark.gpu
@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
def test_triton_on_a_gpu(neuron, schedule):
    network = random_network(tiny_topology("cifar"), neuron=neuron, schedule=schedule)
    check(network.to("cuda"), "triton", random_pixels(3, 1, 11), 13, (13,))


@pytest.mark.gpu
@pytest.mark.parametrize("timesteps", [32, 40])  # one window and two
def test_shipped_model_on_a_gpu(digits_test, timesteps):
    """Watched, and as a CUDA graph that is replayed for other images of the same shape."""
    network, reference = zoo.load(DIGITS, device="cuda"), zoo.load(DIGITS)
    assert network.backend == "triton"
    first, second = (
        digits_test.batch(slice(start, start + 16), Preprocess((1, 8, 8))) for start in (0, 16)
    )
    check(network, "triton", first, timesteps, (timesteps,))
    for images in (first, second, first, first[:3]):
        assert torch.equal(
            network.run(images, timesteps).logits.cpu(), reference.run(images, timesteps).logits
        )


@interpreted
def test_real_images_on_a_real_checkpoint(shared):
    data = shared / "data"
    checkpoint = read_checkpoint(next((data / "checkpoints").glob("resnet20-*.th")), "resnet20")
    network = convert(
        checkpoint, open_images(data / "cifar10", "train"), samples=32, parameters={"rows": 8}
    ).network
    images = open_images(data / "cifar10", "test").batch(slice(2), Preprocess((3, 32, 32)))
    spikes = check(network, "interpret", images, 8, (8,))
    assert all(0.001 < s.double().mean() < 0.9 for s in spikes.values())
