"""The peers of `benchmarks.cpu`: other libraries' converted form of the same topology, on a CPU.

    pip install --target DIR --no-deps spikingjelly==2.0.0 loguru==0.7.3 requests tqdm \\
      sinabs==3.1.3 pbr nir nirtorch h5py snntorch==1.0.0

with DIR at the end of PYTHONPATH. Each gets a ResNet of random weights with settled BatchNorms
(`benchmarks.gpu_peers.PlainResNet`) and normalised float images; dense convolutions take as long
for any weights and spikes. Only speed is compared: what each would classify is not looked at.

* spikingjelly: `Converter(RateCodingRecipe(mode="99.9%"))`, step mode "m", all timesteps of a layer
  in one call.
* sinabs: `from_torch.from_model`, which puts an integrate-and-fire layer in place of every ReLU;
  timesteps are folded into the batch, as it wants them.
* snntorch: it has no converter; `Leaky(beta=1, reset_mechanism="subtract")` stands in place of
  every ReLU, and the network is called timestep by timestep, as its users do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.gpu_peers import PlainResNet, normalised, plain_ann, spikingjelly_system
from zoo.networks.architectures import topology

PEERS = {"spikingjelly": "spikingjelly", "sinabs": "sinabs", "snntorch": "snntorch"}


def peer_run(name: str, arch: str, images: Tensor, timesteps: int) -> Callable[[], Tensor]:
    """Return a run of a peer's network on uint8 images `[B, C, H, W]`; it returns logits.

    Raises:
        ImportError: the library is not installed.
    """
    net = topology(arch, num_classes=10)
    if name == "spikingjelly":
        system = spikingjelly_system(net, [images], timesteps, "fp32", "m")
        return lambda: system.run(0)
    ann = plain_ann(net, images[:8])
    inputs = normalised(images, torch.float32, torch.contiguous_format)
    if name == "sinabs":
        return _sinabs_run(ann, inputs, timesteps)
    return _snntorch_run(ann, inputs, timesteps)


def _sinabs_run(ann: PlainResNet, inputs: Tensor, timesteps: int) -> Callable[[], Tensor]:
    from sinabs.from_torch import from_model
    from sinabs.layers import StatefulLayer

    network = from_model(ann, batch_size=len(inputs)).spiking_model
    states = [layer for layer in network.modules() if isinstance(layer, StatefulLayer)]

    @torch.no_grad()
    def run() -> Tensor:
        for layer in states:
            layer.reset_states()
        return network(inputs.repeat_interleave(timesteps, 0)).unflatten(0, (-1, timesteps)).sum(1)

    return run


def _snntorch_run(ann: PlainResNet, inputs: Tensor, timesteps: int) -> Callable[[], Tensor]:
    import snntorch

    for name in ann.relus:
        ann.relus[name] = snntorch.Leaky(beta=1.0, reset_mechanism="subtract", init_hidden=True)
    neurons: list[nn.Module] = list(ann.relus.values())

    @torch.no_grad()
    def run() -> Tensor:
        for neuron in neurons:
            neuron.reset_mem()
        total = ann(inputs)
        for _ in range(timesteps - 1):
            total = total + ann(inputs)
        return total

    return run
