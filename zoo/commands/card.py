"""`zoo card`: render a model's card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands import arguments
from zoo.commands.common import (
    DataLicense,
    DataName,
    DataUrl,
    Json,
    License,
    Model,
    Url,
    epilog,
    find_model,
    terminal,
)
from zoo.commands.terminal import write_json
from zoo.errors import GateError, NotFoundError
from zoo.files import replaced_file

app = typer.Typer()


@app.command(
    "card",
    epilog=epilog(
        "zoo card s-resnet20-digits", "zoo card ./s-resnet20 --output ./s-resnet20/README.md"
    ),
)
def card_command(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write the card to.  [default: stdout]"),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to compare with the card; exit 7 if it differs."),
    ] = None,
    license: License = None,
    url: Url = None,
    data_name: DataName = None,
    data_url: DataUrl = None,
    data_license: DataLicense = None,
    json_output: Json = False,
) -> None:
    """Render a model's card from what zoo eval measured.

    Exits 7 if something is missing that a card must say; all of it is named.
    """
    arguments.check_writable("--output", output)
    arguments.check_statements(license, url, data_name, data_url, data_license)
    from zoo.data.datasets import terms_of
    from zoo.render import card as cards

    stated = cards.Statements(license, url, terms_of(data_name, data_url, data_license))
    text = cards.for_folder(find_model(model, json_output=json_output), stated)
    if check is not None:
        if not check.is_file():
            raise NotFoundError(
                f"{check} does not exist: zoo card {model} --output {check} writes it"
            )
        if check.read_text(encoding="utf-8", errors="replace") != text:
            raise GateError(
                f"{check} is not the card of {model}: zoo card {model} --output {check} writes it"
            )
    if output is not None:
        with replaced_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
        terminal.note(f"wrote {output}")
    if json_output:
        write_json({"model": model, "card": text})
    elif output is None and check is None:
        print(text, end="")
