"""Products on the vector unit, for those so small that the arrays' fill and skew take longer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from pimc.backends.dma.timing import copy_time
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.kernels.product_nest import OUT, A, B
from pimc.backends.kernels.vector_product import MOST_DEPTH, MOST_ROWS, VectorShape, halves
from pimc.backends.npu.answers import Answers
from pimc.backends.npu.candidates import Room
from pimc.backends.npu.extents import Side
from pimc.backends.npu.isa import Vec, VectorReduce, VectorScan
from pimc.backends.npu.tiles import move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.backends.target import NpuSpec, TargetSpec
from pimc.by_identity import by_identity
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
class VectorProduct:
    """A product [m, k] x [k, n], as far as its time depends on it."""

    m: int
    n: int
    k: int
    sides: tuple[Side | None, Side | None, Side | None]
    """how a, b and the result lie in memory (None: on chip, or made there)"""
    element_bytes: tuple[int, int, int]
    a_on_chip: bool

    def multiplied(self, spec: TargetSpec) -> float:
        """Seconds of the products alone."""
        npu = spec.npu
        assert npu is not None
        each = npu.vector.lanes * npu.vector.units * npu.cores
        return self.m * self.n * self.k * npu.vector.cycles("mul") / each / npu.clock

    def soon(self, spec: TargetSpec) -> float:
        """Seconds that the vector unit takes at best: those of the products, or until b has come as one stream."""
        copies = copy_time(spec)
        streamed = 0.0 if self.sides[B] is None else copies.stream(self.n * self.k * self.element_bytes[B])
        return max(self.multiplied(spec), copies.latency + streamed)

    def read(self, spec: TargetSpec) -> float:
        """Seconds in which memory gives b at best, latency included."""
        return self.n * self.k * self.element_bytes[B] / spec.dram.bandwidth + copy_time(spec).latency


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
    spec: TargetSpec, product: VectorProduct, room: int, wanted: Callable[[VectorShape], int]
) -> VectorWork | None:
    """The fastest of the ways of `kernels/vector_product.py` that fit. wanted: bytes that tiles of a shape take."""
    npu = spec.npu
    assert npu is not None

    def find(room: Room) -> VectorWork | None:
        return _fastest(spec, npu, product, lambda shape: room.holds(wanted(shape)))

    return _answers(spec).of(product, room, find)


@by_identity
def _answers(spec: TargetSpec) -> Answers[VectorProduct, VectorWork | None]:
    return Answers()


def _fastest(
    spec: TargetSpec, npu: NpuSpec, product: VectorProduct, fits: Callable[[VectorShape], bool]
) -> VectorWork | None:
    copies, m, n, depth, element_bytes = copy_time(spec), product.m, product.n, product.k, product.element_bytes[B]
    best: tuple[float, int] | None = None
    found: VectorWork | None = None

    def moving(operand: int, rows: int, k: int) -> float:
        return move_seconds(copies, product.sides[operand], rows, k, element_bytes, writes=operand == OUT)[0]

    keeps = m <= MOST_ROWS and m * depth * element_bytes <= KEPT
    rows, leaving = moving(A, m, depth) if keeps else 0.0, moving(OUT, m, n)
    for tile, k in _tiles(n, depth, max(MOST_DEPTH, npu.vector.lanes)):
        tiles = -(-n // tile) * -(-depth // k)
        again = -(-n // tile) - 1 if k < depth else 0
        memory = 0.0
        for across in (False, True):
            shape = VectorShape(tile, k, across, keeps, SLOTS, depth % (k * SLOTS) > 0)
            multiplied, added = _clocks(npu, shape)
            passes = m * (multiplied + added) / npu.clock
            if best is not None and (tiles + again) * passes >= best[0]:
                continue
            read = passes - (added / npu.clock if m == 1 else 0.0)  # rows are a loop, after which the tile is free
            memory = memory or tiles * moving(B, tile, k) + (rows if keeps else tiles * moving(A, m, k))
            work = VectorWork(shape, tiles * passes, memory, tiles * read, leaving, tiles, again)
            if tiles <= FEW and work.around(copies.latency) > max(work.passes, memory):
                work = replace(work, shape=replace(shape, slots=DEEP, apart=depth % (k * DEEP) > 0))
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
