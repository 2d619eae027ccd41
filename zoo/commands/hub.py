"""`zoo pull`, `zoo publish`, `zoo search`, `zoo cache` and `zoo doctor`: models on a hub and in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo import arguments
from zoo.commands.common import Endpoint, Json, Offline, epilog, names, terminal
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.terminal import human_bytes, new_table, print_lines, printable, write_json

app = typer.Typer()
cache = typer.Typer(
    no_args_is_help=True, help="The models in the cache, which is that of the hub's client.",
    epilog=epilog("zoo cache ls", "zoo cache rm me/s-resnet20"),
)  # fmt: skip
app.add_typer(cache, name="cache")


@app.command(epilog=epilog(
    "zoo pull s-resnet20-digits", "zoo pull me/s-resnet20@v1", "zoo pull me/s-resnet20 --local-dir ./s-resnet20",
    "zoo pull s-resnet50", "zoo pull s-resnet50 --calib imagenet/train --samples 64",
))  # fmt: skip
def pull(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A name of `zoo list`, or org/name[@revision].", autocompletion=names)
    ],
    local_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Copy it to this folder too.")] = None,
    calib: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Of a recipe: training images to calibrate on.  [default: data-free]")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of a recipe: how many images.  [default: the recipe's]")
    ] = None,
    endpoint: Endpoint = None,
    offline: Offline = False,
    force: Annotated[
        bool, typer.Option("--force", help="Fetch or make again; replace the artifact at --local-dir.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Fetch a model and check every file of it.

    Prints its folder. Only an artifact's own files are fetched, all of one commit; afterwards no command needs a network for it.
    A recipe of `zoo list` is followed here: a public ANN is fetched, converted, verified and kept, which takes minutes once.
    HF_TOKEN is sent to HF_ENDPOINT alone, never to another --endpoint.
    """
    if local_dir is not None:
        arguments.check_replaceable(local_dir, force, "--local-dir")
    from zoo import registry, store

    with terminal.progress(json_output=json_output, of_bytes=True) as progress:
        found = registry.pull(
            model, calib=calib, samples=samples, endpoint=endpoint, offline=offline, force=force, progress=progress,
            talk=terminal.note,
        )  # fmt: skip
    if local_dir is not None:
        found = store.copy_out(found, local_dir)
    if json_output:
        write_json({
            "name": found.name, "repo": found.repo, "commit": found.commit, "folder": str(found.folder), "size": found.size,
            "fetched": found.fetched, "made": found.made, "files": _files(found.files),
        })  # fmt: skip
        return
    came = f"commit {found.commit}" if found.repo else f"made from {found.made}" if found.made else "ships with the zoo"
    came += ", from the cache" if (found.repo or found.made) and not found.fetched else ""
    terminal.note(f"{found.name}: {came}; {len(found.files)} files, {human_bytes(found.size)}, every sha256 right")
    print_lines(terminal.out, [str(found.folder)])


@app.command(epilog=epilog(
    "zoo publish ./s-resnet20 me/s-resnet20 --tag v1", "zoo publish ./s-resnet20 me/s-resnet20 --dry-run",
))  # fmt: skip
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An artifact folder with its eval.json.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where it goes; it is created if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Nobody else sees it, if it is created now.")] = False,
    tag: Annotated[str | None, typer.Option(metavar="NAME", help="Name the commit, such as v1.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the commit.")] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """Put an artifact and its card on a hub, in one commit.

    It is verified first, its spikes too, and the card is rendered from its eval.json. Needs HF_TOKEN with write access; for a hub
    of your own set HF_ENDPOINT with it. The same bytes again make no commit.
    """
    from zoo.publish import publish as put

    terminal.note(f"checking {folder}: files, spikes, card")
    with terminal.progress(json_output=json_output) as progress:
        done = put(
            folder, repo, private=private, tag=tag, message=message, dry_run=dry_run, endpoint=endpoint, progress=progress
        )
    if json_output:
        write_json({
            "repo": done.repo, "url": done.url, "commit": done.commit, "tag": done.tag, "committed": done.committed,
            "dry_run": dry_run, "pull": done.pull, "files": _files(done.files),
        })  # fmt: skip
        return
    if dry_run:
        terminal.note("sound and complete; nothing was sent")
    elif not done.committed:
        terminal.note("the hub has these bytes already: no new commit")
    print_lines(terminal.out, [
        *(f"{human_bytes(size):>10}  {name}  sha256 {sha256}" for name, (size, sha256) in done.files.items()),
        f"{done.url}{f'/tree/{done.commit}' if done.commit else ''}",
        done.pull,
    ])  # fmt: skip


