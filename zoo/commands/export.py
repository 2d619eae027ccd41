"""`zoo export`: write a model for other frameworks, or for a test bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Model, epilog, terminal
from zoo.commands.terminal import print_lines
from zoo.errors import UsageError
from zoo.text import human_bytes

app = typer.Typer()

# Printed with the file, since an importer that runs it wrong says nothing.
_RUNS = "SpikingJelly 2.0 runs it spike for spike, one timestep a call, with a soft reset:"
_RUN_WRONG = (
    "the importers of sinabs and norse give other spikes and do not say so, what snnTorch's "
    "gives raises: take zoo.exchange.to_sinabs, to_norse, to_snntorch (or to_spikingjelly)"
)


@app.command(
    "export",
    epilog=epilog(
        "zoo export s-resnet20-digits --format nir --out s-resnet20-digits.nir",
        "zoo export s-resnet20-digits --format onnx --timesteps 8 --out s-resnet20-digits.onnx",
        "zoo export s-resnet20-digits --format golden --limit 2 --out vectors.npz",
    ),
)
def export_command(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="File to write: .nir, .onnx, or .npz if golden."),
    ],
    format: Annotated[
        Literal["nir", "onnx", "golden"],
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
        typer.Option(
            metavar="T", min=1, help="Timesteps of onnx and golden.  [default: the model's]"
        ),
    ] = None,
) -> None:
    """Write a model in a form that other frameworks, or a test bench, read.

    nir takes causal int8 networks of the CIFAR form with `if` neurons. The file's metadata says
    what the format cannot: the reset subtracts the threshold, and biases that differ by timestep
    come from extra input channels. Thresholds are folded into float64 weights, so all are 1.
    SpikingJelly 2.0 runs it spike for spike: `net = import_from_nir(FILE, dt=1,
    dtype=torch.float64)`, then `for m in net.modules(): m.v_reset = None`. The importers of sinabs
    and norse give other spikes, what snnTorch's gives raises: take `zoo.exchange.to_sinabs(model)`,
    `to_norse`, `to_snntorch`.

    onnx takes causal int8 networks, from uint8 images [B, C, H, W] to logits [T, B, classes], and
    runs in onnxruntime as it is. golden takes causal networks; examples/golden_vectors.py reads it.
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
    from zoo.artifact.config import MAX_TIMESTEPS
    from zoo.models import registry

    folder = registry.resolve(model)
    if format == "onnx":
        from zoo.artifact.folder import read_artifact
        from zoo.artifact.tensors import network_of
        from zoo.exchange.onnx import export_onnx

        written = export_onnx(network_of(*read_artifact(folder)), out, timesteps)
        said, exact, dtype = f"{written.nodes} nodes", written.exact, "float32"
    else:
        if timesteps is not None:
            raise UsageError("--timesteps is not of nir, whose graph runs for any number: omit it")
        from zoo.exchange.nir import IMPORT_LINES, export_nir

        graph = export_nir(folder, out)
        said = f"{len(graph.nodes)} nodes, {len(graph.edges)} edges"
        exact, dtype = graph.metadata["exact_timesteps_in_float64"], "float64"
        for line in (_RUNS, *IMPORT_LINES, _RUN_WRONG):
            terminal.note(line)
    print_lines(terminal.out, [f"{out}  {human_bytes(out.stat().st_size)}  {said}"])
    if exact < MAX_TIMESTEPS:
        terminal.note(
            f"in {dtype} its spikes are exact up to {exact} timesteps, whatever the image"
        )
