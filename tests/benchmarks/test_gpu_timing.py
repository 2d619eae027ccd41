"""What `benchmarks.gpu` makes of a failed measurement, tried without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_peers
from benchmarks.gpu_timing import failure
from tests.kernels.kernel_fixtures import interpreted

SMOKE = ["--device", "cpu", "--backend", "interpret", "--networks", "resnet20", "--timesteps", "2"]
SMOKE += ["--batches", "2", "--peers", "ann,torch", "--variants", "if", "--seconds", "0"]


def test_what_a_failure_is() -> None:
    full = RuntimeError("Triton Error [CUDA]: out of memory")
    cudnn = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    assert failure(full, None) == failure(cudnn, None) == {"failed": "out of memory"}
    first = failure(ValueError("one\ntwo"), {"images_per_second": 1.0})
    assert first == {"failed": "ValueError: one", "tries": 1}
    assert failure(ValueError("one"), first)["tries"] == 2


@interpreted
def test_a_failure_that_lasts_ends_the_run_and_is_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "smoke.json"

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setitem(gpu_peers.NETWORKS, "resnet20", (8, 10))
    monkeypatch.setattr(gpu, "ann_system", broken)
    monkeypatch.setattr(gpu, "usable", lambda device: False)
    for tries in (1, 2):
        with pytest.raises(SystemExit) as stopped:
            gpu.main([*SMOKE, "--out", str(out)])
        rows = json.loads(out.read_text())["rows"]
        assert stopped.value.code == 7 and rows["resnet20 ann T=1 batch 2"]["tries"] == tries
        assert "resnet20 torch T=2 batch 2" not in rows
        assert "run the same command again" in capsys.readouterr().err
    gpu.main([*SMOKE, "--out", str(out)])
    assert "failed" not in json.loads(out.read_text())["rows"]["resnet20 torch T=2 batch 2"]
    assert "illegal memory access" in capsys.readouterr().out
