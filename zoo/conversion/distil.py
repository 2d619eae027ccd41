"""Tune the ANN for the few levels of a layerwise network, before it is converted.

It is distilled from itself, without labels.

After T timesteps a layerwise neuron has one of T + 1 values, so the network is the ANN with each
ReLU replaced by

    q(z) = theta / T * clip(floor(T z / theta + 1/2), 0, T),

the activation of QCFS (Bu et al., ICLR 2022). No network was ever trained with it: at low T the
errors of all layers add up, and what a bias per channel cannot mend, weights and thresholds can.
Gradients pass q as if it did not round (straight-through estimator; `zoo.networks.quantise`).

The loss compares the network with activations q, the student, with the unchanged ANN on the same
images (Li et al., arXiv:2106.06984, do this layer by layer and call it advanced calibration):

    loss = mean (y - y')^2 + 3 mean over blocks  E (a - a')^2 / E a'^2,

y the logits, a the outputs of the residual blocks, primed: the ANN's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zoo.data.augment import augment
from zoo.errors import UsageError
from zoo.networks.pixels import image_table, look_up
from zoo.networks.quantise import Quantise
from zoo.networks.resnet import activate, ann_forward
from zoo.networks.schedule import warm_cosine
from zoo.networks.topology import Layer, Topology
from zoo.pretrained.checkpoint import Checkpoint

# Chosen on training images that took no part (ResNet-20 and 56, T = 8).
_BLOCKS = 3.0  # weight of the blocks' outputs beside the logits


_THETA_RATE = 5.0  # log-thresholds move faster than weights


_WARM_UP = 20


def distil(
    checkpoint: Checkpoint,
    theta: Mapping[str, Tensor],
    pixels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    timesteps: int,
    steps: int,
    batch_size: int = 32,
    rate: float = 4e-4,
    seed: int = 0,
    mirror: bool = True,
    shift: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Tune weights, biases and thresholds for a layerwise network of `timesteps`.

    Weights and biases of all layers but the classifier, and the log-thresholds, take `steps` steps
    of Adam under a cosine with warm-up. The same seed and number of threads give the same values.

    Args:
        theta: threshold `[C]` of each layer to begin with, in ANN units; best `thresholds.mmse`
            with `timesteps` levels.
        pixels: training images, uint8 `[N, C, H, W]`.
        mean, std: per colour channel, for pixels in 0 to 1.
        rate: of weights and biases at its highest; thresholds take 5 times as much. Deep networks
            want less (ResNet-20: 4e-4, ResNet-56: 1e-4; at 4e-4 the latter ends further from the
            ANN, at 1e-3 far off).
        mirror, shift: the augmentation, as in `zoo.training.trainer.Plan`.
        progress: called with steps done and steps in all.

    Returns:
        The tuned checkpoint and thresholds. The checkpoint has the source's name and sha256 but is
        no ANN any more: its activations with ReLU mean nothing, and biases matched to them undo the
        tuning (ResNet-56, T = 8, 1,000 held-out images: the ANN's prediction for 94.5 % of them,
        for 97.8 % with biases as they are).

    Raises:
        UsageError: no images, or timesteps, steps or batch_size under 1.
    """
    for what, value in (("timesteps", timesteps), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(
                f"{what} must be 1 or more, not {value}: leave tuning out, or give it some"
            )
    if len(pixels) == 0:
        raise UsageError("tuning needs at least one image: give training images with `images`")
    net = checkpoint.net
    generator = torch.Generator().manual_seed(seed)
    table = image_table(mean, std, integer=False).to(pixels.device)
    tuned = {name: values.clone() for name, values in checkpoint.params.items()}
    fixed = ("fc.weight", "fc.bias")
    weights = [
        values.requires_grad_()
        for name, values in tuned.items()
        if name.endswith((".weight", ".bias")) and name not in fixed
    ]
    log_theta = {name: values.log().requires_grad_() for name, values in theta.items()}
    groups = [
        {"params": weights, "lr": rate},
        {"params": list(log_theta.values()), "lr": _THETA_RATE * rate},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warm_cosine(step, steps, _WARM_UP)
    )
    for step, rows in enumerate(_draws(len(pixels), batch_size, steps, generator)):
        images = augment(look_up(table, pixels[rows]), generator, shift=shift, mirror=mirror)
        loss = _loss(net, checkpoint.params, tuned, log_theta, images, timesteps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    params = {name: values.detach() for name, values in tuned.items()}
    return replace(checkpoint, params=params), {
        name: values.detach().exp() for name, values in log_theta.items()
    }


def _loss(
    net: Topology,
    params: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    log_theta: Mapping[str, Tensor],
    images: Tensor,
    timesteps: int,
) -> Tensor:
    blocks: dict[str, Tensor] = {}
    errors: list[Tensor] = []

    def teach(layer: Layer, z: Tensor) -> Tensor:
        activation = activate(layer, params, z)
        if layer.shortcut is not None:
            blocks[layer.name] = activation
        return activation

    def study(layer: Layer, z: Tensor) -> Tensor:
        activation: Tensor = Quantise.apply(z, log_theta[layer.name], timesteps)
        if layer.name in blocks:
            target = blocks.pop(layer.name)
            errors.append(
                (activation - target).square().mean() / target.square().mean().clamp_min(1e-12)
            )
        return activation

    with torch.no_grad():
        target = ann_forward(net, params, images, teach)
    logits = ann_forward(net, tuned, images, study)
    return (logits - target).square().mean() + _BLOCKS * torch.stack(errors).mean()


def _draws(images: int, size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Return the rows of each step's batch: one random order of all images after the other."""
    needed = steps * size
    rounds = -(-needed // images)
    order = torch.cat([torch.randperm(images, generator=generator) for _ in range(rounds)])
    return list(order[:needed].split(size))
