"""Graded spikes: the reference by hand and against integers, the fused kernels against it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.kernels.kernel_fixtures import (
    SHAPES,
    Shape,
    agree,
    check,
    poisoned,
    random_inputs,
    random_layer,
    random_spikes,
    reference,
)
from tests.zoo.spiking_fixtures import naive_run
from zoo.kernels.neuron import packed_bits
from zoo.kernels.spiking_conv import PackedMembrane, SpikingConv, count, pack, pooled_counts, unpack
from zoo.kernels.spiking_conv.tiles import Tile

BITS = (2, 4, 5)


def one(
    weight: int, threshold: int, v_init: int, bits: int, bias: tuple[int, ...] = (0,)
) -> SpikingConv:
    as_int = lambda *values: torch.tensor(values, dtype=torch.int32)  # noqa: E731
    return SpikingConv(
        torch.tensor([[[[weight]]]], dtype=torch.int8),
        as_int(*bias).view(-1, 1),
        as_int(threshold),
        as_int(v_init),
        neuron="multi-level",
        input_bound=2**bits - 1,
        bits=bits,
    )


@pytest.mark.parametrize(
    ("layer", "inputs", "spikes", "potential"),
    [
        # 2 + 3 * 15 = 47 is 9 thresholds and 2; 2 + 3 is exactly one; 0 + 0; 0 + 6 is one and 1.
        (one(3, 5, 2, 4), (15, 1, 0, 2), (9, 1, 0, 1), 1),
        # One below a threshold waits.
        (one(4, 5, 0, 4), (1, 0), (0, 0), 4),
        # 100 a spike: 15 at the most, and what is left fires later: 1500 - 90 = 1410, 1320.
        (one(100, 6, 0, 4), (15, 0), (15, 15), 1320),
        (one(100, 6, 0, 2), (3, 0), (3, 3), 264),
        # Below zero it is silent, and owes: -30, -30 + 45 = 15 is two sevens and 1.
        (one(3, 7, 0, 4, (-30, 0)), (0, 15), (0, 2), 1),
    ],
)
def test_one_neuron_by_hand(backend, layer, inputs, spikes, potential):
    x = torch.tensor(inputs, dtype=torch.int8).view(-1, 1, 1, 1, 1)
    expected = check(backend, layer, x)
    assert expected.flatten().tolist() == list(spikes)
    assert reference(layer, x)[1].v.item() == potential


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(BITS),
    shape=st.sampled_from(SHAPES),
    timesteps=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_reference_equals_int64(bits, shape, timesteps, seed):
    gen = np.random.default_rng(seed)
    layer = random_layer(shape, gen, "multi-level", bits=bits)
    x, source = random_inputs(shape, layer, gen, timesteps, 2, (4, 3))
    spikes, membrane = reference(layer, x, source)
    expected, v = naive_run(layer, x.numpy(), None if source is None else source.numpy())
    assert np.array_equal(spikes.numpy(), expected) and np.array_equal(membrane.v.numpy(), v)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_kind_of_layer(backend, shape, bits):
    gen = np.random.default_rng(bits)
    layer = random_layer(shape, gen, "multi-level", bits=bits)
    spikes = check(backend, layer, *random_inputs(shape, layer, gen, 9, 2, (5, 4)))
    assert len(spikes.unique()) > 2 ** (bits - 1), (
        "most levels are missing, so nothing is shown of them"
    )


@pytest.mark.parametrize("timesteps", [1, 2, 3, 4, 5, 32, 33])
@pytest.mark.parametrize("bits", BITS)
def test_every_number_of_timesteps(backend, timesteps, bits):
    gen = np.random.default_rng(timesteps)
    for shape in SHAPES[2::2]:
        layer = random_layer(shape, gen, "multi-level", bits=bits)
        check(backend, layer, *random_inputs(shape, layer, gen, timesteps, 1, (4, 3)))


@pytest.mark.parametrize(
    "tile",
    [Tile(16, 16, 32, 8, 4, 1), Tile(32, 32, 64, 2, 4, 2), Tile(64, 16, 32, 1, 4, 1)],
    ids=str,
)
@pytest.mark.parametrize("bits", BITS)
def test_a_tile_never_changes_a_spike(backend, tile, bits):
    """A tile may group more timesteps than a byte holds."""
    shape, gen = Shape(3, 1, 32, 20, "projection", 32), np.random.default_rng(0)
    layer = random_layer(shape, gen, "multi-level", bits=bits)
    check(backend, layer, *random_inputs(shape, layer, gen, 7, 1, (4, 5)), tile=tile)


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    bits=st.sampled_from(BITS),
    shape=st.sampled_from(SHAPES),
    windows=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_change_nothing(backend, bits, shape, windows, seed):
    gen = np.random.default_rng(seed)
    windows = [*windows, 3]
    layer = random_layer(shape, gen, "multi-level", bits=bits)
    check(
        backend, layer, *random_inputs(shape, layer, gen, sum(windows), 1, (3, 4)), windows=windows
    )


@pytest.mark.parametrize("windows", [(1,), (3, 2), (8, 9)], ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_stem(backend, bits, windows):
    gen = np.random.default_rng(bits)
    layer = random_layer(Shape(3, 1, 3, 5), gen, "multi-level", bits=bits)
    current = torch.from_numpy(gen.integers(-1500, 4000, (2, 4, 7, 5)))
    timesteps = sum(windows)
    membrane = layer.membrane(2, 4, 7, timesteps)
    expected = layer.run(
        current.to(membrane.v.dtype).permute(0, 3, 1, 2), None, membrane, window=timesteps
    )
    result, counts = PackedMembrane(), backend.put(torch.zeros((4, 7, 5), dtype=torch.int32))
    with poisoned():
        fused, x = backend.layer(layer), backend.put(current.int())
        agree(
            layer,
            membrane,
            result,
            expected,
            [fused.run(x, None, result, steps=steps, counts=counts) for steps in windows],
        )
    fired = sum((expected >> bit) & 1 for bit in range(bits)).sum((0, 1))
    assert torch.equal(counts.cpu(), fired.permute(1, 2, 0).int()) and fired.any()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("timesteps", [0, 1, 3, 17])
def test_pooled_counts(backend, timesteps, bits):
    spikes = random_spikes(np.random.default_rng(0), timesteps, 2, 5, (3, 4), False, 0.7, bits)
    with poisoned():
        result = pooled_counts(backend.pack(spikes, False, bits), backend.interpret)
    assert torch.equal(result.cpu().long(), spikes.long().sum((3, 4)))


@settings(max_examples=100, deadline=None)
@given(bits=st.integers(2, 6), timesteps=st.integers(0, 19), seed=st.integers(0, 2**32 - 1))
def test_packing(bits, timesteps, seed):
    spikes = random_spikes(np.random.default_rng(seed), timesteps, 2, 3, (2, 3), False, 0.6, bits)
    packed = pack(spikes, bits=bits)
    assert packed.planes.shape == (1, -(-timesteps * packed_bits(bits) // 8), 2, 2, 3, 3)
    assert torch.equal(unpack(packed), spikes)
    assert torch.equal(
        count(packed),
        sum((spikes.int() >> bit) & 1 for bit in range(bits)).sum(0, dtype=torch.int32),
    )
    with pytest.raises(ValueError, match=f"spikes must be 0 to {2**bits - 1}"):
        pack(torch.full((1, 1, 1, 1, 1), 2**bits, dtype=torch.int8), bits=bits)


# Bits of a layer's own spikes, of its input's and of its shortcut's source.
MIXED = ((1, 2, 1), (2, 1, 2), (1, 1, 2), (4, 2, 1), (1, 4, 5), (5, 4, 5), (4, 5, 6), (7, 7, 7))


@pytest.mark.parametrize("bits", MIXED, ids=str)
def test_bits_of_input_shortcut_and_spikes_may_differ(backend, bits):
    for shape in SHAPES:
        gen = np.random.default_rng(sum(bits))
        neuron = "multi-level" if bits[0] > 1 else "if"
        layer = random_layer(shape, gen, neuron, "random", 3, *bits)
        inputs = random_inputs(shape, layer, gen, 11, 2, (5, 4))
        assert check(backend, layer, *inputs, windows=(2, 9)).any()


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    bits=st.tuples(*[st.integers(1, 7)] * 3),
    shape=st.sampled_from(SHAPES),
    windows=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    group=st.sampled_from((1, 2, 4, 8)),
    seed=st.integers(0, 2**32 - 1),
)
def test_mixed_layers_equal_int64_in_any_windows(backend, bits, shape, windows, group, seed):
    gen = np.random.default_rng(seed)
    neuron = "multi-level" if bits[0] > 1 else "if"
    layer = random_layer(shape, gen, neuron, "random", 3, *bits)
    x, source = random_inputs(shape, layer, gen, sum(windows) + 3, 1, (3, 4))
    tile = Tile(16, 16, 32, group, 4, 1)
    spikes = check(backend, layer, x, source, windows=[*windows, 3], tile=tile)
    expected, _ = naive_run(layer, x.numpy(), None if source is None else source.numpy())
    assert np.array_equal(spikes.numpy(), expected)


def test_a_graded_layer_reads_signed_spikes(backend):
    for shape in SHAPES[1:]:
        gen = np.random.default_rng(0)
        layer = random_layer(shape, gen, "multi-level", bits=2, input_bits=1, source_bits=1)
        x, source = random_inputs(shape, layer, gen, 9, 1, (4, 3), signed=True)
        check(backend, layer, x, source, signed=True)


def test_bounds_count_the_largest_spike():
    layer = replace(one(3, 5, 2, 4, (7,)), source_bound=15)
    assert layer.current_bound == 3 * 15 + 7
    assert layer.potential_bound(2) == 2 * 52 + 2 + 5 * 15
    assert replace(layer, gain=torch.tensor([-2], dtype=torch.int32)).current_bound == 52 + 2 * 15
    assert (
        replace(layer, projection=torch.full((1, 1, 1, 1), 4, dtype=torch.int8)).current_bound
        == 52 + 4 * 15
    )
