"""The artifact: exact, reproducible to the byte.

Refused when anything is wrong, written whole or not at all.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from tests.zoo.spiking_fixtures import files_of, refuses
from zoo.artifact.config import CONFIG, WEIGHTS
from zoo.artifact.folder import checksum_images, read_artifact, verify_artifact
from zoo.artifact.tensors import network_of, tensors_of
from zoo.errors import IntegrityError, NotFoundError, UsageError, ZooError


def tamper(folder: Path, change) -> None:
    """Changes tensors and makes the hash in the config agree again."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    payload = save(tensors, metadata={"format": "pt"})
    (folder / WEIGHTS).write_bytes(payload)
    edit(folder, weights_sha256=hashlib.sha256(payload).hexdigest())


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def test_round_trip_is_exact(saved, converted):
    made = converted(method="hu2018", parameters={"steps": 2})
    config, tensors = read_artifact(saved)
    wanted = tensors_of(made.network, made.scales)
    assert tensors.keys() == wanted.keys()
    assert all(
        torch.equal(tensors[name], wanted[name]) and tensors[name].dtype == wanted[name].dtype
        for name in wanted
    )
    images = checksum_images(config)
    assert torch.equal(network_of(config, tensors)(images, 9), made.network(images, 9))


def test_same_bytes_when_written_twice(saved, converted, tmp_path):
    converted(method="hu2018", parameters={"steps": 2}).save(tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(saved)


def test_verify_says_what_was_checked(saved):
    assert [(check.name, check.ok) for check in verify_artifact(saved)] == [
        ("config.json", True),
        ("model.safetensors", True),
    ]
    assert [check.ok for check in verify_artifact(saved, deep=True)] == [True, True, True]
    with refuses(NotFoundError):
        verify_artifact(saved / "nothing")


def test_deep_catches_what_hashes_cannot(saved):
    tamper(saved, lambda tensors: tensors["layer2.0.conv1.threshold"].mul_(2))
    assert [check.ok for check in verify_artifact(saved)] == [True, True]
    assert [check.ok for check in verify_artifact(saved, deep=True)] == [True, True, False]


def test_biases_take_two_bytes_where_they_fit(converted, tmp_path):
    made = copy.deepcopy(converted(parameters={"rows": 4}))
    edge, past = (made.network.layers[f"layer1.{block}.conv1"].bias for block in (0, 1))
    edge[2, 0], edge[0, 1], past[2, 0] = 2**15 - 1, -(2**15), 2**15
    made.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "model.safetensors")
    dtypes = {
        name: tensor.dtype
        for name, tensor in stored.items()
        if name.startswith("layer") and name.endswith(".bias")
    }
    assert dtypes.pop("layer1.1.conv1.bias") == torch.int32
    assert set(dtypes.values()) == {torch.int16} and len(dtypes) == 17
    _, tensors = read_artifact(tmp_path / "a")
    for name, layer in made.network.layers.items():
        assert tensors[f"{name}.bias"].dtype == torch.int32 and torch.equal(
            tensors[f"{name}.bias"], layer.bias
        )
    assert all(check.ok for check in verify_artifact(tmp_path / "a", deep=True))


def damage(name: str, value: object, dtype: torch.dtype | None = None):
    def change(tensors):
        tensors[name] = tensors[name].to(dtype or tensors[name].dtype, copy=True)
        tensors[name].view(-1)[0] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (damage("layer1.0.conv1.threshold", 0), "not positive"),
        (damage("layer1.0.conv1.scale", -1.0), "not positive"),
        (damage("layer1.0.conv1.scale", float("nan")), "NaN"),
        (damage("fc.bias", float("inf")), "NaN or infinite"),
        (damage("layer1.0.conv1.weight", -128), "-128"),
        (damage("layer1.0.conv1.v_init", 2**31 - 1), "past"),
        (damage("layer1.0.conv1.bias", 2**31 - 1, torch.int32), "past"),
        (lambda t: t.pop("fc.bias"), "missing or unexpected"),
        (lambda t: t.update(extra=torch.zeros(2)), "missing or unexpected"),
        (lambda t: t.update({"fc.bias": t["fc.bias"].double()}), "fc.bias is torch.float64"),
        (
            lambda t: t.update({"conv1.v_init": t["conv1.v_init"][:-1].clone()}),
            r"conv1.v_init is torch.int32 \[15\]",
        ),
        (
            lambda t: t.update({"conv1.v_init": t["conv1.v_init"].short()}),
            r"conv1.v_init is torch.int16",
        ),
        (lambda t: t.update({"conv1.bias": t["conv1.bias"].char()}), r"conv1.bias is torch.int8"),
    ],
)
def test_tensors_that_break_the_format(saved, change, match):
    tamper(saved, change)
    with refuses(IntegrityError, match):
        read_artifact(saved)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"unknown": 1}, "unknown"),
        ({"format_version": 2}, "format version 2.*pip install -U"),
        ({"format_version": 0}, "format version 0"),
        ({"format_version": True}, "format_version|format version"),
        ({"format": "other"}, "format"),
        ({"neuron": "lif"}, "neuron"),
        ({"arch": "resnet21"}, "resnet21"),
        ({"num_classes": 11}, "class names"),
        ({"num_classes": -1}, "num_classes"),
        ({"weights_sha256": "0" * 64}, "does not match the sha256"),
        ({"bias_rows": 2}, "bias"),
        ({"preprocess": {}}, "preprocess"),
        ({"readout_delay": {"x": 1}}, "readout_delay"),
        ({"timesteps": 10**400}, "timesteps"),
    ],
)
def test_configs_that_break_the_format(saved, changes, match):
    edit(saved, **changes)
    with refuses(IntegrityError, match):
        read_artifact(saved)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"format_version": 1e999}', "\x00", '{"a":' * 5000],
)
def test_configs_that_are_none(saved, text):
    (saved / CONFIG).write_text(text)
    with refuses(IntegrityError):
        read_artifact(saved)