def _files(files: dict[str, tuple[int, str]]) -> dict[str, Any]:
    return {name: {"size": size, "sha256": sha256} for name, (size, sha256) in files.items()}


@app.command(epilog=epilog("zoo search resnet20", "zoo search cifar --author me --json"))
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the name holds.")],
    author: Annotated[str | None, typer.Option(metavar="ORG", help="Of this user or organisation alone.")] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """Search a hub for models of the zoo."""
    list_remote(text, author, endpoint, json_output)


def list_remote(text: str | None, author: str | None, endpoint: str | None, json_output: bool) -> None:
    """Prints the zoo's models on a hub; also what `zoo list --remote` does."""
    from zoo import hub

    rows = hub.find(text, author=author, endpoint=endpoint)
    if json_output:
        write_json([vars(row) for row in rows])
        return
    if not rows:
        terminal.note(f"no model of the zoo at {hub.base(endpoint)} matches")
        return
    table = new_table("NAME", "UPDATED", "TOP-1", "DOWNLOADS", left=2)
    for row in rows:
        top1 = f"{row.top1:.2f} %" if row.top1 is not None else "-"
        table.add_row(printable(row.name), printable(row.updated or "-"), top1, str(row.downloads))
    terminal.out.print(table)


@cache.command("ls", epilog=epilog("zoo cache ls", "zoo cache ls --json"))
def cache_ls(json_output: Json = False) -> None:
    """List the models in the cache, and those that recipes made."""
    from zoo import recipes, store

    found, made = list(store.snapshots()), list(recipes.everything())
    if json_output:
        write_json([
            {"repo": one.repo, "commit": one.commit, "refs": list(one.refs), "size": one.size, "whole": one.whole,
             "folder": str(one.folder), "made": False} for one in found
        ] + [
            {"repo": one.name, "commit": one.key, "refs": [], "size": one.size, "whole": True, "folder": str(one.folder),
             "made": True, "state": one.state} for one in made
        ])  # fmt: skip
        return
    if not found and not made:
        terminal.note("no model of the zoo is in the cache: zoo pull fetches one")
        return
    table = new_table("NAME", "COMMIT", "PULLED AS", "STATE", "SIZE", left=4)
    for one in found:
        state = "whole" if one.whole else "unfinished"
        table.add_row(printable(one.repo), one.commit[:12], printable(", ".join(one.refs)) or "-", state, human_bytes(one.size))
    for other in made:
        digest, _, how = other.key.partition("-")
        table.add_row(printable(other.name), digest, how, other.state, human_bytes(other.size))
    terminal.out.print(table)


@cache.command("rm", epilog=epilog("zoo cache rm me/s-resnet20", "zoo cache rm me/s-resnet20@v1", "zoo cache rm s-resnet50"))
def cache_rm(
    models: Annotated[list[str], typer.Argument(
        metavar="MODEL...", help="org/name for all of it, or org/name@revision; a recipe's name for what it made.",
    )],
    json_output: Json = False,
) -> None:
    """Remove models from the cache; they can be pulled again.

    The checkpoint that a recipe fetched stays in the cache of the hub's client.
    """
    from zoo import recipes, store

    everything, chosen = list(store.snapshots()), []
    all_made, made = list(recipes.everything()), []
    for text in models:
        same = [one for one in all_made if text in (one.name, f"{one.name}@{one.key}")]
        if not same and text in recipes.RECIPES:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        if same:
            made += [one for one in same if one not in made]
            continue
        wanted = store.parse(text)
        if wanted is None:
            raise UsageError(f"{text} is not org/name or org/name@revision: zoo cache ls lists what there is")
        repo, revision = wanted
        found = [one for one in everything if one.repo == repo and (revision is None or revision in (one.commit, *one.refs))]
        if not found:
            raise NotFoundError(f"{text} is not in the cache: zoo cache ls lists what is")
        chosen += [one for one in found if one not in chosen]
    folders = [one.folder for one in chosen] + [one.folder for one in made]
    _removed(folders, store.remove(chosen) + recipes.remove(made), json_output)


