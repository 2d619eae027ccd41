"""The ANN of a topology: with folded BatchNorm for inference, and as a module for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.networks.quantise import Quantise, quantise
from zoo.networks.topology import IMAGE, Layer, Pool, Shortcut, Topology


def identity_shortcut(x: Tensor, shortcut: Shortcut) -> Tensor:
    """Return activations `[B, C, H, W]` strided, then padded with zero channels."""
    x = x[:, :, :: shortcut.stride, :: shortcut.stride]
    return F.pad(x, (0, 0, 0, 0, shortcut.pad, shortcut.pad)) if shortcut.pad else x


def pool_activations(x: Tensor, pool: Pool) -> Tensor:
    """Return what a pooling makes of activations `[B, C, H, W]`."""
    if pool.kind == "average":
        return x.mean((2, 3), keepdim=True)
    return F.max_pool2d(x, pool.kernel, pool.stride, pool.padding)


# Called with a layer and its pre-activation; returns the activation.
OnLayer = Callable[[Layer, Tensor], Tensor]
# Called with the name of a convolution's parameters and its output.
OnOutput = Callable[[str, Tensor], None]


def ann_forward(
    net: Topology,
    params: Mapping[str, Tensor],
    image: Tensor,
    on_layer: OnLayer | None = None,
    on_output: OnOutput | None = None,
) -> Tensor:
    """Return logits `[B, classes]` of the ANN with folded BatchNorm.

    Args:
        params: `{layer}.weight`, `{layer}.bias`, `{layer}.shortcut.weight` for projections,
            `fc.weight`, `fc.bias`; float. With `levels` (one value) and `{layer}.threshold`,
            activations are quantised.
        image: normalised float image `[B, C, H, W]`.
        on_layer: called with each layer and its pre-activation `[B, C, H, W]` (for the stem, after
            max-pooling); returns the layer's activation. Default: `activate`.
        on_output: called with the name of each convolution's parameters, `{layer}` or
            `{layer}.shortcut`, and its output.
    """
    out = {IMAGE: image}
    for index, layer in enumerate(net.layers):
        z = preactivation(
            layer,
            params,
            out[layer.source],
            out[layer.shortcut.source] if layer.shortcut else None,
            on_output,
        )
        a = activate(layer, params, z) if on_layer is None else on_layer(layer, z)
        out[layer.name] = a
        out |= {pool.name: pool_activations(a, pool) for pool in net.pools_behind(layer.name)}
        for name in net.released_after(index):
            del out[name]
    pooled = out[net.output].mean((2, 3))
    return F.linear(pooled, params["fc.weight"], params["fc.bias"])


def activate(layer: Layer, params: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """Return the ANN's activation of `z`: ReLU, or the quantised one that it was trained with."""
    if "levels" in params:
        return quantise(z, params[f"{layer.name}.threshold"], int(params["levels"].item()))
    return F.relu(z)


def preactivation(
    layer: Layer,
    params: Mapping[str, Tensor],
    x: Tensor,
    source: Tensor | None,
    on_output: OnOutput | None = None,
) -> Tensor:
    """Return what reaches the ReLU of one layer, `[B, C, H, W]`.

    Args:
        x: output of the layer's source.
        source: output of the shortcut's source, None without a shortcut.
        on_output: as in `ann_forward`.
    """
    z = F.conv2d(
        x,
        params[f"{layer.name}.weight"],
        params[f"{layer.name}.bias"],
        layer.stride,
        layer.padding,
        groups=layer.groups,
    )
    if on_output is not None:
        on_output(layer.name, z)
    if layer.shortcut is not None and source is not None:
        if layer.shortcut.kind == "projection":
            side = F.conv2d(
                source,
                params[f"{layer.name}.shortcut.weight"],
                None,
                layer.shortcut.stride,
                layer.shortcut.padding,
            )
            if on_output is not None:
                on_output(f"{layer.name}.shortcut", side)
            z = z + side
        else:
            z = z + identity_shortcut(source, layer.shortcut)
    return F.max_pool2d(z, 3, 2, 1) if layer.max_pool else z


