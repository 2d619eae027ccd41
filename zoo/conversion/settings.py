"""The request of a conversion: the kind of network, and a method's settings with bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.artifact.config import MAX_TIMESTEPS, Config
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.artifact.config import NetworkNeuron, Numerics
    from zoo.networks.run import Schedule

Value = float | int | str | bool

# Parameters that older artifacts lack, with the values that these were made with.
EARLIER: dict[str, Value] = {"tail": "mean"}

GRADED_STEPS = 4  # timesteps that the thresholds of graded spikes are chosen for

# Synaptic operations by kind of neuron, relative to those with the fewest bits in every layer. 1.25
# for graded spikes: a ResNet-56 of CIFAR-100 loses 1.50 points to its ANN at T = 1, where 4 bits in
# every layer lose 5.85, and 2.14 at T = 2 for more operations (benchmarks/results/strong).
BUDGETS = {"mixed": 2.0, "multi-level": 1.25}


@dataclass(frozen=True)
class Request:
    """The kind of network that is asked for.

    Raises:
        UsageError: an unknown value, or a combination that does not exist.
    """

    neuron: NetworkNeuron = "if"
    schedule: Schedule = "causal"
    numerics: Numerics = "int8"
    timesteps: int = 32

    def __post_init__(self) -> None:
        for name in ("neuron", "schedule", "numerics"):
            known, value = get_args(Config.model_fields[name].annotation), getattr(self, name)
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown: use {' or '.join(known)}")
        if not 1 <= self.timesteps <= MAX_TIMESTEPS:
            raise UsageError(
                f"timesteps must be 1 to {MAX_TIMESTEPS}, not {self.timesteps}: choose how many "
                "the network is meant for, 32 say"
            )
        if self.neuron != "if" and self.schedule == "layerwise":
            raise UsageError(
                f"a layerwise neuron fires once, after all its input, and is never {self.neuron}: "
                "use `neuron=if`"
            )


class MethodSettings(BaseModel):
    """Settings of a conversion method; its fields have the defaults and the bounds."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    if TYPE_CHECKING:  # every method has it, at the place in config.json where it belongs
        images: int

    @classmethod
    def defaults(cls, request: Request, given: Mapping[str, Value]) -> dict[str, Any]:
        """Return the defaults that depend on the request, or on settings that are given."""
        return {}

    @classmethod
    def resolve(cls, method: str, request: Request, given: Mapping[str, Value]) -> Self:
        """Return the settings: the defaults with what is given in their place.

        Raises:
            UsageError: a setting that the method does not have, or a value out of its bounds; the
                message names the bounds and the default.
        """
        defaults = cls.model_validate(cls.defaults(request, given)).parameters()
        for name in given:
            if name not in defaults:
                raise UsageError(
                    f"{method} has no parameter {name!r}: it has {', '.join(defaults)}"
                )
        try:
            return cls.model_validate({**defaults, **given})
        except ValidationError as error:
            raise UsageError(cls._explain(error, defaults)) from None

    @classmethod
    def _explain(cls, error: ValidationError, defaults: Mapping[str, Value]) -> str:
        first = error.errors()[0]
        name, value = str(first["loc"][0]), first["input"]
        field, default = cls.model_fields[name], defaults[name]
        if first["type"] == "literal_error":
            known = [choice for part in _parts(field.annotation) for choice in get_args(part)]
            *others, last = map(str, known)
            return f"{name} {value!r} is unknown: use {', '.join(others)} or {last}"
        if first["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
            lowest = next(m.ge for m in field.metadata if isinstance(m, annotated_types.Ge))
            highest = next(m.le for m in field.metadata if isinstance(m, annotated_types.Le))
            return (
                f"{name} must be {lowest} to {highest}, not {value}: it is {default!r} by default"
            )
        kind = type(default).__name__
        return f"{name} takes {kind} values, not {value!r}: it is {default!r} by default"

    @property
    def drawn(self) -> int:
        """Most images that a conversion with these settings draws."""
        return self.images

    def parameters(self) -> dict[str, Value]:
        """Return the settings as config.json holds them; those that do not apply are left out."""
        return self.model_dump(exclude_none=True)


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    return get_args(annotation) if type(None) in get_args(annotation) else (annotation,)


class CalibratedSettings(MethodSettings):
    """Settings of every method that chooses thresholds per channel and calibrates biases.

    Attributes:
        thresholds: mmse (least squared error), percentile, ltb (local threshold balancing),
            mmse-ltb (the smaller of both), moments (from BatchNorm's statistics) or learnt.
        levels: that `mmse` and `moments` choose thresholds for.
        percentile: share of activations below the threshold.
        iterations: batches of local threshold balancing.
        images: calibration images.
        bias: matched calibrates a bias for each timestep, ann keeps the ANN's.
        rows: timesteps with a bias of their own.
        tail: bias of the timesteps after them: limit, the one that is right after many timesteps
            (ResNet-56 of CIFAR-10, T = 128: logits are off by 0.32 in the mean square), or mean,
            that of the last rows (0.48).
        delay: rule by which the timesteps that the read-out skips are chosen
            (`zoo.conversion.readout`), or none.
        bits: of graded spikes; given without a budget, those of every layer.
        budget: synaptic operations for which layers are given more bits (`allocate`), relative to
            those without: binary spikes for `mixed`, `bits` everywhere for `multi-level`.
        blocks: of `mixed`: graded gives any layer more bits, binary only the residual stream (the
            stem and the sums), so that neurons inside the blocks stay binary.
    """

    thresholds: Literal["mmse", "percentile", "ltb", "mmse-ltb", "moments", "learnt"] = "mmse"
    levels: int = Field(16, ge=1, le=2**31)
    percentile: float = Field(0.999, ge=1e-6, le=1.0)
    iterations: int = Field(1000, ge=1, le=2**31)
    images: int = Field(256, ge=1, le=2**31)
    bias: Literal["matched", "ann"] = "matched"
    rows: int = Field(32, ge=1, le=2**31)
    tail: Literal["mean", "limit"] = "limit"
    delay: Literal["error", "search", "none"] = "error"
    stem: int = Field(1, ge=1, le=8)
    bits: Literal[2, 4] | None = None
    budget: float | None = Field(None, ge=1.0, le=16.0)
    blocks: Literal["graded", "binary"] | None = None

    @classmethod
    def defaults(cls, request: Request, given: Mapping[str, Value]) -> dict[str, Any]:
        """Return levels, and the bits of graded spikes, for the request.

        Raises:
            UsageError: several neurons a channel of the stem, and a causal network.
        """
        if given.get("stem", 1) != 1 and request.schedule != "layerwise":
            raise UsageError(
                "stem is for `schedule=layerwise`, whose neurons have T + 1 values: leave it out"
            )
        if "budget" in given and request.neuron in ("if", "signed"):
            raise UsageError(
                "`budget` gives layers more bits a spike, which `neuron=mixed` and "
                "`neuron=multi-level` have: leave it out"
            )
        if "blocks" in given and request.neuron != "mixed":
            raise UsageError(
                "blocks keeps the neurons inside the blocks binary, which `neuron=mixed` can: "
                "leave it out"
            )
        if request.neuron == "multi-level":
            # A graded spike has 2**bits - 1 levels a timestep. Bits that are given without a budget
            # are those of every layer.
            bits = 2 if given.get("bits") == 2 else 4
            by_layer = "budget" in given or "bits" not in given
            budget = {"budget": BUDGETS["multi-level"]} if by_layer else {}
            return {"levels": GRADED_STEPS * (2**bits - 1), "bits": 4, **budget}
        if request.neuron == "mixed":
            return {"budget": BUDGETS["mixed"], "blocks": "graded"}
        if request.schedule == "layerwise":
            return {"levels": request.timesteps}  # a layerwise count has T + 1 values
        if request.neuron == "signed":
            # So has that of signed neurons, which take back what came too early. Fewer than 16 were
            # not measured, and one artifact serves every T.
            return {"levels": max(16, request.timesteps)}
        # Binary causal ones want a compromise that serves every T (benchmarks/thresholds.py), and
        # more levels at many timesteps, where they are hardly uneven: at T = 64 a CIFAR-100
        # ResNet-56 loses 0.91 points to its ANN with 32, 1.11 with 16 (benchmarks/results/strong).
        return {"levels": max(16, request.timesteps // 2)}

    def parameters(self) -> dict[str, Value]:
        """Return the settings as config.json holds them, those that not all have last."""
        first, late = super().parameters(), ("stem", "bits", "budget", "blocks")
        last = {name: first.pop(name) for name in late if name in first}
        return first | last
