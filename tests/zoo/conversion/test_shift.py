"""Test fast calibration and rounding against the same written slowly, and spikes kept in bits."""

from __future__ import annotations

import pytest
import torch

from zoo.conversion import calibrate, rounding
from zoo.conversion.trains import SpikeTrain


@pytest.mark.parametrize(("max_level", "signed"), [(1, False), (1, True), (3, False), (15, False)])
def test_the_shift_is_that_of_trying_every_one(max_level, signed):
    gen = torch.Generator().manual_seed(max_level)
    potential = (
        torch.randn(6, 300, generator=gen) * (1 + max_level / 3) * 64
    ).round() / 64  # many lie on a threshold
    # Near what fires without a shift, so that none of two thresholds is the answer to all.
    missing = potential.floor().clamp(0, max_level).mean(1) + torch.rand(6, generator=gen) - 0.5
    owing = torch.rand(6, 300, generator=gen) < 0.4 if signed else None
    means = []
    for shift in calibrate._GRID:
        v = potential + shift
        spikes = v.floor().clamp(0, max_level)
        total = (spikes - ((v < 0) & owing).float() if owing is not None else spikes).sum(1)
        means.append(total.long() / 300)
    target = calibrate._nearest(torch.stack(means, 1), missing)
    found = calibrate._shift(potential, missing, owing, max_level)
    assert torch.equal(found, target) and len(found.unique()) > 2


@pytest.mark.parametrize("width", [64, 65, 150])
def test_rounding_in_blocks_is_rounding_one_input_after_another(width, monkeypatch):
    gen = torch.Generator().manual_seed(width)
    inputs = torch.rand(400, width, generator=gen) @ torch.rand(width, width, generator=gen)
    weight = 60 * torch.randn(5, width, generator=gen)
    blocks = rounding.round_to_int8(weight, inputs)
    monkeypatch.setattr(rounding, "_BLOCK", width)
    whole = rounding.round_to_int8(weight, inputs)
    assert torch.equal(blocks[0], whole[0]) and torch.allclose(blocks[1], whole[1])
    assert not torch.equal(whole[0], weight.round().clamp(-127, 127).to(torch.int8))


@pytest.mark.parametrize(
    ("neuron", "bits", "low"),
    [("if", 1, 0), ("signed", 1, -1), ("multi-level", 2, 0), ("multi-level", 4, 0)],
)
def test_a_spike_train_keeps_every_spike(neuron, bits, low):
    spikes = torch.randint(
        low, 2**bits, (19, 3, 2, 4, 5), generator=torch.Generator().manual_seed(0)
    ).to(torch.int8)
    train = SpikeTrain(neuron == "signed", bits)
    for now in spikes:
        train.append(now)
    assert len(train) == 19 and all(torch.equal(train[t], spikes[t]) for t in range(19))
    assert torch.equal(train.total(11), spikes[:11].sum(0, dtype=torch.int32))
    assert train.fired(11) == sum(
        bin(abs(value)).count("1") for value in spikes[:11].flatten().tolist()
    )