class ResNet(nn.Module):
    """The trainable ANN of a topology, with BatchNorm; its state_dict has torchvision's keys.

    Args:
        levels: of the quantised activation of `zoo.networks.quantise`, with a learnt
            `{layer}.log_threshold` `[C]`; 0 is ReLU.
    """

    def __init__(self, net: Topology, levels: int = 0) -> None:
        super().__init__()
        self.topology, self.levels = net, levels
        # Looked up here: torch.compile breaks its graph where a loop reads a cached property.
        self._output = net.output
        self._pools = {layer.name: net.pools_behind(layer.name) for layer in net.layers}
        for layer in net.layers:
            add_submodule(
                self,
                layer.name,
                nn.Conv2d(
                    layer.in_channels,
                    layer.out_channels,
                    layer.kernel,
                    layer.stride,
                    layer.padding,
                    groups=layer.groups,
                    bias=False,
                ),
            )
            add_submodule(self, layer.bn, nn.BatchNorm2d(layer.out_channels))
            if levels:
                # Four standard deviations of what BatchNorm delivers at first.
                threshold = nn.Parameter(torch.full((layer.out_channels,), math.log(4.0)))
                self.get_submodule(layer.name).register_parameter("log_threshold", threshold)
            if layer.shortcut is not None and layer.shortcut.kind == "projection":
                width = net.channels[layer.shortcut.source]
                add_submodule(
                    self,
                    layer.shortcut.conv,
                    _projection(width, layer.out_channels, layer.shortcut),
                )
                add_submodule(self, layer.shortcut.bn, nn.BatchNorm2d(layer.out_channels))
        self.fc = nn.Linear(net.features, net.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor, on_layer: OnLayer | None = None) -> Tensor:
        """Return logits `[B, classes]` of a normalised image `[B, C, H, W]`.

        Args:
            on_layer: as in `ann_forward`.
        """
        out = {IMAGE: image}
        for layer in self.topology.layers:
            z = self.get_submodule(layer.bn)(self.get_submodule(layer.name)(out[layer.source]))
            if layer.shortcut is not None:
                x = out[layer.shortcut.source]
                if layer.shortcut.kind == "projection":
                    if layer.shortcut.averaged and layer.shortcut.stride > 1:
                        x = F.avg_pool2d(x, layer.shortcut.kernel)
                    z = z + self.get_submodule(layer.shortcut.bn)(
                        self.get_submodule(layer.shortcut.conv)(x)
                    )
                else:
                    z = z + identity_shortcut(x, layer.shortcut)
            if layer.max_pool:
                z = F.max_pool2d(z, 3, 2, 1)
            a = self._activate(layer, z) if on_layer is None else on_layer(layer, z)
            out[layer.name] = a
            for pool in self._pools[layer.name]:
                out[pool.name] = pool_activations(a, pool)
        last = out[self._output]
        # Unlike that of mean, its gradient has the memory layout of what it pools.
        return self.fc(F.avg_pool2d(last, last.shape[2:]).flatten(1))

    def _activate(self, layer: Layer, z: Tensor) -> Tensor:
        if not self.levels:
            return F.relu(z)
        activation: Tensor = Quantise.apply(
            z, self.get_submodule(layer.name).log_threshold, self.levels
        )
        return activation


def _projection(width: int, channels: int, shortcut: Shortcut) -> nn.Conv2d:
    """Return the convolution of a projection as a checkpoint holds it."""
    if shortcut.averaged:
        return nn.Conv2d(width, channels, 1, bias=False)
    geometry = (shortcut.kernel, shortcut.stride, shortcut.padding)
    return nn.Conv2d(width, channels, *geometry, bias=False)


def add_submodule(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add a module at a dotted path such as `layer1.0.conv1`, with the parents that it needs."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
