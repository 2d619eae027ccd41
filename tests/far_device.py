"""A second device on a machine that has none: tensors on `far` refuse to meet tensors of the CPU.

A far tensor wraps a tensor of the CPU and computes with it, so results are the CPU's, bit for bit.
What a CUDA device would refuse raises RuntimeError here too: an operation on tensors of both
devices, and reading a far tensor's memory without copying it to the CPU first. As on CUDA, numbers
without dimensions and indices may be the CPU's.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "far"

# What makes a CUDA device wait: a value or a tensor brought to the CPU, a size that is not known.
_WAITS = {
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select")
}
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


# By operation: how often the CPU waited for the device, and sent it a tensor.
WAITS: Counter[str] = Counter()
SENT: Counter[str] = Counter()


class _FarTensor(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> _FarTensor:
        far = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        far.inner = inner
        return far

    def __repr__(self) -> str:  # type: ignore[override]
        return f"far({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _FarMode(TorchDispatchMode):
    """Catches what no far tensor takes part in: new tensors on the device, and copies to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    leaves = list(_leaves((*args, *kwargs.values())))
    far = any(isinstance(t, _FarTensor) for t in leaves)
    devices = [v for v in leaves if isinstance(v, torch.device)]
    if not far and not any(device.type == NAME for device in devices):
        return func(*args, **kwargs)
    near = any(
        isinstance(t, torch.Tensor) and not isinstance(t, _FarTensor) and t.dim() for t in leaves
    )
    if near and func is torch.ops.aten._has_compatible_shallow_copy_type.default:
        return False
    indexed = func in _INDEXING and isinstance(args[0], _FarTensor)
    if far and near and func not in _COPIES and not indexed:
        raise RuntimeError(f"expected all tensors on one device, but {func} got {NAME} and cpu")
    brought = any(device.type != NAME for device in devices) or (
        func is torch.ops.aten.copy_.default and not isinstance(args[0], _FarTensor)
    )
    if far and (func.overloadpacket in _WAITS or brought):
        WAITS[str(func)] += 1
    elif near or (not far and any(isinstance(leaf, torch.Tensor) for leaf in leaves)):
        SENT[str(func)] += 1
    # In inference mode `Tensor.to` arrives whole, with the device among its positions.
    for device in devices:
        far = device.type == NAME
    result = func(*_mapped(_inner, args), **{k: _mapped(_inner, v) for k, v in kwargs.items()})
    written = _written(func, args, kwargs)
    if written is not None:
        return written
    return _mapped(_wrap, result) if far else result


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_mapped(function, part) for part in value])
    return function(value)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the tensor that an operation in place, or with `out`, returns; None for others."""
    returns = func._schema.returns
    if len(returns) != 1 or returns[0].alias_info is None or not returns[0].alias_info.is_write:
        return None
    return kwargs["out"] if "out" in kwargs else args[0]


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == NAME else value
    return value.inner if isinstance(value, _FarTensor) else value


def _wrap(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # A wrapper made in inference mode could not be the view of one made outside of it.
    with torch.inference_mode(False):
        return _FarTensor(value)


class _FarModule(_DummyBackendModule):
    """What `torch.far` offers, as `torch.cuda` does."""

    def synchronize(self, device: Any = None) -> None:
        pass

    def max_memory_allocated(self, device: Any = None) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Any:
    return _wrap(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _inner(target).copy_(_inner(source))
    return target


@functools.cache
def _register() -> tuple[_FarModule, torch.library.Library]:
    module = _FarModule()
    _setup_privateuseone_for_python_backend(NAME, module)
    # Indexing by a list moves the list to the device below the level of Python's dispatch.
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return module, library


# torch starts a thread of autograd for each device that is known at the first backward pass of the
# process, and never another.
_register()


@contextmanager
def far_device() -> Iterator[_FarModule]:
    """Make the device `far` work within the block; yields its module, `torch.far`."""
    module, _ = _register()
    with _FarMode():
        yield module
