"""The changes of the ablation table are cases that were measured, and its words are right."""

from __future__ import annotations

from benchmarks import imagenet, strong


def test_every_change_has_rows() -> None:
    table = strong.ablation()
    for change, before, after, steps in strong.CHANGES:
        assert {before, after} <= strong.CASES.keys()
        assert {*steps} <= {*strong.CASES[before][1]} & {*strong.CASES[after][1]}
        assert f"| {change} |" in table


def test_bits_are_those_of_the_config() -> None:
    layers = {"a": {"bits": 4}, "b": {"bits": 6}}
    assert imagenet.graded_bits({"spike_bits": 6, "neurons": layers}) == "4 to 6 bits by layer"
    assert imagenet.graded_bits({"spike_bits": 2, "neurons": None}) == "2 bits"
