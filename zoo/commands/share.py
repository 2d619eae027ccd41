"""`zoo mirror` and `zoo serve`: copy and serve artifacts for machines that reach no hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zoo.commands.common import Json, epilog, terminal
from zoo.commands.terminal import print_lines, write_json
from zoo.errors import IntegrityError, NotFoundError
from zoo.text import human_bytes

app = typer.Typer()


@app.command(
    "mirror",
    epilog=epilog(
        "zoo mirror /srv/models",
        "zoo mirror /srv/models s-resnet20-digits ./s-resnet20 --name my-lab",
    ),
)
def mirror_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Folder to copy to; it is created if it does not exist."
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Models to copy: names, folders or `org/name` of a hub.  [default: all that ship]",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="ORG",
            help="Org for the models that have none.  [default: spiking-zoo]",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Copy artifacts into a folder that zoo serve can serve.

    Each becomes DIR/ORG/NAME, checked, whole or not at all. What is there already with the same
    bytes is left alone.
    """
    from zoo.models import registry
    from zoo.share import mirror as mirroring

    names = models or [entry.name for entry in registry.shipped()]
    with terminal.progress(json_output=json_output) as progress:
        rows = mirroring.mirror(
            folder, names, name=mirroring.ORG if name is None else name, progress=progress
        )
    if json_output:
        write_json([vars(row) | {"folder": str(row.folder)} for row in rows])
    else:
        print_lines(
            terminal.out,
            [
                f"{row.id}  {human_bytes(row.size)}  {'written' if row.changed else 'was there'}"
                for row in rows
            ],
        )
        terminal.note(f"next: zoo serve {folder}")


@app.command(
    "serve",
    epilog=epilog(
        "zoo serve /srv/models --host 0.0.0.0",
        'HF_ENDPOINT=http://host:8765 python -c "import huggingface_hub as h; '
        "print(h.snapshot_download('spiking-zoo/s-resnet20-digits'))\"",
    ),
)
def serve_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder with artifacts as DIR/ORG/NAME (zoo mirror)."),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 stands for all.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one."),
    ] = 8765,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="ORG", help="Org to serve as, where DIR holds the artifacts directly."
        ),
    ] = None,
) -> None:
    """Serve artifacts to huggingface_hub, read-only.

    Clients set HF_ENDPOINT to the address, which is printed on stdout. Damaged artifacts are not
    served. There is no access control and no TLS: listen where only those may connect who may read
    everything in DIR. Ctrl-C ends it, with exit code 130.
    """
    from zoo.share import serve as serving
    from zoo.share.folder import Changed, Folder

    served = Folder(folder, name)
    identities = served.ids()
    count = 0
    with terminal.progress(json_output=False) as progress:
        for number, identity in enumerate(identities):
            if progress is not None:
                progress("hashing", number, len(identities))
            try:
                served.look(*identity.split("/"))
                count += 1
            except NotFoundError:
                pass  # another folder, no artifact
            except (IntegrityError, Changed) as error:
                terminal.warn(f"not served: {error or f'{identity} is changing'}")
    terminal.note(f"{count} artifact{'' if count == 1 else 's'} in {folder}; Ctrl-C ends it")
    serving.serve(
        served,
        host,
        port,
        ready=lambda url: print(url, flush=True),
        log=None if terminal.quiet else terminal.note,
    )
