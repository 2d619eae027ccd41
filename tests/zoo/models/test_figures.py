"""Recipes of checkpoints at public addresses, and what is printed of a recipe's accuracy."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo as package
from benchmarks.recipes import FIGURES, RESULTS, collect
from tests.zoo.commands.conftest import Zoo
from tests.zoo.pretrained.conftest import Site
from tests.zoo.spiking_fixtures import random_model
from zoo.artifact.results import Evaluation
from zoo.models import figures as of_recipes
from zoo.models import recipes, registry
from zoo.models.recipes import RECIPES, Recipe
from zoo.networks.architectures import topology
from zoo.pretrained.published import RELEASES, Release

NAME, SOURCE = "s-small.akamaster_c10", "akamaster:small"
PARAMETERS = {"steps": 1, "iterations": 10, "rows": 4}


@pytest.fixture
def recipe(site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The only recipe there is: of a file with akamaster's form, on loopback."""
    state = random_model(topology("resnet20")).state_dict()
    names = {key: key.replace("fc.", "linear.") for key in state}
    stream = io.BytesIO()
    torch.save({"state_dict": {f"module.{names[key]}": state[key] for key in state}}, stream)
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    one = Release("akamaster", "small", "resnet20", "cifar10", f"small-{sha256[:8]}.th", 1, sha256)
    site.content[one.file] = stream.getvalue()
    monkeypatch.setitem(RELEASES, SOURCE, one)
    found = Recipe(
        NAME,
        "resnet20",
        SOURCE,
        1,
        sha256,
        timesteps=4,
        samples=2,
        parameters=PARAMETERS,
        dataset="cifar10",
    )
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: found})
    return found


def test_a_published_checkpoint_to_spikes(
    recipe: Recipe, site: Site, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.cuts = [5000]
    pulled = zoo("pull", NAME)
    assert pulled.code == 0 and f"converting {SOURCE} data-free, on 2 images" in pulled.err
    assert [asked for _, asked in site.asked] == [None, "bytes=5000-"]
    config = json.loads((Path(pulled.out.strip()) / "config.json").read_text())
    source = config["source"]
    assert (source["name"], source["sha256"]) == (SOURCE, recipe.sha256)
    assert (source["license"], source["url"]) == ("BSD-2-Clause", RELEASES[SOURCE].url)
    assert registry.default_data(registry.entry(registry.resolve(NAME)).config) == "cifar10"
    assert zoo("verify", NAME, "--deep").code == 0
    assert not json.loads(zoo("pull", NAME, "--json").out)["fetched"] and len(site.asked) == 2
    assert "which no hub has" in zoo("pull", NAME, "--endpoint", site.url).failed(2)
    file = RELEASES[SOURCE].file
    site.content[file] = site.content[file][:-1] + b"?"
    monkeypatch.setenv("TORCH_HOME", str(Path(pulled.out.strip()) / "elsewhere"))
    assert "nothing was kept" in zoo("pull", NAME, "--force").failed(5)


def test_what_is_printed_of_a_recipe(
    recipe: Recipe, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(**changes: Any) -> dict[str, Any]:
        found = {NAME: of_recipes.Figures(**(figures | changes))} if figures else {}
        monkeypatch.setattr("zoo.models.figures._figures", lambda: found)
        row = {row["name"]: row for row in json.loads(zoo("list", "--json").out)}[NAME]
        (info,) = package.list_models(NAME)
        assert info.unmeasured == row["unmeasured"] and info.dataset == "cifar10"
        assert max(info.top1.values(), default=None) == row["top1"]
        return {key: row[key] for key in ("timesteps", "top1", "unmeasured")}

    figures: dict[str, Any] = {}
    none = {"timesteps": None, "top1": None}
    assert listed() == none | {"unmeasured": "its checkpoint could not be had"}
    figures = {
        "recipe": recipe.digest,
        "weights_sha256": "0" * 64,
        "images": 10_000,
        "ann": 92.0,
        "top1": {2: 71.25, 4: 91.5},
    }
    assert listed() == {"timesteps": 4, "top1": 91.5, "unmeasured": None}
    assert " 91.50 " in zoo("list").out and "unmeasured" not in zoo("list").out
    text = "91.50 % at T = 4 (its ANN 92.00 %) on 10,000 images"
    changed = listed(recipe="0" * 12)["unmeasured"]
    assert changed == f"its conversion changed since; before: {text}"
    assert f"{NAME}: {changed}" in zoo("list").out
    other = listed(recipe=None, weights_sha256=None, top1={2: 71.25})["unmeasured"]
    assert other.endswith(
        "the same conversion of another checkpoint: "
        "71.25 % at T = 2 (its ANN 92.00 %) on 10,000 images"
    )
    # Of what was made here only what has the very weights that were measured.
    assert zoo("pull", NAME).code == 0
    assert listed() == none | {"unmeasured": f"zoo eval {NAME} measures it"}
    weights = registry.entry(registry.resolve(NAME)).config.weights_sha256
    assert listed(weights_sha256=weights) == {"timesteps": 4, "top1": 91.5, "unmeasured": None}


def test_the_figures_are_those_of_the_result_files() -> None:
    assert collect() == FIGURES.read_text()
    for path in RESULTS.glob("*.json"):
        facts = json.loads(path.read_text())
        digest = facts.pop("recipe")
        found = Evaluation.model_validate(facts)
        recipe = RECIPES[path.stem]
        assert (found.data.images, found.data.dataset) == (10_000, recipe.dataset)
        assert found.config.source.sha256 == recipe.sha256, path
        assert (of_recipes.recipe_figures(recipe) is not None) == (digest == recipe.digest)


def test_names_of_the_recipes() -> None:
    for name, recipe in RECIPES.items():
        assert (recipe.dataset == "imagenet") == ("." not in name)
        assert replace(recipe, dataset="x").digest == recipe.digest  # of the conversion alone
    tagged = {name for name in RECIPES if "." in name}
    assert {"s-resnet56.akamaster_c10", "s-resnet56.chenyaofo_c100"} <= tagged
    assert len(tagged) == 2 * sum(one.dataset != "imagenet" for one in RELEASES.values()) == 26
    assert "s-resnet56-multi-level.chenyaofo_c100" in tagged
    assert not RECIPES.keys() & set(registry.index())
    assert recipes.how_to("s-resnet56.chenyaofo_c100").count("downloads 4 MB") == 1
