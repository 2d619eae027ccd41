"""The pages of the gallery: their links, their markup, and text from a model as text alone."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tests.zoo.render.pages import DIGITS, Page, copy, pages
from zoo.render import site

HOSTILE = '<script>alert("1")</script>&amp;'


def test_every_link_resolves(gallery: Path) -> None:
    known = {
        name: {a["id"] for _, a in page.elements if "id" in a}
        for name, page in pages(gallery).items()
    }
    for name, page in pages(gallery).items():
        local = [
            href
            for a in page.all("a")
            if not (href := str(a["href"])).startswith("https://example.org/")
        ]
        assert local
        for href in local:
            path, _, part = href.partition("#")
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert target in known, href
            assert not part or part in known[target], href
    assert {f"models/{model}.html" for model in (DIGITS, "photos", "photos-signed")} <= {
        a["href"] for a in Page((gallery / "index.html").read_text()).all("a")
    }


def test_pages_can_be_used_without_seeing_them(gallery: Path) -> None:
    for page in pages(gallery).values():
        tags = [tag for tag, _ in page.elements]
        assert [tags.count(tag) for tag in ("main", "header", "footer", "nav", "h1", "title")][
            :5
        ] == [1] * 5
        ids = [a["id"] for _, a in page.elements if a.get("id")]
        assert len(ids) == len(set(ids))
        for _, attributes in page.elements:
            for name in ("aria-labelledby", "aria-describedby", "for"):
                assert set((attributes.get(name) or "").split()) <= set(ids)
        drawn = [a for a in page.all("svg") if "aria-hidden" not in a]
        assert drawn and all(
            a["role"] == "img" and a["aria-labelledby"] and a["aria-describedby"] for a in drawn
        )
        assert all(a.get("scope") for a in page.all("th"))
        assert tags.count("table") == tags.count("caption")


def test_nothing_is_loaded(gallery: Path) -> None:
    for path in gallery.rglob("*.html"):
        text, page = path.read_text(), Page(path.read_text())
        assert not [
            a
            for _, a in page.elements
            if {"src", "srcset", "data", "poster", "xlink:href"} & a.keys()
        ]
        assert [a["href"] for a in page.all("link")] == ["data:,"]
        assert not re.search(r"@import|url\(", text)
        assert len(page.all("script")) == len(page.all("style")) == 1
        policy = next(
            a["content"]
            for a in page.all("meta")
            if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy and policy.startswith("default-src 'none'; ") and "unsafe" not in policy
        web = {a.get("href") for a in page.all("a") if "://" in str(a.get("href"))}
        assert len(re.findall(r"\w+://", text)) == 2 * len(web)  # a link and its text


def test_text_from_a_model_is_only_text(tmp_path: Path) -> None:
    def hostile(config: dict[str, Any], found: dict[str, Any]) -> None:
        config["source"] |= {"license": HOSTILE, "name": HOSTILE, "url": "javascript:alert(1)"}
        config["calibration"]["description"] = f"\x00\x1b[31m{HOSTILE}"
        config["class_names"] = [f"{HOSTILE}{digit}" for digit in range(10)]
        config["method"]["parameters"][HOSTILE] = HOSTILE
        found["ann"]["source"] = found["command"] = found["device"] = found["layers"][0]["name"] = (
            HOSTILE
        )
        found["versions"] = {HOSTILE: HOSTILE}
        found["data"] |= {"description": HOSTILE, "dataset": None}

    name = HOSTILE.replace("/", "")
    folder = copy(tmp_path, name, hostile)
    site.build_site(tmp_path / "site", [str(folder)])
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (tmp_path / "site").rglob("*"))
    for page in pages(tmp_path / "site").values():
        assert len(page.all("script")) == 1
        assert not [a for a in page.all("a") if ":" in str(a.get("href"))]
        assert not [tag for tag, a in page.elements for key in a if key.startswith("on")]
        assert name in page.text() and not re.search(r"[\x00-\x08\x1b]", page.text())
    assert page.text().count(HOSTILE) > 30
