"""The convolution under a layer is exact on every path, and oneDNN's int8 path is taken where it is meant to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.zoo.spiking_fixtures import naive_conv
from zoo.kernels.spiking_conv.convolution import Convolution

CPU = torch.device("cpu")


def weights(cout: int, cin: int, kernel: int, extreme: bool, gen: np.random.Generator) -> Tensor:
    values = gen.integers(-127, 128, (cout, cin, kernel, kernel))
    return torch.from_numpy((127 * np.sign(values) if extreme else values).astype(np.int8))


def make(
    weight: Tensor, stride: int, largest: int, dtype: torch.dtype = torch.float32
) -> Convolution:
    return Convolution(weight, stride, weight.shape[-1] // 2, dtype, CPU, largest)


def potential(
    shape: tuple[int, ...], gen: np.random.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    v = torch.from_numpy(gen.integers(-(2**20), 2**20, shape)).to(dtype)
    return v.contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def onednn() -> None:
    if not make(torch.ones(1, 1, 1, 1, dtype=torch.int8), 1, 1).vnni:
        pytest.skip("oneDNN's int8 convolution is not exact or not available on this machine")


@pytest.mark.parametrize("path", ["onednn", "float32", "float64"])
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
    if path == "onednn":
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
    wanted = naive_conv(x, weight.numpy(), stride, kernel // 2)
    kind = torch.float64 if path == "float64" else torch.float32
    conv = make(weight, stride, 256 if path == "float32" else 255, kind)
    assert conv.vnni == (path == "onednn")
    v = potential(wanted.shape, gen, kind)
    before = v.numpy().astype(np.int64)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = torch.from_numpy(x).contiguous(memory_format=layout)
        found = conv.add_to(v.clone(memory_format=torch.channels_last), given)
        assert found.dtype == kind
        assert np.array_equal(found.numpy(), before + wanted)


@pytest.mark.usefixtures("onednn")
def test_int8_and_plain_paths_agree_at_the_size_of_a_network():
    gen = np.random.default_rng(0)
    weight = weights(64, 64, 3, True, gen)
    fast, plain = make(weight, 1, 255), make(weight, 1, 256)
    assert fast.vnni and not plain.vnni
    for x in (
        gen.integers(-1, 2, (4, 64, 8, 8)).astype(np.int8),
        gen.integers(0, 256, (4, 64, 8, 8)).astype(np.uint8),
    ):
        v = potential((4, 64, 8, 8), gen)
        given = torch.from_numpy(x)
        assert torch.equal(
            fast.add_to(v.clone(memory_format=torch.channels_last), given), plain.add_to(v, given)
        )


@pytest.mark.usefixtures("onednn")
def test_one_packed_weight_serves_every_shape():
    gen = np.random.default_rng(0)
    weight = weights(5, 3, 3, False, gen)
    conv = make(weight, 2, 255)
    for shape in ((1, 3, 5, 5), (4, 3, 8, 9), (0, 3, 5, 5), (2, 3, 1, 1)):
        for low, dtype in ((-1, np.int8), (0, np.uint8)):
            x = gen.integers(low, 2, shape).astype(dtype)
            wanted = naive_conv(x, weight.numpy(), 2, 1)
            v = torch.zeros(wanted.shape).contiguous(memory_format=torch.channels_last)
            assert np.array_equal(conv.add_to(v, torch.from_numpy(x)).numpy(), wanted)


@pytest.mark.parametrize(
    ("weight", "dtype", "largest"),
    [
        (torch.int8, torch.float32, 256),
        (torch.int8, torch.float64, 1),
        (torch.float32, torch.float32, 1),
    ],
)
def test_no_int8_path_where_it_could_not_be_exact(weight, dtype, largest):
    assert not make(torch.ones(1, 1, 1, 1).to(weight), 1, largest, dtype).vnni


def test_float_inputs_and_weights():
    gen = np.random.default_rng(0)
    weight = weights(2, 3, 3, False, gen)
    image = gen.integers(-500, 501, (2, 3, 5, 5))
    wanted = naive_conv(image, weight.numpy(), 1, 1)
    for conv in (make(weight, 1, 500), make(weight, 1, 1), make(weight.float(), 1, 1)):
        v = torch.zeros(wanted.shape).contiguous(memory_format=torch.channels_last)
        assert np.array_equal(conv.add_to(v, torch.from_numpy(image).float()).numpy(), wanted)
