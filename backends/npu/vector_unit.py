"""Products on the vector unit, for those so small that the arrays' fill and skew take longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod

from pimc.backends.dma.timing import CopyTime
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest
from pimc.backends.kernels.vector_product import MOST_DEPTH, MOST_ROWS, VectorShape, halves
from pimc.backends.npu.extents import Side
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.tiles import move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.backends.target import NpuSpec
from pimc.record import record

NPU = VectorMachine("npu", "npu", lambda _: Vec, lambda _: VectorReduce, VectorScan)


MOST_CELLS = (1 << 18, 1 << 17, 1 << 16, 1 << 15, 1 << 14)
"""Elements of a tile; memory needs longer for it than its latency."""
DEEP, FEW = 4, 128
"""So many tiles are on chip at a time where two would hold up the memory, and no more than so many come: of many,
larger ones take about the same time."""
KEPT = 1 << 16
"""Bytes of rows that come as a whole rather than with each tile."""


@record
class VectorWork:
    """What one product takes on the vector unit, and in how many tiles its operands come."""

    shape: VectorShape
    passes: float
    memory: float
    read: float
    """seconds; of the passes those until the last row has been multiplied with each tile"""
    leaving: float
    """seconds until the result is stored"""
    tiles: int
    again: int = 0
    """tiles that are asked for when all before them are done: the first of each further stretch of columns"""

    def seconds(self, turns: int, latency: float) -> float:
        """Of so many products: the first tile comes, and the last is multiplied, by itself. A tile is asked for when
        the one before in its slot has been multiplied."""
        longer = max(self.passes, self.memory)
        if turns * self.tiles > self.shape.slots:
            longer = max(longer, self.around(latency))
        longer += self.again * (latency + self.passes / self.tiles)
        return latency + turns * longer + max(0.0, self.memory + self.passes - longer) / self.tiles + self.leaving

    def around(self, latency: float) -> float:
        """Seconds of all tiles if each waits until its slot is free."""
        return (self.read + self.memory + self.tiles * latency) / self.shape.slots


def vector_work(
    npu: NpuSpec, nest: ProductNest, sides: Sequence[Side | None], element_bytes: int, copies: CopyTime,
    fits: Callable[[VectorShape], bool],
) -> VectorWork | None:  # fmt: skip
    """The fastest of the ways of `kernels/vector_product.py` that fit. sides: how a, b and the result lie in memory
    (None: on chip)."""
    m, n = (prod(x.count for x in axes) for axes in (nest.rows, nest.columns))
    best: tuple[float, int] | None = None
    found: VectorWork | None = None

    def moving(operand: int, rows: int, k: int) -> float:
        return move_seconds(copies, sides[operand], rows, k, element_bytes, writes=operand == OUT)[0]

    keeps = m <= MOST_ROWS and m * nest.depth * element_bytes <= KEPT
    rows, leaving = moving(A, m, nest.depth) if keeps else 0.0, moving(OUT, m, n)
    for tile, k in _tiles(n, nest.depth, max(MOST_DEPTH, npu.vector.lanes)):
        tiles = -(-n // tile) * -(-nest.depth // k)
        again = -(-n // tile) - 1 if k < nest.depth else 0
        memory = 0.0
        for across in (False, True):
            shape = VectorShape(tile, k, across, keeps, SLOTS, nest.depth % (k * SLOTS) > 0)
            multiplied, added = _clocks(npu, shape)
            passes = m * (multiplied + added) / npu.clock
            if best is not None and (tiles + again) * passes >= best[0]:
                continue
            read = passes - (added / npu.clock if m == 1 else 0.0)  # rows are a loop, after which the tile is free
            memory = memory or tiles * moving(B, tile, k) + (rows if keeps else tiles * moving(A, m, k))
            work = VectorWork(shape, tiles * passes, memory, tiles * read, leaving, tiles, again)
            if tiles <= FEW and work.around(copies.latency) > max(work.passes, memory):
                work = replace(work, shape=replace(shape, slots=DEEP, apart=nest.depth % (k * DEEP) > 0))
            score = work.seconds(1, copies.latency), tiles
            if (best is None or score < best) and fits(work.shape):
                best, found = score, work
    return found


def _tiles(n: int, depth: int, lanes: int) -> Iterator[tuple[int, int]]:
    """Extents of tiles to try: all columns and any k, or a part of them and enough k for the lanes."""
    deep = dict.fromkeys(chunk_of(depth, most) for most in (MOST_DEPTH, lanes))
    for k in deep | dict.fromkeys(chunk_of(depth, max(1, cells // n)) for cells in MOST_CELLS):
        yield n, k
    for k in deep:
        for tile in dict.fromkeys(
            chunk_of(n, max(1, most)) for most in (n // 2, *(cells // k for cells in MOST_CELLS))
        ):
            if tile < n:
                yield tile, k


def _clocks(npu: NpuSpec, shape: VectorShape) -> tuple[int, int]:
    """Of one row with one tile: products; their sums over k, and one addition."""
    vector = npu.vector
    units = vector.units * npu.cores

    def passes(rows: int, columns: int) -> int:
        return -(-rows * -(-columns // vector.lanes) // units)

    def command(rows: int, columns: int, function: str) -> int:
        return passes(rows, columns) * vector.cycles(function) + vector.latency - 1

    added = command(1, shape.n, "add")
    if shape.across:
        summed = sum(command(1, rows * shape.n, "add") for rows in halves(shape.k))  # they lie side by side
        return command(shape.k, shape.n, "mul"), summed + added
    sums = -(-shape.n // units) * tree_levels(shape.k, vector.lanes) * vector.tree + vector.latency - 1
    return command(shape.n, shape.k, "mul"), sums + added
