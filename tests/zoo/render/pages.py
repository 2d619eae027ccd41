"""Read the pages of a gallery, and copy a shipped model under other figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from zoo.models import registry

DIGITS = "s-resnet20-digits"


VOID = {"meta", "link", "input", "br"}


Change = Callable[[dict[str, Any], dict[str, Any]], None]


class Page(HTMLParser):
    """What a page holds: its elements with their attributes and text.

    Fails where a tag is not closed, or closed twice.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[tuple[tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} says {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(f"{tag}.{dict(attrs).get('class') or ''}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or any(
            parent.startswith("svg.") for parent in [*self.open, f"{tag}."]
        ), f"<{tag}/>"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop().split(".")[0] == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.said.append((tuple(self.open), data))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def text(self, without: tuple[str, ...] = ("style.", "script.")) -> str:
        return "\n".join(
            said for path, said in self.said if not any(part in without for part in path)
        )


def copy(folder: Path, name: str, change: Change | None = None) -> Path:
    """A copy of the shipped artifact under another name; `change` gets its config.

    And eval.json before they are written.
    """
    target = folder / name
    shutil.copytree(registry.resolve(DIGITS), target)
    config, found = (
        json.loads((target / file).read_text()) for file in ("config.json", "eval.json")
    )
    found["config"] = config
    if change is not None:
        change(config, found)
    (target / "config.json").write_text(json.dumps(config))
    (target / "eval.json").write_text(json.dumps(found))
    return target


def unlike(config: dict[str, Any], found: dict[str, Any]) -> None:
    """Set other numbers throughout, each its own, and no digits: no run can be drawn."""
    config["calibration"] |= {"dataset": None, "description": "photographs, train split"}
    found["data"] |= {"dataset": None, "description": "photographs, test split", "images": 4327}
    found["ann"]["top1"], found["classes"] = 87.654, []
    found |= {
        "footprint_bytes": 523411,
        "artifact_bytes": 537613,
        "images_per_second": {"64": 31.83},
    }
    for index, row in enumerate(found["rows"], 1):
        row |= {
            "top1": 11.137 * index,
            "interval95": [11.137 * index - 1.37, 11.137 * index + 1.61],
        }
        row |= {
            "firing_rate": 0.1117 * index,
            "effective_acs": 61379.3 * index**3,
            "effective_macs": 9173.0 + index,
        }
        row["energy_nj"] = {name: value * 1.37 + index for name, value in row["energy_nj"].items()}
    for index, layer in enumerate(found["layers"], 1):
        layer["firing_rate"] = {
            step: 0.0137 * index + 0.0003 * int(step) for step in layer["firing_rate"]
        }


def pages(folder: Path) -> dict[str, Page]:
    return {
        path.relative_to(folder).as_posix(): Page(path.read_text())
        for path in sorted(folder.rglob("*.html"))
    }
