"""Filling a folder for `zoo serve`: whole artifacts under their ids.

Or one line that says why not.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.zoo.spiking_fixtures import files_of, refuses
from zoo.cli import main
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.models import registry
from zoo.share.mirror import mirror

NAME = "s-resnet20-digits"
SHIPPED = registry.resolve(NAME)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the shipped model, with more in it than belongs to an artifact."""
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "net"))
    (folder / "README.md").write_text("# Net\n")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_copies_what_belongs_to_an_artifact(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    stages: list[tuple[str, int, int]] = []
    found = mirror(
        root, [NAME, str(own)], name="my-lab", progress=lambda *stage: stages.append(stage)
    )
    assert [(row.id, row.changed) for row in found] == [
        (f"my-lab/{NAME}", True),
        ("my-lab/net", True),
    ]
    assert files_of(root / "my-lab" / NAME) == files_of(SHIPPED)
    assert files_of(root / "my-lab" / "net").keys() == {
        "config.json",
        "model.safetensors",
        "eval.json",
        "README.md",
    }
    assert stages[-1][1:] == (2, 2)
    assert sorted(path.name for path in (root / "my-lab").iterdir()) == [
        "net",
        NAME,
    ]  # nothing hidden is left


def test_the_same_again_changes_nothing_and_another_replaces_it(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    target = mirror(root, [str(own)])[0].folder
    before = target.stat().st_ino
    assert not mirror(root, [str(own)])[0].changed and target.stat().st_ino == before
    (own / "README.md").write_text("# Another\n")
    assert (
        mirror(root, [str(own)])[0].changed and (target / "README.md").read_text() == "# Another\n"
    )
    (own / "README.md").unlink()
    assert mirror(root, [str(own)])[0].changed and not (target / "README.md").exists()


def test_a_damaged_artifact_leaves_what_was_there(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    target = mirror(root, [str(own)])[0].folder
    before = files_of(target)
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with refuses(IntegrityError, f"{own}/model.safetensors"):
        mirror(root, [str(own)])
    assert files_of(target) == before and [path.name for path in target.parent.iterdir()] == ["net"]


def test_refusals(own: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    with refuses(NotFoundError):
        mirror(root, [NAME, "no-such-model"])
    other = Path(shutil.copytree(own, tmp_path / "other" / "net"))
    with refuses(UsageError, "would both be"):
        mirror(root, [str(own), str(other)])
    for org in ("..", "a/b", "", ".hidden", "a--b", "x" * 97, "a\n"):
        with refuses(UsageError, "cannot name a repository"):
            mirror(root, [str(own)], name=org)
    assert not root.exists()  # nothing was begun
    (root / "spiking-zoo" / "net").mkdir(parents=True)
    (root / "spiking-zoo" / "net" / "thesis.tex").write_text("years of work")
    with refuses(UsageError, "is not an artifact"):
        mirror(root, [str(own)])
    assert (root / "spiking-zoo" / "net" / "thesis.tex").exists()
    with refuses(UsageError, "is not a folder"):
        mirror(own / "config.json", [str(own)])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mirror", str(tmp_path / "hub"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["changed"]) for row in rows] == [
        (f"spiking-zoo/{entry.name}", True) for entry in registry.shipped()
    ]
    assert main(["mirror", str(tmp_path / "hub"), NAME]) == 0
    out = capsys.readouterr()
    assert f"spiking-zoo/{NAME}" in out.out and "was there" in out.out and "zoo serve" in out.err


def test_a_damaged_artifact_leaves_no_folder(tmp_path: Path) -> None:
    cut = Path(shutil.copytree(registry.resolve(NAME), tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    with refuses(IntegrityError, "model.safetensors"):
        mirror(tmp_path / "new" / "hub", [str(cut)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut"]
