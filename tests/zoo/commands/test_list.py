"""zoo list for people: names whole, one size everywhere, filter, sort, CSV, measured here."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.zoo.commands.conftest import Zoo
from zoo.commands import report
from zoo.commands.models import rows
from zoo.models import registry
from zoo.render import card
from zoo.text import human_bytes

DIGITS = "s-resnet20-digits"
# Timesteps that they were made for.
TUNED = {
    "s-resnet20-t2": 2,
    "s-resnet20-t4": 4,
    "s-resnet20-t32": 32,
    "s-resnet56-t32": 32,
    "s-resnet56-multi-level": 2,
    "s-resnet56-c100": 32,
    "s-resnet56-c100-multi-level": 2,
    "s-resnet18-cifar": 32,
    "s-resnet18-cifar-multi-level": 2,
    "s-resnet20-multi-level": 2,
    "s-resnet20-c100-multi-level": 2,
}


@pytest.fixture(autouse=True)
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a cache of the zoo that holds nothing."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def printed(found: Sequence[dict[str, Any]], width: int) -> list[str]:
    file = io.StringIO()
    report.models(Console(file=file, width=width, color_system=None), found)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 60, 80, 160])
def test_no_name_is_cut(width: int) -> None:
    found = rows()
    names = [str(row["name"]) for row in found]
    lines = printed(found, width)
    assert [line.split()[0] for line in lines[1 : len(names) + 1]] == names
    assert "…" not in "".join(lines)
    table = [line.rstrip() for line in lines[: len(names) + 1]]
    assert width < 60 or max(map(len, table)) <= width
    assert lines[0].split()[:1] == ["NAME"] and "TOP-1" in lines[0]
    assert width < 80 or {"DATA", "ANN", "SIZE"} <= {*lines[0].split()}


def test_a_long_name_and_hostile_data_set_keep_the_line_whole() -> None:
    name = "an-organization/" + "s-resnet152-of-everything-" * 4
    row = rows()[0] | {"name": name, "dataset": "a\x1b[31m" + "very " * 40}
    line = printed([row], 80)[1]
    assert name in line and "\x1b" not in line and "very very ve" not in line


def test_the_size_is_the_same_everywhere(zoo: Zoo) -> None:
    row = next(row for row in rows() if row["name"] == DIGITS)
    size = human_bytes(row["size"])
    assert row["size"] == json.loads(zoo("show", DIGITS, "--json").out)["size"]
    texts = [zoo("list").out, zoo("show", DIGITS).out, card.for_folder(registry.resolve(DIGITS))]
    assert all(size in text for text in texts)


def test_filter_sort_and_timesteps(zoo: Zoo) -> None:
    words = ["list", "--filter", "cifar10", "--sort", "top1", "--timesteps", "8", "--json"]
    found = json.loads(zoo(*words).out)
    accuracies = [row["top1"] for row in found if row["top1"] is not None]
    assert {row["dataset"] for row in found} == {"cifar10"} and len(accuracies) > 3
    assert accuracies == sorted(accuracies, reverse=True)
    assert [row["top1"] for row in found[: len(accuracies)]] == accuracies  # unknown ones last
    here = [row for row in found if row["origin"] == "shipped"]
    assert all(row["top1"] == row["accuracy"]["8"] and row["timesteps"] == 8 for row in here)
    names = [row["name"] for row in json.loads(zoo("list", "--filter", "s-resnet2*", "--json").out)]
    assert names[:2] == ["s-resnet20", "s-resnet20-c100"] and "s-resnet20-digits" in names
    assert all(name.startswith("s-resnet2") for name in names)
    by_size = json.loads(zoo("list", "--sort", "size", "--json").out)
    sizes = [row["size"] for row in by_size if row["size"] is not None]
    assert by_size[-1]["size"] is None and sizes == sorted(sizes) and len(sizes) > 3
    # What a model was made for, by default.
    meant = {name: next(row for row in rows() if row["name"] == name) for name in TUNED}
    assert {name: row["timesteps"] for name, row in meant.items()} == TUNED
    assert all(row["top1"] == row["accuracy"][row["timesteps"]] for row in meant.values())
    unmeasured = json.loads(zoo("list", "--timesteps", "3", "--json").out)
    assert {row["top1"] for row in unmeasured} == {None}
    assert "zoo search" in zoo("list", "--filter", "nothing").err


def test_csv(zoo: Zoo) -> None:
    text = zoo("list", "--csv").out
    found = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in found] == [row["name"] for row in rows()]
    assert next(row for row in found if row["name"] == "s-resnet20")["ann"] == "90.6"
    assert "choose one" in zoo("list", "--csv", "--json").failed(2)
    assert "not for --remote" in zoo("list", "--remote", "--sort", "name").failed(2)


def test_what_is_measured_here_is_kept_beside_the_published_figures(
    zoo: Zoo, fresh_home: Path
) -> None:
    published = registry.resolve(DIGITS) / "eval.json"
    before = published.read_bytes()
    ended = zoo("eval", DIGITS, "--timesteps", "2", "--limit", "20", "--save", "--no-layers")
    assert ended.code == 0 and "as measured here" in ended.err and "lack" not in ended.err
    assert zoo("eval", DIGITS, "--timesteps", "4", "--limit", "10", "--save", "-q").code == 0
    assert published.read_bytes() == before
    row = next(row for row in rows() if row["name"] == DIGITS)
    assert (row["measured"], row["timesteps"]) == ("published", 32)
    shown = json.loads(zoo("show", DIGITS, "--json").out)
    assert [one["data"]["images"] for one in shown["measured_here"]] == [20, 10]
    assert shown["measured_here"][0]["data"]["name"] == "scikit-learn digits"  # of which it is part
    assert "Measured here" in zoo("show", DIGITS).out
    # Measured again on the same images, it is replaced; what is damaged is no figure.
    assert zoo("eval", DIGITS, "--timesteps", "8", "--limit", "10", "--save", "-q").code == 0
    files = sorted((fresh_home / "measured").glob("*/*.json"))
    assert len(files) == 2
    files[0].write_text("{")
    assert len(json.loads(zoo("show", DIGITS, "--json").out)["measured_here"]) == 1


def test_without_published_figures_those_measured_here_are_shown(zoo: Zoo, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(registry.resolve(DIGITS), tmp_path / "net"))
    assert zoo("eval", DIGITS, "--timesteps", "2", "--limit", "20", "--save", "-q").code == 0
    (folder / "eval.json").unlink()
    entry = registry.entry(folder)
    assert entry.evaluation is None and entry.figures is entry.here[0]
    row = rows()[0] | {"measured": "here", "top1": 45.0}
    lines = printed([row], 80)
    assert "45.00*" in lines[1] and "measured here" in lines[-1]
    # One's own folder gets its eval.json.
    assert zoo("eval", folder, "--timesteps", "2,4", "--limit", "20", "--save", "-q").code == 0
    steps = [row.timesteps for row in registry.entry(folder).evaluation.rows]  # type: ignore[union-attr]
    assert steps == [2, 4]
