"""The fused kernels equal the reference bit for bit.

Spikes, bits past T, potentials, net spikes and counts.

Interpreted on the CPU, and compiled where there is a GPU. Outputs begin as 0xAA between guards, so
what a kernel leaves unwritten or writes beside them shows (`kernel_fixtures.poisoned`).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.kernel_fixtures import (
    SHAPES,
    Shape,
    agree,
    check,
    interpreted,
    poisoned,
    random_inputs,
    random_layer,
    random_spikes,
    reference,
)
from zoo.kernels.spiking_conv import (
    PackedMembrane,
    SpikingConv,
    SpikingLayer,
    pack,
    pooled_counts,
    unpack,
)
from zoo.kernels.spiking_conv.tiles import Tile
from zoo.networks.architectures import topology
from zoo.networks.topology import IMAGE

by_name = {"ids": str}


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def train(*spikes: int) -> Tensor:
    """One input neuron: int8 [T, 1, 1, 1, 1]."""
    return torch.tensor(spikes, dtype=torch.int8).view(-1, 1, 1, 1, 1)


def one(
    weight: int, threshold: int, v_init: int = 0, bias: tuple[int, ...] = (0,), **more: object
) -> SpikingConv:
    """One neuron behind one synapse; a bias per timestep."""
    synapse = torch.tensor([[[[weight]]]], dtype=torch.int8)
    return SpikingConv(synapse, ints(*bias).view(-1, 1), ints(threshold), ints(v_init), **more)


@pytest.mark.parametrize(
    ("layer", "inputs", "spikes", "potential"),
    [
        # 3 a spike from 3: 6, exactly the threshold, fires and leaves 0.
        (one(3, 6, 3), (1, 1, 0, 1, 1), (1, 0, 0, 1, 0), 3),
        # One below the threshold does not.
        (one(5, 6), (1, 0), (0, 0), 5),
        # Far over it: one spike a timestep, and what is left stays.
        (one(7, 3), (1, 0, 0, 0), (1, 1, 0, 0), 1),
        # Below zero `if` waits: 4, 0, then -4, -8, -4, 0, 4.
        (one(4, 4), (1, -1, -1, 1, 1, 1), (1, 0, 0, 0, 0, 1), 0),
        # `signed` takes its one spike back at the first -4, and has nothing to give at the second.
        (one(4, 4, neuron="signed"), (1, -1, -1, 1, 1, 1), (1, -1, 0, 0, 1, 1), 0),
        (one(-4, 4, neuron="signed"), (1, 1, 0), (0, 0, 0), -8),
        # Exactly zero is not below zero.
        (one(4, 4, neuron="signed"), (1, 0, 0), (1, 0, 0), 0),
        # Bias rows 1, 2, 5, and 5 from then on: 1, 3, 8 -> 1, 6, 11 -> 4.
        (one(1, 7, bias=(1, 2, 5)), (0, 0, 0, 0, 0), (0, 0, 1, 0, 1), 4),
        # Nothing arrives after the last timestep, however strong the bias.
        (one(0, 2, bias=(1,)), (0,) * 9, (0, 1, 0, 1, 0, 1, 0, 1, 0), 1),
    ],
)
def test_one_neuron_by_hand(backend, layer, inputs, spikes, potential):
    membrane = PackedMembrane()
    with poisoned():
        result = backend.layer(layer).run(backend.pack(train(*inputs), signed=True), None, membrane)
    assert unpack(result).flatten().tolist() == list(spikes)
    assert membrane.v.item() == potential
    assert membrane.t == len(inputs)


def test_identity_shortcut_by_hand(backend):
    # v = 1, 1 + 2 + 5 = 8 -> 2, 2 + 5 = 7 -> 1, 1 - 5 = -4: a spike of the source brings 5, the
    # neuron fires at 6.
    layer, membrane = one(2, 6, 1, gain=ints(5)), PackedMembrane()
    inputs = [backend.pack(train(*spikes), True) for spikes in ((0, 1, 0, 0), (0, 1, 1, -1))]
    assert unpack(backend.layer(layer).run(*inputs, membrane)).flatten().tolist() == [0, 1, 1, 0]
    assert membrane.v.item() == -4


def test_padded_identity_shortcut_by_hand(backend):
    nothing = torch.zeros(3, 1, 1, 1, dtype=torch.int8)
    layer = SpikingConv(
        nothing,
        ints(0, 0, 0).view(1, 3),
        ints(3, 3, 3),
        ints(0, 0, 0),
        stride=2,
        gain=ints(100, 4, 100),
        shortcut_stride=2,
        shortcut_pad=1,
    )
    source = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0]], dtype=torch.int8).view(1, 1, 1, 3, 3)
    membrane = PackedMembrane()
    result = backend.layer(layer).run(
        backend.pack(0 * source, False), backend.pack(source, False), membrane
    )
    # Rows and columns 0 and 2 of the source; the zero channels on either side get nothing, whatever
    # their gain.
    expected = [[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]
    assert unpack(result)[0, 0].tolist() == expected
    assert membrane.v.permute(0, 3, 1, 2)[0].tolist() == expected


def test_projection_shortcut_by_hand(backend):
    layer = SpikingConv(
        torch.tensor([1, -1], dtype=torch.int8).view(2, 1, 1, 1),
        ints(0, 1).view(1, 2),
        ints(5, 2),
        ints(0, 0),
        stride=2,
        projection=torch.tensor([[2, 3], [4, -4]], dtype=torch.int8).view(2, 2, 1, 1),
        shortcut_stride=2,
    )
    x = torch.tensor([1, 1, 0], dtype=torch.int8).view(1, 1, 1, 1, 3)
    source = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.int8).view(1, 1, 2, 1, 3)
    membrane = PackedMembrane()
    result = backend.layer(layer).run(backend.pack(x, False), backend.pack(source, False), membrane)
    # Left: 1 + 2 + 3 = 6 fires, -1 + 1 + 4 - 4 = 0. Right: 0 + 0 + 3 = 3, 0 + 1 - 4 = -3.
    assert unpack(result)[0, 0].tolist() == [[[1, 0]], [[0, 0]]]
    assert membrane.v[0, 0].tolist() == [[1, 0], [3, -3]]


def shapes_of(arch: str, divide: int) -> list[Shape]:
    """Every kind of layer behind the stem, with `divide` times fewer channels."""
    net = topology(arch)
    result = {}
    for spec in net.layers:
        if spec.source == IMAGE:
            continue
        narrow = [max(c // divide, 4) for c in (spec.in_channels, spec.out_channels)]
        side = spec.shortcut
        more = {"groups": min(spec.groups, *narrow)}
        if side is not None:
            sources = max(net.channels[side.source] // divide, 4)
            more |= {"shortcut": side.kind, "sources": sources, "shortcut_stride": side.stride}
            more["shortcut_kernel"] = side.kernel
        result[Shape(spec.kernel, spec.stride, *narrow, **more)] = None
    return list(result)


@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize("shape", shapes_of("resnet20", 4), **by_name)
def test_layers_of_resnet20(backend, shape, neuron):
    shows_something(
        run_random(backend, shape, neuron, neuron == "signed", timesteps=8, batch=2, size=(5, 6))
    )


@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize("shape", shapes_of("resnet50", 16), **by_name)
def test_layers_of_resnet50(backend, shape, neuron):
    shows_something(
        run_random(backend, shape, neuron, neuron == "signed", timesteps=8, batch=1, size=(7, 7))
    )


def run_random(
    backend,
    shape,
    neuron="if",
    signed=False,
    *,
    timesteps,
    batch=2,
    size=(5, 4),
    weights="random",
    rate=0.3,
    seed=0,
    **how,
):
    gen = np.random.default_rng(seed)
    layer = random_layer(shape, gen, neuron, weights)
    x, source = random_inputs(shape, layer, gen, timesteps, batch, size, signed, rate)
    return check(backend, layer, x, source, signed=signed, **how)


def shows_something(spikes: Tensor) -> None:
    share = spikes.ne(0).double().mean()
    assert 0.01 < share < 0.95, f"a firing rate of {share} shows nothing"


@pytest.mark.parametrize("timesteps", [1, 7, 8, 9, 32, 33])
@pytest.mark.parametrize("shape", SHAPES[2::2], **by_name)
def test_every_number_of_timesteps(backend, shape, timesteps):
    for neuron in ("if", "signed"):
        run_random(
            backend, shape, neuron, neuron == "signed", timesteps=timesteps, batch=1, size=(4, 3)
        )


@pytest.mark.parametrize("batch", [0, 1, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 7), (9, 5)])
def test_every_size(backend, size, batch):
    for shape in SHAPES:
        run_random(backend, shape, "signed", True, timesteps=3, batch=batch, size=size)


@pytest.mark.parametrize("signed", [False, True], ids=["plain-input", "signed-input"])
@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize("shape", SHAPES, **by_name)
def test_neurons_and_inputs_of_either_kind(backend, shape, neuron, signed):
    spikes = run_random(backend, shape, neuron, signed, timesteps=12, batch=3)
    shows_something(spikes)
    assert neuron == "if" or (spikes < 0).any()


@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize("shape", SHAPES, **by_name)
def test_potentials_on_the_threshold(backend, shape, neuron):
    gen = np.random.default_rng(1)
    layer = random_layer(shape, gen, neuron, "small")
    x, source = random_inputs(shape, layer, gen, 11, 2, (5, 4), True)
    check(backend, layer, x, source, signed=True)

    ties, none = [], torch.zeros(shape.channels)

    def look(t: int, v: Tensor) -> Tensor:
        ties.append((v == layer.threshold.view(-1, 1, 1)).sum().item())
        return none

    membrane = layer.membrane(2, *reference(layer, x, source)[0].shape[-2:], 11)
    layer.run(x, source, membrane, adjust=look)
    assert sum(ties) > 20


@pytest.mark.parametrize("weights", ["most", "least", "extreme"])
@pytest.mark.parametrize("rate", [0.0, 1.0, 0.5])
def test_extremes(backend, weights, rate):
    for shape in (SHAPES[4], SHAPES[5]):
        for neuron, signed in (("if", False), ("signed", True)):
            run_random(backend, shape, neuron, signed, timesteps=9, weights=weights, rate=rate)


@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_potentials_up_to_int32(backend, neuron):
    # From 2**30 + 2**29 up to minus 2**30 and more.
    layer = one(127, 2**30 - 1, 2**30, (2**29, -(2**28)), neuron=neuron, gain=ints(2**26))
    expected = check(backend, layer, *[train(1, 0, 1, 0, 0, 0, 0, 0, 0)] * 2)
    assert expected.flatten().tolist()[0] == 1


# Shrinking a failure would take the interpreter minutes.
@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    shape=st.sampled_from(SHAPES),
    neuron=st.sampled_from(["if", "signed"]),
    signed=st.booleans(),
    windows=st.lists(st.integers(1, 18), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_change_nothing(backend, shape, neuron, signed, windows, seed):
    run_random(
        backend,
        shape,
        neuron,
        signed,
        timesteps=sum(windows),
        batch=1,
        size=(3, 4),
        seed=seed,
        windows=windows,
    )


@pytest.mark.parametrize("windows", [(0, 5), (5, 0, 3), (5, 0)])
def test_a_window_of_no_timesteps_changes_nothing(backend, windows):
    for shape in SHAPES[:4:3]:
        run_random(backend, shape, "signed", True, timesteps=sum(windows), windows=windows)


@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_the_last_window_need_not_keep_the_membrane(backend, neuron):
    gen = np.random.default_rng(0)
    layer = random_layer(SHAPES[3], gen, neuron)
    x, source = random_inputs(SHAPES[3], layer, gen, 13, 2, (5, 4))
    expected, _ = reference(layer, x, source)
    fused, membrane = backend.layer(layer), PackedMembrane()
    with poisoned():
        inputs = [
            (backend.pack(x[part], False), backend.pack(source[part], False))
            for part in (slice(6), slice(6, None))
        ]
        begin = fused.run(*inputs[0], membrane)
        end = fused.run(*inputs[1], membrane, save=False)
        whole, alone = PackedMembrane(), backend.pack(source, False)
        at_once = fused.run(backend.pack(x, False), alone, whole, save=False)
    assert torch.equal(torch.cat([unpack(begin), unpack(end)]).cpu(), expected)
    assert torch.equal(at_once.planes.cpu(), pack(expected, neuron == "signed").planes)
    assert whole.v is None and whole.t == membrane.t == 13


# Smaller and larger than the layer in every direction, each group, blocks within a tap and across
# taps.
TILES = [
    Tile(16, 16, 32, 1, 4, 1),
    Tile(32, 16, 32, 2, 4, 2),
    Tile(16, 32, 64, 4, 4, 3),
    Tile(64, 64, 64, 8, 4, 3),
    Tile(128, 16, 64, 8, 8, 2),
    Tile(16, 128, 32, 4, 8, 1),
]
TILED = [
    Shape(3, 1, 32, 20, "identity", 20),
    Shape(3, 2, 20, 24, "projection", 32, 2),
    Shape(1, 1, 64, 24, "projection", 64, 1),
]


@pytest.mark.parametrize(
    "tile", TILES, ids=lambda t: f"{t.pixels}x{t.channels}x{t.depth}-group{t.group}"
)
@pytest.mark.parametrize("shape", TILED, **by_name)
def test_a_tile_never_changes_a_spike(backend, shape, tile):
    size = (4, 5) if shape.stride == 1 else (8, 9)  # 20 pixels of output
    run_random(backend, shape, "signed", True, timesteps=6, batch=1, size=size, tile=tile)
    gen = np.random.default_rng(0)
    check_count(backend, shape, random_layer(shape, gen), gen, 9, tile, 1, size)


@pytest.mark.parametrize("neuron", ["if", "signed"])
@pytest.mark.parametrize("windows", [(1,), (7, 2), (8, 24), (33,), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_stem(backend, neuron, windows, batch):
    gen = np.random.default_rng(batch)
    layer = random_layer(Shape(3, 1, 3, 5), gen, neuron)
    current = gen.integers(-1500, 2000, (batch, 4, 7, 5))
    if neuron == "signed":  # rise first and fall then, so that spikes are taken back
        layer.bias[:] = torch.tensor([[1500], [-500], [-1500]])
    timesteps = sum(windows)
    membrane = layer.membrane(batch, 4, 7, timesteps)
    given = torch.from_numpy(current).to(membrane.v.dtype).permute(0, 3, 1, 2)
    expected = layer.run(given, None, membrane, window=timesteps)
    result, counts = PackedMembrane(), backend.put(torch.full((4, 7, 5), 7, dtype=torch.int32))
    with poisoned():
        fused, x = backend.layer(layer), backend.put(torch.from_numpy(current).int())
        spikes = [fused.run(x, None, result, steps=steps, counts=counts) for steps in windows]
        agree(layer, membrane, result, expected, spikes)
        free = fused.run(x, None, PackedMembrane(), steps=timesteps, save=False)
    assert torch.equal(unpack(free).cpu(), expected)
    assert torch.equal(counts.cpu() - 7, expected.abs().sum((0, 1)).permute(1, 2, 0).int())
    if batch and timesteps > 3:
        assert expected.any() and (neuron == "if" or (expected < 0).any())


def check_count(backend, shape, layer, gen, timesteps, tile=None, batch=2, size=(5, 4)):
    """Layerwise counts are the reference's, for counts of 0 to T in and out."""

    def counts(values: Tensor) -> Tensor:
        many = torch.from_numpy(gen.integers(0, timesteps + 1, values.shape[1:]).astype(np.uint8))
        return torch.where(values[0] < 0, 0, torch.where(values[0] > 0, timesteps, many)).to(
            torch.uint8
        )

    inputs = random_inputs(shape, layer, gen, 1, batch, size, True, 0.4)
    x, source = (None if values is None else counts(values) for values in inputs)
    expected = layer.count(x, source, timesteps)
    rows = [
        None if values is None else backend.put(values.permute(0, 2, 3, 1))
        for values in (x, source)
    ]
    with poisoned():
        result = backend.layer(layer, tile).count(*rows, timesteps)
    assert result.dtype == torch.uint8
    assert torch.equal(result.cpu(), expected.permute(0, 2, 3, 1))
    return expected


