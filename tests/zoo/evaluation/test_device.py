"""An evaluation on another device than the CPU: the same figures, and the speed of warm runs.

The device is `far`, which computes on the CPU and refuses what a CUDA device would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.far_device import SENT, WAITS, far_device
from tests.zoo.spiking_fixtures import image_set, random_network, random_pixels
from zoo.artifact.results import Evaluation
from zoo.evaluation import evaluate as evaluation
from zoo.evaluation.energy import count_operations
from zoo.evaluation.evaluate import evaluate
from zoo.networks.architectures import topology
from zoo.networks.spiking import SpikingResNet

VARYING = {"seconds", "images_per_second", "peak_memory_bytes", "device"}


def figures(evaluated: Evaluation) -> dict[str, Any]:
    return evaluated.model_dump(mode="json", exclude=VARYING)


def test_what_a_device_refuses():
    with far_device():
        far = torch.arange(6, device="far").view(2, 3)
        near = torch.arange(6).view(2, 3)
        assert far.device.type == "far" and (far + 1).sum().item() == 21
        assert torch.equal(far.cpu(), near) and torch.equal(near.to("far:0").cpu(), near)
        assert torch.equal(far[:, [2, 0]].cpu(), near[:, [2, 0]])
        far[:, 1:].add_(10)
        assert far.cpu().tolist() == [[0, 11, 12], [3, 14, 15]]
        far.copy_(near)
        assert torch.equal((far * torch.tensor(2)).cpu(), near * 2)
        for use in (
            lambda: far + near,
            lambda: near.add_(far),
            lambda: torch.cat([near, far]),
            lambda: torch.nn.functional.conv2d(near[None, None].double(), far[None, None].double()),
        ):
            with pytest.raises(RuntimeError, match="one device"):
                use()
        with pytest.raises((RuntimeError, TypeError)):
            far.numpy()


@pytest.mark.parametrize(
    ("schedule", "neuron"), [("causal", "if"), ("causal", "signed"), ("layerwise", "if")]
)
def test_the_figures_are_those_of_the_cpu(
    converted, digits_file, digits_test, tmp_path, schedule, neuron
):
    converted(schedule=schedule, neuron=neuron, parameters={"rows": 4}).save(tmp_path / "net")
    some = digits_test.take(23, 1)

    def measured(device: str) -> Evaluation:
        return evaluate(
            tmp_path / "net", some, [3, 5], batch_size=10, ann=digits_file, device=device
        )

    near = measured("cpu")
    with far_device():
        far = measured("far:0")
    assert figures(far) == figures(near)
    assert far.device == "far:0" and far.peak_memory_bytes == 1 < near.peak_memory_bytes


def small(folder: Path, images: int) -> Any:
    return image_set(folder, random_pixels(images, 1, 8), [n % 10 for n in range(images)])


def test_a_device_is_timed_warm_and_without_statistics(saved, tmp_path, monkeypatch):
    """The first run of a shape takes 100 s, one with snapshots 7 s more, the next ones 0.5 s.

    A run returns before the device is done: what is not waited for is not counted.
    """
    clock, running, shapes = [0.0], [0.0], set()
    run = SpikingResNet.run

    def slow_run(self: SpikingResNet, images: Any, timesteps: int, **how: Any) -> Any:
        result = run(self, images, timesteps, **how)
        shape = (len(images), timesteps, bool(how.get("snapshots")))
        running[0] += (0.5 if shape in shapes else 100.0) + (7.0 if how.get("snapshots") else 0.0)
        shapes.add(shape)
        return result

    def synchronize(device: Any) -> None:
        clock[0] += running[0]
        running[0] = 0.0

    monkeypatch.setattr(SpikingResNet, "run", slow_run)
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    with far_device() as module:
        monkeypatch.setattr(module, "synchronize", synchronize, raising=False)
        # One batch more than is timed, and a last one of another size.
        images = small(tmp_path, 2 * evaluation._TIMED_BATCHES + 3)
        measured = evaluate(saved, images, [1, 4], batch_size=2, device="far:0")
        assert measured.images_per_second == {4: 2 / 0.5}
        # All in one batch, and several runs.
        measured = evaluate(saved, images, [1, 4], batch_size=99, device="far:0")
        assert measured.images_per_second == {4: len(images) / 0.5}


def test_the_cpu_is_timed_in_the_runs_it_has_to_do(saved, tmp_path, monkeypatch):
    runs = []
    run = SpikingResNet.run

    def counted(self: SpikingResNet, images: Any, timesteps: int, **how: Any) -> Any:
        runs.append(len(images))
        clock[0] += 0.25
        return run(self, images, timesteps, **how)

    clock = [0.0]
    monkeypatch.setattr(SpikingResNet, "run", counted)
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    measured = evaluate(saved, small(tmp_path, 7), [1, 4], batch_size=2)
    assert runs == [2, 2, 2, 1] and measured.images_per_second == {4: 7 / 1.0}


@pytest.mark.parametrize(
    ("schedule", "neuron"), [("causal", "if"), ("causal", "signed"), ("layerwise", "if")]
)
def test_how_often_a_device_is_waited_for_does_not_grow_with_the_layers(schedule, neuron):
    """A second run, of deeper networks and more timesteps: no wait, two tensors sent a chunk.

    Those are the images and the plan of the read-out, which a layerwise run has none of.
    """
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    for arch, timesteps in (("resnet20", 3), ("resnet32", 5)):
        net = topology(arch, num_classes=10, in_channels=1)
        network = random_network(net, schedule=schedule, neuron=neuron)
        expected = network.run(images, timesteps).logits
        with far_device():
            network.to("far:0")
            network.run(images, timesteps)
            WAITS.clear()
            SENT.clear()
            got = network.run(images, timesteps).logits
            assert not WAITS, WAITS
            assert SENT.total() == (1 if schedule == "layerwise" else 2), SENT
            assert torch.equal(got.cpu(), expected) and WAITS.total() == 1


def test_statistics_of_a_batch_are_fetched_at_once():
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    waits = []
    for arch in ("resnet20", "resnet32"):
        network = random_network(topology(arch, num_classes=10, in_channels=1))
        with far_device():
            network.to("far:0")
            spikes = network.run(images, 3, snapshots=[3]).spikes[3]
            active = (network.pixels(images.to("far:0")) != 0).sum(0)
            WAITS.clear()
            count_operations(network, spikes, active)
            waits.append(WAITS.total())
    assert waits == [1, 1]
