"""Cards say what eval.json says, in a form the hub's own classes read, and nothing is left out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from zoo.artifact.results import Evaluation
from zoo.data.datasets import Terms
from zoo.errors import GateError, IntegrityError, NotFoundError, UsageError
from zoo.models import registry
from zoo.render import card

ROOT = Path(__file__).resolve().parents[3]
DIGITS = "s-resnet20-digits"


def measured() -> dict[str, Any]:
    return json.loads((registry.resolve(DIGITS) / "eval.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped artifact."""
    return Path(shutil.copytree(registry.resolve(DIGITS), tmp_path / DIGITS))


@pytest.mark.parametrize("entry", registry.shipped(), ids=lambda entry: entry.name)
def test_every_shipped_model_has_the_card_its_evaluation_makes(entry):
    path = ROOT / "model_cards" / f"{entry.name}.md"
    assert path.read_text(encoding="utf-8") == card.for_folder(entry.folder), "run make cards"


def test_no_card_is_left_without_its_model():
    names = {entry.name for entry in registry.shipped()}
    assert {path.stem for path in (ROOT / "model_cards").glob("*.md")} == names


@pytest.mark.parametrize("entry", registry.shipped(), ids=lambda entry: entry.name)
def test_the_hub_reads_every_accuracy(entry):
    found = json.loads((entry.folder / "eval.json").read_text())
    data = ModelCard(card.for_folder(entry.folder)).data
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    wanted = {f"accuracy at T = {row['timesteps']}": round(row["top1"], 4) for row in found["rows"]}
    assert values == wanted | {"accuracy of the ANN": round(found["ann"]["top1"], 4)}
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert (data.model_name, data.library_name) == (entry.name, "spiking-zoo")
    assert data.license == found["config"]["source"]["license"]


def test_the_tables_hold_every_row(folder):
    text = card.for_folder(folder)
    for row in measured()["rows"]:
        assert re.search(
            rf"^\| {row['timesteps']} \| {row['top1']:.2f} \|.*\| {row['firing_rate']:.4f} \|$",
            text,
            re.M,
        )
        assert re.search(
            rf"^\| {row['timesteps']} \|.*\| {row['energy_nj']['snn_int8']:.1f} \|", text, re.M
        )
    for layer in measured()["layers"]:
        rates = " | ".join(
            f"{layer['firing_rate'][step]:.4f}" for step in ("1", "4", "8", "32", "64")
        )
        assert f"| {layer['name']} | {layer['neurons']} | {rates} |\n" in text
    assert "T = 1, 2, 4 are too low" in text
    assert "From T = 32 on its modelled energy is above" in text


def test_a_network_converted_without_data_says_so():
    found = measured()
    made = "128 images of 8x8x1 made from BatchNorm statistics in 50 steps with seed 0"
    found["method"] = found["config"]["method"]["name"] = "data-free"
    found["config"]["calibration"] |= {"description": made, "dataset": None, "images": 128}
    evaluation = Evaluation.model_validate(found)
    assert f"| calibration | {made} |" in card.render_card(evaluation)
    command = next(line for line in card.commands(evaluation) if line.startswith("zoo convert"))
    assert (
        "--method data-free" in command and "--samples 128" in command and "--calib" not in command
    )


def without(*path: str | int) -> Any:
    """Takes one value out of an evaluation, or sets it to null where the form wants the key."""

    def change(found: dict[str, Any]) -> None:
        for part in path[:-1]:
            found = found[part]
        if isinstance(path[-1], int):
            found.pop(path[-1])
        else:
            found[path[-1]] = None

    return change


def edit(folder: Path, change: Any) -> None:
    """Change config.json and eval.json alike, as they were written together."""
    config, found = (
        json.loads((folder / name).read_text()) for name in ("config.json", "eval.json")
    )
    found["config"] = config
    change(found)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "eval.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("ann"), "the ANN's accuracy"),
        (without("config", "source", "license"), "the ANN's licence (`license`)"),
        (without("config", "source", "training"), "where the ANN comes from (`url`)"),
    ],
)
def test_what_is_missing_is_an_error(folder, change, said):
    edit(folder, change)
    with pytest.raises(GateError, match=re.escape(said)):
        card.for_folder(folder)


def of_nobodys_images(found: dict[str, Any]) -> None:
    found["data"] |= {"dataset": None, "images": 100, "description": "image folder, 100 images"}
    found["classes"], found["rows"] = [], [found["rows"][3]]
    found["config"]["source"] |= {"license": None, "training": None}


STATED = card.Statements(
    "mit", "https://example.org/net.pth", Terms("Moths | 9", "https://example.org/moths", "CC0")
)


