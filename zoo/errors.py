"""Define every error the zoo raises on purpose, each with the exit code of `zoo`.

A message is one line: what was wrong, then what to do next. Anything else that escapes is a bug.
"""

from __future__ import annotations


class ZooError(Exception):
    """Base of every error below: something that the user can act on.

    A message may quote the content of a file: characters that would drive a terminal become
    question marks.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(char if char.isprintable() else "?" for char in message))


class UsageError(ZooError):
    """Raised for an argument that cannot be used.

    Examples are timesteps of 0, an unknown neuron, images of the wrong size.
    """

    exit_code = 2


class NotFoundError(ZooError):
    """Raised when a model, folder, file or data set that was named does not exist."""

    exit_code = 3


class NetworkError(ZooError):
    """Raised when no hub can be reached, or offline for a file that is not in the cache."""

    exit_code = 4


class IntegrityError(ZooError):
    """Raised for a damaged file: cut, altered, of another format, or with another sha256."""

    exit_code = 5


class AuthError(ZooError):
    """Raised when the hub refuses the token, or requires one."""

    exit_code = 6


class GateError(ZooError):
    """Raised when a measured value fails a stated bound (low accuracy, incomplete card)."""

    exit_code = 7
