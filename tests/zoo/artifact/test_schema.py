"""The published JSON Schemas are those of the models that read the files."""

from __future__ import annotations

import json
import re
from pathlib import Path

from zoo.artifact.schema import schemas

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_published_schemas_are_current():
    published = {path.name: path.read_text("utf-8") for path in (DOCS / "schemas").iterdir()}
    assert published == schemas(), "run python -m zoo.artifact.schema"


def test_a_schema_has_the_bounds():
    found = {name: json.loads(text) for name, text in schemas().items()}
    row = found["eval.schema.json"]["$defs"]["Row"]["properties"]
    assert (row["top1"]["minimum"], row["top1"]["maximum"]) == (0, 100)
    assert (row["timesteps"]["minimum"], row["timesteps"]["maximum"]) == (1, 4096)
    config = found["config.schema.json"]
    assert config["additionalProperties"] is False
    assert config["properties"]["weights_sha256"]["pattern"] == "^[0-9a-f]{64}$"


def test_the_page_of_the_format_links_every_schema():
    text = (DOCS / "format.md").read_text("utf-8")
    linked = re.findall(r"\]\(schemas/([^)]+)\)", text)
    assert sorted(linked) == sorted(schemas())
