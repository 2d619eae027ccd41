"""Spikes of a model as a trainable module, in four other frameworks and in ONNX, against its run.

    pip install spikingjelly==2.0.0 sinabs==3.1.3 norse==1.1.0 snntorch==1.0.0 onnx onnxruntime
    python -m benchmarks.modules [--timesteps 16] [--images 4] [--out FILE.json]

Shipped models on random pixels, every layer, neuron and timestep; and a graph of five nodes whose
join nirtorch runs before its second input is there, whatever the order of its edges.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.environment import versions
from zoo.errors import ZooError
from zoo.exchange import frameworks
from zoo.exchange.onnx import export_onnx
from zoo.networks.spiking import SpikingResNet
from zoo.networks.trainable import TrainableResNet

RESULTS = Path(__file__).parent / "results"
PACKAGES = (*frameworks.VERSIONS, "nirtorch", "onnx", "onnxruntime")


def of_module(module: TrainableResNet, pixels: Tensor, timesteps: int) -> dict[str, Tensor]:
    """Return the spikes of each layer that hooks on its neurons see."""
    seen: dict[str, Tensor] = {}
    for spec in module.topology.layers:
        module.layer(spec.name).neuron.register_forward_hook(
            lambda cell, given, out, name=spec.name: seen.__setitem__(name, out)
        )
    with torch.no_grad():
        module(pixels, timesteps)
    return seen


def of_onnx(model: SpikingResNet, pixels: Tensor, timesteps: int) -> dict[str, Tensor]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        export_onnx(model, path, timesteps, spikes=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, {"images": pixels.numpy()}), strict=True))
    return {name: torch.from_numpy(found[name]) for name in names if name != "logits"}


def compared(name: str, pixels: Tensor, timesteps: int) -> list[dict[str, Any]]:
    model = zoo.load(name)
    recorded = model.record(pixels, timesteps, what=("spikes",))
    wanted = {spec.name: recorded.spikes[spec.name] for spec in model.topology.layers}
    ways: dict[str, Callable[[], dict[str, Tensor]]] = {
        "trainable, float32": lambda: of_module(model.trainable(), pixels, timesteps),
        "onnxruntime": lambda: of_onnx(model, pixels, timesteps),
    }
    for framework in frameworks.VERSIONS:
        convert = getattr(frameworks, f"to_{framework}")
        ways[framework] = lambda convert=convert: of_module(convert(model), pixels, timesteps)
    rows = []
    for way, run in ways.items():
        row = {"model": name, "way": way, "images": len(pixels), "timesteps": timesteps}
        try:
            found = run()
        except (ZooError, ImportError) as error:
            rows.append({**row, "refused": str(error)})
            continue
        different = sum(int((found[n].to(torch.int8) != s).sum()) for n, s in wanted.items())
        compared = sum(spikes.numel() for spikes in wanted.values())
        rows.append({**row, "neuron_timesteps": compared, "different": different})
    return rows


def five_nodes() -> dict[str, Any]:
    """Return what nirtorch's order makes of x -> a, b -> join, for every order of the edges."""
    from nirtorch.graph_utils import trace_execution

    edges = [("x", "a"), ("x", "b"), ("a", "join"), ("b", "join"), ("join", "out")]
    wrong = 0
    orders = list(itertools.permutations(edges))
    for order in orders:
        found = trace_execution("x", lambda node, order=order: [t for s, t in order if s == node])
        wrong += found.index("join") < max(found.index("a"), found.index("b"))
    return {"edges": edges, "orders_of_edges": len(orders), "join_runs_too_early_in": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timesteps", type=int, default=16)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS / "modules.json")
    args = parser.parse_args()
    gen, rows = torch.Generator().manual_seed(0), []
    for name, shape in {
        "s-resnet20-digits": (1, 8, 8),
        "s-resnet20": (3, 32, 32),
        "s-resnet20-signed": (3, 32, 32),
    }.items():
        pixels = torch.randint(0, 256, (args.images, *shape), generator=gen, dtype=torch.uint8)
        rows += compared(name, pixels, args.timesteps)
    facts = {
        "command": f"python -m benchmarks.modules --timesteps {args.timesteps} --images "
        f"{args.images}",
        "rows": rows,
        "nirtorch": five_nodes(),
        "versions": versions() | {name: _version(name) for name in PACKAGES},
    }
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
