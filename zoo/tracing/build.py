"""Layers, shortcuts and poolings, collected while a traced network is walked through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from zoo.errors import UsageError
from zoo.networks.architectures import ARCHITECTURES, cifar_name, topology
from zoo.networks.batchnorm import Moments
from zoo.networks.spiking import check_name
from zoo.networks.topology import IMAGE, Layer, Pool, Shortcut, Topology
from zoo.tracing.values import Current, Image, Spikes, Term, Unsupported, Value, Window, dense

_CIFAR_BASES = ("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


@dataclass
class Builder:
    """What was found so far, and where the walk is.

    Attributes:
        in_channels: of the image.
        layers: with parameters and recorded moments under their names.
        paths: of the module that each layer's convolution is in, by the layer's name.
        nodes: name of the graph's node that has a layer's activations, by the layer's name.
        image: how the network normalises what it is given; None where nothing read it yet.
        fresh: whether every BatchNorm has the statistics that it begins with.
        path, operation, out_shape, node: of the operation that is looked at.
    """

    in_channels: int
    layers: list[Layer] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    params: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Moments | None] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    image: Image | None = None
    fresh: bool = True
    path: str = ""
    operation: str = ""
    node: str = ""
    out_shape: Sequence[int] = ()
    shapes: dict[int, Sequence[int]] = field(default_factory=dict)
    readers: dict[int, int] = field(default_factory=dict)
    sizes: dict[str, Sequence[int]] = field(default_factory=dict)

    def shape(self, value: object) -> Sequence[int]:
        """Return the shape of an operand."""
        return tuple(value.shape) if isinstance(value, Tensor) else self.shapes[id(value)]

    def read_again(self, value: Value) -> bool:
        """Return whether anything but this operation reads an operand."""
        return self.readers[id(value)] > 1

    def channels(self, source: str) -> int:
        """Return the channels of a layer or pooling."""
        layer = self._origin(source)
        return next(one.out_channels for one in self.layers if one.name == layer)

    def _origin(self, source: str) -> str:
        return next((pool.source for pool in self.pools if pool.name == source), source)

    def _place(self, source: str) -> int:
        origin = self._origin(source)
        return next((i for i, one in enumerate(self.layers) if one.name == origin), -1)

    def read_image(self, image: Image) -> str:
        """Return the name of the image, which one layer reads in the end."""
        if self.image is not None and self.image is not image:
            raise Unsupported("the image is normalised in two ways")
        self.image = image
        return IMAGE

    def layer(self, current: Current) -> Spikes:
        """Append the layer whose neurons have this current, and return its spikes."""
        main, side = self._inputs(current)
        name = self._name(main.path or self.path)
        bias = current.bias.expand(len(self._weight(main))).clone()
        shortcut = None
        if side is not None and side.weight is None:
            shortcut = Shortcut("identity", side.source, side.stride, side.pad)
        elif side is not None:
            weight = self._weight(dense(side))
            shortcut = Shortcut(
                "projection",
                side.source,
                side.stride,
                conv=side.path,
                kernel=weight.shape[-1],
                padding=side.padding,
            )
            self.params[f"{name}.shortcut.weight"] = weight
            self.moments[f"{name}.shortcut"] = side.moments
        weight = self._weight(main)
        source = main.source
        if main.mean:
            source = self._average(main.source)
        self.layers.append(
            Layer(
                name,
                "",
                source,
                weight.shape[1] * main.groups,
                len(weight),
                weight.shape[-1],
                main.stride,
                shortcut,
                False,
                main.groups,
                main.padding,
            )
        )
        self.params[f"{name}.weight"], self.params[f"{name}.bias"] = weight, bias
        self.moments[name] = main.moments and Moments(
            (main.moments.mean + bias).float(), main.moments.std
        )
        self.paths[name], self.nodes[name] = main.path, self.node
        self.sizes[name] = self.out_shape[2:]
        return Spikes(name)

    def _inputs(self, current: Current) -> tuple[Term, Term | None]:
        """Return what the convolution and the shortcut of a layer are."""
        terms = sorted(
            current.terms if current.is_vector else map(self._spread, current.terms),
            key=lambda term: (term.weight is None, term.mean, -self._place(term.source)),
        )
        if terms[0].weight is None:
            raise Unsupported("a sum of activations without any convolution")
        if len(terms) > 2:
            raise Unsupported(f"a sum of {len(terms)} inputs, where neurons have two")
        main, side = terms[0], terms[1] if len(terms) == 2 else None
        if side is not None and (main.mean or side.mean):
            raise Unsupported("a sum of two linear layers, or of one and activations")
        if side is not None and IMAGE in (main.source, side.source):
            raise Unsupported("a sum of two inputs of which one reads the image")
        return main, side

    def _spread(self, term: Term) -> Term:
        """Return a mean over a small area as the convolution that it is beside a convolution."""
        if not term.mean:
            return term
        area = self.sizes[term.source] or (1, 1)
        if area[0] != area[1]:
            return term
        side = area[0]
        weight = self._weight(term).expand(-1, -1, side, side).contiguous() / side**2
        return replace(term, weight=weight, stride=side, mean=False)

    @staticmethod
    def _weight(term: Term) -> Tensor:
        assert term.weight is not None
        return term.weight

    def _average(self, source: str) -> str:
        """Return the average over the area of a layer's spikes; the layer if that is one pixel."""
        if all(n == 1 for n in self.sizes[source]):
            return source
        if source != self._origin(source):
            raise Unsupported("an average of max-pooled activations in front of a hidden layer")
        found = next((p for p in self.pools if (p.source, p.kind) == (source, "average")), None)
        if found is None:
            found = Pool(self._name(f"{source}.average"), source, "average")
            self.pools.append(found)
        return found.name

    def pool(self, spikes: Spikes, window: Window) -> Spikes:
        """Append a max-pooling, and return its spikes."""
        if spikes.name != self._origin(spikes.name):
            raise Unsupported("a max-pooling of a max-pooling")
        found = Pool(self._name(self.path or "maxpool"), spikes.name, "max", *window)
        self.pools.append(found)
        self.sizes[found.name] = self.out_shape[2:]
        return Spikes(found.name)

    def _name(self, path: str) -> str:
        """Return a name for a layer that no other has and that its tensors can have."""
        name = re.sub(r"[^A-Za-z0-9_.]", "_", path) or "layer"
        taken = {layer.name for layer in self.layers} | {pool.name for pool in self.pools}
        try:
            check_name(name)
            fits = re.match(r"[A-Za-z_]", name) and name.split(".")[0] not in (IMAGE, "fc")
        except UsageError:
            fits = None
        if not fits:
            name = f"body.{name}"
        number, first = 2, name
        while name in taken:
            name, number = f"{first}_{number}", number + 1
        return name

    def network(self, arch: str, head: Term, bias: Tensor) -> Topology:
        """Return the topology that ends in a classifier; parameters keep what it needs.

        Args:
            arch: its name, if it is not one of the zoo's architectures.
            head: of the classifier.
            bias: of the classifier.

        Raises:
            Unsupported: the classifier does not read the last layer.
            UsageError: the layers do not fit together.
        """
        self._prune(head.source)
        if len([layer for layer in self.layers if layer.source == IMAGE]) > 1:
            raise Unsupported("the image is read by a second convolution")
        self._merge_stem_pool()
        source = self._merged(head.source)
        weight = self._weight(head)[:, :, 0, 0]
        changed = [
            layer.shortcut
            for layer in self.layers
            if layer.shortcut and (layer.shortcut.stride > 1 or layer.shortcut.pad)
        ]
        own = any(side.kind == "identity" for side in changed)
        net = Topology(
            arch,
            "A" if own else "B",
            self.in_channels,
            len(weight),
            tuple(self.layers),
            pools=tuple(self.pools),
            named=False,
        ).checked()
        if net.output != source:
            raise Unsupported("the classifier does not read the last layer")
        self.params["fc.weight"], self.params["fc.bias"] = weight, bias
        return net

    def _prune(self, last: str) -> None:
        """Leave out what the classifier does not depend on."""
        needed, waiting = set[str](), [last]
        layers = {layer.name: layer for layer in self.layers}
        while waiting:
            name = waiting.pop()
            if name in needed or name == IMAGE:
                continue
            needed.add(name)
            waiting += layers[name].sources if name in layers else [self._origin(name)]
        self.layers = [layer for layer in self.layers if layer.name in needed]
        self.pools = [pool for pool in self.pools if pool.name in needed]

    def _merge_stem_pool(self) -> None:
        """Let the first layer pool its current where nothing reads it without its pooling."""
        stem = self.layers[0].name
        behind = [pool for pool in self.pools if pool.source == stem]
        read = any(stem in layer.sources for layer in self.layers)
        if read or len(behind) != 1 or behind[0].kind != "max":
            return
        pool = behind[0]
        if (pool.kernel, pool.stride, pool.padding) != (3, 2, 1):
            return
        self.pools.remove(pool)
        self._renamed = {pool.name: stem}
        self.layers = [self._reading(layer) for layer in self.layers]
        self.layers[0] = replace(self.layers[0], max_pool=True)

    _renamed: dict[str, str] = field(default_factory=dict)

    def _merged(self, name: str) -> str:
        return self._renamed.get(name, name)

    def _reading(self, layer: Layer) -> Layer:
        side = layer.shortcut
        if side is not None:
            side = replace(side, source=self._merged(side.source))
        return replace(layer, source=self._merged(layer.source), shortcut=side)


