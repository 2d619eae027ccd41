"""Check that parameters in messages of the library become what can be typed."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tests.zoo.commands.conftest import Material, Zoo
from zoo.cli import app
from zoo.commands import messages
from zoo.commands.messages import OPTIONS, PARAMETERS, in_option_words
from zoo.errors import IntegrityError
from zoo.evaluation.tally import load_state

ROOT = Path(__file__).resolve().parents[3]


def typed() -> dict[str, set[str]]:
    """Return the options of each command, and its arguments by their metavar."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {
            word
            for parameter in command.params
            for word in (
                parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            )
        }
        for name, command in commands.items()
        if not command.hidden
    }


def joined(node: ast.JoinedStr) -> str:
    """Return an f-string as one text, its values as their source in braces."""
    return "".join(
        str(part.value)
        if isinstance(part, ast.Constant)
        else "{" + ast.unparse(part).strip("f'\"{}") + "}"
        for part in node.values
    )


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
        strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for string in strings for part in string.values}
        yield from ((f"{where}:{string.lineno}", joined(string)) for string in strings)
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and id(node) not in docstrings | parts:
                yield f"{where}:{node.lineno}", text


def test_the_table_is_that_of_the_commands() -> None:
    there = typed()
    for command, options in OPTIONS.items():
        assert set(options.values()) <= there[command], command
    for command, words in there.items():
        known = OPTIONS.get(command, {})
        plain = {name for name in PARAMETERS if "--" + name.replace("_", "-") in words}
        assert plain <= set(known), command


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
        ("does not fit `arch=resnet32`", "train", "does not fit ARCH resnet32"),
        ("choose another `folder`", "pull", "choose another --local-dir"),
        ("choose another `folder`", "serve", "choose another DIR"),
        ("pull it with `force=True`", "eval", "pull it with --force"),
        ("or use `offline=True`", "show", "or use HF_HUB_OFFLINE=1"),
        ("`tag={tag}` is no tag", "publish", "--tag {tag} is no tag"),
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


def test_doctor_prints_options(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's attempts
    problem = json.loads(zoo("doctor", "--json", "--endpoint", "http://127.0.0.1:9").out)["hub"]
    assert "or use --offline" in problem["problem"]
