"""The integer units of a layer leave every backend room for its potentials."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.zoo.spiking_fixtures import QUICK, random_pixels
from zoo.conversion.convert import convert


@pytest.mark.parametrize("name", ["conv1", "layer2.0.conv1", "layer3.2.conv2"])
def test_dead_channels_leave_every_backend_its_potentials(digits_ann, digits, name):
    """Weights that decayed to nothing once made a bias of 2**30 units: no int32 adds two."""
    params = {key: value.clone() for key, value in digits_ann.params.items()}
    for channel, bias in ((1, -0.01), (2, 0.0), (3, 0.01)):
        params[f"{name}.weight"][channel] *= 1e-9
        params[f"{name}.bias"][channel] = bias
    made = convert(replace(digits_ann, params=params), digits, **QUICK)
    network, pixels = made.network, random_pixels(1, 1, 8)
    layer = network.layers[name]
    assert layer.bias.abs().max() <= 2**23
    fused = network.with_backend("interpret")
    assert torch.equal(fused.run(pixels, 3).logits, network.run(pixels, 3).logits)
    limit = next(iter(fused._backends.values())).limit
    assert limit is not None and limit >= 256
