"""Matrix products without a matrix unit: multiply rows, and reduce them.

For every row of `a`, the products with a tile [n, k] of `b` are written to a grid and each of its rows is summed; or
they are written to a grid [k, n], whose rows are added up by halves, where n fills the lanes better. Slow, but any
machine with vector commands can do it; products worth their name run on arrays or in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, VectorMachine
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, chunk_of, dense_strides, rotating, tilings, walk
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest, product_nests
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.types import DType
from pimc.record import record

MOST_ROWS = 16
MOST_DEPTH = 512
"""Tile extents beyond which nothing is gained."""


@record
class VectorShape:
    """Extents of a tile [n, k] of `b`, whether n (`across`) or k runs along the lanes, and how `a` comes."""

    n: int
    k: int
    across: bool = False
    keeps: bool = False
    """whether the rows of `a` come once, with all of k"""
    slots: int = SLOTS
    """tiles that are on chip at a time"""
    apart: bool = False
    """whether tiles that are left over after a loop over slots have others: they need not wait until it is over"""

    @property
    def places(self) -> int:
        return self.slots * (2 if self.apart else 1)


def halves(rows: int) -> Iterator[int]:
    """How many of so many rows are added to others, until one is left."""
    while rows > 1:
        yield rows // 2
        rows -= rows // 2


def contract_on(machine: VectorMachine, at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int,
                n: int, k: int, scale: float = 1.0, moved: Sequence[Scalar] = (0, 0, 0)) -> None:  # fmt: skip
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]` on vector units."""
    for nest in product_nests(a, b, out, batch, m, n, k, moved):
        RowProducts(machine, at, (a, b, out), nest, scale).run()


