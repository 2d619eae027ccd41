"""`zoo convert` and `zoo train`: networks out of images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo import arguments
from zoo.commands.common import Json, epilog, terminal
from zoo.errors import UsageError
from zoo.terminal import print_lines, replaced_file, write_json

if TYPE_CHECKING:
    from zoo.convert import Conversion

_SILENT = 0.999  # a layer that never fires has an error of 1, but for rounding

app = typer.Typer()


@app.command(epilog=epilog(
    "zoo convert resnet20.th --arch resnet20 --calib cifar-10-python.tar.gz --out s-resnet20",
    "zoo convert timm/resnet50.tv_in1k --calib imagenet/train --out s-resnet50",
    "zoo convert torchvision:resnet18 --calib imagenet/train --method hu2018 --out s-resnet18",
    "zoo convert resnet56.th --arch resnet56 --method data-free --out s-resnet56",
))  # fmt: skip
def convert(
    source: Annotated[str, typer.Argument(
        metavar="SRC", help="The trained ANN: a .pth, .pt, .th or .safetensors file, timm/NAME of a hub (or such a folder), "
        "torchvision:NAME.",
    )],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    calib: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Training images to calibrate on; data-free needs none.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a file: resnet20, resnet18 and so on.  [default: what SRC says]")
    ] = None,
    method: Annotated[
        Literal["calibrated", "hu2018", "data-free"],
        typer.Option(help="How it is converted; data-free: on images made from its BatchNorm statistics."),
    ] = "calibrated",
    neuron: Annotated[
        Literal["if", "signed", "multi-level"],
        typer.Option(help="signed may take spikes back; multi-level has graded spikes of 4 bits, for T = 1 to 8."),
    ] = "if",
    schedule: Annotated[
        Literal["causal", "layerwise"], typer.Option(help="layerwise: a layer starts when the one before is done.")
    ] = "causal",
    timesteps: Annotated[str, typer.Option(metavar="T", help="The number it is meant for.")] = "32",
    numerics: Annotated[Literal["int8", "float32"], typer.Option(help="What it computes in.")] = "int8",
    samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Calibration images to draw.  [default: the method's own]")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="What draws them.")] = 0,
    shortcut: Annotated[
        Literal["A", "B"] | None, typer.Option(help="Of the CIFAR form.  [default: what the file has]")
    ] = None,
    stride_in: Annotated[
        Literal["3x3", "1x1"], typer.Option(help="Where a bottleneck has its stride; 1x1 in the first ResNets (v1).")
    ] = "3x3",
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Of its training, pixels 0 to 1. [default: SRC's, or ImageNet's]")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Likewise.  [default: SRC's, or ImageNet's]")] = None,
    input_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=4096, help="Side of the input.  [default: SRC's; 32 or 224]")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=8192, help="Shorter side, before the input is cut out.")
    ] = None,
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None, typer.Option(help="Of that.  [default: SRC's, or bilinear]")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the method; repeatable.")
    ] = None,
    license: Annotated[str | None, typer.Option(metavar="TEXT", help="The ANN's, for the record.")] = None,
    url: Annotated[str | None, typer.Option(metavar="TEXT", help="Where the ANN came from, for the record.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the artifact at --out.")] = False,
    json_output: Json = False,
) -> None:  # fmt: skip
    """Turn a trained ResNet into a spiking one.

    Prints each layer's firing rate and error, so that a bad conversion shows at once.
    """
    steps = arguments.timesteps(timesteps)
    if len(steps) > 1:
        raise UsageError(f"--timesteps {timesteps!r}: a conversion is for one number; zoo eval measures several")
    means, stds = arguments.per_channel("--mean", mean), arguments.per_channel("--std", std)
    settings = arguments.parameters(parameter or [])
    arguments.check_text("--license", license)
    arguments.check_text("--url", url)
    arguments.check_calibration(method, calib is not None)
    arguments.check_replaceable(out, force)

    from zoo import convert as conversion
    from zoo import report
    from zoo.data import open_images
    from zoo.registry import default_data
    from zoo.sources import read_source

    with terminal.progress(json_output=json_output) as progress:
        checkpoint = read_source(source, arch, shortcut=shortcut, stride_in=stride_in, progress=progress)
    if license is None and checkpoint.origin.license is not None:
        terminal.note(f"{checkpoint.name}: licence {checkpoint.origin.license}")
    images = None if calib is None else open_images(calib, "train")
    if images is not None:
        terminal.note(f"calibrating on {calib}: {images.description}")
    with terminal.progress(json_output=json_output) as progress:
        result = conversion.convert(
            checkpoint, images, method=method, neuron=neuron, schedule=schedule, numerics=numerics, timesteps=steps[0],
            samples=samples, seed=seed, mean=means, std=stds, input_size=input_size, resize=resize,
            interpolation=interpolation, license=license, url=url, parameters=settings, progress=progress,
        )  # fmt: skip
        config = result.save(out, force=force)
    if json_output:
        write_json({"path": str(out), **result.summary(), "config": config.model_dump(mode="json")})
    else:
        report.layer_errors(terminal.out, result.layers)
        share = f"predicts what the ANN predicts on {result.agreement:.1%} of the calibration images at T = {steps[0]}"
        print_lines(terminal.out, ["", share, f"wrote {out}"])
    _warn_of_bad(result)
    data = default_data(config)
    following = ["zoo", "eval", str(out), *([] if data else ["--data", str(calib or "IMAGES")])]
    terminal.note(f"next: {shlex.join(following)}")


def _warn_of_bad(result: Conversion) -> None:
    if not result.agreement >= 0.5:
        terminal.warn(
            f"it predicts what the ANN predicts on only {result.agreement:.1%} of the calibration images: check "
            "--mean, --std, --input-size and --calib, or raise --timesteps"
        )
    bad = [layer.name for layer in result.layers if not layer.error < _SILENT]
    if bad:
        named = ", ".join(bad[:4]) + (", ..." if len(bad) > 4 else "")
        terminal.warn(f"{len(bad)} of {len(result.layers)} layers do no better than silence, an error near 1: {named}")


@app.command(epilog=epilog(
    "zoo train resnet20 --dataset cifar10 --out runs/resnet20 --plot resnet20.png",
    "zoo train resnet20 --dataset cifar10 --out runs/resnet20 --resume",
    "zoo train resnet20 --dataset cifar-10-python.tar.gz --levels 8 --start runs/resnet20/resnet20.safetensors "
    "--epochs 20 --rate 0.05 --out runs/resnet20-levels",
    "zoo train resnet32 --dataset cifar10 --levels 8 --start s-resnet20 --out runs/resnet32",
))  # fmt: skip
def train(
    arch: Annotated[str, typer.Argument(metavar="ARCH", help="resnet20, resnet32, resnet18 and so on.")],
    dataset: Annotated[str, typer.Option(metavar="NAME|PATH", help="cifar10, cifar100, digits, or labelled images.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Times through the training images.")] = 60,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images a step.")] = 128,
    rate: Annotated[float, typer.Option(metavar="X", min=1e-9, help="Highest learning rate.")] = 0.2,
    levels: Annotated[
        int, typer.Option(metavar="L", min=0, max=255, help="Train with L-level activations; 0: plain ReLU.")
    ] = 0,
    start: Annotated[
        str | None,
        typer.Option(metavar="FILE|MODEL", help="Begin from what zoo train wrote, or a converted model, also a shallower one."),
    ] = None,
    shortcut: Annotated[Literal["A", "B"] | None, typer.Option(help="Of the CIFAR form.  [default: A]")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of weights, order and augmentation.")] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "float32"], typer.Option(help="auto: bf16 where the processor has it.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw loss and accuracy by epoch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    json_output: Json = False,
) -> None:  # fmt: skip
    """Train a ResNet that converts well.

    Writes OUT/ARCH.safetensors, the log and what --resume needs, every two minutes and on Ctrl-C.
    """
    arguments.check_writable("--plot", plot, suffix=".png")
    from zoo import chart, training

    if plot is not None:
        chart.require_matplotlib()
    with terminal.progress(json_output=json_output) as progress:
        found = training.train(
            arch, dataset, out, epochs=epochs, batch_size=batch_size, rate=rate, levels=levels, start=start,
            shortcut=shortcut, seed=seed, precision=precision, device=arguments.pick_device(device), resume=resume,
            progress=progress, talk=terminal.note,
        )  # fmt: skip
    if plot is not None:
        with replaced_file(plot) as temporary:
            chart.training_png(temporary, found["log"], top1=found["top1"], title=f"{arch} on {dataset}")
        terminal.note(f"wrote {plot}")
    if json_output:
        write_json(found)
    else:
        terminal.note(f"wrote {found['file']}")
        print_lines(
            terminal.out,
            [f"{found['arch']}: {found['top1']:.2f} % of {found['test_images']} test images after {found['epochs']} epochs"],
        )
