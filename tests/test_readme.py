"""README.md prints only what the committed result files say."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_tables_are_those_of_the_result_files(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.readme import filled

    text = (ROOT / "README.md").read_text()
    assert filled(text) == text, "run python -m benchmarks.readme"
    assert filled(text.replace("91.73", "91.74")) == text
