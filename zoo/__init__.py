"""Spiking Zoo: pretrained residual networks, converted once to exact spiking networks.

import zoo
model = zoo.load("s-resnet20-digits")
logits = model(images, timesteps=32)        # uint8 images [B, C, H, W] -> float64 [B, classes]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.version import __version__

if TYPE_CHECKING:
    from zoo.networks.fused import Backend
    from zoo.networks.spiking import SpikingResNet

__all__ = ["__version__", "load"]


def load(
    name: str | Path,
    *,
    device: str = "cpu",
    backend: Backend = "auto",
    offline: bool = False,
    token: str | None = None,
) -> SpikingResNet:
    """Loads an artifact from a folder, by a name of the zoo, or by the `org/name[@revision]` of a hub, ready to run on `device`.

    One that is on a hub is pulled once; afterwards it needs no network. `zoo pull` looks for a newer one.

    Args:
        backend: `auto` (triton on a CUDA device, torch elsewhere), `triton`, `torch` or `interpret`; all give the same spikes.
        offline: ask no hub, take what is in the package or the cache.
        token: for the hub, instead of the one that is stored or in $HF_TOKEN.

    Its config is `zoo.artifact.folder.read_config(zoo.models.registry.resolve(name))`.

    Raises:
        NotFoundError: neither a folder, nor a known name, nor on the hub.
        NetworkError, AuthError: it has to be pulled, and the hub does not answer or wants a token.
        IntegrityError: a file is not what the artifact format says, or its sha256 differs.
        UsageError: the backend cannot run here.
    """
    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.models import registry

    folder = registry.resolve(name, offline=offline, token=token)
    return network_of(*read_artifact(folder)).to(device).with_backend(backend)
