"""Rebuild a trainable ANN from an artifact.

An artifact's integers and scales give the folded weights up to the rounding to int8, and every
threshold. Its biases are calibrated by timestep; the last row, which stays, is nearest to the
ANN's. BatchNorm is put back so that it computes what was folded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.artifact.config import Config
from zoo.artifact.tensors import topology_of
from zoo.networks.pixels import IMAGE_SCALE
from zoo.networks.resnet import ResNet
from zoo.networks.topology import IMAGE, Topology


def ann_params(config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the ANN parameters in an artifact's tensors, float32, in ANN units.

    They are what `zoo.networks.resnet.ann_forward` takes, and `{layer}.threshold`.
    """
    net = topology_of(config)
    one = IMAGE_SCALE if config.numerics == "int8" else 1
    params, worth = dict[str, Tensor](), {IMAGE: torch.full((net.in_channels,), 1 / one)}
    sizes = net.sizes(*config.preprocess.input_size[1:])
    for spec in net.layers:
        name, scale = spec.name, tensors[f"{spec.name}.scale"]
        worth[name] = tensors[f"{name}.threshold"] * scale
        params[f"{name}.threshold"] = worth[name] * config.neuron_of(name).max_level
        params[f"{name}.bias"] = tensors[f"{name}.bias"][-1] * scale
        pairs = [(f"{name}.weight", spec.source)]
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            pairs.append((f"{name}.shortcut.weight", spec.shortcut.source))
        for weight, source in pairs:
            groups = spec.groups if weight == f"{name}.weight" else 1
            given = worth[source].view(groups, -1).repeat_interleave(len(scale) // groups, 0)
            params[weight] = tensors[weight] * scale.view(-1, 1, 1, 1) / given[:, :, None, None]
        for pool in net.pools_behind(name):
            area = 1 if pool.kind == "max" else math.prod(sizes[name])
            worth[pool.name] = worth[name] / area
    last = net.output
    height, width = sizes[last]
    params["fc.weight"] = (
        tensors["fc.weight"] * tensors["fc.scale"][:, None] * (height * width) / worth[last]
    )
    params["fc.bias"] = tensors["fc.bias"]
    return params


@torch.no_grad()
def trainable(
    net: Topology, params: Mapping[str, Tensor], inputs: Tensor, levels: int = 0
) -> ResNet:
    """Return a network with BatchNorm that computes what `params` do.

    Args:
        net: the topology.
        params: what `ann_params` returns.
        inputs: normalized images `[B, C, H, W]`, from which BatchNorm's statistics are taken: gamma
            and the running deviation are the convolution's standard deviation, so that one undoes
            the other, and beta is its mean and the folded bias.
        levels: number of levels of the quantized activation, with the thresholds of `params`; 0 is
            ReLU.
    """
    model = ResNet(net, levels)

    def put_back(
        module: nn.Module, arguments: tuple[Tensor, ...], bias: Tensor | float = 0.0
    ) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        var, mean = torch.var_mean(arguments[0], (0, 2, 3), correction=0)
        module.running_mean, module.running_var = mean, var
        module.weight.copy_((var + module.eps).sqrt())
        module.bias.copy_(mean + bias)

    handles = []
    for spec in net.layers:
        own = model.get_submodule(spec.name)
        own.weight.copy_(params[f"{spec.name}.weight"])  # type: ignore[operator]
        if levels:
            own.log_threshold.copy_(params[f"{spec.name}.threshold"].log())  # type: ignore[operator]
        bias = params[f"{spec.name}.bias"]
        hook = functools.partial(put_back, bias=bias)
        handles.append(model.get_submodule(spec.bn).register_forward_pre_hook(hook))
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            projection = params[f"{spec.name}.shortcut.weight"]
            if spec.shortcut.averaged:  # its taps are one weight each, in shares
                projection = projection.sum((2, 3), keepdim=True)
            model.get_submodule(spec.shortcut.conv).weight.copy_(projection)  # type: ignore[operator]
            handles.append(
                model.get_submodule(spec.shortcut.bn).register_forward_pre_hook(put_back)
            )
    model.fc.weight.copy_(params["fc.weight"])
    model.fc.bias.copy_(params["fc.bias"])
    model.eval()
    model(inputs)
    for handle in handles:
        handle.remove()
    return model
