"""`zoo convert`: turn a trained ResNet into a spiking one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import Json, epilog, terminal
from zoo.commands.messages import in_option_words
from zoo.commands.terminal import print_lines, write_json
from zoo.data.rule import LabelRule
from zoo.distributed import pick_device
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.conversion.convert import Conversion

_SILENT = 0.999  # a layer that never fires has an error of 1, but for rounding


app = typer.Typer()


@app.command(
    "convert",
    epilog=epilog(
        "zoo convert resnet20.th --arch resnet20 --calib cifar-10-python.tar.gz --out s-resnet20",
        "zoo convert timm/resnet50.tv_in1k --calib imagenet/train --out s-resnet50",
        "zoo convert resnet56.pt --calib cifar100 --neuron mixed --budget 2 --out s-resnet56",
        "zoo convert torchvision:resnet18 --calib imagenet/train --method hu2018 --out s-resnet18",
        "zoo convert resnet56.th --arch resnet56 --method data-free --out s-resnet56",
        "zoo convert akamaster:resnet56 --calib cifar10 --neuron multi-level --out s-resnet56",
    ),
)
def convert_command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="The trained ANN: a .pth, .pt, .th or .safetensors file, timm/NAME of a hub (or "
            "such a folder), torchvision:NAME, akamaster:NAME or chenyaofo:NAME.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the artifact to.")],
    calib: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Training images to calibrate on; data-free takes none."),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="NAME", help="Part of the calibration images.")
    ] = "train",
    labels: Annotated[
        LabelRule,
        typer.Option(help="Way in which labels of the calibration images become the network's."),
    ] = "auto",
    image_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of parquet with the image.  [default: found]"),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of parquet with the label.  [default: found]"),
    ] = None,
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        typer.Option(
            help="Treatment of a calibration image that cannot be decoded; skip draws another and "
            "counts those it leaves out."
        ),
    ] = "stop",
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Architecture such as resnet20.  [default: what SRC says, or its keys]",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="Method of the conversion: calibrated, hu2018 (the paper's), or data-free, which "
            "makes images from BatchNorm statistics.",
        ),
    ] = "calibrated",
    neuron: Annotated[
        Literal["if", "signed", "multi-level", "mixed"],
        typer.Option(
            help="Neuron model; signed may take spikes back, multi-level has graded spikes of 4 "
            "to 6 bits by layer, for T = 1 to 8; mixed has them where they help most for --budget."
        ),
    ] = "if",
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=1,
            help="Synaptic operations to give layers more bits a spike: X times those of binary "
            "spikes (mixed) or of 4 bits everywhere (multi-level).  [default: 2 and 1.25]",
        ),
    ] = None,
    schedule: Annotated[
        Literal["causal", "layerwise"],
        typer.Option(
            help="Order of computation; with layerwise a layer starts when the one before is done."
        ),
    ] = "causal",
    timesteps: Annotated[
        str, typer.Option(metavar="T", help="Timesteps to optimize the conversion for.")
    ] = "32",
    numerics: Annotated[
        Literal["int8", "float32"], typer.Option(help="Number format of weights and potentials.")
    ] = "int8",
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of calibration images to draw.  [default: the method's own]",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Random seed for drawing images.")
    ] = 0,
    shortcut: Annotated[
        Literal["A", "B"] | None,
        typer.Option(help="Shortcut type of a CIFAR ResNet.  [default: the file's]"),
    ] = None,
    stride_in: Annotated[
        Literal["3x3", "1x1"],
        typer.Option(
            help="Convolution of a bottleneck that has its stride; 1x1 in the first ResNets (v1)."
        ),
    ] = "3x3",
    weights: Annotated[
        Literal["ema", "raw"] | None,
        typer.Option(
            help="Network to read from a file that holds one and its moving average.  "
            "[default: ema, where there is one]",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Mean that training subtracted, pixels 0 to 1.  [default: SRC's, or ImageNet's]",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Standard deviation that training divided by.  [default: SRC's, or ImageNet's]",
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=4096,
            help="Side of the input in pixels.  [default: SRC's; 32 or 224]",
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=8192,
            help="Shorter side to resize images to before the input is cut out.  [default: SRC's]",
        ),
    ] = None,
    interpolation: Annotated[
        Literal["bilinear", "bicubic"] | None,
        typer.Option(help="Interpolation of --resize.  [default: SRC's, or bilinear]"),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Parameter of the method; repeatable."),
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="TEXT", help="License of the ANN, for the record.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Address that the ANN came from, for the record."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="Device to convert on; a GPU rounds otherwise than a CPU, so bytes may differ."
        ),
    ] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace the artifact at --out.")] = False,
    json_output: Json = False,
) -> None:
    """Turn a trained ResNet into a spiking one.

    Prints each layer's firing rate and error, so that a bad conversion shows at once.
    """
    steps = arguments.timesteps(timesteps)
    if len(steps) > 1:
        raise UsageError(
            f"--timesteps {timesteps!r}: a conversion is for one number; zoo eval measures several"
        )
    from zoo.conversion.registry import method_named

    means, stds = arguments.per_channel("--mean", mean), arguments.per_channel("--std", std)
    settings = arguments.parameters(parameter or [])
    settings |= {} if budget is None else {"budget": budget}
    arguments.check_text("--license", license)
    arguments.check_text("--url", url)
    method_named(method).check_images(calib is not None)
    arguments.check_replaceable(out, force)

    from zoo.commands import report
    from zoo.conversion import convert as conversion
    from zoo.conversion.inputs import with_network_labels
    from zoo.data.open import open_images
    from zoo.models.registry import default_data
    from zoo.pretrained.sources import read_source
    from zoo.render.facts import neurons_by_layer

    with terminal.progress(json_output=json_output) as progress:
        checkpoint = read_source(
            source,
            arch,
            shortcut=shortcut,
            stride_in=stride_in,
            weights=weights,
            progress=progress,
        )
    for note in checkpoint.notes:
        terminal.note(in_option_words(note, "convert"))
    if license is None and checkpoint.origin.license is not None:
        terminal.note(f"{checkpoint.name}: license {checkpoint.origin.license}")
    images = None
    if calib is not None:
        images = open_images(calib, split, image_column=image_column, label_column=label_column)
        matched = with_network_labels(checkpoint, images, labels).matched or "none"
        for note in images.notes:
            terminal.note(note)
        terminal.note(f"calibrating on {calib}: {images.description}; labels: {matched}")
    with terminal.progress(json_output=json_output) as progress:
        result = conversion.convert(
            checkpoint,
            images,
            method=method,
            neuron=neuron,
            schedule=schedule,
            numerics=numerics,
            timesteps=steps[0],
            samples=samples,
            seed=seed,
            mean=means,
            std=stds,
            input_size=input_size,
            resize=resize,
            interpolation=interpolation,
            license=license,
            url=url,
            parameters=settings,
            labels=labels,
            on_bad_image=on_bad_image,
            device=pick_device(device),
            progress=progress,
        )
        config = result.save(out, force=force)
    if json_output:
        write_json({"path": str(out), **result.summary(), "config": config.model_dump(mode="json")})
    else:
        report.layer_errors(terminal.out, result.layers)
        right = result.ann_accuracy
        ann = [] if right is None else [f"the ANN is right on {right:.1%} of the labelled images"]
        agreement = (
            f"predicts what the ANN predicts on {result.agreement:.1%} of the calibration images "
            f"at T = {steps[0]}"
        )
        layers = [] if config.neurons is None else [neurons_by_layer(config)]
        print_lines(terminal.out, ["", *layers, *ann, agreement, f"wrote {out}"])
    _warn_of_bad(result)
    data = default_data(config)
    following = ["zoo", "eval", str(out), *([] if data else ["--data", str(calib or "IMAGES")])]
    terminal.note(f"next: {shlex.join(following)}")


def _warn_of_bad(result: Conversion) -> None:
    for text in result.assumed:
        terminal.note(in_option_words(text, "convert"))
    for text in result.warnings:
        terminal.warn(in_option_words(text, "convert"))
    if not result.agreement >= 0.5:
        terminal.warn(
            f"it predicts what the ANN predicts on only {result.agreement:.1%} of the calibration "
            "images: check "
            "--mean, --std, --input-size and --calib, or raise --timesteps"
        )
    bad = [layer.name for layer in result.layers if not layer.error < _SILENT]
    if bad:
        named = ", ".join(bad[:4]) + (", ..." if len(bad) > 4 else "")
        terminal.warn(
            f"{len(bad)} of {len(result.layers)} layers do no better than silence, an error near "
            f"1: {named}"
        )