def known_as(net: Topology) -> Topology | None:
    """Return the architecture of the zoo that has these layers, in its names; None if none has."""
    first, second = net.layers[0].out_channels, net.layers[min(1, len(net.layers) - 1)].out_channels
    wide = [cifar_name(base, max(1, second // 16), first) for base in _CIFAR_BASES]
    for arch in dict.fromkeys((*ARCHITECTURES, *wide)):
        for shortcut in ("A", "B"):
            for stride_in in ("3x3", "1x1"):
                try:
                    found = topology(
                        arch,
                        num_classes=net.num_classes,
                        in_channels=net.in_channels,
                        shortcut=shortcut,
                        stride_in=stride_in,
                    )
                except UsageError:
                    continue
                if _form(found) == _form(net):
                    return found
    return None


def _form(net: Topology) -> list[object]:
    """Return what a topology computes, whatever its layers are called."""
    place = {IMAGE: -1} | {layer.name: i for i, layer in enumerate(net.layers)}
    windows = {pool.name: (pool.kind, pool.kernel, pool.stride, pool.padding) for pool in net.pools}

    def read(source: str) -> tuple[int, object]:
        return place[net.origin(source)], windows.get(source)

    rows: list[object] = [net.in_channels, net.num_classes, read(net.output)]
    for layer in net.layers:
        side = layer.shortcut
        rows.append(
            (
                read(layer.source),
                layer.in_channels,
                layer.out_channels,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.groups,
                layer.max_pool,
                None
                if side is None
                else (
                    read(side.source),
                    side.kind,
                    side.stride,
                    side.pad,
                    side.kernel,
                    side.padding,
                ),
            )
        )
    return rows


def renamed(params: dict[str, Tensor], net: Topology, known: Topology) -> dict[str, Tensor]:
    """Return parameters under the names that an architecture's layers have."""
    out = {f"fc.{part}": params[f"fc.{part}"] for part in ("weight", "bias")}
    for mine, theirs in zip(net.layers, known.layers, strict=True):
        for part in ("weight", "bias", "shortcut.weight"):
            if f"{mine.name}.{part}" in params:
                out[f"{theirs.name}.{part}"] = params[f"{mine.name}.{part}"]
    return out


def float_params(net: Topology, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a topology's layers as float32, without those that were pruned."""
    names = [layer.name for layer in net.layers]
    kept = [f"{name}.{part}" for name in names for part in ("weight", "bias", "shortcut.weight")]
    kept += ["fc.weight", "fc.bias"]
    return {name: params[name].float().contiguous() for name in kept if name in params}


def recorded(net: Topology, builder: Builder) -> dict[str, Moments] | None:
    """Return what BatchNorm recorded of each convolution; None where one has recorded nothing."""
    found: dict[str, Moments] = {}
    for layer in net.layers:
        sides = [layer.name]
        if layer.shortcut is not None and layer.shortcut.kind == "projection":
            sides.append(f"{layer.name}.shortcut")
        for name in sides:
            moments = builder.moments.get(name)
            if moments is None:
                return None
            found[name] = moments
    return None if builder.fresh else found
