"""Networks as ONNX files, unrolled over their timesteps.

The graph takes uint8 images as decoded, `images` `[B, C, H, W]`, and gives `logits`
`[T, B, classes]` after each timestep. Its numbers are the artifact's integers in float32, with
which every sum of a runtime is exact in whatever order it adds up, so its spikes are the zoo's.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.artifact.config import MAX_TIMESTEPS
from zoo.errors import UsageError
from zoo.files import replaced_file
from zoo.networks.spiking import SpikingResNet
from zoo.networks.trainable import TrainableResNet, trainable_of

OPSET = 17
_EXACT = 2**23  # float32 holds halves up to here


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        nodes: of the graph.
        exact: timesteps that are exact in float32 whatever the image.
    """

    nodes: int
    exact: int


class _Graph(nn.Module):
    """What is traced: from pixels to logits at every timestep, and the spikes of all layers."""

    def __init__(self, module: TrainableResNet, timesteps: int, spikes: bool) -> None:
        super().__init__()
        self.module, self.timesteps, self.spikes = module, timesteps, spikes

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        table = self.module.image_table
        image = [table[c][pixels[:, c].long()] for c in range(len(table))]
        seen: list[Tensor] = []
        hooks = [
            self.module.layer(spec.name).neuron.register_forward_hook(
                lambda cell, given, out: seen.append(out)
            )
            for spec in self.module.topology.layers
            if self.spikes
        ]
        features = self.module.forward_features(torch.stack(image, 1), self.timesteps)
        for hook in hooks:
            hook.remove()
        return self.module.forward_head(features), *seen


def export_onnx(
    model: SpikingResNet, out: Path, timesteps: int | None = None, *, spikes: bool = False
) -> Exported:
    """Write a network for a number of timesteps as an ONNX file, whole or not at all.

    Args:
        timesteps: default: those the artifact is meant for.
        spikes: outputs for the spikes of every layer, float32 `[T, B, C, H, W]`, by its name.

    Raises:
        UsageError: a layerwise network, a float32 one, timesteps < 1, or the extra `onnx` is not
            installed.
        ZooError: the file cannot be written.
    """
    if importlib.util.find_spec("onnx") is None:
        raise UsageError("zoo export needs onnx: pip install 'spiking-zoo[onnx]'")
    import onnx

    timesteps = model.timesteps if timesteps is None else timesteps
    if timesteps is None or timesteps < 1:
        raise UsageError(f"timesteps must be 1 or more, not {timesteps}: 8 is a good start")
    if not model.integer:
        raise UsageError("this export relies on integers: export an int8 network")
    module = trainable_of(model, units="integer").eval().requires_grad_(False)
    channels, (height, width) = module.topology.in_channels, _size(model)
    names = [spec.name for spec in module.topology.layers if spikes]
    written = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is constant in a trace, and that this one is old
        torch.onnx.export(
            _Graph(module, timesteps, spikes),
            (torch.zeros(2, channels, height, width, dtype=torch.uint8),),
            written,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["logits", *names],
            dynamic_axes={"images": {0: "batch"}, **{n: {1: "batch"} for n in ("logits", *names)}},
            opset_version=OPSET,
            # The other exporter takes a minute and a half for 8 timesteps of a ResNet-20, this 5 s.
            dynamo=False,
        )
    graph: Any = onnx.load_from_string(written.getvalue())
    exact = _exact_timesteps(model)
    graph.producer_name = "spiking-zoo"
    onnx.helper.set_model_props(
        graph, {"timesteps": str(timesteps), "exact_timesteps_in_float32": str(exact)}
    )
    onnx.checker.check_model(graph)
    with replaced_file(out) as temporary:
        temporary.write_bytes(graph.SerializeToString())
    return Exported(len(graph.graph.node), exact)


def _exact_timesteps(model: SpikingResNet) -> int:
    """Return the timesteps, at most MAX_TIMESTEPS, that are exact in float32 whatever the image."""
    layers = model.layers.values()
    return max(
        (
            t
            for t in range(1, MAX_TIMESTEPS + 1)
            if all(layer.potential_bound(t) < _EXACT for layer in layers)
        ),
        default=0,
    )


def _size(model: SpikingResNet) -> tuple[int, int]:
    if model.config is None:
        raise UsageError("the network has no config, so its image size is unknown: load it by name")
    return model.config.preprocess.input_size[1:]
