"""Commands of the copy engines: strided copies, and gathering and scattering of rows by indices.

A copy walks a loop nest of up to eight digits on either side. Rows of a gather are found through the digits of the
indexed dimension, so that a table may lie in any layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import ClassVar

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, choice, command, element_type, integers, operand, row_number
from pimc.backends.state import DeviceState
from pimc.backends.vector import plain
from pimc.ir.blocks import ENTRY_BYTES, Blocks, Window
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.layout import Digit
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record

MAX_DIGITS = 8
"""Digits of a copy's loop nest."""


def nest_region(space: str, start: Scalar, digits: Sequence[Digit], dtype: DType, *, write: bool) -> Region:
    """The bytes between the first and the last element of a loop nest."""
    low, high = 0, dtype.bits // 8
    for count, stride in digits:
        step = (count - 1) * stride
        low, high = (low + step, high) if step < 0 else (low, high + step)
    return Region(space, start + low, high - low, write)


@record
class Copy(Command):
    """A strided copy of elements; subclasses say between which memories."""

    unit: ClassVar[str] = "dma"
    from_space: ClassVar[str]
    to_space: ClassVar[str]
    src: Scalar = address("first element read")
    dst: Scalar = address("first element written")
    dtype: DType = element_type("element type")
    counts: tuple[int, ...] = integers("turns of the loop nest, outermost first")
    src_strides: tuple[int, ...] = integers("bytes read on by each turn")
    dst_strides: tuple[int, ...] = integers("bytes written on by each turn")

    @property
    def elements(self) -> int:
        return prod(self.counts)

    @property
    def src_digits(self) -> tuple[Digit, ...]:
        return tuple(zip(self.counts, self.src_strides, strict=True))

    @property
    def dst_digits(self) -> tuple[Digit, ...]:
        return tuple(zip(self.counts, self.dst_strides, strict=True))

    def regions(self) -> Iterator[Region]:
        yield nest_region(self.from_space, self.src, self.src_digits, self.dtype, write=False)
        yield nest_region(self.to_space, self.dst, self.dst_digits, self.dtype, write=True)

    def execute(self, state: DeviceState) -> None:
        values = state.spaces[self.from_space].read(plain(self.src), self.src_digits, self.dtype)
        state.spaces[self.to_space].write(plain(self.dst), self.dst_digits, self.dtype, values)


@command
@record
class Load(Copy):
    """Copy elements from memory to the buffer."""

    mnemonic: ClassVar[str] = "LD"
    from_space: ClassVar[str] = "dram"
    to_space: ClassVar[str] = "buffer"


@command
@record
class Store(Copy):
    """Copy elements from the buffer to memory."""

    mnemonic: ClassVar[str] = "ST"
    from_space: ClassVar[str] = "buffer"
    to_space: ClassVar[str] = "dram"


@command
@record
class Move(Copy):
    """Copy elements within the buffer."""

    mnemonic: ClassVar[str] = "MV"
    from_space: ClassVar[str] = "buffer"
    to_space: ClassVar[str] = "buffer"


@command
@record
class LoadBlocks(Load):
    """Copy elements of a paged cache to the buffer: each block that the loop nest comes to is looked up in the map of
    its window (MAPBLOCKS). Zeros arrive of blocks that nobody has."""

    mnemonic: ClassVar[str] = "LDBLK"
    block: Scalar = operand("bytes of a block")


@command
@record
class StoreBlocks(Store):
    """Copy elements from the buffer to a paged cache, block by block as LDBLK does."""

    mnemonic: ClassVar[str] = "STBLK"
    block: Scalar = operand("bytes of a block")


