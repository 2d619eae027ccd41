"""The recipe of the zoo's own networks: its order, its commands, and both phases of one network."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import family


def settings(**changes: object) -> argparse.Namespace:
    given = {
        "data": "digits",
        "epochs": 1,
        "batch_size": 500,
        "rate": 0.04,
        "teacher": None,
        "smallest": 0,
        "compile": False,
        "device": "cpu",
        "jobs": 2,
        "budget": 300.0,
    }
    return argparse.Namespace(**(given | changes))


def test_the_phases(tmp_path: Path) -> None:
    jobs = family.jobs(tmp_path, "")
    assert [job.name for job in jobs[:2]] == ["resnet20", "resnet56"]
    half = len(family.FAMILY)
    assert {job.levels for job in jobs[:half]} == {0} and {job.levels for job in jobs[half:]} == {8}
    first, second = family.jobs(tmp_path, "resnet56")
    assert first.ready() and not second.ready() and second.start == first
    words = second.command(settings(epochs=120, rate=0.2, teacher="s-resnet20"))
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--start"] == str(tmp_path / "resnet56" / "resnet56.safetensors")
    assert (options["--epochs"], options["--rate"], options["--cutout"]) == ("20", "0.05", "8")
    assert options["--teacher"] == "s-resnet20" and "--start" not in first.command(settings())
    small = settings(smallest=20, compile=True)
    assert first.command(small)[-1] == "--compile" == second.command(small)[-1]
    sides = [
        job.command(small)[job.command(small).index("--smallest") + 1] for job in (first, second)
    ]
    assert sides == ["20", "0"]
    first.folder.mkdir()
    (first.folder / "training.safetensors").touch()
    assert first.command(settings())[-1] == "--resume"


def test_a_network_is_trained_in_both(tmp_path: Path) -> None:
    jobs = family.jobs(tmp_path, "resnet20")
    family.run(jobs, settings())
    assert all(job.done() for job in jobs), [
        (job.folder / "train.log").read_text() for job in jobs if job.folder.is_dir()
    ]
    first, second = (json.loads((job.folder / "log.json").read_text()) for job in jobs)
    assert (first["plan"]["levels"], second["plan"]["levels"]) == (0, 8)
    assert second["start"]["settings"] == first["plan"]