@cache.command("prune", epilog=epilog("zoo cache prune"))
def cache_prune(json_output: Json = False) -> None:
    """Remove what interrupted pulls left, and what recipes made before they changed.

    What is younger than an hour stays, it may belong to a pull that still runs.
    """
    from zoo import recipes, store

    halves, left, freed = store.prune()
    made, more = recipes.prune()
    _removed([*(one.folder for one in halves), *left, *made], freed + more, json_output)


def _removed(paths: list[Path], freed: int, json_output: bool) -> None:
    if json_output:
        write_json({"removed": [str(path) for path in paths], "freed": freed})
    else:
        print_lines(terminal.out, [*(f"removed {path}" for path in paths), f"{human_bytes(freed)} freed"])


@cache.command("verify", epilog=epilog("zoo cache verify", "zoo cache verify --json"))
def cache_verify(json_output: Json = False) -> None:
    """Hash every model in the cache; exit 5 if a file is bad."""
    from zoo import hub, recipes, store

    found = [(one.repo, one.commit, store.problem_of(one.folder)) for one in store.snapshots()]
    found += [(one.name, one.key, store.problem_of(one.folder)) for one in recipes.everything()]
    if json_output:
        write_json([{"repo": repo, "commit": commit, "ok": not problem, "problem": problem} for repo, commit, problem in found])
    else:
        for repo, commit, problem in found:
            which = commit[:12] if hub.COMMIT.fullmatch(commit) else commit
            line = f"{'FAILED' if problem else 'ok':<8}{repo}@{which}{f': {problem}' if problem else ''}"
            print_lines(terminal.out, [line])
    bad = [(repo, commit) for repo, commit, problem in found if problem]
    if bad:
        first = "@".join(bad[0])
        raise IntegrityError(f"{len(bad)} of {len(found)} are bad: zoo cache rm {first}, then pull it again")


@app.command(epilog=epilog("zoo doctor", "zoo doctor --json"))
def doctor(endpoint: Endpoint = None, offline: Offline = False, json_output: Json = False) -> None:
    """Say what works here: versions, GPU, hub, cache."""
    from zoo.doctor import examine

    found = examine(endpoint=endpoint, offline=offline)
    if json_output:
        write_json(found)
        return
    runs, hub, kept = found["device"], found["hub"], found["cache"]
    state = {None: "not asked, offline", True: "answers", False: hub["problem"]}[hub["answers"]]
    lines = {
        "zoo": f"{found['zoo']}, Python {found['python']}, {found['platform']}",
        "packages": ", ".join(f"{name} {number or 'missing'}" for name, number in found["packages"].items()),
        "GPU": f"{runs['gpu']}, capability {runs['capability']}, CUDA {runs['cuda']}" if runs["gpu"] else "none",
        "backend": f"{runs['backend']}, {runs['threads']} threads on {runs['cores']} cores",
        "hub": f"{hub['endpoint']}: {state}",
        "token": "yes" if hub["token"] else "none for this hub",
        "cache": f"{kept['folder']}: {kept['models']} models, {human_bytes(kept['bytes'])}, {human_bytes(kept['free'])} free",
        "made here": f"{kept['made']} models, in {kept['notes']}",
    }
    print_lines(terminal.out, [f"{name:<11}{line}" for name, line in lines.items()])
    if hub["answers"] is False:
        terminal.warn("the hub does not answer: models that ship or are in the cache work all the same")
    if not kept["writable"]:
        terminal.warn(f"{kept['folder']} cannot be written: set HF_HOME to a folder that can")
    if kept["unfinished"]:
        terminal.warn(f"{kept['unfinished']} pulls did not end: pull them again, or zoo cache prune")
