"""The topologies are torchvision's and He et al.'s, and folding BatchNorm changes no logit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.zoo.spiking_fixtures import random_model, refuses, tiny_topology
from zoo.errors import UsageError
from zoo.networks.architectures import ARCHITECTURES, topology
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.resnet import ResNet, ann_forward
from zoo.networks.topology import IMAGE, Topology

CIFAR = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet8", "resnet14")

# Spelled out, not made: the first keys of torchvision.models.resnet18().state_dict(), in its order.
FIRST_KEYS = """
conv1.weight bn1.weight bn1.bias bn1.running_mean bn1.running_var bn1.num_batches_tracked
layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.bn1.bias layer1.0.bn1.running_mean
layer1.0.bn1.running_var layer1.0.bn1.num_batches_tracked layer1.0.conv2.weight layer1.0.bn2.weight
layer1.0.bn2.bias layer1.0.bn2.running_mean layer1.0.bn2.running_var
layer1.0.bn2.num_batches_tracked layer1.1.conv1.weight layer1.1.bn1.weight layer1.1.bn1.bias
layer1.1.bn1.running_mean layer1.1.bn1.running_var layer1.1.bn1.num_batches_tracked
layer1.1.conv2.weight layer1.1.bn2.weight layer1.1.bn2.bias layer1.1.bn2.running_mean
layer1.1.bn2.running_var layer1.1.bn2.num_batches_tracked layer2.0.conv1.weight layer2.0.bn1.weight
layer2.0.bn1.bias layer2.0.bn1.running_mean layer2.0.bn1.running_var
layer2.0.bn1.num_batches_tracked layer2.0.conv2.weight layer2.0.bn2.weight layer2.0.bn2.bias
layer2.0.bn2.running_mean layer2.0.bn2.running_var layer2.0.bn2.num_batches_tracked
layer2.0.downsample.0.weight layer2.0.downsample.1.weight layer2.0.downsample.1.bias
layer2.0.downsample.1.running_mean layer2.0.downsample.1.running_var
layer2.0.downsample.1.num_batches_tracked layer2.1.conv1.weight
"""
BLOCK_KEYS = """
layer1.0.conv1.weight layer1.0.bn1.weight layer1.0.conv2.weight layer1.0.bn2.weight
layer1.0.conv3.weight layer1.0.bn3.weight layer1.0.downsample.0.weight layer1.0.downsample.1.weight
"""


def on_paper(net: Topology) -> ResNet:
    """The module with shapes alone."""
    with torch.device("meta"):
        return ResNet(net)


def parameters(net: Topology) -> int:
    return sum(p.numel() for p in on_paper(net).parameters())


@pytest.mark.parametrize(
    ("arch", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_parameters_are_torchvisions(arch, count):
    assert parameters(topology(arch, num_classes=1000)) == count


def by_formula(blocks: int, project: bool) -> int:
    """A CIFAR ResNet's parameters, BatchNorm's weights and biases included."""
    total = 3 * 16 * 9 + 2 * 16
    width = 16
    for channels in (16, 32, 64):
        for _ in range(blocks):
            total += 9 * width * channels + 9 * channels * channels + 4 * channels
            total += (width * channels + 2 * channels) * (project and width != channels)
            width = channels
    return total + 64 * 10 + 10


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [("resnet20", 3), ("resnet32", 5), ("resnet44", 7), ("resnet56", 9), ("resnet110", 18)],
)
def test_parameters_of_the_cifar_form(arch, blocks):
    assert parameters(topology(arch)) == by_formula(blocks, False)
    assert parameters(topology(arch, shortcut="B")) == by_formula(blocks, True)
    assert by_formula(3, False) == 269_722


def test_keys_are_torchvisions():
    keys = list(on_paper(topology("resnet18", num_classes=1000)).state_dict())
    assert keys[: len(FIRST_KEYS.split())] == FIRST_KEYS.split()
    assert keys[-2:] == ["fc.weight", "fc.bias"] and len(keys) == 122
    shapes = {
        key: tuple(t.shape)
        for key, t in on_paper(topology("resnet50", num_classes=7)).state_dict().items()
    }
    block = [key for key in shapes if key.startswith("layer1.0") and key.endswith("weight")]
    assert block == BLOCK_KEYS.split() and len(shapes) == 320
    assert shapes["conv1.weight"] == (64, 3, 7, 7) and shapes["fc.weight"] == (7, 2048)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)


def test_strides_of_a_bottleneck_are_torchvisions():
    modules = dict(on_paper(topology("resnet50")).named_modules())
    strides = [
        modules[f"layer2.0.{name}"].stride for name in ("conv1", "conv2", "conv3", "downsample.0")
    ]
    assert strides == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert modules["layer1.0.conv2"].stride == modules["layer1.0.downsample.0"].stride == (1, 1)
    assert modules["conv1"].stride == (2, 2) and modules["conv1"].padding == (3, 3)


@pytest.mark.parametrize(
    ("net", "side"),
    [
        (topology("resnet20", in_channels=1), 8),
        (topology("resnet20", shortcut="B"), 9),
        (topology("resnet32", num_classes=3), 5),
        (topology("resnet18", num_classes=3), 33),
        (topology("resnet50", num_classes=3), 32),
        (tiny_topology("cifar"), 7),
        (tiny_topology("imagenet"), 15),
    ],
    ids=lambda value: f"{value.arch}{value.shortcut}" if isinstance(value, Topology) else None,
)
@torch.inference_mode()
def test_folding_changes_no_logit(net, side):
    model = random_model(net)
    images = torch.randn(3, net.in_channels, side, side, generator=torch.Generator().manual_seed(1))
    seen = {}

    def visit(layer, z):
        seen[layer.name] = tuple(z.shape)
        return torch.relu(z)

    wanted = model(images)
    params = fold_batchnorm(net, model.state_dict())
    found = ann_forward(net, params, images, visit)
    assert found.shape == (3, net.num_classes)
    assert (wanted.std(0) > 1e-3).any()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())
    torch.testing.assert_close(ann_forward(net, params, images), found)
    sizes = net.sizes(side, side)
    assert seen == {layer.name: (3, layer.out_channels, *sizes[layer.name]) for layer in net.layers}


@torch.inference_mode()
def test_folding_uses_the_given_epsilon():
    net = tiny_topology("cifar")
    model = random_model(net)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.5
    images = torch.randn(2, 1, 8, 8)
    params = fold_batchnorm(net, model.state_dict(), eps=0.5)
    torch.testing.assert_close(
        ann_forward(net, params, images), model(images), rtol=1e-4, atol=1e-4
    )


@torch.inference_mode()
def test_option_a_is_strided_and_zero_padded():
    """With silent convolutions a block is its shortcut."""
    net = topology("resnet20", in_channels=1)
    params = fold_batchnorm(net, random_model(net).state_dict())
    for key, value in params.items():
        if key.startswith("layer"):
            value.zero_()
    seen = {}

    def visit(layer, z):
        seen[layer.name] = torch.relu(z)
        return seen[layer.name]

    ann_forward(net, params, torch.randn(1, 1, 8, 8), visit)
    before, after = seen["layer1.2.conv2"], seen["layer2.0.conv2"]
    assert torch.equal(before, seen["conv1"]) and before.any()
    assert torch.equal(after[:, 8:24], before[:, :, ::2, ::2])
    assert not after[:, :8].any() and not after[:, 24:].any()


def test_outputs_live_until_their_last_reader():
    for net in (tiny_topology("imagenet"), *(topology(arch) for arch in ARCHITECTURES)):
        alive = {IMAGE}
        for index, layer in enumerate(net.layers):
            assert alive.issuperset(layer.sources)
            later = {name for other in net.layers[index + 1 :] for name in other.sources}
            made = {layer.name, *(pool.name for pool in net.pools_behind(layer.name))}
            released = set(net.released_after(index))
            assert released <= alive | made and not released & later
            alive = (alive | made) - released
            assert alive == (alive & later) | (
                {layer.name} if index == len(net.layers) - 1 else set()
            )


# Sides and channels of the last layer, and its convolutions but those of shortcuts.
SHAPES = {
    **{arch: (64, 8, int(arch.removeprefix("resnet")) - 1) for arch in CIFAR},
    "resnet20x4": (256, 8, 19),
    "resnet8x4_stem32": (256, 8, 7),
    "resnet18": (512, 7, 17),
    "resnet34": (512, 7, 33),
    "resnet50": (2048, 7, 49),
    "resnet101": (2048, 7, 100),
    "resnet152": (2048, 7, 151),
    "wide_resnet50_2": (2048, 7, 49),
    "resnext101_32x8d": (2048, 7, 100),
    "resnet10t": (512, 7, 11),
    "resnet50d": (2048, 7, 51),
    "resnet18_cifar": (512, 4, 17),
    "resnet50_cifar": (2048, 4, 49),
}


@pytest.mark.parametrize("arch", SHAPES)
def test_sizes_and_channels(arch):
    net = topology(arch, num_classes=5, in_channels=2)
    side = 224 if net.halves_image else 32
    final = net.sizes(side, side)[net.layers[-1].name]
    assert (net.features, *final, len(net.layers)) == (
        SHAPES[arch][0],
        *SHAPES[arch][1:2] * 2,
        SHAPES[arch][2],
    )
    assert (net.num_classes, net.in_channels, net.layers[0].in_channels) == (5, 2, 2)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_name_is_a_network(arch):
    assert topology(arch).checked().arch == arch


@pytest.mark.parametrize(
    ("arch", "shortcut", "match"),
    [
        ("resnet19", None, "resnet19.*resnet20.*152"),
        ("", None, "unknown"),
        ("resnet18", "A", "projection"),
        ("resnet20", "C", "A .*B"),
    ],
)
def test_what_does_not_exist_is_refused(arch, shortcut, match):
    with refuses(UsageError, match):
        topology(arch, shortcut=shortcut)


@pytest.mark.parametrize("arch", ["resnet50", "resnet101", "resnet152"])
def test_the_stride_of_a_bottleneck(arch):
    """In the 3x3 ("v1.5") or the first 1x1 ("v1"): same weights, same sizes behind each block."""
    nets = {where: topology(arch, num_classes=1000, stride_in=where) for where in ("3x3", "1x1")}
    assert topology(arch, num_classes=1000) == nets["3x3"] and nets["3x3"] != nets["1x1"]
    assert parameters(nets["3x3"]) == parameters(nets["1x1"])
    for where, net in nets.items():
        strided = [layer for layer in net.layers[1:] if layer.stride == 2]
        assert [layer.name for layer in strided] == [
            f"layer{n}.0.conv{1 if where == '1x1' else 2}" for n in (2, 3, 4)
        ]
    ends = [layer.name for layer in nets["3x3"].layers if layer.shortcut]
    sizes = {where: net.sizes(224, 224) for where, net in nets.items()}
    assert [sizes["1x1"][name] for name in ends] == [sizes["3x3"][name] for name in ends]
    assert sizes["3x3"]["layer2.0.conv1"] == (56, 56) and sizes["1x1"]["layer2.0.conv1"] == (28, 28)


@pytest.mark.parametrize("arch", ["resnet18", "resnet20"])
def test_no_bottleneck_no_other_stride(arch):
    with refuses(UsageError, "no bottlenecks"):
        topology(arch, stride_in="1x1")


@pytest.mark.parametrize("levels", [0, 8])
@pytest.mark.parametrize("form", ["cifar", "imagenet", "deep"])
def test_torch_compile_takes_the_network_as_one_graph(form: str, levels: int) -> None:
    # In pieces a compiled step took twice the time of an ordinary one.
    net = tiny_topology(form)
    model = ResNet(net, levels).train()
    found = torch._dynamo.explain(model)(torch.zeros(2, net.in_channels, 32, 32))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
