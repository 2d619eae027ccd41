"""`zoo pull`, `zoo publish` and `zoo search`: fetch, share and find models on a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from zoo.commands import arguments
from zoo.commands.common import (
    DataLicense,
    DataName,
    DataUrl,
    Endpoint,
    Json,
    License,
    Model,
    Offline,
    Url,
    epilog,
    names,
    terminal,
)
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
    on_bad_image: Annotated[
        Literal["stop", "skip"],
        typer.Option(
            help="Treatment of a calibration image that cannot be decoded; skip draws another and "
            "counts those it leaves out."
        ),
    ] = "stop",
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

    Prints its folder. Only an artifact's own files are fetched, all of one commit; afterwards no
    command needs a network for it. A recipe of `zoo list` is followed here: a public ANN is
    fetched, converted, verified and kept, which takes minutes once. HF_TOKEN is sent to HF_ENDPOINT
    alone, never to another --endpoint.
    """
    if local_dir is not None:
        arguments.check_replaceable(local_dir, force, "--local-dir")
    from zoo.hub import cache
    from zoo.models import registry

    with terminal.progress(json_output=json_output, of_bytes=True) as progress:
        pulled = registry.pull(
            model,
            images=calib,
            samples=samples,
            on_bad_image=on_bad_image,
            endpoint=endpoint,
            offline=offline,
            force=force,
            progress=progress,
            log=terminal.note,
        )
    if local_dir is not None:
        pulled = cache.copy_out(pulled, local_dir)
    if pulled.warning is not None:
        terminal.warn(pulled.warning)
    if json_output:
        write_json(
            {
                "name": pulled.name,
                "repo": pulled.repo,
                "commit": pulled.commit,
                "folder": str(pulled.folder),
                "size": pulled.size,
                "fetched": pulled.fetched,
                "made": pulled.made,
                "warning": pulled.warning,
                "files": _files(pulled.files),
            }
        )
        return
    origin = (
        f"commit {pulled.commit}"
        if pulled.repo
        else f"made from {pulled.made}"
        if pulled.made
        else "ships with the zoo"
    )
    origin += ", from the cache" if (pulled.repo or pulled.made) and not pulled.fetched else ""
    terminal.note(
        f"{pulled.name}: {origin}; {len(pulled.files)} files, {human_bytes(pulled.size)}, "
        "every sha256 right"
    )
    print_lines(terminal.out, [str(pulled.folder)])


@app.command(
    "publish",
    epilog=epilog(
        "zoo publish ./s-resnet20 me/s-resnet20 --tag v1",
        "zoo publish ./s-resnet20 me/s-resnet20 --dry-run",
        "zoo publish s-resnet20-digits me/s-resnet20-digits --private",
        "zoo publish ./s-flowers me/s-flowers --license mit --url https://example.org/resnet18.pth "
        '--data-name "Flowers-102" --data-url https://example.org/flowers --data-license "CC BY"',
    ),
)
def publish_command(
    model: Model,
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
    license: License = None,
    url: Url = None,
    data_name: DataName = None,
    data_url: DataUrl = None,
    data_license: DataLicense = None,
    endpoint: Endpoint = None,
    json_output: Json = False,
) -> None:
    """Put an artifact and its card on a hub, in one commit.

    It is verified first, its spikes too, and the card is rendered from what zoo eval --save left;
    what the card lacks is named at once and can be given here. Needs HF_TOKEN with write access;
    for a hub of your own set HF_ENDPOINT with it. The same bytes again make no commit.
    """
    arguments.check_statements(license, url, data_name, data_url, data_license)
    from zoo.share.publish import publish

    terminal.note(f"checking {model}: files, spikes, card")
    with terminal.progress(json_output=json_output) as progress:
        published = publish(
            model,
            repo,
            license=license,
            url=url,
            data_name=data_name,
            data_url=data_url,
            data_license=data_license,
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
                "repo": published.repo,
                "url": published.url,
                "commit": published.commit,
                "tag": published.tag,
                "committed": published.committed,
                "dry_run": dry_run,
                "pull": published.pull,
                "files": _files(published.files),
            }
        )
        return
    if dry_run:
        terminal.note("sound and complete; nothing was sent")
    elif not published.committed:
        terminal.note("the hub has these bytes already: no new commit")
    print_lines(
        terminal.out,
        [
            *(
                f"{human_bytes(size):>10}  {name}  sha256 {sha256}"
                for name, (size, sha256) in published.files.items()
            ),
            f"{published.url}{f'/tree/{published.commit}' if published.commit else ''}",
            published.pull,
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
    """Print the zoo's models on a hub; `zoo list --remote` calls it too."""
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
