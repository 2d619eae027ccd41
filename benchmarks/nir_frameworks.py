"""The NIR file of a network in other frameworks: which of its spikes they give.

As they import it, and with what they leave out.

    pip install spikingjelly==2.0.0 sinabs norse snntorch
    python -m benchmarks.nir_frameworks [--timesteps 32] [--images 8] [--out FILE.json]

Takes the shipped s-resnet20-digits and its held-out images. What is known to be missing, and mended
one after the other:

* nirtorch 2.6's executor of `nirtorch.load`, which sinabs and norse use, goes through a graph depth
  first: a node with two inputs runs with one, as `five_nodes` shows. `nir_to_torch` does not.
* NIR's IF node does not say how many spikes a timestep may have: sinabs gives several, and keeps v
  above -v_threshold.
* nor does it have a soft reset: norse sets v to 0.
* nor can it say so to SpikingJelly, where a reset to a value is the default.
* snntorch hands NIR's arrays to torch's convolution, which takes integers; then an IF node leaks
  (beta = 0.9), gives a pair where the next module wants spikes, and above two thresholds
  (`reset_delay=False`) subtracts one more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from graphlib import TopologicalSorter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("nir", "nirtorch", "spikingjelly", "sinabs", "norse", "snntorch")
Spikes = dict[str, Tensor]


def record(
    model: torch.nn.Module, names: dict[str, str], stepwise: bool, batch: int
) -> Callable[[], Spikes]:
    """Keep the outputs of the neurons' modules; return spikes `[T, B, C, H, W]` by layer name."""
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, given: Any, out: Any) -> None:
            spikes = out[0] if isinstance(out, tuple) else out
            kept.setdefault(name, []).append(spikes.detach().clone())

        return hook

    for name, module in model.named_modules():
        if (node := name.rpartition(".")[2]) in names:
            module.register_forward_hook(keep(names[node]))
    if stepwise:
        return lambda: {name: torch.stack(steps) for name, steps in kept.items()}
    return lambda: {
        name: steps[0].unflatten(0, (batch, -1)).transpose(0, 1) for name, steps in kept.items()
    }


def put_in_order(model: Any, graph: Any) -> None:
    """Make nirtorch's executor run each node after all of its inputs."""
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
    place = {name: index for index, name in enumerate(TopologicalSorter(before).static_order())}
    model.execution_order.sort(key=lambda node: place[node.name])


def with_sinabs(
    graph: Any, inputs: Tensor, names: dict[str, str], ordered: bool, changes: dict[str, Any]
) -> Spikes:
    import sinabs.layers
    import sinabs.nir

    steps, batch = inputs.shape[:2]
    model = sinabs.nir.from_nir(graph, batch_size=batch, num_timesteps=steps)
    if ordered:
        put_in_order(model, graph)
    for module in model.modules():
        if isinstance(module, sinabs.layers.IAFSqueeze):
            for name, value in changes.items():
                setattr(module, name, value)
            threshold = module.spike_threshold
            module.spike_threshold = torch.nn.Parameter(
                torch.as_tensor(threshold).float(), requires_grad=False
            )
    spikes = record(model, names, stepwise=False, batch=batch)
    model(inputs.transpose(0, 1).flatten(0, 1))
    return spikes()


def with_norse(
    graph: Any, inputs: Tensor, names: dict[str, str], ordered: bool, soft_reset: bool
) -> Spikes:
    import norse.torch as norse
    from norse.torch.functional.iaf import IAFFeedForwardState
    from norse.torch.module.iaf import IAFCell

    model = norse.from_nir(graph)
    if ordered:
        put_in_order(model, graph)

    class SoftReset(IAFCell):
        def forward(self, given: Tensor, state: Any = None) -> Any:
            v = given if state is None else state.v + given
            spike = torch.gt(v, self.p.v_th).to(v.dtype)
            return spike, IAFFeedForwardState(v - spike * self.p.v_th)

    if soft_reset:
        for module in model.modules():
            if type(module) is IAFCell:
                module.__class__ = SoftReset
    return _step(model, inputs, names)


def with_spikingjelly(
    graph: Any, inputs: Tensor, names: dict[str, str], soft_reset: bool, dtype: torch.dtype
) -> Spikes:
    from spikingjelly.activation_based.neuron import IFNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    model = import_from_nir(graph, dt=1, dtype=dtype)
    for module in model.modules():
        if isinstance(module, IFNode) and soft_reset:
            module.v_reset = None
    return _step(model, inputs.to(dtype), names)


def with_snntorch(graph: Any, inputs: Tensor, names: dict[str, str], mended: bool) -> Spikes:
    import nir
    import snntorch
    from snntorch.import_nir import import_from_nir

    if mended:
        for node in graph.nodes.values():
            if isinstance(node, nir.Conv2d):
                for name in ("stride", "padding", "dilation"):
                    setattr(node, name, tuple(int(n) for n in getattr(node, name)))
                node.groups = int(node.groups)
    model = import_from_nir(graph)
    if mended:
        for module in model.modules():
            if isinstance(module, snntorch.Leaky):
                module.init_hidden = module.reset_delay = True
                module.beta.fill_(1.0)
    return _step(model, inputs, names)


def _step(model: Any, inputs: Tensor, names: dict[str, str]) -> Spikes:
    spikes = record(model, names, stepwise=True, batch=inputs.shape[1])
    state = None
    for image in inputs:
        _, state = model(image, state)
    return spikes()


