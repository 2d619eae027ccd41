"""Data sets with a name: their pinned files on the hub, and how images are recognized as one.

`open_images("cifar10", "test")` and an evaluation without images use them. Files are fetched once,
into the hub client's own cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from zoo.data.images import ImageSet


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        file: its path in the repository on the hub.
        sha256: of the file.
        images: number of images in it.
        digest: `digest` of the images; None: not known here.
    """

    file: str
    sha256: str
    images: int
    digest: str | None


@dataclass(frozen=True)
class Terms:
    """What a card says of a data set; None: nobody said it.

    Attributes:
        name: what people call it.
        source: where it is from, an address for example.
        license: the terms that its images come with.
    """

    name: str | None = None
    source: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set that has a name.

    Attributes:
        title: for people.
        repo: its repository on the hub; None: the package holds it.
        revision: the commit of the repository.
        splits: by name, "train" and "test".
        source: the address of its authors' page.
        license: the terms that its images come with.
    """

    title: str
    repo: str | None
    revision: str | None
    splits: dict[str, Split]
    source: str
    license: str

    @property
    def terms(self) -> Terms:
        return Terms(self.title, self.source, self.license)


_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_UNSTATED = "not stated by its authors"

KNOWN = {
    "cifar10": DataSet(
        "CIFAR-10",
        "uoft-cs/cifar10",
        "0b2714987fa478483af9968de7c934580d0bb9a2",
        {
            "train": Split(
                "plain_text/train-00000-of-00001.parquet",
                "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
                50_000,
                "6c3d94351344c6460973c9795f4a4fcc19984b1b894a9b39889a02e380f4d4d3",
            ),
            "test": Split(
                "plain_text/test-00000-of-00001.parquet",
                "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
                10_000,
                "7742db831caeba84ea1d4663e0d07ca1879cbb76e501e036935be5fd5506749b",
            ),
        },
        _CIFAR,
        _UNSTATED,
    ),
    "cifar100": DataSet(
        "CIFAR-100",
        "uoft-cs/cifar100",
        "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        {
            "train": Split(
                "cifar100/train-00000-of-00001.parquet",
                "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
                50_000,
                "f21948361e3a1c94d1f14ec03fe682372044407fa6a618f020b2ed8dcc41d84d",
            ),
            "test": Split(
                "cifar100/test-00000-of-00001.parquet",
                "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
                10_000,
                "dc83e74dc0797ec7de75164abeb59d8c66b9677d62e46ddb8ce1ab1608ba1b7d",
            ),
        },
        _CIFAR,
        _UNSTATED,
    ),
    "digits": DataSet(
        "scikit-learn digits",
        None,
        None,
        {
            "train": Split(
                "", "", 1437, "e62618f6d5ad31c3e9098f79d62cdf49c532fb72eff7071a79fcf621511dcc6d"
            ),
            "test": Split(
                "", "", 360, "bc2188524b7fb3b20fa7fa8a420f38fbcf9dbd37989eabcd1b7563a810d7d42e"
            ),
        },
        "https://doi.org/10.24432/C50P49",
        "CC BY 4.0",
    ),
}

# Data sets whose images the zoo neither holds nor knows, by the short name that `terms_of` takes,
# with their repository on the hub.
_FAMILIAR = {
    "imagenet": (
        Terms(
            "ImageNet-1k",
            "https://www.image-net.org",
            "ImageNet's terms of access: non-commercial research and education",
        ),
        "ILSVRC/imagenet-1k",
    ),
}


def terms_of(
    name: str | None = None, source: str | None = None, license: str | None = None
) -> Terms:
    """Return what a user states of a data set.

    Args:
        name: what people call it, or a short name: `imagenet`, `cifar10`, `cifar100` and `digits`
            bring their source and licence.
        source, license: as in `Terms`; they go before what a short name brings.
    """
    known = KNOWN[name].terms if name in KNOWN else _FAMILIAR.get(name or "", (Terms(name), ""))[0]
    return Terms(known.name, source or known.source, license or known.license)


def hub_name(title: str) -> str | None:
    """Return the repository on the hub of the data set with this title, if that is known."""
    known = {one.title: one.repo for one in KNOWN.values()}
    return known.get(title) or next(
        (repo for terms, repo in _FAMILIAR.values() if terms.name == title), None
    )


def fetch(name: str, split: str) -> Path:
    """Return the parquet file of a named data set, from the hub or its cache, checked.

    Raises:
        NetworkError: it cannot be fetched; the message tells how to give images at hand instead.
        IntegrityError: the file is another one.
    """
    from zoo.hub import client as hub
    from zoo.hub import download

    known = KNOWN[name]
    assert known.repo is not None and known.revision is not None
    file = known.splits[split]
    try:
        return download.fetch_file(
            known.repo, file.file, revision=known.revision, repo_type="dataset", sha256=file.sha256
        )
    except NetworkError as error:
        why = (
            "the zoo is offline"
            if hub.is_offline()
            else f"{known.repo} could not be fetched from {hub.base()}"
        )
        raise NetworkError(
            f"{known.title} is not in the cache, and {why}: give the path of "
            f"{known.title.lower()}-python.tar.gz instead, as `images`"
        ) from error


def digest(images: ImageSet) -> str:
    """Return a hash of the images and labels that does not depend on their order or file form.

    It is the sha256 over the sorted sha256 of every image's uint8 HWC pixels and int64 label.
    """
    from zoo.networks.preprocess import Preprocess

    hashes = []
    for pixels, labels in images.batches(Preprocess(images.size()), 1000):
        rows = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        for row, label in zip(rows, labels.numpy().astype("<i8"), strict=True):
            hashes.append(hashlib.sha256(row.tobytes() + label.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


def identify(images: ImageSet) -> str | None:
    """Return the name of the data set these images are a whole split of, or None."""
    splits = [(name, split) for name, known in KNOWN.items() for split in known.splits.values()]
    alike = [(name, split.digest) for name, split in splits if split.images == len(images)]
    if not alike or images.labels.min() < 0:
        return None
    try:
        own = digest(images)
    except UsageError:  # images of different sizes
        return None
    return next((name for name, theirs in alike if theirs == own), None)
