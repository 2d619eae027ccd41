"""Test several neurons for each channel of the stem: levels, conversion, artifacts, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.kernel_fixtures import interpreted
from tests.zoo.networks.test_fused import check, observe
from tests.zoo.spiking_fixtures import (
    image_set,
    naive_network,
    random_model,
    random_pixels,
    refuses,
    tiny_topology,
)
from zoo.artifact.folder import read_artifact, read_config, verify_artifact
from zoo.artifact.tensors import topology_of
from zoo.conversion.convert import convert
from zoo.conversion.stem import split_stem
from zoo.data.images import ImageSet
from zoo.errors import IntegrityError, UsageError
from zoo.evaluation.energy import dense_macs
from zoo.networks.architectures import topology
from zoo.networks.batchnorm import fold_batchnorm
from zoo.networks.pixels import image_table, look_up
from zoo.networks.resnet import ann_forward, preactivation
from zoo.networks.topology import with_stem
from zoo.pretrained.checkpoint import Checkpoint
from zoo.training import run

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
GIVEN = {"mean": MEAN, "std": STD, "schedule": "layerwise", "timesteps": 4, "input_size": 16}


def ann(form: str = "imagenet") -> Checkpoint:
    net = tiny_topology(form)
    return Checkpoint(
        net, fold_batchnorm(net, random_model(net).state_dict()), "tiny.pth", "5" * 64
    )


def with_thresholds(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint as if it had been trained with quantised activations."""
    gen = torch.Generator().manual_seed(0)
    learnt = {
        f"{layer.name}.threshold": torch.rand(layer.out_channels, generator=gen) + 1
        for layer in checkpoint.net.layers
    }
    return replace(
        checkpoint, params={**checkpoint.params, **learnt, "levels": torch.tensor([4.0])}
    )


@pytest.fixture
def images(tmp_path) -> ImageSet:
    folder = tmp_path / "images"
    folder.mkdir()
    return image_set(folder, random_pixels(40, 3, 16), None)


def counts(z: Tensor, theta: Tensor, timesteps: int) -> Tensor:
    """Return spikes of layerwise neurons `[C, N]` that begin at half their threshold `[C]`."""
    return (timesteps * z / theta[:, None] + 0.5).floor().clamp(0, timesteps)


