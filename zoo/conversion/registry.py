"""The conversion methods by name.

A new one is a file in `zoo.conversion.methods`, its class in `METHODS` and its name in
`zoo.artifact.config.MethodName`, by which readers of an artifact know it.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    """Return a method.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"`method={name}` is unknown: use {' or '.join(METHODS)}")
    return METHODS[name]


def default_parameters(method: str) -> dict[str, Value]:
    """Return a method's parameters with their defaults for binary causal networks."""
    return METHODS[method].Settings.resolve(method, Request(), {}).parameters()


def changed_parameters(method: str, parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Return the parameters of an artifact that differ from the method's defaults.

    A parameter that is younger than the artifact has the value that the method had without it. The
    number of images, and what a search found, are left out.
    """
    defaults = default_parameters(method)
    return {
        name: value
        for name, value in (EARLIER | dict(parameters)).items()
        if name in defaults and defaults[name] != value and name != "images"
    }
