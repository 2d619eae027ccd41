"""The committed table of tiles, and which of them a layer gets."""

from __future__ import annotations

from dataclasses import asdict, fields

import numpy as np
import pytest

from benchmarks import aot
from tests.kernels.kernel_fixtures import SHAPES, output_size, random_inputs, random_layer
from zoo.kernels.spiking_conv import PackedMembrane, SpikingLayer, launch, pack, tiles
from zoo.kernels.spiking_conv.tiles import BUCKETS, Tile, choose, table

KINDS = [
    kind + side
    for kind in ("if", "signed", "layerwise", "multi-level")
    for side in ("", " projection")
]


def every_tile() -> dict[str, dict]:
    result = {}
    for architecture, entries in table().items():
        for kind, group in entries.items():
            result |= {f"{architecture} {kind} {name}": values for name, values in group.items()}
    return result


def test_every_architecture_has_every_kind_and_bucket():
    assert set(aot.ARCHITECTURES) <= set(table())
    for architecture, entries in table().items():
        assert set(entries) == {"layers", *KINDS}, architecture
        for kind in KINDS:
            assert set(entries[kind]) == {str(bucket) for bucket in BUCKETS}, (architecture, kind)


def test_every_tile_is_legal():
    names = {field.name for field in fields(Tile)}
    for where, values in every_tile().items():
        assert set(values) == names, where
        tile = Tile(**values)
        for name, value in asdict(tile).items():
            assert type(value) is int and value > 0, (where, name)
            assert name == "stages" or value & (value - 1) == 0, (where, name)
        # A dot product of int8 needs the first, a launch may have the next, and a byte of eight
        # timesteps divides into the last.
        assert tile.pixels >= 16 and tile.channels >= 16 and tile.depth >= 32, where
        assert tile.warps <= 32 and tile.group in (1, 2, 4, 8), where


def test_every_key_of_a_layer_is_one():
    for architecture, entries in table().items():
        for key in entries["layers"]:
            kernel, inputs, channels, shortcut, kind = aot.parse_key(key)
            assert kernel in (1, 3) and inputs and channels, (architecture, key)
            assert shortcut in ("none", "identity", "projection") and kind in (
                "if",
                "signed",
                "multi-level",
                "layerwise",
            )


def make(pixels: int) -> dict[str, int]:
    return asdict(Tile(pixels, 16, 32, 1, 4, 1))


@pytest.fixture
def small_table(monkeypatch):
    """Two architectures of which pixels say where a tile comes from."""
    entries = {
        name: {
            kind: {str(b): make(offset + b + 1000 * KINDS.index(kind)) for b in BUCKETS}
            for kind in KINDS
        }
        | {"layers": {}}
        for name, offset in (("sm_80", 80), ("sm_90", 90))
    }
    entries["sm_90"]["layers"] = {"known": make(7)}
    monkeypatch.setattr(tiles, "table", lambda: entries)


@pytest.mark.usefixtures("small_table")
@pytest.mark.parametrize(
    ("architecture", "kind", "channels", "key", "pixels"),
    [
        ("sm_90", "if", 64, "known", 7),
        ("sm_90", "layerwise", 16, "known", 7),
        ("sm_90", "if", 64, "unknown", 90 + 64),
        ("sm_90", "if projection", 64, "unknown", 1000 + 90 + 64),
        ("sm_90", "layerwise projection", 128, "unknown", 5000 + 90 + 128),
        # A bucket serves all below the next one; the smallest all below it, the largest all above.
        ("sm_90", "signed", 127, "unknown", 2000 + 90 + 64),
        ("sm_90", "signed", 128, "unknown", 2000 + 90 + 128),
        ("sm_90", "signed", 2048, "unknown", 2000 + 90 + 128),
        ("sm_90", "signed", 17, "unknown", 2000 + 90 + 16),
        ("sm_90", "signed", 3, "unknown", 2000 + 90 + 16),
        # Another GPU runs with the tiles of sm_80; one's measurements say nothing about another.
        ("sm_86", "if", 32, "unknown", 80 + 32),
        ("sm_121", "layerwise", 32, "known", 4000 + 80 + 32),
        ("sm_80", "if", 32, "known", 80 + 32),
    ],
)
def test_choice(architecture, kind, channels, key, pixels):
    assert choose(architecture, kind, channels, key).pixels == pixels


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_a_tile(architecture, kind):
    for channels in (1, 16, 64, 100, 2048):
        assert isinstance(choose(architecture, kind, channels, "unknown"), Tile)


@pytest.mark.parametrize("neuron", ["if", "signed", "multi-level"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_key_says_what_the_layer_is(shape, neuron):
    key = SpikingLayer(random_layer(shape, np.random.default_rng(0), neuron)).key(7, 9)
    assert aot.parse_key(key) == (
        shape.kernel,
        shape.inputs,
        shape.channels,
        shape.shortcut,
        neuron,
    )
    assert f"/{shape.stride} " in key and " 7x9 " in key


@pytest.mark.parametrize(
    ("shape", "side"), [(SHAPES[0], ""), (SHAPES[3], ""), (SHAPES[5], " projection")], ids=str
)
def test_what_a_layer_asks_the_table(shape, side, monkeypatch):
    asked = []
    monkeypatch.setattr(launch, "architecture", lambda device: "sm_90")
    monkeypatch.setattr(
        launch, "choose", lambda *question: asked.append(question) or Tile(16, 16, 32, 1, 4, 1)
    )
    gen = np.random.default_rng(0)
    with aot.recorded():
        for neuron in ("if", "signed", "multi-level"):
            layer = random_layer(shape, gen, neuron, bits=4 if neuron == "multi-level" else 1)
            spikes = [
                x if x is None else pack(x, bits=layer.bits)
                for x in random_inputs(shape, layer, gen, 3, 1, (4, 6))
            ]
            SpikingLayer(layer).run(*spikes, PackedMembrane())
        counts = [None if x is None else x.planes[0, 0] for x in spikes]
        SpikingLayer(layer).count(*counts, 3)
    size = output_size(layer, (4, 6))
    assert [question[:3] for question in asked] == [
        ("sm_90", kind + side, shape.channels)
        for kind in ("if", "signed", "multi-level", "layerwise")
    ]
    assert asked[0][3] == SpikingLayer(random_layer(shape, gen)).key(*size)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "3x3 16->16 32x32 none if",
        "3x3/1 16->16 32x32 none",
        "3x3/1 16->16 32x32 none if projection",
    ],
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="no key"):
        aot.parse_key(key)
