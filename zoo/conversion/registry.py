"""The conversion methods by name."""

from __future__ import annotations

from typing import Any

from zoo.conversion.methods.base import Method
from zoo.conversion.methods.calibrated import Calibrated
from zoo.conversion.methods.data_free import DataFree
from zoo.conversion.methods.hu2018 import Hu2018
from zoo.conversion.settings import EARLIER, Request, Value
from zoo.errors import UsageError

METHODS: dict[str, Method] = {
    method.name: method for method in (Hu2018(), Calibrated(), DataFree())
}


def method_named(name: str) -> Method:
    """Return a method; raise UsageError if there is none of that name."""
    if name not in METHODS:
        raise UsageError(f"`method={name}` is unknown: use {' or '.join(METHODS)}")
    return METHODS[name]


def default_parameters(method: str) -> dict[str, Value]:
    """Return a method's parameters with their defaults, of binary causal networks."""
    return METHODS[method].Settings.resolve(method, Request(), {}).parameters()


def changed_parameters(method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of an artifact that differ from the method's defaults.

    What an artifact of before a parameter's introduction was made with counts as given. Leaves out
    the number of images, and what a search found.
    """
    if method not in METHODS:  # of a newer zoo, or somebody's own
        return {name: value for name, value in parameters.items() if name != "images"}
    defaults = default_parameters(method)
    made_with = EARLIER | parameters
    return {
        name: value
        for name, value in made_with.items()
        if name in defaults and defaults[name] != value and name != "images"
    }
