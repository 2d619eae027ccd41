"""The convolution under a layer is exact on every path, each taken where it is meant."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.zoo.spiking_fixtures import naive_conv
from zoo.kernels.spiking_conv import SpikingConv
from zoo.kernels.spiking_conv import convolution as module
from zoo.kernels.spiking_conv.convolution import Convolution, choose_path, sum_bound

CPU = torch.device("cpu")


def weights(cout: int, cin: int, kernel: int, extreme: bool, gen: np.random.Generator) -> Tensor:
    values = gen.integers(-127, 128, (cout, cin, kernel, kernel))
    return torch.from_numpy((127 * np.sign(values) if extreme else values).astype(np.int8))


def make(
    weight: Tensor,
    stride: int,
    largest: int,
    dtype: torch.dtype = torch.float32,
    path: str | None = None,
) -> Convolution:
    """Return a convolution on the CPU; with `path`, one that takes what another device would."""
    with contextlib.ExitStack() as stack:
        if path is not None:
            stack.enter_context(mock.patch.object(module, "choose_path", lambda **_: path))
        return Convolution(weight, stride, weight.shape[-1] // 2, dtype, CPU, largest)


@pytest.fixture(scope="module")
def onednn() -> None:
    if make(torch.ones(1, 1, 1, 1, dtype=torch.int8), 1, 1).path != "onednn":
        pytest.skip("oneDNN's int8 convolution is not exact or not available on this machine")


@pytest.mark.parametrize(
    "path",
    [
        *("onednn", "onednn float64", "narrow", "narrow float64"),
        *("float32", "float64", "matmul", "matmul float64"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    kernel=st.sampled_from([1, 3, 7]),
    stride=st.sampled_from([1, 2]),
    cin=st.sampled_from([1, 3, 5, 17]),
    cout=st.sampled_from([1, 4, 17]),
    batch=st.integers(0, 3),
    side=st.integers(1, 7),
    extreme=st.booleans(),
    kind=st.sampled_from(["spikes", "signed", "counts", "full"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_path_equals_int64(
    path, request, data, kernel, stride, cin, cout, batch, side, extreme, kind, seed
):
    if path.startswith("onednn"):
        request.getfixturevalue("onednn")
    gen = np.random.default_rng(seed)
    low, high, dtype = {
        "spikes": (0, 1, np.int8),
        "signed": (-1, 1, np.int8),
        "counts": (0, 255, np.uint8),
        "full": (255, 255, np.uint8),
    }[kind]
    x = gen.integers(low, high + 1, (batch, cin, side, data.draw(st.integers(1, 7)))).astype(dtype)
    weight = weights(cout, cin, kernel, extreme, gen)
    expected = naive_conv(x, weight.numpy(), stride, kernel // 2)
    kind = torch.float64 if "float64" in path else torch.float32
    first = path.split()[0]
    largest = 256 if path in ("float32", "float64") else 255
    if first in ("onednn", "narrow"):  # inputs of which float32 holds every sum
        largest = min(255, (2**24 - 1) // max(sum_bound(weight, 1), 1))
        x = np.minimum(x, min(largest, np.iinfo(dtype).max))
        expected = naive_conv(x, weight.numpy(), stride, kernel // 2)
    forced = {"matmul": "matmul", "narrow": "direct"}.get(first)
    conv = make(weight, stride, largest, kind, path=forced)
    assert conv.path == (forced or ("onednn" if first == "onednn" else "direct"))
    for layout in (torch.contiguous_format, torch.channels_last):
        given = torch.from_numpy(x).contiguous(memory_format=layout)
        actual = conv(given)
        assert actual.dtype == kind
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(actual.numpy(), expected)


@pytest.mark.usefixtures("onednn")
def test_int8_and_plain_paths_agree_at_the_size_of_a_network():
    gen = np.random.default_rng(0)
    weight = weights(64, 64, 3, True, gen)
    fast, plain = make(weight, 1, 200), make(weight, 1, 256)
    assert (fast.path, plain.path) == ("onednn", "direct")
    for x in (
        gen.integers(-1, 2, (4, 64, 8, 8)).astype(np.int8),
        gen.integers(0, 201, (4, 64, 8, 8)).astype(np.uint8),
    ):
        given = torch.from_numpy(x)
        assert torch.equal(fast(given), plain(given))


@pytest.mark.usefixtures("onednn")
def test_one_packed_weight_serves_every_shape():
    gen = np.random.default_rng(0)
    weight = weights(5, 3, 3, False, gen)
    conv = make(weight, 2, 255)
    for shape in ((1, 3, 5, 5), (4, 3, 8, 9), (0, 3, 5, 5), (2, 3, 1, 1)):
        for low, dtype in ((-1, np.int8), (0, np.uint8)):
            x = gen.integers(low, 2, shape).astype(dtype)
            expected = naive_conv(x, weight.numpy(), 2, 1)
            assert np.array_equal(conv(torch.from_numpy(x)).numpy(), expected)


@pytest.mark.parametrize(
    ("weight", "largest"),
    [
        (torch.ones(1, 1, 1, 1, dtype=torch.int8), 256),
        (torch.ones(1, 1, 1, 1), 1),
        (torch.full((2, 519, 1, 1), 127, dtype=torch.int8), 255),  # 255 * 519 * 127 > 2**24
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_narrow_path_where_it_could_not_be_exact(weight, largest, dtype):
    conv = make(weight, 1, largest, dtype)
    assert conv.path == "direct" and not conv.narrow


@pytest.mark.usefixtures("onednn")
def test_int8_path_up_to_the_last_sum_that_float32_holds():
    """At 255 * 518 * 127 = 2**24 - 1786, all inputs at their largest; potentials in float64."""
    weight = torch.full((1, 518, 1, 1), -127, dtype=torch.int8)
    conv = make(weight, 1, 255, torch.float64)
    assert conv.path == "onednn"
    x = torch.full((1, 518, 2, 2), 255, dtype=torch.uint8)
    x[..., 1, 1] = 254
    expected = naive_conv(x.numpy(), weight.numpy(), 1, 0)
    assert np.array_equal(conv(x).numpy(), expected)


@pytest.mark.parametrize("narrow", [True, False])
def test_integers_take_the_exact_path_on_a_gpu(narrow):
    chosen = {
        (integer, device): choose_path(integer=integer, device=device, narrow=narrow)
        for integer in (True, False)
        for device in ("cpu", "cuda")
    }
    assert chosen[True, "cuda"] == "matmul" and chosen[True, "cpu"] != "matmul"
    assert chosen[False, "cuda"] == chosen[False, "cpu"] == "direct"


@settings(max_examples=100, deadline=None)
@given(
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    cin=st.integers(1, 40),
    sign=st.sampled_from([1, -1, 0]),
    below=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul_is_exact_up_to_the_bound(kernel, stride, cin, sign, below, seed):
    """The largest inputs that the bound allows, all of one sign or of both, against int64.

    Sums reach 2**53 - 127 * 9 * 40 and more: one unit in the last place is a whole spike's weight.
    """
    gen = np.random.default_rng(seed)
    weight = torch.from_numpy(gen.choice([-127, 127, 126], (3, cin, kernel, kernel))).to(torch.int8)
    if sign:
        weight = sign * weight.abs()
    largest = (2**53 - 1) // sum_bound(weight, 1) - below
    assert sum_bound(weight, largest) < 2**53 <= sum_bound(weight, largest + below + 1)
    x = largest - gen.integers(0, 3, (2, cin, 5, 4))
    if not sign:
        x *= gen.choice([-1, 1], x.shape)
    expected = naive_conv(x, weight.numpy(), stride, kernel // 2)
    assert abs(expected).max() < 2**53
    conv = make(weight, stride, largest, torch.float64, path="matmul")
    result = conv(torch.from_numpy(x).double())
    assert np.array_equal(result.numpy().astype(np.int64), expected)


def test_sums_past_the_bound_are_refused():
    weight = torch.full((1, 2, 3, 3), -127, dtype=torch.int8)
    largest = (2**53 - 1) // (127 * 18)
    make(weight, 1, largest, torch.float64, path="matmul")
    with pytest.raises(OverflowError, match=r"2\*\*53"):
        make(weight, 1, largest + 1, torch.float64, path="matmul")


@pytest.mark.parametrize("timesteps", [1, 8, 4096])
@pytest.mark.parametrize("input_bound", [1, 15, 2**15])
def test_the_bound_of_sums_is_under_that_of_the_layer(input_bound, timesteps):
    """Under `current_bound`, and over a run under `potential_bound`, which `dtype` checks."""
    gen = np.random.default_rng(input_bound)
    one = torch.ones(4, dtype=torch.int32)
    layer = SpikingConv(
        weights(4, 5, 3, True, gen),
        torch.from_numpy(gen.integers(-9, 9, (2, 4)).astype(np.int32)),
        100 * one,
        50 * one,
        projection=weights(4, 6, 1, True, gen),
        input_bound=input_bound,
    )
    assert sum_bound(layer.weight, input_bound) == 127 * 45 * input_bound <= layer.current_bound
    for weight, largest in ((layer.weight, input_bound), (layer.projection, layer.max_level)):
        assert sum_bound(weight, timesteps * largest) <= layer.potential_bound(timesteps)


def test_float32_switches_do_not_reach_the_exact_path():
    """They allow TF32 or bfloat16 for float32 products."""
    gen = np.random.default_rng(0)
    weight, x = weights(4, 8, 3, True, gen), gen.integers(2**20, 2**24, (1, 8, 5, 5))
    expected = naive_conv(x, weight.numpy(), 1, 1)
    conv = make(weight, 1, 2**24, torch.float64, path="matmul")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result = conv(torch.from_numpy(x).double())
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(result.numpy(), expected)


def test_float_inputs_and_weights():
    gen = np.random.default_rng(0)
    weight = weights(2, 3, 3, False, gen)
    image = gen.integers(-500, 501, (2, 3, 5, 5))
    expected = naive_conv(image, weight.numpy(), 1, 1)
    for conv in (make(weight, 1, 500), make(weight, 1, 1), make(weight.float(), 1, 1)):
        assert np.array_equal(conv(torch.from_numpy(image).float()).numpy(), expected)
