"""Checkpoints that their authors publish as files at an address: where, pinned to which bytes.

    torchvision:resnet50[.v2]     ImageNet, torchvision (BSD-3)
    akamaster:resnet56            CIFAR-10, akamaster/pytorch_resnet_cifar10 (BSD-2)
    chenyaofo:cifar100_resnet56   CIFAR-10 and 100, chenyaofo/pytorch-cifar-models (BSD-3)

A file is pinned by its whole sha256 where the zoo's authors have had its bytes or seen the hash
stated, else by the eight digits with which its publisher's name for it begins the hash. Files are
kept where torch.hub keeps them, so that a file that torch.hub has fetched is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zoo.errors import NotFoundError
from zoo.imagenet import IMAGENET_MEAN, IMAGENET_STD

Channels = tuple[float, float, float]

# What the addresses of a publisher's files begin with.
ADDRESSES = {
    "torchvision": "https://download.pytorch.org/models/",
    "akamaster": "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/"
    "d5489e8995e81e91ce6b1d69dcc98ad579b0b153/pretrained_models/",
    "chenyaofo": "https://github.com/chenyaofo/pytorch-cifar-models/releases/download/resnet/",
}

_LICENSES = {
    "torchvision": "BSD-3-Clause",
    "akamaster": "BSD-2-Clause",
    "chenyaofo": "BSD-3-Clause",
}

_CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}

# By publisher and data set.
_NORMALISATION: dict[tuple[str, str], tuple[Channels, Channels]] = {
    ("torchvision", "imagenet"): (IMAGENET_MEAN, IMAGENET_STD),
    ("akamaster", "cifar10"): (IMAGENET_MEAN, IMAGENET_STD),
    ("chenyaofo", "cifar10"): ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ("chenyaofo", "cifar100"): ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


@dataclass(frozen=True)
class Release:
    """A checkpoint file at a public address.

    Attributes:
        file: its name, whose last eight hex digits begin its sha256.
        megabytes: its size.
        dataset: what it was trained on: imagenet, cifar10 or cifar100.
        sha256: of the whole file; None where only the digits in its name are known.
    """

    publisher: str
    name: str
    arch: str
    dataset: str
    file: str
    megabytes: int
    sha256: str | None = None

    @property
    def source(self) -> str:
        """What `zoo.pretrained.sources` reads it by."""
        return f"{self.publisher}:{self.name}"

    @property
    def num_classes(self) -> int:
        return _CLASSES[self.dataset]

    @property
    def newer(self) -> bool:
        """Whether it is of torchvision's second recipe, which resizes to 232 pixels."""
        return self.name.endswith(".v2") or self.name == "resnext101_64x4d"

    @property
    def pin(self) -> str:
        """What the file's sha256 begins with, at most the whole of it."""
        if self.sha256 is not None:
            return self.sha256
        match = re.search(r"-([0-9a-f]{8})\.", self.file)
        assert match is not None
        return match[1]

    @property
    def url(self) -> str:
        return ADDRESSES[self.publisher] + self.file

    @property
    def license(self) -> str:
        return _LICENSES[self.publisher]

    @property
    def normalisation(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation per channel, for pixels in 0 to 1."""
        return _NORMALISATION[self.publisher, self.dataset]


# Publisher, name, architecture, data set, file, megabytes and sha256.
_ROWS: tuple[tuple[str, str, str, str, str, int, str | None], ...] = (
    ("torchvision", "resnet18", "resnet18", "imagenet", "resnet18-f37072fd.pth", 47, None),
    ("torchvision", "resnet34", "resnet34", "imagenet", "resnet34-b627a593.pth", 87, None),
    ("torchvision", "resnet50", "resnet50", "imagenet", "resnet50-0676ba61.pth", 103, None),
    ("torchvision", "resnet50.v2", "resnet50", "imagenet", "resnet50-11ad3fa6.pth", 103, None),
    ("torchvision", "resnet101", "resnet101", "imagenet", "resnet101-63fe2227.pth", 179, None),
    ("torchvision", "resnet101.v2", "resnet101", "imagenet", "resnet101-cd907fc2.pth", 179, None),
    ("torchvision", "resnet152", "resnet152", "imagenet", "resnet152-394f9c45.pth", 241, None),
    ("torchvision", "resnet152.v2", "resnet152", "imagenet", "resnet152-f82ba261.pth", 241, None),
    *(
        ("torchvision", arch + form, arch, "imagenet", f"{arch}-{digits}.pth", megabytes, None)
        for arch, form, digits, megabytes in (
            ("wide_resnet50_2", "", "95faca4d", 138),
            ("wide_resnet50_2", ".v2", "9ba9bcbe", 276),
            ("wide_resnet101_2", "", "32ee1156", 255),
            ("wide_resnet101_2", ".v2", "d733dc28", 508),
            ("resnext50_32x4d", "", "7cdf4587", 100),
            ("resnext50_32x4d", ".v2", "1a0047aa", 100),
            ("resnext101_32x8d", "", "8ba56ff5", 356),
            ("resnext101_32x8d", ".v2", "110c445d", 356),
            ("resnext101_64x4d", "", "173b62eb", 335),
        )
    ),
    *(
        ("akamaster", f"resnet{depth}", f"resnet{depth}", "cifar10", file, megabytes, sha256)
        for depth, file, megabytes, sha256 in (
            (
                20,
                "resnet20-12fca82f.th",
                1,
                "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
            ),
            (
                32,
                "resnet32-d509ac18.th",
                2,
                "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850",
            ),
            (
                44,
                "resnet44-014dd654.th",
                3,
                "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4",
            ),
            (
                56,
                "resnet56-4bfd9763.th",
                3,
                "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367",
            ),
            (110, "resnet110-1d1ed7c2.th", 7, None),
        )
    ),
    *(
        ("chenyaofo", file.partition("-")[0], f"resnet{depth}", dataset, file, megabytes, sha256)
        for dataset, depth, file, megabytes, sha256 in (
            (
                "cifar10",
                20,
                "cifar10_resnet20-4118986f.pt",
                1,
                "4118986f0df73003d572b0e397f0ac7b3f60af1f31aff3d2da164536e36f6ec8",
            ),
            (
                "cifar10",
                32,
                "cifar10_resnet32-ef93fc4d.pt",
                2,
                "ef93fc4d3ea83c08d75bfd6fc31af56047cfa241608c9ba3a1f6dc11cca20dd9",
            ),
            ("cifar10", 44, "cifar10_resnet44-2a3cabcb.pt", 3, None),
            (
                "cifar10",
                56,
                "cifar10_resnet56-187c023a.pt",
                4,
                "187c023aee0c9cf3093a682d9447a538cbaf5489f7ae78a7df4edf2246ce380b",
            ),
            ("cifar100", 20, "cifar100_resnet20-23dac2f1.pt", 1, None),
            ("cifar100", 32, "cifar100_resnet32-84213ce6.pt", 2, None),
            ("cifar100", 44, "cifar100_resnet44-ffe32858.pt", 3, None),
            (
                "cifar100",
                56,
                "cifar100_resnet56-f2eff4c8.pt",
                4,
                "f2eff4c8461ca1e0d39af83a65f7243bf7d29ec421efee3064bcee93a3caaa73",
            ),
        )
    ),
)

RELEASES: dict[str, Release] = {one.source: one for one in (Release(*row) for row in _ROWS)}


def is_published(text: str) -> bool:
    """Return True if `text` names a publisher of this module, whatever it names of it."""
    publisher, colon, _ = text.partition(":")
    return bool(colon) and publisher in ADDRESSES


def published(text: str) -> Release:
    """Return the checkpoint that `text` names; raise NotFoundError if its publisher has none."""
    found = RELEASES.get(text.removesuffix(".v1"))
    if found is None:
        publisher = text.partition(":")[0]
        known = [source for source, one in RELEASES.items() if one.publisher == publisher]
        raise NotFoundError(f"{text} is not known: use one of {', '.join(known)}")
    return found
