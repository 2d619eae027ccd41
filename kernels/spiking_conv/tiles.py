"""The tile that a layer runs with: a committed table of measured tiles, and safe defaults.

The table is data (`tiles.json`, written by `python -m benchmarks.tune` on a GPU) and nothing is
tuned at run time: a kernel under `triton.autotune` cannot run in the interpreter, and the same
layer would run with another tile on every machine. A tile never changes a spike.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("tiles.json")
BUCKETS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Tile:
    """The part of a layer that one program computes, and how it is launched.

    Attributes:
        pixels, channels: output pixels and channels.
        depth: input channels (times taps) of one step of the inner product.
        group: timesteps that share one load of the weights: 1, 2, 4 or 8.
        warps, stages: of the launch.
    """

    pixels: int
    channels: int
    depth: int
    group: int
    warps: int
    stages: int


@functools.cache
def table() -> dict[str, Any]:
    """Return the committed table.

    architecture -> {"layers": {layer key: tile}, kind: {bucket of output channels: tile}}.
    """
    tables: dict[str, Any] = json.loads(TABLE.read_text())
    return tables


def choose(architecture: str, kind: str, channels: int, key: str) -> Tile:
    """Return the tile of a layer.

    It is the one measured for its key, else the default for its kind and number of output channels.

    Args:
        architecture: `sm_90` and so on; one that is not in the table gets the tiles of `sm_80`,
            which fit every GPU since.
        kind: "if", "signed", "multi-level" or "layerwise", and " projection" behind it for a layer
            with such a shortcut, which needs more registers.
        key: as `SpikingLayer.key` writes it.
    """
    tiles = table().get(architecture) or table()["sm_80"]
    bucket = max((b for b in BUCKETS if b <= channels), default=BUCKETS[0])
    return Tile(**(tiles["layers"].get(key) or tiles[kind][str(bucket)]))