@pytest.mark.parametrize("timesteps", [1, 2, 8, 33, 127])
@pytest.mark.parametrize("weights", ["random", "small", "most", "least", "extreme"])
@pytest.mark.parametrize("shape", SHAPES, **by_name)
def test_layerwise_counts(backend, shape, weights, timesteps):
    gen = np.random.default_rng(timesteps)
    expected = check_count(
        backend, shape, random_layer(shape, gen, weights=weights, rows=5), gen, timesteps
    )
    if weights == "random":
        assert expected.unique().numel() > min(timesteps, 3)


@pytest.mark.parametrize(("batch", "size"), [(0, (5, 4)), (1, (1, 1)), (3, (7, 2)), (1, (9, 9))])
def test_layerwise_sizes(backend, batch, size):
    for shape in SHAPES:
        gen = np.random.default_rng(0)
        check_count(backend, shape, random_layer(shape, gen), gen, 20, batch=batch, size=size)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_layerwise_count_at_multiples_of_the_threshold(backend, off):
    thresholds = torch.tensor([1, 2, 3, 7, 127, 1000, 2**20], dtype=torch.int32)
    nothing = torch.zeros(7, 1, 1, 1, dtype=torch.int8)
    for multiple in (-1, 0, 1, 5, 126, 127, 128):
        layer = SpikingConv(
            nothing, torch.zeros(1, 7, dtype=torch.int32), thresholds, multiple * thresholds + off
        )
        with poisoned():
            result = backend.layer(layer).count(
                backend.put(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)), None, 127
            )
        expected = [min(max((multiple * t + off) // t, 0), 127) for t in thresholds.tolist()]
        assert result.flatten().tolist() == expected


def test_layerwise_counts_of_128_are_refused(backend):
    x = torch.zeros(1, 1, 1, 1, dtype=torch.uint8, device=backend.device)
    with pytest.raises(OverflowError, match="up to 127 timesteps, not 128"):
        backend.layer(one(1, 1)).count(x, None, 128)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("timesteps", "batch", "channels", "size"),
    [
        (1, 1, 1, (1, 1)),
        (9, 3, 5, (7, 7)),
        (8, 2, 70, (3, 2)),
        (33, 1, 64, (8, 8)),
        (3, 0, 4, (2, 2)),
        (0, 2, 3, (2, 2)),
    ],
)
def test_pooled_counts(backend, timesteps, batch, channels, size, signed):
    spikes = random_spikes(np.random.default_rng(0), timesteps, batch, channels, size, signed, 0.7)
    with poisoned():
        result = pooled_counts(backend.pack(spikes, signed), backend.interpret)
    assert result.dtype == torch.int32
    assert torch.equal(result.cpu(), spikes.sum((3, 4), dtype=torch.int32))


def test_float_layers_are_refused():
    layer = SpikingConv(torch.ones(1, 1, 1, 1), torch.zeros(1, 1), torch.ones(1), torch.zeros(1))
    with pytest.raises(ValueError, match="integer"):
        SpikingLayer(layer)


@interpreted
def test_both_kinds_live_in_one_process_with_their_own_device_functions():
    from zoo.kernels.spiking_conv import launch

    kinds = {False: "JITFunction", True: "InterpretedFunction"}
    for interpret, kind in kinds.items():
        module = launch.kernels(interpret)
        names = ("spiking_conv", "layerwise_conv", "output_block", "add_currents", "fire")
        assert {type(getattr(module, name)).__name__ for name in names} == {kind}
        assert launch.kernels(interpret) is module


def test_guards_see_stray_and_missing_stores(backend):
    """The tests' own eyes: a byte beside an output, and one never written."""
    from zoo.kernels.spiking_conv import launch

    with pytest.raises(AssertionError, match="outside"), poisoned():
        tensor = launch.torch.empty((3, 5), dtype=torch.uint8, device=backend.device)
        tensor.as_strided((1,), (1,), tensor.storage_offset() - 1).fill_(0)
    with poisoned():
        assert (
            launch.torch.empty(4, dtype=torch.int32, device=backend.device) == -0x55555556
        ).all()
