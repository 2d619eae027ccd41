"""Read a PyTorch module as a pretrained ANN: traced, mapped onto a topology, compared with itself.

`torch.export` runs the module's forward once, without data, and writes down its operations as a
torch.fx graph. These are walked through (`zoo.tracing.operations`): convolutions, BatchNorm, sums,
ReLU and pooling become layers, and what has no spiking form is named with its module's path. The
layers then run as an ANN on real images beside the module: a network that was misread is refused.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.errors import IntegrityError, UsageError
from zoo.networks.resnet import activate, ann_forward, pool_activations
from zoo.networks.topology import Layer
from zoo.pretrained.checkpoint import Checkpoint, Origin
from zoo.tracing.build import float_params, known_as, recorded, renamed
from zoo.tracing.values import Image, Refusal, Unsupported
from zoo.tracing.walk import ADVICE, Walk, export_program, one_line, refusal_of

# Logits of module and layers may differ by this share of the largest, or of 1.
TOLERANCE = 1e-4

_BATCH = 2  # of the trace; comparisons use another number of images


@dataclass(frozen=True)
class Traced:
    """A module that was read.

    Attributes:
        checkpoint: the same as a pretrained ANN.
        paths: of the module that a layer's convolution is in, by the layer's name.
    """

    checkpoint: Checkpoint
    module: nn.Module
    paths: Mapping[str, str]
    _graph: fx.GraphModule
    _inputs: tuple[Tensor, ...]
    _nodes: Mapping[str, str]
    _image: Image
    _final: str | None = None
    _output: int = 0
    _seen: dict[str, Tensor] = field(default_factory=dict)

    @property
    def normalises(self) -> bool:
        """Whether the module takes pixels in 0 to 1 and normalises them itself."""
        return bool(self._image.mean.any()) or bool((self._image.std != 1).any())

    @torch.inference_mode()
    def check(self, images: Tensor, mean: Tensor, std: Tensor) -> float:
        """Return the largest difference of logits between module and layers, as `TOLERANCE` is.

        Args:
            images: uint8 `[B, C, H, W]`, at least one.
            mean, std: that images are normalised with for the layers, `[C, 1, 1]`.

        Raises:
            UsageError: it is too large; the message names the first layer that differs.
        """
        params, net = self.checkpoint.params, self.checkpoint.net
        pixels = images.float() / 255
        inner = (pixels - mean) / std
        # What the module is given: its own normalisation comes after that.
        outer = inner * self._image.std.view(-1, 1, 1) + self._image.mean.view(-1, 1, 1)
        given = outer.float()
        theirs = self._logits(self.module(given), len(images))
        ours = self._finished(ann_forward(net, params, inner.float()))
        error = _distance(theirs, ours)
        if error <= TOLERANCE:
            return error
        name = self.checkpoint.name
        where = self._first_difference(given, inner.float())
        if where is None:
            raise UsageError(
                f"{name} computes something else than its trace: logits differ by {error:.1e}; "
                "its forward has hooks, randomness, or goes by the number of images: give a plain "
                "module"
            )
        raise UsageError(
            f"{name} was misread at {where}: from there on its activations differ, logits by "
            f"{error:.1e}: please report it with the module's code"
        )

    def _logits(self, out: Any, count: int) -> Tensor:
        parts, _ = torch.utils._pytree.tree_flatten(out)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        logits = tensors[self._output] if self._output < len(tensors) else None
        if logits is None or logits.shape != (count, self.checkpoint.net.num_classes):
            raise UsageError(
                f"{self.checkpoint.name} returns another shape for {count} images than for "
                f"{_BATCH}: give a module without control flow by the number of images"
            )
        return logits.float()

    def _finished(self, logits: Tensor) -> Tensor:
        if self._final is None:
            return logits
        return logits.softmax(1) if self._final == "softmax" else logits.log_softmax(1)

    def _first_difference(self, given: Tensor, inner: Tensor) -> str | None:
        """Return the path of the first layer whose activations are not those of the graph."""
        rows = torch.arange(_BATCH) % len(given)
        given, inner = given[rows], inner[rows]
        recorder = _Recorder(self._graph, set(self._nodes.values()))
        recorder.run(*self._inputs, given)
        found: list[str] = []
        net, params = self.checkpoint.net, self.checkpoint.params

        def compare(layer: Layer, z: Tensor) -> Tensor:
            a = activate(layer, params, z)
            theirs = recorder.seen.get(self._nodes.get(layer.name, ""))
            ours = a
            if theirs is not None and theirs.shape != ours.shape:
                behind = net.pools_behind(layer.name)
                ours = pool_activations(a, behind[0]) if behind else a.flatten(1)
                theirs = theirs if theirs.shape == ours.shape else None
            if theirs is not None and _distance(theirs, ours) > TOLERANCE:
                found.append(self.paths.get(layer.name, layer.name))
            return a

        logits = ann_forward(net, params, inner, compare)
        if not found and recorder.out is not None:
            theirs = [t for t in recorder.out if isinstance(t, Tensor)][self._output]
            if _distance(theirs, self._finished(logits)) > TOLERANCE:
                found.append("the classifier")
        return found[0] if found else None


def read_module(module: nn.Module, size: int, channels: int | None = None) -> Traced:
    """Return a module as a pretrained ANN.

    The module itself stays as it is. A copy of it is used in eval mode, in float32 on the CPU.

    Args:
        module: a residual network for classification; its forward takes normalised images
            `[B, C, H, W]`, or pixels in 0 to 1 where it normalises them itself.
        size: height and width of the images.
        channels: of the images; default: those that its first convolution takes.

    Raises:
        UsageError: what it computes has no spiking form, or cannot be traced; the message names the
            module's path and the reason.
        IntegrityError: it has weights that are NaN or infinite.
    """
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    inner, notes = _unwrapped(module, name)
    _check_kind(inner, name)
    state = {key: value for key, value in inner.state_dict().items() if isinstance(value, Tensor)}
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise IntegrityError(f"{name}: {key} has NaN or infinite values: use a sound network")
    plain = _copied(inner, name)
    first = next((m for m in plain.modules() if isinstance(m, nn.Conv2d)), None)
    width = channels or (first.in_channels if first is not None else 3)
    program = export_program(plain, name, torch.zeros(_BATCH, width, size, size))
    walk = Walk(program, width)
    head, final, output = walk.run(name)
    build = walk.build
    try:
        net = build.network(type(inner).__name__, head.terms[0], head.bias)
        net.sizes(size, size)
    except Unsupported as reason:
        raise refusal_of(name, Refusal("", str(reason))) from None
    except UsageError as error:
        raise UsageError(f"{name}: {error}: {ADVICE}") from None
    params, moments = float_params(net, build.params), recorded(net, build)
    paths, nodes = build.paths, build.nodes
    known = known_as(net)
    if known is not None:
        names = dict(
            zip((one.name for one in net.layers), (one.name for one in known.layers), strict=True)
        )
        params = renamed(params, net, known)
        paths = {names[one]: paths[one] for one in names}
        nodes = {names[one]: nodes[one] for one in names}
        if moments is not None:
            moments = {
                names[key.removesuffix(".shortcut")]
                + (".shortcut" if key.endswith(".shortcut") else ""): value
                for key, value in moments.items()
            }
        net = known
    assert build.image is not None
    notes = (*notes, *walk.notes)
    if not all(bool((v == w).all()) for v, w in ((build.image.mean, 0), (build.image.std, 1))):
        values = (_listed(build.image.mean), _listed(build.image.std))
        notes += (f"{name} normalises its input itself: mean {values[0]} and std {values[1]}",)
    checkpoint = Checkpoint(
        net=net,
        params=params,
        name=name,
        sha256=_digest(state),
        moments=moments,
        origin=_origin(inner, build.image, size),
        notes=notes,
    )
    graph, inputs = program.graph_module, walk.inputs
    return Traced(checkpoint, plain, paths, graph, inputs, nodes, build.image, final, output)


def _unwrapped(module: nn.Module, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the network inside what torch.compile, DataParallel and averaging put around it."""
    notes: tuple[str, ...] = ()
    wrappers = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "AveragedModel")
    while type(module).__name__ in wrappers:
        kind = type(module).__name__
        module = module.get_submodule("_orig_mod" if kind == "OptimizedModule" else "module")
        notes += (f"{name}: read the {type(module).__name__} inside the {kind}",)
    return module, notes


