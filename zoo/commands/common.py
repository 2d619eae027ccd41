"""What the commands share: options that mean the same everywhere, examples, and how they talk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.terminal import Terminal

terminal = Terminal()


def epilog(*examples: str) -> str:
    """The examples at the end of a command's help."""
    return "Example:\n\n\b\n" + "\n".join(f"  {example}" for example in examples)


def names(incomplete: str) -> list[str]:
    """The names of the zoo that begin so."""
    from zoo.models.recipes import RECIPES
    from zoo.models.registry import index

    return [name for name in (*index(), *RECIPES) if name.startswith(incomplete)]


def find_model(model: str, *, json_output: bool = False) -> Path:
    """The folder of a MODEL; one that has to be pulled first is, with a bar."""
    from zoo.models import registry

    with terminal.progress(json_output=json_output, of_bytes=True) as progress:
        return registry.resolve(model, progress=progress)


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


Endpoint = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Hub to use instead of HF_ENDPOINT; no token is sent to it."),
]


Offline = Annotated[
    bool, typer.Option("--offline", help="Use the cache only, ask no hub (as HF_HUB_OFFLINE=1).")
]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Name of `zoo list`, artifact folder, or org/name[@revision] of a hub.",
        autocompletion=names,
    ),
]
