"""`zoo`: put the commands together, and end every run with one line and an exit code.

The commands are in `zoo/commands`. Exit codes are those of `zoo.errors`, 2 for usage and 130 after
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from zoo.commands import (
    cache,
    card,
    convert,
    doctor,
    evaluate,
    export,
    hub,
    models,
    record,
    share,
    site,
    train,
    tune,
    verify,
)
from zoo.commands.common import terminal
from zoo.errors import ZooError

_ANYWHERE = ("-q", "--quiet", "--no-color")

app = typer.Typer(
    name="zoo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A zoo of spiking ResNets: convert a trained network, measure it, verify it, share it.",
    epilog="Example:\n\n\b\n  zoo list\n  zoo eval s-resnet20-digits --timesteps 1,2,4,8\n\n"
    "-q and --no-color may stand anywhere. Exit codes: 0 done, 1 failure, 2 usage, 3 not found, "
    "4 network, 5 integrity, 6 access, 7 a bound was missed, 130 Ctrl-C.",
)
for group in (
    models,
    card,
    site,
    evaluate,
    record,
    verify,
    convert,
    train,
    tune,
    hub,
    doctor,
    share,
    export,
):
    app.add_typer(group.app)
app.add_typer(cache.app, name="cache")


def _version(requested: bool) -> None:
    if not requested:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"zoo {version('spiking-zoo')}")
    except PackageNotFoundError:
        print("zoo, run from its sources without an install")
    raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print no notes and no progress on stderr.")
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="Print no color (as the variable NO_COLOR).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Set how much is printed; `main` moves these here from anywhere on the command line."""
    # A run without `main` (typer's CliRunner) would otherwise be as quiet as the one before it.
    terminal.quiet, terminal.no_color = quiet, no_color


def main(given: Sequence[str] | None = None) -> int:
    """Run `zoo` and return its exit code; nothing escapes but what ZOO_DEBUG=1 lets through."""
    words = list(sys.argv[1:] if given is None else given)
    end = words.index("--") if "--" in words else len(words)
    moved = [word for word in words[:end] if word in _ANYWHERE]
    words = [*moved, *(word for word in words[:end] if word not in _ANYWHERE), *words[end:]]
    terminal.command = shlex.join(["zoo", *words])
    terminal.quiet, terminal.no_color = bool({"-q", "--quiet"} & set(moved)), "--no-color" in moved
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal without Unicode shows ?, it does not end the run.
        sys.stdout.reconfigure(errors="replace")
    try:
        with warnings.catch_warnings():
            if os.environ.get("ZOO_DEBUG") != "1":
                warnings.simplefilter("ignore")  # what libraries tell programmers
            code = app(words, prog_name="zoo", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as stop:  # rich and typer leave this way when the reader of a pipe has gone
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = _drop_stdout(1)
    except Exception as error:
        # Python 3.11 wraps what is raised while a class is made, Ctrl-C during an import too.
        code = 130 if isinstance(error.__cause__, KeyboardInterrupt) else _explain(error)
    if code == 130:
        terminal.say("", "interrupted")
    return code if isinstance(code, int) else 0


def _drop_stdout(code: int) -> int:
    """Redirect stdout to nowhere, so that Python does not complain about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _explain(error: Exception) -> int:
    """Print one line on stderr for whatever went wrong, and return the exit code."""
    if isinstance(error, ZooError):
        terminal.say("error", error, "red")
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's own: a missing argument, an unknown option
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            path = getattr(getattr(error, "ctx", None), "command_path", "zoo")
            terminal.say("error", f"{error.format_message().rstrip('.')}: see {path} --help", "red")
        return 2
    if os.environ.get("ZOO_DEBUG") == "1":
        raise error
    if (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate memory" in str(error)
    ):
        terminal.say("error", "out of memory: lower --batch-size, --samples or --timesteps", "red")
    elif isinstance(error, OSError):
        terminal.say("error", f"{error.filename or 'stdout'}: {error.strerror or error}", "red")
        _drop_stdout(1)
    else:
        terminal.say(
            "bug",
            f"{type(error).__name__}: {error}: please report it with what ZOO_DEBUG=1 shows",
            "red",
        )
    return 1
