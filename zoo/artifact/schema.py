"""The JSON Schemas of config.json and eval.json, from the models that read them.

`python -m zoo.artifact.schema` writes them to docs/schemas of a checkout.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from zoo.artifact.config import CONFIG, EVALUATION, Config
from zoo.artifact.results import Evaluation

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, str]:
    """Return the text of each schema by the name of its file."""
    models: dict[str, type[BaseModel]] = {CONFIG: Config, EVALUATION: Evaluation}
    return {
        name.replace(".json", ".schema.json"): json.dumps(
            {"$schema": _DRAFT} | model.model_json_schema() | {"title": name}, indent=2
        )
        + "\n"
        for name, model in models.items()
    }


if __name__ == "__main__":
    folder = Path("docs") / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in schemas().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(f"wrote {folder / name}")
