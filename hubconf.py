"""Entry points of torch.hub: `torch.hub.load("spiking-zoo/spiking-zoo", "s_resnet20")`.

Each returns what `zoo.load` does: a network of the package or of a hub, checked, ready to run.
"""

from __future__ import annotations

from typing import Any

dependencies = ["torch", "numpy", "safetensors", "huggingface_hub", "pydantic"]


def spiking_resnet(name: str, **options: Any) -> Any:
    """Return a model by its name, `org/name[@revision]` of a hub, or an artifact folder.

    Args:
        name: such as `s-resnet20`.
        options: of `zoo.load`: device, backend, offline, token.
    """
    import zoo

    return zoo.load(name, **options)


def s_resnet20(**options: Any) -> Any:
    """Return `s-resnet20`: CIFAR-10, binary spikes."""
    return spiking_resnet("s-resnet20", **options)


def s_resnet20_digits(**options: Any) -> Any:
    """Return `s-resnet20-digits`: handwritten digits of 8 x 8 pixels, binary spikes."""
    return spiking_resnet("s-resnet20-digits", **options)


def s_resnet56(**options: Any) -> Any:
    """Return `s-resnet56`: CIFAR-10, binary spikes."""
    return spiking_resnet("s-resnet56", **options)
