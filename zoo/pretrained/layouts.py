"""How training code names the parts of a ResNet: each layout, and what makes torchvision's of it.

A layout is known by the name of one convolution that every network of it has. Wrappers and prefixes
are found by `zoo.pretrained.state`, and the classifier is whatever linear layer there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One way of naming.

    Attributes:
        name: whose it is, for messages.
        anchor: name of a convolution that every network has.
        renames: patterns of names and what stands in their place, each applied to every name.
    """

    name: str
    anchor: str
    renames: tuple[tuple[re.Pattern[str], str], ...]

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors by torchvision's names."""
        found = {}
        for key, value in tensors.items():
            for pattern, new in self.renames:
                key = pattern.sub(new, key)
            found[key] = value
        return _plain_stem(found)


def _patterns(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), new) for pattern, new in pairs)


def _stage(match_from: int) -> tuple[tuple[str, str], ...]:
    """Return the renames of stages that are numbered from `match_from` instead of 1."""
    return tuple((rf"^<{n}>\.", rf"layer{n + 1 - match_from}.") for n in range(match_from, 6))


# torchvision's, timm's and bearpaw's names, chenyaofo's and RepDistiller's too, are the target;
# kuangliu's and akamaster's differ in `shortcut`.
LAYOUTS = (
    Layout(
        "torchvision",
        "layer1.0.conv1.weight",
        _patterns((r"\.shortcut\.", ".downsample.")),
    ),
    Layout(
        "weiaicunzai",
        "conv2_x.0.residual_function.0.weight",
        _patterns(
            (r"^conv1\.0\.", "conv1."),
            (r"^conv1\.1\.", "bn1."),
            (r"^conv(\d)_x\.", r"<\1>."),
            *_stage(2),
            (r"\.residual_function\.0\.", ".conv1."),
            (r"\.residual_function\.1\.", ".bn1."),
            (r"\.residual_function\.3\.", ".conv2."),
            (r"\.residual_function\.4\.", ".bn2."),
            (r"\.residual_function\.6\.", ".conv3."),
            (r"\.residual_function\.7\.", ".bn3."),
            (r"\.shortcut\.", ".downsample."),
        ),
    ),
    Layout(
        "transformers",
        "encoder.stages.0.layers.0.layer.0.convolution.weight",
        _patterns(
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^encoder\.stages\.(\d)\.layers\.", r"<\1>."),
            *_stage(0),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            *(
                (rf"\.layer\.{place}\.{theirs}\.", f".{ours}{place + 1}.")
                for place in range(3)
                for theirs, ours in (("convolution", "conv"), ("normalization", "bn"))
            ),
        ),
    ),
)


def _plain_stem(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one convolution and BatchNorm in a sequence as `conv1` and `bn1`."""
    stem = {key for key in tensors if re.fullmatch(r"conv1\.\d+\.weight", key)}
    if "conv1.0.weight" not in stem or "bn1.weight" in tensors or "conv1.3.weight" in stem:
        return tensors
    moved = {"conv1.0.": "conv1.", "conv1.1.": "bn1."}
    return {
        next((new + key[len(old) :] for old, new in moved.items() if key.startswith(old)), key): v
        for key, v in tensors.items()
    }


# Parts that other networks have, by a name that only they have, and what is true of them. The first
# that is found is the reason.
_PREACTIVATION = (
    "pre-activation: its normalisation comes before the convolution, which it cannot be folded into"
)
_STRANGERS = (
    (r"(.*\.)?block1\.layer\.0\.(bn1|conv1)\..*", f"is a wide ResNet with {_PREACTIVATION}"),
    (r"(.*\.)?stages\.0\.blocks\.0\.(norm1|conv1)\..*", f"is a ResNet v2 with {_PREACTIVATION}"),
    (
        r".*\.(se|se_module|attn|eca|squeeze|excitation)\..*",
        "has squeeze-excite or attention in its blocks, which multiplies activations with one "
        "another: spikes have no such product",
    ),
    (r".*\.(aa|blur|filt)(\..*)?", "has anti-aliasing (a blur) before its strides"),
    (r".*\.split_transforms\..*", "has its groups inside its blocks' sequences"),
    (
        r".*\.downsample\.2\.weight",
        "averages in its shortcuts, behind another stem than timm's `d` networks",
    ),
    (r"(.*\.)?patch_embed\..*|(.*\.)?layers?\.0\.self_attention.*", "is a transformer"),
    (r"(.*\.)?features\.(conv)?0\.weight", "is a VGG or DenseNet"),
    (r"(.*\.)?blocks?\.0\.0\.conv_dw\..*", "is an EfficientNet or MobileNet"),
)


def foreign(names: Mapping[str, Tensor]) -> str | None:
    """Return what is true of a network that is not one of the zoo's, a clause; None if unknown.

    Args:
        names: tensors by name, torchvision's where it has them.
    """
    if _activates_first(names):
        return f"is a ResNet with {_PREACTIVATION}"
    for pattern, what in _STRANGERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return what
    norms = [name for name in names if re.fullmatch(r"(.*\.)?(bn\d?|norm\d?)\.weight", name)]
    if norms and not any(f"{name.removesuffix('weight')}running_mean" in names for name in norms):
        return (
            "normalises without recorded statistics (GroupNorm or LayerNorm), so nothing can be "
            "folded into its convolutions"
        )
    return None


def foreign_by_name(file: str) -> str | None:
    """Return what a file's name says that no key shows, a clause; None if nothing.

    timm's blurs have no parameters: the tensors of resnetblur50 and resnetaa50 are those of
    resnet50 by name and shape.
    """
    match = re.search(r"resnet(blur|aa)\d+", file.lower())
    if match is None:
        return None
    return (
        f"is named {match[0]}, which has anti-aliasing (a blur) before its strides, without a "
        "parameter that would show it"
    )


def _activates_first(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the first BatchNorm of a block is of its convolution's input."""
    for key, norm in tensors.items():
        match = re.fullmatch(r"(layer\d+\.\d+)\.bn1\.weight", key)
        conv = tensors.get(f"{match[1]}.conv1.weight") if match else None
        if conv is not None and conv.ndim == 4 and len(norm) != len(conv):
            return len(norm) == conv.shape[1]
    return (
        "layer1.0.bn1.weight" in tensors
        and not {
            "bn1.weight",
            "conv1.bias",
            "conv1.1.weight",
        }
        & tensors.keys()
    )
