"""Long evaluations: stopped and taken up again, or by several processes, with one run's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.spiking_fixtures import image_set, random_pixels, refuses
from zoo.artifact.results import Evaluation
from zoo.errors import IntegrityError, UsageError, ZooError
from zoo.evaluation import evaluate as evaluation
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.tally import Hits, Tally

REPO = Path(__file__).resolve().parents[3]
VARYING = {"seconds", "images_per_second", "peak_memory_bytes", "command", "versions"}


def figures(result: Evaluation) -> dict[str, Any]:
    """Return everything that must not change from run to run."""
    return result.model_dump(mode="json", exclude=VARYING)


class Stopped(Exception):
    pass


def stop_after(images: int) -> Any:
    def progress(stage: str, done: int, total: int) -> None:
        if done >= images:
            raise Stopped

    return progress


@pytest.mark.parametrize("schedule", ["causal", "layerwise"])
def test_going_on_gives_the_uninterrupted_figures(
    converted, digits_file, digits_test, tmp_path, schedule
):
    converted(schedule=schedule, parameters={"rows": 4}).save(tmp_path / "net")
    some, state = digits_test.take(23, 1), tmp_path / "eval.part"

    def measured(**how):
        return evaluate(tmp_path / "net", some, [3, 5], batch_size=5, ann=digits_file, **how)

    whole = measured()
    for images in (5, 15):
        with pytest.raises(Stopped):
            measured(state=state, progress=stop_after(images))
        assert sum(json.loads(state.read_bytes())["tally"]["images"].values()) == images
    seen: list[int] = []
    assert figures(
        measured(state=state, progress=lambda stage, done, total: seen.append(done))
    ) == figures(whole)
    assert seen == [20, 23] and not state.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_state_of_something_else_is_refused(saved, converted, digits_test, tmp_path):
    some, state = digits_test.take(6, 1), tmp_path / "eval.part"
    with pytest.raises(Stopped):
        evaluate(saved, some, [2], batch_size=2, state=state, progress=stop_after(2))
    kept = state.read_bytes()
    converted().save(tmp_path / "other")
    for changes, what in (
        ({"folder": tmp_path / "other"}, "weights"),
        ({"images": digits_test.take(6, 2)}, "images"),
        ({"timesteps": [1, 2]}, "timesteps"),
        ({"batch_size": 3}, "batch size"),
    ):
        arguments: dict[str, Any] = {
            "folder": saved,
            "images": some,
            "timesteps": [2],
            "batch_size": 2,
        } | changes
        with refuses(UsageError, f"another evaluation, {what} was"):
            evaluate(**arguments, state=state)
        assert state.read_bytes() == kept
    content = json.loads(kept)
    bad = [
        b"",
        b"{}",
        b"[]",
        kept[:-9],
        kept.replace(b'"top1": ', b'"top1": "x", "a": '),
        b"[" * 100_000,
    ]
    for data in [*bad, json.dumps(content | {"tally": {"batches": -1, "more": 2}}).encode()]:
        state.write_bytes(data)
        with refuses(IntegrityError, "choose another file"):
            evaluate(saved, some, [2], batch_size=2, state=state)


def test_a_state_that_cannot_be_written(saved, digits_test, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "_STORE_EVERY", 0.0)
    with refuses(ZooError, "could not be written"):
        evaluate(
            saved,
            digits_test.take(4, 1),
            [1],
            batch_size=2,
            state=tmp_path / "nowhere" / "eval.part",
        )


def test_top5_and_classes(saved, digits_file, digits_test):
    some = digits_test.take(40, 3)
    result = evaluate(saved, some, [1, 4], batch_size=7, ann=digits_file)
    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.networks.preprocess import Preprocess

    pixels, labels = next(some.batches(Preprocess((1, 8, 8)), 40))
    logits = network_of(*read_artifact(saved)).run(pixels, 4).logits
    for row in result.rows:
        five = logits[row.timesteps - 1].topk(5).indices
        assert row.top5 == pytest.approx(
            100 * (five == labels[:, None]).any(1).float().mean().item()
        )
        assert row.top5 >= row.top1
    assert (
        result.ann is not None
        and result.ann.top5 is not None
        and result.ann.top5 >= result.ann.top1
    )
    right = logits[3].argmax(1) == labels
    assert [row.label for row in result.classes] == sorted(set(labels.tolist()))
    for row in result.classes:
        mine = labels == row.label
        assert (row.images, row.name) == (int(mine.sum()), str(row.label))
        assert row.top1 == pytest.approx(100 * right[mine].float().mean().item())
    total = sum(row.images * row.top1 for row in result.classes) / 40
    assert total == pytest.approx(result.rows[-1].top1)
    assert sum(row.images * row.ann for row in result.classes) / 40 == pytest.approx(
        result.ann.top1
    )


def test_the_command_line_goes_on(saved, digits_test, tmp_path, capsys, monkeypatch):
    """Ctrl-C leaves the counts; the same command again shows the table and removes the file."""
    from zoo.cli import main

    some, state = (
        image_set(tmp_path, random_pixels(5, 1, 8), [0, 1, 2, 3, 4]),
        tmp_path / "eval.part",
    )
    words = [
        "eval",
        str(saved),
        "--data",
        some.source,
        "--timesteps",
        "2",
        "--batch-size",
        "2",
        "--resume",
        str(state),
    ]
    take, asked = evaluation.ImageSet.batch, []

    def batch(self, indices, prep):
        asked.append(indices)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return take(self, indices, prep)

    monkeypatch.setattr(evaluation.ImageSet, "batch", batch)
    assert main(words) == 130 and state.exists()
    assert main(words) == 0 and not state.exists()
    out, err = capsys.readouterr()
    assert "going on from" in err and "top-5 %" in out
    assert [part.start for part in asked] == [0, 2, 4, 4]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=6), st.data()
)
def test_hits_are_those_of_a_stable_sort(rows, data):
    labels = data.draw(st.lists(st.integers(0, 7), min_size=len(rows), max_size=len(rows)))
    hits = Hits()
    hits.count(torch.tensor(rows, dtype=torch.float64), torch.tensor(labels))
    places = [
        sorted(range(8), key=lambda c: (-row[c], c)).index(label)
        for row, label in zip(rows, labels, strict=True)
    ]
    assert (hits.top1, hits.top5) == (places.count(0), sum(place < 5 for place in places))
    assert sum(hits.by_class.values()) == hits.top1


def test_a_logit_that_is_no_number_is_no_hit():
    hits = Hits()
    hits.count(torch.tensor([[float("nan"), 0.0, 0, 0, 0, 0]] * 2), torch.tensor([0, 1]))
    assert hits.top1 == 0


def test_parts_add_up_in_any_order():
    parts = []
    for seed in range(3):
        part = Tally.empty([1, 2], [2])
        part.batches, part.images, part.seconds = 1, {seed: 2, 7: 1}, {2: seed + 1.0}
        part.snapshots[1].spikes = {"conv1": 2**40 + seed}
        part.snapshots[2].operations, part.timed = {"fc": seed}, 2
        parts.append(part)
    forward, back = Tally.total(parts), Tally.total(parts[::-1])
    assert (
        forward == back
        and forward.snapshots[1].spikes == {"conv1": 3 * 2**40 + 3}
        and (forward.images[7], forward.timed) == (3, 6)
    )
    assert (forward.seconds[2], Tally.total(parts, at_once=False).seconds[2]) == (3.0, 6.0)
    assert parts[0].images == {0: 2, 7: 1}


def test_two_processes_give_the_figures_of_one(saved, tmp_path, monkeypatch):
    """Five batches over two processes of torch's launcher; the first alone prints and writes."""
    some = image_set(tmp_path, random_pixels(9, 1, 8), [0, 1, 2, 3, 4, 5, 6, 7, 8])
    one = evaluate(saved, some, [1, 3], batch_size=2)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")
    }
    environment |= {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [
        "eval",
        saved,
        "--data",
        some.source,
        "--timesteps",
        "1,3",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    words += ["--resume", tmp_path / "eval.part", "--output", tmp_path / "two.json", "--json"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "zoo",
    ]
    done = subprocess.run(
        [*launcher, *map(str, words)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "two.json").read_text())
    assert printed["versions"]["processes"] == "2"
    assert {name: value for name, value in printed.items() if name not in VARYING} == figures(one)
    assert "eval.part" not in " ".join(path.name for path in tmp_path.iterdir())
