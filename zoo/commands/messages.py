"""From the library's words to the command line's: parameters in a message become options.

A library message names Python parameters in backticks: `force=True`, `samples`, `device="cpu"`.
Here they become what is typed: --force, --samples, --device cpu.
"""

from __future__ import annotations

import re

# Parameters whose option is their name with dashes.
_PLAIN = (
    "ann",
    "arch",
    "backend",
    "batch_size",
    "device",
    "endpoint",
    "epochs",
    "force",
    "host",
    "input_size",
    "interpolation",
    "levels",
    "license",
    "limit",
    "mean",
    "method",
    "name",
    "neuron",
    "numerics",
    "offline",
    "plot",
    "port",
    "precision",
    "private",
    "resize",
    "resume",
    "samples",
    "schedule",
    "seed",
    "shortcut",
    "split",
    "start",
    "std",
    "stride_in",
    "tag",
    "timesteps",
    "url",
)
# Parameters that the command line calls otherwise; by command where commands differ.
_OTHERS: dict[str, str | dict[str, str]] = {
    "folder": "--out",
    "images": {
        "convert": "--calib",
        "pull": "--calib",
        "train": "--dataset",
        "eval": "--data",
    },
    "parameters": "--parameter",
    "peak_rate": "--rate",
    "state": "--resume",
}
PARAMETERS = frozenset((*_PLAIN, *_OTHERS))

_SPAN = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def option_of(parameter: str, command: str) -> str | None:
    """Return the option of a Python parameter for a command such as `eval`; None for none."""
    if parameter in _PLAIN:
        return "--" + parameter.replace("_", "-")
    other = _OTHERS.get(parameter)
    return other.get(command) if isinstance(other, dict) else other


def in_option_words(text: str, command: str) -> str:
    """Return a message with its Python parameters as options.

    `name=True` becomes --name, `name=value` --name value, `name` --name. Text in backticks that is
    no parameter of the command stays as it is.

    Args:
        command: that was typed, such as `eval`.
    """

    def replace(span: re.Match[str]) -> str:
        option = option_of(span[1], command)
        if option is None:
            return span[0]
        value = (span[2] or "").strip("\"'")
        return option if value in ("", "True") else f"{option} {value}"

    return _SPAN.sub(replace, text)
