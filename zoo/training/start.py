"""What a training begins from: the result of another one, a shallower network's too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import UsageError
from zoo.networks.resnet import ResNet
from zoo.networks.topology import Layer


@torch.no_grad()
def begin_thresholds(model: ResNet, inputs: Tensor, levels: int) -> None:
    """Set the thresholds of a network that had none.

    Each channel gets the one with the least squared error at this many levels.
    """
    from zoo.conversion.thresholds import mmse

    def set_threshold(layer: Layer, z: Tensor) -> Tensor:
        activation = F.relu(z)
        rows = activation.permute(0, 2, 3, 1).flatten(0, 2)[::16].T
        model.get_submodule(layer.name).log_threshold.copy_(
            mmse(rows.cpu(), levels).clamp_min(1e-3).log()
        )  # type: ignore[operator]
        return activation

    model.eval()
    model(inputs, set_threshold)


def load_start(model: ResNet, start: dict[str, Tensor]) -> None:
    """Load the result of another training; raise UsageError if it does not fit."""
    state = {
        name.removesuffix("threshold") + "log_threshold"
        if name.endswith(".threshold")
        else name: value
        for name, value in start.items()
        if name != "levels"
    }
    state = {
        name: value.log() if name.endswith(".log_threshold") else value
        for name, value in state.items()
    }
    own = model.state_dict()
    state = _grown(state, own)
    # Of a start without a classifier, what it has not stays random.
    state |= (
        {}
        if any(n.startswith("fc.") for n in state)
        else {n: value for n, value in own.items() if n.startswith("fc.")}
    )
    odd = [
        n
        for n in state.keys() ^ own.keys()
        if not n.endswith(("log_threshold", "num_batches_tracked"))
    ]
    odd += [n for n in state.keys() & own.keys() if state[n].shape != own[n].shape]
    if odd:
        raise UsageError(
            f"`start` does not fit this network ({', '.join(sorted(odd)[:4])}): give what zoo "
            "train wrote for it"
        )
    model.load_state_dict(
        {name: value for name, value in state.items() if name in own}, strict=False
    )


def _grown(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a shallower network's state with the further blocks of `own` at the end of each stage.

    Such a block begins as the identity: a copy of the stage's last one whose last BatchNorm gives
    zero, so that the network computes what the shallower one did (Goyal et al. 2017,
    arXiv:1706.02677, begin every block so).
    """

    def depths(names: Iterable[str]) -> dict[str, int]:
        blocks: dict[str, int] = {}
        for stage, block in re.findall(r"^layer(\d+)\.(\d+)\.", "\n".join(names), re.MULTILINE):
            blocks[stage] = max(blocks.get(stage, 0), int(block) + 1)
        return blocks

    have, target, out = depths(state), depths(own), dict(state)
    if have.keys() != target.keys():
        return out
    final = "bn3" if any(".conv3." in name for name in own) else "bn2"
    for stage, depth in have.items():
        last = f"layer{stage}.{depth - 1}."
        rest = {
            name.removeprefix(last): value for name, value in state.items() if name.startswith(last)
        }
        for block in range(depth, target[stage]):
            for name, value in rest.items():
                ended = name in (f"{final}.weight", f"{final}.bias")
                out[f"layer{stage}.{block}.{name}"] = (
                    torch.zeros_like(value) if ended else value.clone()
                )
    return out
