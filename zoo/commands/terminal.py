"""How the command line talks: data on stdout, what is said about it on stderr, files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from zoo.commands.messages import in_option_words
from zoo.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


class Terminal:
    """What a run of the command line says: data on `out`, the rest on `err`.

    Attributes:
        quiet: neither notes nor progress, only errors and warnings.
        no_color: no colour, as with the variable NO_COLOR.
        command: the command line itself, for the record.
    """

    def __init__(self) -> None:
        self.quiet = self.no_color = False
        self.command = "zoo"

    def _console(self, stderr: bool) -> Console:
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        # A file or a pipe has no width: tables are not cut to 80 columns there.
        width = None if stream.isatty() else 160
        return Console(
            stderr=stderr,
            width=width,
            no_color=self.no_color or None,
            markup=False,
            highlight=False,
            emoji=False,
        )

    # Made anew each time: a test may have exchanged the streams.
    @property
    def out(self) -> Console:
        return self._console(stderr=False)

    @property
    def err(self) -> Console:
        return self._console(stderr=True)

    def say(self, kind: str, message: object, style: str = "") -> None:
        """Print one line on stderr, whatever is in the message; parameters become options."""
        from rich.text import Text

        words = shlex.split(self.command)[1:]
        name = next((word for word in words if not word.startswith("-")), "")
        line = printable(in_option_words(" ".join(str(message).split()), name))
        self.err.print(
            Text.assemble((f"{kind}: ", f"bold {style}") if kind else "", line), soft_wrap=True
        )

    def note(self, message: str) -> None:
        """Something good to know; -q leaves it out."""
        if not self.quiet:
            self.say("", message)

    def warn(self, message: str) -> None:
        """Something the result should not be used without knowing."""
        self.say("warning", message, "yellow")

    @contextlib.contextmanager
    def progress(
        self, *, json_output: bool, of_bytes: bool = False
    ) -> Iterator[Callable[[str, int, int], None] | None]:
        """A progress callback that draws bars, or None where bars do not belong.

        `of_bytes` writes 1234567 as 1.2 MB at stages that are files: they have a suffix, steps of a computation have none.
        """
        if self.quiet or json_output or not sys.stderr.isatty():
            yield None
            return
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            Task,
            TaskID,
            TextColumn,
            TimeElapsedColumn,
        )

        class Count(MofNCompleteColumn):
            files = DownloadColumn()

            def render(self, task: Task) -> Text:
                return (
                    self.files.render(task)
                    if of_bytes and "." in task.description
                    else super().render(task)
                )

        parts = (TextColumn("{task.description}"), BarColumn(), Count(), TimeElapsedColumn())
        with Progress(*parts, console=self.err, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def update(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield update


def write_json(value: Any) -> None:
    """A value as JSON on stdout."""
    print(json.dumps(value, indent=2))


def new_table(*headers: str, left: int = 1) -> Table:
    """A borderless table; its first `left` columns are text, the others numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < left else "right")
    return table


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Lines that are never wrapped; the terminal does that."""
    for line in lines:
        console.print(printable(line), soft_wrap=True)
