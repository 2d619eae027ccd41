"""Which of a network's classes each label of an image set is: by name, by number or by position.

A wrong match gives a wrong accuracy and no error. So nothing is matched that contradicts itself or
could mean two things: these are refused, with the parameter `labels` that decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from zoo.data.rule import LabelRule
from zoo.errors import UsageError
from zoo.imagenet import imagenet_classes


@dataclass(frozen=True)
class Match:
    """Labels as a network has them.

    Attributes:
        labels: int64 `[N]`.
        names: the network's classes; None where nothing names them.
        seen: the labels, as the network has them, of the whole set.
        how: for the user, such as "by name".
    """

    labels: np.ndarray
    names: tuple[str, ...] | None
    seen: np.ndarray
    how: str


@dataclass(frozen=True)
class Named:
    """Labels of images with the names they have where the images come from.

    Attributes:
        labels: int64 `[N]`, 0 and up.
        names: of the classes, in label order.
        what: where the names stand, for the user: "folder names".
        seen: labels that have images in the whole set, of which these may be a draw.
    """

    labels: np.ndarray
    names: Sequence[str]
    what: str
    seen: np.ndarray

    @property
    def used(self) -> list[str]:
        """Return the names of the classes that have images."""
        return [self.names[label] for label in self.seen]

    def match(self, label_of: Mapping[str, int], names: Sequence[str] | None, how: str) -> Match:
        """Return the match that labels every name that is used by `label_of`."""
        table = np.zeros(len(self.names), np.int64)
        table[self.seen] = [label_of[name] for name in self.used]
        return Match(
            table[self.labels], None if names is None else tuple(names), table[self.seen], how
        )


def match_numbers(
    labels: np.ndarray, seen: np.ndarray, classes: int, rule: LabelRule, source: str
) -> Match:
    """Return labels that nothing names, as they are stored, or counted from 1.

    Args:
        labels: int64 `[N]`.
        seen: the labels of the whole set, of which these may be a draw.
        classes: of the network.
        rule: "auto" and all but "names" and "number-from-1" take them as they are.
        source: begins messages.

    Raises:
        UsageError: `rule` asks for names, or the labels count from 1 and `rule` does not say so.
    """
    _check(rule)
    low, high = int(seen.min()), int(seen.max())
    if rule == "names":
        raise UsageError(f"{source} does not name its classes: match them with `labels=number`")
    if rule == "number-from-1":
        if low < 1:
            raise UsageError(f"{source} has labels from {low} on: use `labels=number`")
        return Match(labels - 1, None, seen - 1, f"as stored, counted from 1 ({low} to {high})")
    if low >= 1 and high == classes:
        raise UsageError(
            f"{source} has labels {low} to {high}, labels must be 0 to {classes - 1}: if these "
            "count from 1, say so with `labels=number-from-1`"
        )
    of = "" if len(seen) == classes else f", {len(seen)} of the network's {classes} classes"
    return Match(labels, None, seen, f"as stored ({low} to {high}{of})")


def match_labels(
    source: str,
    candidates: Sequence[Named],
    classes: int,
    names: Sequence[str] | None,
    rule: LabelRule,
) -> Match:
    """Return the labels of a network of so many classes, perhaps with `names`.

    Where every class that has images is a class of the network by name, names decide: a set with
    some of a network's classes is labelled right. A network of 1,000 classes without names has
    ImageNet's, if the classes are named by WordNet ids. Else names that are numbers decide, 0 to
    classes - 1 or 1 to classes. Else the labels stay, if there are as many classes and no name is
    the network's at another place, and the network has no names or some of these.

    Args:
        source: begins messages.
        candidates: the classes of the set; after the first, other ways to see them.
        rule: "auto", or the only way that is to be tried.

    Raises:
        UsageError: names contradict each other, or they can be matched in several ways or in none.
    """
    _check(rule)
    if rule in ("auto", "names"):
        for named in candidates:
            if (match := _by_name(named, classes, names)) is not None:
                return match
        if rule == "names":
            raise _no_names(source, candidates[0], classes, names)
    known = set(names or ())
    if rule in ("number", "number-from-1") or (
        rule == "auto" and not any(known.intersection(named.used) for named in candidates)
    ):
        problem = None
        for named in candidates:
            try:
                match = _by_number(source, named, classes, names, rule)
            except UsageError as error:
                problem = problem or error
                continue
            if match is not None:
                return match
        if problem is not None:
            raise problem
        if rule != "auto":
            raise UsageError(
                f"{source} has classes whose names are no numbers ({_some(candidates[0].used)}): "
                "use another of `labels`, names or position"
            )
    return _by_position(source, candidates, classes, names, rule)


def _check(rule: LabelRule) -> None:
    if rule not in get_args(LabelRule):
        raise UsageError(f"unknown labels {rule!r}: use one of {', '.join(get_args(LabelRule))}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


# Ways in which a set may write a class: what becomes of its name, of the network's, what is said.
_WAYS: tuple[tuple[Callable[[str], str], Callable[[str], str], str], ...] = (
    (str, str, "by name"),
    (_folded, _folded, "by name, case and separators aside"),
    (
        lambda name: _folded(re.sub(r"^\d+[\W_]+", "", name)),
        _folded,
        "by name, the numbers before them aside",
    ),
    (lambda name: re.sub(r"^(n\d{8})\b.*|^(n\d{8})_.*", r"\1\2", name), str, "by WordNet id"),
)


def _by_name(named: Named, classes: int, names: Sequence[str] | None) -> Match | None:
    if names is None and classes == 1000:
        names = imagenet_classes()
    used = named.used
    for of_set, of_network, how in _WAYS if names is not None else ():
        often = Counter(map(of_network, names or ()))
        # ImageNet has two cranes.
        label_of = {
            of_network(name): label
            for label, name in enumerate(names or ())
            if often[of_network(name)] == 1
        }
        keys = [of_set(name) for name in used]
        if len(set(keys)) == len(keys) and label_of.keys() >= set(keys):
            what = "" if named.what in ("folder names", "class names") else f" ({named.what})"
            return named.match(
                {name: label_of[key] for name, key in zip(used, keys, strict=True)},
                names,
                how + what,
            )
    return None


def _by_number(
    source: str, named: Named, classes: int, names: Sequence[str] | None, rule: LabelRule
) -> Match | None:
    """Return the match by the numbers in the names; None where these are no numbers."""
    used = named.used
    parts = [re.fullmatch(r"([^0-9]*)([0-9]+)([^0-9]*)", name) for name in used]
    if not all(parts) or len({(part[1], part[3]) for part in parts if part}) > 1:
        return None
    number = {name: int(part[2]) for name, part in zip(used, parts, strict=True) if part}
    if len(set(number.values())) < len(used):
        return None
    low, high = min(number.values()), max(number.values())
    text_order = sorted(used, key=lambda name: number[name]) == sorted(used)
    whole = len(used) == len(named.names) == classes
    plain = parts[0] is not None and not parts[0][1] and not parts[0][3]
    fits = (low == 0 and high < classes) or (low > 0 and high <= classes)
    if not fits or (rule == "number-from-1" and low == 0):
        if rule == "auto" and (text_order or not whole):
            return None
        raise UsageError(
            f"{source} has classes numbered {low} to {high}, which are not the network's 0 to "
            f"{classes - 1}, nor 1 to {classes}: name them so, or take them in the order of the "
            "text with `labels=position`"
        )
    if rule == "auto" and not plain and not (whole and text_order):
        # class_1, class_10, class_2: as likely sorted as text when the network was trained.
        raise UsageError(
            f"{source} has classes named {_some(used)}, whose order as numbers and as text differ "
            "or of which some are missing: choose with `labels=number` or `labels=position`"
        )
    if rule == "auto" and low > 0 and high < classes:
        raise UsageError(
            f"{source} has classes numbered {low} to {high}, of a network of {classes}, which may "
            "count from 0 or from 1: choose with `labels=number` or `labels=number-from-1`"
        )
    first = 1 if rule == "number-from-1" or (low > 0 and high == classes) else 0
    how = f"by number in the {named.what} ({low} to {high}, counted from {first})"
    if names is None and whole and not text_order:
        how += ", which is not their order as text"
    own = tuple(sorted(used, key=lambda name: number[name])) if whole else None
    return named.match(
        {name: value - first for name, value in number.items()},
        names if names is not None else own,
        how,
    )


def _by_position(
    source: str,
    candidates: Sequence[Named],
    classes: int,
    names: Sequence[str] | None,
    rule: LabelRule,
) -> Match:
    fits = [named for named in candidates if len(named.names) == classes]
    named = next(iter(fits), candidates[0])
    seen, used = named.seen.tolist(), named.used
    place = dict(zip(used, seen, strict=True))
    if rule == "position":
        if not fits and len(named.names) > classes:
            raise UsageError(
                f"{source} has {len(named.names)} classes, the network {classes}: give as many"
            )
        own = named.names if fits else None
        return named.match(place, names if names is not None else own, "by position")
    if not fits:
        raise UsageError(
            f"{source} has {len(named.names)} named classes ({_some(used)}), the network {classes} "
            "and not all of these: add a wnids.json beside the folders, a list of the network's "
            "classes in its order"
        )
    often = Counter(names or ())
    label_of = {name: label for label, name in enumerate(names or ()) if often[name] == 1}
    strange = [name for name in used if name not in often]
    for label, name in zip(seen, used, strict=True):
        if label_of.get(name, label) != label:
            unknown = f"{_some(strange)} not at all" if strange else "other names differ"
            raise UsageError(
                f"{source} has {name} as class {label}, the network as class {label_of[name]}, and "
                f"{unknown}: name all classes as the network does"
            )
    if names is not None and len(strange) == len(used):
        raise _no_names(source, named, classes, names)
    what = f"{len(used) - len(strange)} of {len(used)} names are the network's, at their places"
    where = f"{len(named.names)} {named.what} in order"
    return named.match(place, named.names, f"by position ({what if names else where})")


def _no_names(source: str, named: Named, classes: int, names: Sequence[str] | None) -> UsageError:
    if names is None:
        return UsageError("the network does not name its classes: use another of `labels`")
    ways = "name them so, add a wnids.json with the network's classes in its order"
    if len(named.names) == classes:
        ways += ", or take them in their order with `labels=position`"
    return UsageError(
        f"{source} has classes {_some(named.used)}, of which not all are the network's "
        f"({_some(names)}): {ways}"
    )
