"""Modules of users: traced, mapped onto layers, compared with themselves, or refused by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from tests.zoo.spiking_fixtures import random_pixels, refuses
from tests.zoo.tracing.modules import Free, HandWritten, conv, deep_head, randomised
from zoo.artifact.folder import verify_artifact
from zoo.errors import IntegrityError, UsageError
from zoo.networks.topology import Shortcut
from zoo.tracing.module import TOLERANCE, Traced, read_module

FEW = {"samples": 8, "timesteps": 4, "parameters": {"rows": 2, "delay": "none"}}


def checked(module: nn.Module, size: int = 16) -> Traced:
    """Return what was read, its logits equal to the module's on five images."""
    traced = read_module(randomised(module), size)
    net, origin = traced.checkpoint.net, traced.checkpoint.origin
    mean, std = (
        torch.tensor(values or (default,) * net.in_channels).float().view(-1, 1, 1)
        for values, default in ((origin.mean, 0.0), (origin.std, 1.0))
    )
    assert traced.check(random_pixels(5, net.in_channels, size), mean, std) <= TOLERANCE
    return traced


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", [None, deep_head])
def test_a_hand_written_resnet_from_python(tmp_path: Path, head: Any) -> None:
    module = randomised(HandWritten(head and head())).train()
    pixels, labels = random_pixels(8, 3, 32), torch.arange(8)
    made = zoo.convert(module, (pixels, labels), **FEW)
    assert module.training  # it stays as it was
    config = made.save(tmp_path / "s")
    assert [check.ok for check in verify_artifact(tmp_path / "s", deep=True)] == [True] * 3
    assert config.source.name == "tests.zoo.tracing.modules.HandWritten"
    assert config.arch == ("resnet8" if head is None else "HandWritten")
    assert config.calibration.description == "Tensor, 8 images of 32x32x3, 8 classes"
    runs: list[dict[str, torch.Tensor]] = [{}, {}]
    for found, backend in zip(runs, ("torch", "interpret"), strict=True):
        model = zoo.load(tmp_path / "s", backend=backend)  # type: ignore[arg-type]
        model.run(pixels[:1], 3, on_spikes=lambda name, s, f=found: f.update({name: s}))
    assert len(runs[0]) == (7 if head is None else 8)
    assert all(torch.equal(spikes, runs[1][name]) for name, spikes in runs[0].items())
    assert all(spikes.any() for spikes in runs[0].values())


def test_the_source_is_the_state_dict() -> None:
    one, other = (read_module(randomised(HandWritten()), 32).checkpoint for _ in range(2))
    assert one.sha256 == other.sha256
    module = randomised(HandWritten())
    with torch.no_grad():
        module.head.bias[0] += 1  # type: ignore[union-attr, index]
    assert read_module(module, 32).checkpoint.sha256 != one.sha256
    assert one.moments is not None and set(one.moments) == {layer.name for layer in one.net.layers}


def gated(m: Any, x: torch.Tensor) -> torch.Tensor:
    return F.relu(x * torch.sigmoid(m.squeeze(x.mean((2, 3))))[:, :, None, None])


@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (lambda: Free(lambda m, x: F.relu(m.b(m.c(F.relu(m.b(m.c(x))))) + x), c=conv(),
                      b=nn.BatchNorm2d(16)), 3),  # one convolution and one BatchNorm, used twice
        (lambda: Free(lambda m, x: F.relu(m.c(x)), c=conv(padding=2, dilation=2)), 2),
        (lambda: Free(lambda m, x: F.relu(m.c(x)), c=nn.Conv2d(16, 16, (1, 3), 1, (0, 1))), 2),
        (lambda: Free(lambda m, x: F.relu(m.c(x) + m.d(x)), c=conv(groups=4),
                      d=conv(kernel=1, groups=2)), 2),
        (lambda: Free(lambda m, x: F.relu(torch.add(x, m.c(x) * m.g + m.h)), c=conv(),
                      g=nn.Parameter(torch.rand(16, 1, 1)), h=nn.Parameter(torch.rand(1))), 2),
        (lambda: Free(lambda m, x: F.relu(m.c(x) + x),
                      c=nn.utils.parametrizations.weight_norm(conv())), 2),
        (lambda: Free(lambda m, x: F.relu(m.d(F.relu(m.c(x) + torch.cat(
            [F.avg_pool2d(x, 1, 2), F.avg_pool2d(x, 1, 2) * 0], 1)))),
            c=conv(channels=32, stride=2), d=conv(32, 16, 1)), 3),  # zero channels on one side
        (lambda: Free(lambda m, x: F.relu(m.c(x) + m.d(F.avg_pool2d(x, 2))), c=conv(stride=2),
                      d=conv(kernel=1)), 2),
        (lambda: Free(lambda m, x: {"logits": m.fc(F.relu(m.c(x)).flatten(2).mean(-1)),
                                    "features": F.silu(x)}, c=conv()), 2),
        (lambda: Free(lambda m, x: (F.log_softmax(m.fc(m.c(x).relu_().mean(3).mean(2)), 1),),
                      c=conv()), 2),
        (lambda: Free(lambda m, x: (m.fc(F.relu(m.c(x)).sum((2, 3)) / 256),), c=conv()), 2),
        (lambda: nn.DataParallel(HandWritten()), 7),
        (lambda: HandWritten().half(), 7),
        (lambda: HandWritten(nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 9),
                                           nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 10))), 8),
        (lambda: nn.Sequential(conv(3), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
                               nn.Conv2d(16, 10, 1), nn.ReLU(), nn.Conv2d(10, 7, 1),
                               nn.AdaptiveAvgPool2d(1), nn.Flatten()), None),
    ],
)  # fmt: skip
def test_forms_that_fit(module: Any, layers: int | None) -> None:
    if layers is None:  # two poolings in a row have no form
        with refuses(UsageError, "3: a max-pooling of a max-pooling"):
            checked(module())
        return
    assert len(checked(module()).checkpoint.net.layers) == layers


