"""README.md and docs/ print only what the committed result files say."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks import tables

    return tables


def test_tables_are_those_of_the_result_files(tables: ModuleType) -> None:
    found = set()
    for path in tables.documents():
        text = path.read_text()
        assert tables.filled(text) == text, f"{path.name}: run python -m benchmarks.tables"
        found |= set(re.findall(r"<!-- (\w+) -->", text))
    assert found == set(tables.TABLES)  # none that no document shows


def test_a_changed_figure_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "results" / "cifar10.md").read_text()
    assert text.count("91.73") > 3
    assert tables.filled(text.replace("91.73", "91.74")) == text


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"^\| `?s-|^\| [\w-]+ .*\| `s-", text, flags=re.M)) <= 8
