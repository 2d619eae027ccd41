"""`zoo verify`: check an artifact's files and spikes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands.common import Json, Model, epilog, find_model, terminal
from zoo.commands.terminal import write_json
from zoo.distributed import pick_device
from zoo.errors import IntegrityError, NotFoundError
from zoo.text import printable

app = typer.Typer()


@app.command(
    "verify", epilog=epilog("zoo verify s-resnet20-digits --deep", "zoo verify ./s-resnet20 --json")
)
def verify_command(
    model: Model,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Run the model too, and compare the checksum of its spikes."),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Device to run on with --deep; spikes are the same on each."),
    ] = "cpu",
    backend: Annotated[
        Literal["auto", "triton", "torch", "interpret"],
        typer.Option(help="Implementation to run with --deep."),
    ] = "auto",
    json_output: Json = False,
) -> None:
    """Check an artifact's files; exit 5 if one is bad."""
    from zoo.models import registry

    try:
        folder = find_model(model, json_output=json_output)
    except NotFoundError:
        if not Path(model).is_dir():
            raise
        folder = Path(model)
    where = pick_device(device, backend)
    checks = registry.verify_model(folder, deep=deep, device=where, backend=backend)
    failed = [check for check in checks if not check.ok]
    if json_output:
        write_json(
            {"path": str(folder), "ok": not failed, "checks": [vars(check) for check in checks]}
        )
    else:
        for check in checks:
            terminal.out.print(
                f"{'ok' if check.ok else 'FAILED':<8}{check.name:<20}{printable(check.detail)}",
                style="" if check.ok else "red",
                soft_wrap=True,
            )
    if failed:
        raise IntegrityError(f"{folder} failed at {failed[0].name}: fetch or convert it again")