@dataclass
class RowProducts:
    machine: VectorMachine
    at: Lowering
    tensors: tuple[Tensor, Tensor, Tensor]
    nest: ProductNest
    scale: float
    shape: VectorShape | None = None

    @property
    def wanted(self) -> int:
        """Bytes on chip of tiles of the shape."""
        assert self.shape is not None
        m = chunk_of(prod(x.count for x in self.nest.rows), MOST_ROWS)
        return self._bytes(m, self.shape.n, self.shape.k)

    def run(self) -> None:
        self.arena = Arena(self.at)
        self.m, self.n, self.k = self._extents()
        self._take()
        for starts, slot in walk(self.at.emit, Nest(self.nest.starts, tuple(self.nest.batch)), SLOTS):
            self._batch(starts, slot)

    def _extents(self) -> tuple[int, int, int]:
        """Tile extents that fit."""
        m = chunk_of(prod(x.count for x in self.nest.rows), MOST_ROWS)
        n, k = prod(x.count for x in self.nest.columns), chunk_of(self.nest.depth, MOST_DEPTH)
        if self.shape is not None:
            n, k = self.shape.n, self.shape.k
        while self._bytes(m, n, k) > self.arena.size:
            if n > 1:
                n = chunk_of(n, n // 2)
            elif m > 1:
                m = chunk_of(m, m // 2)
            elif k > 1:
                k = chunk_of(k, k // 2)
            else:
                raise fail(Kind.CAPACITY, f"not even single products fit {self.arena.size} bytes of on-chip scratch")
        return m, n, k

    @property
    def work(self) -> DType:
        """The type of products and sums."""
        return DType.F32 if self.tensors[A].dtype.is_float else DType.I64

    def _sizes(self, m: int, n: int, k: int) -> list[int]:
        size, wide = self.tensors[A].element_bytes, self.work.bits // 8
        out = self.tensors[OUT].element_bytes
        return (
            ([m * self.nest.depth * size] * SLOTS if self._keeps(m) else [m * k * size] * self._places)
            + [n * k * size] * self._places
            + [m * n * out] * SLOTS
            + [n * k * wide, m * n * wide, n * wide]
        )

    @property
    def _slots(self) -> int:
        return SLOTS if self.shape is None else self.shape.slots

    @property
    def _places(self) -> int:
        return SLOTS if self.shape is None else self.shape.places

    def _keeps(self, m: int) -> bool:
        """Whether tiles of so many rows are all rows, which come once."""
        kept = self.shape is not None and self.shape.keeps and not self.tensors[A].on_chip
        return kept and m == prod(x.count for x in self.nest.rows)

    def _bytes(self, m: int, n: int, k: int) -> int:
        return sum(padded(size) for size in self._sizes(m, n, k))

    def _take(self) -> None:
        taken = iter([self.arena.take(size) for size in self._sizes(self.m, self.n, self.k)])
        counts = {A: SLOTS if self._keeps(self.m) else self._places, B: self._places, OUT: SLOTS}
        self.slots = {operand: list(islice(taken, count)) for operand, count in counts.items()}
        self.grid, self.sums, self.part = taken

    def _batch(self, starts: Sequence[Scalar], turn: int) -> None:
        """One product; `turn` alternates, as tiles do, so that neighbours use different slots."""
        kept = self.slots[A][turn] if self._keeps(self.m) else None
        if kept is not None:
            self._bring_rows(starts[A], kept)
        for columns, column_at, column_slot in self._tiles(self.nest.columns, B, self.n):
            for rows, row_at, row_slot in self._tiles(self.nest.rows, A, self.m):
                moved = (starts[A] + row_at[0], starts[B] + column_at[0], starts[OUT] + row_at[1] + column_at[1])
                self._tile(rows, columns, moved, (turn + column_slot + row_slot) % SLOTS, kept)

    def _tiles(self, axes: Sequence[Axis], operand: int, size: int) -> Iterator[tuple[Tiling, tuple[Scalar, ...], int]]:
        nest = Nest((0, 0), tuple(replace(x, strides=(x.strides[operand], x.strides[OUT])) for x in axes)).merged()
        for tiling in tilings(nest, size):
            for starts, slot in walk(self.at.emit, tiling.outer, SLOTS):
                yield tiling, starts, slot

    def _bring_rows(self, start: Scalar, held: int) -> None:
        """All rows of `a`, one k after the other."""
        tensor, size, done = self.tensors[A], self.tensors[A].element_bytes, 0
        for moves, axes in self.nest.contracted:
            rows = self.nest.rows
            counts = [x.count for x in (*rows, *axes)]
            far = [x.strides[A] for x in (*rows, *axes)]
            near = [
                *dense_strides([x.count for x in rows], self.nest.depth * size),
                *dense_strides([x.count for x in axes], size),
            ]
            place = (tensor.space, "buffer")
            issue_copy(self.at.emit, place, start + moves[A], held + done * size, tensor.dtype, counts, far, near)
            done += prod(x.count for x in axes)

    def _tile(
        self, rows: Tiling, columns: Tiling, starts: tuple[Scalar, Scalar, Scalar], turn: int, kept: int | None = None
    ) -> None:
        """A tile of the result. kept: where all rows of `a` are on chip."""
        m, n, wide = rows.elements, columns.elements, self.work.bits // 8
        lanes = self._lanes(m, n)
        sums = Ref(self.sums, self.work, dense_strides((m, n), wide))
        lanes("copy", 0.0, out=sums)
        size, done = self.tensors[A].element_bytes, 0
        for moves, axes in self.nest.contracted:
            near = dense_strides([x.count for x in axes], size)  # where k lie side by side
            strides = [(*x.strides[:OUT], step) for x, step in zip(axes, near, strict=True)]
            own = [replace(x, strides=moved) for x, moved in zip(axes, strides, strict=True)]
            part = Nest((moves[A], moves[B], done), tuple(own)).merged()
            done += prod(x.count for x in axes) * size
            for tiling, at, slot in self._depths(part, turn):
                if kept is None:
                    a = self._bring(A, rows, tiling, starts[A] + at[A], slot)
                else:
                    a = Ref(kept + at[OUT], self.tensors[A].dtype, (self.nest.depth * size, size))
                b = self._bring(B, columns, tiling, starts[B] + at[B], slot)
                self._accumulate(a, b, m, n, tiling.elements)
        self._finish(rows, columns, starts[OUT], sums, turn)

    def _depths(self, part: Nest, turn: int) -> Iterator[tuple[Tiling, tuple[Scalar, ...], int]]:
        """Tiles of a nest of k: each with where it begins, and its slot."""
        own = self._places > self._slots
        turns = rotating if own else walk
        for number, tiling in enumerate(tilings(part, self.k)):
            for at, slot in turns(self.at.emit, tiling.outer, self._slots):
                if own and number:  # the rest
                    slot = self._places - 1
                yield tiling, at, slot if slot >= self._slots else (turn + slot) % self._slots

    def _accumulate(self, a: Ref, b: Ref, m: int, n: int, k: int) -> None:
        if self.shape is not None and self.shape.across:
            self._accumulate_across(a, b, m, n, k)
            return
        wide = self.work.bits // 8
        grid = Ref(self.grid, self.work, dense_strides((n, k), wide))
        part = Ref(self.part, self.work, (wide,))
        by_k = self._lanes(n, k)
        by_n = self._lanes(n)
        with self.at.emit.loop(m) as i:
            row = Ref(a.address + i * a.strides[0], a.dtype, (0, a.strides[1]))
            by_k("mul", row, b, out=grid)
            by_k.reduce("sum", grid, part)
            total = Ref(self.sums + i * (n * wide), self.work, (wide,))
            by_n("add", total, part, out=total)

    def _accumulate_across(self, a: Ref, b: Ref, m: int, n: int, k: int) -> None:
        wide = self.work.bits // 8
        grid = Ref(self.grid, self.work, dense_strides((k, n), wide))
        turned = replace(b, strides=b.strides[::-1])
        with self.at.emit.loop(m) as i:
            row = Ref(a.address + i * a.strides[0], a.dtype, (a.strides[1], 0))
            self._lanes(k, n)("mul", row, turned, out=grid)
            left = k
            for half in halves(k):
                left -= half
                self._lanes(half, n)("add", grid, replace(grid, address=self.grid + left * n * wide), out=grid)
            total = Ref(self.sums + i * (n * wide), self.work, (wide,))
            self._lanes(n)("add", total, replace(grid, strides=(wide,)), out=total)

    def _lanes(self, *counts: int) -> Lanes:
        return Lanes(self.at.emit, self.machine, None, counts)

    def _bring(self, operand: int, tile: Tiling, depth: Tiling, start: Scalar, slot: int) -> Ref:
        """A tile [rows, k] on chip."""
        tensor = self.tensors[operand]
        if tensor.on_chip and len(tile.tile) <= 1 and len(depth.tile) <= 1:
            row = tile.tile[0].strides[0] if tile.tile else 0
            return Ref(start, tensor.dtype, (row, depth.tile[0].strides[operand] if depth.tile else 0))
        size, k = tensor.element_bytes, depth.elements
        held = self.slots[operand][slot]
        counts = [*(x.count for x in tile.tile), *(x.count for x in depth.tile)]
        far = [*(x.strides[0] for x in tile.tile), *(x.strides[operand] for x in depth.tile)]
        near = dense_strides(counts, size)
        issue_copy(self.at.emit, (tensor.space, "buffer"), start, held, tensor.dtype, counts, far, near)
        return Ref(held, tensor.dtype, (k * size, size))

    def _finish(self, rows: Tiling, columns: Tiling, start: Scalar, sums: Ref, slot: int) -> None:
        """Sums to the result's place: at once, if commands can address it there."""
        out, m, n = self.tensors[OUT], rows.elements, columns.elements
        counts = [*(x.count for x in rows.tile), *(x.count for x in columns.tile)]
        far = [*(x.strides[1] for x in rows.tile), *(x.strides[1] for x in columns.tile)]
        direct = out.on_chip and len(rows.tile) <= 1 and len(columns.tile) <= 1
        tile = Ref(self.slots[OUT][slot], out.dtype, dense_strides((m, n), out.element_bytes))
        if direct:
            row, column = (axes[0].strides[1] if axes else 0 for axes in (rows.tile, columns.tile))
            tile = Ref(start, out.dtype, (row, column))
        if self.scale == 1:
            self._lanes(m, n)("copy", sums, out=tile)
        else:
            self._lanes(m, n)("mul", sums, self.scale, out=tile)
        if not direct:
            near = dense_strides(counts, out.element_bytes)
            issue_copy(self.at.emit, ("buffer", out.space), tile.address, start, out.dtype, counts, near, far)
