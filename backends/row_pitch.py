"""How far apart the rows of a matrix begin in DRAM."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pimc.backends.target import TargetSpec


def row_pitch(spec: TargetSpec, shape: Sequence[int], cell: int) -> int:
    """Bytes from one row to the next, of a tensor whose elements have `cell` bytes.

    Rows of so many bytes that they would all begin on the same few channels, from which a tile of some columns would
    come alone, are moved apart by `dma.row_gap`.
    """
    row = cell * prod(shape[-1:])
    if not row or spec.dma is None or spec.dma.channels == "hashed" or prod(shape[:-1]) < spec.dram.channels:
        return row
    together = row % (2 * spec.dram.row_bytes) == 0  # else rows take turns on all channels
    return row + spec.dma.row_gap if together else row
