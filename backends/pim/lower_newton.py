"""Matrix products on Newton-style PIM: each channel works on its own rows, tile by tile.

A tile is one row index in all banks of a channel: after a HEADER, each result takes COMPs over columns of that row with
the global buffer, and gives one value for every bank. Sums over several fillings of the global buffer are added by the
vector unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import chunks, nests, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.pim.experts import ChosenExperts
from pimc.backends.pim.layouts import STAGING_ROWS, STAGING_SLOTS, BankPattern
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.pim.newton_transfer import (
    Move,
    Results,
    Source,
    Stage,
    Sums,
    Tiles,
    filling_stride,
    is_returned,
    vector_operand,
)
from pimc.backends.pim.products import Range, bank_pattern, element_stride, gather_vector, part, ranges, rows_of, single
from pimc.ir.graph import Node
from pimc.ir.layout import Layout


@dataclass(frozen=True, slots=True)
class Filling:
    """Fillings `first` to `first + count - 1` of a vector, of `elements` each, in bank rows of one staging row."""

    first: int
    count: int
    elements: int

    @property
    def columns(self) -> int:
        return -(-self.elements // LANES)


def fillings(elements: int, size: int, banks: int) -> list[Filling]:
    """Cut a vector into what a global buffer takes at a time."""
    whole, rest = divmod(elements, size)
    found: list[Filling] = []
    while whole and (start := sum(f.count for f in found)) < whole:
        found.append(Filling(start, min(whole - start, banks - start % banks), size))
    if rest:
        found.append(Filling(whole, 1, rest))
    return found


def staging(at: Lowering, slot: int, filling: Filling) -> int:
    """The DRAM address of a filling, in channel 0."""
    geometry = at.spec.dram.geometry
    if mapping_of(at.spec).one_vector_row:
        return 0
    over, bank = divmod(filling.first, geometry.banks)
    row = slot % STAGING_SLOTS * STAGING_ROWS + over
    return at.staging + row * geometry.stride_row + bank * geometry.stride_bank


# -- weights ----------------------------------------------------------------------------------------------------------


def lower_matmul(node: Node, at: Lowering) -> None:
    """x[..., K] times W[K, N] in a bank matrix: vector by vector."""
    (x, in_place), w = vector_operand(node, at), at.tensor(list(node.inputs())[1])
    y = at.tensor(node.result)
    shape = node.result.type.static_shape
    depth = next(iter(node.inputs())).type.static_shape[-1]
    kernel = _Gemv(node, at, x, y, bank_pattern(node, at, w), depth, shape[-1], in_place=in_place)
    for nest in rows_of(x, y, shape=shape[:-1]):
        for (source, target), slot in walk(at.emit, nest, STAGING_SLOTS):
            kernel.run(source, target, slot)


def lower_experts(node: Node, at: Lowering) -> None:
    """Vector by vector, each times the matrix of the expert that was chosen for it."""
    chosen = ChosenExperts.of(node, at)
    kernel = _Gemv(node, at, chosen.x, chosen.y, chosen.first, chosen.depth, chosen.outputs)
    for source, target, slot in chosen.pairs(STAGING_SLOTS):
        kernel.run(source, target, slot)


class _Gemv:
    """One vector of K elements times a bank matrix."""

    def __init__(
        self,
        node: Node,
        at: Lowering,
        x: Tensor,
        y: Tensor,
        weights: BankPattern,
        depth: int,
        outputs: int,
        *,
        in_place: bool = False,
    ) -> None:
        self.at, self.x, self.weights, self.depth, self.outputs = at, x, weights, depth, outputs
        geometry = at.spec.dram.geometry
        along, across = weights.dims
        self.used, self.groups, self.chunk_rows = across.channel[0], across.row, along.row[1]
        self.unit = self.used * geometry.banks
        self.tiles = Tiles(at, weights.channel, self.used)
        self.fillings = fillings(
            depth, min(along.byte[0], depth) if along.row[0] == 1 else along.byte[0], geometry.banks
        )
        self.parts = sum(f.count for f in self.fillings)
        self.arena = Arena(at)
        stride = single(x.layout.dims[-1])
        self.row = None if stride is not None else self.arena.take(depth * CELL_BYTES)
        self.source = Source(x.space, x.dtype, stride or x.element_bytes, in_place)
        if self.row is not None:
            self.source = Source("buffer", x.dtype, CELL_BYTES)
        self.stages = [self._stage(f) for f in self.fillings]
        self.target = Source(y.space, y.dtype, element_stride(node, y))
        group_bytes = self.parts * self.unit * CELL_BYTES
        sums_bytes = self.unit * 6 if self.parts > 1 else 0
        self.most = max(1, min(self.groups[0], (self.arena.left - 512) // (STAGING_SLOTS * (group_bytes + sums_bytes))))
        self.is_direct = self.parts == 1 and is_returned(at, y) and self.target.element == CELL_BYTES
        self.near: list[int] = []
        if not self.is_direct:
            self.near = [self.arena.take(self.most * group_bytes) for _ in range(STAGING_SLOTS)]

    def _stage(self, filling: Filling) -> Stage:
        geometry = self.at.spec.dram.geometry
        moves: list[Move] = [
            (self.used, 0, geometry.stride_channel),
            (filling.count, filling.elements * self.source.element, filling_stride(self.at)),
        ]
        return Stage(self.at, self.arena, self.source, moves, filling.elements)

    def run(self, source: Scalar, target: Scalar, slot: int) -> None:
        first = self.weights.channel * self.at.spec.dram.geometry.stride_channel
        if self.row is not None:
            gather_vector(self.at, self.x, source, self.row, 0, self.depth)
            source = self.row
        for filling, stage in zip(self.fillings, self.stages, strict=True):
            start = filling.first * self.fillings[0].elements * self.source.element
            stage.put(source + start, staging(self.at, slot, filling) + first, slot)
        size = self.most * self.unit
        whole, rest = divmod(self.outputs, size)
        top = self.arena.mark()
        if whole:
            sums = self._sums(size, self.most)
            with self.at.emit.loop(whole) as i:
                self._batch(target + i * (size * self.target.element), i * self.most, self.most, size, slot, sums)
        self.arena.reset(top)
        if rest:
            groups = -(-rest // self.unit)
            sums = self._sums(rest, groups)
            self._batch(target + whole * size * self.target.element, whole * self.most, groups, rest, slot, sums)
        self.arena.reset(top)

    def _sums(self, outputs: int, groups: int) -> Sums:
        return Sums(self.at, self.arena, (outputs,), self.parts, groups * self.unit * CELL_BYTES)

    def _batch(self, target: Scalar, first: Scalar, groups: int, outputs: int, slot: int, sums: Sums) -> None:
        banks = self.tiles.banks
        results = Results(self.weights.channel, banks * CELL_BYTES, self.used)
        near = target if self.is_direct else self.near[slot % STAGING_SLOTS]
        for filling in self.fillings:
            over, bank = divmod(filling.first, banks)
            with self.at.emit.loop(filling.count) as c:
                self.tiles.global_write(bank + c, slot, filling.columns, over=over)
                part_of = near + (c + filling.first) * (groups * self.unit * CELL_BYTES)
                with self.at.emit.loop(groups) as g:
                    row = self.weights.row + (first + g) * self.groups[1] + (c + filling.first) * self.chunk_rows
                    self.tiles.header(row, filling.columns, 1)
                    there = results.address(part_of + g * (self.unit * CELL_BYTES))
                    self.tiles.result(row, filling.columns, 0, 0, there)
        if not self.is_direct:
            sums.move(near, (CELL_BYTES,), self.target, target, (self.target.element,))


# -- attention --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wave:
    """Requests that are worked on together, one a channel, and the loops over such waves and query positions."""

    channels: int
    source: Source
    target: Source
    source_strides: tuple[int, int]
    """bytes from request to request and from head to head"""
    target_strides: tuple[int, int]
    is_returned: bool
    """results stay where they are returned"""
    turns: Iterator[tuple[tuple[Scalar, ...], int]]
    """(first vector, first result, first row of the cache) of every turn"""

    @property
    def source_request(self) -> int:
        return self.source_strides[0]

    @property
    def source_head(self) -> int:
        return self.source_strides[1]

    @property
    def target_request(self) -> int:
        return self.target_strides[0]

    @property
    def target_head(self) -> int:
        return self.target_strides[1]


def _waves(node: Node, at: Lowering, cache: BankPattern) -> Iterator[_Wave]:
    (x, in_place), y = vector_operand(node, at), at.tensor(node.result)
    batch, heads, steps, _ = node.result.type.static_shape
    requests = cache.dims[0]
    for b in ranges(batch, requests.channel[0]):
        views = [_five(node, t.layout, b, heads, steps) for t in (x, y)]
        first = cache.row + b.start // requests.channel[0] * requests.row[1]
        rows = Layout(first, (((b.turns, requests.row[1]),), ((steps, 0),)))
        outer = [Layout(v.offset, (v.dims[0], v.dims[3])) for v in views]
        by_request = [single(v.dims[1]) or 0 for v in views]
        by_head = [single(v.dims[2]) or 0 for v in views]
        source = Source(x.space, x.dtype, element_stride(node, x), in_place)
        target = Source(y.space, y.dtype, element_stride(node, y))
        for nest in nests([*outer, rows], (b.turns, steps)):
            turns = walk(at.emit, nest.merged(), STAGING_SLOTS)
            stays = is_returned(at, y) and target.element == CELL_BYTES
            strides = ((by_request[0], by_head[0]), (by_request[1], by_head[1]))
            yield _Wave(b.together, source, target, *strides, stays, turns)


def _five(node: Node, layout: Layout, b: Range, heads: int, steps: int) -> Layout:
    """[B, H, S, X] as [turns, together, H, S, X] for a range of requests."""
    last = prod(count for count, _ in layout.dims[3])
    return part(node, layout, [(0, b.start, b.stop)], (b.turns, b.together, heads, steps, last))


def lower_scores(node: Node, at: Lowering) -> None:
    """q[B, H, S, D] times the keys [B, KV, T, D]: tokens over banks, heads side by side in rows."""
    q, k = (v.type.static_shape for v in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    scale = node.attribute("scale")
    assert isinstance(scale, int | float)
    for wave in _waves(node, at, cache):
        packed = cache.dims[1].byte[0]
        kernels = [
            (heads, _Scores(at, wave, cache, q[1] // k[1], heads.together, q[3], k[2], float(scale)))
            for heads in rows_of_heads(at, k[1], packed, q[3])
        ]
        for (source, target, row), slot in wave.turns:
            for heads, kernel in kernels:
                kernel.run(source, target, row, slot, heads)


def rows_of_heads(at: Lowering, heads: int, packed: int, depth: int) -> Iterator[Range]:
    """The heads of each row of keys: `packed` in each, and what is left over.

    The published driver counts rows by elements instead, as if heads lay without gaps: where they do not fit rows
    evenly, its rows hold fewer than all.
    """
    row = at.spec.dram.row_bytes // CELL_BYTES
    if not mapping_of(at.spec).packs_by_size or heads <= packed:
        yield from ranges(heads, packed)
        return
    whole, rest = divmod(heads * depth, row)
    yield from ranges(whole * packed, packed)
    if rest:
        yield Range(whole * packed, 1, -(-rest // depth))


class _Scores:
    """The scores of one query position of a wave, for the kv heads of some rows."""

    def __init__(
        self, at: Lowering, wave: _Wave, cache: BankPattern, group: int, kv: int, depth: int, tokens: int, scale: float
    ) -> None:
        self.at, self.wave, self.group, self.kv, self.tokens = at, wave, group, kv, tokens
        geometry = at.spec.dram.geometry
        self.tiles = Tiles(at, cache.channel, wave.channels)
        self.columns = -(-depth // LANES)
        self.packed = cache.dims[1].byte[0]
        self.slot_columns = max(cache.dims[1].byte[1], self.columns * COLUMN_BYTES) // COLUMN_BYTES
        self.chunk_rows, self.tile_rows = cache.dims[1].row[1], cache.dims[2].row[1]
        held = geometry.row_bytes // COLUMN_BYTES
        self.queries = max(1, min(group, held // (kv * self.columns)))
        self.count = -(-tokens // geometry.banks)
        head_bytes = self.count * geometry.banks * CELL_BYTES
        self.strides = (self.queries * kv * head_bytes, kv * head_bytes, head_bytes)
        """bytes between results of channels, queries and kv heads"""
        if wave.is_returned:
            self.strides = (wave.target_request, wave.target_head, wave.target_head * group)
        self.results = Results(cache.channel, self.strides[0], wave.channels)
        arena = Arena(at)
        self.first = cache.channel * geometry.stride_channel
        self.stages = {n: self._stage(arena, n, depth, scale) for n in {self.queries, group % self.queries} if n}
        slots = 0 if wave.is_returned else STAGING_SLOTS
        self.near = [arena.take(wave.channels * self.results.channel) for _ in range(slots)]
        self.arena = arena

    def _stage(self, arena: Arena, queries: int, depth: int, scale: float) -> Stage:
        size, wave = self.columns * COLUMN_BYTES, self.wave
        moves: list[Move] = [
            (wave.channels, wave.source_request or 1, self.at.spec.dram.geometry.stride_channel),
            (queries, wave.source_head or 1, self.kv * size),
            (self.kv, wave.source_head * self.group or 1, size),
        ]
        return Stage(self.at, arena, wave.source, moves, depth, scale)

    def run(self, source: Scalar, target: Scalar, row: Scalar, slot: int, heads: Range) -> None:
        for c, other in self.at.emit.tiles(heads.turns, STAGING_SLOTS):
            first = (c * self.kv + heads.start) * self.group
            chunk_row = row + (c + heads.start // self.packed) * self.chunk_rows
            here, there = source + first * self.wave.source_head, target + first * self.wave.target_head
            for query, count, turn in chunks(self.at.emit, self.group, self.queries, STAGING_SLOTS):
                self._queries(
                    here + query * self.wave.source_head, there + query * self.wave.target_head, chunk_row, count,
                    slot + other + turn,
                )  # fmt: skip

    def _queries(self, source: Scalar, target: Scalar, row: Scalar, queries: int, slot: int) -> None:
        """Some query heads of every kv head in a row, which are in the global buffer together."""
        filling = Filling(0, 1, queries * self.kv * self.columns * LANES)
        self.stages[queries].put(source, staging(self.at, slot, filling) + self.first, slot)
        self.tiles.global_write(0, slot, filling.columns)
        near = target if self.wave.is_returned else self.near[slot % STAGING_SLOTS]
        with self.at.emit.loop(self.count) as r:
            tile_row = row + r * self.tile_rows
            self.tiles.header(tile_row, filling.columns, queries * self.kv)
            with self.at.emit.loop(queries) as g, self.at.emit.loop(self.kv) as h:
                number = g * self.kv + h
                head = near + g * self.strides[1] + h * self.strides[2]
                there = self.results.address(head + r * (self.tiles.banks * CELL_BYTES))
                self.tiles.result(tile_row, self.columns, h * self.slot_columns, number * self.columns, there)
        wave = self.wave
        if wave.is_returned:
            return
        counts = (wave.channels, queries, self.kv, self.tokens)
        strides = (*self.strides, CELL_BYTES)
        out = (wave.target_request, wave.target_head, wave.target_head * self.group, wave.target.element)
        Sums(self.at, self.arena, counts, 1, 0).move(near, strides, wave.target, target, out)


def lower_context(node: Node, at: Lowering) -> None:
    """p[B, H, S, T] times the values [B, KV, T, D]: dims over banks, tokens along rows."""
    p, v = (x.type.static_shape for x in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    for wave in _waves(node, at, cache):
        kernel = _Context(at, wave, cache, p[1] // v[1], v[1], v[3], p[3])
        for (source, target, row), slot in wave.turns:
            kernel.run(source, target, row, slot)


class _Context:
    """The context of one query position of a wave."""

    def __init__(
        self, at: Lowering, wave: _Wave, cache: BankPattern, group: int, kv: int, depth: int, tokens: int
    ) -> None:
        self.at, self.wave, self.group, self.kv, self.depth = at, wave, group, kv, depth
        geometry = at.spec.dram.geometry
        self.tiles = Tiles(at, cache.channel, wave.channels)
        along, dim = cache.dims[2], cache.dims[3]
        self.head_rows, self.token_rows, self.dim_rows = cache.dims[1].row[1], along.row[1], dim.row[1]
        size = along.byte[0] if along.row[0] > 1 else tokens
        self.fillings = fillings(tokens, size, geometry.banks)
        self.parts = sum(f.count for f in self.fillings)
        self.dims = -(-depth // geometry.banks)
        held = geometry.row_bytes // COLUMN_BYTES // self.fillings[0].columns if self.parts == 1 else 1
        self.queries = max(1, min(group, held))
        self.first = cache.channel * geometry.stride_channel
        arena = Arena(at)
        self.stages = {
            n: [self._stage(arena, n, f) for f in self.fillings] for n in {self.queries, group % self.queries} if n
        }
        self.is_direct = wave.is_returned and self.parts == 1
        self.head_bytes = wave.target_head if self.is_direct else self.dims * geometry.banks * CELL_BYTES
        step = wave.target_request if self.is_direct else self.queries * self.head_bytes
        self.results = Results(cache.channel, step, wave.channels)
        self.part_bytes = wave.channels * self.results.channel
        self.size = self.parts * self.part_bytes
        self.has_places = wave.is_returned and group == self.queries and kv * self.size <= arena.left // 2
        """each head has a place of its own for its parts, so that none waits for the sums of one before"""
        self.near: list[int] = []
        if not self.is_direct:
            sizes = [kv * self.size] if self.has_places else [self.size] * STAGING_SLOTS
            self.near = [arena.take(size) for size in sizes]
        self.sums = {n: Sums(at, arena, (wave.channels, n, depth), self.parts, self.part_bytes) for n in self.stages}

    def _stage(self, arena: Arena, queries: int, filling: Filling) -> Stage:
        wave, geometry = self.wave, self.at.spec.dram.geometry
        moves: list[Move] = [
            (wave.channels, wave.source_request or 1, geometry.stride_channel),
            (queries, wave.source_head or 1, filling.columns * COLUMN_BYTES),
            (filling.count, filling.elements * wave.source.element, filling_stride(self.at)),
        ]
        return Stage(self.at, arena, wave.source, moves, filling.elements)

    def run(self, source: Scalar, target: Scalar, row: Scalar, slot: int) -> None:
        wave = self.wave
        for h, other in self.at.emit.tiles(self.kv, STAGING_SLOTS):
            here, there = source + h * (self.group * wave.source_head), target + h * (self.group * wave.target_head)
            for query, count, turn in chunks(self.at.emit, self.group, self.queries, STAGING_SLOTS):
                to, number = there + query * wave.target_head, slot + other + turn
                near = to if self.is_direct else self._near(h, number)
                self._queries(here + query * wave.source_head, to, near, row + h * self.head_rows, count, number)

    def _near(self, head: Scalar, slot: int) -> Scalar:
        return self.near[0] + head * self.size if self.has_places else self.near[slot % STAGING_SLOTS]

    def _queries(self, source: Scalar, target: Scalar, near: Scalar, row: Scalar, queries: int, slot: int) -> None:
        """Some query heads of one kv head, which are in the global buffer together."""
        wave, banks = self.wave, self.tiles.banks
        for filling, stage in zip(self.fillings, self.stages[queries], strict=True):
            start = filling.first * self.fillings[0].elements * wave.source.element
            stage.put(source + start, staging(self.at, slot, filling) + self.first, slot)
        for filling in self.fillings:
            over, bank = divmod(filling.first, banks)
            with self.at.emit.loop(filling.count) as c:
                self.tiles.global_write(bank + c, slot, queries * filling.columns, over=over)
                part_of = near + (c + filling.first) * self.part_bytes
                with self.at.emit.loop(self.dims) as d:
                    tile_row = row + (c + filling.first) * self.token_rows + d * self.dim_rows
                    self.tiles.header(tile_row, queries * filling.columns, queries)
                    with self.at.emit.loop(queries) as g:
                        there = self.results.address(part_of + g * self.head_bytes + d * (banks * CELL_BYTES))
                        self.tiles.result(tile_row, filling.columns, 0, g * filling.columns, there)
        if self.is_direct:
            return
        strides = (self.results.channel, self.head_bytes, CELL_BYTES)
        out = (wave.target_request, wave.target_head, wave.target.element)
        self.sums[queries].move(near, strides, wave.target, target, out)
