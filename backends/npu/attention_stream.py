"""The commands of attention, turn by turn: four stages of a pipeline, as `attention.py` tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf, prod

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.attention import LOWEST, TINY
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, dense_strides, walk
from pimc.backends.kernels.places import cut_layouts
from pimc.backends.lowering import Tensor
from pimc.backends.npu.attended import Attended, AttentionTiles, KeyTile
from pimc.backends.npu.attention_tiles import F32_BYTES, Sizes
from pimc.backends.npu.attention_time import Core
from pimc.backends.npu.blocks import Blocks, Matrix
from pimc.backends.npu.extents import Side
from pimc.backends.npu.grouped import rows_on_chip, walk_of
from pimc.backends.npu.isa import Fence
from pimc.backends.npu.packs import Pack
from pimc.backends.npu.pipeline import Turn, Work, interleave, pipelined
from pimc.backends.npu.tile_copy import bring, take_home
from pimc.backends.npu.vector_unit import NPU
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.record import record

STAGES = 4
PARTS = 4
"""Pieces into which a stage's products are cut, so that they lie among the vector unit's commands."""


@record
class Operand:
    """A tensor: its walk over pairs of request and key head (at `index` of their nests), and what belongs to one."""

    tensor: Tensor
    index: int
    inner: Layout

    @property
    def is_at_hand(self) -> bool:
        """Whether vector commands can address it where it is."""
        return self.tensor.on_chip and all(len(dim) <= 1 for dim in self.inner.dims)

    def digits(self, batch: Sequence[Axis]) -> tuple[Axis, ...]:
        return tuple(Axis(a.count, (a.strides[self.index],)) for a in batch)

    def side(self, batch: Sequence[Axis]) -> Side | None:
        """How it lies in memory, rows of all but the last dimension; none: it is on chip."""
        if self.tensor.on_chip:
            return None
        *rows, columns = self.inner.dims
        digits = tuple((a.count, a.strides[self.index]) for a in batch)
        return Side(tuple(digit for dim in rows for digit in dim), columns, digits)


@record
class _Block:
    """Some queries of some pairs, and the tiles of keys that they see."""

    start: int
    rows: int
    batch: tuple[Axis, ...]
    tiles: tuple[KeyTile, ...]
    starts: tuple[Scalar, ...]
    """first address of each tensor, of the first turn"""
    strides: tuple[int, ...]
    """how far they move from turn to turn"""

    @property
    def pairs(self) -> int:
        return prod(a.count for a in self.batch)

    def at(self, turn: Turn) -> list[Scalar]:
        return [s + turn.group * stride for s, stride in zip(self.starts, self.strides, strict=True)]


class Stream:
    """The commands of all blocks of a walk, in one set of places on chip."""

    def __init__(
        self, emit: Emitter, arena: Arena, core: Core, e: Attended, tiles: AttentionTiles,
        operands: dict[str, Operand], numbers: Ref | None, scale: float, softcap: float,
    ) -> None:  # fmt: skip
        """numbers: those of all key positions, where positions mask scores."""
        self.emit, self.core, self.e, self.tiles = emit, core, e, tiles
        self.scale, self.softcap = scale, softcap
        self.operands, self.numbers = operands, numbers
        self.guarded = bool(e.limits or e.mask)
        sizes, take = Sizes.of(e, tiles.pairs, tiles.queries, tiles.keys), arena.take
        self.q, self.k, self.v, self.mask, self.weights, self.out, self.largest, self.total, self.shrink = (
            [take(size) for _ in range(SLOTS)] for size in sizes.doubled
        )
        self.scores, self.sums, self.part, self.inverse = (take(size) for size in sizes.single)
        self.dtype = operands["v"].tensor.dtype
        self.matrices: dict[tuple[str, int], Matrix] = {}

    def block(self, start: int, rows: int, tiling: Tiling) -> None:
        """All turns of a block of queries: those of the innermost loop over pairs overlap."""
        tiles = tuple(self.tiles.tiles(self.e, start, rows))
        *outer, inner = tiling.outer.axes or (Axis(1, (0,) * len(self.operands)),)
        for starts, _ in walk(self.emit, Nest(tiling.outer.starts, tuple(outer))):
            block = _Block(start, rows, tuple(tiling.tile), tiles, starts, inner.strides)
            pipelined(self.emit, inner.count, len(tiles), STAGES, partial(self._beat, block))

    def _beat(self, block: _Block, turns: Sequence[Turn | None]) -> None:
        scores, softmax, context, output = turns
        if scores is not None:
            self._bring_keys(block, scores)
        if softmax is not None:
            self._bring_mask(block, softmax)
            self._bring_values(block, softmax)
            self._drain_scores(block, softmax)
        arrays = [
            *(self._scores(block, scores) if scores is not None else ()),
            *(self._context(block, context) if context is not None else ()),
        ]
        vectors = [
            *(self._output(block, output) if output is not None else ()),
            *(self._softmax(block, softmax) if softmax is not None else ()),
        ]
        interleave(arrays, vectors)
        self.emit.issue("npu", Fence("vector"))

    # -- operands -------------------------------------------------------------------------------------------------

    def _bring_keys(self, block: _Block, turn: Turn) -> None:
        tile = block.tiles[turn.step]
        if turn.step == 0:
            held = self.q[turn.place]
            self.matrices["q", turn.place] = self._rows("q", block, turn, 1, (block.start, block.rows), held)
        self.matrices["k", turn.slot] = self._rows("k", block, turn, 0, (tile.first, tile.count), self.k[turn.slot])

    def _bring_values(self, block: _Block, turn: Turn) -> None:
        """[keys, width] of each pair: rows of the product's right operand are its columns."""
        tile, v, held = block.tiles[turn.step], self.operands["v"], self.v[turn.slot]
        batch = v.digits(block.batch)
        pieces = list(cut_layouts(v.inner, ((tile.first, tile.count, 1), (0, self.e.width, 1))))
        parts = [piece for _, piece in pieces]
        if all(p.dims[1] == parts[0].dims[1] for p in parts):
            rows, columns = walk_of((*batch, *_axes(parts[0], 1)), 0), [(p.offset, _axes(p, 0)) for p in parts]
            address = block.at(turn)[v.index]
            matrix = rows_on_chip(self.emit, v.tensor, address, rows, columns, held, stays=False)
        else:  # a token's elements fill banks, and a part of them
            counts = (*(a.count for a in batch), self.e.width, tile.count)
            *lead, row, column = dense_strides(counts, v.tensor.element_bytes)
            self._bring_pieces(v, block, turn, pieces, (lead, (column, row)), held)
            matrix = Matrix(held, row, column)
        self.matrices["v", turn.slot] = matrix

    def _bring_mask(self, block: _Block, turn: Turn) -> None:
        """Each element once, however often it is repeated."""
        if "mask" not in self.operands or self.operands["mask"].is_at_hand:
            return
        mask, held = self.operands["mask"], self.mask[turn.slot]
        for first, piece in self._mask_pieces(block, turn):
            axes = (*mask.digits(block.batch), *(a for d in range(3) for a in _axes(piece, d)))
            near = (*self._mask_strides(block, turn)[: len(block.batch)], *self._inside(block, turn, piece))
            start = held + self._offset(block, turn, first)
            kept = [(a, s) for a, s in zip(axes, near, strict=True) if a.strides[0]]
            bring(
                self.emit, mask.tensor, block.at(turn)[mask.index] + piece.offset, start, [a for a, _ in kept], 0,
                [s for _, s in kept],
            )  # fmt: skip

    def _mask_pieces(self, block: _Block, turn: Turn) -> Iterator[tuple[tuple[int, ...], Layout]]:
        tile, inner = block.tiles[turn.step], self.operands["mask"].inner
        ranges = ((0, self.e.group, 1), (block.start, block.rows, 1), (tile.first, tile.count, 1))
        yield from cut_layouts(inner, ranges)

    def _mask_strides(self, block: _Block, turn: Turn) -> tuple[int, ...]:
        """Bytes along (pairs.., heads of a group, queries, keys) on chip; 0 where the mask is repeated."""
        mask, tile = self.operands["mask"], block.tiles[turn.step]
        counts = (*(a.count for a in block.batch), self.e.group, block.rows, tile.count)
        repeated = [
            *(a.strides[mask.index] == 0 for a in block.batch),
            *(all(s == 0 for _, s in dim) for dim in mask.inner.dims),
        ]
        kept = [1 if zero else n for n, zero in zip(counts, repeated, strict=True)]
        strides = dense_strides(kept, mask.tensor.element_bytes)
        return tuple(0 if zero else s for s, zero in zip(strides, repeated, strict=True))

    def _inside(self, block: _Block, turn: Turn, piece: Layout) -> list[int]:
        """Strides on chip of the digits of a piece of the mask."""
        strides = self._mask_strides(block, turn)[len(block.batch) :]
        return [s for d, stride in enumerate(strides) for s in _digit_strides(piece, d, stride)]

    def _offset(self, block: _Block, turn: Turn, first: Sequence[int]) -> int:
        strides = self._mask_strides(block, turn)[len(block.batch) :]
        return sum(f * s for f, s in zip(first, strides, strict=True))

    def _rows(self, name: str, block: _Block, turn: Turn, cut: int, span: tuple[int, int], held: int) -> Matrix:
        """[rows of all pairs, depth] on chip. span: first and count along dimension `cut` of a pair's rows."""
        op = self.operands[name]
        address, batch = block.at(turn)[op.index], op.digits(block.batch)
        ranges = [(0, extent, 1) for extent in op.inner.shape]
        ranges[cut] = (*span, 1)
        pieces = list(cut_layouts(op.inner, ranges))
        last = len(ranges) - 1
        if len(pieces) == 1:
            ((_, piece),) = pieces
            rows = walk_of((*batch, *(a for d in range(last) for a in _axes(piece, d))), 0)
            return rows_on_chip(
                self.emit, op.tensor, address, rows, [(piece.offset, _axes(piece, last))], held, stays=False
            )
        counts = [*(a.count for a in batch), *(r[1] for r in ranges)]
        strides = dense_strides(counts, op.tensor.element_bytes)
        lead, inside = strides[: len(batch)], strides[len(batch) :]
        self._bring_pieces(op, block, turn, pieces, (lead, inside), held)
        return Matrix(held, inside[-2], inside[-1])

    def _bring_pieces(
        self, op: Operand, block: _Block, turn: Turn, pieces: Sequence[tuple[Sequence[int], Layout]],
        near: tuple[Sequence[int], Sequence[int]], held: int,
    ) -> None:  # fmt: skip
        """Parts of what belongs to some pairs, each to its place. near: strides on chip of the pairs' axes, and of the
        dimensions of what belongs to one."""
        address, batch = block.at(turn)[op.index], op.digits(block.batch)
        lead, inside = near
        for first, piece in pieces:
            steps = [*lead, *(s for d, stride in enumerate(inside) for s in _digit_strides(piece, d, stride))]
            start = held + sum(f * s for f, s in zip(first, inside, strict=True))
            axes = [*batch, *(a for d in range(len(inside)) for a in _axes(piece, d))]
            bring(self.emit, op.tensor, address + piece.offset, start, axes, 0, steps)

    # -- arrays ---------------------------------------------------------------------------------------------------

    def _product(self, block: _Block, columns: int, depth: int) -> tuple[bool, Pack, Blocks]:
        swap, pack = self.core.product(self.e.group * block.rows, columns, depth, block.pairs)
        return swap, pack, Blocks.on(self.emit, self.core.machine, self.dtype, pack.down, pack.across)

    def _scores(self, block: _Block, turn: Turn) -> list[Work]:
        swap, pack, blocks = self._product(block, block.tiles[turn.step].count, self.e.depth)
        pair = self.matrices["q", turn.place], self.matrices["k", turn.slot]
        return self._parts(pack, blocks, pair[::-1] if swap else pair, block.pairs, self._accumulators(turn, 0))

    def _context(self, block: _Block, turn: Turn) -> list[Work]:
        tile, size = block.tiles[turn.step], self.dtype.bits // 8
        swap, pack, blocks = self._product(block, self.e.width, tile.count)
        pair = Matrix(self.weights[turn.slot], tile.count * size, size), self.matrices["v", turn.slot]
        acc = self._accumulators(turn, 1)
        return self._parts(pack, blocks, pair[::-1] if swap else pair, block.pairs, acc)

    def _accumulators(self, turn: Turn, product: int) -> int:
        """Those of the scores (0) or the context (1) of a turn."""
        return (2 * turn.slot + product) * self.core.accumulators

    @staticmethod
    def _parts(pack: Pack, blocks: Blocks, pair: tuple[Matrix, ...], products: int, acc: int) -> list[Work]:
        """A group's products in a few pieces of whole packs."""
        size = -(-products // (PARTS * pack.count)) * pack.count
        t, s = pair
        parts = (range(at, min(at + size, products)) for at in range(0, products, size))
        return [partial(pack.multiply, blocks, t, s, part, acc) for part in parts]

    def _drain(self, block: _Block, product: tuple[bool, Pack], acc: int, to: int, scale: float) -> None:
        """Sums to a dense grid [pairs, rows, columns] of float32."""
        swap, pack = product
        rows, columns = (pack.s, pack.t) if swap else (pack.t, pack.s)
        row = columns * F32_BYTES
        grid = Matrix(to, F32_BYTES, row) if swap else Matrix(to, row, F32_BYTES)
        pack.drain(self.emit, block.pairs, acc, grid, DType.F32, scale, rows * row)

    # -- vector unit ----------------------------------------------------------------------------------------------

    def _grid(self, block: _Block, *columns: int) -> Lanes:
        return Lanes(self.emit, NPU, None, (block.pairs * self.e.group * block.rows, *columns))

    @staticmethod
    def _row(address: int) -> Ref:
        return Ref(address, DType.F32, (F32_BYTES,))

    def _drain_scores(self, block: _Block, turn: Turn) -> None:
        swap, pack, _ = self._product(block, block.tiles[turn.step].count, self.e.depth)
        self._drain(block, (swap, pack), self._accumulators(turn, 0), self.scores, self.scale)

    def _softmax(self, block: _Block, turn: Turn) -> Iterator[Work]:
        tile, size = block.tiles[turn.step], self.dtype.bits // 8
        x = Ref(self.scores, DType.F32, (tile.count * F32_BYTES, F32_BYTES))
        weights = Ref(self.weights[turn.slot], self.dtype, (tile.count * size, size))
        largest, total, shrink = (self._row(a[turn.slot]) for a in (self.largest, self.total, self.shrink))
        before, summed = (self._row(a[1 - turn.slot]) for a in (self.largest, self.total))
        grid, row = self._grid(block, tile.count), self._grid(block)
        yield from self._masked(block, turn)
        yield lambda: grid.reduce("max", x, largest)
        if self.guarded:
            yield lambda: row("max", largest, LOWEST, out=largest)
        if turn.step:
            yield lambda: row("max", largest, before, out=largest)
            yield lambda: row("sub", before, largest, out=shrink)
            yield lambda: row("exp", shrink, out=shrink)
        yield lambda: grid("sub", x, largest.spread(behind=1), out=x)
        yield lambda: grid("exp", x, out=weights)
        yield lambda: grid.reduce("sum", weights, total)
        if turn.step:
            yield lambda: row("mul_add", summed, shrink, total, out=total)

    def _masked(self, block: _Block, turn: Turn) -> Iterator[Work]:
        """Scores capped and masked in place."""
        tile = block.tiles[turn.step]
        pairs = tuple(a.count for a in block.batch)
        counts = (*pairs, self.e.group, block.rows, tile.count)
        x = Ref(self.scores, DType.F32, dense_strides(counts, F32_BYTES))
        lanes = Lanes(self.emit, NPU, None, counts)
        if self.softcap:
            yield lambda: lanes("mul", x, 1 / self.softcap, out=x)
            yield lambda: lanes("tanh", x, out=x)
            yield lambda: lanes("mul", x, self.softcap, out=x)
        if "mask" in self.operands:
            mask = self._mask(block, turn)
            if mask.dtype is DType.BOOL:
                yield lambda: lanes("select", mask, x, -inf, out=x)
            else:
                yield lambda: lanes("add", x, mask, out=x)
        if not tile.masked:
            return
        for name in ("last", "first"):
            if name in self.operands:
                limit = self._limit(name, block, turn)
                assert self.numbers is not None
                moved = tile.first * F32_BYTES
                number = replace(self.numbers, address=self.numbers.address + moved).spread(before=len(counts) - 1)
                ordered = (number, limit) if name == "last" else (limit, number)
                yield partial(self._keep, lanes, x, ordered)

    def _mask(self, block: _Block, turn: Turn) -> Ref:
        """The mask of a tile of scores."""
        op, tile = self.operands["mask"], block.tiles[turn.step]
        if not op.is_at_hand:
            return Ref(self.mask[turn.slot], op.tensor.dtype, self._mask_strides(block, turn))
        inside = [dim[0][1] if dim else 0 for dim in op.inner.dims]
        first = block.start * inside[-2] + tile.first * inside[-1]
        strides = (*(a.strides[op.index] for a in block.batch), *inside)
        return Ref(block.at(turn)[op.index] + first, op.tensor.dtype, strides)

    @staticmethod
    def _keep(lanes: Lanes, x: Ref, ordered: tuple[Ref, Ref]) -> None:
        lanes("keep", x, *ordered, -inf, out=x)

    def _limit(self, name: str, block: _Block, turn: Turn) -> Ref:
        """The last or first key position that each query sees."""
        op = self.operands[name]
        (_, step), *_ = op.inner.dims[1] or ((1, 0),)
        strides = (*(a.strides[op.index] for a in block.batch), 0, step, 0)
        return Ref(block.at(turn)[op.index] + block.start * step, op.tensor.dtype, strides)

    def _output(self, block: _Block, turn: Turn) -> Iterator[Work]:
        tile, width = block.tiles[turn.step], self.e.width
        swap, pack, _ = self._product(block, width, tile.count)
        acc = self._accumulators(turn, 1)
        to = self.part if turn.step else self.sums
        yield lambda: self._drain(block, (swap, pack), acc, to, 1.0)
        row = self._grid(block)
        grid = self._grid(block, width)
        sums = Ref(self.sums, DType.F32, (width * F32_BYTES, F32_BYTES))
        if turn.step:
            shrink = self._row(self.shrink[turn.slot]).spread(behind=1)
            yield lambda: grid("mul_add", sums, shrink, replace(sums, address=self.part), out=sums)
        if turn.step + 1 < len(block.tiles):
            return
        total, inverse = self._row(self.total[turn.slot]), self._row(self.inverse)
        if self.guarded:
            yield lambda: row("max", total, TINY, out=total)
        yield lambda: row("reciprocal", total, out=inverse)
        out = self.operands["out"].tensor
        size = out.element_bytes
        held = Ref(self.out[turn.place], out.dtype, (width * size, size))
        yield lambda: grid("mul", sums, inverse.spread(behind=1), out=held)
        yield lambda: self._store(block, turn)

    def _store(self, block: _Block, turn: Turn) -> None:
        op, held = self.operands["out"], self.out[turn.place]
        ranges = ((0, self.e.group, 1), (block.start, block.rows, 1), (0, self.e.width, 1))
        batch = op.digits(block.batch)
        counts = [*(a.count for a in batch), *(r[1] for r in ranges)]
        strides = dense_strides(counts, op.tensor.element_bytes)
        lead, inside = strides[: len(batch)], strides[len(batch) :]
        for first, piece in cut_layouts(op.inner, ranges):
            near = [*lead, *(s for d, stride in enumerate(inside) for s in _digit_strides(piece, d, stride))]
            start = held + sum(f * s for f, s in zip(first, inside, strict=True))
            axes = [*batch, *(a for d in range(len(ranges)) for a in _axes(piece, d))]
            take_home(self.emit, op.tensor, start, block.at(turn)[op.index] + piece.offset, axes, 0, near)


def _axes(layout: Layout, dim: int) -> list[Axis]:
    return [Axis(count, (stride,)) for count, stride in layout.dims[dim]]


def _digit_strides(layout: Layout, dim: int, stride: int) -> list[int]:
    """Strides of a dimension's digits where it is dense, its elements `stride` bytes apart."""
    return list(dense_strides([count for count, _ in layout.dims[dim]], stride))