def test_all_that_is_missing_is_named_at_once_and_may_be_stated(folder):
    edit(folder, of_nobodys_images)
    with pytest.raises(GateError) as raised:
        card.for_folder(folder)
    missing = ("license", "url", "data_name", "data_url", "data_license")
    assert all(f"(`{name}`)" in str(raised.value) for name in missing)
    text = card.for_folder(folder, STATED, use="me/net")
    assert "On 100 images of Moths \\| 9 (image folder, 100 images); the ANN" in text
    assert "| 8 | 98.89 |" in text and 'zoo.load("me/net")' in text
    assert "(https://example.org/moths); their licence: CC0" in text
    data = ModelCard(text).data
    assert (data.license, data.datasets) == ("mit", None)
    kinds = {(one.dataset_type, one.dataset_name, one.dataset_split) for one in data.eval_results}
    assert kinds == {("moths-9", "Moths | 9", None)}


def test_a_statement_contradicts_nothing(folder):
    with pytest.raises(UsageError, match="licence is apache-2.0, not mit"):
        card.for_folder(folder, card.Statements(license="mit"))
    with pytest.raises(UsageError, match="name of the images is scikit-learn digits, not Moths"):
        card.for_folder(folder, card.Statements(data=Terms("Moths")))
    same = card.Statements("apache-2.0", data=Terms("scikit-learn digits"))
    assert card.for_folder(folder, same) == card.for_folder(folder)


def test_a_measurement_of_another_config_makes_no_card(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"timesteps": 16}))
    with pytest.raises(GateError, match="of another config.json"):
        card.for_folder(folder)


def test_images_that_are_all_of_a_training_split_are_called_so():
    found = measured()
    found["data"]["images"], found["classes"] = 1437, []
    text = card.render_card(Evaluation.model_validate(found))
    assert "On all 1437 training images of scikit-learn digits;" in text
    assert {one.dataset_split for one in ModelCard(text).data.eval_results} == {"train"}


