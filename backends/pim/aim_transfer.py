"""Getting vectors into AiM's global buffers, and accumulators out to where results belong.

Several vectors move at once, one for each share of channels: a `Lot` says where the first element of each lies, and how
far apart elements are. What is not on chip, or not as the commands need it, passes through scratch in two slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Protocol

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref, VectorMachine
from pimc.backends.kernels.nest import chunks, dense_strides
from pimc.backends.lowering import Lowering
from pimc.backends.pim.aim_isa import ReadMac, WriteBias, WriteGlobalBuffer
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.ir.layout import Digit
from pimc.ir.types import DType
from pimc.record import record

SLOTS = 2


@record
class Channels:
    """Which channels work together: a mask, of which each `share` neighbours have one vector."""

    mask: int
    share: int

    @property
    def shares(self) -> int:
        return self.mask.bit_count() // self.share

    @property
    def unit(self) -> int:
        """Results of one accumulator for one share."""
        return self.share * LANES


@record
class Lot:
    """Vectors in a memory: digits (count, stride) that lead from vector to vector, bytes from element to element."""

    space: str
    dtype: DType
    vectors: tuple[Digit, ...]
    element: int

    @property
    def stride(self) -> int | None:
        """Bytes from vector to vector where that is one number."""
        digits = [d for d in self.vectors if d[0] != 1]
        if not digits:
            return 0
        for (_, outer), (count, inner) in pairwise(digits):
            if outer != count * inner:
                return None
        return digits[-1][1]

    @property
    def is_ready(self) -> bool:
        """Whether PIM commands can reach it where it is."""
        stride = self.stride
        return self.space == "buffer" and self.element == CELL_BYTES and stride is not None and stride >= 0


def copy_lot(at: Lowering, lot: Lot, address: Scalar, near: Scalar, pitch: int, elements: int, *, out: bool) -> None:
    """Copy `elements` of every vector between the lot and dense rows, `pitch` bytes apart, in the buffer."""
    counts = (*(c for c, _ in lot.vectors), elements)
    far = (*(s for _, s in lot.vectors), lot.element)
    close = (*dense_strides(counts[:-1], pitch), CELL_BYTES)
    if out:
        issue_copy(at.emit, ("buffer", lot.space), near, address, lot.dtype, counts, close, far)
    else:
        issue_copy(at.emit, (lot.space, "buffer"), address, near, lot.dtype, counts, far, close)


class Room(Protocol):
    """Bytes of the on-chip buffer, handed out piece by piece."""

    def take(self, size: int) -> int:
        """The address of `size` bytes."""
        ...


class Feed:
    """Fills global buffers from a lot, times `scale`."""

    def __init__(
        self,
        at: Lowering,
        arena: Room,
        lot: Lot,
        channels: Channels,
        columns: int,
        *,
        ragged: bool,
        room: int,
        machine: VectorMachine | None = None,
        scale: float = 1.0,
    ) -> None:
        """columns: of a whole vector, as far as they are moved together; room: bytes of scratch to use.

        ragged: some vector ends inside a column. Zeros behind it meet padding in the banks: that must not be a NaN.
        """
        self.at, self.lot, self.channels = at, lot, channels
        self.machine, self.scale = machine, scale
        self.count = prod(c for c, _ in lot.vectors)
        self.is_direct = lot.is_ready and scale == 1.0
        self.piece = max(1, min(columns, room // (SLOTS * self.count * COLUMN_BYTES)))
        self.slots: list[int] = []
        if not self.is_direct:
            self.slots = [arena.take(self.count * self.piece * COLUMN_BYTES) for _ in range(SLOTS)]
        if ragged and at.spec.dma is not None:
            self.rest = arena.take(self.count * COLUMN_BYTES)
            clear(at, self.rest, self.count, lot.dtype)

    def fill(self, address: Scalar, elements: int, column: Scalar = 0) -> None:
        """Bring `elements` from `address` (of the first vector) into columns from `column` on, zeros behind them."""
        whole, rest = divmod(elements, LANES)
        if self.at.spec.dma is None and rest:  # what lies behind is room that the plan leaves, and meets zeros
            whole, rest = whole + 1, 0
        if self.is_direct and whole:
            self._write(whole, address, column, self.lot.stride or 0)
        elif whole:
            for start, count, slot in chunks(self.at.emit, whole, self.piece, SLOTS):
                near = self.slots[slot]
                self._bring(address + start * (LANES * self.lot.element), near, count * COLUMN_BYTES, count * LANES)
                self._write(count, near, column + start, count * COLUMN_BYTES)
        if rest:
            self._bring(address + whole * LANES * self.lot.element, self.rest, COLUMN_BYTES, rest)
            self._write(1, self.rest, column + whole, COLUMN_BYTES)

    def _write(self, count: int, address: Scalar, column: Scalar, stride: int) -> None:
        stride = stride if self.channels.shares > 1 else 0
        command = WriteGlobalBuffer(
            count, address, self.channels.mask, column, stride, self.channels.share, self.lot.dtype
        )
        self.at.emit.issue("pim", command)

    def _bring(self, address: Scalar, near: int, pitch: int, elements: int) -> None:
        copy_lot(self.at, self.lot, address, near, pitch, elements, out=False)
        if self.scale != 1.0:
            assert self.machine is not None
            grid = Ref(near, self.lot.dtype, (pitch, CELL_BYTES))
            Lanes(self.at.emit, self.machine, None, (self.count, elements))("mul", grid, self.scale, out=grid)


def clear(at: Lowering, address: int, columns: int, dtype: DType) -> None:
    """Zero columns of the buffer, by way of an accumulator."""
    most = at.spec.dram.channels
    for start in range(0, columns, most):
        mask = (1 << min(most, columns - start)) - 1
        at.emit.issue("pim", WriteBias(0, mask, "yes", dtype=dtype))
        at.emit.issue("pim", ReadMac(0, mask, address + start * COLUMN_BYTES, dtype=dtype))


class Drain:
    """Moves accumulators to a lot of results."""

    def __init__(self, at: Lowering, arena: Arena, lot: Lot, channels: Channels, units: int, *, room: int) -> None:
        """units: accumulators that hold neighbouring results, at most; room: bytes of scratch to use."""
        self.at, self.lot, self.channels = at, lot, channels
        size = channels.shares * channels.unit * CELL_BYTES
        self.piece = max(1, min(units, room // (SLOTS * size)))
        self.slots = [arena.take(size * self.piece) for _ in range(SLOTS)]

    def empty(self, register: Scalar, address: Scalar, elements: int) -> None:
        """Results of accumulators from `register` on to `address` (of the first vector), `elements` of each vector."""
        unit = self.channels.unit
        whole, rest = divmod(elements, unit)
        if self.at.spec.dma is None and rest:  # what goes beyond lands in room that the plan leaves, or is overwritten
            whole, rest = whole + 1, 0
        if self.lot.is_ready and whole:
            with self.at.emit.loop(whole) as i:
                self._read(register + i, address + i * (unit * CELL_BYTES), self.lot.stride or 0)
        elif whole:
            for start, count, slot in chunks(self.at.emit, whole, self.piece, SLOTS):
                pitch = count * unit * CELL_BYTES
                with self.at.emit.loop(count) as i:
                    self._read(register + start + i, self.slots[slot] + i * (unit * CELL_BYTES), pitch)
                there = address + start * (unit * self.lot.element)
                copy_lot(self.at, self.lot, there, self.slots[slot], pitch, count * unit, out=True)
        if rest:
            pitch = unit * CELL_BYTES
            self._read(register + whole, self.slots[0], pitch)
            copy_lot(self.at, self.lot, address + whole * unit * self.lot.element, self.slots[0], pitch, rest, out=True)

    def _read(self, register: Scalar, address: Scalar, stride: int) -> None:
        stride = stride if self.channels.shares > 1 else 0
        command = ReadMac(register, self.channels.mask, address, stride, self.channels.share, self.lot.dtype)
        self.at.emit.issue("pim", command)


def zero(at: Lowering, mask: int, registers: int, dtype: DType) -> None:
    """Clear accumulators 0 to registers - 1."""
    with at.emit.loop(registers) as i:
        at.emit.issue("pim", WriteBias(i, mask, "yes", dtype=dtype))


def mask_of(first: int, digits: Sequence[Digit]) -> int:
    """The channels that digits of channels reach."""
    channels = [first]
    for count, stride in digits:
        channels = [c + i * stride for c in channels for i in range(count)]
    return sum(1 << c for c in channels)


__all__ = ["Channels", "Drain", "Feed", "Lot", "clear", "copy_lot", "mask_of", "zero"]
