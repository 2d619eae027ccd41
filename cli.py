"""`zoo`: parses, calls the package, prints.

What heavy work needs is imported inside the commands, so that `--help` answers at once. stdout carries data, stderr
what is said about it. Exit codes are those of `zoo.errors`, 2 for usage and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zoo import arguments
from zoo.errors import GateError, IntegrityError, NotFoundError, UsageError, ZooError
from zoo.terminal import Terminal, print_lines, printable, replaced_file, write_json

if TYPE_CHECKING:
    from zoo.convert import Conversion
    from zoo.evaluate import Evaluation

_SILENT = 0.999  # a layer that never fires has an error of 1, but for rounding
_ANYWHERE = ("-q", "--quiet", "--no-color")

terminal = Terminal()
app = typer.Typer(
    name="zoo", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="A zoo of spiking ResNets: convert a trained network, measure it, verify it.",
    epilog="Example:\n\n\b\n  zoo list\n  zoo eval s-resnet20-digits --timesteps 1,2,4,8\n\n"
    "-q and --no-color may stand anywhere. Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 network, "
    "5 integrity, 6 access, 7 a bound was missed, 130 Ctrl-C.",
)  # fmt: skip


def _epilog(*examples: str) -> str:
    return "Example:\n\n\b\n" + "\n".join(f"  {example}" for example in examples)


def _names(incomplete: str) -> list[str]:
    from zoo.registry import shipped

    return [entry.name for entry in shipped() if entry.name.startswith(incomplete)]


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `zoo list`, or an artifact folder.", autocompletion=_names)
]


def _version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"zoo {version('spiking-zoo')}")
    except PackageNotFoundError:
        print("zoo, run from its sources without an install")
    raise typer.Exit


@app.callback()
def _options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No notes and no progress on stderr.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colour (as the variable NO_COLOR).")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Declares what `main` has read already: these may stand anywhere on the command line."""


@app.command(epilog=_epilog(
    "zoo convert resnet20.th --arch resnet20 --calib cifar-10-python.tar.gz --out s-resnet20",
    "zoo convert net.pth --arch resnet18 --calib imagenet/train --method hu2018 --out s-resnet18",
))  # fmt: skip
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The trained ANN: .pth, .pt, .th or .safetensors.")],
    arch: Annotated[str, typer.Option(metavar="NAME", help="Its architecture: resnet20, resnet18 and so on.")],
    calib: Annotated[Path, typer.Option(metavar="PATH", help="Training images to calibrate on.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    method: Annotated[Literal["calibrated", "hu2018"], typer.Option(help="How it is converted.")] = "calibrated",
    neuron: Annotated[Literal["if", "signed"], typer.Option(help="signed may take spikes back.")] = "if",
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
    mean: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Of the ANN's training, pixels 0 to 1. [default: ImageNet's]")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="Likewise.  [default: ImageNet's]")] = None,
    input_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=4096, help="Side of the input.  [default: 32 or 224]")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=8192, help="Shorter side, before the input is cut out.")
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
    arguments.check_replaceable(out, force)

    from zoo import convert as conversion
    from zoo import report
    from zoo.checkpoint import read_checkpoint
    from zoo.data import open_images
    from zoo.registry import default_data

    checkpoint = read_checkpoint(source, arch, shortcut=shortcut)
    images = open_images(calib, "train")
    terminal.note(f"calibrating on {calib}: {images.description}")
    with terminal.progress(json_output=json_output) as progress:
        result = conversion.convert(
            checkpoint, images, method=method, neuron=neuron, schedule=schedule, numerics=numerics, timesteps=steps[0],
            samples=samples, seed=seed, mean=means, std=stds, input_size=input_size, resize=resize, license=license,
            url=url, parameters=settings, progress=progress,
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
    following = ["zoo", "eval", str(out), *([] if data else ["--data", str(calib)])]
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


@app.command("eval", epilog=_epilog(
    "zoo eval s-resnet20-digits --timesteps 4,8,16",
    "zoo eval ./s-resnet20 --data cifar-10-python.tar.gz --ann resnet20.th --output eval.json --plot eval.png",
))  # fmt: skip
def evaluate(
    model: Model,
    timesteps: Annotated[str, typer.Option(metavar="T,T,...", help="Where to measure.")] = "1,2,4,8,16,32",
    data: Annotated[
        str | None, typer.Option(metavar="PATH", help="Labelled images.  [default: the model's own, if at hand]")
    ] = None,
    split: Annotated[Literal["test", "train"], typer.Option(help="Which part of them.")] = "test",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only so many, drawn with seed 0.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 100,
    ann: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The ANN it was made from.  [default: where convert read it]")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    backend: Annotated[
        Literal["auto", "triton", "torch", "interpret"],
        typer.Option(help="What runs it; the spikes are the same. interpret: the kernels without a GPU, slowly."),
    ] = "auto",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw accuracy over timesteps.")] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write everything measured.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(metavar="PERCENT", min=0, max=100, help="Exit 7 below it, at the largest T.")
    ] = None,
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="Show each layer's firing rate.")] = True,
    json_output: Json = False,
) -> None:  # fmt: skip
    """Measure accuracy over timesteps.

    Beside it the ANN's accuracy, firing rates, synaptic operations, modelled energy, speed and memory.
    """
    steps = arguments.timesteps(timesteps)
    arguments.check_writable("--plot", plot, suffix=".png")
    arguments.check_writable("--output", output)
    from zoo import artifact, chart, registry, report
    from zoo.data import FORMS, open_images

    if plot is not None:
        chart.require_matplotlib()
    folder = registry.resolve(model)
    config = artifact.read_config(folder)
    where = data if data is not None else registry.default_data(config)
    if where is None:
        raise UsageError(f"{model} comes without images to measure on: pass --data PATH ({FORMS})")
    images = open_images(where, split)
    if limit is not None:
        images = images.take(limit, seed=0)
    terminal.note(f"measuring on {where}: {images.description}")

    from zoo import evaluate as evaluation

    with terminal.progress(json_output=json_output) as progress:
        found = evaluation.evaluate(
            folder, images, steps, batch_size=batch_size, ann=ann, device=arguments.pick_device(device, backend),
            backend=backend, progress=progress,
        )  # fmt: skip
    found = found.model_copy(update={"command": terminal.command})
    # First the files: a reader who closes the pipe early must not cost them; nor may a full disk cost what was measured.
    failure: ZooError | None = None
    try:
        _write_evaluation(found, output, plot)
    except ZooError as error:
        failure = error
    if json_output:
        write_json(found.model_dump(mode="json"))
    else:
        report.evaluation(terminal.out, found, with_layers=layers)
        if found.ann is None:
            terminal.note("no ANN to compare with: pass --ann FILE, the checkpoint it was converted from")
    if failure is not None:
        raise failure
    last = found.rows[-1]
    if min_accuracy is not None and not last.top1 >= min_accuracy:
        raise GateError(
            f"accuracy at T = {last.timesteps} is {last.top1:.2f} %, under --min-accuracy {min_accuracy:g}: "
            "raise --timesteps or convert again"
        )