def test_a_shortcut_may_average_all_that_is_left() -> None:
    module = Free(
        lambda m, x: F.relu(m.c(x) + m.d(F.avg_pool2d(x, 2))),
        c=conv(stride=2),
        d=conv(kernel=1),
    )
    net = checked(module, 2).checkpoint.net
    assert net.layers[1].shortcut == Shortcut("projection", "conv", 2, conv="d", kernel=2)


def test_a_zero_padded_shortcut_is_an_identity() -> None:
    net = checked(HandWritten(), 32).checkpoint.net
    assert (net.arch, net.named, net.shortcut) == ("resnet8", True, "A")
    assert net.layers[4].shortcut == Shortcut("identity", "layer1.0.conv2", 2, 8)


def test_a_normalising_layer_says_mean_and_std() -> None:
    module = Free(lambda m, x: x)
    module.mean, module.std = (torch.tensor(v).view(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2] * 3))
    plain = module.forward
    module.forward = lambda x: plain((x - module.mean) / module.std)  # type: ignore[method-assign]
    checkpoint = checked(module).checkpoint
    assert checkpoint.origin.mean == pytest.approx((0.4, 0.5, 0.6))
    assert checkpoint.origin.std == pytest.approx((0.2,) * 3)
    with refuses(UsageError, "normalises its input itself"):
        zoo.convert(module, random_pixels(4, 3, 16), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize(
    ("between", "parts", "says"),
    [
        (lambda m, x: F.relu6(m.c(x)), {"c": conv()}, "a ReLU that is clipped"),
        (gated, {"squeeze": nn.Linear(16, 16)}, "multiplication of two activations has no spiking"),
        (lambda m, x: F.gelu(m.c(x)), {"c": conv()}, "gelu is no ReLU"),
        (lambda m, x: F.relu(m.b(m.c(x)) + (y := m.c(x))) + y, {"c": conv(), "b": conv()},
         "c?: ?a convolution reads|a sum that no ReLU follows"),
        (lambda m, x: F.relu(m.c(m.c(x))), {"c": conv()}, "c: a convolution reads a sum that no"),
        (lambda m, x: F.relu(m.c(m.b(x))), {"c": conv(), "b": nn.BatchNorm2d(16)},
         "b: BatchNorm behind a ReLU"),
        (lambda m, x: m.d(F.relu(m.b(y := m.c(x)))) + y,
         {"b": nn.BatchNorm2d(16), "c": conv(), "d": conv()}, "as in pre-activation ResNets"),
        (lambda m, x: F.relu(m.c(torch.cat([x, x], 1))), {"c": conv(32)}, "a concatenation of"),
        (lambda m, x: F.relu(m.c(x) + m.d(x) + x), {"c": conv(), "d": conv()},
         "a sum of 3 inputs, where neurons have two"),
        (lambda m, x: F.relu(m.c(x)) if x.mean() > 0 else x, {"c": conv()},
         "cannot be traced .its control flow depends on values of activations"),
        (lambda m, x: F.relu(m.c(x)) if len(x) > 4 else x, {"c": conv()},
         "goes by the number of images"),
        (lambda m, x: F.dropout(F.relu(m.c(x))), {"c": conv()}, "a dropout that stays on"),
        (lambda m, x: F.relu(m.c(x) + torch.rand(16, 1, 1)), {"c": conv()}, "random numbers"),
        (lambda m, x: F.relu(m.b(m.c(x))),
         {"c": conv(), "b": nn.BatchNorm2d(16, track_running_stats=False)},
         "b: BatchNorm without recorded statistics"),
        (lambda m, x: F.relu(m.b(m.c(x))), {"c": conv(), "b": nn.GroupNorm(4, 16)},
         "b: GroupNorm divides by statistics of each image"),
        (lambda m, x: (m.fc(x.mean((2, 3))), m.fc(x.mean((2, 3)))), {}, "returns 2 tensors"),
        (lambda m, x: (m.a(F.max_pool2d(x, 8).flatten(1)),), {"a": nn.Linear(64, 10)},
         "an area of 2x2 is read place by place"),
        (lambda m, x: F.relu(m.c(x)), {"c": nn.Conv2d(16, 16, (1, 3), 1, (1, 1))},
         "c: a kernel of 1x3 with padding 1x1 is no square one"),
        (lambda m, x: F.relu(m.c(x)), {"c": conv(padding_mode="reflect")}, "c: padding with mode"),
        (lambda m, x: F.relu(m.c(x)), {"c": nn.Conv2d(16, 16, 3, (1, 2))}, "another for rows"),
        (lambda m, x: F.relu(m.c(F.avg_pool2d(x, 3, 1, 1))), {"c": conv()}, "average pooling of 3"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(between: Any, parts: dict[str, nn.Module], says: str) -> None:
    with refuses(UsageError, says):
        checked(Free(between, **parts))


def test_a_path_of_several_parts_is_named() -> None:
    module = HandWritten()
    module.body[2].relu = nn.SiLU()
    with refuses(UsageError, "no spiking form: body.2.relu: silu is no ReLU; a network of"):
        read_module(module, 32)


def test_other_modules_are_refused() -> None:
    with refuses(UsageError, "is TorchScript"):
        read_module(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), 32)
    with refuses(UsageError, "is a spiking network already"):
        read_module(zoo.load("s-resnet20-digits"), 8)
    with refuses(UsageError, "fails on an image of 2x2"):
        read_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 2)
    broken = HandWritten()
    nn.init.constant_(broken.norm.weight, float("nan"))
    with refuses(IntegrityError, "norm.weight has NaN"):
        read_module(broken, 32)
    with refuses(UsageError, "leave `arch` and `weights` out"):
        zoo.convert(HandWritten(), random_pixels(4, 3, 32), arch="resnet20")


def test_a_network_that_was_misread_is_refused_by_its_first_layer() -> None:
    traced = checked(HandWritten())
    traced.checkpoint.params["layer2.0.conv1.weight"][0, 0, 0, 0] += 1
    zero, one = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    with refuses(UsageError, "was misread at body.1.conv1: from there on its activations differ"):
        traced.check(random_pixels(5, 3, 16), zero, one)
    traced = checked(HandWritten())
    traced.checkpoint.params["fc.bias"][0] += 1
    with refuses(UsageError, "was misread at the classifier"):
        traced.check(random_pixels(5, 3, 16), zero, one)


def test_data_free_from_a_module() -> None:
    made = zoo.convert(
        randomised(HandWritten()), method="data-free", samples=2, timesteps=4, mean=(0.5,) * 3,
        std=(0.25,) * 3, parameters={"steps": 2, "rows": 2},
    )  # fmt: skip
    assert made.config.preprocess.input_size == (3, 32, 32)


def library(name: str) -> Any:
    """Return a library, or skip where it is absent or does not fit this torch."""
    try:
        return pytest.importorskip(name)
    except (RuntimeError, AttributeError) as error:
        for key in [key for key in sys.modules if key.partition(".")[0] == name]:
            del sys.modules[key]
        pytest.skip(f"{name} does not work with this torch ({str(error)[:60]})")


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_torchvision(name: str) -> None:
    models = library("torchvision").models
    net = checked(getattr(models, name)(num_classes=7), 32).checkpoint.net
    assert (net.arch, net.named, net.num_classes) == (name, True, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet26t", "wide_resnet50_2"])
def test_timm(name: str) -> None:
    timm = library("timm")
    traced = checked(timm.create_model(name, num_classes=7), 64)
    assert (traced.checkpoint.net.arch, traced.checkpoint.net.named) == (name, True)
    assert traced.checkpoint.origin.mean == (0.485, 0.456, 0.406)


def test_timms_squeeze_excite_is_named() -> None:
    timm = library("timm")
    with refuses(UsageError, "layer1.0.se: multiplication of two activations has no spiking form"):
        read_module(timm.create_model("seresnet18"), 64)
