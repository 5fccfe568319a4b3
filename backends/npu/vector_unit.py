"""Products on the vector unit, for those so small that the arrays' fill and skew take longer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from pimc.backends.dma.timing import CopyTime
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import chunk_of
from pimc.backends.kernels.product_nest import ProductNest
from pimc.backends.kernels.vector_product import MOST_DEPTH, VectorShape
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.tiles import Side, move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.backends.target import NpuSpec

NPU = VectorMachine("npu", "npu", lambda _: Vec, lambda _: VectorReduce, VectorScan)


MOST_CELLS = 1 << 17
"""Elements of a tile that memory needs much longer for than its latency."""


@dataclass(frozen=True, slots=True)
class VectorWork:
    """What one product takes on the vector unit, and in how many tiles its operands come."""

    shape: VectorShape
    passes: float
    memory: float
    """seconds"""
    tiles: int

    def seconds(self, turns: int, latency: float) -> float:
        """Of so many products: the first tile comes, and the last is multiplied, by itself."""
        longer = max(self.passes, self.memory)
        return latency + turns * longer + (self.memory + self.passes - longer) / self.tiles


def vector_work(
    npu: NpuSpec, nest: ProductNest, sides: tuple[Side | None, Side | None], element_bytes: int, copies: CopyTime
) -> VectorWork:
    """The fastest of the ways of `kernels/vector_product.py`. sides: how a and b lie in memory (None: on chip)."""
    m, n = (prod(x.count for x in axes) for axes in (nest.rows, nest.columns))
    depth = max(MOST_DEPTH, npu.vector.lanes)
    found: dict[tuple[float, int], VectorWork] = {}
    for k in dict.fromkeys(chunk_of(nest.depth, most) for most in (MOST_DEPTH, depth, max(1, MOST_CELLS // n))):
        for tile in dict.fromkeys((n, chunk_of(n, max(1, MOST_CELLS // k)))):
            for across in (False, True):
                shape = VectorShape(tile, k, across)
                tiles = -(-n // tile) * -(-nest.depth // k)
                moves = ((sides[0], m), (sides[1], tile))
                memory = tiles * sum(move_seconds(copies, side, rows, k, element_bytes)[0] for side, rows in moves)
                work = VectorWork(shape, m * tiles * _clocks(npu, shape) / npu.clock, memory, tiles)
                found.setdefault((work.seconds(1, copies.latency), tiles), work)
    return found[min(found)]


def _clocks(npu: NpuSpec, shape: VectorShape) -> int:
    """Of one row with one tile: products, their sums over k, and one addition."""
    vector = npu.vector
    units = vector.units * npu.cores

    def passes(rows: int, columns: int) -> int:
        return -(-rows * -(-columns // vector.lanes) // units)

    added = passes(1, shape.n) * vector.cycles("add") + 3 * vector.latency
    if shape.across:
        halves = max(1, shape.k.bit_length() - 1)
        sums = (passes(shape.k - 1, shape.n) + halves) * vector.cycles("add") + halves * vector.latency
        return passes(shape.k, shape.n) * vector.cycles("mul") + sums + added
    sums = -(-shape.n // units) * tree_levels(shape.k, vector.lanes) * vector.tree
    return passes(shape.n, shape.k) * vector.cycles("mul") + sums + added
