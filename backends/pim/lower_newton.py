"""Matrix products on Newton-style PIM: each channel works on its own rows, tile by tile.

A tile is one row index in all banks of a channel: after a HEADER, each result takes COMPs over columns of that row with
the global buffer, and gives one value for every bank. Sums over several fillings of the global buffer are added by the
vector unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from typing import Generic, Protocol, TypeVar

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import chunks, nests, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.pim.experts import ChosenExperts
from pimc.backends.pim.layouts import STAGED_WAVES, STAGING_ROWS, STAGING_SLOTS, BankPattern
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
from pimc.backends.ragged import Group, groups_of, part_of
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.record import record


@record
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
    row = slot * STAGING_ROWS + over
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
        slot %= STAGING_SLOTS
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


@record
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
    for wave in _waves(node, at, _cache(node, at)):
        kernels = _score_kernels(node, at, wave)
        for _, kernel in kernels:
            allot(kernel.arena, [[kernel]])
        for (source, target, row), slot in wave.turns:
            for heads, kernel in kernels:
                run_scores(at, heads, [[_turn(kernel, source, target, row)]], slot)


def lower_context(node: Node, at: Lowering) -> None:
    """p[B, H, S, T] times the values [B, KV, T, D]: dims over banks, tokens along rows."""
    for wave in _waves(node, at, _cache(node, at)):
        kernel = _context_kernel(node, at, wave)
        allot(kernel.arena, [[kernel]])
        for (source, target, row), slot in wave.turns:
            run_context(at, [[_turn(kernel, source, target, row)]], slot)


def _cache(node: Node, at: Lowering) -> BankPattern:
    return bank_pattern(node, at, at.tensor(list(node.inputs())[1]))


def _score_kernels(
    node: Node, at: Lowering, wave: _Wave, arena: Arena | None = None, lengths: Sequence[int] = ()
) -> list[tuple[Range, _Scores]]:
    """One kernel for the kv heads that fill rows, and one for those that are left over."""
    q, k = (v.type.static_shape for v in node.inputs())
    cache, scale = _cache(node, at), node.attribute("scale")
    assert isinstance(scale, int | float)
    return [
        (heads, _Scores(at, wave, cache, (q[1] // k[1], heads.together, q[3], k[2]), float(scale), arena, lengths))
        for heads in rows_of_heads(at, k[1], cache.dims[1].byte[0], q[3])
    ]


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


def _context_kernel(
    node: Node, at: Lowering, wave: _Wave, arena: Arena | None = None, lengths: Sequence[int] = (), most: int = 0
) -> _Context:
    p, v = (x.type.static_shape for x in node.inputs())
    return _Context(at, wave, _cache(node, at), (p[1] // v[1], v[1], v[3], p[3]), arena, lengths, most)


def queries_together(row_bytes: int, tokens: int) -> int:
    """How many vectors of weights the global buffer takes at once."""
    columns = -(-tokens // LANES)
    return max(1, row_bytes // COLUMN_BYTES // columns)


@record
class Places:
    """Where a turn of a kernel finds rows of the cache, and where its results go."""

    row: Scalar
    target: Scalar
    near: Scalar = 0
    """bytes from the kernel's first place for results on chip, where kv heads have places of their own"""


class _Kernel(Protocol):
    """The three steps of a product for the requests of a wave: vectors to the channels, tiles, results home."""

    @property
    def near_bytes(self) -> int:
        """What results take on chip, until they are collected."""
        ...

    def allot(self, near: Sequence[int]) -> None:
        """Where results go, by slot."""
        ...

    def stage(self, source: Scalar, queries: int, slot: int) -> None: ...
    def compute(self, at: Places, queries: int, slot: int) -> None: ...
    def collect(self, at: Places, queries: int, slot: int) -> None: ...


K = TypeVar("K", bound=_Kernel)


@record
class _Turn(Generic[K]):
    """A kernel at work: the address of its first vector, and its places."""

    kernel: K
    source: Scalar
    places: Places


def _turn(kernel: K, source: Scalar, target: Scalar, row: Scalar) -> _Turn[K]:
    return _Turn(kernel, source, Places(row, target))


