"""BatchNorm: folding it into convolutions, and the statistics it recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.networks.topology import Shortcut, Topology


def fold_batchnorm(
    net: Topology, state: Mapping[str, Tensor], eps: float = 1e-5
) -> dict[str, Tensor]:
    """Fold each BatchNorm into its convolution.

        W' = W g,    b' = beta + (b - mean) g,    g = gamma / sqrt(var + eps)

    Args:
        state: a state dict with torchvision's keys; a convolution without BatchNorm keeps its
            weight and own bias (checkpoints whose authors folded it already).

    Returns:
        The parameters that `ann_forward` takes, float32; a projection's bias joins the layer's.
        Levels and thresholds of a quantised activation pass as they are.
    """
    params: dict[str, Tensor] = {}

    def fold(conv: str, bn: str) -> tuple[Tensor, Tensor]:
        weight = state[f"{conv}.weight"].double()
        bias = state.get(f"{conv}.bias", torch.zeros(len(weight))).double()
        if f"{bn}.running_mean" in state:
            gamma, beta = state[f"{bn}.weight"].double(), state[f"{bn}.bias"].double()
            gain = gamma / torch.sqrt(state[f"{bn}.running_var"].double() + eps)
            weight = weight * gain[:, None, None, None]
            bias = beta + (bias - state[f"{bn}.running_mean"].double()) * gain
        return weight, bias

    for layer in net.layers:
        weight, bias = fold(layer.name, layer.bn)
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            projection, extra = fold(layer.shortcut.conv, layer.shortcut.bn)
            params[f"{layer.name}.shortcut.weight"] = unaveraged(projection, layer.shortcut).float()
            bias = bias + extra
        params[f"{layer.name}.weight"], params[f"{layer.name}.bias"] = weight.float(), bias.float()
    for name in state:
        if name == "levels" or name.endswith(".threshold"):
            params[name] = state[name].float()
    params["fc.weight"], params["fc.bias"] = state["fc.weight"].float(), state["fc.bias"].float()
    return params


def unaveraged(projection: Tensor, shortcut: Shortcut) -> Tensor:
    """Return the convolution that average pooling and a 1x1 convolution are together.

    A mean over k x k pixels gives each of them 1 / k^2 of the weight: exact, k being a power of 2.
    """
    if not shortcut.averaged:
        return projection
    kernel = shortcut.kernel
    return projection.expand(-1, -1, kernel, kernel).contiguous() / kernel**2


@dataclass(frozen=True)
class Moments:
    """Statistics of a convolution's output on the training images.

    Attributes:
        mean, std: float32 `[C]`.
    """

    mean: Tensor
    std: Tensor


def recorded_moments(
    net: Topology, state: Mapping[str, Tensor], params: Mapping[str, Tensor], eps: float = 1e-5
) -> dict[str, Moments] | None:
    """Return what BatchNorm recorded in training of each folded convolution's output.

    With g = gamma / sqrt(var + eps), a folded convolution without its bias has mean
    (running_mean - own bias) g and standard deviation sqrt(var) |g|.

    Args:
        state: the state dict that `fold_batchnorm` made `params` from.

    Returns:
        By the names that `ann_forward` gives to `on_output`; None where a convolution has no
        BatchNorm, or where all statistics are those that BatchNorm begins with, 0 and 1.
    """
    found: dict[str, Moments] = {}
    fresh = True
    for layer in net.layers:
        pairs = [(layer.name, layer.name, layer.bn)]
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            pairs.append((f"{layer.name}.shortcut", layer.shortcut.conv, layer.shortcut.bn))
        for name, conv, bn in pairs:
            if f"{bn}.running_mean" not in state:
                return None
            center, var = state[f"{bn}.running_mean"].double(), state[f"{bn}.running_var"].double()
            fresh = fresh and not center.any() and bool((var == 1).all())
            gain = state[f"{bn}.weight"].double() / torch.sqrt(var + eps)
            mean = (center - state.get(f"{conv}.bias", torch.zeros(len(var))).double()) * gain
            if f"{name}.bias" in params:
                mean = mean + params[f"{name}.bias"].double()
            found[name] = Moments(mean.float(), (var.sqrt() * gain.abs()).float())
    return None if fresh else found
