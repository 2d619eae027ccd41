"""Build hook: refuse an editable install of a checkout whose links are small text files.

A wheel needs no links (pyproject.toml puts `kernels/` and `cli.py` in their place); an editable
install imports `zoo/kernels` and `zoo/cli.py` from the checkout itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LINKS = ("zoo/kernels", "zoo/cli.py")


class CustomBuildHook(BuildHookInterface):
    """Check the links of the checkout before an editable build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Abort with one line if `version` is editable and a link is missing."""
        broken = [link for link in LINKS if not (Path(self.root) / link).is_symlink()]
        if version == "editable" and broken:
            self.app.abort(
                f"{broken[0]} is not a symlink, so an editable install would not work: run `git "
                "config core.symlinks true` and `git checkout -- zoo`, or install without -e"
            )
