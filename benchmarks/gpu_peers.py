"""The peers of `benchmarks.gpu`: the least an image can cost, the ANN, and SpikingJelly.

The peers get a network of the same topology with random weights and settled BatchNorms, and inputs
that are normalised floats on the device already (the zoo's own runs begin at uint8 pixels).

* ANN: BatchNorm folded, bfloat16, channels_last, `torch.compile(mode="reduce-overhead")`, which
  replays a CUDA graph as the zoo does. Divided by T it is what T passes would give, which is what T
  timesteps cost without better kernels.
* SpikingJelly 2.0: `Converter(RateCodingRecipe(mode="99.9%"))`, its default form, whose IFNode
  takes all timesteps in one Triton kernel where a GPU is. Step mode "m" runs layer by layer over
  `[T, B, ...]`, "s" timestep by timestep. Both precisions run in channels_last, float32 with
  torch's default of TF32 convolutions. Its tracer wants `nn.ReLU` modules and knows no
  padding, so a zero-padded shortcut is a fixed 1x1 convolution here.

SpikingJelly needs no installation: unpack the wheels of spikingjelly 2.0.0 and loguru (both pure
Python) into a folder on PYTHONPATH; it also imports requests and tqdm.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.networks.architectures import topology
from zoo.networks.topology import IMAGE, Shortcut, Topology

STEP_MODES = ("m", "s")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Side of the image, classes.
NETWORKS = {
    "resnet50": (224, 1000),
    "resnet20": (32, 10),
    "resnet18": (224, 1000),
    "resnet34": (224, 1000),
    "resnet56": (32, 10),
}


@dataclass(frozen=True)
class Roof:
    """Peaks of a chip by its datasheet: int8 operations and bytes of memory a second."""

    operations: float
    bandwidth: float


ROOFS = {"NVIDIA H200": Roof(1979e12, 4.8e12), "NVIDIA H100 80GB HBM3": Roof(1979e12, 3.35e12)}


@dataclass(frozen=True)
class Floor:
    """The least an image costs: operations, bytes, and the longer of the two times."""

    operations: float
    bytes: float
    seconds: float


def floor(
    name: str, timesteps: int, *, signed: bool = False, roof: Roof = ROOFS["NVIDIA H200"]
) -> Floor:
    """Return the floor of one image of a network of NETWORKS.

    Operations are 2 for each weight, position and timestep; the stem's count once, since its image
    is constant. Bytes are the image, and packed spikes, written once and read once by each reader;
    `signed` packs two bits a spike. Weights are read once a batch and not counted.
    """
    side, classes = NETWORKS[name]
    net = topology(name, num_classes=classes)
    sizes = net.sizes(side, side)
    planes = -(-timesteps // 8) * (2 if signed else 1)
    operations, moved = 0.0, float(net.in_channels * side * side)
    for spec in net.layers:
        area = math.prod(
            (n + 2 * spec.padding - spec.kernel) // spec.stride + 1 for n in sizes[spec.source]
        )
        steps = 1 if spec.source == IMAGE else timesteps
        operations += 2 * steps * area * spec.out_channels * spec.in_channels * spec.kernel**2
        readers = [] if spec.source == IMAGE else [spec.source]
        if spec.shortcut is not None:
            readers.append(spec.shortcut.source)
            if spec.shortcut.kind == "projection":
                operations += (
                    2 * steps * area * spec.out_channels * net.channels[spec.shortcut.source]
                )
        moved += planes * sum(math.prod(sizes[n]) * net.channels[n] for n in (*readers, spec.name))
    return Floor(operations, moved, max(operations / roof.operations, moved / roof.bandwidth))


@dataclass(frozen=True)
class System:
    """A system to time.

    Attributes:
        run: takes the index of an input set and returns logits `[B, classes]`.
        inputs: number of input sets.
    """

    run: Callable[[int], Tensor]
    inputs: int
    note: str = ""


class PlainResNet(nn.Module):
    """The ANN of a topology with one module for each operation, as tracers like it."""

    def __init__(self, net: Topology) -> None:
        super().__init__()
        self.net = net
        self.convs, self.bns, self.relus, self.sides, self.side_bns = (
            nn.ModuleDict() for _ in range(5)
        )
        for spec in net.layers:
            key = _key(spec.name)
            self.convs[key] = nn.Conv2d(
                spec.in_channels,
                spec.out_channels,
                spec.kernel,
                spec.stride,
                spec.padding,
                bias=False,
            )
            self.bns[key] = nn.BatchNorm2d(spec.out_channels)
            self.relus[key] = nn.ReLU()
            if spec.shortcut is not None and (
                spec.shortcut.kind == "projection" or spec.shortcut.stride > 1
            ):
                sources = net.channels[spec.shortcut.source]
                self.sides[key] = nn.Conv2d(
                    sources, spec.out_channels, 1, spec.shortcut.stride, bias=False
                )
                if spec.shortcut.kind == "projection":
                    self.side_bns[key] = nn.BatchNorm2d(spec.out_channels)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.fc = nn.Linear(net.features, net.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for spec in net.layers:
            if (
                spec.shortcut is not None
                and _key(spec.name) in self.sides
                and spec.shortcut.kind == "identity"
            ):
                _pad_with_zeros(self.sides[_key(spec.name)], spec.shortcut)

    def forward(self, image: Tensor) -> Tensor:
        out = {IMAGE: image}
        for spec in self.net.layers:
            key = _key(spec.name)
            z = self.bns[key](self.convs[key](out[spec.source]))
            if spec.shortcut is not None:
                x = out[spec.shortcut.source]
                if key in self.sides:
                    x = self.sides[key](x)
                if key in self.side_bns:
                    x = self.side_bns[key](x)
                z = z + x
            z = self.relus[key](z)
            out[spec.name] = self.pool(z) if spec.max_pool else z
        return self.fc(out[self.net.layers[-1].name].mean((2, 3)))


def _key(name: str) -> str:
    return name.replace(".", "_")


@torch.no_grad()
def _pad_with_zeros(conv: nn.Module, shortcut: Shortcut) -> None:
    """Make a 1x1 convolution copy its channels to those between the zero-padded ones."""
    assert isinstance(conv, nn.Conv2d)
    conv.weight.zero_()
    for c in range(conv.in_channels):
        conv.weight[c + shortcut.pad, c] = 1


def normalised(images: Tensor, dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Return uint8 images as an ANN takes them."""
    return ((images.float() / 255 - 0.5) / 0.25).to(dtype).contiguous(memory_format=layout)


