"""Split each channel of the stem into several neurons, out of step, for more levels.

After T timesteps a layerwise neuron has one of T + 1 values. What the stem rounds away every other
layer lacks, and its rounding does most harm: ResNet-50, T = 32, 1,000 images of ImageNet:
ANN 81.6 %, spiking 79.9, with four neurons a channel 81.2 (benchmarks/results/imagenet). n neurons
with the same input z, whose potentials begin (2 i + 1) / (2 n) of a threshold theta above zero,
i = 0 ... n - 1, instead of one at 1/2, have between them the n T + 1 values of a neuron with
n times the timesteps, because (Hermite's identity)

    sum_i floor(T z / theta + (2 i + 1) / (2 n)) = floor(n T z / theta + 1/2).

Layers that read the stem share their weights out among the copies. The potentials are part of the
ANN here, as a bias of theta / T ((2 i + 1) / (2 n) - 1/2) of each copy, so that conversion rounds
and calibrates the wider network as any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.networks.topology import Topology


def split_stem(
    net: Topology, params: Mapping[str, Tensor], theta: Tensor, copies: int, timesteps: int
) -> dict[str, Tensor]:
    """Return the parameters of `zoo.networks.topology.with_stem(net, copies)`.

    They compute what `params` compute in `net`, but for the kink of ReLU.

    Args:
        params: float, as `zoo.networks.resnet.ann_forward` takes them; what does not touch the stem
            is passed on, not copied.
        theta: threshold `[C]` of the stem, float, in ANN units.
        copies: neurons for each channel.
        timesteps: that the network will run.

    Returns:
        The stem's C channels become copies C, copy after copy: weight `[copies C, Cin, k, k]`, bias
        `[copies C]`; its readers' weights `[Cout, copies C, k, k]`.
    """
    stem = net.layers[0].name
    wide = dict(params)
    lead = torch.cat(
        [theta / timesteps * ((2 * i + 1) / (2 * copies) - 0.5) for i in range(copies)]
    )
    wide[f"{stem}.weight"] = params[f"{stem}.weight"].repeat(copies, 1, 1, 1)
    wide[f"{stem}.bias"] = params[f"{stem}.bias"].repeat(copies) + lead
    if f"{stem}.threshold" in params:
        wide[f"{stem}.threshold"] = params[f"{stem}.threshold"].repeat(copies)
    for layer in net.layers[1:]:
        read = [f"{layer.name}.weight"] if net.origin(layer.source) == stem else []
        if layer.shortcut is not None and net.origin(layer.shortcut.source) == stem:
            read.append(f"{layer.name}.shortcut.weight")
        for name in read:
            wide[name] = params[name].repeat(1, copies, 1, 1) / copies
    return wide