@command
@record
class MapBlocks(Command):
    """Read a block table, and let the addresses of a window mean the blocks that it names.

    The window's blocks follow each other; entry i of the table says which block of the pool the i-th of them is. Copies
    and PIM commands that name addresses or rows of the window go through the map until it is read anew. Where channels
    hold requests of their own, each block has an entry for every one of them (lanes).
    """

    mnemonic: ClassVar[str] = "MAPBLOCKS"
    unit: ClassVar[str] = "dma"
    window: Scalar = address("first address of the window")
    pool: Scalar = address("first address of the pool")
    table: Scalar = address("first entry of the table (i32), in memory; -1: no block")
    blocks: Scalar = operand("blocks of the window")
    block: Scalar = operand("bytes of a block")
    lanes: Scalar = operand("entries of a block")
    lane_bytes: Scalar = operand("bytes that belong to one entry before those of the next come")
    lane_turn: Scalar = operand("bytes after which the first one's come again")

    @staticmethod
    def of(blocks: Blocks) -> MapBlocks:
        w = blocks.window
        return MapBlocks(
            w.start, w.pool, blocks.table, w.blocks, w.block_bytes, w.lanes, w.lane_bytes, w.lane_turn
        )  # fmt: skip

    @property
    def table_bytes(self) -> int:
        return plain(self.blocks) * plain(self.lanes) * ENTRY_BYTES

    def regions(self) -> Iterator[Region]:
        """Mapping counts as writing: what uses the window comes after it."""
        yield Region("dram", self.table, self.table_bytes, write=False)
        yield Region("dram", self.window, plain(self.blocks) * plain(self.block), write=True)

    def execute(self, state: DeviceState) -> None:
        memory = state.spaces["dram"]
        window = Window(
            plain(self.window), plain(self.blocks), plain(self.block), plain(self.pool), plain(self.lanes),
            plain(self.lane_bytes), plain(self.lane_turn),
        )  # fmt: skip
        memory.map(window, memory.read(plain(self.table), ((window.entries, ENTRY_BYTES),), DType.I32))


