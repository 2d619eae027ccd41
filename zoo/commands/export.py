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
    "export",
    epilog=epilog(
        "zoo export s-resnet20-digits --format nir --out s-resnet20-digits.nir",
        "zoo export s-resnet20-digits --format golden --limit 2 --out vectors.npz",
    ),
)
def export_command(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File to write: .nir, or .npz if golden."),
    ],
    format: Annotated[
        Literal["nir", "golden"],
        typer.Option(
            help="File format; nir is the neuromorphic intermediate representation (HDF5), golden "
            "test vectors for hardware: images, and each layer's spikes and potentials (numpy)."
        ),
    ] = "nir",
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Images of golden.  [default: the model's own]"),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Number of images of golden, drawn with seed 0."),
    ] = 4,
    timesteps: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Timesteps of golden.  [default: the model's]"),
    ] = None,
) -> None:
    """Write a model in a form that other frameworks, or a test bench, read.

    nir takes causal int8 networks of the CIFAR form with `if` neurons. The file's metadata says
    what the format cannot: the reset subtracts the threshold, and biases that differ by timestep
    come from extra input channels. golden takes causal networks; examples/golden_vectors.py reads
    it.
    """
    suffix = {"golden": ".npz"}.get(format, f".{format}")
    arguments.check_writable("--out", out, suffix=suffix)
    if format == "golden":
        from zoo.commands.record import record_command

        record_command(
            model,
            out,
            data=data,
            split="test",
            labels="auto",
            limit=limit,
            timesteps=timesteps,
            layers=None,
            what="spikes,potential",
            device="cpu",
            backend="torch",
            json_output=False,
        )
        return
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
