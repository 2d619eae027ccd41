"""`zoo list`, `zoo show`, `zoo card` and `zoo site`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo import arguments
from zoo.commands.common import Endpoint, Json, Model, epilog, find_model, terminal
from zoo.commands.hub import list_remote
from zoo.errors import GateError, NotFoundError, UsageError
from zoo.terminal import replaced_file, write_json

_FIELDS = ("name", "arch", "classes", "method", "neuron", "schedule", "numerics", "timesteps", "top1", "size", "folder", "origin",
           "commit", "sha256", "spikes")  # fmt: skip

app = typer.Typer()


@app.command("list", epilog=epilog("zoo list", "zoo list --json", "zoo list --remote --author me"))
def list_models(
    remote: Annotated[bool, typer.Option("--remote", help="Those on the hub instead.")] = False,
    author: Annotated[str | None, typer.Option(metavar="ORG", help="With --remote: of this user or organisation.")] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """List the models that are here (also: zoo ls).

    Those that ship with the zoo, those in the cache, and the recipes, which zoo pull follows. A model of a hub: zoo search.
    """
    if remote:
        list_remote(None, author, endpoint, json_output)
        return
    if author or endpoint:
        raise UsageError("--author and --endpoint are about the hub: add --remote")
    from zoo import registry, report

    entries, recipes = registry.at_hand(), registry.to_make()
    if json_output:
        write_json([
            {
                "name": entry.name, "arch": entry.config.arch, "classes": entry.config.num_classes,
                "method": entry.config.method.name, "neuron": entry.config.neuron, "schedule": entry.config.schedule,
                "numerics": entry.config.numerics, "timesteps": report.best_row(entry.evaluation).get("timesteps"),
                "top1": report.best_row(entry.evaluation).get("top1"), "size": entry.size, "folder": str(entry.folder),
                "origin": entry.origin, "commit": entry.commit, "sha256": entry.config.weights_sha256,
                "spikes": entry.config.checksum.sha256,
            }
            for entry in entries
        ] + [
            dict.fromkeys(_FIELDS) | {
                "name": recipe.name, "arch": recipe.arch, "method": "data-free", "neuron": recipe.neuron, "schedule": "causal",
                "numerics": "int8", "origin": "recipe",
            }
            for recipe in recipes
        ])  # fmt: skip
    elif entries or recipes:
        report.models(terminal.out, entries, recipes)
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

    entry = registry.entry(find_model(model, json_output=json_output))
    if config:
        write_json(entry.config.model_dump(mode="json"))
    elif json_output:
        write_json({
            "name": entry.name, "folder": str(entry.folder), "size": entry.size,
            "config": entry.config.model_dump(mode="json"), "evaluation": entry.evaluation,
        })  # fmt: skip
    else:
        report.facts(terminal.out, entry)


@app.command(epilog=epilog("zoo card s-resnet20-digits", "zoo card ./s-resnet20 --output ./s-resnet20/README.md"))
def card(
    model: Model,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there.  [default: stdout]")] = None,
    check: Annotated[Path | None, typer.Option(metavar="FILE", help="Exit 7 if this file is not the card.")] = None,
    json_output: Json = False,
) -> None:
    """Render a model's card from its eval.json.

    Exits 7 when something is missing that a card must say.
    """
    arguments.check_writable("--output", output)
    from zoo import card as cards

    text = cards.for_folder(find_model(model, json_output=json_output))
    if check is not None:
        if not check.is_file():
            raise NotFoundError(f"{check} does not exist: zoo card {model} --output {check} writes it")
        if check.read_text(encoding="utf-8", errors="replace") != text:
            raise GateError(f"{check} is not the card of {model}: zoo card {model} --output {check} writes it")
    if output is not None:
        with replaced_file(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
        terminal.note(f"wrote {output}")
    if json_output:
        write_json({"model": model, "card": text})
    elif output is None and check is None:
        print(text, end="")


@app.command(epilog=epilog("zoo site --out gallery", "zoo site --out gallery --force s-resnet20-digits ./s-resnet20"))
def site(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL...]", help="Names of `zoo list`, or artifact folders.  [default: all]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the gallery at --out.")] = False,
    json_output: Json = False,
) -> None:
    """Write a gallery of the models as static pages.

    A table, charts and a page for each model, from its eval.json. The pages ask nothing of any network: open OUT/index.html.
    """
    from zoo import site as gallery

    with terminal.progress(json_output=json_output) as progress:
        files = gallery.build(out, models or [], force=force, progress=progress)
    if json_output:
        write_json({"path": str(out), "index": str(out / "index.html"), "files": files})
    else:
        terminal.note(f"wrote {out}")
        terminal.out.print(str(out / "index.html"), soft_wrap=True)


app.command("ls", hidden=True)(list_models)
app.command("info", hidden=True)(show)
