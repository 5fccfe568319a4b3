"""Commands of the NPU core.

The arrays keep one block of the stationary operand [k, columns]; MATMUL streams rows of the other operand [rows, k]
through it and adds the products to the accumulators [rows, columns]. Which of weight and activation is stationary is
the compiler's choice: strides let either be read transposed. Where sums stay, MATMULOS streams both operands.

A block larger than one array lies on several, side by side; arrays that are left over share the stream (`array.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, choice, command, element_type, operand, real
from pimc.backends.state import DeviceState
from pimc.backends.vector import Elementwise, Reduce, Scan, grid_region, plain
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record

ACCUMULATOR_BYTES = 4


@command
@record
class Preload(Command):
    """Bring a block of the stationary operand into the array."""

    mnemonic: ClassVar[str] = "PRELOAD"
    unit: ClassVar[str] = "npu"
    src: Scalar = address("first element, in the buffer")
    dtype: DType = element_type("element type of the block")
    k: Scalar = operand("contracted extent; beyond the rows of an array the block lies on several")
    columns: Scalar = operand("columns; beyond those of an array the block lies on several")
    k_stride: Scalar = operand("bytes from one k to the next")
    column_stride: Scalar = operand("bytes from column to column")

    def regions(self) -> Iterator[Region]:
        yield grid_region(self.src, self.k, self.columns, self.k_stride, self.column_stride, self.dtype, write=False)

    def execute(self, state: DeviceState) -> None:
        digits = ((plain(self.k), plain(self.k_stride)), (plain(self.columns), plain(self.column_stride)))
        state.registers["stationary"] = state.spaces["buffer"].read(plain(self.src), digits, self.dtype)


@command
@record
class Matmul(Command):
    """Stream rows through the array; the products go to the accumulators."""

    mnemonic: ClassVar[str] = "MATMUL"
    unit: ClassVar[str] = "npu"
    src: Scalar = address("first element of the streamed rows, in the buffer")
    dtype: DType = element_type("element type of the streamed rows")
    rows: Scalar = operand("rows streamed")
    k: Scalar = operand("contracted extent, that of the block in the array")
    row_stride: Scalar = operand("bytes from row to row")
    k_stride: Scalar = operand("bytes from one k to the next")
    acc: Scalar = address("first accumulator; accumulators of a row are adjacent")
    columns: Scalar = operand("columns of the block in the array")
    acc_row: Scalar = operand("bytes from row to row of the accumulators")
    accumulate: Scalar = operand("0: the products replace what the accumulators held; otherwise they are added", 0)

    def regions(self) -> Iterator[Region]:
        yield grid_region(self.src, self.rows, self.k, self.row_stride, self.k_stride, self.dtype, write=False)
        yield self.accumulators(write=True)

    def accumulators(self, *, write: bool) -> Region:
        return _accumulators(self.acc, self.rows, self.columns, self.acc_row, write=write)

    def execute(self, state: DeviceState) -> None:
        digits = ((plain(self.rows), plain(self.row_stride)), (plain(self.k), plain(self.k_stride)))
        streamed = state.spaces["buffer"].read(plain(self.src), digits, self.dtype)
        block = state.registers["stationary"]
        if block.shape != (plain(self.k), plain(self.columns)):
            raise ValueError(f"MATMUL of [{self.rows}, {self.k}] with a stationary block of {block.shape}")
        _add_products(state, streamed, block, self.acc, self.acc_row, self.accumulate)


@command
@record
class MatmulOs(Command):
    """Stream both operands through the array, where the sums stay; then they go to the accumulators."""

    mnemonic: ClassVar[str] = "MATMULOS"
    unit: ClassVar[str] = "npu"
    a: Scalar = address("first element of the left operand, in the buffer")
    b: Scalar = address("first element of the right operand, in the buffer")
    dtype: DType = element_type("element type of both")
    rows: Scalar = operand("rows of the left operand; beyond those of an array the sums lie on several")
    columns: Scalar = operand("columns of the right operand; beyond those of an array the sums lie on several")
    k: Scalar = operand("contracted extent, streamed")
    a_row: Scalar = operand("bytes from row to row of the left operand")
    a_k: Scalar = operand("bytes from one k to the next of the left operand")
    b_column: Scalar = operand("bytes from column to column of the right operand")
    b_k: Scalar = operand("bytes from one k to the next of the right operand")
    acc: Scalar = address("first accumulator; accumulators of a row are adjacent")
    acc_row: Scalar = operand("bytes from row to row of the accumulators")
    accumulate: Scalar = operand("0: new sums begin; otherwise the stream goes on with those of the accumulators", 0)

    def regions(self) -> Iterator[Region]:
        yield grid_region(self.a, self.rows, self.k, self.a_row, self.a_k, self.dtype, write=False)
        yield grid_region(self.b, self.columns, self.k, self.b_column, self.b_k, self.dtype, write=False)
        yield _accumulators(self.acc, self.rows, self.columns, self.acc_row, write=True)

    def execute(self, state: DeviceState) -> None:
        k = plain(self.k)
        left = ((plain(self.rows), plain(self.a_row)), (k, plain(self.a_k)))
        right = ((k, plain(self.b_k)), (plain(self.columns), plain(self.b_column)))
        buffer = state.spaces["buffer"]
        a, b = buffer.read(plain(self.a), left, self.dtype), buffer.read(plain(self.b), right, self.dtype)
        _add_products(state, a, b, self.acc, self.acc_row, self.accumulate)


@command
@record
class Drain(Command):
    """Bring accumulators to the buffer through the vector unit: times `scale`, in the destination's element type."""

    mnemonic: ClassVar[str] = "DRAIN"
    unit: ClassVar[str] = "npu"
    acc: Scalar = address("first accumulator")
    rows: Scalar = operand("rows of accumulators")
    columns: Scalar = operand("columns of accumulators")
    acc_row: Scalar = operand("bytes from row to row of the accumulators")
    dst: Scalar = address("first result, in the buffer")
    dst_type: DType = element_type("element type of the results")
    dst_row: Scalar = operand("bytes from row to row of the results")
    dst_column: Scalar = operand("bytes from column to column of the results")
    scale: float = real("factor of every result", 1.0)

    def regions(self) -> Iterator[Region]:
        yield _accumulators(self.acc, self.rows, self.columns, self.acc_row, write=False)
        yield grid_region(self.dst, self.rows, self.columns, self.dst_row, self.dst_column, self.dst_type, write=True)

    def execute(self, state: DeviceState) -> None:
        held = ((plain(self.rows), plain(self.acc_row)), (plain(self.columns), ACCUMULATOR_BYTES))
        target = ((plain(self.rows), plain(self.dst_row)), (plain(self.columns), plain(self.dst_column)))
        with np.errstate(all="ignore"):
            values = state.spaces["acc"].read(plain(self.acc), held, DType.F32) * np.float32(self.scale)
            state.spaces["buffer"].write(plain(self.dst), target, self.dst_type, values)


