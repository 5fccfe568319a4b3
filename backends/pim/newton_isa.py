"""The PIM commands of Newton and NeuPIMs, one stream a channel; activations, precharges and refreshes are derived.

A column is what one COMP takes: 16 elements. Results are one value for every bank of the channel, in the order of the
flat bank number. Global buffers and accumulators belong to the executing channel alone: no region tells of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, command, element_type, operand, row_number
from pimc.backends.pim.cells import (
    CELL_BYTES,
    COLUMN_BYTES,
    LANES,
    accumulated,
    accumulator,
    bank_rows,
    kept,
    vector_of,
)
from pimc.backends.state import DeviceState
from pimc.backends.vector import plain
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record


@record
class NewtonCommand(Command):
    """The base of all commands of this file; the channel is that of the executing stream."""

    unit: ClassVar[str] = "pim"


@command
@record
class GlobalWrite(NewtonCommand):
    """Columns of one bank's row into the channel's global buffer. The whole row is taken, however many are meant."""

    mnemonic: ClassVar[str] = "GWRITE"
    bank: Scalar = operand("the bank, over all ranks and bank groups")
    row: Scalar = row_number("the row")
    count: Scalar = operand("columns")
    column: Scalar = operand("first column of the row", 0)
    vector: Scalar = operand("first column of the global buffer", 0)
    dtype: DType = element_type("element type", DType.F16)

    def regions(self) -> Iterator[Region]:
        yield Region("row", self.row, 1, write=False)

    def execute(self, state: DeviceState) -> None:
        count = plain(self.count)
        cells = bank_rows(state, plain(self.row), plain(self.column) * COLUMN_BYTES, count * LANES, self.dtype)
        vector_of(state, plain(self.vector), count)[state.channel] = cells[state.channel, plain(self.bank)]


@command
@record
class Header(NewtonCommand):
    """Announce the work on a row, so that the controller closes the row before and keeps clear of a refresh."""

    mnemonic: ClassVar[str] = "HEADER"
    row: Scalar = row_number("the row that comes next")
    comps: Scalar = operand("COMPs of all results together")
    results: Scalar = operand("results that are read")

    def execute(self, state: DeviceState) -> None:
        """An announcement changes no values."""


@record
class RowWork(NewtonCommand):
    """COMPs on consecutive columns of a row."""

    row: Scalar = row_number("the row, in every bank")
    count: Scalar = operand("COMPs, one a column")
    column: Scalar = operand("first column of the row", 0)
    vector: Scalar = operand("first column of the global buffer", 0)

    def inputs(self) -> Iterator[Region]:
        yield Region("row", self.row, 1, write=False)

    def compute(self, state: DeviceState, old: Array, dtype: DType, sums: DType) -> Array:
        """The channel's accumulators [banks] after the COMPs."""
        count = plain(self.count)
        cells = bank_rows(state, plain(self.row), plain(self.column) * COLUMN_BYTES, count * LANES, dtype)
        vector = vector_of(state, plain(self.vector), count)[state.channel]
        return accumulated(state, old, cells[state.channel].astype(np.float32) * vector, sums)


@command
@record
class CompsReadResult(RowWork):
    """COMPs from cleared accumulators, and their results to the on-chip buffer, as one command (dual row buffers)."""

    mnemonic: ClassVar[str] = "COMPS_READRES"
    address: Scalar = address("result of bank 0", 0)
    banks: Scalar = operand("results", 32)
    dtype: DType = element_type("element type of the banks and results", DType.F16)
    sums: DType = element_type("element type of the accumulators", DType.F32)

    def regions(self) -> Iterator[Region]:
        yield from self.inputs()
        yield Region("buffer", self.address, plain(self.banks) * CELL_BYTES, write=True)

    def execute(self, state: DeviceState) -> None:
        total = self.compute(state, np.zeros(state.geometry.banks, np.float32), self.dtype, self.sums)
        _return(state, total, plain(self.address), plain(self.banks), self.dtype)


@command
@record
class Comp(RowWork):
    """COMPs that add to the accumulators (single row buffer)."""

    mnemonic: ClassVar[str] = "COMP"
    dtype: DType = element_type("element type of the banks", DType.F16)
    sums: DType = element_type("element type of the accumulators", DType.F32)

    def regions(self) -> Iterator[Region]:
        return self.inputs()

    def execute(self, state: DeviceState) -> None:
        held = accumulator(state, 0)
        held[state.channel] = self.compute(state, held[state.channel], self.dtype, self.sums)


@command
@record
class ReadResult(NewtonCommand):
    """The accumulators to the on-chip buffer; they are cleared (single row buffer)."""

    mnemonic: ClassVar[str] = "READRES"
    address: Scalar = address("result of bank 0")
    banks: Scalar = operand("results", 32)
    dtype: DType = element_type("element type of the results", DType.F16)

    def regions(self) -> Iterator[Region]:
        yield Region("buffer", self.address, plain(self.banks) * CELL_BYTES, write=True)

    def execute(self, state: DeviceState) -> None:
        held = accumulator(state, 0)[state.channel]
        _return(state, held, plain(self.address), plain(self.banks), self.dtype)
        held[:] = 0


def _return(state: DeviceState, values: Array, address: int, banks: int, dtype: DType) -> None:
    state.spaces["buffer"].write(address, ((banks, CELL_BYTES),), dtype, kept(state, values[:banks], dtype))


COMMANDS: tuple[type[Command], ...] = (GlobalWrite, Header, CompsReadResult, Comp, ReadResult)
