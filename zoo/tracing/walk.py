"""Trace a module with `torch.export`, and walk through the operations of its graph."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from zoo.errors import UsageError
from zoo.tracing.build import Builder
from zoo.tracing.operations import MULTIPLIED, OPERATIONS, reason_of
from zoo.tracing.values import Current, Final, Image, Refusal, Unsupported, Value

ADVICE = (
    "a network of Conv2d, BatchNorm2d, ReLU, additions, max-pooling, global average pooling and "
    "Linear can be converted"
)


def export_program(module: nn.Module, name: str, example: Tensor) -> Any:
    """Return the exported program of a module in eval mode; raise UsageError if there is none."""
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:
        raise UsageError(
            f"{name} fails on an image of {example.shape[2]}x{example.shape[3]} "
            f"({one_line(error)}): pass the `input_size` that it takes, and a module whose forward "
            "takes images alone"
        ) from None
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        # Of a graph that cannot be traced it prints whole pages.
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            return torch.export.export(module, (example,), strict=False)
    except Exception as error:
        why = one_line(error)
        if "data-dependent" in why:
            why = "its control flow depends on values of activations"
        raise UsageError(
            f"{name} cannot be traced ({why}): give a module whose forward computes with tensors "
            "alone"
        ) from None
    finally:
        log.setLevel(level)


def one_line(error: object) -> str:
    """Return the first words of an error in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


class Walk:
    """Goes through an exported program and builds layers."""

    def __init__(self, program: Any, channels: int) -> None:
        self.program, self.build = program, Builder(channels)
        self.values: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        self.inputs: tuple[Tensor, ...] = ()
        self._dropped: list[str] = []

    def run(self, name: str) -> tuple[Current, str | None, int]:
        """Return the classifier, the softmax behind it, and which output it is."""
        self._inputs(name)
        last = None
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                last = node
        assert last is not None
        found = [
            (index, self.values[arg.name])
            for index, arg in enumerate(last.args[0])
            if isinstance(arg, fx.Node)
        ]
        index, value = self._logits(found, name)
        if isinstance(value, Refusal):
            raise refusal_of(name, value)
        final = None
        if isinstance(value, Final):
            final, value = value.operation, value.current
            self.notes += (f"{name} ends in a {final}, which is left out: classes stay the same",)
        if not isinstance(value, Current) or not value.is_vector or len(value.terms) != 1:
            reason = "what it returns is no output of a linear layer behind global average pooling"
            raise refusal_of(name, Refusal("", reason))
        if self._dropped:
            some = ", ".join(dict.fromkeys(self._dropped))
            self.notes += (f"{name}: dropout does nothing outside of training ({some})",)
        return value, final, index

    def _logits(self, found: list[tuple[int, Any]], name: str) -> tuple[int, Any]:
        tensors = [(i, value) for i, value in found if isinstance(value, Value)]
        if len(tensors) == 1:
            return 0, tensors[0][1]
        spec = self.program.call_spec.out_spec
        count = spec.num_leaves if spec is not None else len(found)
        out = torch.utils._pytree.tree_unflatten(list(range(count)), spec)
        place = out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
        for order, (index, value) in enumerate(tensors):
            if index == place:
                return order, value
        raise UsageError(
            f"{name} returns {len(tensors)} tensors: give a module that returns the logits alone"
        )

    def _inputs(self, name: str) -> None:
        signature = self.program.graph_signature
        held = {**self.program.state_dict, **self.program.constants}
        targets = {spec.arg.name: spec.target for spec in signature.input_specs}
        ones = torch.ones(self.build.in_channels, dtype=torch.float64)
        given = []
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            target = targets.get(node.name)
            if target is not None:
                self.values[node.name] = held[target].detach()
                given.append(held[target].detach())
            else:
                self.values[node.name] = Image(torch.zeros_like(ones), ones)
        self.inputs = tuple(given)

    def _call(self, node: fx.Node) -> None:
        schema = getattr(node.target, "_schema", None)
        text = (
            schema.name.rpartition("::")[2]
            if schema is not None
            else getattr(node.target, "__name__", "")
        )
        in_place = bool(schema is not None and schema.is_mutable)
        operation = text.removesuffix("_") if in_place else text
        sources = [one for one in node.all_input_nodes if one.name in self.values]
        operands = [self.values[one.name] for one in sources]
        abstract = [one for one in operands if isinstance(one, Value | tuple)]
        refused = next((one for one in operands if isinstance(one, Refusal)), None)
        path = _path_of(node)
        args, named = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values.get(n.name))
        if operation == "mul" and len(abstract) == 2 and refused in operands:
            # What one of them is does not matter any more: squeeze-excite, attention, a gate.
            result: Any = Refusal(path, MULTIPLIED)
        elif refused is not None:
            result = refused
        elif not abstract:
            result = self._constant(node, path, args, named)
        else:
            result = self._apply(node, path, operation, sources, args, named)
        if in_place and operands and not isinstance(operands[0], Tensor):
            # Whoever reads the same tensor from here on reads what it became.
            for key in [key for key, value in self.values.items() if value is operands[0]]:
                self.values[key] = result
        self.values[node.name] = result

    def _constant(self, node: fx.Node, path: str, args: Any, named: Any) -> Any:
        assert callable(node.target)
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags:
            return Refusal(path, "random numbers in its forward")
        with torch.no_grad():
            return node.target(*args, **named)

    def _apply(
        self,
        node: fx.Node,
        path: str,
        operation: str,
        sources: list[fx.Node],
        args: Any,
        named: Any,
    ) -> Any:
        build = self.build
        build.path, build.operation, build.node = path, operation, node.name
        build.out_shape = _shape(node)
        build.shapes = {id(self.values[one.name]): _shape(one) for one in sources}
        build.readers = {
            id(self.values[one.name]): sum(
                len(other.users) for other in self._alike(self.values[one.name])
            )
            for one in sources
        }
        if operation in ("dropout", "feature_dropout"):
            self._dropped.append(path)
        handler = OPERATIONS.get(operation)
        try:
            if handler is None:
                raise Unsupported(reason_of(operation))
            return handler(build, *args, **named)
        except Unsupported as reason:
            return Refusal(path, str(reason))
        except TypeError as error:
            return Refusal(
                path, f"{operation} with arguments that are not known ({one_line(error)})"
            )

    def _alike(self, value: Any) -> Iterator[fx.Node]:
        for node in self.program.graph.nodes:
            if self.values.get(node.name) is value:
                yield node


def _path_of(node: fx.Node) -> str:
    """Return the path of the innermost module that an operation is in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    return re.sub(r"@\d+", "", path)


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def refusal_of(name: str, refusal: Refusal) -> UsageError:
    """Return the error of a network that has no spiking form."""
    where = f"{refusal.path}: " if refusal.path else "its forward: "
    return UsageError(f"{name} has no spiking form: {where}{refusal.reason}; {ADVICE}")
