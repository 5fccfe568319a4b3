"""Products on the vector unit, for those so small that the arrays' fill and skew take longer."""

from __future__ import annotations

from math import prod

from pimc.backends.dma.timing import CopyTime
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.kernels.product_nest import ProductNest
from pimc.backends.kernels.vector_product import MOST_DEPTH, MOST_ROWS, VectorShape, halves
from pimc.backends.npu.extents import Side
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.tiles import move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.backends.target import NpuSpec
from pimc.record import record

NPU = VectorMachine("npu", "npu", lambda _: Vec, lambda _: VectorReduce, VectorScan)


MOST_CELLS = (1 << 17, 1 << 16)
"""Elements of a tile that memory needs longer for than its latency."""
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
    tiles: int
    again: int = 0
    """tiles that are asked for when all before them are done: the first ones of each stretch of columns"""

    def seconds(self, turns: int, latency: float) -> float:
        """Of so many products: the first tile comes, and the last is multiplied, by itself. A tile is asked for when
        the one before last has been multiplied."""
        around = (self.read + self.memory + self.tiles * latency) / SLOTS
        longer = max(self.passes, self.memory, around if turns * self.tiles > SLOTS else 0.0)
        longer += self.again * (latency + self.passes / self.tiles)
        return latency + turns * longer + max(0.0, self.memory + self.passes - longer) / self.tiles


def vector_work(
    npu: NpuSpec, nest: ProductNest, sides: tuple[Side | None, Side | None], element_bytes: int, copies: CopyTime
) -> VectorWork:
    """The fastest of the ways of `kernels/vector_product.py`. sides: how a and b lie in memory (None: on chip)."""
    m, n = (prod(x.count for x in axes) for axes in (nest.rows, nest.columns))
    depth = max(MOST_DEPTH, npu.vector.lanes)
    found: dict[tuple[float, int], VectorWork] = {}

    def moving(operand: int, rows: int, k: int) -> float:
        return move_seconds(copies, sides[operand], rows, k, element_bytes)[0]

    keeps = m <= MOST_ROWS and m * nest.depth * element_bytes <= KEPT
    rows = moving(0, m, nest.depth) if keeps else 0.0
    depths = (MOST_DEPTH, depth, *(max(1, cells // n) for cells in MOST_CELLS))
    for k in dict.fromkeys(chunk_of(nest.depth, most) for most in depths):
        for tile in dict.fromkeys((n, *(chunk_of(n, max(1, cells // k)) for cells in MOST_CELLS))):
            for across in (False, True):
                shape = VectorShape(tile, k, across, keeps)
                tiles = -(-n // tile) * -(-nest.depth // k)
                memory = tiles * moving(1, tile, k) + (rows if keeps else tiles * moving(0, m, k))
                multiplied, added = _clocks(npu, shape)
                passes = m * (multiplied + added)
                read = passes - (added if m == 1 else 0)  # rows are a loop, after which the tile is free
                again = -(-n // tile) if k < nest.depth and tile < n else 0
                work = VectorWork(
                    shape, tiles * passes / npu.clock, memory, tiles * read / npu.clock, tiles, again
                )  # fmt: skip
                found.setdefault((work.seconds(1, copies.latency), tiles), work)
    return found[min(found)]


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
        return command(shape.k, shape.n, "mul"), sum(command(rows, shape.n, "add") for rows in halves(shape.k)) + added
    sums = -(-shape.n // units) * tree_levels(shape.k, vector.lanes) * vector.tree + vector.latency - 1
    return command(shape.n, shape.k, "mul"), sums + added
