"""`zoo site`: what the command says and writes, and that the commands on its pages are commands."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path

import typer

from zoo.cli import app

from .conftest import Material, Zoo

DIGITS = "s-resnet20-digits"


def test_site_writes_a_folder_and_says_where_to_look(zoo: Zoo, tmp_path: Path) -> None:
    out = tmp_path / "a b"
    ended = zoo("site", "--out", out)
    assert (ended.code, ended.out) == (0, f"{out}/index.html\n")
    assert "--force" in zoo("site", "--out", out).failed(2)
    ended = zoo("site", "--out", out, "--force", "--json", "-q", DIGITS)
    assert (ended.code, ended.err) == (0, "")
    said = json.loads(ended.out)
    assert said == {
        "path": str(out),
        "index": f"{out}/index.html",
        "files": ["index.html", f"models/{DIGITS}.html", "site.json"],
    }
    assert all((out / name).is_file() for name in said["files"])


def test_site_of_a_model_that_was_not_measured(zoo: Zoo, made: Material, tmp_path: Path) -> None:
    assert "eval.json is missing" in zoo("site", "--out", tmp_path / "site", made.artifact).failed(
        2
    )
    assert "no-such-model" in zoo("site", "--out", tmp_path / "site", "no-such-model").failed(3)
    assert not list(tmp_path.iterdir())


def test_force_deletes_nothing_else(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.html").write_text("years of work")
    assert "not made by zoo site" in zoo("site", "--out", tmp_path / "mine", "--force").failed(2)
    assert (tmp_path / "mine/index.html").read_text() == "years of work"


def test_the_commands_on_a_page_are_commands(zoo: Zoo, tmp_path: Path) -> None:
    assert zoo("site", "--out", tmp_path / "site", DIGITS).code == 0
    page = (tmp_path / f"site/models/{DIGITS}.html").read_text()
    snippets = [
        html.unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code>", page, re.S)
    ]
    commands = [shlex.split(text) for text in snippets if text.startswith("zoo ")]
    assert len(commands) >= 2
    group = typer.main.get_command(app)
    for _, name, *words in commands:
        group.commands[name].make_context(name, words)  # type: ignore[attr-defined]
    python = next(text for text in snippets if text.startswith("import zoo"))
    compile(python, "page", "exec")
    assert f"zoo.load('{DIGITS}')" in python
