"""Products with weights that lie in memory as low-bit integers.

Columns of the weight come on chip in chunks: their levels, scales and zero points are loaded, the vector unit writes
the values they stand for, and the product reads those. Memory gives no more than the packed bytes; while one chunk is
multiplied, the next is expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Protocol

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Scratch
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.nest import SLOTS, chunk_of, chunks, dense_strides
from pimc.backends.kernels.places import given, operand, place
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Layout
from pimc.ir.quantized import PACKED
from pimc.ir.types import DType
from pimc.record import record

CHUNK_SHARE = 2
"""One part in so many of a kernel's bytes holds chunks; the product works in the rest."""


class Product(Protocol):
    """`out = a @ b` for columns from `first` on, addresses moved by `moved` (of a, b and the result).

    False, and nothing is done, where that cannot be.
    """

    def __call__(
        self, at: Lowering, a: Tensor, b: Tensor, out: Tensor, *, moved: tuple[Scalar, Scalar, Scalar], first: Scalar
    ) -> bool: ...


@record
class Segment:
    """A regular part of one axis: `blocks` of `width` elements from `start`; `number` is that of the first block."""

    start: int
    blocks: int
    width: int
    number: int


def segments(extent: int, block: int) -> Iterator[Segment]:
    """An axis in whole blocks and the rest of one; one block where there are none."""
    if not block:
        yield Segment(0, 1, extent, 0)
        return
    whole, rest = divmod(extent, block)
    if whole:
        yield Segment(0, whole, block, 0)
    if rest:
        yield Segment(whole * block, 1, rest, whole)


