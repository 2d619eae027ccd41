"""A gallery of three models for the tests of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.zoo.render.pages import DIGITS, copy, unlike
from zoo.render import site


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships, beside two models of one ANN that are not about digits."""
    folder = tmp_path_factory.mktemp("gallery")

    def signed(config: dict[str, Any], found: dict[str, Any]) -> None:
        unlike(config, found)
        config["neuron"] = found["neuron"] = "signed"
        config["source"] |= {"url": "https://example.org/net.th?a=1&b=2", "sha256": "1" * 64}
        found["rows"] = found["rows"][2:5]

    models = [DIGITS, copy(folder, "photos", unlike), copy(folder, "photos signed", signed)]
    site.build_site(folder / "site", list(map(str, models)))
    return folder / "site"
