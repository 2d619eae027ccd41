"""Recipes: zoo pull fetches a checkpoint in timm's layout.

Converts it here, verifies and keeps it; nothing half is ever found.

ZOO_LARGE=1 takes a ResNet-18 the whole way too, which needs some minutes on one core.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import zoo as package
from tests.minihub import MiniHub
from tests.zoo.commands.conftest import Zoo
from tests.zoo.hub.children import start
from tests.zoo.models.timm_layout import CLASSES, layout
from zoo.artifact.folder import Check
from zoo.conversion.registry import method_named
from zoo.conversion.settings import Request
from zoo.errors import IntegrityError, NotFoundError
from zoo.hub import cache
from zoo.models import recipes, registry
from zoo.models.recipes import Recipe
from zoo.pretrained.published import RELEASES

NAME = "s-small"
LARGE = os.environ.get("ZOO_LARGE") == "1"
PARAMETERS = {"steps": 2, "iterations": 20, "rows": 4}


def serve(server: MiniHub, files: dict[str, bytes], arch: str) -> Recipe:
    commit = server.upload(f"timm/{arch}.tv_in1k", files)
    return Recipe(
        NAME,
        arch,
        f"timm/{arch}.tv_in1k@{commit}",
        1,
        hashlib.sha256(files["model.safetensors"]).hexdigest(),
        timesteps=4,
        samples=4,
        parameters=PARAMETERS,
    )


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return layout("resnet20", 8)


@pytest.fixture
def recipe(server: MiniHub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The only recipe there is: a small network of the hub."""
    found = serve(server, files, "resnet20")
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: found})
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images in folders by class, of several sizes."""
    folder, pixels = tmp_path / "images", np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(pixels.integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


@pytest.fixture
def made_home(home: Path) -> Path:
    return home / "zoo" / "made" / NAME


def broken(*_: object, **__: object) -> None:
    raise AssertionError("was not to be called")


def kept(home: Path) -> set[str]:
    """What a recipe's folder holds, without the lock."""
    return {path.name for path in home.iterdir()} - {".lock"} if home.is_dir() else set()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arch", ["resnet20", *(["resnet18"] if LARGE else [])])
def test_a_checkpoint_in_timms_layout_to_the_accuracy_of_its_spikes(
    server: MiniHub, zoo: Zoo, images: Path, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    side = 32 if arch == "resnet18" else 8
    recipe = serve(server, layout(arch, side), arch)
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: recipe})
    pulled = zoo("pull", NAME)
    assert pulled.code == 0 and f"timm/{arch}.tv_in1k, data-free" in pulled.err
    asked = {request.path.rpartition("/")[2] for request in server.log}
    assert asked == {"config.json", "model.safetensors"}
    assert zoo("verify", NAME, "--deep").code == 0
    found = json.loads(zoo("eval", NAME, "--data", images, "--timesteps", "1,4", "--json").out)
    assert (
        found["name"],
        found["data"]["images"],
        [row["timesteps"] for row in found["rows"]],
    ) == (NAME, 12, [1, 4])
    assert found["ann"]["source"]  # the checkpoint is found again, and measured beside
    assert package.load(NAME).topology.arch == arch
    shown = json.loads(zoo("show", NAME, "--json").out)
    source = shown["config"]["source"]
    assert (shown["name"], shown["folder"]) == (NAME, pulled.out.strip())
    assert (source["name"], source["revision"]) == (
        f"timm/{arch}.tv_in1k",
        recipe.source.partition("@")[2],
    )
    assert (source["sha256"], source["license"]) == (recipe.sha256, "bsd-3-clause")
    assert shown["config"]["class_names"] == CLASSES


