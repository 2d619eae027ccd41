"""Spiking Zoo: pretrained residual networks, converted once to exact spiking networks.

    import zoo
    model = zoo.load("s-resnet20-digits")
    logits = model(images, timesteps=32)        # uint8 images [B, C, H, W] -> float64 [B, classes]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.network import SpikingResNet

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(name: str | Path, *, device: str = "cpu") -> SpikingResNet:
    """Loads an artifact by name of the zoo or from a folder, ready to run on `device`.

    Its config is `zoo.artifact.read_config(zoo.registry.resolve(name))`.

    Raises:
        NotFoundError: neither a folder nor a known name.
        IntegrityError: a file is not what the artifact format says, or its sha256 differs.
    """
    from zoo import artifact, registry

    return artifact.network_of(*artifact.read(registry.resolve(name))).to(device)
