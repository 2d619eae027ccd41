"""Test the interface of conversion methods: settings with bounds, and how one is added."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
from pydantic import Field

from tests.zoo.spiking_fixtures import refuses
from zoo.artifact.config import MethodConfig, MethodName
from zoo.conversion.convert import convert
from zoo.conversion.methods.base import Job, Method
from zoo.conversion.registry import METHODS, changed_parameters, default_parameters, method_named
from zoo.conversion.settings import MethodSettings, Request
from zoo.errors import UsageError


class HalvedSettings(MethodSettings):
    images: int = Field(8, ge=1, le=100)
    share: float = Field(0.5, ge=0.1, le=1.0)
    rule: Literal["half", "all"] = "half"


class Halved(Method):
    """Thresholds at a share of each layer's largest activation: a method in a dozen lines."""

    name = "halved"
    Settings = HalvedSettings

    def build(self, job: Job, settings: MethodSettings):
        from zoo.conversion.build import BuildSpec, build_network
        from zoo.conversion.thresholds import Activations

        assert isinstance(settings, HalvedSettings)
        largest = Activations(job).percentile(1.0, per_channel=False)
        spec = BuildSpec(
            checkpoint=job.checkpoint,
            theta={name: settings.share * theta for name, theta in largest.items()},
            neuron=job.request.neuron,
            schedule=job.request.schedule,
            numerics=job.request.numerics,
            mean=job.mean,
            std=job.std,
            calibration=None,
        )
        return build_network(spec, job.pixels, job.request.timesteps, job.building), {}


class AnyMethodConfig(MethodConfig):
    name: str


def test_a_method_is_one_class(digits_ann, digits, monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "halved", Halved())
    # The names that an artifact's readers know are the format's.
    monkeypatch.setattr("zoo.conversion.convert.MethodConfig", AnyMethodConfig)
    options = {"mean": (0.3,), "std": (0.4,), "input_size": 8, "timesteps": 4}
    job = {"method": "halved", "parameters": {"share": 0.75}}
    result = convert(digits_ann, digits, **options, **job)
    parameters = {"images": 8, "share": 0.75, "rule": "half"}
    assert result.config.method.parameters == parameters
    assert len(result.layers) == 19 and result.agreement > 0
    assert changed_parameters("halved", parameters) == {"share": 0.75}
    with refuses(UsageError, "share must be 0.1 to 1.0, not 2.0: it is 0.5 by default"):
        convert(digits_ann, digits, **options, **(job | {"parameters": {"share": 2.0}}))
    with refuses(UsageError, "halved has no parameter 'percentile': it has images, share, rule"):
        convert(digits_ann, digits, **options, **(job | {"parameters": {"percentile": 0.9}}))
    with refuses(UsageError, "rule 'none' is unknown: use half or all"):
        convert(digits_ann, digits, **options, **(job | {"parameters": {"rule": "none"}}))
    with refuses(UsageError, "images takes int values, not '3': it is 8 by default"):
        convert(digits_ann, digits, **options, **(job | {"parameters": {"images": "3"}}))


def test_the_format_knows_every_method():
    assert set(get_args(MethodName)) == METHODS.keys()


def test_parameters_keep_their_order_in_config_json():
    calibrated = [
        *("thresholds", "levels", "percentile", "iterations", "images", "bias", "rows", "tail"),
        *("delay", "tune", "tune_images", "tune_rate", "stem"),
    ]
    assert list(default_parameters("calibrated")) == calibrated
    graded = METHODS["calibrated"].settings(Request(neuron="multi-level"), {"bits": 2})
    assert list(graded.parameters()) == [*calibrated, "bits"]
    assert (graded.parameters()["levels"], graded.parameters()["bits"]) == (12, 2)
    assert list(default_parameters("hu2018")) == ["percentile", "images", "steps"]
    assert list(default_parameters("data-free"))[9:] == ["steps", "rate", "stem"]


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_within_their_bounds(method):
    given = default_parameters(method)
    again = METHODS[method].settings(Request(), given)
    assert again.parameters() == given
    assert changed_parameters(method, dict(given)) == {}


@pytest.mark.parametrize("method", ["calibrated", "data-free"])
@pytest.mark.parametrize(
    ("asked", "given", "expected"),
    [
        (Request(), {}, {"levels": 16, "bits": None, "budget": None}),
        (Request(timesteps=8), {}, {"levels": 16}),
        (Request(timesteps=64), {}, {"levels": 32}),
        (Request("mixed", timesteps=64), {}, {"levels": 16}),
        (Request("signed", timesteps=24), {}, {"levels": 24, "budget": None}),
        (Request("signed", timesteps=2), {}, {"levels": 16}),
        (Request("signed"), {"levels": 16}, {"levels": 16}),
        (Request(schedule="layerwise", timesteps=8), {}, {"levels": 8}),
        (Request("multi-level"), {}, {"levels": 60, "bits": 4, "budget": 1.25}),
        (Request("multi-level"), {"bits": 4}, {"levels": 60, "bits": 4, "budget": None}),
        (Request("multi-level"), {"bits": 2}, {"levels": 12, "bits": 2, "budget": None}),
        (Request("multi-level"), {"bits": 2, "budget": 2.0}, {"levels": 12, "budget": 2.0}),
        (Request("mixed"), {}, {"levels": 16, "budget": 2.0, "blocks": "graded"}),
    ],
)
def test_defaults_depend_on_what_is_asked_for(method, asked, given, expected):
    found = method_named(method).settings(asked, given).parameters()
    assert {name: found.get(name) for name in expected} == expected


def test_what_differs_from_the_defaults():
    assert changed_parameters("calibrated", {"levels": 8, "images": 3}) == {
        "levels": 8,
        "tail": "mean",
    }
    with refuses(UsageError, "`method=hu2019` is unknown: use hu2018 or calibrated or data-free"):
        method_named("hu2019")
