"""How a matrix product is cut into tiles, and how long they take to move."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pimc.backends.dma.timing import CopyTime
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.npu.extents import Side
from pimc.backends.npu.strips import Strips
from pimc.ir.layout import Digit
from pimc.record import record

DEEP = 4
"""Tiles on chip of small products that follow each other, which the latencies of memory and array would hold up."""

_MADE_AT_ONCE = 1 << 17
"""Elements of an operand that a prologue makes at a time, if rows are not longer."""


@record
class Tiles:
    """Tile extents; `t_outside`: the loop over tiles of t lies around that over s."""

    t: int
    s: int
    k: int
    t_outside: bool
    slots_outer: int
    slots: int
    """tiles of the inner operand and of the result that are on chip at a time"""
    seconds: float
    down: int = 1
    across: int = 1
    """arrays of a block, one under the other and side by side"""
    piece: int = 0
    """panels: rows (or columns) of the pieces in which the outer tile comes; 0: slabs. k: that of a layer"""
    kept: str = ""
    """slabs: t or s: the operand of which all of k comes at once"""
    early: int = 1
    """panels: of so many products the operands come in parts of k, each multiplied as it arrives"""
    compute: float = 0.0
    memory: float = 0.0
    """seconds of the arrays and of the transfers alone"""
    strips: Strips | None = None
    """slabs: how the last one comes; None: like all others"""
    deep: int = SLOTS
    """slabs: those of one product that are on chip at a time"""
    among: float = 0.0
    """seconds among other products: operands are there when they are needed, and the last results leave later"""

    @property
    def limit(self) -> str:
        return bound_of(self.seconds, self.compute, self.memory)

    @property
    def usual(self) -> float:
        """Seconds, as often by itself as among others."""
        return (self.seconds + self.among) / 2


def bound_of(seconds: float, compute: float, memory: float) -> str:
    """Which bound holds: that of the memory, of the arrays, or neither, where fill and latency take longer."""
    if seconds > 2 * max(compute, memory):
        return "latency"
    return "memory" if memory >= compute else "arrays"


Moved = tuple[float, float]
"""Seconds of a transfer by itself, and its share of the time of all buses."""

Limits = tuple[int, int, int]
"""The largest t, s and k of a tile."""


def made_at_once(rows: int, k: int) -> int:
    """How many of a tile's rows a prologue makes at a time."""
    return chunk_of(rows, max(1, _MADE_AT_ONCE // k))


def rather_whole(parts: int, part: float, whole: float) -> bool:
    """Whether the parts of a piece fall on so few channels each that they would take twice as long as all of it."""
    return parts * part > 2 * whole


@lru_cache(maxsize=65536)
def move_seconds(
    copies: CopyTime,
    side: Side | None,
    rows: int,
    columns: int,
    element_bytes: int,
    turns: int = 1,
    *,
    writes: bool = False,
) -> Moved:
    """How long a tile [rows, columns] of so many products takes from or to memory."""
    if side is None:
        return 0.0, 0.0
    digits = (*_inner(side.batch, turns), *_inner(side.rows, rows), *_inner(side.columns, columns))
    return copies.of(digits, element_bytes, turns * rows * columns, writes=writes)


def _inner(digits: tuple[Digit, ...], extent: int) -> Iterator[Digit]:
    """The digits of the first `extent` elements."""
    for count, stride in reversed(digits):
        if extent <= 1:
            return
        yield min(count, extent), stride
        extent //= count