def allot(arena: Arena, waves: Sequence[Sequence[_Kernel]]) -> None:
    """Room for results in both slots, for as many waves of its own as fit a quarter of the arena.

    A wave works before the one before it is collected: where they share the room, they take turns in its slots.
    """
    most = max(sum(padded(k.near_bytes) for k in wave) for wave in waves)
    sets = max(1, min(len(waves), arena.left // 4 // max(1, most * STAGING_SLOTS)))
    places = [[arena.take(most) for _ in range(STAGING_SLOTS)] for _ in range(sets)]
    for number, wave in enumerate(waves):
        offset, own = 0, places[number % sets]
        if sets == 1:
            own = [own[(slot + number) % STAGING_SLOTS] for slot in range(STAGING_SLOTS)]
        for kernel in wave:
            kernel.allot([slot + offset for slot in own])
            offset += padded(kernel.near_bytes)


def _in_step(waves: Sequence[Sequence[_Turn[K]]], queries: int, slot: int) -> None:
    """Wave after wave, each in all of its channels at once; the results of one come home while the next works."""
    slots = [slot % STAGING_SLOTS + STAGING_SLOTS * (i % STAGED_WAVES) for i in range(len(waves))]
    for i, wave in enumerate(waves):
        for turn in wave:
            turn.kernel.stage(turn.source, queries, slots[i])
        for turn in wave:
            turn.kernel.compute(turn.places, queries, slots[i])
        for turn in waves[i - 1] if i else ():
            turn.kernel.collect(turn.places, queries, slots[i - 1])
    for turn in waves[-1]:
        turn.kernel.collect(turn.places, queries, slots[-1])


def run_scores(at: Lowering, heads: Range, waves: Sequence[Sequence[_Turn[_Scores]]], slot: int) -> None:
    """The scores of one query position, for the kv heads of some rows."""
    one = waves[0][0].kernel
    for c, other in at.emit.tiles(heads.turns, STAGING_SLOTS):
        for query, count, turn in chunks(at.emit, one.group, one.queries, STAGING_SLOTS):
            moved = [[t.kernel.moved(t, heads, c, query) for t in wave] for wave in waves]
            _in_step(moved, count, slot + other + turn)


def run_context(at: Lowering, waves: Sequence[Sequence[_Turn[_Context]]], slot: int) -> None:
    """The context of one query position."""
    one = waves[0][0].kernel
    for h, other in at.emit.tiles(one.kv, STAGING_SLOTS):
        for query, count, turn in chunks(at.emit, one.group, one.queries, STAGING_SLOTS):
            moved = [[t.kernel.moved(t, h, query) for t in wave] for wave in waves]
            _in_step(moved, count, slot + other + turn)


def _spans(at: Lowering, first: int, channels: int, sizes: Sequence[int]) -> list[tuple[Tiles, int]]:
    """The tiles of channels that take equally many steps, with their number. One size: that of all channels."""
    if len(set(sizes)) == 1:
        return [(Tiles(at, first, channels), sizes[0])]
    found: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        found.setdefault(size, []).append(first + i)
    return [(Tiles(at, first, channels, tuple(members)), size) for size, members in found.items()]


class _Scores:
    """The scores of one query position of a wave, for the kv heads of some rows."""

    def __init__(
        self,
        at: Lowering,
        wave: _Wave,
        cache: BankPattern,
        sizes: tuple[int, int, int, int],
        scale: float,
        arena: Arena | None = None,
        lengths: Sequence[int] = (),
    ) -> None:
        """sizes: query heads of a kv head, kv heads of a row, head size, tokens. lengths: tokens by channel."""
        self.at, self.wave = at, wave
        self.group, self.kv, depth, self.tokens = sizes
        geometry = at.spec.dram.geometry
        self.tiles = Tiles(at, cache.channel, wave.channels)
        self.columns = -(-depth // LANES)
        self.packed = cache.dims[1].byte[0]
        self.slot_columns = max(cache.dims[1].byte[1], self.columns * COLUMN_BYTES) // COLUMN_BYTES
        self.chunk_rows, self.tile_rows = cache.dims[1].row[1], cache.dims[2].row[1]
        held = geometry.row_bytes // COLUMN_BYTES
        self.queries = max(1, min(self.group, held // (self.kv * self.columns)))
        self.count = -(-self.tokens // geometry.banks)
        counts = [-(-n // geometry.banks) for n in lengths or (self.tokens,)]
        self.spans = _spans(at, cache.channel, wave.channels, counts)
        head_bytes = self.count * geometry.banks * CELL_BYTES
        self.strides = (self.queries * self.kv * head_bytes, self.kv * head_bytes, head_bytes)
        """bytes between results of channels, queries and kv heads"""
        if wave.is_returned:
            self.strides = (wave.target_request, wave.target_head, wave.target_head * self.group)
        self.results = Results(cache.channel, self.strides[0], wave.channels)
        self.arena = arena or Arena(at)
        self.first = cache.channel * geometry.stride_channel
        self.stages = {n: self._stage(n, depth, scale) for n in {self.queries, self.group % self.queries} if n}

    def _stage(self, queries: int, depth: int, scale: float) -> Stage:
        size, wave = self.columns * COLUMN_BYTES, self.wave
        moves: list[Move] = [
            (wave.channels, wave.source_request or 1, self.at.spec.dram.geometry.stride_channel),
            (queries, wave.source_head or 1, self.kv * size),
            (self.kv, wave.source_head * self.group or 1, size),
        ]
        return Stage(self.at, self.arena, wave.source, moves, depth, scale)

    @property
    def near_bytes(self) -> int:
        return 0 if self.wave.is_returned else self.wave.channels * self.results.channel

    def allot(self, near: Sequence[int]) -> None:
        self.near = near

    def moved(self, turn: _Turn[_Scores], heads: Range, c: Scalar, query: Scalar) -> _Turn[_Scores]:
        """The turn for row `c` of the kv heads, and query heads from `query` on."""
        first = (c * self.kv + heads.start) * self.group
        row = turn.places.row + (c + heads.start // self.packed) * self.chunk_rows
        source = turn.source + first * self.wave.source_head + query * self.wave.source_head
        target = turn.places.target + first * self.wave.target_head + query * self.wave.target_head
        return _Turn(self, source, Places(row, target))

    def _filling(self, queries: int) -> Filling:
        """Some query heads of every kv head in a row, which are in the global buffer together."""
        return Filling(0, 1, queries * self.kv * self.columns * LANES)

    def stage(self, source: Scalar, queries: int, slot: int) -> None:
        self.stages[queries].put(source, staging(self.at, slot, self._filling(queries)) + self.first, slot)

    def compute(self, at: Places, queries: int, slot: int) -> None:
        filling = self._filling(queries)
        self.tiles.global_write(0, slot, filling.columns)
        near = at.target if self.wave.is_returned else self.near[slot % STAGING_SLOTS]
        for tiles, count in self.spans:
            with self.at.emit.loop(count) as r:
                tile_row = at.row + r * self.tile_rows
                tiles.header(tile_row, filling.columns, queries * self.kv)
                with self.at.emit.loop(queries) as g, self.at.emit.loop(self.kv) as h:
                    number = g * self.kv + h
                    head = near + g * self.strides[1] + h * self.strides[2]
                    address = self.results.address(head + r * (tiles.banks * CELL_BYTES))
                    tiles.result(tile_row, self.columns, h * self.slot_columns, number * self.columns, address)

    def collect(self, at: Places, queries: int, slot: int) -> None:
        wave = self.wave
        if wave.is_returned:
            return
        near = self.near[slot % STAGING_SLOTS]
        counts = (wave.channels, queries, self.kv, self.tokens)
        strides = (*self.strides, CELL_BYTES)
        out = (wave.target_request, wave.target_head, wave.target_head * self.group, wave.target.element)
        Sums(self.at, self.arena, counts, 1, 0).move(near, strides, wave.target, at.target, out)


class _Context:
    """The context of one query position of a wave."""

    def __init__(
        self,
        at: Lowering,
        wave: _Wave,
        cache: BankPattern,
        sizes: tuple[int, int, int, int],
        arena: Arena | None = None,
        lengths: Sequence[int] = (),
        most: int = 0,
    ) -> None:
        """sizes: query heads of a kv head, kv heads, head size, tokens. lengths: tokens by channel. most: query
        heads at a time."""
        self.at, self.wave = at, wave
        self.group, self.kv, self.depth, tokens = sizes
        geometry = at.spec.dram.geometry
        self.tiles = Tiles(at, cache.channel, wave.channels)
        along, dim = cache.dims[2], cache.dims[3]
        self.head_rows, self.token_rows, self.dim_rows = cache.dims[1].row[1], along.row[1], dim.row[1]
        size = along.byte[0] if along.row[0] > 1 else tokens
        self.fillings = fillings(tokens, size, geometry.banks)
        if lengths:  # the last one by itself, since requests need different parts of it
            before = (-(-tokens // size) - 1) * size
            self.fillings = [*fillings(before, size, geometry.banks), Filling(before // size, 1, tokens - before)]
            last = [-(-(n - before) // LANES) for n in lengths]
        else:
            last = [self.fillings[-1].columns]
        self.last = _spans(at, cache.channel, wave.channels, last)
        self.parts = sum(f.count for f in self.fillings)
        self.dims = -(-self.depth // geometry.banks)
        self.queries = min(self.group, most or queries_together(geometry.row_bytes, tokens))
        self.first = cache.channel * geometry.stride_channel
        self.arena = arena or Arena(at)
        self.stages = {
            n: [self._stage(n, f) for f in self.fillings] for n in {self.queries, self.group % self.queries} if n
        }
        self.is_direct = wave.is_returned and self.parts == 1
        self.head_bytes = wave.target_head if self.is_direct else self.dims * geometry.banks * CELL_BYTES
        step = wave.target_request if self.is_direct else self.queries * self.head_bytes
        self.results = Results(cache.channel, step, wave.channels)
        self.part_bytes = wave.channels * self.results.channel
        size = self.parts * self.part_bytes
        has_places = wave.is_returned and not self.is_direct and self.group == self.queries
        self.head_room = size if has_places and self.kv * size <= self.arena.left // 4 else 0
        """bytes from head to head where each has places of its own, so that none waits for the sums of one before"""

    def _stage(self, queries: int, filling: Filling) -> Stage:
        wave, geometry = self.wave, self.at.spec.dram.geometry
        moves: list[Move] = [
            (wave.channels, wave.source_request or 1, geometry.stride_channel),
            (queries, wave.source_head or 1, filling.columns * COLUMN_BYTES),
            (filling.count, filling.elements * wave.source.element, filling_stride(self.at)),
        ]
        return Stage(self.at, self.arena, wave.source, moves, filling.elements)

    @property
    def near_bytes(self) -> int:
        return 0 if self.is_direct else self.parts * self.part_bytes * (self.kv if self.head_room else 1)

    def allot(self, near: Sequence[int]) -> None:
        self.near = near
        counts = (self.wave.channels, self.depth)
        self.sums = {
            n: Sums(self.at, self.arena, (counts[0], n, counts[1]), self.parts, self.part_bytes) for n in self.stages
        }

    def moved(self, turn: _Turn[_Context], h: Scalar, query: Scalar) -> _Turn[_Context]:
        """The turn for kv head `h` and its query heads from `query` on."""
        wave = self.wave
        source = turn.source + h * (self.group * wave.source_head) + query * wave.source_head
        target = turn.places.target + h * (self.group * wave.target_head) + query * wave.target_head
        return _Turn(self, source, Places(turn.places.row + h * self.head_rows, target, h * self.head_room))

    def stage(self, source: Scalar, queries: int, slot: int) -> None:
        """Some query heads of one kv head, which are in the global buffer together."""
        for filling, stage in zip(self.fillings, self.stages[queries], strict=True):
            start = filling.first * self.fillings[0].elements * self.wave.source.element
            stage.put(source + start, staging(self.at, slot, filling) + self.first, slot)

    def _near(self, at: Places, slot: int) -> Scalar:
        """Where parts of results go."""
        if self.is_direct:
            return at.target
        return self.near[0] + at.near if self.head_room else self.near[slot % STAGING_SLOTS]

    def compute(self, at: Places, queries: int, slot: int) -> None:
        banks, near = self.tiles.banks, self._near(at, slot)
        for filling in self.fillings:
            over, bank = divmod(filling.first, banks)
            spans = self.last if filling is self.fillings[-1] else [(self.tiles, filling.columns)]
            with self.at.emit.loop(filling.count) as c:
                self.tiles.global_write(bank + c, slot, queries * filling.columns, over=over)
                part_of = near + (c + filling.first) * self.part_bytes
                for tiles, columns in spans:
                    with self.at.emit.loop(self.dims) as d:
                        tile_row = at.row + (c + filling.first) * self.token_rows + d * self.dim_rows
                        tiles.header(tile_row, queries * columns, queries)
                        with self.at.emit.loop(queries) as g:
                            there = self.results.address(part_of + g * self.head_bytes + d * (banks * CELL_BYTES))
                            tiles.result(tile_row, columns, 0, g * filling.columns, there)

    def collect(self, at: Places, queries: int, slot: int) -> None:
        if self.is_direct:
            return
        wave, near = self.wave, self._near(at, slot)
        strides = (self.results.channel, self.head_bytes, CELL_BYTES)
        out = (wave.target_request, wave.target_head, wave.target.element)
        self.sums[queries].move(near, strides, wave.target, at.target, out)


# -- requests with lengths of their own -------------------------------------------------------------------------------


def lower_requests(node: Node, at: Lowering, ragged: Ragged) -> None:
    """A product of attention for requests that lie in channels of their own, wave by wave.

    Every request takes as many tiles as it has keys. Where there are several new tokens, or equal waves that a loop can
    run through, groups are lowered one after the other.
    """
    steps = node.result.type.static_shape[2]
    wave: list[Group] = []
    waves: list[list[Group]] = []
    for group in groups_of(ragged):
        channels = ragged.channels[group.start : group.start + group.size]
        if steps > 1 or len(set(channels)) < group.size:
            _RULES[node.op.name](*part_of(node, at, group))
            continue
        if wave and channels[0] <= ragged.channels[wave[-1].start + wave[-1].size - 1]:
            waves.append(wave)
            wave = []
        wave.append(group)
    waves += [wave] if wave else []
    if waves:
        _WAVES[node.op.name](node, at, ragged, waves)


def _wave_of(node: Node, at: Lowering) -> tuple[_Wave, tuple[Scalar, ...]]:
    """The one wave of a group in channels of its own, and its addresses."""
    (wave,) = _waves(node, at, _cache(node, at))
    ((starts, _),) = wave.turns
    return wave, starts


def _score_waves(node: Node, at: Lowering, ragged: Ragged, waves: Sequence[Sequence[Group]]) -> None:
    arena = Arena(at)
    made: dict[Range, list[list[_Turn[_Scores]]]] = {}
    for wave in waves:
        turns: dict[Range, list[_Turn[_Scores]]] = {}
        for group in wave:
            part, there = part_of(node, at, group)
            one, starts = _wave_of(part, there)
            lengths = ragged.lengths[group.start : group.start + group.size]
            for heads, kernel in _score_kernels(part, there, one, arena, lengths):
                turns.setdefault(heads, []).append(_turn(kernel, *starts))
        for heads, members in turns.items():
            made.setdefault(heads, []).append(members)
    for heads, found in made.items():
        allot(arena, [[t.kernel for t in wave] for wave in found])
        run_scores(at, heads, found, 0)


def _context_waves(node: Node, at: Lowering, ragged: Ragged, waves: Sequence[Sequence[Group]]) -> None:
    row_bytes = at.spec.dram.geometry.row_bytes
    most = queries_together(row_bytes, min(max(ragged.lengths), row_bytes // CELL_BYTES + 1))
    arena = Arena(at)
    made: list[list[_Turn[_Context]]] = []
    for wave in waves:
        turns: list[_Turn[_Context]] = []
        for group in (run for whole in wave for run in _same_rows(whole, ragged, row_bytes // CELL_BYTES)):
            part, there = part_of(node, at, group)
            one, starts = _wave_of(part, there)
            lengths = ragged.lengths[group.start : group.start + group.size]
            turns.append(_turn(_context_kernel(part, there, one, arena, lengths, most), *starts))
        made.append(turns)
    allot(arena, [[t.kernel for t in wave] for wave in made])
    run_context(at, made, 0)


def _same_rows(group: Group, ragged: Ragged, elements: int) -> Iterator[Group]:
    """Runs of requests of a group whose tokens fill equally many rows, so that equally many partial sums arise."""
    lengths = ragged.lengths[group.start : group.start + group.size]
    for _, run in groupby(range(group.size), key=lambda i: -(-lengths[i] // elements)):
        members = list(run)
        longest = max(lengths[i] for i in members)
        is_whole = len(members) == group.size
        yield Group(group.index, group.start + members[0], len(members), longest, members[0], is_whole)


_RULES = {"attention_scores": lower_scores, "attention_context": lower_context}
_WAVES = {"attention_scores": _score_waves, "attention_context": _context_waves}