# What has no default for binary neurons, as `budget`, was left out of a recipe without a word.
@pytest.mark.parametrize(
    ("neuron", "own"),
    [("if", {}), ("multi-level", {"budget": 1.25, "delay": "error"}), ("multi-level", {"bits": 2})],
)
def test_what_is_made_is_what_zoo_convert_makes(
    recipe: Recipe,
    zoo: Zoo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    neuron: Literal["if", "multi-level"],
    own: dict[str, Any],
) -> None:
    recipe = replace(recipe, neuron=neuron, parameters=PARAMETERS | own)
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: recipe})
    assert zoo("pull", NAME).code == 0
    parameters = [
        word
        for name, value in {"delay": "search", **recipe.parameters}.items()
        for word in ("--parameter", f"{name}={value}")
    ]
    words = [
        "--neuron",
        neuron,
        "--method",
        "data-free",
        "--samples",
        "4",
        "--timesteps",
        "4",
        *parameters,
        "--out",
        tmp_path / "net",
    ]
    assert zoo("convert", recipe.source, *words).code == 0
    for name in ("config.json", "model.safetensors"):
        assert (registry.resolve(NAME) / name).read_bytes() == (
            tmp_path / "net" / name
        ).read_bytes()


def test_the_second_pull_asks_nobody_and_converts_nothing(
    recipe: Recipe, server: MiniHub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(zoo("pull", NAME, "--json").out)
    before = len(server.log)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("zoo.conversion.convert.convert", broken)
    monkeypatch.setattr("zoo.pretrained.sources.read_source", broken)
    began = time.monotonic()
    second = json.loads(zoo("pull", NAME, "--json").out)
    assert time.monotonic() - began < 1
    assert (first["fetched"], second["fetched"]) == (True, False)
    assert (
        first["files"] == second["files"]
        and first["folder"] == second["folder"]
        and len(server.log) == before
    )
    assert "from the cache" in zoo("pull", NAME).err
    assert zoo("pull", NAME, "--force").code == 1  # `broken`: with --force it would convert


def test_a_name_that_was_not_made_yet(recipe: Recipe, server: MiniHub, zoo: Zoo) -> None:
    says = (
        f"{NAME} is not here yet: make it with zoo pull {NAME} "
        "(downloads 1 MB and converts, minutes)"
    )
    for words in (
        ["eval", NAME, "--timesteps", "1"],
        ["show", NAME],
        ["verify", NAME],
        ["card", NAME],
    ):
        assert says in zoo(*words).failed(3)
    with pytest.raises(NotFoundError, match="make it with zoo pull"):
        package.load(NAME)
    assert f"known: {NAME}" in zoo("pull", "s-smal").failed(3)
    assert server.log == []


def test_calibrated_on_images(recipe: Recipe, zoo: Zoo, images: Path, made_home: Path) -> None:
    free = zoo("pull", NAME).out.strip()
    found = json.loads(zoo("pull", NAME, "--calib", images, "--samples", "5", "--json").out)
    config = json.loads((Path(found["folder"]) / "config.json").read_text())
    assert (config["method"]["name"], config["calibration"]["images"]) == ("calibrated", 5)
    assert found["made"] == "timm/resnet20.tv_in1k, on 5 images"
    assert (
        registry.resolve(NAME) == Path(found["folder"]) != Path(free)
    )  # the name means what was pulled last
    assert not json.loads(zoo("pull", NAME, "--calib", images, "--samples", "5", "--json").out)[
        "fetched"
    ]
    assert zoo("pull", NAME, "--calib", images, "--samples", "6").out.strip() != found["folder"]
    Image.new("RGB", (12, 12), "red").save(images / "ant" / "0.png")
    ended = zoo("pull", NAME, "--calib", images, "--samples", "12", "--json")
    assert f"calibrating on {images}: image folder, 12 images, 3 classes; labels: by" in ended.err
    everything = json.loads(ended.out)
    Image.new("RGB", (12, 12), "blue").save(images / "ant" / "0.png")
    changed = json.loads(zoo("pull", NAME, "--calib", images, "--samples", "12", "--json").out)
    assert changed["fetched"] and changed["folder"] != everything["folder"]
    (images / "ant" / "0.png").write_bytes(b"broken")
    words = ("pull", NAME, "--calib", images, "--samples", "12")
    assert "leave such images out with --on-bad-image skip" in zoo(*words).err
    skipped = zoo(*words, "--on-bad-image", "skip")
    assert skipped.code == 0 and "1 of 12 images skipped, 11 left (0.png" in skipped.err
    assert "1 of 12 images skipped" in (Path(skipped.out.strip()) / "config.json").read_text()
    assert zoo("pull", NAME).out.strip() == free and registry.resolve(NAME) == Path(free)
    assert len(kept(made_home)) == 7  # six artifacts and which of them is current


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["s-resnet20-digits", "--samples", "3"], 2, "--samples are for s-small"),
        (["org/net", "--calib", "x"], 2, "--samples are for s-small"),
        ([NAME, "--calib", "nowhere"], 3, "nowhere"),
        ([NAME, "--samples", "0"], 2, "--samples"),
    ],
)
def test_what_cannot_be_asked_of_a_recipe(
    recipe: Recipe, server: MiniHub, zoo: Zoo, words: list[str], code: int, says: str
) -> None:
    assert says in zoo("pull", *words).failed(code)
    assert server.log == []


