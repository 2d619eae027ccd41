"""Damage to an artifact, one kind at a time.

Each made from a random generator so that its seed repeats it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

from tests.zoo.artifact.damage import CONFIG, LONG, VALUES, WEIGHTS, Files, flipped, text_of
from tests.zoo.artifact.mutations_weights import (
    bits_of_header,
    bits_of_weights,
    cut_weights,
    header_fields,
    header_json,
    header_length,
    header_names,
    longer_weights,
    tensor_values,
)


def mutate(files: Files, random: Random) -> tuple[str, bool, Files]:
    """Return the kind of damage, whether the config's sha256 agrees with it, and the files."""
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


def bits_of_config(files: Files, random: Random) -> Files:
    return files | {CONFIG: flipped(text_of(files).encode(), random)}


def cut_config(files: Files, random: Random) -> Files:
    text = text_of(files).encode()
    return files | {
        CONFIG: text[: random.choice((0, 1, random.randrange(len(text)), len(text) - 2))]
    }


def config_bytes(files: Files, random: Random) -> Files:
    text = text_of(files).encode()
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
        LONG.encode(),
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
    config = json.loads(text_of(files))
    marks = {}
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        *above, last = random.choice(_paths(config)[1:])
        place = config
        for key in above:
            place = place[key]
        mark = f"mark-{len(marks)}"
        marks[json.dumps(mark)] = random.choice(VALUES)
        place[last] = mark
    text = json.dumps(config)
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return files | {CONFIG: text.encode()}


def config_sizes(files: Files, random: Random) -> Files:
    """Numbers that each may be, and that together ask for much work."""
    config = json.loads(text_of(files))
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
    config = json.loads(text_of(files))
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
            CONFIG: f"{text[:-1]}, {json.dumps(key)}: {random.choice(VALUES)}}}".encode()
        }
    return files | {CONFIG: json.dumps(config).encode()}


def other_files(files: Files, random: Random) -> Files:
    name = random.choice((CONFIG, WEIGHTS))
    if random.getrandbits(1):
        return {other: data for other, data in files.items() if other != name}
    return files | {name: None}


def training_of_training(files: Files, random: Random) -> Files:
    """A record of training inside a record of training, as the format allows, and deeper."""
    config = json.loads(text_of(files))
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
