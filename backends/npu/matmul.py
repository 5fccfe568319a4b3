"""Matrix products on the systolic array.

Either operand may be the stationary one; the cheaper is chosen. Tiles of both come from memory while those before are
multiplied, and their products gather in the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.dma.traffic import Memory
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import (
    SLOTS,
    Axis,
    Nest,
    Tiling,
    chunks,
    dense_strides,
    tilings,
    walk,
)
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest, product_nests
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Drain, Fence, Matmul, Preload
from pimc.backends.npu.tiles import DEEP, Array, Extents, Limits, Side, Tiles, best_tiles
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Tile


def contract(
    at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int, scale: float = 1.0,
    moved: Sequence[Scalar] = (0, 0, 0),
) -> None:  # fmt: skip
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]`; operands broadcast over the batch axes.

    moved: how far the first addresses of a, b and the result move with loops around the product.
    """
    for nest in product_nests(a, b, out, batch, m, n, k, moved):
        _Contraction(at, (a, b, out), nest, scale).run()


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A tile on chip: address of its first element, and bytes from row to row and from k to k (or column to column)."""

    address: Scalar
    row: int
    column: int


@dataclass
class _Contraction:
    """One regular nest of a product. After `run` has chosen, operand T is streamed and operand S stationary."""

    at: Lowering
    tensors: tuple[Tensor, Tensor, Tensor]
    nest: ProductNest
    scale: float

    def run(self) -> None:
        rows, columns, batch = self.nest.rows, self.nest.columns, self.nest.batch
        m, n = _count(rows), _count(columns)
        array = self.array()
        swap = -(-m // array.columns) * array.visit(n) < -(-n // array.columns) * array.visit(m)
        streamed, stationary = (B, A) if swap else (A, B)
        t_axes, s_axes = (columns, rows) if swap else (rows, columns)
        extents = Extents(
            _count(t_axes), _count(s_axes), self.nest.depth, self.tensors[A].element_bytes,
            self._side(streamed, t_axes), self._side(stationary, s_axes), self._side(OUT, t_axes, s_axes),
            _count(batch) > 1,
        )  # fmt: skip
        arena = Arena(self.at, self._want(extents))
        tiles = best_tiles(array, extents, arena.size, self._limits(swap))
        if tiles is None:
            raise fail(Kind.CAPACITY, f"not even single products fit {arena.size} bytes of on-chip scratch")
        if any(t.on_chip for t in self.tensors[:OUT]):  # an operand on chip may come from the vector unit
            self.at.emit.issue("npu", Fence())
        self._report(tiles, extents, swap, _count(batch))
        work = _Tiled(self, arena, tiles, extents, streamed, stationary, t_axes, s_axes)
        for starts, slot in walk(self.at.emit, Nest(self.nest.starts, batch), tiles.slots):
            work.run(starts, slot)

    def _limits(self, swap: bool) -> Limits | None:
        tile = self.at.tile
        if tile is None:
            return None
        return (tile.n, tile.m, tile.k) if swap else (tile.m, tile.n, tile.k)

    def _report(self, tiles: Tiles, e: Extents, swap: bool, batch: int) -> None:
        if self.at.tiled is not None:
            m, n = (tiles.s, tiles.t) if swap else (tiles.t, tiles.s)
            count = batch * -(-e.t // tiles.t) * -(-e.s // tiles.s) * -(-e.k // tiles.k)
            self.at.tiled(Tile(m, n, tiles.k, count))

    def _side(self, operand: int, rows: Sequence[Axis], columns: Sequence[Axis] | None = None) -> Side | None:
        """How an operand [rows, k], or the result, lies in memory."""
        if self.tensors[operand].on_chip:
            return None
        if columns is None:
            columns = max((axes for _, axes in self.nest.contracted), key=_count)
        return Side(*(tuple((x.count, x.strides[operand]) for x in axes) for axes in (rows, columns)))

    def array(self) -> Array:
        npu, dram = self.at.spec.npu, self.at.spec.dram
        assert npu is not None
        access = dram.burst_cycles / dram.clock
        activation = max(dram.cycles["nRRDS"], dram.cycles["nFAW"] / 4) / dram.clock
        latency = (dram.cycles["nRCDRD"] + dram.cycles["nCL"]) / dram.clock
        memory = Memory(dram.channels, dram.row_bytes, dram.access_bytes)
        return Array(
            npu.rows, npu.columns, npu.arrays, npu.minimum_stream, npu.accumulator_bytes, npu.clock, memory, access,
            activation, latency,
        )  # fmt: skip

    @staticmethod
    def _want(e: Extents) -> int:
        slots = DEEP if e.repeated else SLOTS
        return slots * sum(padded(n * e.element_bytes) for n in (e.t * e.k, e.s * e.k, e.t * e.s))


class _Tiled:
    """The loops over tiles of one product, for each turn of the batch."""

    def __init__(
        self,
        whole: _Contraction,
        arena: Arena,
        tiles: Tiles,
        extents: Extents,
        streamed: int,
        stationary: int,
        t_axes: Sequence[Axis],
        s_axes: Sequence[Axis],
    ) -> None:
        self.at, self.scale = whole.at, whole.scale
        self.emit = whole.at.emit
        self.tiles = tiles
        self.array = whole.array()
        self.operands = {"t": whole.tensors[streamed], "s": whole.tensors[stationary]}
        self.out = whole.tensors[OUT]
        self.dtype = whole.tensors[A].dtype
        # of (address of T or S, address in the result), from the start of a batch turn
        self.groups = {
            "t": Nest((0, 0), tuple(Axis(x.count, (x.strides[streamed], x.strides[OUT])) for x in t_axes)).merged(),
            "s": Nest((0, 0), tuple(Axis(x.count, (x.strides[stationary], x.strides[OUT])) for x in s_axes)).merged(),
        }
        self.order = ("t", "s") if tiles.t_outside else ("s", "t")
        self.streamed, self.stationary = streamed, stationary
        # of (address of T, address of S)
        self.parts = [
            Nest((moves[streamed], moves[stationary]),
                 tuple(Axis(x.count, (x.strides[streamed], x.strides[stationary])) for x in axes)).merged()
            for moves, axes in whole.nest.contracted
        ]  # fmt: skip
        self.k = extents.k
        self.slots = self._take(arena, extents)
        tile_bytes = tiles.t * tiles.s * ACCUMULATOR_BYTES
        self.acc_slots = min(tiles.slots, self.array.accumulator_bytes // tile_bytes)

    def _take(self, arena: Arena, e: Extents) -> dict[str, list[int]]:
        t, s, k, size = self.tiles.t, self.tiles.s, self.tiles.k, e.element_bytes
        counts = {"t": SLOTS, "s": SLOTS}
        counts[self.order[0]] = self.tiles.slots_outer
        if t >= e.t and s >= e.s and k >= e.k:
            counts = dict.fromkeys(counts, self.tiles.slots if e.repeated else 1)
        return {
            "t": [arena.take(t * k * size) for _ in range(counts["t"])],
            "s": [arena.take(s * k * size) for _ in range(counts["s"])],
            "out": [arena.take(t * s * size) for _ in range(self.tiles.slots)],
        }

    # -- loops ----------------------------------------------------------------------------------------------------

    def run(self, starts: Sequence[Scalar], turn: int) -> None:
        """One turn of the batch; `turn` alternates, so that neighbouring turns use different slots."""
        first, second = self.order
        base = {"t": starts[self.streamed], "s": starts[self.stationary], "out": starts[OUT]}
        resident = self.tiles.k >= self.k
        for outer, outer_at, slot in self._tiles(first, len(self.slots[first])):
            held = self._resident(first, outer, base[first] + outer_at[0], slot + turn) if resident else None
            for inner, inner_at, turn_slot in self._tiles(second, SLOTS):
                inner_slot = (turn_slot + turn) % self.tiles.slots
                tile = {first: (outer, outer_at), second: (inner, inner_at)}
                address = {name: base[name] + tile[name][1][0] for name in ("t", "s")}
                if self.acc_slots == 1:
                    self.emit.issue("npu", Fence())
                acc = inner_slot % self.acc_slots * self.tiles.t * self.tiles.s * ACCUMULATOR_BYTES
                rows, columns = tile["t"][0], tile["s"][0]
                if held is not None:
                    other = self._resident(second, inner, address[second], inner_slot)
                    pair = (held, other) if first == "t" else (other, held)
                    self._blocks(*pair, rows.elements, columns.elements, self.k, acc, 0)
                else:
                    self._over_k(rows, columns, address, acc)
                self._finish(rows, columns, base["out"] + outer_at[1] + inner_at[1], acc, inner_slot)

    def _tiles(self, name: str, slots: int) -> Iterator[tuple[Tiling, tuple[Scalar, ...], int]]:
        limit = self.tiles.t if name == "t" else self.tiles.s
        for tiling in tilings(self.groups[name], limit):
            for starts, slot in walk(self.emit, tiling.outer, slots):
                yield tiling, starts, slot

    def _over_k(self, rows: Tiling, columns: Tiling, address: dict[str, Scalar], acc: int) -> None:
        """Tiles of k pass by, and their products are added up in the accumulators."""
        added: Scalar = 0
        for part in self.parts:
            for tiling in tilings(part, self.tiles.k):
                turns = prod(a.count for a in tiling.outer.axes)
                for turn, starts, slot in _counted(self.emit, tiling.outer, SLOTS):
                    pair = []
                    for i, (name, tile) in enumerate((("t", rows), ("s", columns))):
                        start = address[name] + starts[i]
                        pair.append(self._bring(name, tile, [tiling.tile], i, [start], slot))
                    self._blocks(pair[0], pair[1], rows.elements, columns.elements, tiling.elements, acc, added + turn)
                added = added + turns

    def _resident(self, name: str, tile: Tiling, start: Scalar, slot: int) -> _Matrix:
        """A tile with all of k."""
        operand = 0 if name == "t" else 1
        starts = [start + part.starts[operand] for part in self.parts]
        return self._bring(name, tile, [part.axes for part in self.parts], operand, starts, slot)

    def _bring(
        self,
        name: str,
        tile: Tiling,
        parts: Sequence[Sequence[Axis]],
        operand: int,
        starts: Sequence[Scalar],
        slot: int,
    ) -> _Matrix:
        """A tile [rows, k] on chip: where it is, if commands can address it there, else copied."""
        tensor = self.operands[name]
        if tensor.on_chip and len(tile.tile) <= 1 and len(parts) == 1 and len(parts[0]) <= 1:
            row = tile.tile[0].strides[0] if tile.tile else 0
            return _Matrix(starts[0], row, parts[0][0].strides[operand] if parts[0] else 0)
        size, rows = tensor.element_bytes, tile.elements
        depth = sum(_count(axes) for axes in parts)
        by_row = not (tile.tile and tile.tile[-1].strides[0] == size)
        held = self.slots[name][slot % len(self.slots[name])]
        matrix = _Matrix(held, depth * size, size) if by_row else _Matrix(held, size, rows * size)
        done = 0
        for axes, start in zip(parts, starts, strict=True):
            inside = [*_scaled(tile.tile, matrix.row), *_scaled(axes, matrix.column)]
            outside = [*(a.strides[0] for a in tile.tile), *(a.strides[operand] for a in axes)]
            counts = [*(a.count for a in tile.tile), *(a.count for a in axes)]
            counts, outside, inside = _longest_last(counts, outside, inside)
            spaces = (tensor.space, "buffer")
            issue_copy(self.emit, spaces, start, held + done * matrix.column, tensor.dtype, counts, outside, inside)
            done += _count(axes)
        return matrix

    def _finish(self, rows: Tiling, columns: Tiling, start: Scalar, acc: int, slot: int) -> None:
        """Accumulators to the result's place."""
        t, s = rows.tile, columns.tile
        direct = self.out.on_chip and len(t) <= 1 and len(s) <= 1
        size = self.out.element_bytes
        if direct:
            tile = _Matrix(start, t[0].strides[1] if t else 0, s[0].strides[1] if s else 0)
        else:
            held = self.slots["out"][slot]
            by_row = not (t and t[-1].strides[1] == size)
            tile = _Matrix(held, columns.elements * size, size) if by_row else _Matrix(held, size, rows.elements * size)
        for first, width, _ in chunks(self.emit, columns.elements, self.array.columns):
            drain = Drain(
                acc=acc + first * rows.elements * ACCUMULATOR_BYTES, rows=rows.elements, columns=width,
                acc_row=width * ACCUMULATOR_BYTES, dst=tile.address + first * tile.column, dst_type=self.out.dtype,
                dst_row=tile.row, dst_column=tile.column, scale=self.scale,
            )  # fmt: skip
            self.emit.issue("npu", drain)
        if not direct:
            counts = [a.count for a in (*t, *s)]
            outside = [a.strides[1] for a in (*t, *s)]
            inside = [*_scaled(t, tile.row), *_scaled(s, tile.column)]
            counts, outside, inside = _longest_last(counts, outside, inside)
            spaces = ("buffer", self.out.space)
            issue_copy(self.emit, spaces, tile.address, start, self.out.dtype, counts, inside, outside)

    def _blocks(self, t: _Matrix, s: _Matrix, rows: int, columns: int, k: int, acc: int, added: Scalar) -> None:
        """All blocks of a pair of tiles. Accumulators of one block of columns are adjacent, row by row."""
        for first, width, _ in chunks(self.emit, columns, self.array.columns):
            for start, depth, _ in chunks(self.emit, k, self.array.rows):
                preload = Preload(
                    src=s.address + first * s.row + start * s.column, dtype=self.dtype, k=depth, columns=width,
                    k_stride=s.column, column_stride=s.row,
                )  # fmt: skip
                self.emit.issue("npu", preload)
                matmul = Matmul(
                    src=t.address + start * t.column, dtype=self.dtype, rows=rows, k=depth, row_stride=t.row,
                    k_stride=t.column, acc=acc + first * rows * ACCUMULATOR_BYTES, columns=width,
                    acc_row=width * ACCUMULATOR_BYTES, accumulate=added + start,
                )  # fmt: skip
                self.emit.issue("npu", matmul)


def _count(axes: Sequence[Axis]) -> int:
    return prod(a.count for a in axes)


def _counted(emit: Emitter, nest: Nest, slots: int) -> Iterator[tuple[Scalar, tuple[Scalar, ...], int]]:
    """`walk` that also yields a number which is 0 in the first turn alone."""
    numbered = Nest((*nest.starts, 0), tuple(replace(a, strides=(*a.strides, 1)) for a in nest.axes))
    for starts, slot in walk(emit, numbered, slots):
        yield starts[-1], starts[:-1], slot


def _scaled(axes: Sequence[Axis], unit: int) -> list[int]:
    """Byte strides of axes that are dense in units of `unit` bytes."""
    return list(dense_strides([a.count for a in axes], unit))


def _longest_last(counts: list[int], far: list[int], near: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The loops of a copy in the order of the far side's strides."""
    order = sorted(range(len(counts)), key=lambda i: -abs(far[i]))
    return [counts[i] for i in order], [far[i] for i in order], [near[i] for i in order]
