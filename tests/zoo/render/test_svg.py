"""Drawings: text is escaped, numbers are short.

And the same every time, scales and ticks are right.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from zoo.render.svg import (
    Scale,
    element,
    linear_ticks,
    log_ticks,
    mark,
    number,
    text_of,
    timesteps_axis,
)

POSITIVE = st.floats(1e-3, 1e6)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (-0.001, "0"),
        (-0.01, "-0.01"),
        (1.0, "1"),
        (100, "100"),
        (2.345, "2.35"),
        (0.5, "0.5"),
    ],
)
def test_number(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_drawn(value: float) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        element("rect", x=value)


def test_element_escapes_text_and_attributes() -> None:
    made = element(
        "text",
        '<b a="1">&\x1b',
        element("tspan", 3),
        class_='"><script>',
        stroke_width=1.5,
        title=None,
    )
    assert made == (
        '<text class="&#34;&gt;&lt;script&gt;" stroke-width="1.5">&lt;b '
        "a=&#34;1&#34;&gt;&amp;?<tspan>3</tspan></text>"
    )
    assert element("line", x1=1) == '<line x1="1"/>'
    assert text_of(Markup("<b>")) == "<b>"


@given(POSITIVE, st.floats(1.1, 1e6), st.floats(0, 1), st.sampled_from(["linear", "log"]))
def test_scale_keeps_ends_and_order(low: float, times: float, share: float, kind: str) -> None:
    scale = Scale(low, low * times, 40, 400, kind)  # type: ignore[arg-type]
    assert scale(low) == pytest.approx(40)
    assert scale(low * times) == pytest.approx(400)
    middle = low + (low * times - low) * share
    assert 40 - 1e-6 <= scale(middle) <= 400 + 1e-6


def test_the_stretched_scale_gives_the_upper_end_room() -> None:
    scale = Scale(20, 100, 0, 1, "percent")
    assert (scale(20), scale(100)) == (0, 1)
    assert scale(60) < 0.25 < scale(90) < 0.6 < scale(95)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_are_round_and_inside(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    steps = [b - a for a, b in zip(ticks, ticks[1:], strict=False)]
    assert len(ticks) <= 7
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert not steps or max(steps) - min(steps) < 1e-6 * max(1.0, abs(low), span)


@given(POSITIVE, st.floats(1.2, 1e6))
def test_log_ticks_are_inside(low: float, times: float) -> None:
    ticks = log_ticks(low, low * times)
    assert len(ticks) <= 10
    assert ticks == sorted(ticks) and all(low <= tick <= low * times for tick in ticks)


def test_timesteps_have_a_tick_at_every_power_of_two() -> None:
    axis = timesteps_axis([3, 1, 33])
    assert list(axis.ticks.values()) == ["1", "2", "4", "8", "16", "32"]
    assert timesteps_axis([8]).high > 8


def test_marks_differ() -> None:
    assert len({mark(0, 0, shape) for shape in range(4)}) == 4
    assert mark(0, 0, 0) == mark(0, 0, 4)
