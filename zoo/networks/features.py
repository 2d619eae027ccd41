"""What a spiking network says before its classifier, and another classifier on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.networks.run import Head, Run


def counting(network: Any) -> dict[str, Any]:
    """Return what makes a network's logits its pooled counts: a classifier that changes nothing."""
    channels, device = network.topology.features, network.device
    ones = torch.ones(channels, device=device)
    head = Head(torch.eye(channels, dtype=torch.int8, device=device), ones, torch.zeros_like(ones))
    return {"topology": replace(network.topology, num_classes=channels), "head": head, "delay": {}}


def features_of(network: Any, run: Run, timesteps: int, size: tuple[int, int]) -> Tensor:
    """Return the pooled activations of each timestep, float64 `[T, B, C]`, in ANN units.

    They are firing rates of what the classifier reads, over its area, times what a spike is worth:
    the mean over the timesteps that are read is what the ANN's pooling gives. Of a layerwise
    network there is one row, the mean of all timesteps.

    Args:
        run: of the network with the classifier of `counting`.
        size: height and width of the images.
    """
    if network.schedule == "layerwise":
        counts = run.logits
    else:  # logits are means over the timesteps so far of whole numbers
        steps = torch.arange(1, timesteps + 1, device=run.logits.device).view(-1, 1, 1)
        total = (run.logits * steps).round()
        counts = total.diff(dim=0, prepend=torch.zeros_like(total[:1]))
    return counts * _worth(network, size)


def new_head(
    network: Any, head: nn.Linear | int, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Return what changes in a network that has another classifier, rounded to int8.

    Args:
        head: on features in ANN units; a number makes one for so many classes, with random weights.
        class_names: of its classes; default: none are known.

    Raises:
        UsageError: it reads another number of features, has no classes or another number of names,
            or the network has no config, which says how large its images are.
    """
    topology, config = network.topology, network.config
    if isinstance(head, int):
        if head < 1:
            raise UsageError(f"a head needs 1 class or more, not {head}: give their number")
        head = nn.Linear(topology.features, head)
    classes = head.out_features
    if head.in_features != topology.features:
        raise UsageError(
            f"the head reads {head.in_features} features, the network has {topology.features}: "
            f"give nn.Linear({topology.features}, {classes})"
        )
    if class_names is not None and len(class_names) != classes:
        raise UsageError(f"{len(class_names)} names for {classes} classes: give one a class")
    if config is None:
        raise UsageError("the network has no config, so its image size is unknown: load it by name")
    weight = head.weight.detach().double().to(network.device)
    weight = (weight * _worth(network, config.preprocess.input_size[1:])).float()
    bias = torch.zeros(classes) if head.bias is None else head.bias.detach().float()
    names = None if class_names is None else list(class_names)
    return {
        "topology": replace(topology, num_classes=classes),
        "head": Head.rounded(weight, bias.to(network.device)),
        # A rule to exit by is of the classifier that it was found with.
        "config": config.model_copy(
            update={"num_classes": classes, "class_names": names, "exit": None}
        ),
    }


def _worth(network: Any, size: tuple[int, int]) -> Tensor:
    """Return what one spike adds to a pooled activation, float64 `[C]`."""
    topology, last = network.topology, network.topology.layers[-1].name
    area = math.prod(topology.sizes(*size)[topology.output])
    scale = network.scales.get(last)
    unit = torch.ones(topology.features, device=network.device, dtype=torch.float64)
    if scale is not None:
        unit = network.layers[last].threshold.double() * scale.double()
    return unit / area
