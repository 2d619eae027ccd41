"""The examples do what they say, against the zoo itself."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.artifact.folder import parse_config, read_config
from zoo.artifact.tensors import expected_tensors, network_of, topology_of
from zoo.models import registry

PLAIN = Path(__file__).resolve().parents[1] / "examples" / "plain_safetensors.py"


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_safetensors", PLAIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variant(folder: Path, shortcut: str, delay: dict[str, int]) -> Path:
    """Write the shipped network with another shortcut or delay; return its folder."""
    shipped = registry.resolve("s-resnet20-digits")
    raw = json.loads((shipped / "config.json").read_text()) | {
        "shortcut": shortcut,
        "readout_delay": delay,
    }
    config = parse_config(json.dumps(raw).encode(), "config")
    tensors = load_file(shipped / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    made = {
        name: tensors[name]
        if name in tensors
        else torch.randint(-50, 50, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in expected_tensors(config, topology_of(config)).items()
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(made, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("shortcut", "delay"), [("A", {"1": 0, "4": 2, "8": 12}), ("A", {}), ("B", {"2": 1})]
)
def test_plain_safetensors_gives_the_same_bits(
    plain: ModuleType, tmp_path: Path, shortcut: str, delay: dict[str, int]
) -> None:
    folder = variant(tmp_path / "net", shortcut, delay)
    network = network_of(read_config(folder), load_file(folder / "model.safetensors"))
    images = torch.randint(0, 256, (3, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    seen: dict[str, list[Tensor]] = {}
    wanted = network.run(
        images, 40, on_spikes=lambda name, spikes: seen.setdefault(name, []).append(spikes.clone())
    )
    logits, spikes = plain.run(folder, images, 40)  # more timesteps than there are bias rows
    assert torch.equal(logits, wanted.logits)
    assert spikes.keys() == seen.keys() and all(
        torch.equal(spikes[name], torch.cat(seen[name])) for name in seen
    )
    assert all(int(steps.sum()) for steps in spikes.values())


def test_plain_safetensors_needs_no_zoo() -> None:
    nodes = list(ast.walk(ast.parse(PLAIN.read_text())))
    names = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in names if name.split(".")[0] == "zoo"]
    line = [sys.executable, str(PLAIN), str(registry.resolve("s-resnet20-digits"))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("classes of two images of noise: [")


def test_a_classifier_is_fitted_to_features() -> None:
    example = PLAIN.with_name("transfer.py")
    words = [sys.executable, str(example), "s-resnet20-digits", "digits", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    right = int(done.stdout.rpartition("T = 16: ")[2].split()[0])
    assert right > 50
