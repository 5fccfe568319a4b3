"""The memories of a simulated device, as numpy arrays.

Each space is a flat array of bytes. In the `device` format an element occupies its storage bytes at its address. In the
`wide` format every address is scaled by two, so that a 16-bit float's cell holds a float32 and the layout stays.
Floats come out as float32 and are rounded (and saturated) on the way in; integers and booleans are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimc.ir.blocks import NO_BLOCK, Window
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.layout import Digit, Layout
from pimc.ir.op import Array
from pimc.ir.quantized import PACKED, pack, unpack
from pimc.ir.types import DType
from pimc.record import record

WIDE_SCALE = 2


@record
class ValueFormat:
    """How elements are kept: `wide` widens 16-bit floats to float32, `device` keeps the machine's own types."""

    wide: bool

    @property
    def scale(self) -> int:
        return WIDE_SCALE if self.wide else 1

    def cell(self, dtype: DType) -> np.dtype[np.generic]:
        """The numpy type of one stored element."""
        if self.wide and dtype.is_float:
            return np.dtype(np.float32)
        return dtype.numpy


class Space:
    """One memory: `size` bytes of device storage, zero at first (untouched pages cost nothing)."""

    def __init__(self, name: str, size: int, form: ValueFormat) -> None:
        self.name = name
        self.size = size
        self.format = form
        self._maps: dict[int, tuple[Window, NDArray[np.int64]]] = {}
        """windows of paged caches by their first address, with the tables that are in force"""
        try:
            self._bytes = np.zeros(size * form.scale, np.uint8)
        except MemoryError:
            raise fail(
                Kind.CAPACITY,
                f"values of '{name}' need {size * form.scale / 2**30:.1f} GiB of memory here",
                help="run without --values, or a smaller model",
            ) from None

    # -- paged caches ---------------------------------------------------------------------------------------------

    def map(self, window: Window, table: Array) -> None:
        """Let the addresses of a window mean the blocks that a table names."""
        self._maps[window.start] = window, table.astype(np.int64)

    def unmap(self) -> None:
        """Forget all windows."""
        self._maps = {}

    def window_at(self, address: int) -> tuple[Window, NDArray[np.int64]] | None:
        """The window that an address lies in, with its table."""
        if address < self.size:
            return None
        return next((found for found in self._maps.values() if found[0].start <= address < found[0].end), None)

    def physical(self, addresses: NDArray[np.int64], *, first: int, strict: bool = False) -> NDArray[np.int64]:
        """The memory's own addresses; NO_BLOCK where a paged cache has no block. first: decides which window is meant.

        strict: Raises CompileError (PROGRAM_BAD) instead.
        """
        found = self.window_at(first)
        if found is None:
            return addresses
        window, table = found
        if addresses.size and (addresses.min() < window.start or addresses.max() >= window.end):
            raise fail(
                Kind.PROGRAM_BAD,
                f"bytes {addresses.min()} to {addresses.max()} are outside of the window {window.start} to "
                f"{window.end} of a paged cache",
            )
        there = window.physical(addresses, table)
        if strict and (there == NO_BLOCK).any():
            raise fail(Kind.PROGRAM_BAD, f"a command writes to a block of the window {window.start} that nobody has")
        return there

    def gathered(self, addresses: NDArray[np.int64], dtype: DType) -> Array:
        """Cells at physical addresses, zero where there is none; floats as float32."""
        cells = self._cells(dtype)[self._cell_numbers(np.maximum(addresses, 0), dtype)]
        values = np.where(addresses == NO_BLOCK, cells.dtype.type(0), cells)
        return values.astype(np.float32) if dtype.is_float else values

    def _scattered(self, addresses: NDArray[np.int64], dtype: DType, values: Array) -> None:
        """Write cells at physical addresses, but for those that are nowhere."""
        cells, held = self._cells(dtype), addresses != NO_BLOCK
        values = np.broadcast_to(rounded(values, cells.dtype), addresses.shape)
        cells[self._cell_numbers(addresses[held], dtype)] = values[held]

    def _cell_numbers(self, addresses: NDArray[np.int64], dtype: DType) -> NDArray[np.int64]:
        return addresses * self.format.scale // self.format.cell(dtype).itemsize

    # -- cells ----------------------------------------------------------------------------------------------------

    def view(self, address: int, digits: Sequence[Digit], dtype: DType) -> Array:
        """A writable strided window on the cells: one axis per digit (count, stride in device bytes)."""
        cell = self.format.cell(dtype)
        scale = self.format.scale
        low, high = address, address + max(1, dtype.bits // 8)
        for count, stride in digits:
            if not count:
                return np.empty([c for c, _ in digits], cell)
            if stride < 0:
                low += (count - 1) * stride
            else:
                high += (count - 1) * stride
        if low < 0 or high > self.size:
            raise fail(
                Kind.PROGRAM_BAD,
                f"bytes {low} to {high} are outside of '{self.name}', which has {self.size}",
            )
        counts, strides = [c for c, _ in digits], [s * scale for _, s in digits]
        return np.ndarray(counts, cell, self._bytes, address * scale, strides)

    def read(self, address: int, digits: Sequence[Digit], dtype: DType) -> Array:
        """A copy of the elements; floats as float32."""
        if self._maps and self.window_at(address) is not None:
            return self.gathered(self.physical(_addresses(address, digits), first=address), dtype)
        cells = self.view(address, digits, dtype)
        return cells.astype(np.float32) if dtype.is_float else cells.copy()

    def write(self, address: int, digits: Sequence[Digit], dtype: DType, values: Array) -> None:
        """Store `values` (broadcast to the digits), rounding and saturating floats to the cells' type."""
        if self._maps and self.window_at(address) is not None:
            addresses = self.physical(_addresses(address, digits), first=address, strict=True)
            self._scattered(addresses, dtype, values)
            return
        cells = self.view(address, digits, dtype)
        cells[...] = rounded(values, cells.dtype)

    def read_layout(self, layout: Layout, dtype: DType, shape: Sequence[int] | None = None) -> Array:
        """A tensor out of its layout; of a layout with room to spare, the front part of the given shape."""
        if dtype in PACKED:
            packed = self.read_layout(layout, DType.U8)
            return unpack(packed, dtype, (*layout.shape[:-1], 2 * layout.shape[-1]) if shape is None else tuple(shape))
        if shape is None or tuple(shape) == layout.shape:
            digits = [d for dim in layout.dims for d in dim]
            return self.read(layout.offset, digits, dtype).reshape(layout.shape)
        return self.gathered(self._places(layout, shape), dtype)

    def write_layout(self, layout: Layout, dtype: DType, values: Array) -> None:
        """Store a tensor, which may be smaller than a layout with room to spare; 4-bit elements two to a byte."""
        if dtype in PACKED:
            dtype, values = DType.U8, pack(values)
        if values.shape == layout.shape and self.window_at(layout.offset) is None:
            digits = [d for dim in layout.dims for d in dim]
            self.write(layout.offset, digits, dtype, values.reshape([c for c, _ in digits]))
            return
        self._scattered(self._places(layout, values.shape), dtype, values)

    def _cells(self, dtype: DType) -> Array:
        cell = self.format.cell(dtype)
        whole = self._bytes.size // cell.itemsize * cell.itemsize
        return self._bytes[:whole].view(cell)

    def _places(self, layout: Layout, shape: Sequence[int]) -> NDArray[np.int64]:
        addresses = layout.addresses()[tuple(slice(0, extent) for extent in shape)]
        return self.physical(addresses, first=layout.offset)


def _addresses(start: int, digits: Sequence[Digit]) -> NDArray[np.int64]:
    """The address of every element of a loop nest, one axis per digit."""
    return Layout(start, tuple((digit,) for digit in digits)).addresses()


def rounded(values: Array, cell: np.dtype[np.generic]) -> Array:
    """Values in the type of a cell: finite floats saturate at the largest finite one, infinities stay."""
    if cell.kind in "iub" or values.dtype.kind in "iub":
        return values.astype(cell)
    if cell.itemsize < values.dtype.itemsize:
        largest = _largest(cell)
        clipped = np.clip(values, -largest, largest)
        values = np.where(np.isinf(values), values, clipped)
    return values.astype(cell)


def _largest(cell: np.dtype[np.generic]) -> float:
    """The largest finite value of a floating type, those of ml_dtypes included."""
    import ml_dtypes

    return float(ml_dtypes.finfo(cell).max)  # type: ignore[no-untyped-call]  # ml_dtypes has no annotations


@dataclass
class DeviceState:
    """All memories of one device. `variables` holds what the executing stream knows of itself (device, channel)."""

    rank: int
    spaces: Mapping[str, Space]
    format: ValueFormat
    geometry: DramGeometry
    peers: Sequence[DeviceState] = ()
    channel: int = 0
    """The engine instance that executes the present command."""
    registers: dict[str, Array] = field(default_factory=dict)
    """What units hold between commands (stationary weights, accumulators), by name."""
    sent: dict[int, list[Array]] = field(default_factory=dict)
    """What has left for another machine, by the rank there, in order."""
    received: dict[int, list[Array]] = field(default_factory=dict)
    """What has come from another machine and was not taken yet, by the rank there, in order."""


@record
class DramGeometry:
    """How a flat address falls on the memory.

    address = ((row * banks + bank) * channels + channel) * row_bytes + byte
    """

    channels: int
    banks: int
    """banks of one channel, over all ranks and bank groups"""
    rows: int
    row_bytes: int

    @property
    def stride_channel(self) -> int:
        return self.row_bytes

    @property
    def stride_bank(self) -> int:
        return self.row_bytes * self.channels

    @property
    def stride_row(self) -> int:
        """Bytes of one row index over all banks of all channels."""
        return self.row_bytes * self.channels * self.banks

    @property
    def bytes(self) -> int:
        return self.stride_row * self.rows

    def address(self, channel: int, bank: int, row: int, byte: int = 0) -> int:
        return row * self.stride_row + bank * self.stride_bank + channel * self.stride_channel + byte
