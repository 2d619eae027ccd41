"""The ONNX file of a network gives its logits and, spike for spike, its spikes in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.zoo.networks.test_trainable import spikes_of
from tests.zoo.spiking_fixtures import random_pixels, refuses
from zoo.cli import main
from zoo.errors import UsageError
from zoo.exchange.onnx import export_onnx

NAME = "s-resnet20-digits"
onnx = pytest.importorskip("onnx", reason="needs onnx (extra onnx)")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def run(path: Path, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: list[Any] = session.run(None, {"images": pixels.numpy()})
    return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}


@pytest.mark.parametrize("timesteps", [1, 4])
def test_it_gives_the_logits_and_the_spikes(timesteps: int, tmp_path: Path) -> None:
    network, pixels = zoo.load(NAME), random_pixels(5, 1, 8)
    written = export_onnx(network, tmp_path / "net.onnx", timesteps, spikes=True)
    assert written.exact >= timesteps
    found = run(tmp_path / "net.onnx", pixels)
    logits = found.pop("logits")
    torch.testing.assert_close(
        logits.double(), network.run(pixels, timesteps).logits, rtol=1e-5, atol=1e-5
    )
    wanted = spikes_of(network, pixels, timesteps)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name].to(torch.int8), wanted[name]) for name in wanted)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.onnx"
    words = ("export", NAME, "--format", "onnx", "--out", str(out))
    assert main([*words, "--timesteps", "2"]) == 0
    assert "nodes" in capsys.readouterr().out
    pixels = random_pixels(2, 1, 8)
    assert run(out, pixels)["logits"].shape == (2, 2, 10)
    props = {item.key: item.value for item in onnx.load(out).metadata_props}
    assert props["timesteps"] == "2"
    assert main(["export", NAME, "--out", str(tmp_path / "a.nir"), "--timesteps", "2"]) == 2
    assert main(["export", NAME, "--out", str(tmp_path / "a.nir")]) == 0
    assert "to_spikingjelly" in capsys.readouterr().err


def test_what_it_cannot_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = zoo.load(NAME)
    with refuses(UsageError, "timesteps"):
        export_onnx(network, tmp_path / "net.onnx", 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refuses(UsageError, r"spiking-zoo\[onnx\]"):
        export_onnx(network, tmp_path / "net.onnx", 1)
    assert list(tmp_path.iterdir()) == []
