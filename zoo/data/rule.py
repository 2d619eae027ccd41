"""The ways to match labels with a network's classes, by name; `zoo.data.labels` does it."""

from typing import Literal

LabelRule = Literal["auto", "names", "number", "number-from-1", "position"]
