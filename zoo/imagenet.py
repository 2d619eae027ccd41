"""Facts of ImageNet: class ids, and the usual normalisation."""

from __future__ import annotations

from importlib.resources import files

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_classes() -> tuple[str, ...]:
    """Return the WordNet ids of the 1,000 classes of ILSVRC 2012, sorted as in every network."""
    return tuple((files("zoo") / "imagenet_wnids.txt").read_text().split())
