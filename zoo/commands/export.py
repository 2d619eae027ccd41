"""`zoo export`: write a model for other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Model, epilog, terminal
from zoo.commands.terminal import print_lines
from zoo.text import human_bytes

app = typer.Typer()


@app.command(
    "export", epilog=epilog("zoo export s-resnet20-digits --format nir --out s-resnet20-digits.nir")
)
def export_command(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write; it ends in .nir.")],
    format: Annotated[
        Literal["nir"],
        typer.Option(
            help="File format; nir is the neuromorphic intermediate representation (HDF5)."
        ),
    ] = "nir",
) -> None:
    """Write a model in a form that other frameworks read.

    Takes causal int8 networks of the CIFAR form with `if` neurons. The file's metadata says what
    the format cannot: the reset subtracts the threshold, and biases that differ by timestep come
    from extra input channels.
    """
    arguments.check_writable("--out", out, suffix=f".{format}")
    from zoo.exchange import nir as exchange
    from zoo.models import registry

    graph = exchange.export_nir(registry.resolve(model), out)
    print_lines(
        terminal.out,
        [
            f"{out}  {human_bytes(out.stat().st_size)}  {len(graph.nodes)} nodes, "
            f"{len(graph.edges)} edges"
        ],
    )
    from zoo.artifact.config import MAX_TIMESTEPS

    exact = graph.metadata["exact_timesteps_in_float32"]
    if exact < MAX_TIMESTEPS:
        terminal.note(
            f"in float32 its potentials are exact up to {exact} timesteps, whatever the image"
        )