def test_an_evaluation_of_other_weights_makes_no_card(folder):
    text = (folder / "eval.json").read_text()
    (folder / "eval.json").write_text(text.replace(measured()["weights_sha256"], "0" * 64))
    with pytest.raises(GateError, match="other weights"):
        card.for_folder(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 100_000, b"null", b'{"seconds": NaN}']
)
def test_a_broken_evaluation_is_named(folder, content):
    (folder / "eval.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="eval.json"):
        card.for_folder(folder)


def test_without_an_evaluation_the_command_is_named(folder):
    (folder / "eval.json").unlink()
    with pytest.raises(NotFoundError, match="run zoo eval"):
        card.for_folder(folder)


def test_a_public_checkpoint_is_named_with_its_url(folder):
    def public(found: dict[str, Any]) -> None:
        found["config"]["source"] |= {
            "training": None,
            "url": "https://huggingface.co/timm/resnet18.tv_in1k",
        }

    edit(folder, public)
    text = card.for_folder(folder)
    assert ModelCard(text).data.base_model == "timm/resnet18.tv_in1k"
    assert (
        "Converted from `resnet20.safetensors` (https://huggingface.co/timm/resnet18.tv_in1k)"
        in text
    )
    assert "zoo train" not in text


def test_the_command_of_a_hub_source_has_its_commit_and_preprocessing():
    found = measured()
    source = {
        "name": "timm/resnet50.tv_in1k",
        "revision": "a" * 40,
        "training": None,
        "url": "https://hub/timm/resnet50.tv_in1k",
    }
    found["config"]["source"] |= source
    found["config"]["stride_in"] = "1x1"
    found["config"]["preprocess"] |= {"resize": 9, "interpolation": "bicubic"}
    line = next(
        line
        for line in card.commands(Evaluation.model_validate(found))
        if line.startswith("zoo convert")
    )
    assert line.startswith(
        f"zoo convert timm/resnet50.tv_in1k@{'a' * 40} --arch resnet20 --stride-in 1x1 "
    )
    assert "--input-size 8 --resize 9 --interpolation bicubic --mean 0.3055 " in line


def test_a_training_that_began_from_another_gives_both_commands(folder):
    found = measured()
    training = found["config"]["source"]["training"]
    first = training | {"epochs": 7}
    second = training | {
        "epochs": 9,
        "settings": training["settings"] | {"levels": 4},
        "start": first,
    }
    found["config"]["source"]["training"] = training | {"start": second}
    text = card.render_card(Evaluation.model_validate(found))
    commands = [line for line in text.splitlines() if line.startswith("zoo train")]
    assert [re.search(r"--epochs (\d+) ", line)[1] for line in commands] == ["7", "9", "60"]
    assert "--start" not in commands[0] and commands[0].endswith("--out stage1")
    assert commands[1].endswith("--start stage1/resnet20.safetensors --out stage2")
    assert commands[2].endswith("--start stage2/resnet20.safetensors --out .")
    first |= {"arch": "resnet32"}
    grown = card.render_card(Evaluation.model_validate(found))
    assert (
        "zoo train resnet32 --dataset" in grown
        and "--start stage1/resnet32.safetensors --out stage2" in grown
    )
    assert "That one began from a resnet32 trained with ReLU" in grown
    assert "It began from a network trained with 4 levels for 9 epochs" in text
    assert "That one began from a network trained with ReLU for 7 epochs" in text


def test_a_training_that_went_on_from_its_own_earlier_version_is_shown_whole():
    found = measured()
    training = found["config"]["source"]["training"]
    first = training | {"epochs": 7, "arch": "resnet20"}
    found["config"]["source"]["training"] = training | {
        "epochs": 9,
        "arch": "resnet20",
        "began": "s-resnet20",
        "start": first,
    }
    text = card.render_card(Evaluation.model_validate(found))
    commands = [line for line in text.splitlines() if line.startswith("zoo train")]
    assert len(commands) == 2 and "--epochs 7 " in commands[0] and "--start" not in commands[0]
    assert commands[1].endswith("--start stage1/resnet20.safetensors --out .")
    assert "It began from the weights of s-resnet20. It" in text
    own = card.render_card(Evaluation.model_validate(found | {"name": "s-resnet20"}))
    assert "It began from an earlier version of itself. It" in own


@pytest.mark.parametrize("start", [None, "its earlier stage"])
def test_weights_of_unknown_origin_are_not_called_our_own(start):
    found = measured()
    training = found["config"]["source"]["training"]
    assert "No public checkpoint is in it." in card.render_card(Evaluation.model_validate(found))
    training |= {"began": "resnet20-of-another.safetensors"}
    if start:
        found["config"]["source"]["training"] = training | {"began": None, "start": training}
    text = card.render_card(Evaluation.model_validate(found))
    assert "How those were trained is not recorded." in text
    assert "No public checkpoint is in it." not in text
    line = next(line for line in text.splitlines() if line.startswith("zoo train"))
    assert "--start resnet20-of-another.safetensors" in line


def test_the_card_of_a_taught_network_trains_its_teacher_first():
    found = measured()
    training = found["config"]["source"]["training"]
    its = training | {"arch": "resnet56", "epochs": 5, "top1": 87.5}
    teacher = its | {"epochs": 6, "start": its}
    taught = training["settings"] | {"teacher": "a" * 64}
    first = training | {"epochs": 7, "settings": taught, "teacher": "n.safetensors"}
    first |= {"taught": teacher}
    last = first | {"epochs": 8, "start": first}
    found["config"]["source"]["training"] = last
    found["config"]["shortcut"] = "B"
    text = card.render_card(Evaluation.model_validate(found))
    lines = [line for line in text.splitlines() if line.startswith("zoo train")]
    assert [re.search(r"train (\S+) .*--epochs (\d+) ", line).groups() for line in lines] == [
        *(("resnet56", "5"), ("resnet56", "6"), ("resnet20", "7"), ("resnet20", "8"))
    ]
    ends = [re.search(r"--out (\S+)$", line)[1] for line in lines]
    assert ends == ["stage1-teacher-stage1", "stage1-teacher", "stage1", "."]
    assert "--start stage1-teacher-stage1/resnet56.safetensors" in lines[1]
    assert all("--teacher stage1-teacher/resnet56.safetensors" in line for line in lines[2:])
    assert "--shortcut B" in lines[3] and "--shortcut" not in lines[1]
    assert (
        "It learnt from the labels and from the answers of n.safetensors, a resnet56 that had "
        "87.50 % of the test images of scikit-learn digits right." in text
    )
    del first["taught"], last["taught"], first["teacher"]
    text = card.render_card(Evaluation.model_validate(found))
    assert "That one learnt from the labels and from the answers of another network." in text
    assert "It learnt from the labels and from the answers of n.safetensors." in text


@pytest.mark.parametrize("blocks", ["graded", "binary"])
def test_the_command_says_what_keeps_the_blocks_binary(blocks):
    found = measured()
    found["config"]["method"]["parameters"] |= {"budget": 2.0, "blocks": blocks}
    line = next(
        line
        for line in card.commands(Evaluation.model_validate(found))
        if line.startswith("zoo convert")
    )
    assert "--parameter budget=2.0" in line
    assert ("--parameter blocks=binary" in line) == (blocks == "binary")
    assert "blocks=graded" not in line


def test_the_command_of_a_training_has_all_of_its_settings():
    found = measured()
    training = found["config"]["source"]["training"]
    training["settings"] |= {"cutout": 8, "mixup": 0.2, "smallest": 20, "compiled": True}
    training["settings"] |= {"teacher": "a" * 64}
    training["teacher"] = "akamaster:resnet56"
    found["config"]["shortcut"] = "B"
    text = card.render_card(Evaluation.model_validate(found))
    line = next(line for line in text.splitlines() if line.startswith("zoo train"))
    for words in (
        *("--cutout 8", "--mixup 0.2", "--smallest 20", "--compile "),
        *("--teacher akamaster:resnet56", "--shortcut B"),
    ):
        assert words in line
