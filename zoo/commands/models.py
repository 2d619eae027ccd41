"""`zoo list` and `zoo show`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.common import Json, Model, epilog, terminal
from zoo.terminal import write_json

app = typer.Typer()


@app.command("list", epilog=epilog("zoo list", "zoo list --json"))
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


@app.command(epilog=epilog("zoo show s-resnet20-digits", "zoo show ./s-resnet20 --config"))
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
