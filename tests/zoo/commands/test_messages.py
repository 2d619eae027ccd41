"""Messages of the library, in Python words, become what can be typed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.zoo.commands.conftest import Material, Zoo
from zoo.cli import app
from zoo.commands import messages
from zoo.commands.messages import PARAMETERS, in_option_words, option_of
from zoo.errors import IntegrityError
from zoo.evaluation.tally import load_state

ROOT = Path(__file__).resolve().parents[3]


def options() -> dict[str, set[str]]:
    """Return the options of each command."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    }


def library_texts() -> Iterator[tuple[str, str]]:
    """Yield every string of the library that is no docstring, with its file and line."""
    for path in sorted((ROOT / "zoo").rglob("*.py")):
        where = path.relative_to(ROOT).as_posix()
        if where.startswith(("zoo/commands/", "zoo/kernels/", "zoo/cli.py")):
            continue
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docstrings:
                yield f"{where}:{node.lineno}", text


def test_every_parameter_is_an_option_of_some_command() -> None:
    there = options()
    for parameter in PARAMETERS:
        other = messages._OTHERS.get(parameter)
        if isinstance(other, dict):
            assert all(option in there[command] for command, option in other.items())
        else:
            assert any(option_of(parameter, command) in there[command] for command in there)


def test_what_messages_name_can_be_typed() -> None:
    spans = [
        (where, span[1], span[2])
        for where, text in library_texts()
        for span in messages._SPAN.finditer(text)
    ]
    named = [(where, name) for where, name, value in spans if name in PARAMETERS or value]
    assert len(named) > 20
    unknown = [f"{where}: {name}" for where, name in named if name not in PARAMETERS]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize(
    ("text", "command", "expected"),
    [
        ("pass `force=True`", "convert", "pass --force"),
        ('pass `device="cpu"`', "eval", "pass --device cpu"),
        ("choose another `folder`", "convert", "choose another --out"),
        ("give `images`", "eval", "give --data"),
        ("give `images`", "convert", "give --calib"),
        ("give `images`", "verify", "give `images`"),
        ("use `batch_size`, `peak_rate`", "train", "use --batch-size, --rate"),
        ("run `zoo list`, `if` or `x=1`", "eval", "run `zoo list`, `if` or `x=1`"),
    ],
)
def test_parameters_become_options(text: str, command: str, expected: str) -> None:
    assert in_option_words(text, command) == expected


def test_one_message_in_both_words(zoo: Zoo, made: Material, tmp_path: Path) -> None:
    state = tmp_path / "eval.part"
    state.write_text("{}")
    with pytest.raises(IntegrityError, match="`state`") as caught:
        load_state(state, {}, lambda: None)  # type: ignore[arg-type, return-value]
    assert "--resume" not in str(caught.value)
    words = ("eval", made.artifact, "--data", made.images, "--timesteps", "1", "--resume", state)
    assert "--resume" in zoo("-q", *words).failed(5)
