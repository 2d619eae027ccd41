"""Settings of a conversion: defaults, bounds, and what they depend on."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.errors import UsageError


def check_calibration(method: str, given: bool) -> None:
    """Says that a method lacks the images it calibrates on, or has no use for them."""
    if method == "data-free" and given:
        raise UsageError(
            "data-free conversion makes its own images: leave `images` out, or choose another `method`"
        )
    if method != "data-free" and not given:
        raise UsageError(
            f"`method={method}` calibrates on images: give training `images`, or use "
            "`method=data-free`"
        )


Value = float | int | str | bool


DEFAULTS: dict[str, dict[str, Value]] = {
    "hu2018": {"percentile": 0.999, "images": 128, "steps": 8},
    "calibrated": {
        "thresholds": "mmse",
        "levels": 16,
        "percentile": 0.999,
        "iterations": 1000,
        "images": 256,
        "bias": "matched",
        "rows": 32,
        "tail": "limit",
        "delay": "search",
        "tune": 0,
        "tune_images": 20_000,
        "tune_rate": 4e-4,
        "stem": 1,
    },
    "data-free": {
        "thresholds": "mmse",
        "levels": 16,
        "percentile": 0.999,
        "iterations": 1000,
        "images": 128,
        "bias": "matched",
        "rows": 32,
        "tail": "limit",
        "delay": "search",
        "steps": 50,
        "rate": 0.1,
        "stem": 1,
    },
}


# What artifacts were made with whose method did not have these parameters yet.
EARLIER: dict[str, Value] = {"tail": "mean"}


_BITS = (2, 4)  # of a graded spike; a byte holds a whole number of them


_GRADED_STEPS = 4  # timesteps that thresholds of graded spikes are chosen for


# Numbers among the parameters are 1 or more, but for these.
_BOUNDS: dict[str, tuple[float, float]] = {
    "percentile": (1e-6, 1.0),
    "tune": (0, 10**6),
    "tune_rate": (1e-9, 1.0),
    "rate": (1e-9, 10.0),
    "stem": (1, 8),
}


def resolve_settings(
    method: str,
    neuron: str,
    schedule: str,
    numerics: str,
    timesteps: int,
    parameters: Mapping[str, Value] | None,
) -> dict[str, Value]:
    for what, value, known in (
        ("method", method, tuple(DEFAULTS)),
        ("neuron", neuron, ("if", "signed", "multi-level")),
        ("schedule", schedule, ("causal", "layerwise")),
        ("numerics", numerics, ("int8", "float32")),
    ):
        if value not in known:
            raise UsageError(f"{what} {value!r} is unknown: use {' or '.join(known)}")
    if not 1 <= timesteps <= 4096:
        raise UsageError(
            f"timesteps must be 1 to 4096, not {timesteps}: choose how many the network is meant for, 32 say"
        )
    if neuron != "if" and schedule == "layerwise":
        raise UsageError(
            f"a layerwise neuron fires once, after all its input, and is never {neuron}: use `neuron=if`"
        )
    settings = dict(DEFAULTS[method])
    if (parameters or {}).get("stem", 1) != 1 and schedule != "layerwise":
        raise UsageError(
            "stem is for `schedule=layerwise`, whose neurons have T + 1 values: leave it out"
        )
    if schedule == "layerwise" and method != "hu2018":
        # A layerwise count has T + 1 levels; causal neurons want a compromise that serves every T
        # (python -m benchmarks.thresholds).
        settings["levels"] = timesteps
    if neuron == "multi-level":
        if method == "hu2018":
            raise UsageError(
                "hu2018 is a method for binary spikes: use `method=calibrated` with "
                "`neuron=multi-level`"
            )
        settings["bits"], asked = _BITS[-1], (parameters or {}).get("bits")
        # Graded spikes have 2**bits - 1 levels a timestep.
        settings["levels"] = _GRADED_STEPS * (2 ** int(asked if asked in _BITS else _BITS[-1]) - 1)
    for name, setting in (parameters or {}).items():
        if name not in settings:
            raise UsageError(f"{method} has no parameter {name!r}: it has {', '.join(settings)}")
        number = isinstance(settings[name], int | float) and not isinstance(setting, str | bool)
        if type(setting) is not type(settings[name]) and not (
            number and isinstance(settings[name], float)
        ):
            kind = type(settings[name]).__name__
            raise UsageError(
                f"{name} takes {kind} values, not {setting!r}: it is {settings[name]!r} by default"
            )
        lowest, highest = _BOUNDS.get(name, (1, 2**31))
        if number and not lowest <= float(setting) <= highest:
            raise UsageError(
                f"{name} must be {lowest} to {highest}, not {setting}: it is {settings[name]!r} by default"
            )
        settings[name] = setting
    choices: dict[str, tuple[Value, ...]] = {
        "bias": ("matched", "ann"),
        "tail": ("mean", "limit"),
        "delay": ("search", "none"),
        "bits": _BITS,
    }
    for name, allowed in choices.items():
        if settings.get(name, allowed[0]) not in allowed:
            raise UsageError(
                f"{name} {settings[name]!r} is unknown: use {' or '.join(map(str, allowed))}"
            )
    return settings