@record
class Indexed(Command):
    """Rows of a table chosen by indices that lie in the buffer. Negative indices count from the table's end."""

    unit: ClassVar[str] = "dma"
    space: str = choice("where the table lies", ("dram", "buffer"))
    table: Scalar = address("first element of the table")
    dtype: DType = element_type("element type of the table")
    axis_counts: tuple[int, ...] = integers("digits of the indexed dimension: counts, outermost first")
    axis_strides: tuple[int, ...] = integers("digits of the indexed dimension: strides in bytes")
    row_counts: tuple[int, ...] = integers("digits of a row: counts, outermost first")
    row_strides: tuple[int, ...] = integers("digits of a row: strides in bytes")
    indices: Scalar = address("first index, in the buffer")
    index_type: DType = element_type("element type of the indices")
    index_stride: Scalar = operand("bytes from index to index")
    count: Scalar = operand("how many indices")
    rows: Scalar = address("first of the dense rows in the buffer")
    row_stride: Scalar = operand("bytes from dense row to dense row")
    extent: Scalar = operand("valid indices are -extent to extent - 1")

    @property
    def row_digits(self) -> tuple[Digit, ...]:
        return tuple(zip(self.row_counts, self.row_strides, strict=True))

    @property
    def axis_digits(self) -> tuple[Digit, ...]:
        return tuple(zip(self.axis_counts, self.axis_strides, strict=True))

    @property
    def row_elements(self) -> int:
        return prod(self.row_counts)

    def table_region(self, *, write: bool) -> Region:
        return nest_region(self.space, self.table, (*self.axis_digits, *self.row_digits), self.dtype, write=write)

    def rows_region(self, *, write: bool) -> Region:
        digits = ((plain(self.count), plain(self.row_stride)), (self.row_elements, self.dtype.bits // 8))
        return nest_region("buffer", self.rows, digits, self.dtype, write=write)

    def index_region(self) -> Region:
        digits = ((plain(self.count), plain(self.index_stride)),)
        return nest_region("buffer", self.indices, digits, self.index_type, write=False)

    def row_address(self, index: int) -> int:
        """The address of the table's row `index`."""
        total = plain(self.table)
        for count, stride in reversed(self.axis_digits):
            index, digit = divmod(index, count)
            total += digit * stride
        return total

    def chosen(self, state: DeviceState) -> list[int]:
        """The indices, checked and counted from the front."""
        digits = ((plain(self.count), plain(self.index_stride)),)
        values: Array = state.spaces["buffer"].read(plain(self.indices), digits, self.index_type)
        extent = plain(self.extent)
        for index in values:
            if not -extent <= index < extent:
                raise fail(Kind.INPUT_BAD, f"index {index} is out of range for a dimension of {extent}")
        return [int(v) for v in np.where(values < 0, values + extent, values)]

    def dense_row(self, number: int) -> tuple[int, tuple[Digit, ...]]:
        """Address and digits of a dense row in the buffer."""
        digits: list[Digit] = []
        stride = self.dtype.bits // 8
        for count in reversed(self.row_counts):
            digits.append((count, stride))
            stride *= count
        return plain(self.rows) + number * plain(self.row_stride), tuple(reversed(digits))


@command
@record
class Gather(Indexed):
    """Copy chosen rows of a table to dense rows in the buffer."""

    mnemonic: ClassVar[str] = "GATHER"

    def regions(self) -> Iterator[Region]:
        yield self.index_region()
        yield self.table_region(write=False)
        yield self.rows_region(write=True)

    def execute(self, state: DeviceState) -> None:
        table = state.spaces[self.space]
        for number, index in enumerate(self.chosen(state)):
            values = table.read(self.row_address(index), self.row_digits, self.dtype)
            state.spaces["buffer"].write(*self.dense_row(number), self.dtype, values)


@command
@record
class Scatter(Indexed):
    """Copy dense rows in the buffer to chosen rows of a table, in order."""

    mnemonic: ClassVar[str] = "SCATTER"

    def regions(self) -> Iterator[Region]:
        yield self.index_region()
        yield self.rows_region(write=False)
        yield self.table_region(write=True)

    def execute(self, state: DeviceState) -> None:
        table = state.spaces[self.space]
        for number, index in enumerate(self.chosen(state)):
            values = state.spaces["buffer"].read(*self.dense_row(number), self.dtype)
            table.write(self.row_address(index), self.row_digits, self.dtype, values)


ROW_WINDOWS = "row windows"
"""The register that says which rows PIM commands find elsewhere: [first row, rows, offset] for each window."""


@command
@record
class MapRows(Command):
    """Let the rows of a window mean, for PIM commands, those of the part of a table that an index names.

    A table of equal parts (the matrices of experts) lies in consecutive rows. Commands that follow name rows of its
    first part; the controller adds `step` rows for each part before the chosen one, until the window is mapped anew.
    """

    mnemonic: ClassVar[str] = "MAPROWS"
    unit: ClassVar[str] = "dma"
    row: Scalar = row_number("first row of the window, where the first part of the table begins")
    rows: Scalar = operand("rows of the window")
    step: Scalar = operand("rows from part to part")
    index: Scalar = address("the index, in the buffer; a negative one counts from the end")
    index_type: DType = element_type("element type of the index")
    extent: Scalar = operand("parts of the table")

    def regions(self) -> Iterator[Region]:
        """Mapping counts as writing: what is multiplied with the rows comes after it, and before it is mapped again."""
        yield nest_region("buffer", self.index, (), self.index_type, write=False)
        yield Region("row", self.row, plain(self.rows), write=True)

    def execute(self, state: DeviceState) -> None:
        index = int(state.spaces["buffer"].read(plain(self.index), ((1, 0),), self.index_type)[0])
        extent = plain(self.extent)
        if not -extent <= index < extent:
            raise fail(Kind.INPUT_BAD, f"index {index} is out of range for a table of {extent} parts")
        window = [plain(self.row), plain(self.rows), index % extent * plain(self.step)]
        known = state.registers.get(ROW_WINDOWS, np.empty((0, 3), np.int64))
        others = known[known[:, 0] != window[0]]
        state.registers[ROW_WINDOWS] = np.concatenate([others, np.asarray([window], np.int64)])
