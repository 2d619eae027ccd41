"""Damage to an artifact, one kind at a time, each made from a random generator so that its seed repeats it."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

Files = dict[str, bytes | None]  # None: a folder in the place of the file
CONFIG, WEIGHTS = "config.json", "model.safetensors"

_LONG = "9" * 5000
# Written into JSON as they are, also where Python could not hold them.
_VALUES = [
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
    _LONG,
    f"0.{_LONG}",
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
    f'{{"{_LONG}": 1}}',
    "[0.1,0.2]",
    "[1e-320]",
    "[0.0]",
]
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


def mutate(files: Files, random: Random) -> tuple[str, bool, Files]:
    """The kind of damage, whether the sha256 in the config was made to agree with it, and the files."""
    mutation = random.choice(MUTATIONS)
    changed = mutation(dict(files), random)
    mended = bool(random.getrandbits(1)) and changed.get(WEIGHTS) != files[WEIGHTS]
    return mutation.__name__.strip("_"), mended, mend(changed) if mended else changed


def mend(files: Files) -> Files:
    """The same files with the sha256 that the weights have now."""
    weights, config = files.get(WEIGHTS), files.get(CONFIG)
    if weights is None or config is None:
        return files
    sha256 = hashlib.sha256(weights).hexdigest().encode()
    return files | {
        CONFIG: re.sub(rb'("weights_sha256":\s*")[0-9a-f]{64}', rb"\g<1>" + sha256, config)
    }


def _flip(data: bytes, random: Random, end: int | None = None) -> bytes:
    spoilt = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        spoilt[random.randrange(min(end or len(data), len(data)))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def _header(weights: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", weights[:8])
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def _with_header(header: str | dict[str, Any], body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode(
        "utf-8", "surrogatepass"
    )
    return struct.pack("<Q", len(text)) + text + body


def _text_of(files: Files) -> str:
    config = files[CONFIG]
    assert config is not None
    return config.decode()


def _weights_of(files: Files) -> bytes:
    weights = files[WEIGHTS]
    assert weights is not None
    return weights


def _tensor_name(header: dict[str, Any], random: Random) -> str:
    return random.choice(sorted(name for name in header if name != "__metadata__"))


def bits_of_weights(files: Files, random: Random) -> Files:
    return files | {WEIGHTS: _flip(_weights_of(files), random)}


def bits_of_header(files: Files, random: Random) -> Files:
    return files | {WEIGHTS: _flip(_weights_of(files), random, end=random.choice((8, 64, 4000)))}


def cut_weights(files: Files, random: Random) -> Files:
    weights = _weights_of(files)
    return files | {
        WEIGHTS: weights[
            : random.choice((0, 1, 7, 8, 9, random.randrange(len(weights)), len(weights) - 1))
        ]
    }


def longer_weights(files: Files, random: Random) -> Files:
    return files | {
        WEIGHTS: _weights_of(files) + random.randbytes(random.choice((1, 8, 100_000, 5_000_000)))
    }


def header_length(files: Files, random: Random) -> Files:
    weights = _weights_of(files)
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
    header, body = _header(_weights_of(files))
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
    return files | {WEIGHTS: _with_header(header, body)}


def header_names(files: Files, random: Random) -> Files:
    header, body = _header(_weights_of(files))
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
            WEIGHTS: _with_header(
                f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[other])}}}", body
            )
        }
    return files | {WEIGHTS: _with_header(header, body)}


def header_json(files: Files, random: Random) -> Files:
    header, body = _header(_weights_of(files))
    text = json.dumps(header)
    meta = random.choice(_VALUES[:40])
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
    return files | {WEIGHTS: _with_header(random.choice(choices), body)}


def tensor_values(files: Files, random: Random) -> Files:
    """Numbers that a tensor of that type can hold; all of it, one, or noise."""
    weights = bytearray(_weights_of(files))
    header, body = _header(bytes(weights))
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


def bits_of_config(files: Files, random: Random) -> Files:
    return files | {CONFIG: _flip(_text_of(files).encode(), random)}


def cut_config(files: Files, random: Random) -> Files:
    text = _text_of(files).encode()
    return files | {
        CONFIG: text[: random.choice((0, 1, random.randrange(len(text)), len(text) - 2))]
    }


def config_bytes(files: Files, random: Random) -> Files:
    text = _text_of(files).encode()
    choices = [
        b"\xff\xfe" + text,
        b"\xef\xbb\xbf" + text,
        text.decode().encode("utf-16"),
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{}",
        b"[" * 100_000,
        b'{"format":' * 50_000,
        text + text,
        text + b" " * 100_000,
        text + b"\0",
        b" " * 5_000_000,
        text.replace(b"spiking-zoo", b"spiking-\xff"),
        text.replace(b'"', b"'"),
        text.replace(b"}", b",}"),
        b"// x\n" + text,
        _LONG.encode(),
    ]
    return files | {CONFIG: random.choice(choices)}


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for key, item in inner for found in _paths(item, (*path, key)))]


def config_values(files: Files, random: Random) -> Files:
    """One to three places of the config hold something else."""
    config = json.loads(_text_of(files))
    marks = {}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        *above, last = random.choice(_paths(config)[1:])
        place = config
        for key in above:
            place = place[key]
        mark = f"mark-{len(marks)}"
        marks[json.dumps(mark)] = random.choice(_VALUES)
        place[last] = mark
    text = json.dumps(config)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return files | {CONFIG: text.encode()}


def config_sizes(files: Files, random: Random) -> Files:
    """Numbers that each may be, and that together ask for much work."""
    config = json.loads(_text_of(files))
    sides = (1, 2, 3, 7, 9, 31, 64, 255, 1023, 1024)
    for _ in range(random.choice((1, 2, 4))):
        kind = random.randrange(6)
        if kind == 0:
            config["preprocess"]["input_size"][1:] = [random.choice(sides), random.choice(sides)]
        elif kind == 1:
            config["checksum"] |= {
                "images": random.choice((1, 2, 15, 16)),
                "timesteps": random.choice((1, 8, 63, 64)),
            }
        elif kind == 2:
            config["readout_delay"] = {
                random.choice((1, 2, 4096)): random.choice((0, 1, 4096)) for _ in range(3)
            }
        elif kind == 3:
            config[random.choice(("timesteps", "bias_rows", "num_classes"))] = random.choice(
                (1, 2, 33, 4096, 100_000)
            )
        elif kind == 4:
            config["neuron"], config["schedule"] = (
                random.choice(("if", "signed")),
                random.choice(("causal", "layerwise")),
            )
        else:
            config["arch"] = random.choice(("resnet20", "resnet110", "resnet18", "resnet152"))
    return files | {CONFIG: json.dumps(config).encode()}


def config_keys(files: Files, random: Random) -> Files:
    """A key too few, too many, twice, or another name for it."""
    config = json.loads(_text_of(files))
    place = random.choice(
        [
            config,
            config["preprocess"],
            config["method"]["parameters"],
            config["checksum"],
            config["readout_delay"],
        ]
    )
    key = random.choice(sorted(place))
    new = random.choice(
        [
            "x",
            "",
            "a\nb",
            "\x1b[31mred",
            "\ud800",
            "x" * 100_000,
            "__class__",
            "9" * 5000,
            "٣",
            key.upper(),
            "model_config",
        ]
    )
    kind = random.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[new] = place[key]
    elif kind == 2:
        place[new] = place.pop(key)
    else:
        text = json.dumps(config)
        return files | {
            CONFIG: f"{text[:-1]}, {json.dumps(key)}: {random.choice(_VALUES)}}}".encode()
        }
    return files | {CONFIG: json.dumps(config).encode()}


def other_files(files: Files, random: Random) -> Files:
    name = random.choice((CONFIG, WEIGHTS))
    if random.getrandbits(1):
        return {other: data for other, data in files.items() if other != name}
    return files | {name: None}


def training_of_training(files: Files, random: Random) -> Files:
    """A record of training inside a record of training, as the format allows, and deeper."""
    config = json.loads(_text_of(files))
    one = {
        "dataset": "digits",
        "images": 1,
        "epochs": 1,
        "seconds": 1.0,
        "top1": 50.0,
        "settings": {},
        "mean": [0.5],
        "std": [0.5],
        "input_size": 8,
    }
    depth = random.choice((1, 2, 50, 250, 300, 900, 5000))
    config["source"]["training"] = "mark"
    text = json.dumps(one)[:-1] + ', "start": '
    nested = text * depth + random.choice(("null", "1", json.dumps(one))) + "}" * depth
    return files | {CONFIG: json.dumps(config).replace('"mark"', nested).encode()}


MUTATIONS: tuple[Callable[[Files, Random], Files], ...] = (
    bits_of_weights,
    bits_of_header,
    cut_weights,
    longer_weights,
    header_length,
    header_fields,
    header_names,
    header_json,
    tensor_values,
    tensor_values,
    tensor_values,
    tensor_values,
    bits_of_config,
    cut_config,
    config_bytes,
    config_values,
    config_values,
    config_sizes,
    config_keys,
    training_of_training,
    other_files,
)
