"""A small network as timm keeps one on a hub."""

from __future__ import annotations

import json

from safetensors.torch import save

from tests.zoo.spiking_fixtures import random_model
from zoo.networks.architectures import topology

CLASSES = ["ant", "bee", "cat"]


def layout(arch: str, side: int) -> dict[str, bytes]:
    """Return a repository as timm makes it: its config.json, torchvision's tensor names."""
    net = topology(arch, num_classes=len(CLASSES))
    config = {
        "architecture": arch,
        "num_classes": len(CLASSES),
        "num_features": net.features,
        "pretrained_cfg": {
            "tag": "tv_in1k",
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": len(CLASSES),
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
            "license": "bsd-3-clause",
            "origin_url": "https://github.com/pytorch/vision",
        },
        "label_names": CLASSES,
    }
    return {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"---\nlibrary_name: timm\n---\n",
        "config.json": json.dumps(config, indent=2).encode(),
        "model.safetensors": save(dict(random_model(net).state_dict()), metadata={"format": "pt"}),
    }
