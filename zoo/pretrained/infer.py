"""Tell the architecture of a network from the names and shapes of its convolutions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import Tensor

from zoo.errors import UsageError
from zoo.networks.architectures import ARCHITECTURES, cifar_name, topology
from zoo.networks.topology import Topology

_STEMS = ("conv1.weight", "conv1.0.weight")


def infer(state: Mapping[str, Tensor]) -> tuple[str, Literal["A", "B"]] | None:
    """Return the only architecture whose convolutions these are, and its shortcut; None if none.

    Args:
        state: by torchvision's names.
    """
    found = {key: tuple(value.shape) for key, value in state.items() if value.ndim == 4}
    channels = max(1, next((found[stem][1] for stem in _STEMS if stem in found), 3))
    for arch in _candidates(found):
        for shortcut in _shortcuts(arch):
            net = topology(arch, in_channels=channels, shortcut=shortcut)
            if convolutions(net) == found:
                return arch, shortcut
    return None


def convolutions(net: Topology) -> dict[str, tuple[int, ...]]:
    """Return the shape of each convolution of a topology, by its name in a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in net.layers:
        inputs = layer.in_channels // layer.groups
        shapes[f"{layer.name}.weight"] = (layer.out_channels, inputs, layer.kernel, layer.kernel)
        side = layer.shortcut
        if side is not None and side.kind == "projection":
            kernel = 1 if side.averaged else side.kernel
            width = net.channels[side.source]
            shapes[f"{side.conv}.weight"] = (layer.out_channels, width, kernel, kernel)
    return shapes


def is_form_of(arch: str, given: str) -> bool:
    """Return whether `arch` is the network that users mean by `given`, in another form.

    That is one with another stem (`resnet18_cifar`) or other widths (`resnet20x4`).
    """
    return arch != given and given in (
        arch.removesuffix("_cifar"),
        re.sub(r"(x\d+)?(_stem\d+)?$", "", arch),
        re.sub(r"_stem\d+$", "", arch),
    )


def _candidates(found: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield the architectures that may have such convolutions."""
    first, inner = found.get("conv1.weight"), found.get("layer1.0.conv1.weight")
    if first is not None and inner is not None and "layer4.0.conv1.weight" not in found:
        width, stem = max(1, inner[0] // 16), max(1, first[0])
        for arch in ARCHITECTURES:
            try:
                topology(name := cifar_name(arch, width, stem))
            except UsageError:
                continue
            yield name
    yield from ARCHITECTURES


def _shortcuts(arch: str) -> tuple[Literal["A", "B"], ...]:
    try:
        topology(arch, shortcut="A")
    except UsageError:
        return ("B",)
    return ("A", "B")
