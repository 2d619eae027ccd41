"""Global and shared memory, with the checks that no GPU makes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from .ptx import EmulationError
from .values import UNSIGNED, Value

# When the bytes of an asynchronous copy arrive: at once; at the wait that guarantees them; or at
# that wait, with garbage in their place until then.
Copies = Literal["early", "late", "poisoned"]

_SEVERAL = 63  # in place of a warp: more than one
_POISON = np.uint32(0xDEADBEEF)


@dataclass(frozen=True)
class Segment:
    """The bytes of one tensor.

    Attributes:
        start, end: addresses of the tensor.
        origin: address of `data`, aligned to 16 bytes.
    """

    start: int
    end: int
    origin: int
    data: np.ndarray[Any, Any]

    @classmethod
    def of(cls, tensor: Tensor) -> Segment:
        """Return a view of a tensor in the CPU's memory."""
        start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        origin = start & ~15
        length = (start + size - origin + 15) & ~15
        memory = (ctypes.c_ubyte * length).from_address(origin)
        return cls(start, start + size, origin, np.ctypeslib.as_array(memory))


class GlobalMemory:
    """The tensors that a kernel was given, for one launch."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.segments = list(segments)

    def load(
        self, lanes: Value, addresses: Value, width: int, count: int
    ) -> list[np.ndarray[Any, Any]]:
        """Return `count` numbers of `width` bytes for each of the lanes."""
        at, data = self._find(lanes, addresses, width * count)
        if data is None:
            return [np.zeros(0, UNSIGNED[8 * width])] * count
        flat = data.view(UNSIGNED[8 * width])
        return [flat[(at + i * width) // width] for i in range(count)]

    def store(self, lanes: Value, addresses: Value, width: int, parts: Sequence[Value]) -> None:
        """Store numbers of `width` bytes, one after the other."""
        at, data = self._find(lanes, addresses, width * len(parts))
        if data is None:
            return
        flat = data.view(UNSIGNED[8 * width])
        for i, part in enumerate(parts):
            index, part = (at + i * width) // width, part.astype(UNSIGNED[8 * width])
            flat[index] = part
            if (flat[index] != part).any():
                raise EmulationError("threads store different values at one address")

    def add(self, lanes: Value, addresses: Value, values: Value) -> None:
        """Add 32-bit numbers, each atomically."""
        at, data = self._find(lanes, addresses, 4)
        if data is not None:
            np.add.at(data.view(np.uint32), at // 4, values)

    def _find(self, lanes: Value, addresses: Value, size: int) -> tuple[Any, Any]:
        """Return offsets in the tensor in which all these accesses lie, and its bytes."""
        at = addresses[lanes]
        if not len(at):
            return at, None
        if (at % np.uint64(size)).any():
            raise EmulationError(f"global access of {size} bytes misaligned")
        low, high = int(at.min()), int(at.max()) + size
        for segment in self.segments:
            if segment.start <= low and high <= segment.end:
                return (at - np.uint64(segment.origin)).astype(np.int64), segment.data
        raise EmulationError(f"global access outside every tensor: {low:#x} to {high:#x}")


@dataclass
class _Copy:
    words: np.ndarray[Any, Any]  # indices
    data: np.ndarray[Any, Any]
    warps: np.ndarray[Any, Any]


class SharedMemory:
    """The shared memory of several programs, one behind the other.

    Between two barriers ("an epoch") no warp may write what another reads or writes; only one
    instruction by which several warps write the same value is no race. State is kept for each byte:
    epoch and warp of the last write and of the last read.

    Args:
        programs: how many run together.
        threads: of a program.
        size: bytes of a program.
        copies: when asynchronous copies arrive.
        checks: races, initialization and what is in flight; bounds and alignment always.
    """

    def __init__(
        self, programs: int, threads: int, size: int, copies: Copies, checks: bool = True
    ) -> None:
        self.size, self.copies, self.checks = -(-max(size, 16) // 16) * 16, copies, checks
        total, lanes = programs * self.size, np.arange(programs * threads)
        # Garbage, as on a GPU.
        self.data = np.random.default_rng(0).integers(0, 256, total, dtype=np.uint8)
        self.words = self.data.view(np.uint32)
        self.base = lanes // threads * self.size
        self.warp = (lanes // 32 % -(-threads // 32)).astype(np.int32) + 1
        self.epoch = 64  # counted in steps of 64; a state is epoch + warp
        self._open: list[_Copy] = []
        self._pending: list[list[_Copy]] = []
        self._wgmma_open: list[Any] = []
        self._wgmma_pending: list[list[Any]] = []
        if checks:
            self._written, self._read = np.zeros(total, np.int32), np.zeros(total, np.int32)
            self._in_flight = np.zeros(total, bool)
            self._operand = np.zeros(total, np.int16)  # of how many wgmma in flight
            self._unfenced = np.zeros(total, bool)  # what no fence.proxy.async followed

    def barrier(self) -> None:
        """Order everything before it before everything after it, for all warps."""
        self.epoch += 64

    def locate(self, lanes: Value, addresses: Value, size: int) -> Value:
        """Return offsets in `data` of aligned accesses of `size` bytes."""
        at = addresses[lanes].astype(np.int64)
        if len(at) and (at.max() + size > self.size or (at % size).any()):
            raise EmulationError(f"shared access of {size} bytes out of bounds or misaligned")
        return at + self.base[lanes]

    def load(self, lanes: Value, addresses: Value, width: int, count: int) -> list[Value]:
        """Return `count` numbers of `width` bytes for each of the lanes."""
        at = self.locate(lanes, addresses, width * count)
        self._reads(at, lanes, width * count)
        flat = self.data.view(UNSIGNED[8 * width])
        return [flat[(at + i * width) // width] for i in range(count)]

    def store(self, lanes: Value, addresses: Value, width: int, parts: Sequence[Value]) -> None:
        """Store numbers of `width` bytes, one after the other."""
        at = self.locate(lanes, addresses, width * len(parts))
        rows = np.stack([part.astype(UNSIGNED[8 * width]) for part in parts], 1)
        self._put(at, lanes, rows)

    def load_rows(self, rows: Value, count: int) -> list[Value]:
        """Return ldmatrix's 8x8 matrices of 16 bits: one register a matrix and lane.

        Args:
            rows: addresses of 16 bytes each, one a lane; lanes 8 i to 8 i + 7 give matrix i.
        """
        lanes = np.arange(len(rows))
        at = self.locate(lanes, rows, 16).reshape(-1, 32)
        result, lane = [], np.arange(32)
        for i in range(count):
            place = (at[:, 8 * i + lane // 4] + 4 * (lane % 4)).reshape(-1)
            self._reads(place, lanes, 4)
            result.append(self.words[place >> 2])
        return result

    def store_rows(self, rows: Value, parts: Sequence[Value]) -> None:
        """Store 8x8 matrices of 16 bits as stmatrix does, the reverse of `load_rows`."""
        lanes = np.arange(len(rows))
        at = self.locate(lanes, rows, 16).reshape(-1, 32)
        lane = np.arange(32)
        for i, part in enumerate(parts):
            place = (at[:, 8 * i + lane // 4] + 4 * (lane % 4)).reshape(-1)
            self._put(place, lanes, part[:, None])

    def copy(self, lanes: Value, addresses: Value, rows: Value) -> None:
        """Start cp.async: `rows` are the 32-bit words of each lane, `[lanes, size / 4]`."""
        size = 4 * rows.shape[1]
        at = self.locate(lanes, addresses, size)
        if self.checks:
            self._check_write(at, lanes, rows)
            self._in_flight[_bytes(at, size)] = True
        words = (at[:, None] >> 2) + np.arange(rows.shape[1])
        self._open.append(_Copy(words, rows, self.warp[lanes]))
        if self.copies == "early":
            self.words[words] = rows
        elif self.copies == "poisoned":
            self.words[words] = _POISON

    def commit_copies(self) -> None:
        """Close a group of copies."""
        self._pending.append(self._open)
        self._open = []

    def wait_copies(self, most: int) -> None:
        """Wait until at most this number of groups is in flight.

        What arrives is visible to the thread that waited; other warps need a barrier.
        """
        while len(self._pending) > most:
            for copy in self._pending.pop(0):
                if self.copies != "early":
                    self.words[copy.words] = copy.data
                if self.checks:
                    index = _bytes(copy.words[:, 0] * 4, 4 * copy.words.shape[1])
                    self._in_flight[index] = False
                    # The ISA names bulk copies alone as work of the async proxy.
                    self._unfenced[index] = True
                    self._written[index] = (self.epoch + copy.warps)[:, None]

    def fence(self) -> None:
        """Make stores and copies visible to wgmma (fence.proxy.async)."""
        if self.checks:
            self._unfenced[:] = False

    def operand(self, index: Value) -> Value:
        """Return the bytes that a wgmma reads, which stay as they are until it is waited for.

        Args:
            index: of bytes in `data`, `[warpgroups, rows, 32]`.
        """
        if self.checks:
            if self._in_flight[index].any():
                raise EmulationError("wgmma reads bytes of a copy in flight")
            if self._unfenced[index].any():
                raise EmulationError("wgmma reads what was stored without a proxy fence")
            state = self._written[index]
            if (state == 0).any():
                raise EmulationError("wgmma reads uninitialized shared memory")
            # A warpgroup is four warps, which only a barrier orders.
            if (state > self.epoch).any():
                raise EmulationError("race: wgmma reads what is stored since the last barrier")
            flat = index.reshape(-1)
            np.add.at(self._operand, flat, 1)
            self._wgmma_open.append(flat)
            self._read[flat] = self.epoch + _SEVERAL
        return self.data[index]

    def commit_wgmma(self) -> None:
        """Close a group of wgmma."""
        self._wgmma_pending.append(self._wgmma_open)
        self._wgmma_open = []

    def wait_wgmma(self, most: int) -> None:
        """Wait until at most this number of groups is in flight."""
        while len(self._wgmma_pending) > most:
            for index in self._wgmma_pending.pop(0):
                np.subtract.at(self._operand, index, 1)

    def _put(self, at: Value, lanes: Value, rows: Value) -> None:
        """Store rows of numbers at byte offsets, one row a lane."""
        width = rows.dtype.itemsize
        if self.checks:
            self._check_write(at, lanes, rows)
        index = at[:, None] // width + np.arange(rows.shape[1])
        flat = self.data.view(rows.dtype)
        flat[index] = rows
        if (flat[index] != rows).any():
            raise EmulationError("race: threads store different values at one shared address")
        if self.checks:
            place = _bytes(at, width * rows.shape[1])
            self._mark(self._written, place, self.warp[lanes][:, None])
            self._unfenced[place] = True

    def _reads(self, at: Value, lanes: Value, size: int) -> None:
        """Check and note that each lane reads `size` bytes at its offset."""
        if not self.checks:
            return
        index, warp = _bytes(at, size), self.warp[lanes][:, None]
        if self._in_flight[index].any():
            raise EmulationError("shared bytes of a copy in flight are read")
        state = self._written[index]
        if (state == 0).any():
            raise EmulationError("uninitialized shared memory is read")
        if ((state > self.epoch) & (state != self.epoch + warp)).any():
            raise EmulationError("race: a warp reads what another stores between two barriers")
        self._mark(self._read, index, warp)

    def _check_write(self, at: Value, lanes: Value, rows: Value) -> None:
        """Check that a store of rows is ordered after all that other warps did to the bytes."""
        size = rows.dtype.itemsize * rows.shape[1]
        index, warp = _bytes(at, size), self.warp[lanes][:, None]
        if self._in_flight[index].any():
            raise EmulationError("shared bytes of a copy in flight are overwritten")
        if self._operand[index].any():
            raise EmulationError("shared bytes are overwritten while a wgmma may read them")
        for states, what in ((self._written, "stores"), (self._read, "reads")):
            state = states[index]
            if ((state > self.epoch) & (state != self.epoch + warp)).any():
                raise EmulationError(
                    f"race: a warp stores where another {what} between two barriers"
                )

    def _mark(self, states: Value, index: Value, warp: Value) -> None:
        """Note the warp for each byte in this epoch, `_SEVERAL` where it is not the only one."""
        mine = self.epoch + warp
        before = states[index]
        several = (before > self.epoch) & (before != mine)
        states[index] = mine
        several |= states[index] != mine
        if several.any():
            states[index[several]] = self.epoch + _SEVERAL


def _bytes(at: Value, size: int) -> Value:
    return at[:, None] + np.arange(size)
