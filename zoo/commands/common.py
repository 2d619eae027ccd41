"""What the commands share: options that mean the same everywhere, examples, and how they talk."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.terminal import Terminal

terminal = Terminal()


def epilog(*examples: str) -> str:
    """The examples at the end of a command's help."""
    return "Example:\n\n\b\n" + "\n".join(f"  {example}" for example in examples)


def _names(incomplete: str) -> list[str]:
    from zoo.registry import shipped

    return [entry.name for entry in shipped() if entry.name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `zoo list`, or an artifact folder.", autocompletion=_names)
]
