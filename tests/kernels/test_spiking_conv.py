"""The reference layer equals spike trains by hand, and int64 arithmetic on random layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.zoo.spiking_fixtures import (
    NaiveNeurons,
    naive_bias,
    naive_conv,
    naive_current,
    naive_pool,
    naive_run,
)
from zoo.kernels.spiking_conv import Membrane, SpikingConv

quick = settings(max_examples=60, deadline=None)


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def kernel(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.int8)


def train(*spikes: int) -> Tensor:
    """One input neuron: int8 [T, 1, 1, 1, 1]."""
    return torch.tensor(spikes, dtype=torch.int8).view(-1, 1, 1, 1, 1)


def one(
    weight: int, threshold: int, v_init: int = 0, bias: tuple[int, ...] = (0,), **more: object
) -> SpikingConv:
    """One neuron behind one synapse; a bias per timestep."""
    return SpikingConv(
        kernel([[[[weight]]]]), ints(*bias).view(-1, 1), ints(threshold), ints(v_init), **more
    )


def fresh(layer: SpikingConv, x: Tensor, timesteps: int) -> Membrane:
    height, width = (
        (n + 2 * layer.padding - layer.weight.shape[-1]) // layer.stride + 1 for n in x.shape[-2:]
    )
    return layer.membrane(x.shape[-4], height, width, timesteps)


@pytest.mark.parametrize(
    ("layer", "inputs", "spikes", "potential"),
    [
        # 3 a spike, threshold 6, from 3: exactly at the threshold fires, and leaves 0.
        (one(3, 6, 3), (1, 1, 0, 1, 1), (1, 0, 0, 1, 0), 3),
        # Far over the threshold: one spike a timestep, what is left stays.
        (one(7, 3), (1, 0, 0, 0), (1, 1, 0, 0), 1),
        # One below the threshold does not fire.
        (one(5, 6), (1, 0), (0, 0), 5),
        # Below zero: `if` waits, `signed` has nothing to take back.
        (one(-4, 4), (1, 1, 0), (0, 0, 0), -8),
        (one(-4, 4, neuron="signed"), (1, 1, 0), (0, 0, 0), -8),
        # 4, 0, -4: after one +1 the first -4 is taken back, the second is not.
        (one(4, 4, neuron="signed"), (1, -1, -1, 1, 1, 1), (1, -1, 0, 0, 1, 1), 0),
        (one(4, 4, neuron="if"), (1, -1, -1, 1, 1, 1), (1, 0, 0, 0, 0, 1), 0),
        # Exactly zero is not below zero.
        (one(4, 4, neuron="signed"), (1, 0, 0), (1, 0, 0), 0),
        (one(1, 4, 3, neuron="signed"), (1, -1, -1, 1), (1, -1, 0, 0), 3),
        # Bias rows 1, 2, 5; the last one stays: v = 1, 3, 8 -> 1, 6 -> -1, 4.
        (one(1, 7, bias=(1, 2, 5)), (0, 0, 0, 0, 0), (0, 0, 1, 0, 1), 18 - 14),
        (one(127, 127, bias=(-127,)), (1, 1), (0, 0), 0),
    ],
)
def test_one_neuron_by_hand(
    layer: SpikingConv, inputs: tuple, spikes: tuple, potential: int
) -> None:
    membrane = fresh(layer, train(*inputs), len(inputs))
    assert layer.run(train(*inputs), None, membrane).flatten().tolist() == list(spikes)
    assert membrane.v.item() == potential
    assert membrane.t == len(inputs)


def test_identity_shortcut_by_hand() -> None:
    # v = 1, 1 + 5 + 2 = 8 -> 0, 5 -> 5, 0: the neuron fires at 6, each spike of the source brings
    # 5.
    layer = one(2, 6, 1, gain=ints(5))
    source = train(0, 1, 1, 0)
    x = train(0, 1, 0, 0)
    membrane = fresh(layer, x, 4)
    assert layer.run(x, source, membrane).flatten().tolist() == [0, 1, 1, 0]
    assert membrane.v.item() == 1 + 2 + 10 - 12


def test_padded_identity_shortcut_by_hand() -> None:
    layer = SpikingConv(
        kernel([[[[0]]]] * 3),
        ints(0, 0, 0).view(1, 3),
        ints(3, 3, 3),
        ints(0, 0, 0),
        stride=2,
        gain=ints(100, 4, 100),
        shortcut_stride=2,
        shortcut_pad=1,
    )
    x = torch.zeros(1, 1, 1, 3, 3, dtype=torch.int8)
    source = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0]], dtype=torch.int8).view(1, 1, 1, 3, 3)
    membrane = fresh(layer, x, 1)
    spikes = layer.run(x, source, membrane)
    # Rows and columns 0 and 2 of the source; the zero channels on either side get nothing, whatever
    # their gain.
    assert spikes.tolist() == [[[[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]]]
    assert membrane.v.tolist() == [[[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]]


def test_projection_shortcut_by_hand() -> None:
    layer = SpikingConv(
        kernel([[[[1]]], [[[-1]]]]),
        ints(0, 1).view(1, 2),
        ints(5, 2),
        ints(0, 0),
        stride=2,
        projection=kernel([[[[2]], [[3]]], [[[4]], [[-4]]]]),
        shortcut_stride=2,
    )
    x = torch.tensor([[1, 1, 0]], dtype=torch.int8).view(1, 1, 1, 1, 3)
    source = torch.tensor([[[1, 1, 0]], [[1, 0, 1]]], dtype=torch.int8).view(1, 1, 2, 1, 3)
    membrane = fresh(layer, x, 1)
    # channel 0: 1 + 2 + 3 = 6 fires; 0 + 0 + 3 = 3. channel 1: -1 + 1 + 4 - 4 = 0; 0 + 1 - 4 = -3.
    assert layer.run(x, source, membrane).tolist() == [[[[[1, 0]], [[0, 0]]]]]
    assert membrane.v.tolist() == [[[[1, 3]], [[0, -3]]]]


def test_bias_belongs_to_the_timestep_across_windows() -> None:
    layer = one(0, 2**20, bias=(1, 10, 1000))
    membrane = fresh(layer, train(0), 5)
    seen = []
    for steps in (1, 1, 2, 1):
        layer.run(train(*[0] * steps), None, membrane)
        seen.append(membrane.v.item())
    assert seen == [1, 11, 2011, 3011]


def test_stem_current_by_hand() -> None:
    layer = SpikingConv(
        kernel([[[[2]]]]), ints(-1).view(1, 1), ints(10), ints(4), max_pool=True, input_bound=9
    )
    image = torch.tensor([[1, 2, 3, 0], [0, 7, 0, 0], [0, 0, 0, 0], [-5, -5, -9, -9]]).float()
    image = image.view(1, 1, 4, 4)
    current = layer.current(image, 3)
    # Twice the image; 3x3 windows around (0, 0), (0, 2), (2, 0), (2, 2).
    assert current.tolist() == [[[[14, 14], [14, 14]]]]
    flat = SpikingConv(layer.weight, layer.bias, layer.threshold, layer.v_init, input_bound=9)
    assert torch.equal(flat.current(image, 3), image * 2)
    # v = 4 + 13 = 17 -> 7, 20 -> 10, 23 -> 13: the bias of -1 arrives at every timestep.
    membrane = layer.membrane(1, 2, 2, 3)
    assert layer.run(current, None, membrane, window=3)[:, 0, 0, 0, 0].tolist() == [1, 1, 1]
    assert membrane.v.flatten().tolist() == [13] * 4
    assert layer.count(current, None, 3, constant=True).flatten().tolist() == [3] * 4
    # Layerwise after 3 timesteps of -2 + -1: 4 - 9 is below the threshold; of 14 - 1: 4 + 39 = 43
    # gives 3, not 4.
    assert flat.count(flat.current(-image, 3), None, 3, constant=True).flatten().tolist()[:4] == [
        0,
        0,
        0,
        0,
    ]


@st.composite
def layers(
    draw: st.DrawFn, *, neurons: tuple[str, ...] = ("if", "signed"), most: int = 127
) -> tuple:
    """A random layer, and height and width of its input and source."""
    neuron, size = draw(st.sampled_from(neurons)), draw(st.sampled_from([1, 3, 7]))
    stride, rows = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    cin, pad = draw(st.integers(1, 4)), draw(st.integers(0, 1))
    side = draw(st.sampled_from([None, "identity", "projection"]))
    csrc = draw(st.integers(1, 3))
    cout = csrc + 2 * pad if side == "identity" else draw(st.integers(1, 5))
    gen = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def small(*shape: int) -> Tensor:
        values = gen.integers(-most, most + 1, shape)
        if draw(st.booleans()):
            values = most * np.sign(values)
        return torch.from_numpy(values.astype(np.int8))

    def wide(low: int, high: int, *shape: int) -> Tensor:
        return torch.from_numpy(gen.integers(low, high + 1, shape).astype(np.int32))

    threshold = wide(1, draw(st.sampled_from([1, 5, 300, 2000])), cout)
    layer = SpikingConv(
        small(cout, cin, size, size),
        wide(-200, 200, rows, cout),
        threshold,
        wide(-300, 300, cout),
        stride,
        size // 2,
        neuron,
        wide(-300, 300, cout) if side == "identity" else None,
        small(cout, csrc, 1, 1) if side == "projection" else None,
        stride if side else 1,
        pad if side == "identity" else 0,
    )
    return layer, draw(st.integers(1, 6)), draw(st.integers(1, 6)), csrc if side else 0, gen


TIMESTEPS = st.sampled_from([1, 2, 7, 8, 9, 33])
FILLS = st.sampled_from(["zeros", "ones", "random", "signed"])


def spikes_of(gen: np.random.Generator, fill: str, *shape: int) -> np.ndarray:
    if fill in ("zeros", "ones"):
        return np.full(shape, fill == "ones", np.int8)
    return gen.integers(-1 if fill == "signed" else 0, 2, shape).astype(np.int8)


@quick
@given(layers(), TIMESTEPS, st.sampled_from([0, 1, 2]), FILLS, st.data())
def test_run_equals_int64(
    drawn: tuple, timesteps: int, batch: int, fill: str, data: st.DataObject
) -> None:
    layer, height, width, csrc, gen = drawn
    x = spikes_of(gen, fill, timesteps, batch, layer.weight.shape[1], height, width)
    source = spikes_of(gen, fill, timesteps, batch, csrc, height, width) if csrc else None
    expected, v = naive_run(layer, x, source)
    inputs = torch.from_numpy(x), None if source is None else torch.from_numpy(source)
    membrane = fresh(layer, inputs[0], timesteps)
    result = layer.run(*inputs, membrane)
    assert result.dtype == torch.int8
    assert np.array_equal(result.numpy(), expected)
    assert np.array_equal(membrane.v.numpy(), v)

    # Carried through two windows, the membrane knows all there is to know.
    cut = data.draw(st.integers(0, timesteps))
    membrane = fresh(layer, inputs[0], timesteps)
    parts = [
        layer.run(inputs[0][part], None if source is None else inputs[1][part], membrane)
        for part in (slice(0, cut), slice(cut, None))
    ]
    assert torch.equal(torch.cat(parts), result)
    assert np.array_equal(membrane.v.numpy(), v)

    # Soft reset conserves the input; `signed` takes back no more than it gave.
    received = np.zeros(expected.shape[1:], np.int64)
    for t in range(timesteps):
        received += naive_current(layer, x[t], None if source is None else source[t]) + naive_bias(
            layer, t
        )
    spent = (
        result.numpy().sum(0, dtype=np.int64)
        * layer.threshold.numpy().astype(np.int64)[:, None, None]
    )
    assert np.array_equal(
        membrane.v.numpy() - layer.v_init.numpy()[:, None, None], received - spent
    )
    sums = result.numpy().cumsum(0, dtype=np.int64)
    assert (sums >= 0).all()
    assert set(np.unique(result.numpy())) <= ({0, 1} if layer.neuron == "if" else {-1, 0, 1})


@quick
@given(
    layers(neurons=("if",)), st.sampled_from([1, 2, 8, 33, 255, 300]), st.sampled_from([0, 1, 2])
)
def test_layerwise_count_equals_stepping(drawn: tuple, timesteps: int, batch: int) -> None:
    layer, height, width, csrc, gen = drawn
    x = gen.integers(0, timesteps + 1, (batch, layer.weight.shape[1], height, width))
    source = gen.integers(0, timesteps + 1, (batch, csrc, height, width)) if csrc else None
    kind = torch.uint8 if timesteps <= 255 else torch.int32
    count = layer.count(
        torch.from_numpy(x).to(kind),
        None if source is None else torch.from_numpy(source).to(kind),
        timesteps,
    )
    assert count.dtype == kind
    neurons = NaiveNeurons(layer, tuple(count.shape))
    neurons.v = (
        neurons.v
        + naive_current(layer, x, source)
        + sum(naive_bias(layer, t) for t in range(timesteps))
    )
    stepped = sum((neurons.step(0) for _ in range(timesteps)), np.zeros(count.shape, np.int64))
    assert np.array_equal(count.numpy(), stepped)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 2**20),
    st.integers(-3, 305),
    st.integers(-1, 1),
    st.sampled_from([1, 7, 255, 256, 300]),
)
def test_count_at_multiples_of_the_threshold(
    threshold: int, multiple: int, off: int, timesteps: int
) -> None:
    layer = one(0, threshold, multiple * threshold + off)
    count = layer.count(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), None, timesteps).item()
    v, stepped = multiple * threshold + off, 0
    for _ in range(timesteps):
        stepped += v >= threshold
        v -= threshold * (v >= threshold)
    assert count == stepped


def test_float32_up_to_its_mantissa_and_float64_beyond() -> None:
    assert one(0, 1, 0, (2**24 - 2,)).dtype(1) == torch.float32
    assert one(0, 1, 0, (2**24 - 1,)).dtype(1) == torch.float64
    assert one(0, 1, 2**24 - 2).dtype(1) == torch.float32
    assert one(0, 1, 2**24 - 1).dtype(1) == torch.float64
    assert one(3, 1, 0, (1,), gain=ints(5)).dtype((2**24 - 2) // 9) == torch.float32
    assert one(3, 1, 0, (1,), gain=ints(5)).dtype(2**24 // 9) == torch.float64
    assert one(100, 1, projection=kernel([[[[100]]]])).dtype(2**24 // 200 + 1) == torch.float64
    assert one(1, 1, input_bound=2**24).dtype(1) == torch.float64


@pytest.mark.parametrize(
    "layer",
    [
        one(127, 2**26 + 1, 2**25 + 1, (2**24 + 1, -(2**23) - 1)),
        one(127, 3, 2**24 + 1, (2**24 + 3,), gain=ints(2**24 + 5)),
        one(-127, 2**25 + 1, 0, (2**25 - 1,), projection=kernel([[[[-127]]]]), neuron="signed"),
        one(1, 2**30, 2**30, (-1,)),
    ],
)
@pytest.mark.parametrize("timesteps", [1, 5, 8])
def test_potentials_past_float32_are_exact(layer: SpikingConv, timesteps: int) -> None:
    x = np.ones((timesteps, 1, 1, 1, 1), np.int8)
    source = None if layer.gain is None and layer.projection is None else x
    expected, v = naive_run(layer, x, source)
    x = torch.from_numpy(x)
    membrane = fresh(layer, x, timesteps)
    assert membrane.v.dtype == torch.float64
    result = layer.run(x, None if source is None else x, membrane)
    assert np.array_equal(result.numpy(), expected)
    assert membrane.v.item() == v.item()
    if layer.neuron == "if":
        counts = x.sum(0).to(torch.uint8)
        shortcut = None if source is None else counts
        received = layer.accumulated_input(counts, shortcut, timesteps).item()
        steps = sum(
            naive_bias(layer, t).item() + 127 * (layer.weight.item() == 127)
            for t in range(timesteps)
        )
        extra = timesteps * (0 if layer.gain is None else layer.gain.item()) + timesteps * (
            layer.weight.item() == 1
        )
        assert received == layer.v_init.item() + steps + extra


def test_long_runs_are_exact() -> None:
    gen = np.random.default_rng(0)
    layer = SpikingConv(
        torch.from_numpy(gen.integers(100, 128, (2, 4, 3, 3)).astype(np.int8)),
        ints(1000, -1000).view(1, 2),
        ints(40_000, 90_000),
        ints(1, 2),
        padding=1,
    )
    counts = gen.integers(0, 20_001, (1, 4, 3, 3))
    assert layer.dtype(20_000) == torch.float64
    received = layer.accumulated_input(torch.from_numpy(counts).int(), None, 20_000)
    expected = naive_current(layer, counts, None) + 20_000 * naive_bias(layer, 0)
    assert np.array_equal(received.numpy(), expected + np.array([1, 2])[:, None, None])


def test_potentials_past_float64_are_refused() -> None:
    layer = one(0, 1, 0, (2**30,))
    assert layer.dtype(2**23 - 1) == torch.float64
    for use in (
        lambda: layer.dtype(2**23),
        lambda: layer.membrane(1, 1, 1, 2**23),
        lambda: layer.count(torch.zeros(1, 1, 1, 1, dtype=torch.int32), None, 2**23),
    ):
        with pytest.raises(OverflowError, match="fewer timesteps"):
            use()


def test_stem_current_past_float32_is_exact() -> None:
    layer = SpikingConv(
        torch.full((1, 3, 7, 7), 127, dtype=torch.int8),
        ints(0).view(1, 1),
        ints(1),
        ints(0),
        2,
        3,
        max_pool=True,
        input_bound=32767,
    )
    image = np.random.default_rng(0).integers(30_000, 32_768, (1, 3, 9, 9))
    expected = naive_pool(naive_conv(image, layer.weight.numpy(), 2, 3))
    assert expected.max() > 2**24
    assert np.array_equal(layer.current(torch.from_numpy(image).float(), 1).numpy(), expected)


def test_float_layers_follow_the_same_equations() -> None:
    layer = SpikingConv(
        torch.tensor([[[[0.5]]]]),
        torch.tensor([[0.25], [0.0]]),
        torch.tensor([0.75]),
        torch.tensor([0.0]),
        neuron="signed",
        gain=torch.tensor([-1.0]),
    )
    assert layer.dtype(10**9) == torch.float32
    # v = 0.5 + 0.25 = 0.75 -> 0; 0.5; 0.5 - 1 = -0.5 -> 0.25; 0.25.
    membrane = fresh(layer, train(1), 4)
    assert layer.run(train(1, 1, 0, 0), train(0, 0, 1, 0), membrane).flatten().tolist() == [
        1,
        0,
        -1,
        0,
    ]
    assert membrane.v.item() == 0.25


def test_adjust_moves_the_charged_potential() -> None:
    layer, seen = one(3, 10, bias=(1,)), []

    def adjust(t: int, v: Tensor) -> Tensor:
        seen.append((t, v.item()))
        return torch.tensor([6.0 if t == 0 else 0.0])

    membrane = fresh(layer, train(1), 3)
    assert layer.run(train(1, 1, 1), None, membrane, adjust=adjust).flatten().tolist() == [1, 0, 0]
    assert seen == [(0, 4.0), (1, 4.0), (2, 8.0)]
