"""The forms of a neuron that benchmarks.neurons times are the same neuron."""

from __future__ import annotations

import pytest
import torch

from benchmarks.neurons import BITS, functional, operations
from zoo.kernels.spiking_conv.compiled import torch_neuron


@pytest.mark.parametrize("kind", BITS)
def test_every_form_fires_alike(kind: str) -> None:
    gen, top = torch.Generator().manual_seed(0), 2 ** BITS[kind] - 1
    current = torch.randint(-40, 60, (9, 2, 5, 5, 3), generator=gen).float()
    bias = torch.randint(-3, 4, (9, 3), generator=gen).float()
    threshold = torch.tensor([7.0, 50.0, 90.0])
    v = torch.randint(0, 40, (2, 5, 5, 3), generator=gen).float()
    net = torch.zeros_like(v)
    spikes = torch.empty_like(current, dtype=torch.int8)
    returned = functional(kind, top)(v, net, current, bias, threshold)
    expected = v.clone(), net.clone(), torch.empty_like(spikes)
    signed = expected[1] if kind == "signed" else None
    torch_neuron(
        expected[0],
        signed,
        current,
        *(None, None, None),
        bias,
        threshold,
        expected[2].view(torch.uint8),
        top,
    )
    operations(kind, top)(v, net, current, bias, threshold, spikes)
    for found in ((v, net, spikes), (*returned[:2], torch.stack(returned[2:]))):
        assert all(map(torch.equal, found, expected))
    assert set(spikes.unique().tolist()) > ({-1, 0} if kind == "signed" else {0})
