"""`zoo train`: train a ResNet that converts well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Json, epilog, terminal
from zoo.commands.terminal import print_lines, write_json
from zoo.distributed import pick_device
from zoo.files import replaced_file

app = typer.Typer()


@app.command(
    "train",
    epilog=epilog(
        "zoo train resnet20 --dataset cifar10 --out runs/resnet20 --plot resnet20.png",
        "zoo train resnet20 --dataset cifar10 --out runs/resnet20 --resume",
        "zoo train resnet20 --dataset cifar-10-python.tar.gz --levels 8 --start "
        "runs/resnet20/resnet20.safetensors "
        "--epochs 20 --rate 0.05 --out runs/resnet20-levels",
        "zoo train resnet32 --dataset cifar10 --levels 8 --start s-resnet20 --out runs/resnet32",
        "zoo train resnet20 --dataset cifar100 --teacher runs/resnet56/resnet56.safetensors "
        "--cutout 8 --epochs 200 --out runs/resnet20-taught",
    ),
)
def train_command(
    arch: Annotated[
        str,
        typer.Argument(metavar="ARCH", help="Architecture such as resnet20, resnet32 or resnet18."),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME|PATH",
            help="Data set: cifar10, cifar100, digits, or a path to labelled images.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder to write the checkpoint, the log and the state to."
        ),
    ],
    epochs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Passes over the training images.")
    ] = 60,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images in each optimizer step.")
    ] = 128,
    rate: Annotated[float, typer.Option(metavar="X", min=1e-9, help="Peak learning rate.")] = 0.2,
    levels: Annotated[
        int,
        typer.Option(
            metavar="L",
            min=0,
            max=255,
            help="Levels of the activations to train with; 0 is plain ReLU.",
        ),
    ] = 0,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|MODEL",
            help="Checkpoint of zoo train or converted model to begin from; it may be shallower.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|MODEL",
            help="Trained network whose answers are learnt beside the labels: a checkpoint, "
            "akamaster:NAME and the like, or a converted model.",
        ),
    ] = None,
    cutout: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=1024,
            help="Side of the square blanked in each image, in pixels.",
        ),
    ] = 0,
    mixup: Annotated[
        float,
        typer.Option(
            metavar="ALPHA",
            min=0.0,
            max=100.0,
            help="Alpha of mixup, which mixes pairs of images; 0 for none.",
        ),
    ] = 0.0,
    smallest: Annotated[
        int,
        typer.Option(
            metavar="SIDE",
            min=0,
            max=1024,
            help="Side of the images at first, growing over two thirds of the epochs; 0 for whole.",
        ),
    ] = 0,
    shortcut: Annotated[
        Literal["A", "B"] | None,
        typer.Option(help="Shortcut type of a CIFAR ResNet.  [default: A]"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Random seed for weights, order and augmentation."),
    ] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "float32"],
        typer.Option(help="Precision of training; auto is bf16 where the processor has it."),
    ] = "auto",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Let torch.compile make the steps; pays on some machines."),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")
    ] = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Plot of loss and accuracy by epoch to write."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the training in --out.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Train a ResNet that converts well.

    Writes OUT/ARCH.safetensors, the log and what --resume needs, every two minutes and on Ctrl-C.
    """
    arguments.check_writable("--plot", plot, suffix=".png")
    from zoo.render import chart
    from zoo.training import run

    if plot is not None:
        chart.require_matplotlib()
    with terminal.progress(json_output=json_output) as progress:
        result = run.train(
            arch,
            dataset,
            out,
            epochs=epochs,
            batch_size=batch_size,
            peak_rate=rate,
            levels=levels,
            start=start,
            teacher=teacher,
            cutout=cutout,
            mixup=mixup,
            smallest=smallest,
            shortcut=shortcut,
            seed=seed,
            precision=precision,
            compiled=compiled,
            device=pick_device(device),
            resume=resume,
            progress=progress,
            log=terminal.note,
        )
    if plot is not None:
        with replaced_file(plot) as temporary:
            chart.training_png(
                temporary, result["log"], top1=result["top1"], title=f"{arch} on {dataset}"
            )
        terminal.note(f"wrote {plot}")
    if json_output:
        write_json(result)
    else:
        terminal.note(f"wrote {result['file']}")
        print_lines(
            terminal.out,
            [
                f"{result['arch']}: {result['top1']:.2f} % of {result['test_images']} test images "
                f"after {result['epochs']} epochs"
            ],
        )
