"""The NIR file of a network gives its spikes: in an interpreter of NIR alone, in SpikingJelly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from tests.zoo.spiking_fixtures import random_network, random_pixels, refuses, tiny_topology
from zoo.artifact.config import MAX_TIMESTEPS, Config
from zoo.artifact.folder import read_artifact, read_config
from zoo.artifact.tensors import network_of
from zoo.cli import main
from zoo.data.open import open_images
from zoo.errors import UsageError
from zoo.exchange import nir as exchange
from zoo.models import registry
from zoo.networks.preprocess import Preprocess
from zoo.networks.spiking import SpikingResNet
from zoo.networks.topology import IMAGE

nir = pytest.importorskip("nir", reason="needs nir (extra nir)")

NAME = "s-resnet20-digits"


def interpret(graph: Any, inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return spikes `[T, B, C, H, W]` of every IF node, and outputs, as the metadata says."""
    readers: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        readers[target].append(source)
    order = list(TopologicalSorter(readers).static_order())
    potential: dict[str, Tensor] = {}
    spikes: dict[str, list[Tensor]] = {}
    outputs = []
    for image in inputs:
        out: dict[str, Tensor] = {}
        for name in order:
            node = graph.nodes[name]
            total = (
                image
                if isinstance(node, nir.Input)
                else torch.stack([out[source] for source in readers[name]]).sum(0)
            )
            if isinstance(node, nir.Conv2d):
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
                stride, padding = (
                    tuple(int(n) for n in pair) for pair in (node.stride, node.padding)
                )
                total = F.conv2d(total, weight, bias, stride, padding, 1, int(node.groups))
            elif isinstance(node, nir.SumPool2d):
                total = F.avg_pool2d(
                    total, tuple(node.kernel_size), tuple(node.stride), divisor_override=1
                )
            elif isinstance(node, nir.IF):
                assert (node.r == 1).all() and (node.v_threshold == 1).all()
                v = potential.get(name, torch.tensor(0.0)) + total
                assert not (v == 1).any()  # > and >= are the same
                total = (v > 1).double()
                potential[name] = v - total
                spikes.setdefault(name, []).append(total)
            out[name] = total
        outputs.append(out["output"])
    return {name: torch.stack(steps) for name, steps in spikes.items()}, torch.stack(outputs)


def ours(
    network: SpikingResNet, images: Tensor, timesteps: int
) -> tuple[Mapping[str, Tensor], Tensor]:
    seen: dict[str, list[Tensor]] = {}
    run = network.run(
        images,
        timesteps,
        on_spikes=lambda name, spikes: seen.setdefault(name, []).append(spikes.clone()),
    )
    return {name: torch.cat(steps) for name, steps in seen.items()}, run.logits


def check(graph: Any, network: SpikingResNet, images: Tensor, timesteps: int) -> None:
    assert exchange.exact_timesteps(network) >= timesteps
    spikes, outputs = interpret(graph, exchange.nir_input(network, images, timesteps).double())
    wanted, logits = ours(network, images, timesteps)
    compare(network, spikes, outputs, wanted, logits)


def compare(
    network: SpikingResNet,
    spikes: Mapping[str, Tensor],
    outputs: Tensor,
    wanted: Mapping[str, Tensor],
    logits: Tensor,
) -> None:
    assert len(spikes) == len(wanted)
    for name, steps in wanted.items():
        assert torch.equal(spikes[f"{name.replace('.', '_')}_if"].to(torch.int8), steps), name
    delay = network.delay_at(len(logits))
    torch.testing.assert_close(outputs[delay:].mean(0).flatten(1), logits[-1])


def test_the_file_gives_the_same_spikes(tmp_path: Path) -> None:
    folder = registry.resolve(NAME)
    exchange.export_nir(folder, tmp_path / "net.nir")
    graph = nir.read(tmp_path / "net.nir")
    config, tensors = read_artifact(folder)
    network = network_of(config, tensors)
    check(graph, network, random_pixels(2, 1, 8), 35)  # more timesteps than there are bias rows
    assert json.loads(graph.metadata["config"]) == config.model_dump(mode="json")
    assert graph.metadata["clock_channels"] == config.bias_rows
    assert "soft reset" in graph.metadata["neuron"]
    assert "v_threshold is 1" in graph.metadata["thresholds"]
    assert graph.metadata["exact_timesteps_in_float64"] == exchange.exact_timesteps(network)


