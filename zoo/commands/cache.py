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

    found, made = list(cache.snapshots()), list(recipes.everything())
    if json_output:
        write_json(
            [
                {
                    "repo": one.repo,
                    "commit": one.commit,
                    "refs": list(one.refs),
                    "size": one.size,
                    "whole": one.whole,
                    "folder": str(one.folder),
                    "made": False,
                }
                for one in found
            ]
            + [
                {
                    "repo": one.name,
                    "commit": one.key,
                    "refs": [],
                    "size": one.size,
                    "whole": True,
                    "folder": str(one.folder),
                    "made": True,
                    "state": one.state,
                }
                for one in made
            ]
        )
        return
    if not found and not made:
        terminal.note("no model of the zoo is in the cache: zoo pull fetches one")
        return
    table = new_table("NAME", "COMMIT", "PULLED AS", "STATE", "SIZE", left=4)
    for one in found:
        state = "whole" if one.whole else "unfinished"
        table.add_row(
            printable(one.repo),
            one.commit[:12],
            printable(", ".join(one.refs)) or "-",
            state,
            human_bytes(one.size),
        )
    for other in made:
        digest, _, how = other.key.partition("-")
        table.add_row(printable(other.name), digest, how, other.state, human_bytes(other.size))
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
            help="Models to remove: org/name for all its revisions, org/name@revision for one, or a "
            "recipe's name.",
        ),
    ],
    json_output: Json = False,
) -> None:
    """Remove models from the cache; they can be pulled again.

    The checkpoint that a recipe fetched stays in the cache of the hub's client.
    """
    from zoo.hub import cache
    from zoo.models import recipes

    everything, chosen = list(cache.snapshots()), []
    all_made, made = list(recipes.everything()), []
    for text in models:
        same = [one for one in all_made if text in (one.name, f"{one.name}@{one.key}")]
        if not same and text in recipes.RECIPES:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        if same:
            made += [one for one in same if one not in made]
            continue
        wanted = cache.parse(text)
        if wanted is None:
            raise UsageError(
                f"{text} is not org/name or org/name@revision: zoo cache ls lists what there is"
            )
        repo, revision = wanted
        found = [
            one
            for one in everything
            if one.repo == repo and (revision is None or revision in (one.commit, *one.refs))
        ]
        if not found:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        chosen += [one for one in found if one not in chosen]
    folders = [one.folder for one in chosen] + [one.folder for one in made]
    _removed(folders, cache.remove_cached(chosen) + recipes.remove_made(made), json_output)


@app.command("prune", epilog=epilog("zoo cache prune"))
def cache_prune(json_output: Json = False) -> None:
    """Remove what interrupted pulls left, and what recipes made before they changed.

    What is younger than an hour stays, it may belong to a pull that still runs.
    """
    from zoo.hub import cache
    from zoo.models import recipes

    halves, left, freed = cache.prune_cache()
    made, more = recipes.prune_made()
    _removed([*(one.folder for one in halves), *left, *made], freed + more, json_output)


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

    found = [(one.repo, one.commit, cache.problem_of(one.folder)) for one in cache.snapshots()]
    found += [(one.name, one.key, cache.problem_of(one.folder)) for one in recipes.everything()]
    if json_output:
        write_json(
            [
                {"repo": repo, "commit": commit, "ok": not problem, "problem": problem}
                for repo, commit, problem in found
            ]
        )
    else:
        for repo, commit, problem in found:
            which = commit[:12] if hub.COMMIT.fullmatch(commit) else commit
            line = f"{'FAILED' if problem else 'ok':<8}{repo}@{which}{f': {problem}' if problem else ''}"
            print_lines(terminal.out, [line])
    bad = [(repo, commit) for repo, commit, problem in found if problem]
    if bad:
        first = "@".join(bad[0])
        raise IntegrityError(
            f"{len(bad)} of {len(found)} are bad: zoo cache rm {first}, then pull it again"
        )
