"""Translate messages of the library: the parameters that they name become options.

A library message names Python parameters in backticks: `force=True`, `samples`, `device="cpu"`.
Here they become what is typed: --force, --samples, --device cpu.
"""

from __future__ import annotations

import re

# By command, the parameters whose option is their name with dashes.
_PLAIN = {
    "convert": (
        "arch budget device force image_column input_size interpolation label_column labels "
        "license mean method neuron numerics on_bad_image resize samples schedule seed shortcut "
        "split std stride_in timesteps url weights"
    ),
    "card": "data_license data_name data_url license url",
    "doctor": "endpoint offline",
    "eval": (
        "ann backend batch_size data_license data_name data_url device exit image_column "
        "label_column labels layers limit on_bad_image plot resume split timesteps"
    ),
    "export": "limit timesteps",
    "list": "endpoint timesteps",
    "mirror": "name",
    "publish": "data_license data_name data_url endpoint license private tag url",
    "pull": "endpoint force offline on_bad_image samples",
    "record": "backend device labels layers limit split timesteps",
    "search": "endpoint",
    "serve": "host name port",
    "show": "limit timesteps",
    "site": "force",
    "tune": (
        "batch_size device epochs force limit precision resume samples seed surrogate teacher "
        "timesteps"
    ),
    "verify": "backend device",
    "train": (
        "batch_size cutout device epochs levels mixup plot precision resume seed shortcut smallest "
        "start teacher"
    ),
}
# By command, the parameters that the command line calls otherwise: options, and its arguments.
_OTHERS = {
    "convert": {"folder": "--out", "images": "--calib", "parameters": "--parameter"},
    "eval": {"images": "--data", "state": "--resume"},
    "mirror": {"folder": "DIR"},
    "publish": {"name": "MODEL"},
    "pull": {"folder": "--local-dir", "images": "--calib"},
    "record": {"images": "--data", "what": "--what"},
    "serve": {"folder": "DIR"},
    "export": {"images": "--data"},
    "show": {"images": "--data"},
    "site": {"folder": "--out"},
    "tune": {"folder": "--out", "images": "--data", "peak_rate": "--rate"},
    "train": {"arch": "ARCH", "folder": "--out", "images": "--dataset", "peak_rate": "--rate"},
}
# A command that takes a MODEL pulls it first and has no options for that: these are zoo pull's.
_ANYWHERE = {"endpoint": "--endpoint", "force": "--force", "offline": "HF_HUB_OFFLINE=1"}
OPTIONS: dict[str, dict[str, str]] = {
    command: {name: "--" + name.replace("_", "-") for name in names.split()}
    | _OTHERS.get(command, {})
    for command, names in _PLAIN.items()
}
PARAMETERS = frozenset(name for options in OPTIONS.values() for name in options)

_SPAN = re.compile(r"`([a-z_]+)(?:=([^`]*))?`")


def option_of(parameter: str, command: str) -> str | None:
    """Return what is typed for a Python parameter in a command such as `eval`; None for nothing."""
    return OPTIONS.get(command, {}).get(parameter) or _ANYWHERE.get(parameter)


def in_option_words(text: str, command: str) -> str:
    """Return a message with its Python parameters as options.

    `name=True` becomes --name, `name=value` --name value, `name` --name. Text in backticks that is
    no parameter of the command stays as it is.

    Args:
        text: the message.
        command: the command that was typed, such as `eval`.
    """

    def replace(span: re.Match[str]) -> str:
        option = option_of(span[1], command)
        if option is None:
            return span[0]
        value = (span[2] or "").strip("\"'")
        return option if value in ("", "True") else f"{option} {value}"

    return _SPAN.sub(replace, text)
