"""The programs that a GPU's time is spent on, tried without one.

They must not fail there for a reason that shows here.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import equality, gpu, gpu_peers, tune
from tests.far_device import far_device
from tests.kernels.kernel_fixtures import interpreted
from zoo.kernels.spiking_conv import unpack
from zoo.kernels.spiking_conv.tiles import TABLE, Tile, choose
from zoo.networks.architectures import topology
from zoo.networks.resnet import ResNet
from zoo.networks.spiking import SpikingResNet

ROOT = Path(__file__).resolve().parents[2]
SMOKE = [
    "--device",
    "cpu",
    "--backend",
    "interpret",
    "--networks",
    "resnet20",
    "--timesteps",
    "4",
    "--batches",
    "2",
]
SMOKE += ["--peers", "ann,torch", "--variants", "if", "--seconds", "0"]
needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="says what happens without a GPU"
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-20 for images of 8 x 8."""
    monkeypatch.setitem(gpu_peers.NETWORKS, "resnet20", (8, 10))


@pytest.fixture(scope="module")
def item() -> tune.Item:
    return tune.items(["resnet20"], ["if"], 8)[1]


@pytest.mark.parametrize(
    ("name", "operations", "images"),
    [("resnet50", 254.3e9, 7783), ("resnet18", 108.8e9, 18198), ("resnet20", 2.57e9, 771e3)],
)
def test_floor(name: str, operations: float, images: float) -> None:
    least = gpu.floor(name, 32)
    assert least.operations == pytest.approx(operations, rel=0.01)
    assert 1 / least.seconds == pytest.approx(images, rel=0.01)
    assert least.operations / gpu.floor(name, 16).operations == pytest.approx(2, rel=0.05)
    assert gpu.floor(name, 32, signed=True).bytes == pytest.approx(2 * least.bytes, rel=0.01)


@pytest.mark.parametrize(
    ("name", "images"), [("resnet50", 51_991), ("resnet20", 2.62e6), ("resnet56", 910e3)]
)
def test_floor_of_memory(name: str, images: float) -> None:
    """Counted independently, but for the projections' sources and the image: a few percent."""
    assert 4.8e12 / gpu.floor(name, 32).bytes == pytest.approx(images, rel=0.05)


