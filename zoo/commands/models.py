"""`zoo list` and `zoo show`: print the models that are here."""

from __future__ import annotations

import csv
import fnmatch
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zoo.commands.common import Endpoint, Json, Model, epilog, find_model, terminal
from zoo.commands.hub import list_remote
from zoo.commands.terminal import write_json
from zoo.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.models.recipes import Recipe
    from zoo.models.registry import Entry

_FIELDS = (
    "name",
    "arch",
    "classes",
    "dataset",
    "method",
    "neuron",
    "schedule",
    "numerics",
    "timesteps",
    "top1",
    "ann",
    "measured",
    "unmeasured",
    "accuracy",
    "size",
    "folder",
    "origin",
    "commit",
    "sha256",
    "spikes",
)


app = typer.Typer()


@app.command(
    "list",
    epilog=epilog(
        "zoo list",
        "zoo list --filter cifar10 --timesteps 8 --sort top1",
        "zoo list --csv",
        "zoo list --remote --author me",
    ),
)
def list_command(
    filter: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Data set, or a pattern such as 's-resnet20*', or a part, of the name, "
            "architecture or neuron.",
        ),
    ] = None,
    sort: Annotated[
        Literal["name", "dataset", "ann", "top1", "timesteps", "size"] | None,
        typer.Option(help="Column to sort by, accuracies from the highest.  [default: by origin]"),
    ] = None,
    timesteps: Annotated[
        int | None,
        typer.Option(
            metavar="T", min=1, help="Timesteps of TOP-1.  [default: what a model is made for]"
        ),
    ] = None,
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="List the models on the hub instead.")
    ] = False,
    author: Annotated[
        str | None,
        typer.Option(
            metavar="ORG", help="User or organization that the models belong to, with --remote."
        ),
    ] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """List the models that are here (also: zoo ls).

    These are the models that ship with the zoo, those in the cache, and the recipes, which zoo pull
    follows. One that is damaged is named on stderr and left out. To find a model on a hub use zoo
    search.
    """
    if remote:
        if filter or sort or timesteps or csv_output:
            raise UsageError("--filter, --sort, --timesteps and --csv are not for --remote")
        list_remote(None, author, endpoint, json_output)
        return
    if author or endpoint:
        raise UsageError("--author and --endpoint are about the hub: add --remote")
    if csv_output and json_output:
        raise UsageError("--csv and --json are two forms: choose one")
    found = [row for row in rows(timesteps) if filter is None or _matches(row, filter)]
    if sort is not None:
        found.sort(key=lambda row: _order(row[sort], falling=sort in ("ann", "top1")))
    if json_output:
        write_json(found)
    elif csv_output:
        _write_csv(found)
    elif found:
        from zoo.commands import report

        report.models(terminal.out, found)
    elif filter is not None:
        terminal.note(f"no model matches {filter!r}: zoo list shows all, zoo search asks a hub")
    else:
        terminal.note("no model comes with this installation: make one with zoo convert")


def rows(timesteps: int | None = None) -> list[dict[str, Any]]:
    """Return the models that are here and the recipes not followed yet, as `zoo list` prints them.

    Args:
        timesteps: of `top1`; default: what a model was made for, or where it was not measured at
            that the most it was measured at.
    """
    from zoo.models import registry

    return [
        *(_of_entry(entry, timesteps) for entry in registry.at_hand(terminal.warn)),
        *(_of_recipe(recipe, timesteps) for recipe in registry.to_make()),
    ]


def _of_entry(entry: Entry, timesteps: int | None) -> dict[str, Any]:
    config, found, accuracy = entry.config, entry.figures, entry.top1
    meant = config.timesteps if config.timesteps in accuracy else max(accuracy, default=None)
    step = timesteps or meant
    published = "published" if found is entry.evaluation else "here"
    of_recipe = entry.of_recipe
    return {
        "name": entry.name,
        "arch": config.arch,
        "classes": config.num_classes,
        "dataset": entry.dataset,
        "method": config.method.name,
        "neuron": config.neuron,
        "schedule": config.schedule,
        "numerics": config.numerics,
        "timesteps": step,
        "top1": None if step is None else accuracy.get(step),
        "ann": found.ann and found.ann.top1 if found else of_recipe and of_recipe.ann,
        "measured": published if found else of_recipe and "recipe",
        "unmeasured": entry.unmeasured,
        "accuracy": accuracy,
        "size": entry.size,
        "folder": str(entry.folder),
        "origin": entry.origin,
        "commit": entry.commit,
        "sha256": config.weights_sha256,
        "spikes": config.checksum.sha256,
    }


