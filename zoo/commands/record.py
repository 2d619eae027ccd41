"""`zoo record`: write spikes and potentials of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Json, Model, epilog, find_model, terminal
from zoo.commands.terminal import print_lines, write_json
from zoo.data.rule import LabelRule
from zoo.distributed import pick_device
from zoo.errors import UsageError
from zoo.text import human_bytes

app = typer.Typer()


@app.command(
    "record",
    epilog=epilog(
        "zoo record s-resnet20-digits --limit 1 --out spikes.npz",
        "zoo record ./s-resnet20 --data cifar10/ --limit 1000 --layers conv1,layer3.* "
        "--what spikes,potential --out run.npz",
    ),
)
def record_command(
    model: Model,
    out: Annotated[Path, typer.Option(metavar="FILE.npz", help="File to write.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Images to run.  [default: the model's own test images, if at hand]",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Part of the data set, as in zoo eval.")
    ] = "test",
    labels: Annotated[
        LabelRule, typer.Option(help="Way in which labels become the network's, as in zoo eval.")
    ] = "auto",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of images, drawn with seed 0.  [default: all]"
        ),
    ] = None,
    timesteps: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Number of timesteps.  [default: the model's]"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Layers, or patterns such as 'layer1.*'.  [default: all]"
        ),
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help="Kinds: spikes, potential (after the reset of each timestep), or both.",
        ),
    ] = "spikes",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to run on.")
    ] = "auto",
    backend: Annotated[
        Literal["auto", "triton", "torch", "interpret"],
        typer.Option(help="Implementation to run, all with the same spikes and potentials."),
    ] = "auto",
    json_output: Json = False,
) -> None:
    """Record the spikes and potentials of a run in a file of numpy.

    The file holds one array [T, B, C, H, W] for each layer, spikes/LAYER (int8) and potential/LAYER
    (int32), beside images, labels and logits. It is written as the run goes on, so it may be larger
    than memory.
    """
    from zoo.artifact.config import MAX_TIMESTEPS

    arguments.check_writable("--out", out, suffix=".npz")
    if timesteps is not None and timesteps > MAX_TIMESTEPS:
        raise UsageError(f"--timesteps {timesteps} is above {MAX_TIMESTEPS}: use fewer")
    import zoo
    from zoo.data.open import FORMS, open_images
    from zoo.exchange.recording import write_recording
    from zoo.models import registry

    folder = find_model(model, json_output=json_output)
    network = zoo.load(folder, device=pick_device(device, backend), backend=backend)
    assert network.config is not None
    where = data if data is not None else registry.default_data(network.config)
    if where is None:
        raise UsageError(f"{model} comes without images to run: pass --data PATH ({FORMS})")
    images = open_images(where, split)
    images = images.for_classes(network.config.num_classes, network.class_names, labels)
    images = images if limit is None else images.take(limit, seed=0)
    steps = timesteps or network.config.timesteps
    terminal.note(f"recording {steps} timesteps on {where}: {images.description}")
    with terminal.progress(json_output=json_output) as progress:
        written = write_recording(
            network,
            images,
            steps,
            out,
            layers=None if layers is None else layers.split(","),
            what=[kind.strip() for kind in what.split(",")],  # type: ignore[misc]
            about={"model": model, "command": terminal.command},
            progress=progress,
        )
    if json_output:
        write_json({"path": str(out), "size": written.size, "arrays": written.shapes})
        return
    arrays = [f"{name}  {list(shape)}" for name, shape in written.shapes.items()]
    print_lines(
        terminal.out,
        [*arrays, f"{out}  {human_bytes(written.size)} ({human_bytes(written.raw)} in memory)"],
    )
