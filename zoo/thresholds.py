"""Where thresholds come from: four rules, each from a sample of the ANN's activations or from running it.

A threshold is in ANN units: a spike of a neuron with threshold theta is worth theta, so T timesteps can represent 0, theta/T,
... theta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from zoo.resnet import Layer, Topology, activate, ann_forward

SAMPLE = 16_384


@torch.inference_mode()
def sample_activations(
    net: Topology, params: Mapping[str, Tensor], batches: Iterable[Tensor], images: int, seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Activations after each ReLU at random positions: float [C, about SAMPLE] per layer, the same number from every image.

    batches: normalised float images [B, C, H, W], `images` in all.
    """
    generator = torch.Generator().manual_seed(seed)
    sample: dict[str, list[Tensor]] = {layer.name: [] for layer in net.layers}

    def visit(layer: Layer, z: Tensor) -> Tensor:
        activation = activate(layer, params, z)
        flat = activation.permute(1, 0, 2, 3).flatten(2)
        per_image = max(1, SAMPLE // images)
        if flat.shape[2] > per_image:
            flat = flat[:, :, torch.randperm(flat.shape[2], generator=generator)[:per_image]]
        sample[layer.name].append(flat.flatten(1).clone())
        return activation

    done = 0
    for batch in batches:
        ann_forward(net, params, batch, visit)
        done += len(batch)
        if progress is not None:
            progress(done)
    return {name: torch.cat(parts, 1) for name, parts in sample.items()}


def percentile(sample: Tensor, share: float, *, per_channel: bool) -> Tensor:
    """The activation [C] that `share` of the sample stays under: Hu et al. sort all values and take index floor(share * n)."""
    values = sample if per_channel else sample.reshape(1, -1)
    index = min(int(share * values.shape[1]), values.shape[1] - 1)
    found = values.kthvalue(index + 1, dim=1).values.clamp_min(1e-6)
    return found.expand(len(sample)).clone()


def mmse(sample: Tensor, levels: int, grid: int = 64) -> Tensor:
    """The threshold [C] with the least squared error of `levels` evenly spaced spikes counts.

    Minimises E (x - theta/N clip(floor(N x/theta + 1/2), 0, N))^2 over `grid` candidates between the maximum and 1/grid of it
    (Li et al., arXiv:2106.06984, eq. 11).
    """
    peak = sample.amax(1).clamp_min(1e-6)
    best, error = peak.clone(), torch.full_like(peak, torch.inf)
    for step in range(grid):
        theta = (peak * (1 - step / grid))[:, None]
        rounded = (sample * (levels / theta)).add_(0.5).floor_().clamp_(0, levels).mul_(theta / levels)
        mean = rounded.sub_(sample).square_().mean(1)
        better = mean < error
        best, error = torch.where(better, theta[:, 0], best), torch.where(better, mean, error)
    return best


@torch.inference_mode()
def local_threshold_balancing(
    net: Topology, params: Mapping[str, Tensor], batches: Iterable[Tensor], channels: Mapping[str, int]
) -> dict[str, Tensor]:
    """theta_c += 2 E[(z - theta_c) 1(z > theta_c)], all layers at once while the clipped ANN runs (Bu, Li and Yu, CVPR 2025,
    eq. 17).

    There is no interior minimum: theta grows towards the maximum, and the number of batches is what decides.
    """
    theta = {name: torch.zeros(channels[name]) for name in (layer.name for layer in net.layers)}

    def visit(layer: Layer, z: Tensor) -> Tensor:
        over = (z - theta[layer.name].view(-1, 1, 1)).clamp_min_(0)
        theta[layer.name] += 2 * over.mean((0, 2, 3))
        return torch.minimum(z.clamp_min(0), theta[layer.name].view(-1, 1, 1))

    for batch in batches:
        ann_forward(net, params, batch, visit)
    return {name: value.clamp_min(1e-6) for name, value in theta.items()}
