"""`zoo eval`: measure a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo.commands import arguments, exits
from zoo.commands.common import (
    DataLicense,
    DataName,
    DataUrl,
    Json,
    Model,
    epilog,
    find_model,
    terminal,
)
from zoo.commands.messages import in_option_words
from zoo.commands.terminal import write_json
from zoo.data.rule import LabelRule
from zoo.distributed import pick_device
from zoo.errors import GateError, UsageError, ZooError
from zoo.files import replaced_file

if TYPE_CHECKING:
    from zoo.artifact.config import Config
    from zoo.artifact.results import Evaluation
    from zoo.data.datasets import Terms
    from zoo.data.images import ImageSet

app = typer.Typer()


@app.command(
    "eval",
    epilog=epilog(
        "zoo eval s-resnet20-digits --timesteps 4,8,16",
        "zoo eval ./s-resnet20 --data cifar-10-python.tar.gz --ann resnet20.th --save",
        "zoo eval ./s-resnet50 --data imagenet/val --data-name imagenet --save --plot eval.png",
        "zoo eval ./s-resnet20 --data cifar10 --exit margin --exit-loss 0.2 --save",
        "torchrun --nproc-per-node 8 -m zoo eval ./s-resnet50 --data imagenet/val --resume "
        "eval.part --output eval.json",
    ),
)
def evaluate_command(
    model: Model,
    timesteps: Annotated[
        str, typer.Option(metavar="T,T,...", help="Numbers of timesteps to measure at.")
    ] = "1,2,4,8,16,32",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Labelled images to measure on.  [default: the model's own, if at hand]",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Part of the data set: test (or val, if only that has labels), train, or another "
            "name that it has.",
        ),
    ] = "test",
    labels: Annotated[
        LabelRule,
        typer.Option(
            help="Way in which labels become the network's; auto: by name, else by number, else by "
            "position, and an error where it could be wrong."
        ),
    ] = "auto",
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        typer.Option(
            help="Treatment of an image that cannot be decoded; skip looks at all of them first "
            "and counts those it leaves out."
        ),
    ] = "stop",
    image_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of parquet with the image.  [default: found]"),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of parquet with the label.  [default: found]"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of images to measure on, drawn with seed 0.  [default: all]",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images in each batch.")
    ] = 100,
    ann: Annotated[
        str | None,
        typer.Option(
            metavar="SRC",
            help="ANN that the model was converted from.  [default: where convert read it]",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to run on.")
    ] = "auto",
    backend: Annotated[
        Literal["auto", "triton", "torch", "interpret"],
        typer.Option(
            help="Implementation to run, all with the same spikes; interpret runs the kernels "
            "without a GPU, slowly."
        ),
    ] = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Plot of accuracy over timesteps to write."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="File to write all measurements to.")
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save",
            help="Keep the measurements where zoo card, publish, list, show and site find them: in "
            "an artifact folder as its eval.json, beside any other model as measured here.",
        ),
    ] = False,
    data_name: DataName = None,
    data_url: DataUrl = None,
    data_license: DataLicense = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="State file: measurements are kept in it, and continued from it if it exists.",
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            min=0,
            max=100,
            help="Exit 7 if the accuracy at the largest T is lower.",
        ),
    ] = None,
    exit: Annotated[
        Literal["margin", "entropy"] | None,
        typer.Option(
            help="Measure early exit instead: stop for an image when the margin of its logits, or "
            "their entropy, says that it is sure. --save stores the rule in the artifact."
        ),
    ] = None,
    exit_loss: Annotated[
        float,
        typer.Option(metavar="POINTS", min=0, help="Accuracy that --exit may lose in calibration."),
    ] = 0.2,
    exit_data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Labelled training images that --exit is calibrated on.  [default: as --data]",
        ),
    ] = None,
    exit_samples: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Number of these images, drawn with seed 0."),
    ] = 2000,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Show the firing rate of each layer.")
    ] = True,
    json_output: Json = False,
) -> None:
    """Measure accuracy over timesteps.

    Also measures the ANN's accuracy, firing rates, synaptic operations, modelled energy, speed and
    memory. Under torchrun its processes share the images; the figures are the same.
    """
    steps = arguments.timesteps(timesteps)
    arguments.check_writable("--plot", plot, suffix=".png")
    arguments.check_writable("--output", output)
    arguments.check_writable("--resume", resume)
    arguments.check_statements(None, None, data_name, data_url, data_license)
    if exit is not None and (plot or output or resume or min_accuracy is not None):
        raise UsageError("--plot, --output, --resume and --min-accuracy are not for --exit")
    from zoo import distributed
    from zoo.artifact.folder import read_config
    from zoo.commands import report
    from zoo.data import datasets
    from zoo.data.open import FORMS, open_images
    from zoo.hub import cache
    from zoo.models import measured, registry
    from zoo.render import chart

    if plot is not None:
        chart.require_matplotlib()
    ranks = distributed.current_ranks()
    terminal.quiet = terminal.quiet or not ranks.first
    folder = find_model(model, json_output=json_output)
    config = read_config(folder)
    where = data if data is not None else registry.default_data(config)
    if where is None:
        raise UsageError(f"{model} comes without images to measure on: pass --data PATH ({FORMS})")
    images = open_images(where, split, image_column=image_column, label_column=label_column)
    images = images.for_classes(config.num_classes, config.class_names, labels)
    whole = datasets.identify(images) if limit is not None and save else None
    stated = datasets.terms_of(data_name or whole, data_url, data_license)
    if limit is not None:
        images = images.take(limit, seed=0)
    for note in images.notes:
        terminal.note(note)
    terminal.note(f"measuring on {where}: {images.description}; labels: {images.matched or 'none'}")
    if exit is not None:
        if ranks.world > 1:
            raise UsageError("--exit runs in one process: leave torchrun out")
        training = open_images(exit_data or where, "train")
        training = training.for_classes(config.num_classes, config.class_names, labels)
        if training.split != "train" and exit_data is None:
            raise UsageError(f"{where} has no training images: pass --exit-data PATH")
        exits.measure_exit(
            folder,
            images,
            training.take(exit_samples, seed=0),
            exit,
            exit_loss,
            steps[-1],
            batch_size=batch_size,
            device=pick_device(device, backend),
            backend=backend,
            save=save,
            json_output=json_output,
        )
        return
    if resume is not None and resume.exists():
        terminal.note(f"going on from {resume}")
    if save and ranks.first:
        _ask(folder, config, images, stated, ann)

    from zoo.evaluation import evaluate as evaluation

    where = pick_device(device, backend)
    if where == "cuda" and backend == "auto":
        note_of_backend()
    with terminal.progress(json_output=json_output) as progress:
        result = evaluation.evaluate(
            folder,
            images,
            steps,
            batch_size=batch_size,
            ann=ann,
            device=where,
            backend=backend,
            on_bad_image=on_bad_image,
            state=resume,
            terms=stated,
            progress=progress,
        )
    if not ranks.first:
        return
    result = result.model_copy(update={"command": terminal.command, "name": cache.name_of(folder)})
    # Files first: a reader who closes the pipe early must not cost them, nor a full disk the
    # measurement.
    failure: ZooError | None = None
    try:
        _write_evaluation(result, output, plot)
        if save:
            own = registry.entry(folder).origin == "folder"
            path = measured.save_measurement(folder, result, own=own)
            terminal.note(f"wrote {path}" + ("" if own else f", as measured here of {model}"))
    except ZooError as error:
        failure = error
    if json_output:
        write_json(result.model_dump(mode="json"))
    else:
        report.evaluation(terminal.out, result, with_layers=layers)
        if result.ann is None:
            terminal.note(
                "no ANN to compare with: pass --ann FILE, the checkpoint it was converted from"
            )
    if failure is not None:
        raise failure
    last = result.rows[-1]
    if min_accuracy is not None and not last.top1 >= min_accuracy:
        raise GateError(
            f"accuracy at T = {last.timesteps} is {last.top1:.2f} %, under --min-accuracy "
            f"{min_accuracy:g}: "
            "raise --timesteps or convert again"
        )


def _ask(folder: Path, config: Config, images: ImageSet, stated: Terms, ann: str | None) -> None:
    """Say before a long run what a card of it would lack: all at once."""
    from zoo.data.datasets import KNOWN, identify
    from zoo.models import registry
    from zoo.pretrained.checkpoint import find_source
    from zoo.render import card

    if registry.entry(folder).origin != "folder":
        return
    if None in vars(stated).values() and (known := identify(images)) is not None:
        stated = KNOWN[known].terms
    has_ann = ann is not None or find_source(config.source.sha256) is not None
    if missing := card.lacks(config, stated, has_ann=has_ann):
        later = "; the rest also later, to zoo card and zoo publish" if has_ann else ""
        said = in_option_words("; ".join(missing), "publish")
        text = f"a card of this would lack {said}: give it now{later}"
        terminal.note(text) if has_ann else terminal.warn(text)


def note_of_backend() -> None:
    """Say why a GPU runs torch operations where it does."""
    import torch

    from zoo.networks.backends import why_not_triton

    reason = why_not_triton(torch.device("cuda"))
    if reason is not None:
        terminal.note(f"the GPU runs torch operations, not the kernels: {reason}")


def _write_evaluation(result: Evaluation, output: Path | None, plot: Path | None) -> None:
    from zoo.models.measured import to_json
    from zoo.render import chart

    if output is not None:
        with replaced_file(output) as temporary:
            temporary.write_text(to_json(result))
        terminal.note(f"wrote {output}")
    if plot is not None:
        curve = chart.Curve(
            f"{result.method}, {result.neuron}, {result.schedule}, {result.numerics}",
            {row.timesteps: row.top1 for row in result.rows},
            {row.timesteps: row.interval95 for row in result.rows},
        )
        with replaced_file(plot) as temporary:
            chart.plot_png(
                temporary, [curve], ann=result.ann.top1 if result.ann else None, title=result.name
            )
        terminal.note(f"wrote {plot}")
