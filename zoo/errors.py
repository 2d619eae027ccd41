"""Every error the zoo raises on purpose, each with the exit code of `zoo`.

A message is one line: what was wrong, then what to do next. Anything else that escapes is a bug.
"""

from __future__ import annotations


class ZooError(Exception):
    """Something the user can act on; the base of every error below.

    A message may quote what stood in a file: characters that would drive a terminal become question marks.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(char if char.isprintable() else "?" for char in message))


class UsageError(ZooError):
    """An argument has a value that cannot be used (timesteps 0, unknown neuron, images of the wrong size)."""

    exit_code = 2


class NotFoundError(ZooError):
    """A model, folder, file or data set that was named does not exist."""

    exit_code = 3


class NetworkError(ZooError):
    """A hub could not be reached, or the zoo is offline and the file is not in the cache."""

    exit_code = 4


class IntegrityError(ZooError):
    """A file is not what it should be: cut, altered, of another format, or its sha256 differs."""

    exit_code = 5


class AuthError(ZooError):
    """The hub refused the token, or wants one."""

    exit_code = 6


class GateError(ZooError):
    """A measured value failed a stated bound (too low an accuracy, an incomplete card)."""

    exit_code = 7
