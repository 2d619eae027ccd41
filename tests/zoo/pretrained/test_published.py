"""Checkpoints at public addresses: what they are pinned to, and downloads that are cut or wrong."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.pretrained.conftest import Site
from tests.zoo.spiking_fixtures import random_model, refuses
from zoo.errors import IntegrityError, NetworkError, NotFoundError
from zoo.networks.architectures import ARCHITECTURES, topology
from zoo.pretrained import published
from zoo.pretrained.published import RELEASES, Release
from zoo.pretrained.sources import find_checkpoint, read_source

SOURCE = "torchvision:resnet20"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder that files are kept in."""
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def file(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Publish a small network as `SOURCE`; return the file's name."""
    path = tmp_path / "net.pth"
    torch.save(random_model(topology("resnet20", num_classes=7)).state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"resnet20-{sha256[:8]}.pth"
    one = Release("torchvision", "resnet20", "resnet20", "imagenet", name, 1, None)
    monkeypatch.setitem(RELEASES, SOURCE, one)
    site.content[name] = path.read_bytes()
    return name


def test_a_file_is_fetched_once(
    site: Site, file: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    found = find_checkpoint(SOURCE, progress=lambda *step: seen.append(step))
    size = len(site.content[file])
    assert found.path == kept / file and found.path.read_bytes() == site.content[file]
    assert seen[-1] == (file, size, size)
    assert (found.name, found.arch, found.num_classes) == (SOURCE, "resnet20", 1000)
    assert found.origin.url == f"{site.url}torchvision/{file}"
    assert find_checkpoint(f"{SOURCE}.v1").path == found.path and len(site.asked) == 1
    # A damaged copy is fetched again; offline it is not used.
    found.path.write_bytes(b"x")
    with refuses(NetworkError, "offline"):
        find_checkpoint(SOURCE, offline=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with refuses(NetworkError, "offline"):
        find_checkpoint(SOURCE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert find_checkpoint(SOURCE).path.read_bytes() == site.content[file]
    assert [path.name for path in kept.iterdir()] == [file]
    with refuses(IntegrityError, "has 7 classes"):
        read_source(SOURCE)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_is_cut_goes_on(site: Site, file: str, kept: Path, ranges: bool) -> None:
    whole, site.ranges = site.content[file], ranges
    site.cuts = [1000, 500]
    assert find_checkpoint(SOURCE).path.read_bytes() == whole
    ends = [None, "bytes=1000-", "bytes=1500-"] if ranges else [None, "bytes=1000-", "bytes=500-"]
    assert [asked for _, asked in site.asked] == ends
    assert [path.name for path in kept.iterdir()] == [file]


def test_what_arrived_serves_the_next_call(site: Site, file: str, kept: Path) -> None:
    whole, site.cuts = site.content[file], [1000, 1, 1]
    with refuses(NetworkError, f"ended after 1002 of {len(whole)} bytes: they are kept"):
        find_checkpoint(SOURCE)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        f"{file}.part": whole[:1002]
    }
    assert find_checkpoint(SOURCE).path.read_bytes() == whole
    assert site.asked[-1][1] == "bytes=1002-"


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 10_000_000])
def test_what_lies_there_of_another_file_does_no_harm(
    site: Site, file: str, kept: Path, left: bytes
) -> None:
    kept.mkdir(parents=True)
    (kept / f"{file}.part").write_bytes(left)
    assert find_checkpoint(SOURCE).path.read_bytes() == site.content[file]
    assert [path.name for path in kept.iterdir()] == [file]


def test_of_another_process_that_downloads_the_same_nothing_is_touched(
    site: Site, file: str, kept: Path
) -> None:
    fcntl = pytest.importorskip("fcntl")
    kept.mkdir(parents=True)
    with open(kept / f"{file}.part", "wb") as other:
        other.write(b"half")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        assert find_checkpoint(SOURCE).path.read_bytes() == site.content[file]
    names = sorted(path.name for path in kept.iterdir())
    assert names == [file, f"{file}.part"] and (kept / names[1]).read_bytes() == b"half"


def test_of_wrong_bytes_nothing_is_kept(
    site: Site, file: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = site.content[file]
    site.content[file] = whole[:-1] + b"?"
    with refuses(IntegrityError, "nothing was kept"):
        find_checkpoint(SOURCE)
    assert list(kept.iterdir()) == []
    # Of a whole sha256 the digits in the name are not enough.
    site.content[file] = whole
    wrong = hashlib.sha256(whole).hexdigest()[:8] + "0" * 56
    one = Release("torchvision", "resnet20", "resnet20", "imagenet", file, 1, wrong)
    monkeypatch.setitem(RELEASES, SOURCE, one)
    with refuses(IntegrityError, f"not {wrong}"):
        find_checkpoint(SOURCE)
    del site.content[file]
    with refuses(NetworkError, "answered 404"):
        find_checkpoint(SOURCE)
    assert list(kept.iterdir()) == []


def test_no_site_at_all(file: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.ADDRESSES, "torchvision", "http://127.0.0.1:9/")
    with refuses(NetworkError, "could not be reached"):
        find_checkpoint(SOURCE)
    assert list(kept.iterdir()) == []
    with refuses(NotFoundError, "torchvision:resnet50.v2"):
        find_checkpoint("torchvision:resnet51")
    with refuses(NotFoundError, "chenyaofo:cifar100_resnet56"):
        find_checkpoint("chenyaofo:resnet56")


def test_the_table() -> None:
    for source, one in RELEASES.items():
        digits = re.search(r"-([0-9a-f]{8})\.(pth|th|pt)$", one.file)
        assert digits is not None and one.pin.startswith(digits[1]), source
        assert one.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", one.sha256), source
        assert one.arch in ARCHITECTURES and one.url.startswith("https://"), source
        mean, std = one.normalisation
        assert all(0.1 < value < 0.6 for value in (*mean, *std)), source
    assert {one.license for one in RELEASES.values()} == {"BSD-2-Clause", "BSD-3-Clause"}
    assert {one.num_classes for one in RELEASES.values() if one.publisher != "torchvision"} == {
        10,
        100,
    }


def test_both_generations_of_torchvisions_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(url: str, *_: Any, **__: Any) -> tuple[Path, str]:
        return Path(url.rpartition("/")[2]), "0" * 64

    monkeypatch.setattr("zoo.pretrained.sources.fetch_pinned", fetched)
    resizes = {}
    for source, one in RELEASES.items():
        found = find_checkpoint(source)
        if one.publisher == "torchvision":
            assert found.path.name.startswith(f"{found.arch}-") and found.origin.input_size == 224
            assert found.origin.crop is not None and len(found.origin.class_names or ()) == 1000
            resizes[one.name] = math.floor(224 / found.origin.crop)
        else:
            assert (found.origin.input_size, found.origin.crop) == (32, None)
    newer = {name for name in resizes if name.endswith("v2") or "resnext101_64x4d" in name}
    assert {name: 232 if name in newer else 256 for name in resizes} == resizes


@pytest.mark.shared
def test_the_files_at_hand_are_the_tables(site: Site, shared: Path) -> None:
    """Their real bytes, served on loopback, cut once, fetched and read."""
    files = {path.name: path for path in (shared / "data" / "checkpoints").iterdir()}
    known = [one for one in RELEASES.values() if one.file in files]
    assert len(known) == 5
    for one in known:
        site.content[one.file] = files[one.file].read_bytes()
        site.cuts = [100_000]
        checkpoint = read_source(one.source)
        assert checkpoint.sha256 == one.sha256
        assert (checkpoint.net.arch, checkpoint.net.num_classes) == (one.arch, one.num_classes)
        assert checkpoint.origin.license == one.license
        assert site.asked[-1] == (f"/{one.publisher}/{one.file}", "bytes=100000-")