def _write_evaluation(found: Evaluation, output: Path | None, plot: Path | None) -> None:
    from zoo import chart

    if output is not None:
        with replaced_file(output) as temporary:
            temporary.write_text(json.dumps(found.model_dump(mode="json"), indent=2) + "\n")
        terminal.note(f"wrote {output}")
    if plot is not None:
        curve = chart.Curve(
            f"{found.method}, {found.neuron}, {found.schedule}, {found.numerics}",
            {row.timesteps: row.top1 for row in found.rows}, {row.timesteps: row.interval95 for row in found.rows},
        )  # fmt: skip
        with replaced_file(plot) as temporary:
            chart.plot_png(temporary, [curve], ann=found.ann.top1 if found.ann else None, title=found.name)
        terminal.note(f"wrote {plot}")


@app.command(epilog=_epilog(
    "zoo train resnet20 --dataset cifar-10-python.tar.gz --out runs/resnet20",
    "zoo train resnet20 --dataset cifar-10-python.tar.gz --out runs/resnet20 --resume",
    "zoo train resnet20 --dataset cifar-10-python.tar.gz --levels 8 --start runs/resnet20/resnet20.safetensors "
    "--epochs 20 --rate 0.05 --out runs/resnet20-levels",
))  # fmt: skip
def train(
    arch: Annotated[str, typer.Argument(metavar="ARCH", help="resnet20, resnet32, resnet18 and so on.")],
    dataset: Annotated[str, typer.Option(metavar="PATH", help="Labelled images with a training split, or `digits`.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Times through the training images.")] = 60,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images a step.")] = 128,
    rate: Annotated[float, typer.Option(metavar="X", min=1e-9, help="Highest learning rate.")] = 0.2,
    levels: Annotated[
        int, typer.Option(metavar="L", min=0, max=255, help="Train with L-level activations; 0: plain ReLU.")
    ] = 0,
    start: Annotated[Path | None, typer.Option(metavar="FILE", help="Begin from what another training wrote.")] = None,
    shortcut: Annotated[Literal["A", "B"] | None, typer.Option(help="Of the CIFAR form.  [default: A]")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of weights, order and augmentation.")] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "float32"], typer.Option(help="auto: bf16 where the processor has it.")
    ] = "auto",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where it runs.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    json_output: Json = False,
) -> None:  # fmt: skip
    """Train a ResNet that converts well.

    Writes OUT/ARCH.safetensors, the log and what --resume needs, every two minutes and on Ctrl-C.
    """
    from zoo import training

    with terminal.progress(json_output=json_output) as progress:
        found = training.train(
            arch, dataset, out, epochs=epochs, batch_size=batch_size, rate=rate, levels=levels, start=start,
            shortcut=shortcut, seed=seed, precision=precision, device=arguments.pick_device(device), resume=resume,
            progress=progress, talk=terminal.note,
        )  # fmt: skip
    if json_output:
        write_json(found)
    else:
        terminal.note(f"wrote {found['file']}")
        print_lines(
            terminal.out,
            [f"{found['arch']}: {found['top1']:.2f} % of {found['test_images']} test images after {found['epochs']} epochs"],
        )


