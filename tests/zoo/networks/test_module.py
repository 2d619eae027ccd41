"""SpikingResNet as a torch.nn.Module: moved, copied, pickled, saved, changed, in a pool."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import pkgutil

import pytest
import torch
from torch import nn

import zoo
from tests.zoo.spiking_fixtures import random_network, refuses, tiny_topology
from zoo.artifact.folder import read_artifact
from zoo.errors import UsageError
from zoo.models import registry
from zoo.networks.spiking import SpikingResNet

DIGITS = "s-resnet20-digits"


def pixels(count: int = 3, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8, generator=generator)


def saved_and_loaded(model: SpikingResNet) -> SpikingResNet:
    """Return the model through `torch.save` and the loader that runs no code of the file."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    assert all(name.startswith(("zoo.", "torch.nn.")) for name in names)
    classes = [pkgutil.resolve_name(name) for name in names]
    file.seek(0)
    with torch.serialization.safe_globals(classes):
        return torch.load(file, weights_only=True)


@pytest.fixture
def model() -> SpikingResNet:
    return zoo.load(DIGITS)


def test_its_state_is_the_artifact(model: SpikingResNet) -> None:
    _, tensors = read_artifact(registry.resolve(DIGITS))
    state = model.state_dict()
    assert isinstance(model, nn.Module) and state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    assert not list(model.parameters())


def test_eval_train_and_to_return_the_network_itself(model: SpikingResNet) -> None:
    assert model.eval() is model and model.train() is model and model.to("cpu") is model
    assert nn.Sequential(model).to("cpu")[0] is model


@pytest.mark.parametrize("ran", [False, True], ids=["before a run", "after a run"])
@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_copies_run_as_the_original(model: SpikingResNet, ran: bool, backend: str) -> None:
    if backend == "interpret":
        pytest.importorskip("triton")
        model = random_network(tiny_topology("cifar")).with_backend("interpret")
    images = pixels(2)
    if ran:
        model.run(images, 2)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved_and_loaded(model)]
    expected = model.run(images, 4).logits
    for other in copies:
        assert other.backend == backend and repr(other) == repr(model)
        assert torch.equal(other.run(images, 4).logits, expected)
        other.get_buffer("conv1.threshold").mul_(3)
    assert torch.equal(model.run(images, 4).logits, expected)


def _in_a_process(model: SpikingResNet, seed: int) -> torch.Tensor:
    torch.set_num_threads(1)
    return model(pixels(seed), timesteps=4)


def test_a_spawned_pool_runs_it(model: SpikingResNet) -> None:
    model(pixels(1), timesteps=1)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_in_a_process, [(model, 1), (model, 2)])
    assert all(
        torch.equal(logits, _in_a_process(model, seed)) for seed, logits in enumerate(found, 1)
    )


@pytest.mark.parametrize("change", ["in place", "load_state_dict", "replaced"])
def test_a_changed_buffer_is_what_runs(model: SpikingResNet, change: str) -> None:
    """Prepared weights are derived from buffers: none may outlive them."""
    images = pixels()
    before = model.run(images, 4).logits
    other = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other["layer1.0.conv1.weight"].neg_()
    if change == "in place":
        model.get_buffer("layer1.0.conv1.weight").neg_()
    elif change == "load_state_dict":
        model.load_state_dict(other)
    else:
        model.get_submodule("layer1.0.conv1").weight = other["layer1.0.conv1.weight"]
    fresh = zoo.load(DIGITS)
    fresh.load_state_dict(other)
    after = model.run(images, 4).logits
    assert torch.equal(after, fresh.run(images, 4).logits) and not torch.equal(after, before)


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.double, lambda m: m.to(torch.bfloat16)])
def test_no_other_precision(model: SpikingResNet, move: object) -> None:
    images = pixels()
    before = model.run(images, 2).logits
    with refuses(UsageError, "exact in the artifact's own numbers"):
        move(model)  # type: ignore[operator]
    assert torch.equal(model.run(images, 2).logits, before)
    assert model.float() is model


def test_a_move_that_the_backend_cannot_follow_moves_nothing() -> None:
    pytest.importorskip("triton")
    model = random_network(tiny_topology("cifar")).with_backend("interpret")
    with refuses(UsageError, "runs on the CPU"):
        model._apply(_OnCuda)
    assert model.device.type == "cpu" and model.backend == "interpret"


class _OnCuda(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @staticmethod
    def __new__(cls, tensor: torch.Tensor) -> _OnCuda:
        return torch.Tensor._make_subclass(cls, tensor)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def test_repr_says_what_it_is(model: SpikingResNet) -> None:
    assert repr(model) == (
        "SpikingResNet(resnet20, 10 classes, int8, if causal, timesteps=32, layers=19, device=cpu, "
        "backend=torch)"
    )
    run = model.run(pixels(3), 8, snapshots=(4, 8))
    assert repr(run) == "Run(rows=8, images=3, classes=10, snapshots=[4, 8])"


def test_what_an_artifact_says(model: SpikingResNet) -> None:
    assert model.config is not None and model.config.arch == "resnet20"
    assert model.timesteps == model.config.timesteps and model.class_names == list("0123456789")
    assert torch.equal(model(pixels()), model(pixels(), timesteps=model.timesteps))
    plain = random_network(tiny_topology("cifar"))
    assert (plain.config, plain.timesteps, plain.class_names) == (None, None, None)
    with refuses(UsageError, "pass `timesteps`"):
        plain(pixels())


def test_spikes_that_are_shown_cannot_be_changed(model: SpikingResNet) -> None:
    images = pixels()
    expected = model.run(images, 6).logits
    found = model.run(images, 6, on_spikes=lambda name, spikes: spikes.zero_())
    assert torch.equal(found.logits, expected)
