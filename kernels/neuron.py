"""The neurons that the kernels know; free of torch, so that a config can be read without it."""

from __future__ import annotations

from typing import Literal

Neuron = Literal["if", "signed", "multi-level"]
