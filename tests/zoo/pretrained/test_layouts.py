"""Checkpoints as public training code writes them: every layout, every architecture, each refusal.

Keys are those of the public code named beside them, spelled out by rules of their own here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.zoo.spiking_fixtures import random_model, refuses
from zoo.errors import UsageError
from zoo.networks.architectures import ARCHITECTURES, topology
from zoo.networks.resnet import ResNet, ann_forward
from zoo.pretrained.checkpoint import Checkpoint, read_checkpoint
from zoo.pretrained.infer import convolutions, infer, is_form_of
from zoo.pretrained.layouts import LAYOUTS, foreign, foreign_by_name

State = Mapping[str, Tensor]


def renamed(state: State, *pairs: tuple[str, str]) -> OrderedDict[str, Tensor]:
    found: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        for pattern, new in pairs:
            key = re.sub(pattern, new, key)
        found[key] = value
    return found


def kuangliu(state: State) -> State:
    """pytorch-cifar: `shortcut` and `linear`."""
    return renamed(state, (r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))


def weiaicunzai(state: State) -> State:
    """pytorch-cifar100: stages from conv2_x on, each block one sequence."""
    return renamed(
        state,
        (r"^conv1\.", "conv1.0."),
        (r"^bn1\.", "conv1.1."),
        (r"^layer1\.", "conv2_x."),
        (r"^layer2\.", "conv3_x."),
        (r"^layer3\.", "conv4_x."),
        (r"^layer4\.", "conv5_x."),
        (r"(_x\.\d+)\.conv1\.", r"\1.residual_function.0."),
        (r"(_x\.\d+)\.bn1\.", r"\1.residual_function.1."),
        (r"(_x\.\d+)\.conv2\.", r"\1.residual_function.3."),
        (r"(_x\.\d+)\.bn2\.", r"\1.residual_function.4."),
        (r"(_x\.\d+)\.conv3\.", r"\1.residual_function.6."),
        (r"(_x\.\d+)\.bn3\.", r"\1.residual_function.7."),
        (r"\.downsample\.", ".shortcut."),
    )


def transformers(state: State) -> State:
    """ResNetForImageClassification."""
    parts = [
        (rf"^layer{n + 1}\.(\d+)\.", rf"resnet.encoder.stages.{n}.layers.\1.") for n in range(4)
    ]
    for n in range(3):
        parts.append((rf"(layers\.\d+)\.conv{n + 1}\.", rf"\1.layer.{n}.convolution."))
        parts.append((rf"(layers\.\d+)\.bn{n + 1}\.", rf"\1.layer.{n}.normalization."))
    return renamed(
        state,
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        *parts,
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"^fc\.", "classifier.1."),
    )


def read(folder: Path, content: object, **how: Any) -> Checkpoint:
    path = folder / "net.pth"
    torch.save(content, path)
    return read_checkpoint(path, **how)


def agrees(found: Checkpoint, model: ResNet, side: int = 32) -> bool:
    image = torch.randn(2, model.topology.in_channels, side, side)
    with torch.inference_mode():
        wanted = model(image)
        return torch.allclose(
            ann_forward(found.net, found.params, image), wanted, atol=1e-4 * wanted.abs().max()
        )


# What public code trains; the classes of CIFAR-10 and CIFAR-100 from the classifier.
PUBLIC = {
    "kuangliu ResNet-18": ("resnet18_cifar", None, 10, kuangliu),
    "RepDistiller resnet8x4": ("resnet8x4_stem32", "B", 100, dict),
    "RepDistiller resnet20": ("resnet20", "B", 100, dict),
    "chenyaofo cifar100_resnet32": ("resnet32", "B", 100, dict),
    "bearpaw resnet-20": ("resnet20", "B", 10, dict),
    "akamaster resnet20": ("resnet20", "A", 10, kuangliu),
    "wide CIFAR ResNet": ("resnet20x2", "B", 10, kuangliu),
    "weiaicunzai resnet18": ("resnet18_cifar", None, 100, weiaicunzai),
    "transformers resnet-18": ("resnet18", None, 5, transformers),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_code_is_read(tmp_path: Path, name: str) -> None:
    arch, shortcut, classes, rename = PUBLIC[name]
    model = random_model(topology(arch, shortcut=shortcut, num_classes=classes))
    state = rename(model.state_dict())
    for content in (state, {"net": {f"module.{k}": v for k, v in state.items()}, "acc": 95.4}):
        found = read(tmp_path, content)
        assert (found.net.arch, found.net.num_classes) == (arch, classes)
        assert found.net.shortcut == model.topology.shortcut
    assert agrees(found, model)
    assert any("3x3 convolution" in note for note in found.notes) == arch.endswith("_cifar")


@pytest.mark.parametrize(
    ("layout", "arch", "rename", "prefix"),
    [
        ("torchvision", "resnet50_cifar", kuangliu, ""),
        ("weiaicunzai", "resnet50_cifar", weiaicunzai, ""),
        ("transformers", "resnet50", transformers, "resnet."),
    ],
)
def test_bottlenecks(layout: str, arch: str, rename: Any, prefix: str) -> None:
    names = next(known for known in LAYOUTS if known.name == layout)
    theirs = {k.removeprefix(prefix): v for k, v in rename(meta_state(arch)).items()}
    assert names.anchor in theirs
    plain = names.renamed(theirs)
    assert {k for k in plain if k.startswith("layer")} == {
        k for k in meta_state(arch) if k.startswith("layer")
    }
    assert infer(plain) == (arch, "B")


def meta_state(arch: str, **how: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(ResNet(topology(arch, **how)).state_dict())


@pytest.mark.parametrize("arch", (*ARCHITECTURES, "resnet20x4", "resnet8x4_stem32", "resnet110x16"))
def test_the_architecture_is_that_of_the_keys(arch: str) -> None:
    net = topology(arch, in_channels=2)
    state = {key: torch.empty(shape, device="meta") for key, shape in convolutions(net).items()}
    assert infer(state) == (arch, net.shortcut)
    state["layer1.0.conv1.weight"] = torch.empty(17, 16, 3, 3, device="meta")
    assert infer(state) is None


def test_another_form_than_the_one_asked_for(tmp_path: Path) -> None:
    model = random_model(topology("resnet18_cifar"))
    found = read(tmp_path, kuangliu(model.state_dict()), arch="resnet18")
    assert found.net.arch == "resnet18_cifar" and agrees(found, model)
    assert any("are those of resnet18_cifar, not resnet18" in note for note in found.notes)
    assert is_form_of("resnet8x4_stem32", "resnet8x4") and is_form_of("resnet20x2", "resnet20")
    assert not is_form_of("resnet18", "resnet18_cifar") and not is_form_of("resnet50", "resnet18")
    with refuses(UsageError, "its keys are those of resnet18_cifar"):
        read(tmp_path, model.state_dict(), arch="resnet34")


def test_one_stem_in_a_sequence_is_one_stem(tmp_path: Path) -> None:
    """A public CIFAR-100 form: `conv1` and `bn1` as places 0 and 1 of a sequence."""
    model = random_model(topology("resnet20", shortcut="B", num_classes=100))
    moved = renamed(model.state_dict(), (r"^conv1\.", "conv1.0."), (r"^bn1\.", "conv1.1."))
    assert agrees(read(tmp_path, moved), model)


def preactivated(state: State) -> State:
    """As kuangliu's PreActResNet: a block's first BatchNorm is of its input; none in the stem."""
    found = {
        k: v for k, v in state.items() if not k.startswith("bn1.") and ".downsample.1" not in k
    }
    found["layer2.0.bn1.weight"] = torch.ones(len(state["layer1.0.bn1.weight"]))
    return found


STRANGERS = {
    "pre-activation": preactivated,
    "squeeze-excite": lambda s: {**s, "layer1.0.se.fc1.weight": torch.zeros(4, 16, 1, 1)},
    "anti-aliasing": lambda s: {**s, "layer2.0.aa.filt": torch.zeros(64, 1, 3, 3)},
    "GroupNorm": lambda s: {k: v for k, v in s.items() if "running" not in k},
    "wide ResNet with pre-activation": lambda s: {
        "block1.layer.0.conv1.weight": torch.zeros(160, 16, 3, 3),
        "fc.weight": torch.zeros(10, 640),
    },
    "ResNet v2": lambda s: {"stages.0.blocks.0.norm1.weight": torch.zeros(64)},
    "VGG": lambda s: {"features.0.weight": torch.zeros(64, 3, 3, 3)},
    "transformer": lambda s: {"patch_embed.proj.weight": torch.zeros(64, 3, 16, 16)},
}


@pytest.mark.parametrize("said", STRANGERS)
@pytest.mark.parametrize("arch", [None, "resnet20"])
def test_other_networks_are_refused_by_what_they_are(
    tmp_path: Path, said: str, arch: str | None
) -> None:
    state = random_model(topology("resnet20", shortcut="B")).state_dict()
    with refuses(UsageError, said):
        read(tmp_path, OrderedDict(STRANGERS[said](state)), arch=arch)


def test_a_plain_network_is_no_stranger() -> None:
    for arch in ("resnet20", "resnet50", "resnet18_cifar"):
        assert foreign(meta_state(arch)) is None, arch
    for file in ("resnet50-0676ba61.pth", "aa_resnet20.th", "resnet50_a1_0-14fe96d1.pth"):
        assert foreign_by_name(file) is None, file


@pytest.mark.parametrize("file", ["resnetblur50-84f4748f.pth", "ResNetAA101d_sw.pth"])
@pytest.mark.parametrize("arch", [None, "resnet20"])
def test_a_blur_that_only_the_name_tells_is_refused(
    tmp_path: Path, file: str, arch: str | None
) -> None:
    path = tmp_path / file
    torch.save(random_model(topology("resnet20", shortcut="B")).state_dict(), path)
    with refuses(UsageError, "anti-aliasing"):
        read_checkpoint(path, arch)