@app.command(epilog=_epilog("zoo verify s-resnet20-digits --deep", "zoo verify ./s-resnet20 --json"))
def verify(
    model: Model,
    deep: Annotated[bool, typer.Option("--deep", help="Run it too, and compare every spike's checksum.")] = False,
    json_output: Json = False,
) -> None:
    """Check an artifact's files; exit 5 if one is bad."""
    from zoo import artifact, registry

    try:
        folder = registry.resolve(model)
    except NotFoundError:
        if not Path(model).is_dir():
            raise
        folder = Path(model)
    checks = artifact.verify(folder, deep=deep)
    failed = [check for check in checks if not check.ok]
    if json_output:
        write_json({"path": str(folder), "ok": not failed, "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            terminal.out.print(
                f"{'ok' if check.ok else 'FAILED':<8}{check.name:<20}{printable(check.detail)}",
                style="" if check.ok else "red", soft_wrap=True,
            )  # fmt: skip
    if failed:
        raise IntegrityError(f"{folder} failed at {failed[0].name}: fetch or convert it again")


@app.command("list", epilog=_epilog("zoo list", "zoo list --json"))
def list_models(json_output: Json = False) -> None:
    """List the models of the zoo (also: zoo ls)."""
    from zoo import registry, report

    entries = registry.shipped()
    if json_output:
        write_json([
            {
                "name": entry.name, "arch": entry.config.arch, "classes": entry.config.num_classes,
                "method": entry.config.method.name, "neuron": entry.config.neuron, "schedule": entry.config.schedule,
                "numerics": entry.config.numerics, "timesteps": report.best_row(entry.evaluation).get("timesteps"),
                "top1": report.best_row(entry.evaluation).get("top1"), "size": entry.size, "folder": str(entry.folder),
            }
            for entry in entries
        ])  # fmt: skip
    elif entries:
        report.models(terminal.out, entries)
    else:
        terminal.note("no model comes with this installation: make one with zoo convert")


@app.command(epilog=_epilog("zoo show s-resnet20-digits", "zoo show ./s-resnet20 --config"))
def show(
    model: Model,
    config: Annotated[bool, typer.Option("--config", help="Print its config.json as it is.")] = False,
    json_output: Json = False,
) -> None:
    """Show the facts of one model (also: zoo info).

    What it is, what it was made from, and how well it does.
    """
    from zoo import registry, report

    entry = registry.entry(registry.resolve(model))
    if config:
        write_json(entry.config.model_dump(mode="json"))
    elif json_output:
        write_json({
            "name": entry.name, "folder": str(entry.folder), "size": entry.size,
            "config": entry.config.model_dump(mode="json"), "evaluation": entry.evaluation,
        })  # fmt: skip
    else:
        report.facts(terminal.out, entry)


app.command("ls", hidden=True)(list_models)
app.command("info", hidden=True)(show)


def main(given: Sequence[str] | None = None) -> int:
    """Runs `zoo` and returns its exit code; nothing escapes but what ZOO_DEBUG=1 lets through."""
    words = list(sys.argv[1:] if given is None else given)
    end = words.index("--") if "--" in words else len(words)
    moved = [word for word in words[:end] if word in _ANYWHERE]
    words = [*moved, *(word for word in words[:end] if word not in _ANYWHERE), *words[end:]]
    terminal.command = shlex.join(["zoo", *words])
    terminal.quiet, terminal.no_color = bool({"-q", "--quiet"} & set(moved)), "--no-color" in moved
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode shows ?, it does not end the run
    try:
        with warnings.catch_warnings():
            if os.environ.get("ZOO_DEBUG") != "1":
                warnings.simplefilter("ignore")  # what libraries tell programmers
            code = app(words, prog_name="zoo", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as stop:  # rich and typer leave this way when the reader of a pipe has gone
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = _drop_stdout(1)
    except Exception as error:
        code = _explain(error)
    if code == 130:
        terminal.say("", "interrupted")
    return code if isinstance(code, int) else 0


def _drop_stdout(code: int) -> int:
    """Lets nothing be written to stdout any more, so that Python does not complain about it at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _explain(error: Exception) -> int:
    """One line on stderr for whatever went wrong; its exit code."""
    if isinstance(error, ZooError):
        terminal.say("error", error, "red")
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's own: a missing argument, an unknown option
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            path = getattr(getattr(error, "ctx", None), "command_path", "zoo")
            terminal.say("error", f"{error.format_message().rstrip('.')}: see {path} --help", "red")
        return 2
    if os.environ.get("ZOO_DEBUG") == "1":
        raise error
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "can't allocate memory" in str(error):
        terminal.say("error", "out of memory: lower --batch-size, --samples or --timesteps", "red")
    elif isinstance(error, OSError):
        terminal.say("error", f"{error.filename or 'stdout'}: {error.strerror or error}", "red")
        _drop_stdout(1)
    else:
        terminal.say("bug", f"{type(error).__name__}: {error}: please report it with what ZOO_DEBUG=1 shows", "red")
    return 1
