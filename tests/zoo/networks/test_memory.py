"""Memory stays bounded: ResNet-56, 100 CIFAR-sized images, 64 timesteps, under 2 GB in all."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json
import torch
from zoo.environment import peak_memory
from zoo.pretrained.checkpoint import Checkpoint
from zoo.data.images import ImageSet
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.resnet import ResNet
from zoo.networks.architectures import topology
from zoo.conversion.build import BuildSpec, build_network

torch.set_num_threads(1)
torch.manual_seed(0)
net = topology("resnet56")
params = fold_batchnorm(net, ResNet(net).state_dict())
theta = {layer.name: torch.full((layer.out_channels,), 3.0) for layer in net.layers}
pixels = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8)
ann = Checkpoint(net, params, "random", "0" * 64)
spec = BuildSpec(
    checkpoint=ann,
    theta=theta,
    neuron="if",
    schedule="causal",
    numerics="int8",
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    calibration=None,
)
network = build_network(spec, pixels[:2], 1).network
logits = network.run(pixels, 64, snapshots=(32, 64)).logits
assert logits.shape == (64, 100, 10)
print(json.dumps(peak_memory()))
"""


def test_resnet56_at_64_timesteps_fits_in_two_gigabytes():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) < 2e9
