"""Networks in the formats, and as the modules, of other frameworks.

`to_spikingjelly`, `to_sinabs`, `to_norse` and `to_snntorch` are those of `frameworks`, imported
when they are asked for; `nir.export_nir`, `onnx.export_onnx`, `recording`.

Imports: artifact, networks.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if not name.startswith("to_"):
        raise AttributeError(f"module 'zoo.exchange' has no attribute {name!r}")
    from zoo.exchange import frameworks

    return getattr(frameworks, name)
