"""Bits by layer: what rounding costs, what spikes cost, and what a budget buys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.spiking_fixtures import QUICK, refuses
from zoo.conversion.allocate import choose_bits, estimate_cost, measure_damage, spend
from zoo.conversion.convert import convert
from zoo.conversion.methods.base import Job
from zoo.conversion.settings import Request
from zoo.conversion.thresholds import Activations
from zoo.errors import UsageError
from zoo.evaluation.energy import count_operations
from zoo.networks.pixels import image_table, look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.quantise import quantise
from zoo.networks.resnet import activate, ann_forward


@pytest.fixture(scope="module")
def job(digits_ann, digits) -> Job:
    prep = Preprocess((1, 8, 8))
    pixels = torch.cat([batch for batch, _ in digits.take(48, 0).batches(prep, 48)])
    return Job(
        checkpoint=digits_ann,
        request=Request(neuron="mixed", timesteps=8),
        seed=0,
        prep=prep,
        mean=QUICK["mean"],
        std=QUICK["std"],
        images=digits,
        pixels=pixels,
        labels=torch.zeros(48, dtype=torch.int64),
        report=lambda stage, done, total: None,
    )


@pytest.fixture(scope="module")
def theta(job) -> dict[int, dict[str, torch.Tensor]]:
    found = Activations(job)
    return {bits: found.mmse(16 * (2**bits - 1)) for bits in (1, 2, 4)}


def test_damage_is_that_of_rounding_one_layer(job, theta):
    net, params = job.checkpoint.net, job.checkpoint.params
    found = measure_damage(job, theta)
    assert list(found) == [layer.name for layer in net.layers]
    image = look_up(image_table(job.mean, job.std, integer=False), job.pixels)
    with torch.inference_mode():
        exact = ann_forward(net, params, image)
        for name, bits in (("conv1", 1), ("layer2.0.conv2", 2), ("layer3.2.conv2", 1)):

            def rounding(layer, z, name=name, bits=bits):
                activation = activate(layer, params, z)
                if layer.name != name:
                    return activation
                return quantise(activation, theta[bits][name], 8 * (2**bits - 1))

            logits = ann_forward(net, params, image, rounding)
            error = (logits - exact).square().mean().item()
            assert found[name][bits] == pytest.approx(error, rel=1e-4) and error > 0
    for values in found.values():
        assert values[1] > values[4]


def test_cost_is_what_the_network_is_counted_to_spend(job, theta, converted):
    """Of binary neurons; calibration makes them fire as often as the ANN asks."""
    made = converted(samples=48, parameters={"rows": 8, "images": 48})
    net = job.checkpoint.net
    cost = estimate_cost(net, (8, 8), theta, Activations(job).sample, 8)
    run = made.network.run(job.pixels, 8, snapshots=[8])
    active = (made.network.pixels(job.pixels) != 0).sum(0)
    counted = count_operations(made.network, run.spikes[8], active)
    total = sum(count for name, count in counted.items() if name != "conv1") / len(job.pixels)
    # Weights that were rounded to zero meet nothing.
    assert 0.85 * sum(c[1] for c in cost.values()) < total < sum(c[1] for c in cost.values())
    assert cost["layer3.2.conv2"] == dict.fromkeys(theta, 0.0)


def test_the_stem_and_the_sums_come_first(job, theta):
    net = job.checkpoint.net
    damage = measure_damage(job, theta)
    stream = sum(damage[name][1] for name in net.residual_stream)
    assert stream > 2 * sum(damage[n][1] for n in damage if n not in net.residual_stream)
    chosen = choose_bits(job, theta, Activations(job).sample, 1.5)
    more = {name for name, bits in chosen.bits.items() if bits > 1}
    assert len(more & net.residual_stream) > len(more - net.residual_stream)
    assert 1.2 < chosen.cost <= 1.5 and chosen.damage < 0.6


_TABLE = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(
        *[st.floats(0, 10, allow_nan=False) for _ in range(3)],
        *[st.floats(0, 10, allow_nan=False) for _ in range(3)],
    ),
    min_size=1,
)


@given(table=_TABLE, budget=st.floats(1, 4))
def test_a_budget_is_kept_and_buys_what_it_can(table, budget):
    steps = (1, 2, 4)
    damage = {name: dict(zip(steps, v[:3], strict=True)) for name, v in table.items()}
    cost = {name: dict(zip(steps, sorted(v[3:]), strict=True)) for name, v in table.items()}
    bits = spend(damage, cost, budget)
    spent = sum(cost[name][b] for name, b in bits.items())
    limit = budget * sum(values[1] for values in cost.values())
    assert spent <= limit + 1e-9
    for name, now in bits.items():
        assert damage[name][now] <= damage[name][1]
        for more in steps:
            if more > now and damage[name][more] < damage[name][now]:
                assert spent - cost[name][now] + cost[name][more] > limit - 1e-9


def test_mixed_converts_and_says_what_it_is(converted, tmp_path):
    made = converted(neuron="mixed", parameters={"rows": 8, "budget": 1.6})
    config = made.config
    assert (config.neuron, config.method.parameters["budget"]) == ("mixed", 1.6)
    assert config.neurons is not None and made.network.spike_bits == config.spike_bits > 1
    assert made.save(tmp_path / "mixed").neurons == config.neurons
    graded = converted(neuron="multi-level", parameters={"rows": 4, "bits": 2, "budget": 1.3})
    assert graded.config.neuron == "multi-level"
    assert {kind.bits for kind in graded.network.neurons.values()} == {2, 4}


def test_blocks_stay_binary_and_the_residual_stream_gets_the_bits(converted):
    made = converted(neuron="mixed", parameters={"rows": 4, "budget": 3.0, "blocks": "binary"})
    config, stream = made.config, made.network.topology.residual_stream
    assert config.method.parameters["blocks"] == "binary" and config.neurons is not None
    bits = {layer.name: config.neurons[layer.name].bits for layer in made.network.topology.layers}
    assert {bits[name] for name in bits.keys() - stream} == {1}
    assert max(bits[name] for name in stream) > 1
    free = converted(neuron="mixed", parameters={"rows": 4, "budget": 3.0}).config.neurons
    assert any(free[name].bits > 1 for name in bits.keys() - stream)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"parameters": {"blocks": "binary"}}, "blocks keeps the neurons inside the blocks"),
        ({"neuron": "mixed", "parameters": {"blocks": "x"}}, "use graded or binary"),
        ({"parameters": {"budget": 2.0}}, "`budget` gives layers more bits a spike"),
        ({"neuron": "mixed", "parameters": {"budget": 0.5}}, "budget must be 1.0 to 16.0, not 0.5"),
        ({"neuron": "mixed", "schedule": "layerwise"}, "never mixed"),
        ({"neuron": "mixed", "method": "hu2018"}, "use `method=calibrated` with `neuron=mixed`"),
    ],
)
def test_what_has_no_bits_by_layer_is_refused(digits_ann, digits, changes, match):
    with refuses(UsageError, match):
        convert(digits_ann, digits, **(QUICK | changes))
