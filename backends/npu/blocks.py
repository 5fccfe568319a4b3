"""A product of two matrices on chip, block by block of the arrays, into the accumulators."""

from __future__ import annotations

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.nest import chunks
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Matmul, MatmulOs, Preload
from pimc.backends.npu.machine import Machine
from pimc.ir.types import DType
from pimc.record import record


@record
class Matrix:
    """A matrix on chip: address of its first element, and bytes from row to row and from k to k (or column to column).

    block: bytes from block to block of the arrays along k, for each k; another number than `column` where all rows of a
    block lie together. twin: bytes from there to a second such matrix; 0: there is none.
    """

    address: Scalar
    row: int
    column: int
    block: int = 0
    twin: int = 0

    def at(self, k: Scalar) -> Scalar:
        """The address of a k where a block begins."""
        return self.address + k * (self.block or self.column)

    def starting(self, address: Scalar) -> Matrix:
        """The same elsewhere."""
        return Matrix(address, self.row, self.column, self.block, self.twin)

    def rows_from(self, row: Scalar) -> Matrix:
        """Without the rows before this one."""
        return self.starting(self.address + row * self.row)

    @property
    def other(self) -> Matrix:
        """The second one, or what both products have in common."""
        return Matrix(self.address + self.twin, self.row, self.column, self.block)


@record
class Twin:
    """The right operand of a second product: bytes to it from the first, and to its op so many rows of the table."""

    away: int
    rows: int


@record
class Sums:
    """Accumulators of a product [rows, columns]: the first, and bytes from row to row; those of a row are adjacent.

    twin: bytes to those of a second product, which has one operand in common with the first; 0: there is none.
    """

    address: Scalar
    row: int
    twin: int = 0

    @property
    def other(self) -> Sums:
        return Sums(self.address + self.twin, self.row)

    def starting(self, address: Scalar) -> Sums:
        """The same elsewhere."""
        return Sums(address, self.row, self.twin)

    def at(self, row: Scalar, column: Scalar) -> Scalar:
        return self.address + row * self.row + column * ACCUMULATOR_BYTES


@record
class Blocks:
    """The arrays in a grid: `high` x `wide` of one block."""

    emit: Emitter
    machine: Machine
    dtype: DType
    high: int
    wide: int
    second: int = 0
    """rows of the op table to that of a second product"""

    @staticmethod
    def on(emit: Emitter, machine: Machine, dtype: DType, down: int, across: int, second: int = 0) -> Blocks:
        """On a grid of so many arrays one under the other and side by side."""
        return Blocks(emit, machine, dtype, *machine.block(down, across), second)

    def multiply(
        self, t: Matrix, s: Matrix, rows: int, columns: int, k: int, sums: Sums, added: Scalar = 0, *,
        loaded: bool = False,
    ) -> None:  # fmt: skip
        """`sums[rows, columns] = t[rows, k] @ s[columns, k].T`, or added to them unless `added` is 0.

        loaded: s is one block, which the arrays have from the product before.
        """
        if loaded:
            self._stream(t, rows, k, columns, sums, added)
            return
        block = self._sums_of_block if self.machine.sums_stay else self._stream_past
        for first, width, _ in chunks(self.emit, columns, self.wide):
            block(t, s.rows_from(first), rows, width, k, sums.starting(sums.at(0, first)), added)
        if sums.twin:
            with self.emit.of_op(self.second):
                self.multiply(t.other, s.other, rows, columns, k, sums.other, added)

    def _stream_past(self, t: Matrix, s: Matrix, rows: int, width: int, k: int, sums: Sums, added: Scalar) -> None:
        """Blocks of the stationary operand, one k after the other, and all rows past each."""
        for start, depth, _ in chunks(self.emit, k, self.high):
            preload = Preload(
                src=s.at(start), dtype=self.dtype, k=depth, columns=width, k_stride=s.column,
                column_stride=s.row,
            )  # fmt: skip
            self.emit.issue("npu", preload)
            self._stream(t.starting(t.at(start)), rows, depth, width, sums, added + start)

    def _stream(self, t: Matrix, rows: int, depth: int, width: int, sums: Sums, added: Scalar) -> None:
        """All rows past the block that is loaded."""
        array = self.machine.array
        longest = array.most(depth, width) or rows
        for row, length, _ in chunks(self.emit, rows, longest):
            matmul = Matmul(
                src=t.address + row * t.row, dtype=self.dtype, rows=length, k=depth, row_stride=t.row,
                k_stride=t.column, acc=sums.at(row, 0), columns=width, acc_row=sums.row, accumulate=added,
            )  # fmt: skip
            self.emit.issue("npu", matmul)

    def _sums_of_block(self, t: Matrix, s: Matrix, rows: int, width: int, k: int, sums: Sums, added: Scalar) -> None:
        """Blocks of sums, one after the other, and all k past each."""
        for row, height, _ in chunks(self.emit, rows, self.high):
            matmul = MatmulOs(
                a=t.address + row * t.row, b=s.address, dtype=self.dtype, rows=height, columns=width, k=k, a_row=t.row,
                a_k=t.column, b_column=s.row, b_k=s.column, acc=sums.at(row, 0), acc_row=sums.row, accumulate=added,
            )  # fmt: skip
            self.emit.issue("npu", matmul)