def test_config_that_is_not_text_or_enormous(saved):
    (saved / CONFIG).write_bytes(b"\xff\xfe\x00" * 50)
    with refuses(IntegrityError):
        read_artifact(saved)
    (saved / CONFIG).write_bytes(b" " * 5_000_000)
    with refuses(IntegrityError, "5000000 bytes"):
        read_artifact(saved)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6, 0, 7])
def test_absurd_header(saved, length):
    data = bytearray((saved / WEIGHTS).read_bytes())
    data[:8] = struct.pack("<Q", length)
    (saved / WEIGHTS).write_bytes(data)
    edit(saved, weights_sha256=hashlib.sha256(data).hexdigest())
    with refuses(IntegrityError, "safetensors"):
        read_artifact(saved)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flip_or_cut_is_a_clear_error(saved, data):
    name = data.draw(st.sampled_from([WEIGHTS, CONFIG]))
    whole = (saved / name).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    if data.draw(st.booleans()):
        broken[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del broken[place:]
    try:
        (saved / name).write_bytes(broken)
        try:
            read_artifact(saved)
            assert name == CONFIG  # a flipped letter of a name is a valid config still
        except ZooError as error:
            assert error.exit_code == 5 and "\n" not in str(error)
    finally:
        (saved / name).write_bytes(whole)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_missing_file(saved, name):
    (saved / name).unlink()
    with refuses(NotFoundError, name):
        read_artifact(saved)


def test_existing_folder_is_kept_without_force(saved, converted):
    before = files_of(saved)
    with refuses(UsageError, "force=True"):
        converted().save(saved)
    assert files_of(saved) == before
    converted().save(saved, force=True)
    assert files_of(saved) != before and verify_artifact(saved, deep=True)[-1].ok
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_write_that_fails_leaves_the_old_folder_and_nothing_else(
    saved, converted, monkeypatch, error, at
):
    before, calls = files_of(saved), []
    real = os.fsync

    def failing(descriptor):
        calls.append(descriptor)
        if len(calls) == at:
            raise error
        real(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ZooError):
        converted().save(saved, force=True)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    if at < 3:  # the third flushes the parent folder, after the new one took its place
        assert files_of(saved) == before


def test_an_empty_disk_leaves_no_folder(saved, converted, monkeypatch, tmp_path):
    shutil.rmtree(saved)
    monkeypatch.setattr(
        os,
        "fsync",
        lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with refuses(ZooError, "No space left"):
        converted().save(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_config_with_a_byte_that_is_not_utf8(saved):
    path = saved / CONFIG
    path.write_bytes(path.read_bytes().replace(b"scikit", b"sc\xffkit", 1))
    with refuses(IntegrityError):
        read_artifact(saved)


def test_checksum_is_over_the_images_the_config_states(saved):
    stated = json.loads((saved / CONFIG).read_text())["checksum"]
    edit(saved, checksum=stated | {"images": stated["images"] + 1})
    assert not all(check.ok for check in verify_artifact(saved, deep=True))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder(saved, converted, monkeypatch, error, at):
    before, calls, real = files_of(saved), [], os.rename

    def failing(source, target):
        calls.append(target)
        if len(calls) == at:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises((ZooError, KeyboardInterrupt)):
        converted(method="hu2018", parameters={"steps": 2}).save(saved, force=True)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert files_of(saved) == before


SCRIPT = """
import sys
import torch
from tests.zoo.spiking_fixtures import QUICK, image_set, random_pixels
from pathlib import Path
from zoo.pretrained.checkpoint import read_checkpoint
from zoo.conversion.convert import convert

torch.set_num_threads(1)
file, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir()
images = image_set(folder, random_pixels(8, 1, 8), None)
ann = read_checkpoint(file, "resnet20")
convert(ann, images, **QUICK, parameters={"rows": 2}).save(folder / "net")
"""


def test_two_processes_write_the_same_bytes(digits_file, tmp_path):
    found = []
    for name, seed in (("a", "1"), ("b", "2")):
        # One name for the images, so that descriptions agree; hashing differs from process to
        # process.
        folder = tmp_path / name / "out"
        folder.parent.mkdir()
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(__file__).parents[3]),
        }
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(digits_file), str(folder)],
            check=True,
            env=environment,
        )
        found.append(files_of(folder / "net"))
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.parametrize("size", [[1, 1025, 8], [1, 8, 10**9], [1, 0, 8], [17, 8, 8]])
def test_an_input_that_would_need_absurd_memory_is_refused_before_a_run(saved, size):
    config = json.loads((saved / CONFIG).read_text())
    edit(saved, preprocess=config["preprocess"] | {"input_size": size})
    with refuses(IntegrityError, "input_size"):
        read_artifact(saved)
    checks = verify_artifact(saved, deep=True)
    assert not checks[-1].ok and "input_size" in checks[-1].detail
