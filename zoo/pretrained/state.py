"""Find the one residual network that a checkpoint file holds, under torchvision's names.

Training code saves a network beside optimizers, arguments and averaged copies of itself, under
wrappers and prefixes of its own. Nothing here goes by a list of them: a network is wherever the
anchor of a layout is (`zoo.pretrained.layouts`), in torchvision's names `layer1.0.conv1.weight`,
and what stands before that name is its prefix. What else stands
there is left out only where it cannot be a part of the network: counters, a loss, the mean and
standard deviation of a normalising layer. Anything else stays, for `zoo.pretrained.checkpoint` to
refuse: a network without one of its parts computes something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.errors import UsageError
from zoo.pretrained.layouts import LAYOUTS, Layout
from zoo.pretrained.unpickle import load_tensors

Weights = Literal["ema", "raw"]

_MAX_DEPTH = 8

# How averaged weights are called: state_dict_ema, model_ema, ema_model, swa_state_dict.
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged|avg)(?:$|[._])")
_BESIDE = re.compile(
    r"(?:.*\.)?(?:n_averaged|num_batches_tracked|num_updates|decay|epoch|(?:global_)?step|"
    r"best_(?:acc|prec)\d?)|(?:.*\.)?(?:criterion|loss|loss_fn|metrics?)\..*"
)
_NORMALISING = (("mean", "std"), ("mu", "sigma"))


@dataclass(frozen=True)
class State:
    """One network of a checkpoint file.

    Attributes:
        tensors: by torchvision's names, the classifier as `fc`.
        weights: which of two networks it is, the averaged (`ema`) or the other (`raw`); None where
            the file holds one.
        mean, std: of a normalising layer in the file, per channel; None where there is none.
        notes: what was found and assumed, a sentence each.
    """

    tensors: dict[str, Tensor]
    weights: Weights | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a network stands in a file.

    Attributes:
        keys: of the mappings around it.
        tensors: all that stand in the innermost mapping.
        prefix: of its own among them.
        layout: of its names.
    """

    keys: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    prefix: str
    layout: Layout

    @property
    def name(self) -> str:
        return ".".join((*self.keys, self.prefix)).strip(".") or "the plain keys"

    @property
    def averaged(self) -> bool:
        return "n_averaged" in self.tensors or bool(_AVERAGED.search(self.name))

    def equals(self, other: _Place) -> bool:
        mine, theirs = self.own(), other.own()
        return mine.keys() == theirs.keys() and all(
            torch.equal(value, theirs[key]) for key, value in mine.items()
        )

    def own(self) -> dict[str, Tensor]:
        """Return the network's tensors by their names without the prefix."""
        length = len(self.prefix)
        return {k[length:]: v for k, v in self.tensors.items() if k.startswith(self.prefix)}


def read_state(path: Path, weights: Weights | None = None) -> State:
    """Return the network in a checkpoint file.

    Args:
        weights: which one of a file that holds a network and its moving average; default the
            average, as timm's loader takes it.

    Raises:
        IntegrityError: as `zoo.pretrained.unpickle.load_tensors`.
        UsageError: the file holds several networks that are not one another's average, or not the
            one that `weights` asks for, or a classifier of several layers.
    """
    loaded, passed_over = load_tensors(path)
    notes = [f"{path.name}: passed over {', '.join(passed_over[:6])}"] if passed_over else []
    places = list(_places(loaded, (), set()))
    if not places:
        # `zoo.pretrained.checkpoint` says what is missing in it.
        plain = LAYOUTS[0].renamed(_tensors(_innermost(loaded)))
        return State(plain, notes=tuple(notes))
    place, which = _choose(path, places, weights, notes)
    elsewhere = tuple(
        other.prefix
        for other in places
        if other.tensors is place.tensors and other.prefix and other is not place
    )
    own = place.own()
    foreign = {
        key: value for key, value in place.tensors.items() if not key.startswith(place.prefix)
    }
    for part in (own, foreign):
        for key in [
            key
            for key in part
            if _BESIDE.fullmatch(key)
            or (part is foreign or not place.prefix)
            and key.startswith(elsewhere)
        ]:
            del part[key]
    mean, std = _normalising(own) or _normalising(foreign) or (None, None)
    if mean is not None and std is not None:
        values = (",".join(f"{value:.4g}" for value in side) for side in (mean, std))
        notes.append(
            f"{path.name}: its normalising layer has mean {next(values)} and std {next(values)}"
        )
    own = place.layout.renamed(own)
    _take_head(path, own, foreign, notes)
    # What is left of these is reported as unexpected.
    return State(foreign | own, which, mean, std, tuple(notes))