@settings(max_examples=60, deadline=None)
@given(copies=st.integers(1, 8), timesteps=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_copies_count_as_one_neuron_with_more_timesteps(copies, timesteps, seed):
    """Check Hermite's identity on the stem that `split_stem` makes."""
    gen = torch.Generator().manual_seed(seed)
    checkpoint = ann()
    params = {name: values.double() for name, values in checkpoint.params.items()}
    theta = torch.rand(6, generator=gen).double() + 0.5
    wide = split_stem(checkpoint.net, params, theta, copies, timesteps)
    image = torch.randn(1, 3, 9, 9, generator=gen).double()
    one = preactivation(checkpoint.net.layers[0], params, image, None)[0].flatten(1)
    several = preactivation(with_stem(checkpoint.net, copies).layers[0], wide, image, None)[
        0
    ].flatten(1)
    assert len(several) == 6 * copies
    found = counts(several, theta.repeat(copies), timesteps).view(copies, 6, -1).sum(0)
    target = counts(one, theta, copies * timesteps)
    # A value may lie on the edge between two levels.
    edge = (copies * timesteps * one / theta[:, None] + 0.5).frac().abs()
    safe = (edge > 1e-6) & (edge < 1 - 1e-6)
    assert torch.equal(found[safe], target[safe]) and safe.float().mean() > 0.9


@pytest.mark.parametrize("learnt", [False, True])
def test_the_wider_ann_computes_what_the_ann_does(learnt):
    checkpoint = with_thresholds(ann()) if learnt else ann()
    image = look_up(image_table(MEAN, STD, integer=False), random_pixels(4, 3, 16))
    target = ann_forward(checkpoint.net, checkpoint.params, image)
    # With many timesteps the copies lie close together, and the kink of ReLU moves nothing.
    wide = split_stem(checkpoint.net, checkpoint.params, torch.ones(6), 3, 10**6)
    assert torch.allclose(ann_forward(with_stem(checkpoint.net, 3), wide, image), target, atol=1e-4)
    assert not torch.equal(wide["conv1.bias"][:6], wide["conv1.bias"][6:12])


@pytest.mark.parametrize("numerics", ["int8", "float32"])
def test_the_copies_of_a_conversion_say_more_of_their_channel(images, numerics):
    checkpoint = ann()
    pixels = random_pixels(30, 3, 16, seed=1)
    image = look_up(image_table(MEAN, STD, integer=False), pixels)
    target = preactivation(checkpoint.net.layers[0], checkpoint.params, image, None).relu()
    errors, macs = [], []
    for copies in (1, 2, 4):
        made = convert(checkpoint, images, numerics=numerics, parameters={"stem": copies}, **GIVEN)
        assert (made.config.stem, made.config.method.parameters["stem"]) == (copies, copies)
        amplitude = made.network.layers["conv1"].threshold * made.scales["conv1"]
        decoded = observe(made.network, pixels, 4)[1]["conv1"] * amplitude.view(-1, 1, 1) / 4
        errors.append((decoded.view(30, copies, 6, 4, 4).mean(1) - target).square().mean().item())
        macs.append(dense_macs(made.network, 16, 16))
    # What is rounded falls with the square of the levels; what a threshold clips stays.
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.3 * errors[0]
    assert macs[0] == macs[1] == macs[2]


def test_tuned_weights_are_shared_out_too(images):
    made = convert(ann(), images, parameters={"stem": 2, "tune": 2, "tune_images": 32}, **GIVEN)
    assert made.network.layers["layer1.0.conv1"].weight.shape[1] == 12 and made.agreement > 0.3


def test_learnt_thresholds_are_those_of_every_copy(images):
    checkpoint = with_thresholds(ann())
    made = convert(checkpoint, images, parameters={"stem": 2}, **GIVEN)
    amplitude = made.network.layers["conv1"].threshold * made.scales["conv1"]
    assert (
        torch.allclose(amplitude, checkpoint.params["conv1.threshold"].repeat(2), rtol=0.01)
        and made.agreement > 0.3
    )


@interpreted
def test_every_backend_gives_the_same_spikes(images):
    network = convert(ann(), images, parameters={"stem": 3}, **GIVEN).network
    pixels = random_pixels(2, 3, 16, seed=2)
    spikes = check(network, "interpret", pixels, 4)
    for name, target in naive_network(network, pixels, 4).items():
        assert torch.equal(spikes[name].long(), torch.from_numpy(target).long().sum(0)), name


def test_an_artifact_of_a_resnet50(tmp_path, images):
    net = topology("resnet50", num_classes=5)
    checkpoint = Checkpoint(
        net, fold_batchnorm(net, random_model(net).state_dict()), "random.pth", "5" * 64
    )
    made = convert(
        checkpoint,
        images.take(2, 0),
        numerics="float32",
        parameters={"stem": 2},
        **GIVEN | {"timesteps": 2},
    )
    made.save(tmp_path / "net")
    assert all(check.ok for check in verify_artifact(tmp_path / "net", deep=True))
    config, tensors = read_artifact(tmp_path / "net")
    assert config.stem == 2 and topology_of(config) == topology("resnet50", num_classes=5, stem=2)
    assert [
        list(tensors[f"{name}.weight"].shape)[:2]
        for name in ("conv1", "layer1.0.conv1", "layer1.0.conv3.shortcut")
    ] == [[128, 3], [64, 128], [256, 128]]
    with refuses(UsageError, "2 neurons for each channel of its stem"):
        run._artifact(tmp_path / "net", images, MEAN, STD, 0)


def test_what_has_no_such_stem(images, saved):
    with refuses(UsageError, "stem is for `schedule=layerwise`"):
        convert(ann(), images, parameters={"stem": 2}, **GIVEN | {"schedule": "causal"})
    with refuses(UsageError, "stem must be 1 to 8, not 9"):
        convert(ann(), images, parameters={"stem": 9}, **GIVEN)
    with refuses(UsageError, "hu2018 has no parameter 'stem'"):
        convert(ann(), images, method="hu2018", parameters={"stem": 2}, **GIVEN)
    said: list[str] = []
    with refuses(UsageError, "tiny adds its stem's output"):  # before anything is computed
        convert(
            ann("cifar"),
            images,
            parameters={"stem": 2},
            **GIVEN,
            progress=lambda stage, done, total: said.append(stage),
        )
    assert not said
    for arch in ("resnet20", "resnet18", "resnet34"):
        with refuses(UsageError, f"{arch} adds its stem's output to a sum as it is"):
            topology(arch, stem=2)
    config = read_config(saved)
    with refuses(IntegrityError, "config.json: resnet20 adds"):
        topology_of(config.model_copy(update={"stem": 2}))
