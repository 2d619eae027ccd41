"""Share between commands the options that mean the same everywhere, examples and the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.terminal import Terminal

terminal = Terminal()


def epilog(*examples: str) -> str:
    """Return the examples at the end of a command's help."""
    return "Example:\n\n\b\n" + "\n".join(f"  {example}" for example in examples)


def names(incomplete: str) -> list[str]:
    """Return the names of the zoo that begin with `incomplete`."""
    from zoo.models.recipes import RECIPES
    from zoo.models.registry import index

    return [name for name in (*index(), *RECIPES) if name.startswith(incomplete)]


def find_model(model: str, *, json_output: bool = False) -> Path:
    """Return the folder of a MODEL, pulled first with a progress bar if it has to be."""
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


# What a card says and an artifact may not: the same options wherever they may be given.
License = Annotated[
    str | None, typer.Option(metavar="TEXT", help="License of the ANN, if the model has none yet.")
]


Url = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Address that the ANN came from, if the model has none yet."),
]


DataName = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Name of the images measured on; imagenet brings its source and license.",
    ),
]


DataUrl = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Address that these images are from.")
]


DataLicense = Annotated[
    str | None, typer.Option(metavar="TEXT", help="License that these images come with.")
]
