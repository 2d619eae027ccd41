"""`zoo tune`: train a model for few timesteps, through time, and round it back to int8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Json, Model, epilog, terminal
from zoo.commands.terminal import print_lines, write_json
from zoo.distributed import pick_device

app = typer.Typer()


@app.command(
    "tune",
    epilog=epilog(
        "zoo tune s-resnet20 --timesteps 4 --data cifar10 --out ./s-resnet20-t4",
        "zoo tune s-resnet20 --timesteps 4 --data cifar10 --out ./s-resnet20-t4 --resume",
        "zoo tune s-resnet20 --timesteps 2 --data cifar10 --teacher resnet20.safetensors --out "
        "./s-resnet20-t2",
        "zoo eval ./s-resnet20-t4 --data cifar10 --timesteps 1,2,4,8",
    ),
)
def tune_command(
    model: Model,
    timesteps: Annotated[
        int, typer.Option(metavar="T", min=1, help="Timesteps that it is trained for.")
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME|PATH",
            help="Images: cifar10, cifar100, digits, or a path. Training images are trained on.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the artifact to.")],
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL|ANN",
            help="ANN, or a model that holds one, to learn from beside the labels.",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Passes over the training images.")
    ] = 2,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images in each optimizer step.")
    ] = 100,
    rate: Annotated[float, typer.Option(metavar="X", min=1e-9, help="Peak learning rate.")] = 2e-3,
    surrogate: Annotated[
        Literal["rectangular", "arctan", "sigmoid"],
        typer.Option(help="Surrogate gradient of a spike."),
    ] = "arctan",
    samples: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Training images that it is rounded to int8 on."),
    ] = 256,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Use only so many training and test images."),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed for order and augmentation.")
    ] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "float32"],
        typer.Option(help="Precision of training; auto is bf16 where the processor has it."),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was stopped, from OUT.tuning.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an artifact that is at --out.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Train a spiking model for few timesteps and round it back to int8.

    Gradients pass the spikes by a surrogate and run back through time. The result is an artifact
    like any other. OUT.tuning, what --resume needs, is written every two minutes and on Ctrl-C.
    """
    arguments.check_replaceable(out, force)
    from zoo.training.tune import tune

    with terminal.progress(json_output=json_output) as progress:
        result = tune(
            model,
            data,
            out,
            timesteps=timesteps,
            teacher=teacher,
            epochs=epochs,
            batch_size=batch_size,
            peak_rate=rate,
            surrogate=surrogate,
            samples=samples,
            limit=limit,
            seed=seed,
            precision=precision,
            device=pick_device(device),
            resume=resume,
            force=force,
            progress=progress,
            log=terminal.note,
        )
    if json_output:
        write_json(result)
        return
    terminal.note(f"wrote {result['folder']}")
    lines = [f"{result['folder']}: trained for T={timesteps}; next: zoo eval {out}"]
    if result["test_images"]:
        lines = [
            f"T={timesteps}, {result['test_images']} test images: {result['top1_before']:.2f} % "
            f"before, {result['top1_after']:.2f} % after, {result['top1_rounded']:.2f} % rounded "
            "to int8"
        ]
    print_lines(terminal.out, lines)