def _of_recipe(recipe: Recipe, timesteps: int | None) -> dict[str, Any]:
    from zoo.models.figures import recipe_figures, why_unmeasured

    found = recipe_figures(recipe)
    accuracy = found.top1 if found else {}
    step = timesteps or max(accuracy, default=None)
    return dict.fromkeys(_FIELDS) | {
        "name": recipe.name,
        "arch": recipe.arch,
        "dataset": recipe.dataset,
        "method": "data-free",
        "neuron": recipe.neuron,
        "schedule": "causal",
        "numerics": "int8",
        "timesteps": step,
        "top1": None if step is None else accuracy.get(step),
        "ann": found and found.ann,
        "measured": found and "recipe",
        "unmeasured": why_unmeasured(recipe),
        "accuracy": accuracy,
        "origin": "recipe",
    }


def _matches(row: Mapping[str, Any], pattern: str) -> bool:
    pattern = pattern.lower()
    parts = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    texts = [(row[key] or "").lower() for key in ("name", "arch", "neuron")]
    # A data set is meant whole: cifar10 is not cifar100.
    named = fnmatch.fnmatch((row["dataset"] or "").lower(), pattern)
    return named or any(fnmatch.fnmatch(text, parts) for text in texts)


def _order(value: Any, *, falling: bool) -> tuple[bool, Any]:
    """Return a key to sort by; what is not known comes last."""
    return value is None, (0 if value is None else -value if falling else value)


def _write_csv(found: Sequence[Mapping[str, Any]]) -> None:
    fields = [field for field in _FIELDS if field != "accuracy"]
    writer = csv.DictWriter(sys.stdout, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)


@app.command(
    "show",
    epilog=epilog(
        "zoo show s-resnet20-digits",
        "zoo show ./s-resnet20 --config",
        "zoo show s-resnet20-digits --hardware --data digits",
    ),
)
def show_command(
    model: Model,
    config: Annotated[
        bool, typer.Option("--config", help="Print the model's config.json as it is.")
    ] = False,
    hardware: Annotated[
        bool,
        typer.Option(
            "--hardware",
            help="Show what it asks of hardware: neurons, synapses, bit widths, memory and "
            "operations by layer.",
        ),
    ] = False,
    timesteps: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Timesteps of --hardware.  [default: the model's]"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Images on which --hardware sees how far accumulators go."
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of these images, drawn with seed 0.")
    ] = 100,
    json_output: Json = False,
) -> None:
    """Show the facts of one model (also: zoo info).

    The facts are what it is, what it was made from, and how well it does.
    """
    from zoo.commands import report
    from zoo.models import registry

    if hardware:
        _show_hardware(
            find_model(model, json_output=json_output), timesteps, data, limit, json_output
        )
        return
    if data is not None or timesteps is not None:
        raise UsageError("--data and --timesteps are about --hardware: add it")
    entry = registry.entry(find_model(model, json_output=json_output))
    if config:
        write_json(entry.config.model_dump(mode="json"))
    elif json_output:
        write_json(
            {
                "name": entry.name,
                "folder": str(entry.folder),
                "size": entry.size,
                "config": entry.config.model_dump(mode="json"),
                "evaluation": entry.evaluation
                and entry.evaluation.model_dump(mode="json", exclude_unset=True),
                "measured_here": [
                    one.model_dump(mode="json", exclude_unset=True) for one in entry.here
                ],
            }
        )
    else:
        report.model_facts(terminal.out, entry)


def _show_hardware(
    folder: Path, timesteps: int | None, data: str | None, limit: int, json_output: bool
) -> None:
    from dataclasses import asdict

    import zoo
    from zoo.commands import report
    from zoo.data.open import open_images
    from zoo.evaluation.hardware import hardware_sheet, totals
    from zoo.models import registry

    network, entry = zoo.load(folder), registry.entry(folder)
    images = None if data is None else open_images(data, "test").take(limit, seed=0)
    with terminal.progress(json_output=json_output) as progress:
        sheet = hardware_sheet(
            network,
            timesteps or entry.config.timesteps,
            measured=entry.figures,
            images=images,
            progress=progress,
        )
    if json_output:
        write_json({"name": entry.name, **asdict(sheet), "totals": totals(sheet)})
    else:
        report.hardware(terminal.out, entry.name, sheet)


app.command("ls", hidden=True)(list_command)


app.command("info", hidden=True)(show_command)