def _places(found: Mapping[Any, Any], keys: tuple[str, ...], visited: set[int]) -> Iterator[_Place]:
    """Yield every network in a mapping and in the mappings inside it."""
    if id(found) in visited or len(keys) > _MAX_DEPTH:
        return
    visited.add(id(found))
    tensors = _tensors(found)
    for key in tensors:
        for layout in LAYOUTS:
            if key == layout.anchor or key.endswith(f".{layout.anchor}"):
                yield _Place(keys, tensors, key.removesuffix(layout.anchor), layout)
    for key, value in found.items():
        if isinstance(value, Mapping):
            yield from _places(value, (*keys, str(key)), visited)


def _tensors(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in found.items() if isinstance(value, Tensor)}


def _innermost(found: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return the mapping itself or the one inside it that holds most tensors."""
    best, waiting, visited = found, [found], set()
    while waiting:
        one = waiting.pop()
        if id(one) in visited:
            continue
        visited.add(id(one))
        if len(_tensors(one)) > len(_tensors(best)):
            best = one
        waiting += [value for value in one.values() if isinstance(value, Mapping)]
    return best


def _choose(
    path: Path, places: list[_Place], weights: Weights | None, notes: list[str]
) -> tuple[_Place, Weights | None]:
    """Return the network to read, and which of two it is."""
    kinds: dict[Weights, list[_Place]] = {"ema": [], "raw": []}
    for place in places:
        kind = kinds["ema" if place.averaged else "raw"]
        if not any(place.equals(other) for other in kind):
            kind.append(place)
    if max(map(len, kinds.values())) > 1:
        names = [place.name for kind in kinds.values() for place in kind]
        raise UsageError(
            f"{path} holds {len(names)} networks ({', '.join(names[:6])}): save the state_dict of "
            "the one that is meant"
        )
    if kinds["ema"] and kinds["raw"]:
        which = weights or "ema"
        other: Weights = "raw" if which == "ema" else "ema"
        place = kinds[which][0]
        said = "averaged" if which == "ema" else "not averaged"
        notes.append(
            f"{path.name} holds two networks: read {place.name} ({said}), `weights={other}` reads "
            f"{kinds[other][0].name}"
        )
        return place, which
    only: Weights = "ema" if kinds["ema"] else "raw"
    place = kinds[only][0]
    if weights not in (None, only):
        raise UsageError(
            f"{path} holds one network, {place.name}, which is not what `weights={weights}` asks "
            "for: leave it out"
        )
    return place, None


def _normalising(
    tensors: dict[str, Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Remove the mean and standard deviation of a normalising layer, and return them."""
    for key in tensors:
        parent, _, last = key.rpartition(".")
        for center, spread in _NORMALISING:
            other = f"{parent}.{spread}" if parent else spread
            if last != center or other not in tensors:
                continue
            pair = tensors[key], tensors[other]
            if any(value.numel() not in (1, 3) for value in pair):
                continue
            mean, std = (tuple(value.flatten().double().tolist()) for value in pair)
            del tensors[key], tensors[other]
            return mean, std
    return None


def _take_head(
    path: Path, own: dict[str, Tensor], foreign: dict[str, Tensor], notes: list[str]
) -> None:
    """Rename the network's only linear layer to `fc`, wherever it stands, with or without bias."""
    if "fc.weight" not in own:
        linear = [
            (part, key)
            for part in (own, foreign)
            for key, value in part.items()
            if value.ndim == 2 and key.endswith(".weight")
        ]
        if len(linear) != 1:
            if len(linear) > 1:
                names = ", ".join(key.removesuffix(".weight") for _, key in linear[:4])
                raise UsageError(
                    f"{path} has {len(linear)} linear layers ({names}), where a ResNet has one: "
                    "the zoo cannot convert it"
                )
            return
        part, key = linear[0]
        name = key.removesuffix(".weight")
        own["fc.weight"] = part.pop(key)
        if f"{name}.bias" in part:
            own["fc.bias"] = part.pop(f"{name}.bias")
        if name != "linear":
            notes.append(f"{path.name}: the classifier is {name}")
    if "fc.bias" not in own and own["fc.weight"].ndim == 2:
        own["fc.bias"] = torch.zeros(len(own["fc.weight"]))
        notes.append(f"{path.name}: the classifier has no bias")
