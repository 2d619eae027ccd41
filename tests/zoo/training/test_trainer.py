"""Training: resumed runs, the average, quantized activations up to their conversion, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.zoo.spiking_fixtures import QUICK, refuses
from zoo.conversion.convert import convert
from zoo.data.augment import augment
from zoo.data.images import ImageSet
from zoo.errors import IntegrityError, NotFoundError, UsageError
from zoo.networks.architectures import topology
from zoo.networks.pixels import look_up
from zoo.networks.preprocess import Preprocess
from zoo.networks.quantise import Quantise, quantise
from zoo.networks.resnet import ResNet, ann_forward
from zoo.networks.topology import Topology
from zoo.pretrained.checkpoint import read_checkpoint
from zoo.training.plan import Plan
from zoo.training.run import DIGITS_MEAN as MEAN
from zoo.training.run import DIGITS_STD as STD
from zoo.training.run import train
from zoo.training.trainer import Trainer, save_checkpoint

PREP = Preprocess((1, 8, 8))
PLAN = Plan(epochs=2, batch_size=32, peak_rate=0.05, shift=1, mirror=False, ema=0.9)


@pytest.fixture
def net() -> Topology:
    return topology("resnet20", num_classes=10, in_channels=1)


@pytest.fixture
def few(digits: ImageSet) -> ImageSet:
    return digits.take(100, 0)


def new(net: Topology, images: ImageSet, plan: Plan = PLAN, **options: object) -> Trainer:
    return Trainer(net, images, PREP, plan, MEAN, STD, **options)  # type: ignore[arg-type]


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("levels", [0, 4])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(net, few, tmp_path, levels, stop):
    plan = replace(PLAN, levels=levels)
    whole = new(net, few, plan)
    whole.run()
    assert whole.steps == 6

    class Stop(Exception):
        pass

    def after(trainer: Trainer) -> None:
        if trainer.step == stop:
            raise Stop

    first = new(net, few, plan)
    with pytest.raises(Stop):
        first.run(after)
    first.save(tmp_path / "t.safetensors")
    second = new(net, few, replace(plan))
    second.resume(tmp_path / "t.safetensors")
    assert second.step == stop
    second.run()
    assert same(whole.state(), second.state())
    assert [(row.epoch, row.loss, row.accuracy) for row in whole.log] == [
        (r.epoch, r.loss, r.accuracy) for r in second.log
    ]


def test_training_learns_and_the_average_is_what_comes_out(net, digits, digits_test):
    trainer = new(net, digits, replace(PLAN, epochs=3, peak_rate=0.1))
    trainer.run()
    assert trainer.accuracy(digits_test, PREP) > 60
    assert trainer.log[-1].loss < trainer.log[0].loss
    raw = trainer.model.state_dict()
    assert not torch.equal(raw["conv1.weight"], trainer.average["conv1.weight"])
    assert torch.equal(trainer.state()["conv1.weight"], trainer.average["conv1.weight"])


def test_seeds_differ_and_repeat(net, few):
    states = []
    for seed in (0, 0, 1):
        trainer = new(net, few, replace(PLAN, epochs=1, seed=seed))
        trainer.run()
        states.append(trainer.state())
    assert same(states[0], states[1]) and not same(states[0], states[2])


def test_the_rate_rises_to_its_peak_and_falls_to_zero(net, few):
    trainer = new(net, few, replace(PLAN, epochs=20, warm_up=0.25))
    rates = [trainer.rate(step) for step in range(trainer.steps + 1)]
    top = rates.index(max(rates))
    assert rates[top] == PLAN.peak_rate and top == pytest.approx(trainer.steps / 4, abs=1)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(
        rates[top:], reverse=True
    )
    assert rates[-1] == 0


def test_augmentation_shifts_and_mirrors():
    image = torch.arange(9.0).view(1, 1, 3, 3).repeat(200, 1, 1, 1) + 1
    plain = augment(image, torch.Generator().manual_seed(0), shift=0, mirror=False)
    assert torch.equal(plain, image)
    mirrored = augment(image, torch.Generator().manual_seed(0), shift=0, mirror=True)
    flipped = (mirrored == image.flip(3)).flatten(1).all(1)
    assert 60 < flipped.sum() < 140 and torch.equal(mirrored[~flipped], image[~flipped])
    centres = augment(image, torch.Generator().manual_seed(0), shift=1, mirror=False)[:, 0, 1, 1]
    assert set(centres.tolist()) == set(range(1, 10))


def test_quantise_by_hand():
    z = torch.tensor([-1.0, 0.0, 0.49, 0.5, 1.49, 3.4, 9.0]).view(1, 1, 1, 7)
    assert quantise(z, torch.tensor([4.0]), 4).flatten().tolist() == [0, 0, 0, 1, 1, 3, 4]
    two = quantise(torch.ones(1, 2, 1, 1) * 3, torch.tensor([2.0, 8.0]), 2)
    assert two.flatten().tolist() == [2, 4]
    assert torch.equal(
        quantise(z, torch.tensor([4.0]), 4), Quantise.apply(z, torch.tensor([4.0]).log(), 4).round()
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradients_of_quantise(dtype, layout):
    """dq/dz = m, dq/dlog(theta) = q - m z with m = 1 for -1/2 < L z / theta < L + 1/2."""
    generator = torch.Generator().manual_seed(0)
    z = (
        (4 * torch.randn(5, 3, 6, 7, generator=generator))
        .to(dtype)
        .to(memory_format=layout)
        .requires_grad_()
    )
    log_theta = torch.tensor([1.0, 3.0, 6.0]).log().requires_grad_()
    upstream = torch.randn(z.shape, generator=generator).to(dtype)  # always contiguous
    q = Quantise.apply(z, log_theta, 4)
    assert q.dtype == dtype and q.is_contiguous(memory_format=layout)
    q.backward(upstream)
    exact, theta = z.detach().float(), log_theta.detach().exp().view(-1, 1, 1)
    inside = ((4 * exact / theta > -0.5) & (4 * exact / theta < 4.5)).float()
    near = {"atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 1.0}
    off = (z.grad.float() - upstream.float() * inside).abs() > 1e-6
    assert off.float().mean() <= (0 if dtype == torch.float32 else 0.02)
    slope = (upstream.float() * (quantise(exact, theta.flatten(), 4) - inside * exact)).sum(
        (0, 2, 3)
    )
    assert torch.allclose(log_theta.grad, slope, **near) and slope.abs().min() > 3


def test_a_quantised_network_is_read_converted_and_compared_as_it_was_trained(
    net, digits, tmp_path
):
    trainer = new(net, digits, replace(PLAN, epochs=4, levels=8, peak_rate=0.1))
    before = trainer.model.get_submodule("conv1").log_threshold.detach().clone()
    trainer.run()
    assert not torch.equal(before, trainer.model.get_submodule("conv1").log_threshold)
    path = tmp_path / "q.safetensors"
    save_checkpoint(trainer.state(), path)
    found = read_checkpoint(path, "resnet20")
    assert found.params["levels"].item() == 8
    model = ResNet(net, levels=8)
    model.load_state_dict(trainer.average)
    model.eval()
    pixels, _ = next(digits.take(16, 1).batches(PREP, 16))
    image = look_up(trainer.table, pixels)
    with torch.no_grad():
        close = (
            torch.isclose(ann_forward(net, found.params, image), model(image), atol=1e-2)
            .float()
            .mean()
        )
    assert close > 0.9  # folding may move a value across a step of the activation
    made = convert(found, digits, **QUICK)
    assert made.config.method.parameters["thresholds"] == "learnt"
    amplitude = made.network.layers["conv1"].threshold * made.scales["conv1"]
    torch.testing.assert_close(amplitude, found.params["conv1.threshold"], rtol=1e-3, atol=1e-4)
    assert made.agreement > 0.5
    forced = convert(found, digits, **QUICK, parameters={"thresholds": "mmse"})
    assert forced.config.method.parameters["thresholds"] == "mmse"


def test_learnt_thresholds_need_a_network_that_has_some(digits_ann, digits):
    with refuses(UsageError, "has learnt no thresholds"):
        convert(digits_ann, digits, **QUICK, parameters={"thresholds": "learnt"})


def test_a_relu_network_gets_thresholds_from_its_activations(net, digits, digits_file):
    from safetensors.torch import load_file

    start = load_file(digits_file)
    trainer = new(net, digits, replace(PLAN, levels=8), start=start)
    assert torch.equal(trainer.model.state_dict()["conv1.weight"], start["conv1.weight"])
    thetas = [p.exp() for n, p in trainer.model.named_parameters() if n.endswith("log_threshold")]
    assert not any((theta == 4.0).all() for theta in thetas)
    again = new(net, digits, replace(PLAN, levels=8), start=trainer.state())
    assert same(trainer.state(), again.state())
    with refuses(UsageError, "`start` does not fit"):
        new(topology("resnet20", in_channels=1, shortcut="B"), digits, start=start)


@pytest.mark.parametrize("levels", [0, 8])
def test_a_deeper_network_begins_as_the_shallower_one(net, few, levels):
    shallow = new(net, few, replace(PLAN, levels=levels))
    shallow.run()
    plan = replace(PLAN, levels=levels)
    deep = new(topology("resnet32", in_channels=1), few, plan, start=shallow.state())
    pixels, _ = next(few.batches(PREP, 20))
    images = look_up(shallow.table, pixels)
    mine, theirs = ResNet(net, levels), deep.model.eval()
    mine.load_state_dict(shallow.average)
    with torch.no_grad():
        assert torch.allclose(theirs(images), mine.eval()(images), atol=1e-5)
    # The new blocks learn: after a few steps they are no identities any more.
    deep.run()
    assert deep.model.state_dict()["layer2.4.bn2.weight"].abs().max() > 0
    with refuses(UsageError, "`start` does not fit"):
        new(net, few, plan, start=deep.state())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": torch.tensor([0], dtype=torch.int32)}, "levels must be positive"),
        ({"conv1.threshold": torch.zeros(16)}, "conv1.threshold must be positive"),
        ({"conv1.threshold": torch.full((16,), torch.nan)}, "conv1.threshold has NaN"),
        ({"conv1.threshold": torch.ones(4)}, "conv1.threshold is"),
        ({"conv1.threshold": None}, "missing"),
    ],
)
def test_a_damaged_quantised_checkpoint_is_refused(net, few, tmp_path, change, words):
    state = new(net, few, replace(PLAN, levels=4)).state()
    for name, value in change.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    save_checkpoint(state, tmp_path / "q.safetensors")
    with pytest.raises((UsageError, IntegrityError), match=words):
        read_checkpoint(tmp_path / "q.safetensors", "resnet20")


def test_a_plan_that_cannot_run_is_refused(net, few):
    with refuses(UsageError, "fewer than one batch"):
        new(net, few.take(10, 0))
    with refuses(UsageError, "labels must be 0 to 4"):
        new(topology("resnet20", num_classes=5, in_channels=1), few)
    with refuses(UsageError, "levels must be 0"):
        new(net, few, replace(PLAN, levels=300))
    with refuses(UsageError, "epochs must be 1"):
        new(net, few, replace(PLAN, epochs=0))


def test_a_loss_that_explodes_ends_the_run(net, few):
    with refuses(UsageError, "lower `peak_rate`"):
        new(net, few, replace(PLAN, peak_rate=1e30)).run()


def test_a_training_state_that_is_damaged_or_of_another_run_is_refused(net, few, tmp_path):
    path = tmp_path / "training.safetensors"
    new(net, few).save(path)
    with refuses(UsageError, "epochs was 2"):
        new(net, few, replace(PLAN, epochs=3)).resume(path)
    with refuses(IntegrityError, "another network"):
        Trainer(topology("resnet32", in_channels=1), few, PREP, PLAN, MEAN, STD).resume(path)
    path.write_bytes(path.read_bytes()[:-100])
    with refuses(IntegrityError, "no training state"):
        new(net, few).resume(path)


def test_a_folder_is_trained_stopped_and_resumed(tmp_path, monkeypatch):
    def run(out: Path, **options: object) -> dict[str, object]:
        return train(
            "resnet20", "digits", out, epochs=2, batch_size=500, precision="float32", **options
        )

    lines: list[str] = []
    whole = run(tmp_path / "a", log=lines.append)
    assert len(lines) == 4 and "epoch 2/2" in lines[3] and whole["test_images"] == 360
    assert lines[0].startswith("training on digits: scikit-learn digits, train split, 1437 images")
    assert lines[0].endswith("labels: by number in the class names (0 to 9, counted from 0)")
    assert lines[1].startswith("measuring on digits: ") and lines[1].endswith("labels: by name")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", progress=stop)
    assert not (tmp_path / "b" / "resnet20.safetensors").exists()
    with refuses(UsageError, "pass `resume=True`"):
        run(tmp_path / "b")
    resumed = run(tmp_path / "b", resume=True)
    assert resumed["sha256"] == whole["sha256"] and resumed["top1"] == whole["top1"]
    assert (tmp_path / "b" / "log.json").exists()
    with refuses(NotFoundError, "nothing to resume"):
        run(tmp_path / "c", resume=True)
    with refuses(NotFoundError, "neither a folder"):
        run(tmp_path / "c", start=tmp_path / "none.pth")


def test_the_log_travels_with_the_checkpoint_into_the_artifact(digits, tmp_path):
    def run(out: str, **options: object) -> Path:
        settings = {"epochs": 1, "batch_size": 500, "peak_rate": 0.01, "precision": "float32"}
        found = train("resnet20", "digits", tmp_path / out, **settings, **options)
        return Path(found["file"])

    first = run("a")
    second = run("b", levels=4, start=first)
    facts = read_checkpoint(second, "resnet20").training
    assert (facts.dataset, facts.images, facts.epochs, facts.settings["levels"]) == (
        "digits",
        1437,
        1,
        4,
    )
    assert facts.arch == "resnet20"
    assert (facts.start.settings["levels"], facts.start.start) == (0, None)
    assert (facts.mean, facts.std, facts.input_size) == (list(MEAN), list(STD), 8)
    made = convert(
        read_checkpoint(second, "resnet20"),
        digits,
        method="hu2018",
        samples=20,
        parameters={"steps": 1},
    )
    assert made.config.source.training == facts and made.config.calibration.dataset == "digits"
    assert made.config.preprocess.mean == list(MEAN) and made.config.preprocess.input_size == (
        1,
        8,
        8,
    )

    log = second.with_name("log.json")
    text = log.read_text()
    for other in (
        text.replace(json.loads(text)["sha256"], "0" * 64),
        "{",
        "[]",
        text.replace('"epochs": 1', '"epochs": 0'),
    ):
        log.write_text(other)
        assert read_checkpoint(second, "resnet20").training is None
    log.unlink()
    assert read_checkpoint(second, "resnet20").training is None
    assert not (tmp_path / "c").exists()
