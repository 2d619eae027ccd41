"""The files of an artifact that is damaged, and the values that are written into them."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

Files = dict[str, bytes | None]  # None: a folder in the place of the file


CONFIG, WEIGHTS = "config.json", "model.safetensors"


LONG = "9" * 5000


# Written into JSON as they are, also where Python could not hold them.
VALUES = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "2",
    "16",
    "17",
    "64",
    "65",
    "100000",
    "1e3",
    "1.5",
    "1e308",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    str(2**31),
    str(2**63),
    str(2**64),
    str(-(2**70)),
    LONG,
    f"0.{LONG}",
    "[]",
    "{}",
    "[[]]",
    '""',
    '"x"',
    '"\\ud800"',
    '"a\\nb\\u001b[31m"',
    '"\\u0000"',
    json.dumps("x" * 100_000),
    "[" * 50_000 + "]" * 50_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "[1,1,1]",
    "[3,32,32]",
    "[1,1024,1024]",
    "[1,1,1024]",
    "[16,8,8]",
    "4096",
    "4097",
    "1024",
    "8192",
    '"if"',
    '"signed"',
    '"layerwise"',
    '"float32"',
    '"int8"',
    '"B"',
    '"resnet18"',
    '"resnet152"',
    '"resnet110"',
    '{"1": 4096}',
    '{"4096": 1, "01": 2, "1": 0}',
    '{"-1": 0}',
    f'{{"{LONG}": 1}}',
    "[0.1,0.2]",
    "[1e-320]",
    "[0.0]",
]


def flipped(data: bytes, random: Random, end: int | None = None) -> bytes:
    spoilt = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        spoilt[random.randrange(min(end or len(data), len(data)))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def header_and_body(weights: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def with_header(header: str | dict[str, Any], body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode(
        "utf-8", "surrogatepass"
    )
    return struct.pack("<Q", len(text)) + text + body


def text_of(files: Files) -> str:
    config = files[CONFIG]
    assert config is not None
    return config.decode()


def weights_of(files: Files) -> bytes:
    weights = files[WEIGHTS]
    assert weights is not None
    return weights