def _check_kind(module: nn.Module, name: str) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(f"{name} is TorchScript: give the nn.Module that it was made from")
    if hasattr(module, "readout_delay") or type(module).__name__ == "SpikingResNet":
        raise UsageError(f"{name} is a spiking network already: give the ANN")
    lazy = [key for key, value in module.named_parameters() if nn.parameter.is_lazy(value)]
    if lazy:
        raise UsageError(f"{name}: {lazy[0]} has no size yet: run the module on an image first")


def _copied(module: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(module).cpu().float().eval()
    except Exception as error:
        raise UsageError(
            f"{name} cannot be copied ({one_line(error)}): give a module of parameters that it owns"
        ) from None


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over a state dict: names, dtypes, shapes and bytes, by name."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _listed(values: Tensor) -> str:
    return ",".join(f"{value:.4g}" for value in values.tolist())


def _origin(module: nn.Module, image: Image, size: int) -> Origin:
    """Return what the module says of its preprocessing: its own layer, or timm's settings."""
    mean, std = tuple(image.mean.tolist()), tuple(image.std.tolist())
    if any(mean) or any(value != 1 for value in std):
        return Origin(mean=mean, std=std)
    told = getattr(module, "pretrained_cfg", None)
    if not isinstance(told, Mapping):
        return Origin()
    pairs = [tuple(map(float, told.get(key) or ())) for key in ("mean", "std")]
    if any(len(pair) != len(mean) for pair in pairs):
        return Origin()
    own = (told.get("input_size") or (0, 0, 0))[-1] == size
    way = told.get("interpolation")
    return Origin(
        mean=pairs[0],
        std=pairs[1],
        crop=told.get("crop_pct") if own else None,
        interpolation=way if way in ("bilinear", "bicubic") else None,
    )


def input_size_of(module: nn.Module) -> int:
    """Return the height of the images that a module is for: timm's settings, else by its stem.

    224 where the first convolution has a stride, 32 where it has none.
    """
    told = getattr(module, "pretrained_cfg", None)
    size = told.get("input_size") if isinstance(told, Mapping) else None
    if size:
        return int(size[-1])
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return 224 if first is not None and max(first.stride) > 1 else 32


def _distance(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape or not bool(torch.isfinite(one).all()):
        return float("inf")
    scale = max(1.0, one.abs().max().item())
    return (one - other).abs().max().item() / scale


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps copies of some of its values."""

    def __init__(self, graph: fx.GraphModule, names: set[str]) -> None:
        super().__init__(graph)
        self.names, self.seen = names, dict[str, Tensor]()
        self.out: tuple[Any, ...] | None = None

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n.name in self.names and isinstance(found, Tensor):
            self.seen[n.name] = found.clone()
        if n.op == "output":
            self.out = tuple(found)
        return found
