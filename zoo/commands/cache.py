"""`zoo cache`: list, remove, prune and verify what was pulled or made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.common import Json, epilog, terminal
from zoo.commands.terminal import new_table, print_lines, write_json
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.text import human_bytes, printable

app = typer.Typer(
    no_args_is_help=True,
    help="The models in the cache, which is that of the hub's client.",
    epilog=epilog("zoo cache ls", "zoo cache rm me/s-resnet20"),
)


@app.command("ls", epilog=epilog("zoo cache ls", "zoo cache ls --json"))
def cache_ls(json_output: Json = False) -> None:
    """List the models in the cache, and those that recipes made."""
    from zoo.hub import cache
    from zoo.models import recipes

    snapshots, converted = list(cache.snapshots()), list(recipes.everything())
    if json_output:
        write_json(
            [
                {
                    "repo": snapshot.repo,
                    "commit": snapshot.commit,
                    "refs": list(snapshot.refs),
                    "size": snapshot.size,
                    "whole": snapshot.whole,
                    "folder": str(snapshot.folder),
                    "made": False,
                }
                for snapshot in snapshots
            ]
            + [
                {
                    "repo": model.name,
                    "commit": model.key,
                    "refs": [],
                    "size": model.size,
                    "whole": True,
                    "folder": str(model.folder),
                    "made": True,
                    "state": model.state,
                }
                for model in converted
            ]
        )
        return
    if not snapshots and not converted:
        terminal.note("no model of the zoo is in the cache: zoo pull fetches one")
        return
    table = new_table("NAME", "COMMIT", "PULLED AS", "STATE", "SIZE", left=4)
    for snapshot in snapshots:
        state = "whole" if snapshot.whole else "unfinished"
        table.add_row(
            printable(snapshot.repo),
            snapshot.commit[:12],
            printable(", ".join(snapshot.refs)) or "-",
            state,
            human_bytes(snapshot.size),
        )
    for model in converted:
        digest, _, how = model.key.partition("-")
        table.add_row(printable(model.name), digest, how, model.state, human_bytes(model.size))
    terminal.out.print(table)


@app.command(
    "rm",
    epilog=epilog(
        "zoo cache rm me/s-resnet20", "zoo cache rm me/s-resnet20@v1", "zoo cache rm s-resnet50"
    ),
)
def cache_rm(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Models to remove: org/name for all its revisions, org/name@revision for one, or "
            "a recipe's name.",
        ),
    ],
    json_output: Json = False,
) -> None:
    """Remove models from the cache; they can be pulled again.

    The checkpoint that a recipe fetched stays in the cache of the hub's client.
    """
    from zoo.hub import cache
    from zoo.models import recipes

    snapshots, converted = list(cache.snapshots()), list(recipes.everything())
    pulled_targets, converted_targets = [], []
    for text in models:
        named = [model for model in converted if text in (model.name, f"{model.name}@{model.key}")]
        if not named and text in recipes.RECIPES:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        if named:
            converted_targets += [model for model in named if model not in converted_targets]
            continue
        repository = cache.parse(text)
        if repository is None:
            raise UsageError(
                f"{text} is not org/name or org/name@revision: zoo cache ls lists what there is"
            )
        repo, revision = repository
        matching = [
            snapshot
            for snapshot in snapshots
            if snapshot.repo == repo
            and (revision is None or revision in (snapshot.commit, *snapshot.refs))
        ]
        if not matching:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        pulled_targets += [entry for entry in matching if entry not in pulled_targets]
    folders = [snapshot.folder for snapshot in pulled_targets]
    folders += [model.folder for model in converted_targets]
    freed = cache.remove_cached(pulled_targets) + recipes.remove_made(converted_targets)
    _removed(folders, freed, json_output)


@app.command("prune", epilog=epilog("zoo cache prune"))
def cache_prune(json_output: Json = False) -> None:
    """Remove what interrupted pulls left, and what recipes made before they changed.

    What is younger than an hour stays, it may belong to a pull that still runs.
    """
    from zoo.hub import cache
    from zoo.models import recipes

    unfinished, leftovers, freed = cache.prune_cache()
    outdated, more = recipes.prune_made()
    folders = [*(snapshot.folder for snapshot in unfinished), *leftovers, *outdated]
    _removed(folders, freed + more, json_output)


def _removed(paths: list[Path], freed: int, json_output: bool) -> None:
    if json_output:
        write_json({"removed": [str(path) for path in paths], "freed": freed})
    else:
        print_lines(
            terminal.out, [*(f"removed {path}" for path in paths), f"{human_bytes(freed)} freed"]
        )


@app.command("verify", epilog=epilog("zoo cache verify", "zoo cache verify --json"))
def cache_verify(json_output: Json = False) -> None:
    """Hash every model in the cache; exit 5 if a file is bad."""
    from zoo.hub import cache
    from zoo.hub import client as hub
    from zoo.models import recipes

    results = [
        (each.repo, each.commit, cache.problem_of(each.folder)) for each in cache.snapshots()
    ]
    results += [
        (each.name, each.key, cache.problem_of(each.folder)) for each in recipes.everything()
    ]
    if json_output:
        write_json(
            [
                {"repo": repo, "commit": commit, "ok": not problem, "problem": problem}
                for repo, commit, problem in results
            ]
        )
    else:
        for repo, commit, problem in results:
            which = commit[:12] if hub.COMMIT.fullmatch(commit) else commit
            verdict, reason = ("FAILED", f": {problem}") if problem else ("ok", "")
            print_lines(terminal.out, [f"{verdict:<8}{repo}@{which}{reason}"])
    bad = [(repo, commit) for repo, commit, problem in results if problem]
    if bad:
        first = "@".join(bad[0])
        raise IntegrityError(
            f"{len(bad)} of {len(results)} are bad: zoo cache rm {first}, then pull it again"
        )