def test_another_checkpoint_than_the_recipes_is_refused(
    recipe: Recipe,
    files: dict[str, bytes],
    zoo: Zoo,
    home: Path,
    made_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: replace(recipe, sha256="0" * 64)})
    assert f"it should be {'0' * 64}" in zoo("pull", NAME).failed(5)
    assert kept(made_home) == set() and "not here yet" in zoo("show", NAME).failed(3)
    assert not [
        path
        for path in home.rglob("*")
        if path.is_file() and path.stat().st_size >= len(files["model.safetensors"])
    ]
    monkeypatch.setattr("zoo.models.recipes.RECIPES", {NAME: recipe})
    assert zoo("pull", NAME).code == 0


def test_offline(
    recipe: Recipe, server: MiniHub, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the zoo is offline" in zoo("pull", NAME, "--offline").failed(4)
    assert server.log == []
    assert zoo("pull", NAME).code == zoo("cache", "rm", NAME).code == 0
    before = len(server.log)
    assert json.loads(zoo("pull", NAME, "--offline", "--json").out)[
        "fetched"
    ]  # from the checkpoint in the cache
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert zoo("pull", NAME, "--force").code == 0
    assert len(server.log) == before


def test_another_endpoint(
    recipe: Recipe,
    files: dict[str, bytes],
    server: MiniHub,
    zoo: Zoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MiniHub() as other:
        other.upload("timm/resnet20.tv_in1k", files)  # the same bytes, so the same commit
        assert zoo("pull", NAME, "--endpoint", other.url).code == 0
        assert other.log and server.log == []
    monkeypatch.setattr(
        "zoo.models.recipes.RECIPES",
        {NAME: replace(recipe, source="torchvision:resnet18", arch="resnet18")},
    )
    assert "leave --endpoint out" in zoo("pull", NAME, "--endpoint", server.url).failed(2)


def test_list_and_cache_say_what_there_is(recipe: Recipe, zoo: Zoo, made_home: Path) -> None:
    def listed() -> dict[str, Any]:
        return {row["name"]: row for row in json.loads(zoo("list", "--json").out)}[NAME]

    before = listed()
    assert (before["origin"], before["sha256"], before["top1"], before["folder"]) == (
        "recipe",
        None,
        None,
        None,
    )
    assert f"zoo pull {NAME}" in zoo("list").out and "no model" in zoo("cache", "ls").err
    assert "not in the cache" in zoo("cache", "rm", NAME).failed(3)
    folder = Path(zoo("pull", NAME).out.strip())
    after = listed()
    assert (after["origin"], after["folder"]) == (
        "made",
        str(folder),
    ) and before.keys() == after.keys()
    assert "recipe:" not in zoo("list").out
    row = json.loads(zoo("cache", "ls", "--json").out)[0]
    assert (row["repo"], row["commit"], row["state"], row["whole"]) == (
        NAME,
        folder.name,
        "current",
        True,
    )
    assert row["size"] == sum(path.stat().st_size for path in folder.iterdir())
    assert "data-free-4" in zoo("cache", "ls").out and zoo("cache", "verify").code == 0
    assert json.loads(zoo("doctor", "--json").out)["cache"]["made"] == 1
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert zoo("cache", "verify").code == 5
    assert json.loads(zoo("pull", NAME, "--json").out)["fetched"]  # what decayed is made again
    assert zoo("cache", "verify").code == 0
    assert zoo("pull", NAME, "--samples", "2").code == 0
    assert f"{row['size'] / 1000:.1f} kB freed" in zoo("cache", "rm", f"{NAME}@{folder.name}").out
    assert not folder.exists() and registry.resolve(NAME).name.endswith("-2")
    assert zoo("cache", "rm", NAME).code == 0
    assert kept(made_home) == set() and listed()["origin"] == "recipe"


def test_a_recipe_that_changed_is_made_anew(
    recipe: Recipe, zoo: Zoo, made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(zoo("pull", NAME).out.strip())
    monkeypatch.setattr(
        "zoo.models.recipes.RECIPES", {NAME: replace(recipe, parameters=PARAMETERS | {"steps": 3})}
    )
    assert "not here yet" in zoo("show", NAME).failed(3)
    assert [one.state for one in recipes.everything()] == ["outdated"]
    new = Path(zoo("pull", NAME).out.strip())
    assert new != old and registry.resolve(NAME) == new
    left = made_home / ".left"
    left.mkdir()
    (left / "file").write_bytes(bytes(1000))
    assert set(json.loads(zoo("cache", "prune", "--json").out)["removed"]) == {str(old), str(left)}
    assert kept(made_home) == {"current", new.name}
    monkeypatch.setattr("zoo.models.recipes.CONVERSION", recipes.CONVERSION + 1)
    assert recipes.current_artifact(NAME) is None


@pytest.mark.parametrize("current", ["", "../../../x", "a" * 12 + "-data-free-4", "\0", "é"])
def test_a_current_that_leads_nowhere(
    recipe: Recipe, zoo: Zoo, made_home: Path, current: str
) -> None:
    zoo("pull", NAME)
    (made_home / "current").write_text(current)
    assert "not here yet" in zoo("show", NAME).failed(3)
    assert not json.loads(zoo("pull", NAME, "--json").out)["fetched"]
    assert zoo("show", NAME).code == 0


@pytest.mark.parametrize(
    "end", [IntegrityError("x"), KeyboardInterrupt(), OSError(28, "full"), "bad"]
)
def test_what_fails_its_verification_is_not_kept(
    recipe: Recipe, zoo: Zoo, made_home: Path, monkeypatch: pytest.MonkeyPatch, end: Any
) -> None:
    def verify(folder: Path, *, deep: bool) -> list[Check]:
        assert deep and (folder / "model.safetensors").is_file()
        if end == "bad":
            return [Check("spikes", False, "differ")]
        raise end

    with monkeypatch.context() as patch:
        patch.setattr("zoo.artifact.folder.verify_artifact", verify)
        code = zoo("pull", NAME).code
    assert code == {IntegrityError: 5, KeyboardInterrupt: 130, OSError: 1, str: 5}[type(end)]
    assert kept(made_home) == set() and recipes.current_artifact(NAME) is None
    assert zoo("pull", NAME).code == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_is_interrupted_leaves_nothing_that_could_be_used(
    recipe: Recipe,
    zoo: Zoo,
    constants: dict[str, Any],
    made_home: Path,
    tmp_path: Path,
    how: signal.Signals,
) -> None:
    output, known = tmp_path / "output", {NAME: recipe}

    def converting() -> BaseProcess:
        output.unlink(missing_ok=True)
        child = start(["pull", NAME], constants, output, recipes=known)
        while child.is_alive() and not (output.is_file() and "converting" in output.read_text()):
            time.sleep(0.002)
        return child

    child, began = converting(), time.monotonic()
    child.join(60)
    seconds, stopped = time.monotonic() - began, 0
    assert child.exitcode == 0, output.read_text()
    for share in (0.05, 0.4, 0.7, 0.9):
        recipes.remove_made(recipes.everything())
        child, whole = converting(), set[str]()
        child.join(share * seconds)
        with contextlib.suppress(ProcessLookupError):  # it may have ended by now
            os.kill(
                int(child.pid or 0), signal.SIGSTOP
            )  # so that nothing happens between the look and the signal
            whole = {one.key for one in recipes.everything()}
            os.kill(int(child.pid or 0), how)
            os.kill(int(child.pid or 0), signal.SIGCONT)
        child.join(30)
        assert child.exitcode in (0, 130 if how == signal.SIGINT else -9), output.read_text()
        stopped += child.exitcode != 0 and not whole
        assert all(cache.problem_of(one.folder) is None for one in recipes.everything()), share
        if child.exitcode == 130:
            # Only what was whole before Ctrl-C came may stay.
            assert "interrupted" in output.read_text()
            assert kept(made_home) - {"current"} == whole if whole else kept(made_home) == set()
    assert stopped
    (made_home / ".left").mkdir()
    assert zoo("pull", NAME, "--force").code == zoo("verify", NAME, "--deep").code == 0
    assert kept(made_home) == {"current", registry.resolve(NAME).name}


def test_two_at_once(
    recipe: Recipe, zoo: Zoo, constants: dict[str, Any], made_home: Path, tmp_path: Path
) -> None:
    outputs = [tmp_path / "a", tmp_path / "b"]
    children = [
        start(["pull", NAME], constants, output, recipes={NAME: recipe}) for output in outputs
    ]
    for child in children:
        child.join(60)
    texts = [output.read_text() for output in outputs]
    assert [child.exitcode for child in children] == [0, 0], texts
    assert sum("converting" in text for text in texts) == 1, texts
    assert len(kept(made_home)) == 2 and zoo("verify", NAME).code == 0


def test_the_zoos_own_recipes() -> None:
    assert {f"s-resnet{depth}" for depth in (18, 34, 50, 101, 152)} <= recipes.RECIPES.keys()
    assert not recipes.RECIPES.keys() & registry.index().keys()
    assert len({recipe.digest for recipe in recipes.RECIPES.values()}) == len(recipes.RECIPES)
    for name, recipe in recipes.RECIPES.items():
        repo, _, revision = recipe.source.partition("@")
        for method in ("calibrated", "data-free"):
            asked = Request(recipe.neuron, timesteps=recipe.timesteps)
            settings = method_named(method).settings(asked, recipe.parameters)
            assert settings.parameters().items() >= recipe.parameters.items()
        long = recipe.neuron == "if" and recipe.arch in ("resnet50", "resnet101", "resnet152")
        few = 4 if recipe.dataset == "imagenet" else 2
        assert recipe.timesteps == (few if recipe.neuron == "multi-level" else 64 if long else 32)
        assert (name, recipe.arch) == (recipe.name, re.split(r"[-.]", name)[1])
        one = RELEASES.get(recipe.source)
        if one is not None:
            assert (one.arch, one.sha256, one.dataset) == (
                recipe.arch,
                recipe.sha256,
                recipe.dataset,
            )
        else:
            assert recipe.sha256 is not None and len(recipe.sha256) == 64
            assert repo == f"timm/{recipe.arch}.tv_in1k" and len(revision) == 40
