"""Write to the terminal: data on stdout, everything else on stderr."""

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
    """Output of one run of the command line: data on `out`, the rest on `err`.

    Attributes:
        quiet: print neither notes nor progress, only errors and warnings.
        no_color: print no color, as with the variable NO_COLOR.
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

    # Created anew each time: a test may have exchanged the streams.
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
        """Print something good to know; -q leaves it out."""
        if not self.quiet:
            self.say("", message)

    def warn(self, message: str) -> None:
        """Print a warning: something the result should not be used without knowing."""
        self.say("warning", message, "yellow")

    @contextlib.contextmanager
    def progress(
        self, *, json_output: bool, of_bytes: bool = False
    ) -> Iterator[Callable[[str, int, int], None] | None]:
        """Yield a progress callback that draws bars, or None where bars do not belong.

        Args:
            json_output: the command prints JSON, so there are no bars.
            of_bytes: write 1234567 as 1.2 MB at stages that are files; these have a suffix in their
                name, steps of a computation have none.
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
    """Write a value as JSON on stdout."""
    print(json.dumps(value, indent=2))


def new_table(*headers: str, left: int = 1) -> Table:
    """Return a borderless table; its first `left` columns are text, the others numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < left else "right")
    return table


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print lines without wrapping them; the terminal does that."""
    for line in lines:
        console.print(printable(line), soft_wrap=True)
