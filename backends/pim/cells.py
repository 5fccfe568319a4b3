"""What PIM commands of both styles do to values: bank rows, global buffers and accumulators as arrays over channels.

Registers are float32 arrays that hold values of the machine's own types: `gb` [channels, elements of a row], one
`mac<r>` [channels, banks] for each accumulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pimc.backends.dma.isa import ROW_WINDOWS
from pimc.backends.state import DeviceState, DramGeometry, Space, rounded
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.layout import Digit, Layout
from pimc.ir.op import Array
from pimc.ir.types import DType

LANES = 16
"""Elements that one column access brings to a bank's multipliers."""
CELL_BYTES = 2
"""Bytes of one stored float."""
COLUMN_BYTES = LANES * CELL_BYTES


@lru_cache(maxsize=256)
def channels_of(mask: int) -> tuple[int, ...]:
    """The channels of a mask, lowest first."""
    return tuple(k for k in range(mask.bit_length()) if mask >> k & 1)


def span_of(mask: int) -> tuple[int, int]:
    """The first channel of a mask and how many it names."""
    return (mask & -mask).bit_length() - 1, mask.bit_count()


def bank_rows(state: DeviceState, row: int, byte: int, elements: int, dtype: DType) -> Array:
    """A window [channels, banks, elements] on the same bytes of a row in every bank; writable where it is not paged."""
    geometry = state.geometry
    row = mapped(state, row)
    if byte < 0 or byte + elements * CELL_BYTES > geometry.row_bytes:
        raise fail(
            Kind.PROGRAM_BAD,
            f"bytes {byte} to {byte + elements * CELL_BYTES} are outside of a row, which has {geometry.row_bytes}",
        )
    digits = (
        (geometry.channels, geometry.stride_channel),
        (geometry.banks, geometry.stride_bank),
        (elements, CELL_BYTES),
    )
    memory, first = state.spaces["dram"], geometry.address(0, 0, row, byte)
    if memory.window_at(geometry.address(geometry.channels - 1, 0, row)) is not None:
        return _paged_rows(memory, geometry, row, digits, byte, dtype)
    return memory.view(first, digits, dtype)


def _paged_rows(
    memory: Space, geometry: DramGeometry, row: int, digits: Sequence[Digit], byte: int, dtype: DType
) -> Array:
    """What every bank of every channel has of a row of a paged cache, which is another row there; read only."""
    last = geometry.address(geometry.channels - 1, 0, row)
    found = memory.window_at(last)
    assert found is not None
    addresses = Layout(geometry.address(0, 0, row, byte), tuple((d,) for d in digits)).addresses()
    inside = np.clip(addresses, found[0].start, found[0].end - 1)  # channels beside those of the window have no part
    values = memory.gathered(memory.physical(inside, first=last), dtype)
    values.flags.writeable = False
    return values


def mapped(state: DeviceState, row: int) -> int:
    """The row that a command means, where a window is mapped elsewhere (MAPROWS)."""
    windows = state.registers.get(ROW_WINDOWS)
    if windows is None:
        return row
    found = windows[(windows[:, 0] <= row) & (row < windows[:, 0] + windows[:, 1])]
    return row + int(found[0, 2]) if len(found) else row


def global_buffer(state: DeviceState) -> Array:
    """The global buffers of all channels, [channels, elements]."""
    geometry = state.geometry
    return _register(state, "gb", (geometry.channels, geometry.row_bytes // CELL_BYTES))


def accumulator(state: DeviceState, number: int) -> Array:
    """One accumulator of all banks, [channels, banks]."""
    return _register(state, f"mac{number}", (state.geometry.channels, state.geometry.banks))


def activated(state: DeviceState) -> Array:
    """The activation registers, [channels, banks]."""
    return _register(state, "af", (state.geometry.channels, state.geometry.banks))


def _register(state: DeviceState, name: str, shape: tuple[int, ...]) -> Array:
    held = state.registers.get(name)
    if held is None:
        held = state.registers[name] = np.zeros(shape, np.float32)
    return held


def vector_of(state: DeviceState, column: int, columns: int) -> Array:
    """A stretch of the global buffers, [channels, elements]."""
    held = global_buffer(state)
    if column < 0 or (column + columns) * LANES > held.shape[1]:
        raise fail(
            Kind.PROGRAM_BAD,
            f"columns {column} to {column + columns} are outside of the global buffer of {held.shape[1] // LANES}",
        )
    return held[:, column * LANES : (column + columns) * LANES]


def kept(state: DeviceState, values: Array, dtype: DType) -> Array:
    """Values as a register of that type holds them (float32 arrays in both formats)."""
    cell = state.format.cell(dtype)
    return values if cell == np.float32 else rounded(values, cell).astype(np.float32)


def accumulated(state: DeviceState, old: Array, products: Array, sums: DType) -> Array:
    """`old` [...] plus products [..., elements]: each column's products are summed, then added to the register.

    A register narrower than float32 rounds after every column.
    """
    if state.format.wide or sums.bits >= 32:
        total: Array = old + products.sum(-1, dtype=np.float32)
        return total
    columns = products.reshape(*products.shape[:-1], -1, LANES).sum(-1, dtype=np.float32)
    for turn in range(columns.shape[-1]):
        old = kept(state, old + columns[..., turn], sums)
    return old
