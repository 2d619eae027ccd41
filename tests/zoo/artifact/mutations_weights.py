"""Damage to model.safetensors: its bytes, its header and the values of its tensors."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

import numpy as np

from tests.zoo.artifact.damage import (
    VALUES,
    WEIGHTS,
    Files,
    flipped,
    header_and_body,
    weights_of,
    with_header,
)

_SHAPES: list[Any] = [
    [],
    [0],
    [-1],
    [2**31],
    [2**40, 2**40],
    [2**63],
    [2**64],
    [1] * 1000,
    [16, 1, 3, 3, 1],
    [1.5],
    ["1"],
    None,
    "x",
    {},
    [[1]],
    [True],
]


_DTYPES: list[Any] = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "BOOL",
    "F8_E4M3",
    "C64",
    "X",
    "",
    None,
    1,
    [],
]


_NUMBERS = {"I8": "<i1", "I16": "<i2", "I32": "<i4", "F32": "<f4"}


_LARGEST = {"I8": 127, "I16": 2**15 - 1, "I32": 2**30}


_EXTREMES = {
    "<i1": [-128, -127, 127, 0],
    "<i2": [-(2**15), 2**15 - 1, 0],
    "<i4": [-(2**31), 2**31 - 1, 2**30, -(2**30), 2**30 + 1, 0, 1, -1],
    "<f4": [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0, -1.0],
}


def _tensor_name(header: dict[str, Any], random: Random) -> str:
    return random.choice(sorted(name for name in header if name != "__metadata__"))


def bits_of_weights(files: Files, random: Random) -> Files:
    return files | {WEIGHTS: flipped(weights_of(files), random)}


def bits_of_header(files: Files, random: Random) -> Files:
    return files | {WEIGHTS: flipped(weights_of(files), random, end=random.choice((8, 64, 4000)))}


def cut_weights(files: Files, random: Random) -> Files:
    weights = weights_of(files)
    return files | {
        WEIGHTS: weights[
            : random.choice((0, 1, 7, 8, 9, random.randrange(len(weights)), len(weights) - 1))
        ]
    }


def longer_weights(files: Files, random: Random) -> Files:
    return files | {
        WEIGHTS: weights_of(files) + random.randbytes(random.choice((1, 8, 100_000, 5_000_000)))
    }


def header_length(files: Files, random: Random) -> Files:
    weights = weights_of(files)
    (length,) = struct.unpack("<Q", weights[:8])
    lengths = (
        0,
        1,
        length - 1,
        length + 1,
        len(weights) - 8,
        len(weights),
        100_000_000,
        2**31,
        2**32 + length,
        2**63,
        2**64 - 1,
    )
    return files | {WEIGHTS: struct.pack("<Q", random.choice(lengths)) + weights[8:]}


def header_fields(files: Files, random: Random) -> Files:
    header, body = header_and_body(weights_of(files))
    for _ in range(random.choice((1, 1, 2))):
        entry = header[_tensor_name(header, random)]
        begin, end = entry.get("data_offsets", [0, 0])
        offsets: list[Any] = [
            [end, begin],
            [begin, end + 1],
            [begin + 1, end + 1],
            [0, len(body)],
            [begin, 2**63],
            [2**64 - 1, 2**64],
            [-1, 1],
            [0],
            [0, 0],
            None,
            [begin, end, end],
            [0.5, 1],
            begin,
        ]
        field, values = random.choice(
            (("shape", _SHAPES), ("dtype", _DTYPES), ("data_offsets", offsets))
        )
        value = random.choice(values)
        if field == "shape" and random.random() < 0.3:
            value = [*reversed(entry["shape"])] if random.random() < 0.5 else [*entry["shape"], 1]
        entry[field] = value
        if random.random() < 0.1:
            del entry[field]
    return files | {WEIGHTS: with_header(header, body)}


def header_names(files: Files, random: Random) -> Files:
    header, body = header_and_body(weights_of(files))
    name, other = (_tensor_name(header, random) for _ in range(2))
    kind = random.randrange(5)
    if kind == 0:
        header[
            random.choice(
                ["", "x", name + " ", "__metadata__", "a\nb", "../x", "x" * 100_000, "\ud800"]
            )
        ] = header.pop(name)
    elif kind == 1:
        header[name], header[other] = header[other], header[name]
    elif kind == 2:
        header.pop(name)
    elif kind == 3:
        header["extra"] = {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}
    else:
        text = json.dumps(header)
        return files | {
            WEIGHTS: with_header(
                f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[other])}}}", body
            )
        }
    return files | {WEIGHTS: with_header(header, body)}


def header_json(files: Files, random: Random) -> Files:
    header, body = header_and_body(weights_of(files))
    text = json.dumps(header)
    meta = random.choice(VALUES[:40])
    choices = [
        "",
        "{}",
        "[]",
        "null",
        "[" * 50_000,
        '{"a":' * 50_000,
        text + " " * 100_000,
        text + "x",
        text.replace('"', "'"),
        text[: random.randrange(len(text))],
        f'{{"__metadata__": {meta}, {text[1:]}',
        f'{text[:-1]}, "__metadata__": {meta}}}',
        f'{text[:-1]}, "m": {meta}}}',
        "\ufeff" + text,
        "x" * 5_000_000,
    ]
    return files | {WEIGHTS: with_header(random.choice(choices), body)}


def tensor_values(files: Files, random: Random) -> Files:
    """Numbers that a tensor of that type can hold; all of it, one, or noise."""
    weights = bytearray(weights_of(files))
    header, body = header_and_body(bytes(weights))
    base = len(weights) - len(body)
    for _ in range(random.choice((1, 1, 3, 40))):
        entry = header[_tensor_name(header, random)]
        begin, end = (base + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(
            weights,
            _NUMBERS[entry["dtype"]],
            (end - begin) // np.dtype(_NUMBERS[entry["dtype"]]).itemsize,
            begin,
        )
        value = random.choice(_EXTREMES[_NUMBERS[entry["dtype"]]])
        kind = random.randrange(4)
        if kind == 0:
            numbers[:] = value
        elif kind == 1:
            numbers[random.randrange(numbers.size)] = value
        elif kind == 2:  # what the format allows
            scale = (
                10 ** random.uniform(-44, 38)
                if entry["dtype"] == "F32"
                else _LARGEST[entry["dtype"]]
            )
            drawn = np.random.default_rng(random.randrange(2**32)).uniform(
                random.choice((-1, 0.001)), 1, numbers.size
            )
            numbers[:] = (drawn * scale).astype(numbers.dtype)
        else:
            numbers.view(np.uint8)[:] = np.frombuffer(random.randbytes(end - begin), np.uint8)
        del numbers
    return files | {WEIGHTS: bytes(weights)}