def five_nodes() -> dict[str, float]:
    """Return what 1 becomes in a graph of five nodes, 1 + 10 on two ways, and in nirtorch's two."""
    import nir
    import nirtorch
    import numpy as np

    def times(k: float) -> Any:
        return nir.Affine(np.array([[k]], np.float32), np.zeros(1, np.float32))

    def module(node: Any) -> Any:
        if not isinstance(node, nir.Affine):
            return None
        linear = torch.nn.Linear(1, 1)
        linear.weight.data = torch.from_numpy(node.weight)
        linear.bias.data = torch.from_numpy(node.bias)
        return linear

    ends = {
        "input": nir.Input({"input": np.array([1])}),
        "output": nir.Output({"output": np.array([1])}),
    }
    graph = nir.NIRGraph(
        {**ends, "once": times(1), "ten": times(10), "sum": times(1)},
        [("input", "once"), ("input", "ten"), ("once", "sum"), ("ten", "sum"), ("sum", "output")],
    )
    one = torch.ones(1, 1)
    return {
        "right": 11.0,
        "nirtorch.load": nirtorch.load(graph, module)(one)[0].item(),
        "nirtorch.nir_to_torch": nirtorch.nir_to_torch(graph, {nir.Affine: module})(one)[0].item(),
    }


def main() -> None:
    import nir

    from zoo.artifact.folder import read_artifact
    from zoo.artifact.tensors import network_of
    from zoo.data.open import open_images
    from zoo.environment import versions
    from zoo.exchange import nir as exchange
    from zoo.models import registry

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timesteps", type=int, default=32)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS / "nir.json")
    args = parser.parse_args()
    folder = registry.resolve("s-resnet20-digits")
    config, tensors = read_artifact(folder)
    network = network_of(config, tensors)
    with tempfile.TemporaryDirectory() as place:
        exchange.export_nir(folder, Path(place) / "net.nir")
        path = Path(place) / "net.nir"
        size = path.stat().st_size
        read = lambda: nir.read(path)  # noqa: E731  (an importer may change the graph)
        rows = _compare(args, config, network, open_images("digits", "test"), read)
    facts = {
        "command": f"python -m benchmarks.nir_frameworks --timesteps {args.timesteps} --images "
        f"{args.images}",
        "network": "s-resnet20-digits",
        "file_bytes": size,
        "timesteps": args.timesteps,
        "images": args.images,
        "rows": rows,
        "five_nodes": five_nodes(),
        "versions": versions() | {name: _version(name) for name in PACKAGES},
    }
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))


def _compare(
    args: Any, config: Any, network: Any, held_out: Any, read: Callable[[], Any]
) -> list[dict[str, Any]]:
    from zoo.exchange import nir as exchange
    from zoo.networks.preprocess import Preprocess

    images = held_out.take(args.images, seed=0)
    pixels = torch.cat([batch for batch, _ in images.batches(Preprocess.of(config), args.images)])
    inputs = exchange.nir_input(network, pixels, args.timesteps)
    seen: dict[str, list[Tensor]] = {}
    network.run(
        pixels,
        args.timesteps,
        on_spikes=lambda name, spikes: seen.setdefault(name, []).append(spikes.clone()),
    )
    ours = {name: torch.cat(steps) for name, steps in seen.items()}
    names = {f"{name.replace('.', '_')}_if": name for name in ours}
    ways: dict[str, Callable[[], Spikes]] = {
        "sinabs, as imported": lambda: with_sinabs(read(), inputs, names, False, {}),
        "sinabs, nodes in order": lambda: with_sinabs(read(), inputs, names, True, {}),
        "sinabs, nodes in order, one spike a timestep, no lower bound": lambda: with_sinabs(
            read(), inputs, names, True, _sinabs_changes()
        ),
        "norse, as imported": lambda: with_norse(read(), inputs, names, False, False),
        "norse, nodes in order": lambda: with_norse(read(), inputs, names, True, False),
        "norse, nodes in order, soft reset": lambda: with_norse(read(), inputs, names, True, True),
        "spikingjelly, as imported": lambda: with_spikingjelly(
            read(), inputs, names, False, torch.float64
        ),
        "spikingjelly, soft reset": lambda: with_spikingjelly(
            read(), inputs, names, True, torch.float64
        ),
        "spikingjelly, soft reset, float32": lambda: with_spikingjelly(
            read(), inputs, names, True, torch.float32
        ),
        "snntorch, as imported": lambda: with_snntorch(read(), inputs, names, False),
        "snntorch, integers as integers, no leak, hidden state, one reset a spike": lambda: (
            with_snntorch(read(), inputs, names, True)
        ),
    }
    rows = []
    for way, run in ways.items():
        try:
            theirs = run()
        except Exception as error:  # an importer that refuses is a result
            rows.append(
                {"framework": way, "refused": f"{type(error).__name__}: {str(error)[:160]}"}
            )
            continue
        different = sum(int((theirs[name] != ours[name]).sum()) for name in ours)
        first = next((name for name in ours if (theirs[name] != ours[name]).any()), None)
        rows.append(
            {
                "framework": way,
                "layers": len(theirs),
                "spikes": sum(int(steps.sum()) for steps in theirs.values()),
                "spikes_of_the_zoo": sum(int(steps.sum()) for steps in ours.values()),
                "neuron_timesteps_that_differ": different,
                "neuron_timesteps": sum(steps.numel() for steps in ours.values()),
                "first_layer_that_differs": first,
            }
        )
    return rows


def _sinabs_changes() -> dict[str, Any]:
    from sinabs.activation import SingleSpike

    return {"spike_fn": SingleSpike, "min_v_mem": None}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
