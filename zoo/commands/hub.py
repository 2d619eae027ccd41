"""`zoo pull`, `zoo publish` and `zoo search`: models on a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zoo.commands import arguments
from zoo.commands.common import Endpoint, Json, Offline, epilog, names, terminal
from zoo.commands.terminal import new_table, print_lines, write_json
from zoo.text import human_bytes, printable

app = typer.Typer()


@app.command(
    "pull",
    epilog=epilog(
        "zoo pull s-resnet20-digits",
        "zoo pull me/s-resnet20@v1",
        "zoo pull me/s-resnet20 --local-dir ./s-resnet20",
        "zoo pull s-resnet50",
        "zoo pull s-resnet50 --calib imagenet/train --samples 64",
    ),
)
def pull_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of `zoo list`, or org/name[@revision] of a hub.",
            autocompletion=names,
        ),
    ],
    local_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to copy the model to as well.")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Training images to calibrate a recipe on.  [default: data-free]",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of images to calibrate a recipe on.  [default: the recipe's]",
        ),
    ] = None,
    endpoint: Endpoint = None,
    offline: Offline = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Fetch or convert again, and replace the artifact at --local-dir."
        ),
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
    from zoo.hub import cache
    from zoo.models import registry

    with terminal.progress(json_output=json_output, of_bytes=True) as progress:
        found = registry.pull(
            model,
            calib=calib,
            samples=samples,
            endpoint=endpoint,
            offline=offline,
            force=force,
            progress=progress,
            talk=terminal.note,
        )
    if local_dir is not None:
        found = cache.copy_out(found, local_dir)
    if json_output:
        write_json(
            {
                "name": found.name,
                "repo": found.repo,
                "commit": found.commit,
                "folder": str(found.folder),
                "size": found.size,
                "fetched": found.fetched,
                "made": found.made,
                "files": _files(found.files),
            }
        )
        return
    came = (
        f"commit {found.commit}"
        if found.repo
        else f"made from {found.made}"
        if found.made
        else "ships with the zoo"
    )
    came += ", from the cache" if (found.repo or found.made) and not found.fetched else ""
    terminal.note(
        f"{found.name}: {came}; {len(found.files)} files, {human_bytes(found.size)}, every sha256 right"
    )
    print_lines(terminal.out, [str(found.folder)])


@app.command(
    "publish",
    epilog=epilog(
        "zoo publish ./s-resnet20 me/s-resnet20 --tag v1",
        "zoo publish ./s-resnet20 me/s-resnet20 --dry-run",
    ),
)
def publish_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Artifact folder with its eval.json.")
    ],
    repo: Annotated[
        str,
        typer.Argument(
            metavar="ORG/NAME", help="Repository on the hub; it is created if it does not exist."
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is created now.")
    ] = False,
    tag: Annotated[
        str | None, typer.Option(metavar="NAME", help="Tag for the commit, such as v1.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and send nothing.")
    ] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Message of the commit.")
    ] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """Put an artifact and its card on a hub, in one commit.

    It is verified first, its spikes too, and the card is rendered from its eval.json. Needs HF_TOKEN with write access; for a hub
    of your own set HF_ENDPOINT with it. The same bytes again make no commit.
    """
    from zoo.share.publish import publish as put

    terminal.note(f"checking {folder}: files, spikes, card")
    with terminal.progress(json_output=json_output) as progress:
        done = put(
            folder,
            repo,
            private=private,
            tag=tag,
            message=message,
            dry_run=dry_run,
            endpoint=endpoint,
            progress=progress,
        )
    if json_output:
        write_json(
            {
                "repo": done.repo,
                "url": done.url,
                "commit": done.commit,
                "tag": done.tag,
                "committed": done.committed,
                "dry_run": dry_run,
                "pull": done.pull,
                "files": _files(done.files),
            }
        )
        return
    if dry_run:
        terminal.note("sound and complete; nothing was sent")
    elif not done.committed:
        terminal.note("the hub has these bytes already: no new commit")
    print_lines(
        terminal.out,
        [
            *(
                f"{human_bytes(size):>10}  {name}  sha256 {sha256}"
                for name, (size, sha256) in done.files.items()
            ),
            f"{done.url}{f'/tree/{done.commit}' if done.commit else ''}",
            done.pull,
        ],
    )


def _files(files: dict[str, tuple[int, str]]) -> dict[str, Any]:
    return {name: {"size": size, "sha256": sha256} for name, (size, sha256) in files.items()}


@app.command("search", epilog=epilog("zoo search resnet20", "zoo search cifar --author me --json"))
def search_command(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text that the name contains.")],
    author: Annotated[
        str | None,
        typer.Option(metavar="ORG", help="User or organization that the models belong to."),
    ] = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """Search a hub for models of the zoo."""
    list_remote(text, author, endpoint, json_output)


def list_remote(
    text: str | None, author: str | None, endpoint: str | None, json_output: bool
) -> None:
    """Prints the zoo's models on a hub; also what `zoo list --remote` does."""
    from zoo.hub import client as hub

    rows = hub.search_hub(text, author=author, endpoint=endpoint)
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