@record
class QuantizedWeight:
    """The geometry of a quantized product's weight, before anything has a place."""

    rows: int
    columns: int
    dtype: DType
    transposed: bool
    axis: int
    block: int
    """elements along `axis` that share a scale; 0: each has its own, or all have one"""
    scale_shape: tuple[int, int]
    zero: float | None
    """the zero point, where all are the same; None: they lie in memory"""
    zero_packed: bool

    @staticmethod
    def of(node: Node) -> QuantizedWeight:
        levels, scale, zero = given(node, 1), given(node, 2), operand(node, 3)
        rows, columns = levels.type.static_shape
        axis, block = int(str(node.attribute("axis"))) % 2, int(str(node.attribute("block_size")))
        return QuantizedWeight(
            rows, columns, levels.type.dtype, bool(node.attribute("transposed")), axis,
            block if scale.type.elements > 1 else 0, _matrix_of(scale, axis), _uniform(zero),
            zero is not None and zero.type.dtype in PACKED,
        )  # fmt: skip

    @property
    def outputs(self) -> int:
        """Columns of the product."""
        return self.rows if self.transposed else self.columns

    @property
    def packed(self) -> bool:
        return self.dtype in PACKED

    @property
    def unit(self) -> int:
        """Chunks begin at multiples of so many columns of the product."""
        step = self.block or 1 if self.axis == (0 if self.transposed else 1) else 1
        if self.transposed:
            return step
        return step * 2 if self.packed or self.zero_packed else step

    def chunk(self, width: int) -> QuantizedWeight:
        """The part of the weight that makes `width` columns of the product."""
        rows, columns = (width, self.columns) if self.transposed else (self.rows, width)
        block = self.block or 1
        first, second = self.scale_shape
        if self.transposed and first > 1:
            first = -(-width // (block if self.axis == 0 else 1))
        elif not self.transposed and second > 1:
            second = -(-width // (block if self.axis == 1 else 1))
        return replace(self, rows=rows, columns=columns, scale_shape=(first, second))

    def line_bytes(self, packed: bool, columns: int) -> int:
        return -(-columns // 2) if packed else columns * max(1, self.dtype.bits // 8)

    def sizes(self, value_bytes: int) -> dict[str, int]:
        """Bytes on chip of this (chunk of a) weight, by what they hold."""
        parameters = prod(self.scale_shape)
        sizes = {
            "levels": self.rows * self.line_bytes(self.packed, self.columns),
            "scale": parameters * value_bytes,
            "values": self.rows * self.columns * value_bytes,
        }
        if self.zero is None:
            sizes["zero"] = self.scale_shape[0] * self.line_bytes(self.zero_packed, self.scale_shape[1])
            if self.zero_packed:
                sizes["whole zero"] = parameters
        return sizes

    def bytes(self, value_bytes: int) -> int:
        """Bytes on chip, all slots."""
        return SLOTS * sum(padded(n) for n in self.sizes(value_bytes).values())

    def width(self, room: int, value_bytes: int) -> int:
        """Columns of the product that a chunk in `room` bytes can make; 0: not even the fewest possible."""
        units = -(-self.outputs // self.unit)
        low, high = 0, units
        while low < high:
            middle = (low + high + 1) // 2
            if self.chunk(min(self.outputs, middle * self.unit)).bytes(value_bytes) <= room:
                low = middle
            else:
                high = middle - 1
        return min(self.outputs, chunk_of(units, low) * self.unit) if low else 0


def room_for_chunks(budget: int) -> int:
    """Bytes for chunks out of those that a kernel may hold; some of them go for a number on chip."""
    return budget // CHUNK_SHARE - padded(1)


def why_not(node: Node, budget: int, value_bytes: int) -> str:
    """Why a machine whose kernels may hold `budget` bytes cannot expand the weight as it reads it; empty if it can."""
    weight = QuantizedWeight.of(node)
    if weight.packed and weight.axis == 1 and weight.block % 2:
        return f"blocks of {weight.block} elements do not begin at whole bytes"
    if not weight.width(room_for_chunks(budget), value_bytes):
        return "its buffer cannot hold an expanded column of the weight"
    return ""


def lower_quantized(
    node: Node, at: Lowering, machine: VectorMachine, product: Product, out: Tensor | None = None
) -> bool:
    """The product of `quantized_matmul`, chunk by chunk of its columns, to its place or another one.

    False where that of a chunk could not be done; commands of some may have been emitted then.
    """
    return _Chunked(node, at, machine, product, out or place(at, node.result)).run()


class _Chunked:
    def __init__(self, node: Node, at: Lowering, machine: VectorMachine, product: Product, out: Tensor) -> None:
        self.at, self.machine, self.product = at, machine, product
        self.weight = QuantizedWeight.of(node)
        self.x, self.out = place(at, given(node, 0)), out
        self.sources = {"levels": at.tensor(given(node, 1)), "scale": at.tensor(given(node, 2))}
        zero = operand(node, 3)
        if self.weight.zero is None and zero is not None:
            self.sources["zero"] = at.tensor(zero)
        self.value = at.spec.storage_dtype
        arena = Arena(at)
        room = room_for_chunks(arena.size)
        self.width = self.weight.width(room, self.size)
        if not self.width:
            raise fail(Kind.CAPACITY, f"%{node.name}: no expanded column of its weight fits the on-chip buffer")
        self.one = Ref(arena.take(1), DType.F32, (0, 0))
        self.slots = [
            {name: arena.take(n) for name, n in self.weight.chunk(self.width).sizes(self.size).items()}
            for _ in range(SLOTS)
        ]
        inner = arena.left // 64 * 64
        self.inner = replace(at, scratch=Scratch(arena.take(inner), inner))

    @property
    def size(self) -> int:
        return self.value.bits // 8

    def run(self) -> bool:
        *_, last = self.out.layout.dims
        (_, step), *more = [d for d in last if d[0] > 1] or [(1, 0)]
        assert not more
        if self.weight.zero is None and self.weight.zero_packed:
            Lanes(self.at.emit, self.machine, None, (1, 1))("copy", 1.0, out=self.one)
        for start, width, slot in chunks(self.at.emit, self.weight.outputs, self.width, SLOTS):
            held = self.slots[slot]
            part = self.weight.chunk(width)
            self._load(part, start, held)
            self._expand(part, held)
            values = dense_strides((part.rows, part.columns), self.size)
            digits = [((n, stride),) for n, stride in zip((part.rows, part.columns), values, strict=True)]
            b = Tensor("buffer", Layout(held["values"], tuple(digits[::-1] if part.transposed else digits)), self.value)
            layout = self.out.layout.sliced(len(self.out.shape) - 1, 0, width)
            assert layout is not None
            out = replace(self.out, layout=layout)
            if not self.product(self.inner, self.x, b, out, moved=(0, 0, start * step), first=start):
                return False
        return True

    # -- on chip ----------------------------------------------------------------------------------------------------

    def _load(self, part: QuantizedWeight, start: Scalar, held: dict[str, int]) -> None:
        """The chunk's levels and parameters, each in dense rows."""
        for name, tensor in self.sources.items():
            packed = self.weight.packed if name == "levels" else name == "zero" and self.weight.zero_packed
            shape = (part.rows, part.columns) if name == "levels" else part.scale_shape
            counts = (shape[0], -(-shape[1] // 2) if packed else shape[1])
            far = self._strides(tensor, name)
            along = 0 if part.transposed else 1
            first = tensor.layout.offset + self._index(start, name, along, packed) * far[along]
            near = dense_strides(counts, tensor.element_bytes)
            dtype = _STORED.get(tensor.dtype, tensor.dtype)
            issue_copy(self.at.emit, (tensor.space, "buffer"), first, held[name], dtype, counts, far, near)

    def _strides(self, tensor: Tensor, name: str) -> tuple[int, int]:
        """Bytes from row to row and from column to column of a tensor seen as a matrix."""
        digits = [d for dim in tensor.layout.dims for d in dim]
        if name == "levels" or len(digits) == 2:
            assert len(digits) == 2
            return digits[0][1], digits[1][1]
        step = digits[0][1] if digits else 0
        return (step, 0) if self.weight.axis == 0 else (0, step)

    def _index(self, start: Scalar, name: str, along: int, packed: bool) -> Scalar:
        """Which row (or column) of a tensor belongs to column `start` of the product."""
        if name != "levels":
            if self.weight.scale_shape[along] == 1:
                return 0
            if self.weight.block and self.weight.axis == along:
                start = _divided(start, self.weight.block)
        return _divided(start, 2) if packed and along == 1 else start

    def _expand(self, part: QuantizedWeight, held: dict[str, int]) -> None:
        """Values in the place of levels, one command's grid for each regular part of the chunk."""
        zero = self._zero(part, held)
        row_block, column_block = (part.block if part.axis == axis else 0 for axis in range(2))
        for rows in segments(part.rows, row_block):
            for columns in segments(part.columns, column_block):
                for half in range(2 if part.packed else 1):
                    self._grid(part, held, zero, rows, columns, half)

    def _grid(
        self,
        part: QuantizedWeight,
        held: dict[str, int],
        zero: Ref | float,
        rows: Segment,
        columns: Segment,
        half: int,
    ) -> None:
        """(row blocks, rows, column blocks, columns); of packed columns every other one, from `half` on."""
        step = 2 if part.packed else 1
        count = (columns.width - half + step - 1) // step
        if not count:
            return
        cell = 1 if part.packed else part.dtype.bits // 8
        line = part.line_bytes(part.packed, part.columns)
        levels = Ref(
            held["levels"] + rows.start * line + columns.start // step * cell,
            _STORED.get(part.dtype, part.dtype),
            (rows.width * line, line, columns.width // step * cell, cell),
        )
        row = part.columns * self.size
        out = Ref(
            held["values"] + rows.start * row + (columns.start + half) * self.size,
            self.value,
            (rows.width * row, row, columns.width * self.size, step * self.size),
        )
        where = partial(self._parameter, part, rows=rows, columns=columns, half=half, step=step)
        lanes = Lanes(self.at.emit, self.machine, None, (rows.blocks, rows.width, columns.blocks, count))
        scale = where(held["scale"], self.value)
        offset: Source = where(zero.address, zero.dtype) if isinstance(zero, Ref) else zero
        lanes(_function(part.dtype, half), levels, scale, offset, out=out)

    @staticmethod
    def _parameter(
        part: QuantizedWeight, address: Scalar, dtype: DType, *, rows: Segment, columns: Segment, half: int, step: int
    ) -> Ref:
        """Scales or zero points, dense on chip, as the grid's elements see them."""
        size, (height, width) = dtype.bits // 8, part.scale_shape
        line = width * size
        if height == 1:
            by_row, first_row = (0, 0), 0
        elif part.block and part.axis == 0:
            by_row, first_row = (line, 0), rows.number
        else:
            by_row, first_row = (rows.width * line, line), rows.start
        if width == 1:
            by_column, first_column = (0, 0), 0
        elif part.block and part.axis == 1:
            by_column, first_column = (size, 0), columns.number
        else:
            by_column, first_column = (columns.width * size, step * size), columns.start + half
        return Ref(address + first_row * line + first_column * size, dtype, (*by_row, *by_column))

    def _zero(self, part: QuantizedWeight, held: dict[str, int]) -> Ref | float:
        """Zero points on chip, each in a byte of its own (or wider, as stored), or the one that all share."""
        if self.weight.zero is not None:
            return self.weight.zero
        stored = self.sources["zero"].dtype
        if not self.weight.zero_packed:
            return Ref(held["zero"], stored, ())
        height, width = part.scale_shape
        line = -(-width // 2)
        for half in range(2):
            count = (width - half + 1) // 2
            if count:
                source = Ref(held["zero"], _STORED[stored], (line, 1))
                out = Ref(held["whole zero"] + half, DType.I8, (width, 2))
                lanes = Lanes(self.at.emit, self.machine, None, (height, count))
                lanes(_function(stored, half), source, self.one, 0.0, out=out)
        return Ref(held["whole zero"], DType.I8, ())


_STORED = {DType.I4: DType.I8, DType.U4: DType.U8}
"""The element type in which vector commands read bytes that hold two elements."""


def _function(dtype: DType, half: int) -> str:
    if dtype not in PACKED:
        return "scale"
    if half:
        return "scale_high"
    return "scale_low_signed" if dtype is DType.I4 else "scale_low"


def _matrix_of(parameter: Value, axis: int) -> tuple[int, int]:
    """Rows and columns of a scale or zero point that is one number, a vector along `axis`, or a matrix of blocks."""
    shape = parameter.type.static_shape
    if len(shape) == 2:
        return shape[0], shape[1]
    count = prod(shape)
    return (count, 1) if axis == 0 else (1, count)


def _uniform(zero: Value | None) -> float | None:
    """The zero point that all elements share, if the compiler knows it."""
    if zero is None:
        return 0.0
    array = zero.type.array
    if array is None or array.size == 0 or np.any(array != array.reshape(-1)[0]):
        return None
    return float(array.reshape(-1)[0])


def _divided(scalar: Scalar, by: int) -> Scalar:
    """An exact quotient; chunks begin where it is one."""
    if by == 1:
        return scalar
    if isinstance(scalar, int):
        return scalar // by
    return replace(scalar, base=scalar.base // by, terms=tuple((v, c // by) for v, c in scalar.terms))
