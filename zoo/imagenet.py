"""Facts of ImageNet: class ids, and the usual normalisation."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_classes() -> tuple[str, ...]:
    """The WordNet ids of the 1,000 classes of ILSVRC 2012, in the order that all its networks have: sorted."""
    return tuple((files("zoo") / "imagenet_wnids.txt").read_text().split())