@needs_no_gpu
@pytest.mark.parametrize(
    ("module", "arguments"),
    [(gpu, []), (tune, []), (equality, ["--random", "resnet20", "--out", "never.json"])],
)
def test_without_a_gpu_one_line_and_exit_2(
    module: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(arguments)
    said = capsys.readouterr()
    assert (
        stopped.value.code == 2
        and said.out == ""
        and said.err.startswith("error: ")
        and said.err.count("\n") == 1
    )


def test_a_smoke_run_never_becomes_the_result(small: None) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main([*SMOKE, "--out", str(gpu.RESULTS)])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        tune.main(["--device", "cpu"])
    assert stopped.value.code == 2


@interpreted
def test_gpu_measures_writes_and_resumes(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "smoke.json"
    gpu.main([*SMOKE, "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["smoke"] and list(report["rows"]) == [
        "resnet20 zoo T=4 batch 2",
        "resnet20 ann T=1 batch 2",
        "resnet20 torch T=4 batch 2",
    ]
    row = report["rows"]["resnet20 zoo T=4 batch 2"]
    assert row["firing_rate"] == pytest.approx(0.12, abs=0.01) and row["images_per_second"] > 0
    assert {
        "gpu",
        "driver",
        "torch",
        "triton",
        "commit",
        "sources",
        "command",
        "runs",
        "note",
    } <= row.keys()
    assert "smoke run" in capsys.readouterr().out
    assert not any(str(tmp_path) in str(value) for value in row.values())
    measured: list[gpu.Case] = []
    monkeypatch.setattr(gpu, "measure", lambda bench, case, seconds: measured.append(case) or row)
    gpu.main([*SMOKE, "--out", str(out)])
    assert not measured
    gpu.main([*SMOKE, "--batches", "2,1", "--out", str(out)])
    assert {case.batch for case in measured} == {1}


def test_what_is_measured_again() -> None:
    now = {"gpu": "NVIDIA H200", "sources": "new"}
    zoo, ann = gpu.Case("resnet20", "zoo", 32, 1), gpu.Case("resnet20", "ann", 1, 1)
    assert gpu.is_done(now, zoo, now) and gpu.is_done(now | {"sources": "old"}, ann, now)
    assert not gpu.is_done(None, zoo, now) and not gpu.is_done(now | {"gpu": "another"}, ann, now)
    assert not gpu.is_done(now | {"sources": "old"}, zoo, now)
    assert gpu.is_done(now | {"failed": "out of memory"}, ann, now)
    assert not gpu.is_done(now | {"failed": "RuntimeError: busy"}, ann, now)
    twice = {"failed": "RuntimeError: busy", "tries": 2}
    assert gpu.is_done(now | twice, ann, now) and not gpu.is_done(twice | {"gpu": "x"}, ann, now)


def test_what_tells_most_is_measured_first() -> None:
    cases = gpu.cases(
        ["resnet50", "resnet20", "resnet18"], (4, 32), (1, 256), gpu.PEERS, gpu.VARIANTS
    )
    assert len(set(cases)) == len(cases) == 3 * 2 * (2 * (3 + 1 + 4) + 1)
    assert [case.key for case in cases[:4]] == [
        "resnet50 zoo T=32 batch 256",
        "resnet20 zoo T=32 batch 256",
        "resnet50 ann T=1 batch 256",
        "resnet20 ann T=1 batch 256",
    ]


@interpreted
def test_logits_that_differ_are_not_timed(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gpu.Bench.system

    def wrong(self: gpu.Bench, case: gpu.Case) -> object:
        system, expected, rates = right(self, case)
        return system, None if expected is None else expected + 1, rates

    monkeypatch.setattr(gpu.Bench, "system", wrong)
    with pytest.raises(SystemExit) as stopped:
        gpu.main([*SMOKE, "--out", str(tmp_path / "smoke.json")])
    assert stopped.value.code == 7 and not (tmp_path / "smoke.json").exists()


def test_rates() -> None:
    network = equality.random_network(topology("resnet20"), neuron="signed")
    _, rates = gpu.set_rates(network, equality.random_images(2, 3, 8), 0.2)
    assert len(rates) == 19 and max(abs(rate - 0.2) for rate in rates) < 0.02


@interpreted
def test_equality_of_the_shipped_model(tmp_path: Path) -> None:
    out = tmp_path / "equal.json"
    given = ["s-resnet20-digits", "--data", "digits", "--images", "4", "--timesteps", "9"]
    equality.main([*given, "--backend", "interpret", "--out", str(out)])
    report = json.loads(out.read_text())
    (run,) = report["runs"].values()
    assert (
        report["equal"] and run["images"] == 4 and run["logits_equal"] and run["differences"] == 0
    )
    assert (
        len(run["layers"]) == 19
        and run["spikes"] == sum(layer["spikes"] for layer in run["layers"].values()) > 0
    )
    assert run["sha256"]["reference"] == run["sha256"]["kernels"]


@interpreted
def test_the_reference_stays_where_it_is_and_on_torch() -> None:
    """Moving the network for the kernels moves no reference and chooses it no other backend."""
    network = equality.random_network(topology("resnet20"))
    with far_device():
        reference, kernels = equality.pair(network, "far:0", "torch")
        assert (reference.device.type, reference.backend) == ("cpu", "torch")
        assert kernels.device.type == "far" and network.device.type == "cpu"
    reference, kernels = equality.pair(network, "cpu", "interpret")
    assert (reference.backend, kernels.backend) == ("torch", "interpret")


@pytest.mark.parametrize(
    ("neuron", "schedule"), [("if", "causal"), ("signed", "causal"), ("if", "layerwise")]
)
def test_equality_finds_and_counts_a_difference(neuron: str, schedule: str) -> None:
    network = equality.random_network(topology("resnet20"), neuron=neuron, schedule=schedule)
    last = network.topology.layers[-1].name
    layers = dict(network.layers)
    layers[last] = replace(layers[last], v_init=layers[last].v_init + layers[last].threshold // 3)
    other = SpikingResNet(
        network.topology, layers, network.head, network.image_table, schedule=network.schedule
    )
    images = equality.random_images(3, 3, 8)
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    network.run(
        images,
        9,
        window=9,
        on_spikes=lambda name, spikes: seen["a"].append(spikes.int()) if name == last else None,
    )
    other.run(
        images,
        9,
        window=9,
        on_spikes=lambda name, spikes: seen["b"].append(spikes.int()) if name == last else None,
    )
    result = equality.compare(network, other, images.split(2), 9)
    spikes, differences = result.layers.pop(last)
    assert not result.equal and result.sha256["reference"] != result.sha256["kernels"]
    assert (
        spikes == seen["a"][0].abs().sum()
        and differences == (seen["a"][0] != seen["b"][0]).sum() > 0
    )
    assert all(layer[1] == 0 for layer in result.layers.values())
    assert equality.compare(network, network, images.split(2), 9).equal


@interpreted
def test_a_difference_exits_7(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = {"reference": 0.0, "kernels": 0.0}
    result = equality.Comparison(
        layers={"conv1": [5, 1]}, sha256=dict.fromkeys(sides, ""), seconds=sides
    )
    monkeypatch.setattr(equality, "compare", lambda *_: result)
    with pytest.raises(SystemExit) as stopped:
        equality.main(
            [
                "--random",
                "resnet20",
                "--timesteps",
                "1",
                "--backend",
                "interpret",
                "--out",
                str(tmp_path / "x.json"),
            ]
        )
    report = json.loads((tmp_path / "x.json").read_text())
    assert stopped.value.code == 7 and not report["equal"] and len(report["runs"]) == 8


def test_random_spikes() -> None:
    one = unpack(equality.random_spikes((3, 4, 4, 64), 9, True, torch.device("cpu"), 0))
    assert one.shape == (9, 3, 64, 4, 4) and {-1, 0, 1} == set(one.unique().tolist())
    assert 0.1 < (one > 0).float().mean() < 0.15
    planes = equality.random_spikes((3, 4, 4, 64), 9, True, torch.device("cpu"), 0).planes
    assert not (planes[:, 1] >> 1).any() and not (planes[0] & planes[1]).any()


@pytest.mark.parametrize("neuron", ["if", "signed"])
def test_candidates_are_legal_and_different(neuron: str) -> None:
    for item in tune.items(["resnet20", "resnet50"], [neuron]):
        kind = neuron + (" projection" if item.case.shortcut == "projection" else "")
        default = choose("sm_90", kind, item.case.channels, "")
        tiles = tune.candidates(item, default, 24)
        assert tiles[0] == default and 8 <= len(tiles) <= 24 and len(set(tiles)) == len(tiles)
        for tile in tiles[1:]:
            assert (
                tile.pixels in (64, 128, 256)
                and tile.channels in (16, 32, 64, 128, 256)
                and tile.depth in (32, 64, 128)
            )
            assert tile.group in (1, 2, 4, 8) and tile.warps in (4, 8) and tile.stages in (2, 3, 4)
            assert (
                tile.channels <= max(16, item.case.channels)
                and tune.registers(tile, neuron) <= tune.REGISTERS
            )
        assert 8 <= tune.batch_of(item, 132) <= 256


def test_keys_are_those_of_the_table() -> None:
    keys = [item.key for item in tune.items(["resnet20"], ["if", "signed"])]
    assert len(set(keys)) == len(keys) == 16 and "3x3/2 16->32 16x16 none signed" in keys


def test_the_table_keeps_its_form(tmp_path: Path) -> None:
    assert tune.formatted(json.loads(TABLE.read_text())) == TABLE.read_text()
    best = {"pixels": 64, "channels": 16, "depth": 32, "group": 8, "warps": 4, "stages": 2}
    report = {"architecture": "sm_90", "layers": {"3x3/1 1->1 8x8 none if": {"best": best}}}
    (tmp_path / "tune.json").write_text(json.dumps(report))
    tune.main(["--apply", str(tmp_path / "tune.json"), "--out", str(tmp_path / "tiles.json")])
    lines = (tmp_path / "tiles.json").read_text().splitlines()
    added = [line for line in lines if line not in TABLE.read_text().splitlines()]
    assert f'   "3x3/1 1->1 8x8 none if": {json.dumps(best)}' in added
    assert (
        json.loads((tmp_path / "tiles.json").read_text())["sm_80"]
        == json.loads(TABLE.read_text())["sm_80"]
    )


@interpreted
def test_tuning_times_writes_and_resumes(
    item: tune.Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, results = tmp_path / "tiles.json", tmp_path / "tune.json"
    given = [
        "--device",
        "cpu",
        "--candidates",
        "2",
        "--timesteps",
        "4",
        "--out",
        str(table),
        "--results",
        str(results),
    ]
    monkeypatch.setattr(tune, "items", lambda *_: [item])
    tune.main(given)
    row = json.loads(results.read_text())["layers"][item.key]
    assert [tried["median"] > 0 for tried in row["candidates"]] == [True, True] and row["gain"] >= 1
    assert json.loads(table.read_text())["interpreted"]["layers"] == {item.key: row["best"]}
    monkeypatch.setattr(tune, "tune", lambda *_: pytest.fail("measured again"))
    tune.main(given)


@interpreted
def test_a_tile_that_is_wrong_or_illegal_is_said_to_be(item: tune.Item) -> None:
    assert "differ" in tune.check(item, Tile(64, 16, 32, 3, 4, 3), 9, "cpu", True)["error"]
    assert "power of 2" in tune.check(item, Tile(64, 24, 32, 8, 4, 3), 9, "cpu", True)["error"]
    assert "error" not in tune.check(item, Tile(64, 16, 32, 8, 4, 3), 9, "cpu", True)


@pytest.mark.parametrize("arch", ["resnet20", "resnet50"])
@torch.no_grad()
def test_the_peers_network_is_the_zoos(arch: str) -> None:
    net = topology(arch)
    plain = gpu_peers.plain_ann(net, equality.random_images(4, 3, 32))
    state = {"fc.weight": plain.fc.weight, "fc.bias": plain.fc.bias}
    for spec in net.layers:
        key = spec.name.replace(".", "_")
        parts = [(spec.name, plain.convs[key]), (spec.bn, plain.bns[key])]
        if spec.shortcut is not None and spec.shortcut.kind == "projection":
            parts += [
                (spec.shortcut.conv, plain.sides[key]),
                (spec.shortcut.bn, plain.side_bns[key]),
            ]
        state |= {
            f"{name}.{part}": value
            for name, module in parts
            for part, value in module.state_dict().items()
        }
    ours = ResNet(net).eval()
    ours.load_state_dict(state)
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(image), ours(image))


def test_spikingjelly_is_left_out_with_a_reason_or_runs() -> None:
    if missing := gpu_peers.why_not_spikingjelly():
        assert missing.startswith("not installed: ")
        return
    batches = [equality.random_images(2, 3, 8)]
    for mode in gpu_peers.STEP_MODES:
        assert (
            gpu_peers.spikingjelly_system(topology("resnet20"), batches, 2, "fp32", mode)
            .run(0)
            .isfinite()
            .all()
        )


def test_every_option_in_the_queue_exists() -> None:
    queue = (ROOT / "benchmarks" / "GPU_QUEUE.md").read_text()
    commands = re.findall(r"python -m benchmarks\.(\w+)([^\n`|&]*)", queue.replace("\\\n", " "))
    assert {"equality", "tune", "gpu"} <= {name for name, _ in commands}
    for name, rest in commands:
        source = (ROOT / "benchmarks" / f"{name}.py").read_text()
        assert all(f'"{option}"' in source for option in re.findall(r"--[a-z-]+", rest)), (
            name,
            rest,
        )


# Calls that only a GPU has: graphs, events, memory, worker processes, the compiler of the ANN.
@pytest.mark.gpu
def test_equality_on_a_gpu(tmp_path: Path) -> None:
    equality.main(
        [
            "--random",
            "resnet20",
            "--size",
            "8",
            "--timesteps",
            "9",
            "--out",
            str(tmp_path / "equal.json"),
        ]
    )


@pytest.mark.gpu
def test_gpu_on_a_gpu(small: None, tmp_path: Path) -> None:
    given = ["--networks", "resnet20", "--timesteps", "4", "--batches", "2", "--seconds", "0.01"]
    gpu.main([*given, "--out", str(tmp_path / "gpu.json")])
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert not [key for key, row in rows.items() if "failed" in row]
    assert (
        rows["resnet20 zoo T=4 batch 2"]["peak_mb"] > 0
        and rows["resnet20 ann T=1 batch 2"]["runs"] >= 5
    )


@pytest.mark.gpu
def test_tune_on_a_gpu(small: None, tmp_path: Path) -> None:
    given = [
        "--networks",
        "resnet20",
        "--neuron",
        "if",
        "--candidates",
        "3",
        "--size",
        "8",
        "--jobs",
        "2",
        "--budget",
        "20",
    ]
    tune.main(
        [*given, "--out", str(tmp_path / "tiles.json"), "--results", str(tmp_path / "tune.json")]
    )
    row = next(iter(json.loads((tmp_path / "tune.json").read_text())["layers"].values()))
    assert row["candidates"][0]["registers"] > 0 and "error" not in row["candidates"][0]
