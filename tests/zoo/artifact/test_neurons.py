"""Neurons by layer in config.json: left out where layers are alike, refused where it contradicts.

Spikes of an artifact whose layers differ are those of the network that was saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.config import CONFIG, parse_config
from zoo.artifact.folder import read_artifact, read_config, verify_artifact, write_artifact
from zoo.artifact.tensors import network_of, tensors_of
from zoo.errors import IntegrityError
from zoo.kernels.neuron import MAX_BITS, NeuronKind, packed_bits
from zoo.models import registry
from zoo.networks.spiking import SpikingResNet

GRADED = {"neuron": "multi-level", "bits": 2}
BINARY = {"neuron": "if", "bits": 1}


@pytest.fixture
def mixed(converted, tmp_path) -> tuple[Path, SpikingResNet]:
    """An artifact whose residual stream is graded, and the network that was saved."""
    made = converted(method="hu2018", parameters={"steps": 2})
    net = made.network.topology

    def kind(name: str) -> NeuronKind:
        return NeuronKind("multi-level", 2) if name in net.residual_stream else NeuronKind()

    layers = {}
    for spec in net.layers:
        layer, own = made.network.layers[spec.name], kind(spec.name)
        layers[spec.name] = replace(
            layer,
            neuron=own.neuron,
            bits=own.bits,
            threshold=(layer.threshold / own.max_level).ceil().int(),
            input_bound=layer.input_bound if spec is net.layers[0] else kind(spec.source).max_level,
            source_bound=kind(spec.shortcut.source).max_level if spec.shortcut else 1,
        )
    network = SpikingResNet(net, layers, made.network.head, made.network.image_table)
    neurons = {name: GRADED if kind(name).bits == 2 else BINARY for name in layers}
    fields = json.loads(made.config.model_dump_json())
    fields |= {"neuron": "mixed", "spike_bits": 2, "neurons": neurons, "readout_delay": {}}
    config = parse_config(json.dumps(fields).encode(), "a config")
    write_artifact(tmp_path / "mixed", tensors_of(network, made.scales), config)
    return tmp_path / "mixed", network


def test_a_mixed_artifact_has_the_spikes_of_its_network(mixed):
    folder, network = mixed
    config, tensors = read_artifact(folder)
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    found, expected = (
        made.run(images, 5, snapshots=[5]) for made in (network_of(config, tensors), network)
    )
    assert torch.equal(found.logits, expected.logits)
    for name, spikes in expected.spikes[5].items():
        assert torch.equal(found.spikes[5][name], spikes), name
    assert all(check.ok for check in verify_artifact(folder, deep=True))
    assert "neuron=mixed" not in repr(network) and "mixed causal" in repr(network)


def without(*names: str) -> Callable[[dict], None]:
    return lambda fields: [fields["neurons"].pop(name) for name in names]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f.update(neuron="if"), "neuron if is not what the layers have"),
        (lambda f: f.update(spike_bits=4), "spike_bits 4 is not the largest"),
        (lambda f: f.update(neurons=None), "mixed neurons need `neurons`"),
        (lambda f: f.update(schedule="layerwise"), "causal"),
        (lambda f: f["neurons"].update(conv1={"neuron": "if", "bits": 2}), "of 2 bits"),
        (lambda f: f["neurons"].update(conv1={"neuron": "multi-level"}), "of 1 bits"),
        (lambda f: f["neurons"].update(conv1=GRADED | {"bits": MAX_BITS + 1}), "conv1"),
        (lambda f: f["neurons"].update(conv1=GRADED | {"leak": 1}), "leak"),
        (lambda f: f["neurons"].update(conv9=GRADED), "must name the layers of resnet20"),
        (without("conv1"), "must name the layers of resnet20"),
        (lambda f: f.update(neurons=dict(reversed(f["neurons"].items()))), "running order"),
        (lambda f: f.update(neurons=dict.fromkeys(f["neurons"], GRADED)), "are alike"),
    ],
)
def test_what_contradicts_is_refused(mixed, change, match):
    folder, _ = mixed
    fields = json.loads((folder / CONFIG).read_text())
    change(fields)
    (folder / CONFIG).write_text(json.dumps(fields))
    with refuses(IntegrityError, match):
        read_artifact(folder)


def test_a_config_of_alike_layers_says_nothing_of_them(saved):
    assert "neurons" not in json.loads((saved / CONFIG).read_text())
    shipped = read_config(registry.resolve("s-resnet20-digits"))
    assert shipped.neurons is None and "neurons" not in shipped.model_dump()


@given(bits=st.integers(1, MAX_BITS))
def test_a_spike_takes_a_whole_part_of_a_byte(bits):
    assert packed_bits(bits) in (1, 2, 4, 8) and bits <= packed_bits(bits) < 2 * bits or bits == 1
    assert NeuronKind("multi-level" if bits > 1 else "if", bits).max_level == 2**bits - 1
    for neuron in ("if", "signed") if bits > 1 else ("multi-level",):
        with pytest.raises(ValueError, match=f"of {bits} bits"):
            NeuronKind(neuron, bits)
