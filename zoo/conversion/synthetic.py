"""Make calibration images from a checkpoint's own BatchNorm statistics.

For a network whose training images are not at hand.

Each convolution c of a trained network was followed by a BatchNorm that recorded the mean m[c] and
standard deviation s[c], per channel, of what the convolution delivers on training images
(`zoo.networks.batchnorm.recorded_moments`). Images x, a batch at a time, are moved from noise to
where a batch delivers the same,

    min over x of  mean over convolutions and channels of
                       ((mean(c(x)) - m)^2 + (std(c(x)) - s)^2) / (s^2 + s'^2 / 1000)
                   + 10 * mean of what leaves the range of a pixel, 0 to 1, squared,

with s'^2 the mean of s^2 over the channels of a convolution, so that a dead channel does not
decide. Adam, a cosine of the rate, then rounded to uint8. There are no classes and no labels in it:
what conversion needs of an image is how strongly each channel answers, not what it shows.

ZeroQ (Cai et al., arXiv:2001.00281) matches the same statistics, from white noise, to choose the
ranges of quantised activations; DeepInversion (Yin et al., arXiv:1912.08795) adds their distance to
a loss on class labels and to priors of total variation and norm, to distil a network. As in ZeroQ
there is no label. As in neither, errors are relative to each channel's deviation, the start is pink
noise, nearly grey (amplitudes fall with the frequency, as they do in photographs), and the only
prior is the range of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.images import ImageSet, unlabelled
from zoo.errors import UsageError
from zoo.networks.batchnorm import Moments
from zoo.networks.quantise import Quantise
from zoo.networks.resnet import ann_forward
from zoo.networks.topology import Layer, Topology
from zoo.pretrained.checkpoint import Checkpoint

# Images are made this many pixels at a time, which bounds the memory: 128 of 32x32, 16 (the least)
# of 224x224.
_PIXELS, _FEWEST = 2**17, 16


# A dead channel counts as one with this share of its convolution's mean variance.
_FLOOR = 1e-3


def make_images(
    checkpoint: Checkpoint,
    size: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    images: int,
    steps: int,
    rate: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Return images, without labels, that drive the network as its training images did.

    The same arguments give the same images.

    Args:
        size: channels, height and width.
        mean, std: of the network's training, per channel, for pixels in 0 to 1.
        images: number of images.
        steps, rate: of Adam; with 0 steps they stay the noise they begin as.
        progress: called with steps done and steps in all.

    Raises:
        UsageError: the checkpoint has no BatchNorm statistics, or no image could be made to match
            them.
    """
    moments = checkpoint.moments
    if moments is None:
        raise UsageError(
            f"{checkpoint.name} has no BatchNorm statistics, which data-free conversion makes its "
            "images from: give training images with `images` and another `method`"
        )
    device = checkpoint.params["fc.weight"].device
    per_channel = (
        torch.tensor(mean).float().view(-1, 1, 1).to(device),
        torch.tensor(std).float().view(-1, 1, 1).to(device),
    )
    generator = torch.Generator().manual_seed(seed)
    largest = max(_FEWEST, min(128, _PIXELS // (size[1] * size[2])))
    counts = [len(part) for part in np.array_split(np.arange(images), math.ceil(images / largest))]
    batches = []
    for index, count in enumerate(counts):

        def taken(step: int, before: int = index * steps) -> None:
            if progress is not None:
                progress(before + step, len(counts) * steps)

        pixels = pink_noise(count, size, generator).to(device)
        batches.append(_matched(checkpoint, moments, pixels, *per_channel, steps, rate, taken))
    shape = f"{size[1]}x{size[2]}x{size[0]}"
    description = (
        f"{images} images of {shape} made from BatchNorm statistics in {steps} steps with seed "
        f"{seed}"
    )
    return unlabelled(
        torch.cat(batches).cpu().permute(0, 2, 3, 1).contiguous().numpy(),
        description,
        checkpoint.name,
    )


def pink_noise(count: int, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Return noise `[count, C, H, W]` about the middle of a pixel's range, nearly grey.

    Its amplitude falls with the frequency.
    """
    _, height, width = size
    frequency = (
        torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.fftfreq(width)[None] ** 2
    ).sqrt()
    frequency[0, 0] = 1 / max(height, width)
    noise = torch.fft.ifft2(
        torch.fft.fft2(torch.randn(count, *size, generator=generator)) / frequency
    ).real
    noise = noise / noise.std((1, 2, 3), keepdim=True)
    grey = noise.mean(1, keepdim=True)
    return 0.5 + 0.22 * (grey + 0.4 * (noise - grey))


def mismatch(
    net: Topology, params: Mapping[str, Tensor], moments: Mapping[str, Moments], image: Tensor
) -> Tensor:
    """Return how far a batch of normalised images `[B, C, H, W]` is from recorded statistics.

    It is the mean in the module's docstring, 0 where they meet the statistics.
    """
    errors: list[Tensor] = []

    def compare(name: str, z: Tensor) -> None:
        recorded = moments[name]
        unit = recorded.std.square() + _FLOOR * recorded.std.square().mean() + 1e-12
        z = z.float()
        var, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        # The root of zero has no gradient.
        deviation = (var + 1e-6 * unit).sqrt()
        target = (recorded.std.square() + 1e-6 * unit).sqrt()
        errors.append(
            (((mean - recorded.mean).square() + (deviation - target).square()) / unit).mean()
        )

    ann_forward(net, params, image, lambda layer, z: _activation(layer, params, z), compare)
    return torch.stack(errors).mean()


def _activation(layer: Layer, params: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """Return what `zoo.networks.resnet.activate` returns, with a gradient if it is quantised."""
    if "levels" not in params:
        return F.relu(z)
    activation: Tensor = Quantise.apply(
        z.float(), params[f"{layer.name}.threshold"].log(), int(params["levels"].item())
    )
    return activation


def _matched(
    checkpoint: Checkpoint,
    moments: Mapping[str, Moments],
    pixels: Tensor,
    mean: Tensor,
    std: Tensor,
    steps: int,
    rate: float,
    taken: Callable[[int], None],
) -> Tensor:
    """Return the images moved to where they match, uint8 `[B, C, H, W]`."""
    image = ((pixels - mean) / std).requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        now = image * std + mean
        outside = (F.relu(-now) + F.relu(now - 1)).square().mean()
        (mismatch(checkpoint.net, checkpoint.params, moments, image) + 10 * outside).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken(step + 1)
    if not torch.isfinite(image).all():
        raise UsageError(
            f"no images of {image.shape[2]}x{image.shape[3]} match the statistics of "
            f"{checkpoint.name} at rate {rate:g}: "
            "choose a lower rate, or the `input_size` that it was trained for"
        )
    return ((image.detach() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
