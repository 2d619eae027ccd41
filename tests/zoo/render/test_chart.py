"""The terminal chart is drawn to scale and fits; the PNG is the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.render.chart import Curve, bar, columns, plot_png, training_png


def test_columns_by_hand() -> None:
    assert columns({1: 0.0, 2: 50.0, 4: 100.0}, 75.0, height=4, width=40) == [
        "100 │                █████",
        "    │╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌█████╌╌╌ ANN 75.0",
        " 50 │        █████   █████",
        "    │        █████   █████",
        "  0 └────────────────────────",
        "  T    1       2       4",
    ]


def test_columns_show_eighths_of_a_row() -> None:
    margin = len("100 │")
    drawn = columns({1: 100 / 64, 2: 100 / 8 + 5 * 100 / 64}, height=8)
    assert [line[margin:] for line in drawn[-4:-2]] == ["        ▅▅▅▅▅", "▁▁▁▁▁   █████"]


@pytest.mark.parametrize("count", [1, 2, 6, 30, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_columns_fit_and_end_with_the_last(count: int, ascii_only: bool) -> None:
    drawn = columns(
        {step: step % 101 for step in range(1, count + 1)}, 100.0, width=60, ascii_only=ascii_only
    )
    assert len(drawn) == 10
    assert all(len(line) <= 60 for line in drawn)
    assert drawn[-1].split()[-1] == str(count)
    assert "ANN 100.0" in drawn[0]
    assert not ascii_only or "".join(drawn).isascii()


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(-1, ""), (0, ""), (0.25, "█"), (0.375, "█▌"), (1, "████"), (float("inf"), "████")],
)
def test_bar(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


def test_bar_in_ascii() -> None:
    assert bar(0.5, 4, ascii_only=True) == "##"


def test_png_is_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (extra plots)")
    curves = [Curve("a $x$", {1: 10.0, 4: 90.0}, {4: (85.0, 93.0)}), Curve("b", {2: 50.0})]
    for name in ("one.png", "two.png"):
        plot_png(tmp_path / name, curves, ann=95.0, title="$1 and $2_{")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    log = [{"epoch": epoch, "loss": 2 / epoch, "accuracy": 20.0 * epoch} for epoch in (1, 2, 3)]
    for name in ("three.png", "four.png"):
        training_png(tmp_path / name, log, top1=61.0, title="$x")
    assert (tmp_path / "three.png").read_bytes() == (tmp_path / "four.png").read_bytes()
    for column in ("loss", "accuracy"):
        training_png(
            tmp_path / "five.png", [*log[:2], log[2] | {column: 0.7}], top1=61.0, title="$x"
        )
        assert (tmp_path / "five.png").read_bytes() != (tmp_path / "three.png").read_bytes()
    training_png(tmp_path / "five.png", log, top1=62.0, title="$x")
    assert (tmp_path / "five.png").read_bytes() != (tmp_path / "three.png").read_bytes()