@command
@record
class Fence(Command):
    """Hold the core until everything issued to it before, or to its vector unit, has completed.

    The array does not look at what the vector unit still writes: a fence lies before products of its results.
    """

    mnemonic: ClassVar[str] = "FENCE"
    unit: ClassVar[str] = "npu"
    of: str = choice("whose commands are waited for", ("all", "vector"), "all")

    def execute(self, state: DeviceState) -> None:
        """Order changes no values."""


def _add_products(state: DeviceState, a: Array, b: Array, acc: Scalar, acc_row: Scalar, accumulate: Scalar) -> None:
    """The products of two matrices replace accumulators, or are added to them."""
    held = ((a.shape[0], plain(acc_row)), (b.shape[1], ACCUMULATOR_BYTES))
    accumulators = state.spaces["acc"]
    with np.errstate(all="ignore"):
        products = a.astype(np.float32) @ b.astype(np.float32)
        if plain(accumulate):
            products = products + accumulators.read(plain(acc), held, DType.F32)
        accumulators.write(plain(acc), held, DType.F32, products)


def _accumulators(start: Scalar, rows: Scalar, columns: Scalar, row: Scalar, *, write: bool) -> Region:
    length = (plain(rows) - 1) * plain(row) + plain(columns) * ACCUMULATOR_BYTES
    return Region("acc", start, length, write)


@command
@record
class Vec(Elementwise):
    """An element-wise function on the vector unit."""

    mnemonic: ClassVar[str] = "VEC"
    unit: ClassVar[str] = "npu"


@command
@record
class VectorReduce(Reduce):
    """A reduction of each row on the vector unit."""

    mnemonic: ClassVar[str] = "VRED"
    unit: ClassVar[str] = "npu"


@command
@record
class VectorScan(Scan):
    """Running sums of each row on the vector unit."""

    mnemonic: ClassVar[str] = "VSCAN"
    unit: ClassVar[str] = "npu"
