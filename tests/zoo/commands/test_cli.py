"""Check the output of each command, its stream and its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from zoo.cli import app, main

from .conftest import QUICK, Material, Zoo

COMMANDS = (
    "list",
    "show",
    "card",
    "site",
    "eval",
    "verify",
    "convert",
    "train",
    "pull",
    "publish",
    "search",
    "doctor",
    "cache",
)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(re.search(rf"^  {name}  ", result.stdout, re.M) for name in COMMANDS)
    assert "Exit codes" in result.stdout


@pytest.mark.parametrize("name", [*COMMANDS, "ls", "info"])
def test_every_help_has_an_example(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    if name in COMMANDS:
        assert f"Example:\n\n    zoo {name}" in result.stdout


def test_every_option_is_explained_by_a_whole_phrase() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands |= {f"cache {name}": one for name, one in commands["cache"].commands.items()}
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            text = (parameter.help or "").partition("  [default")[0]
            named = f"{name}: {parameter.name}: {text!r}"
            assert re.fullmatch(r"([A-Z]|org/)[^\n]{10,}\.", text), named
            assert text.split()[0] not in ("Of", "What", "Where", "Which", "Likewise."), named


def test_without_a_command_the_help_goes_to_stderr(zoo: Zoo) -> None:
    ended = zoo()
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: zoo" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evl"], "Did you mean 'eval'"),
        (["eval"], "Missing argument 'MODEL': see zoo eval --help"),
        (["list", "--jsn"], "No such option"),
        (
            [
                "convert",
                "x",
                "--arch",
                "resnet20",
                "--calib",
                "x",
                "--out",
                "x",
                "--method",
                "magic",
            ],
            "--method",
        ),
        (["eval", "x", "--limit", "0"], "--limit"),
        (["eval", "x", "--device", "tpu"], "--device"),
        (["eval", "x", "--backend", "cupy"], "--backend"),
        (["train", "resnet20", "--dataset", "digits", "--out", "x", "--levels", "256"], "--levels"),
        (
            ["train", "resnet21", "--dataset", "digits", "--out", "x"],
            "architecture 'resnet21' is unknown",
        ),
    ],
)
def test_wrong_usage_is_one_line(zoo: Zoo, words: list[str], said: str) -> None:
    assert said in zoo(*words).failed(2)


def test_version(zoo: Zoo) -> None:
    ended = zoo("--version")
    assert ended.code == 0
    assert re.fullmatch(r"zoo[ ,].+\n", ended.out)


def test_list(zoo: Zoo) -> None:
    ended = zoo("list", "--json")
    assert ended.code == 0
    names = [row["name"] for row in json.loads(ended.out)]
    shown = zoo("ls")
    assert shown.code == 0
    assert all(name in shown.out for name in names)
    assert not names or re.match(r"NAME +DATA +NEURON .* TOP-1", shown.out)


def test_convert_shows_each_layer_the_path_and_what_comes_next(
    zoo: Zoo, made: Material, tmp_path: Path
) -> None:
    ended = zoo(
        "convert", made.checkpoint, "--calib", made.images, "--out", tmp_path / "a b", *QUICK
    )
    assert ended.code == 0
    assert re.search(r"^layer +firing rate +error", ended.out)
    layers = re.findall(r"^(conv1|layer\d\.\d\.conv\d) +(\d\.\d{4}) +(\d+\.\d{4})", ended.out, re.M)
    assert len(layers) == 19
    assert f"wrote {tmp_path}/a b\n" in ended.out
    assert f"calibrating on {made.images}: " in ended.err
    assert f"next: zoo eval '{tmp_path}/a b' --data {made.images}\n" in ended.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b"]
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_convert_json(zoo: Zoo, made: Material, tmp_path: Path) -> None:
    words = (
        "--out",
        tmp_path / "net",
        "--json",
        "--license",
        "MIT",
        "--url",
        "https://example.org/net.pth",
    )
    ended = zoo("convert", made.checkpoint, "--calib", made.images, *words, *QUICK)
    assert ended.code == 0
    said = json.loads(ended.out)
    assert said["path"] == str(tmp_path / "net")
    assert len(said["layers"]) == 19 and said["layers"][0].keys() >= {
        "name",
        "error",
        "firing_rate",
    }
    assert 0 <= said["agreement"] <= 1
    assert said["config"] == json.loads((tmp_path / "net/config.json").read_text())
    assert said["config"]["source"]["license"] == "MIT"
    assert said["config"]["method"]["parameters"]["steps"] == 1


def test_convert_quietly(zoo: Zoo, made: Material, tmp_path: Path) -> None:
    ended = zoo(
        "convert", made.checkpoint, "--calib", made.images, "--out", tmp_path / "net", *QUICK, "-q"
    )
    # Its weights are random, which is worth a warning; notes are what -q silences.
    assert ended.code == 0 and ended.err.count("\n") == 1
    assert ended.err.startswith("warning: the ANN itself is right on only ")


def test_a_quiet_run_does_not_make_the_next_one_quiet(made: Material, tmp_path: Path) -> None:
    # CliRunner goes past `main`, as a program that mounts the app in its own does.
    words = ["convert", made.checkpoint, "--calib", made.images, *QUICK]
    assert main([*map(str, words), "--out", str(tmp_path / "a"), "-q"]) == 0
    following = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "b")])
    assert following.exit_code == 0 and "next: zoo eval" in following.stderr


@pytest.mark.parametrize(
    "words",
    [
        "--method calibrated",
        "--method calibrated --numerics float32",
        "--method calibrated --neuron signed",
        "--method calibrated --schedule layerwise",
        "--method calibrated --parameter thresholds=percentile",
        "--method hu2018 --neuron signed --shortcut A --seed 3",
    ],
)
def test_what_convert_writes_is_verified_and_measured(
    zoo: Zoo, made: Material, tmp_path: Path, words: str
) -> None:
    out = tmp_path / "net"
    few = ["rows=4"] if "calibrated" in words else ["steps=1"]
    plain = [word for word in QUICK if word not in ("--parameter", "steps=1")]
    given = ("--calib", made.images, "--out", out, *plain, *words.split(), "--parameter", *few)
    assert zoo("convert", made.checkpoint, *given).code == 0
    ended = zoo("verify", out, "--deep")
    assert ended.code == 0, ended.out
    ended = zoo("eval", out, "--data", made.images, "--timesteps", "2,4", "--json")
    assert ended.code == 0, ended.err
    said = json.loads(ended.out)
    assert [row["timesteps"] for row in said["rows"]] == [2, 4]
    assert all(
        f" {said[key]}" in f" {words} if causal int8"
        for key in ("method", "neuron", "schedule", "numerics")
    )


@pytest.mark.parametrize("percentile", [0.999, 0.5])
def test_convert_warns_of_a_bad_conversion(
    zoo: Zoo, made: Material, tmp_path: Path, percentile: float
) -> None:
    # One timestep is far too coarse; half of all activations are 0, so the median makes thresholds
    # of nothing.
    words = ("--timesteps", "1", "--parameter", f"percentile={percentile}", "-q")
    ended = zoo(
        "convert",
        made.checkpoint,
        "--calib",
        made.images,
        "--out",
        tmp_path / "net",
        *QUICK,
        *words,
    )
    assert ended.code == 0
    assert re.search(
        r"^warning: \d+ of 19 layers do no better than silence, .*: conv1|layer", ended.err, re.M
    )


def test_force_replaces_an_artifact_and_nothing_else(
    zoo: Zoo, made: Material, artifact: Path, tmp_path: Path
) -> None:
    words = ("convert", made.checkpoint, "--calib", made.images, *QUICK, "-q", "--out")
    assert "--force" in zoo(*words, artifact).failed(2)
    (artifact / "eval.json").write_text("{}")
    assert zoo(*words, artifact, "--force").code == 0
    assert not (artifact / "eval.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    assert "would delete" in zoo(*words, tmp_path / "mine", "--force").failed(2)
    assert (tmp_path / "mine/thesis.tex").exists()
    assert "would delete" in zoo(*words, tmp_path / "mine/thesis.tex", "--force").failed(2)


def test_eval_prints_a_table_a_chart_and_each_layer(zoo: Zoo, made: Material) -> None:
    ended = zoo("eval", made.artifact, "--data", made.images, "--timesteps", "4,1,2,2")
    assert ended.code == 0
    assert re.findall(r"^(\d+) +\d+\.\d\d +\d", ended.out, re.M) == ["1", "2", "4"]
    assert "100 │" in ended.out and "ANN" in ended.out
    assert len(re.findall(r"^(?:conv1|layer\S+) +\d+ +\d\.\d{4}", ended.out, re.M)) == 19
    assert "images/s at T = 4" in ended.out
    assert "peak memory" in ended.out
    assert "energy modelled at 45 nm" in ended.out
    assert f"measuring on {made.images}: " in ended.err


def test_eval_compares_with_the_ann(
    zoo: Zoo, made: Material, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("eval", made.artifact, "--data", made.images, "--timesteps", "4", "--no-layers")
    assert (
        json.loads(zoo(*words, "--json").out)["ann"]["source"] == "net.pth"
    )  # found where convert read it
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    ended = zoo(*words)
    assert ended.code == 0
    assert "conv1" not in ended.out
    assert "--ann FILE" in ended.err
    assert (
        json.loads(zoo(*words, "--ann", made.checkpoint, "--json").out)["ann"]["source"]
        == "net.pth"
    )


def test_eval_json_output_and_plot(zoo: Zoo, made: Material, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra plots)")
    output, plot = tmp_path / "eval.json", tmp_path / "eval.png"
    output.write_text("an older one")
    words = ("--timesteps", "1,4", "--limit", "20", "--output", output, "--plot", plot, "--json")
    ended = zoo("eval", made.artifact, "--data", made.images, *words)
    assert ended.code == 0
    said = json.loads(ended.out)
    assert [row["timesteps"] for row in said["rows"]] == [1, 4]
    assert said["data"]["images"] == 20
    assert said["command"].startswith(f"zoo eval {made.artifact} --data ")
    assert json.loads(output.read_text()) == said
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.json", "eval.png"]


def test_eval_fails_under_the_bound_after_printing(zoo: Zoo, made: Material) -> None:
    words = (
        "eval",
        made.artifact,
        "--data",
        made.images,
        "--timesteps",
        "4",
        "--no-layers",
        "-q",
        "--min-accuracy",
    )
    ended = zoo(*words, "100")
    assert ended.code == 7
    assert "energy modelled at 45 nm" in ended.out
    assert re.fullmatch(
        r"error: accuracy at T = 4 is \d+\.\d\d %, under --min-accuracy 100: .*\n", ended.err
    )
    assert zoo(*words, "0").code == 0
    assert zoo(*words, "nan").code in (2, 7)


def test_eval_says_how_to_give_images(zoo: Zoo, made: Material) -> None:
    assert "pass --data PATH" in zoo("eval", made.artifact).failed(2)


def test_show(zoo: Zoo, artifact: Path) -> None:
    ended = zoo("show", artifact)
    assert ended.code == 0
    headings = re.findall(r"^([A-Z]\w+)$", ended.out, re.M)
    assert headings == ["Network", "Conversion", "Accuracy", "Files"]
    assert "resnet20, shortcut A, 10 classes" in ended.out
    assert "zoo eval measures it" in ended.out
    raw = json.loads((artifact / "config.json").read_text())
    assert json.loads(zoo("show", artifact, "--config").out) == raw
    said = json.loads(zoo("info", artifact, "--json").out)
    assert (said["name"], said["config"], said["evaluation"]) == ("net", raw, None)


def test_show_the_accuracy_that_was_measured(zoo: Zoo, made: Material, artifact: Path) -> None:
    words = (
        "--data",
        made.images,
        "--timesteps",
        "1,4",
        "--json",
        "--output",
        artifact / "eval.json",
    )
    row = json.loads(zoo("eval", artifact, *words).out)["rows"][1]
    assert f"T = 4         {row['top1']:.2f} %" in zoo("show", artifact).out


def test_text_from_a_file_cannot_drive_the_terminal(zoo: Zoo, artifact: Path) -> None:
    config = json.loads((artifact / "config.json").read_text())
    config["source"]["license"] = "MIT\x1b]0;owned\x07[red]"
    (artifact / "config.json").write_text(json.dumps(config))
    ended = zoo("show", artifact)
    assert ended.code == 0
    assert "MIT?]0;owned?[red]" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_verify(zoo: Zoo, made: Material, deep: list[str]) -> None:
    ended = zoo("verify", made.artifact, *deep)
    assert ended.code == 0
    names = re.findall(r"^ok +(\S+)  ", ended.out, re.M)
    assert names == ["config.json", "model.safetensors", *(["spikes"] if deep else [])]
    said = json.loads(zoo("verify", made.artifact, *deep, "--json").out)
    assert said["ok"] is True
    assert [check["name"] for check in said["checks"]] == names


def test_a_name_that_does_not_exist(zoo: Zoo) -> None:
    for name in ("eval", "show", "verify"):
        assert "no-such-model" in zoo(name, "no-such-model").failed(3)


def test_card_is_printed_written_and_checked(zoo: Zoo, tmp_path: Path) -> None:
    printed = zoo("card", "s-resnet20-digits")
    assert printed.code == 0 and printed.out.startswith("---\n")
    file = tmp_path / "README.md"
    assert zoo("card", "s-resnet20-digits", "--output", file).out == ""
    assert file.read_text(encoding="utf-8") == printed.out
    assert zoo("card", "s-resnet20-digits", "--check", file).code == 0
    file.write_text(printed.out.replace("98.89", "98.90"))
    assert "is not the card of s-resnet20-digits" in zoo(
        "card", "s-resnet20-digits", "--check", file
    ).failed(7)
    assert json.loads(zoo("card", "s-resnet20-digits", "--json").out)["card"] == printed.out


def test_a_model_that_was_not_measured_has_no_card(zoo: Zoo, made: Material) -> None:
    assert "eval.json is missing: run zoo eval" in zoo("card", made.artifact).failed(3)


def test_convert_says_which_layers_have_which_neurons(zoo, made, tmp_path):
    words = ("convert", made.checkpoint, "--calib", made.images, "--arch", "resnet20")
    words += ("--input-size", "8", "--mean", "0.5", "--std", "0.3", "--timesteps", "4")
    words += ("--samples", "16", "--parameter", "rows=4", "-q", "--out")
    ended = zoo(*words, tmp_path / "net", "--neuron", "mixed", "--budget", "1.5")
    assert ended.code == 0 and "binary in " in ended.out and "-bit graded in " in ended.out
    shown = zoo("show", tmp_path / "net").out
    assert "mixed, causal, binary in " in shown
    said = next(line for line in ended.out.splitlines() if line.startswith("binary in "))
    assert f"mixed, causal, {said}" in shown
    refused = zoo(*words, tmp_path / "other", "--budget", "2").failed(2)
    assert "--budget gives layers more bits a spike, which --neuron mixed" in refused
