"""`zoo site`: write a gallery of static pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.common import Json, epilog, terminal
from zoo.commands.terminal import write_json

app = typer.Typer()


@app.command(
    "site",
    epilog=epilog(
        "zoo site --out gallery", "zoo site --out gallery --force s-resnet20-digits ./s-resnet20"
    ),
)
def site_command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the gallery to.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Models to show: names of `zoo list`, or artifact folders.  [default: all]",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the gallery at --out.")] = False,
    json_output: Json = False,
) -> None:
    """Write a gallery of the models as static pages.

    It has a table, charts and a page for each model, from its eval.json. The pages load nothing
    from any network: open OUT/index.html.
    """
    from zoo.render import site as gallery

    with terminal.progress(json_output=json_output) as progress:
        files = gallery.build_site(out, models or [], force=force, progress=progress)
    if json_output:
        write_json({"path": str(out), "index": str(out / "index.html"), "files": files})
    else:
        terminal.note(f"wrote {out}")
        terminal.out.print(str(out / "index.html"), soft_wrap=True)
