"""A spiking network equals int64 arithmetic, whatever the chunk, window, threads and batch."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.zoo.spiking_fixtures import (
    naive_network,
    random_network,
    random_pixels,
    refuses,
    tiny_topology,
)
from zoo.artifact.folder import spike_checksum
from zoo.errors import UsageError
from zoo.networks.architectures import topology
from zoo.networks.pixels import look_up
from zoo.networks.reference import ReferenceLayers
from zoo.networks.spiking import SpikingResNet

FORMS = ("cifar", "imagenet")
KINDS = [
    ("if", "causal"),
    ("signed", "causal"),
    ("multi-level", "causal"),
    ("mixed", "causal"),
    ("if", "layerwise"),
]


def tiny(form: str, neuron: str = "if", schedule: str = "causal", seed: int = 0) -> SpikingResNet:
    return random_network(tiny_topology(form), neuron=neuron, schedule=schedule, seed=seed)


def watched(
    network: SpikingResNet, images: Tensor, timesteps: int, chunk: int = 32, window: int = 8
) -> dict[str, Tensor]:
    """Return all spikes `[T, B, C, H, W]` by layer (layerwise: counts `[B, C, H, W]`)."""
    seen: dict[str, list[Tensor]] = {}
    network.run(
        images,
        timesteps,
        chunk=chunk,
        window=window,
        on_spikes=lambda name, s: seen.setdefault(name, []).append(s.clone()),
    )
    if network.schedule == "layerwise":
        return {name: torch.cat(parts) for name, parts in seen.items()}
    whole = {}
    for name, parts in seen.items():
        per_chunk = -(-timesteps // window)
        chunks = [torch.cat(parts[i : i + per_chunk]) for i in range(0, len(parts), per_chunk)]
        whole[name] = torch.cat(chunks, 1)
    return whole


SIZES = [
    *((form, *size) for form in (*FORMS, "v1") for size in ((1, 1, 9), (8, 2, 12), (13, 3, 11))),
    *(("deep", *size) for size in ((1, 1, 16), (13, 3, 16))),
    *(("head", *size) for size in ((1, 1, 6), (13, 3, 6))),
]


@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
@pytest.mark.parametrize(("form", "timesteps", "batch", "side"), SIZES)
def test_spikes_equal_int64_stepping(form, neuron, schedule, timesteps, batch, side):
    network = tiny(form, neuron, schedule)
    images = random_pixels(batch, network.topology.in_channels, side)
    wanted, found = naive_network(network, images, timesteps), watched(network, images, timesteps)
    assert list(found) == [layer.name for layer in network.topology.layers]
    for name, spikes in found.items():
        assert np.array_equal(
            spikes.numpy(), wanted[name] if schedule == "causal" else wanted[name].sum(0)
        ), name
        rate = (wanted[name] != 0).mean()
        assert timesteps < 8 or 0.01 < rate < 0.99, (
            f"{name} shows nothing at a firing rate of {rate}"
        )


def test_signed_networks_take_spikes_back():
    spikes = watched(tiny("cifar", "signed"), random_pixels(2, 1, 8), 16)
    assert all(set(s.unique().tolist()) <= {-1, 0, 1} for s in spikes.values())
    assert sum((s == -1).sum().item() for s in spikes.values()) > 100
    assert all((s.cumsum(0, dtype=torch.int64) >= 0).all() for s in spikes.values())


@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_chunk_window_threads_and_batch_change_nothing(form, neuron, schedule, threads):
    network = tiny(form, neuron, schedule)
    images = random_pixels(7, network.topology.in_channels, 10)
    threads(1)
    base = network.run(images, 13, chunk=7, window=13, snapshots=[13])
    spikes, checksum = watched(network, images, 13, 7, 13), spike_checksum(network, images, 13)
    for count, chunk, window in (
        (1, 1, 1),
        (1, 3, 5),
        (2, 32, 8),
        (1, 2, 64),
        (3, 7, 13),
        (1, 5, 12),
    ):
        threads(
            count
        )  # more than one only where there are few calls: on a busy machine each of them then waits
        run = network.run(images, 13, chunk=chunk, window=window, snapshots=[13])
        assert torch.equal(run.logits, base.logits)
        assert all(
            torch.equal(run.spikes[13][name], base.spikes[13][name]) for name in base.spikes[13]
        )
        again = watched(network, images, 13, chunk, window)
        assert all(torch.equal(again[name], spikes[name]) for name in spikes)
    threads(2)
    assert spike_checksum(network, images, 13) == checksum
    threads(1)
    halves = [network.run(part, 13).logits for part in images.split(3)]
    assert torch.equal(torch.cat(halves, 1), base.logits)
    assert torch.equal(network(images, 13), base.logits[-1])


@pytest.mark.parametrize("arch", ["resnet20", "resnet18"])
def test_a_real_topology_runs_the_same_in_parts(arch, threads):
    network = random_network(
        topology(arch, num_classes=4, in_channels=1, shortcut=None), neuron="signed"
    )
    images = random_pixels(3, 1, 8 if arch == "resnet20" else 17)
    threads(1)
    spikes = watched(network, images, 5, 3, 5)
    threads(3)
    again = watched(network, images, 5, 2, 2)
    assert all(torch.equal(again[name], spikes[name]) for name in spikes)
    sizes = network.topology.sizes(*images.shape[-2:])
    assert all(tuple(s.shape[-2:]) == sizes[name] for name, s in spikes.items())


def test_checksum_sees_one_spike_more():
    network, images = tiny("cifar"), random_pixels(2, 1, 8)
    before = spike_checksum(network, images, 8)
    assert before == spike_checksum(tiny("cifar"), images, 8)
    network.layers["layer2.0.conv2"].threshold[3] += 1
    spikes = watched(network, images, 8)["layer2.0.conv2"]
    changed = not torch.equal(spikes, watched(tiny("cifar"), images, 8)["layer2.0.conv2"])
    assert changed == (spike_checksum(network, images, 8) != before)
    assert spike_checksum(tiny("cifar"), images, 7) != before
    assert spike_checksum(tiny("cifar"), images.flip(0), 8) != before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_snapshots_count_spikes(form, neuron):
    network = tiny(form, neuron)
    images = random_pixels(5, network.topology.in_channels, 10)
    marks = [1, 4, 5, 12]
    run = network.run(images, 12, snapshots=[*marks, 40], chunk=2, window=3)
    spikes = watched(network, images, 12)
    assert sorted(run.spikes) == marks
    for mark in marks:
        for name, s in spikes.items():
            assert run.spikes[mark][name].dtype == torch.int64
            assert torch.equal(
                run.spikes[mark][name], s[:mark].abs().sum((0, 1), dtype=torch.int64)
            ), (mark, name)
    assert network.run(images, 12).spikes == {}


def test_snapshots_of_many_images_and_timesteps():
    """More than 255 spikes of one neuron in one window."""
    network = tiny("cifar")
    network.layers["conv1"].bias[:] = network.layers["conv1"].threshold * 2
    spikes = network.run(random_pixels(9, 1, 4), 40, snapshots=[40], chunk=9, window=40).spikes[40][
        "conv1"
    ]
    assert spikes.max() > 255
    assert torch.equal(
        spikes, watched(network, random_pixels(9, 1, 4), 40)["conv1"].sum((0, 1), dtype=torch.int64)
    )


def test_layerwise_snapshot_at_the_end():
    network = tiny("cifar", schedule="layerwise")
    images = random_pixels(3, 1, 8)
    run = network.run(images, 6, snapshots=[6], chunk=2)
    for name, counts in watched(network, images, 6).items():
        assert torch.equal(run.spikes[6][name], counts.sum(0, dtype=torch.int64))


def test_layerwise_has_no_earlier_snapshot():
    network = tiny("cifar", schedule="layerwise")
    with contextlib.suppress(UsageError):
        assert set(network.run(random_pixels(3, 1, 8), 6, snapshots=[2, 6]).spikes) <= {2, 6}


@pytest.mark.parametrize("delay", [{}, {1: 0, 4: 1, 8: 3}, {2: 1, 16: 8}, {1: 5}])
def test_row_t_is_a_run_to_t(delay):
    network = tiny("cifar", "signed")
    network.delay = delay
    images = random_pixels(3, 1, 8)
    logits = network.run(images, 11).logits
    assert logits.shape == (11, 3, 3) and logits.dtype == torch.float64
    for t in range(1, 12):
        assert torch.equal(network.run(images, t).logits[-1], logits[t - 1]), t


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.integers(1, 12), st.integers(0, 12), max_size=4), st.integers(1, 12))
def test_read_out_skips_the_delay(delay, t):
    network = tiny("imagenet")
    network.delay = delay
    images = random_pixels(2, 3, 9)
    last = watched(network, images, t)["layer1.1.conv3"].numpy().astype(np.int64)
    known = [key for key in delay if key <= t]
    skip = min(delay[max(known)], t - 1) if known else 0
    counts = last[skip:].sum((0, 3, 4))
    head = network.head
    product = counts @ head.weight.numpy().astype(np.int64).T
    wanted = product * (head.scale.double().numpy() / (t - skip)) + head.bias.double().numpy()
    assert network.delay_at(t) == skip
    np.testing.assert_allclose(network(images, t).numpy(), wanted, rtol=1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("neuron", "schedule"), KINDS)
def test_no_images_give_no_logits(form, neuron, schedule):
    network = tiny(form, neuron, schedule)
    run = network.run(random_pixels(0, network.topology.in_channels, 9), 5, snapshots=[5])
    assert run.logits.shape == (5 if schedule == "causal" else 1, 0, network.topology.num_classes)
    assert all(not spikes.any() for spikes in run.spikes[5].values())


@pytest.mark.parametrize(
    ("images", "timesteps", "match"),
    [
        (random_pixels(1, 1, 8), 0, "timesteps must be 1 or more, not 0"),
        (random_pixels(1, 1, 8), -3, "not -3"),
        (random_pixels(1, 1, 8).float(), 1, r"uint8 \[B, 1, H, W\].*not float32 \[1, 1, 8, 8\]"),
        (random_pixels(1, 1, 8).to(torch.int8), 1, "not int8"),
        (random_pixels(1, 3, 8), 1, r"not uint8 \[1, 3, 8, 8\]"),
        (random_pixels(1, 1, 8)[0, 0], 1, r"not uint8 \[8, 8\]"),
    ],
)
@pytest.mark.parametrize("schedule", ["causal", "layerwise"])
def test_wrong_input_is_refused(images, timesteps, match, schedule):
    with pytest.raises(UsageError, match=match) as caught:
        tiny("cifar", schedule=schedule).run(images, timesteps)
    assert "\n" not in str(caught.value)


def test_refusal_of_images_names_the_way_out():
    with refuses(UsageError, "do not normalise"):
        tiny("cifar").run(random_pixels(1, 1, 8).float(), 1)


def test_images_go_through_the_table():
    table = torch.arange(-256, 512, dtype=torch.int16).view(3, 256)
    images = random_pixels(2, 3, 5)
    found = look_up(table, images)
    assert found.dtype == torch.float32
    assert torch.equal(found.long(), images.long() + torch.tensor([-256, 0, 256]).view(3, 1, 1))
    assert look_up(table, images[:0]).shape == (0, 3, 5, 5)


def test_moving_keeps_every_parameter():
    network = tiny("cifar", "signed")
    network.delay = {1: 0, 4: 2}
    moved, images = network.to("cpu"), random_pixels(2, 1, 8)
    assert moved.delay == network.delay and moved.schedule == network.schedule
    assert torch.equal(moved.run(images, 9).logits, network.run(images, 9).logits)


@pytest.mark.parametrize(
    ("arch", "side", "most"), [("resnet110", 32, 32), ("resnet18", 224, 5), ("resnet50", 224, 1)]
)
def test_images_that_run_together(arch, side, most):
    """By default as many as the cache is meant for, and one at least."""
    layers = ReferenceLayers(topology(arch), {}, torch.device("cpu"))
    assert layers.chunk(side, side) == most
    assert layers.chunk(4096, 4096) == 1 and layers.chunk(8, 8) == 32
    on_gpu = ReferenceLayers(topology(arch), {}, torch.device("cuda"))
    assert most < on_gpu.chunk(side, side) <= 256 and on_gpu.chunk(4096, 4096) == 1
