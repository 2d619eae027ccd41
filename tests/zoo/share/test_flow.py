"""README's way from a checkpoint to a published model, its commands run as they stand there.

On CIFAR's form, on ImageNet's, and on photographs of nobody's data set; then pulled elsewhere.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save

from tests.minihub import MiniHub
from tests.zoo.commands.conftest import Zoo
from zoo.data import datasets
from zoo.data.open import open_images
from zoo.networks.architectures import topology
from zoo.networks.preprocess import Preprocess
from zoo.networks.resnet import ResNet

REPO = Path(__file__).resolve().parents[3]
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def work(server: MiniHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are typed, with a token for the hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def commands(document: str, after: str) -> list[list[str]]:
    """Return the commands of the first block after a text of a document."""
    text = (REPO / document).read_text(encoding="utf-8")
    block = re.search(r"```\n(.*?)```", text[text.index(after) :], re.S)
    assert block is not None
    return [shlex.split(line, comments=True)[1:] for line in block[1].splitlines()]


def digit_images(split: str, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return handwritten digits in colour, uint8 `[count, side, side, 3]`, and their labels."""
    found = open_images("digits", split).take(count, seed=0)
    grey = found.batch(slice(count), Preprocess((1, 8, 8))).numpy()[:, 0]
    large = [Image.fromarray(one).resize((side, side), Image.Resampling.BILINEAR) for one in grey]
    tint = np.array([1.0, 0.7, 0.4])
    return (np.stack([np.array(one) for one in large])[..., None] * tint).astype(
        np.uint8
    ), found.labels


def write_cifar(folder: Path) -> None:
    """Write digits as CIFAR-10's binary files, four of each training file and eight to test."""
    folder.mkdir()
    train = digit_images("train", 20, 32)
    files = {f"data_batch_{i + 1}.bin": slice(4 * i, 4 * i + 4) for i in range(5)}
    for name, rows in files.items():
        write_records(folder / name, train[0][rows], train[1][rows])
    write_records(folder / "test_batch.bin", *digit_images("test", 8, 32))
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES))


