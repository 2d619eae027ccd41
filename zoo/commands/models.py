"""`zoo list` and `zoo show`: print the models that are here."""

from __future__ import annotations

from typing import Annotated

import typer

from zoo.commands.common import Endpoint, Json, Model, epilog, find_model, terminal
from zoo.commands.hub import list_remote
from zoo.commands.terminal import write_json
from zoo.errors import UsageError

_FIELDS = (
    "name",
    "arch",
    "classes",
    "method",
    "neuron",
    "schedule",
    "numerics",
    "timesteps",
    "top1",
    "size",
    "folder",
    "origin",
    "commit",
    "sha256",
    "spikes",
)


app = typer.Typer()


@app.command("list", epilog=epilog("zoo list", "zoo list --json", "zoo list --remote --author me"))
def list_command(
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
    follows. To find a model on a hub use zoo search.
    """
    if remote:
        list_remote(None, author, endpoint, json_output)
        return
    if author or endpoint:
        raise UsageError("--author and --endpoint are about the hub: add --remote")
    from zoo.commands import report
    from zoo.models import registry

    entries, recipes = registry.at_hand(), registry.to_make()
    if json_output:
        write_json(
            [
                {
                    "name": entry.name,
                    "arch": entry.config.arch,
                    "classes": entry.config.num_classes,
                    "method": entry.config.method.name,
                    "neuron": entry.config.neuron,
                    "schedule": entry.config.schedule,
                    "numerics": entry.config.numerics,
                    "timesteps": entry.evaluation and entry.evaluation.best.timesteps,
                    "top1": entry.evaluation and entry.evaluation.best.top1,
                    "size": entry.size,
                    "folder": str(entry.folder),
                    "origin": entry.origin,
                    "commit": entry.commit,
                    "sha256": entry.config.weights_sha256,
                    "spikes": entry.config.checksum.sha256,
                }
                for entry in entries
            ]
            + [
                dict.fromkeys(_FIELDS)
                | {
                    "name": recipe.name,
                    "arch": recipe.arch,
                    "method": "data-free",
                    "neuron": recipe.neuron,
                    "schedule": "causal",
                    "numerics": "int8",
                    "origin": "recipe",
                }
                for recipe in recipes
            ]
        )
    elif entries or recipes:
        report.models(terminal.out, entries, recipes)
    else:
        terminal.note("no model comes with this installation: make one with zoo convert")


@app.command("show", epilog=epilog("zoo show s-resnet20-digits", "zoo show ./s-resnet20 --config"))
def show_command(
    model: Model,
    config: Annotated[
        bool, typer.Option("--config", help="Print the model's config.json as it is.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Show the facts of one model (also: zoo info).

    The facts are what it is, what it was made from, and how well it does.
    """
    from zoo.commands import report
    from zoo.models import registry

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
            }
        )
    else:
        report.model_facts(terminal.out, entry)


app.command("ls", hidden=True)(list_command)


app.command("info", hidden=True)(show_command)