def test_spikingjelly_runs_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the lines that `zoo export` prints, on images that the model is for."""
    pytest.importorskip("spikingjelly", reason="needs spikingjelly")
    assert main(["export", NAME, "--out", str(tmp_path / "net.nir")]) == 0
    printed = capsys.readouterr().err.splitlines()
    values: dict[str, Any] = {"torch": torch, "FILE": tmp_path / "net.nir"}
    lines = [line for line in printed if line in exchange.IMPORT_LINES]
    assert len(lines) == len(exchange.IMPORT_LINES)
    exec("\n".join(lines), values)
    config, tensors = read_artifact(registry.resolve(NAME))
    network = network_of(config, tensors)
    digits = open_images("digits", "test").take(8, seed=0)
    ((images, _),) = digits.batches(Preprocess.of(config), 8)
    spikes: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, given, out: spikes.setdefault(name, []).append(out[0].clone())

    for name, module in values["net"].named_children():
        if name.endswith("_if"):
            module.register_forward_hook(keep(name))
    outputs, state = [], None
    with torch.no_grad():
        for given in exchange.nir_input(network, images, 32).double():
            out, state = values["net"](given, state)
            outputs.append(out)
    found = {name: torch.stack(steps) for name, steps in spikes.items()}
    compare(network, found, torch.stack(outputs), *ours(network, images, 32))


def test_the_code_of_the_page_gives_the_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spikingjelly", reason="needs spikingjelly")
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "export.md").read_text()
    (code,) = re.findall(r"^```py\n(.*?)^```$", page, flags=re.M | re.S)
    assert exchange.IMPORT_LINES[0] in code
    monkeypatch.chdir(tmp_path)
    exchange.export_nir(registry.resolve(NAME), tmp_path / "net.nir")
    values: dict[str, Any] = {"model": zoo.load(NAME), "images": random_pixels(2, 1, 8)}
    exec(code, values)
    torch.testing.assert_close(values["logits"], values["model"](values["images"], 32))


def test_exact_timesteps_counts_the_potentials() -> None:
    """Biases so large that float64 takes few timesteps: fewer than the potentials alone allow."""
    network = random_network(tiny_topology("cifar"))
    few = exchange.exact_timesteps(network)
    assert few == MAX_TIMESTEPS
    for name, layer in network.layers.items():
        network.layers[name] = replace(layer, bias=torch.full_like(layer.bias, 2**31 - 1))
    assert 0 < exchange.exact_timesteps(network) < few


def variant(config: Config, **changes: object) -> Config:
    return config.model_copy(update=changes)


@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (5, 12)])
def test_every_kind_of_layer_and_odd_sizes(sides: tuple[int, int]) -> None:
    """A strided identity with more channels, a plain one; a projection takes one's place."""
    network = random_network(tiny_topology("cifar"), seed=sides[1])
    config = read_config(registry.resolve(NAME))
    size = config.preprocess.model_copy(update={"input_size": (1, *sides)})
    images = random_pixels(3, 1, max(sides))[:, :, : sides[0], : sides[1]]
    made = variant(config, preprocess=size, bias_rows=3, num_classes=3)
    check(exchange.to_nir(made, network), network, images, 6)
    first = network.layers["layer2.0.conv2"]
    projection = torch.randint(
        -100, 100, (8, 4, 1, 1), generator=torch.Generator().manual_seed(0)
    ).to(torch.int8)
    values = {
        name: getattr(first, name)
        for name in ("weight", "bias", "threshold", "v_init", "stride", "padding")
    }
    network.layers["layer2.0.conv2"] = type(first)(
        **values, projection=projection, shortcut_stride=2
    )
    check(exchange.to_nir(made, network), network, images, 6)


def test_one_bias_row() -> None:
    """There is a second clock channel all the same: the first brings the initial potential."""
    network = random_network(tiny_topology("cifar"))
    for name, layer in network.layers.items():
        network.layers[name] = replace(layer, bias=layer.bias[:1])
    config = read_config(registry.resolve(NAME))
    check(
        exchange.to_nir(variant(config, bias_rows=1, num_classes=3), network),
        network,
        random_pixels(2, 1, 8),
        5,
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"neuron": "signed"}, "signed"),
        ({"neuron": "multi-level"}, "multi-level"),
        ({"schedule": "layerwise"}, "layerwise"),
        ({"numerics": "float32"}, "float32"),
    ],
)
def test_what_NIR_cannot_say(changes: dict[str, str], word: str) -> None:
    config, tensors = read_artifact(registry.resolve(NAME))
    network = network_of(config, tensors)
    with refuses(UsageError, word):
        exchange.to_nir(variant(config, **changes), network)


def test_max_pooling_is_refused() -> None:
    network = random_network(tiny_topology("imagenet"))
    assert network.layers["conv1"].max_pool and network.topology.layers[0].source == IMAGE
    with refuses(UsageError, "max-pooling"):
        exchange.to_nir(read_config(registry.resolve(NAME)), network)


def test_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "net.nir"
    assert main(["export", NAME, "--format", "nir", "--out", str(out)]) == 0
    assert nir.read(out).nodes and str(out) in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]
    assert main(["export", NAME, "--out", str(tmp_path / "net.h5")]) == 2
    assert main(["export", NAME, "--out", str(tmp_path / "none" / "net.nir")]) == 3
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    capsys.readouterr()
    assert main(["export", NAME, "--out", str(out)]) == 2
    assert "pip install 'spiking-zoo[nir]'" in capsys.readouterr().err