@torch.no_grad()
def plain_ann(net: Topology, images: Tensor, seed: int = 0) -> PlainResNet:
    """Return a PlainResNet of random weights in eval mode, on the images' device.

    Its BatchNorms are settled on these images.
    """
    torch.manual_seed(seed)
    ann = PlainResNet(net).to(images.device)
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    ann.train()(normalised(images, torch.float32, torch.contiguous_format))
    return ann.eval()


@torch.no_grad()
def ann_system(net: Topology, batches: Sequence[Tensor], compiled: bool) -> System:
    """Return the ANN on uint8 batches, at its best.

    Folded, bfloat16, channels_last, compiled unless `compiled` is false.
    """
    ann = plain_ann(net, batches[0][:8])
    for convs, bns in ((ann.convs, ann.bns), (ann.sides, ann.side_bns)):
        for key in bns:
            fused = fuse_conv_bn_eval(convs[key], bns[key])  # type: ignore[type-var]
            convs[key], bns[key] = fused, nn.Identity()
    model: Callable[[Tensor], Tensor] = ann.to(torch.bfloat16, memory_format=torch.channels_last)
    inputs = [normalised(batch, torch.bfloat16, torch.channels_last) for batch in batches]
    note = "bf16, channels_last, eager"
    if compiled:
        model, note = (
            torch.compile(model, mode="reduce-overhead", dynamic=False),
            "bf16, channels_last, torch.compile, CUDA graph",
        )

    @torch.no_grad()
    def run(i: int) -> Tensor:
        return model(inputs[i])

    return System(run, len(inputs), note)


def why_not_spikingjelly() -> str:
    """Return why SpikingJelly's converter cannot be imported; empty if it can."""
    try:
        from spikingjelly.activation_based import ann2snn

        return (
            ""
            if hasattr(ann2snn, "RateCodingRecipe")
            else "not installed: this spikingjelly is older than 2.0"
        )
    except ImportError as error:
        return f"not installed: {error}"


@torch.no_grad()
def spikingjelly_system(
    net: Topology, batches: Sequence[Tensor], timesteps: int, dtype: str, step_mode: str
) -> System:
    """Return SpikingJelly's conversion of the ANN on uint8 batches.

    Logits are the mean over the timesteps.

    Raises:
        ImportError: it is not installed.
    """
    from spikingjelly.activation_based import ann2snn, functional

    ann = plain_ann(net, batches[0][:8])
    layout = torch.channels_last
    sample = normalised(batches[0][:8], torch.float32, torch.contiguous_format)
    with _quiet():
        snn = ann2snn.Converter(
            ann2snn.RateCodingRecipe([sample], mode="99.9%"), device=sample.device
        ).convert(ann)
    expected = ann(sample)
    snn = snn.to(DTYPES[dtype]).to(memory_format=layout)
    functional.set_step_mode(snn, step_mode)
    inputs = [normalised(batch, DTYPES[dtype], layout) for batch in batches]

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        functional.reset_net(snn)
        if step_mode == "m":
            return snn(x.expand(timesteps, *x.shape)).float().mean(0)
        total = snn(x).float()
        for _ in range(timesteps - 1):
            total += snn(x)
        return total / timesteps

    got = forward(inputs[0][:8])
    error = ((got - expected).norm() / expected.norm()).item()
    chosen = functional.neuron_implementation("if", inputs[0].device)["implementation"]
    note = (
        f"{dtype}, channels_last, step mode {step_mode}, neurons by {chosen}, "
        f"no CUDA graph, logits {100 * error:.0f} % from the ANN's"
    )
    return System(lambda i: forward(inputs[i]), len(inputs), note)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of the library."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        yield