def write_records(path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    planes = pixels.transpose(0, 3, 1, 2)
    pairs = zip(labels.tolist(), planes, strict=True)
    path.write_bytes(b"".join(bytes([label]) + plane.tobytes() for label, plane in pairs))


def write_folder(folder: Path, split: str, names: list[str], sides: list[int]) -> None:
    """Write digits as JPEG files by class, of several sizes, as photographs come."""
    for index, side in enumerate(sides):
        pixels, labels = digit_images(split, 2 * len(names), side)
        for one, label in zip(pixels, labels.tolist(), strict=True):
            place = folder / names[label % len(names)]
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(one).resize((side + 8 * (index % 2), side))
            image.save(place / f"{index}-{sum(1 for _ in place.iterdir())}.jpg", quality=95)


def network(arch: str, classes: int) -> ResNet:
    torch.manual_seed(0)
    return ResNet(topology(arch, num_classes=classes)).eval()


def accuracies(zoo: Zoo, *words: str | Path) -> dict[int, float]:
    ended = zoo("eval", *words, "--json")
    assert ended.code == 0, ended
    return {row["timesteps"]: row["top1"] for row in json.loads(ended.out)["rows"]}


def test_the_readme_on_cifars_form(
    server: MiniHub, zoo: Zoo, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(work / "cifar10")
    # The zoo knows CIFAR-10 by a digest of all its images: here by that of these.
    test = open_images(work / "cifar10", "test")
    known = datasets.KNOWN["cifar10"]
    split = replace(known.splits["test"], images=len(test), digest=datasets.digest(test))
    known = replace(known, splits={"train": known.splits["train"], "test": split})
    monkeypatch.setitem(datasets.KNOWN, "cifar10", known)
    torch.save(network("resnet20", 10).state_dict(), work / "resnet20.th")
    for words in commands("README.md", "## Convert your own"):
        ended = zoo(*words)
        assert ended.code == 0, (words, ended)
        assert "lack" not in ended.err
    assert "On all 8 test images of CIFAR-10;" in zoo("card", "./s-resnet20").out
    published = server.repos["model", "me/s-resnet20"]
    assert published.tags == {"v1": published.head}
    row = next(row for row in csv_rows(zoo("list", "--csv").out) if row["name"] == "s-resnet20")
    assert row["origin"] == "shipped"  # a folder of that name is another model
    found = json.loads((work / "s-resnet20" / "eval.json").read_text())
    wanted = {row["timesteps"]: row["top1"] for row in found["rows"]}
    elsewhere(monkeypatch, work)
    assert zoo("pull", "me/s-resnet20@v1").code == 0
    steps = ["--timesteps", "4,8,16,32", "--data", "cifar10/"]
    assert accuracies(zoo, "me/s-resnet20@v1", *steps) == wanted


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def elsewhere(monkeypatch: pytest.MonkeyPatch, work: Path) -> None:
    """Set the caches of another machine, which has seen nothing yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(work / "elsewhere" / "hub"))
    monkeypatch.setenv("ZOO_HOME", str(work / "elsewhere" / "zoo"))


def test_on_imagenets_form(
    server: MiniHub, zoo: Zoo, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network("resnet18", 1000)
    preprocess = {
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 1000,
        "first_conv": "conv1",
        "classifier": "fc",
        "license": "bsd-3-clause",
        "tag": "a1_in1k",
        "custom_load": False,
    }
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": preprocess}
    files = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": save(dict(net.state_dict()), metadata={"format": "pt"}),
    }
    server.upload("timm/resnet18.a1_in1k", files)
    synsets = ["n01440764", "n01443537", "n01484850"]
    write_folder(work / "imagenet" / "train", "train", synsets, [36, 48])
    write_folder(work / "imagenet" / "val", "test", synsets, [40])
    for words in commands("docs/how-to/publish.md", "<!-- imagenet flow -->"):
        ended = zoo(*words)
        assert ended.code == 0, (words, ended)
        assert "lack" not in ended.err
    text = (work / "card.md").read_text()
    assert re.search(r"On 6 images of ImageNet-1k \(image folder, .*\); the ANN", text)
    data = ModelCard(text).data
    assert (data.license, data.datasets) == ("bsd-3-clause", ["ILSVRC/imagenet-1k"])
    assert {one.dataset_type for one in data.eval_results} == {"ILSVRC/imagenet-1k"}
    wanted = json.loads((work / "s-resnet18" / "eval.json").read_text())["rows"]
    elsewhere(monkeypatch, work)
    steps = ["--timesteps", "8,16,32", "--data", "imagenet/val", "--save"]
    found = accuracies(zoo, "me/s-resnet18@v1", *steps)
    assert found == {row["timesteps"]: row["top1"] for row in wanted}
    shown = json.loads(zoo("show", "me/s-resnet18@v1", "--json").out)
    assert shown["evaluation"]["command"] != shown["measured_here"][0]["command"]
    assert [row["top1"] for row in shown["measured_here"][0]["rows"]] == [*found.values()]


def test_photographs_of_ones_own(
    server: MiniHub, zoo: Zoo, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["daisy", "iris", "rose"]
    write_folder(work / "flowers" / "train", "train", names, [40, 56])
    write_folder(work / "flowers" / "test", "test", names, [48])
    torch.save(network("resnet20", 3).state_dict(), work / "flowers.pth")
    convert, measure, publish = commands("docs/how-to/publish.md", "<!-- own flow -->")
    assert zoo(*convert, "--input-size", "32", "--resize", "36").code == 0
    measured = zoo(*measure)
    assert measured.code == 0
    # All that is missing, once, and before the run.
    asked = ["--license", "--url", "--data-name", "--data-url", "--data-license"]
    line = next(line for line in measured.err.splitlines() if "would lack" in line)
    assert all(f"({option})" in line for option in asked)
    refused = zoo("publish", "./s-flowers", "me/s-flowers", "-q").failed(7)
    assert all(f"({option})" in refused for option in asked)
    assert all(f"({option})" in zoo("card", "./s-flowers").failed(7) for option in asked)
    ended = zoo(*publish)
    assert ended.code == 0, ended
    # What was said is kept: the same again needs no option and makes no commit.
    assert "no new commit" in zoo("publish", "./s-flowers", "me/s-flowers").err
    assert "leave it out" in zoo("card", "./s-flowers", "--license", "bsd").failed(2)
    elsewhere(monkeypatch, work)
    pull = ended.out.splitlines()[-1].split()[1:]
    assert zoo(*pull).code == 0
    shown = json.loads(zoo("show", pull[1], "--json").out)
    assert shown["config"]["source"]["license"] == "mit"
    facts = shown["evaluation"]["data"]
    assert (facts["name"], facts["license"], facts["images"]) == ("Flowers", "CC BY 4.0", 6)
    found = accuracies(zoo, pull[1], "--timesteps", "4,8", "--data", "flowers/test")
    assert found == {row["timesteps"]: row["top1"] for row in shown["evaluation"]["rows"]}
