"""Matrix products on GDDR6-AiM: a vector in the global buffers meets a row of all banks.

Weights: output n is the sum of bank (n mod banks) of its channel; up to as many groups of outputs as there are
accumulators are summed side by side while the vector passes chunk by chunk, so no partial sum ever leaves the banks.
Attention: every share of channels works on its own (request, kv head); all of them in lock-step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import chunks, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_gather import Gather
from pimc.backends.pim.aim_isa import ReadMac, WriteGlobalBuffer
from pimc.backends.pim.aim_mac import accumulators, mac
from pimc.backends.pim.aim_transfer import SLOTS, Channels, Drain, Feed, Lot, copy_lot, mask_of, zero
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.pim.experts import ChosenExperts
from pimc.backends.pim.layouts import BankPattern
from pimc.backends.pim.products import (
    bank_pattern,
    element_stride,
    rows_of,
    single,
    vector_machine,
)
from pimc.backends.pim.shared_rows import SharedRows
from pimc.backends.pim.waves import Wave, waves
from pimc.ir.graph import Node
from pimc.record import record

# -- weights ----------------------------------------------------------------------------------------------------------


def lower_matmul(node: Node, at: Lowering) -> None:
    """x[..., K] times W[K, N] in a bank matrix: vector by vector, or several where rows have parts of several
    outputs."""
    x, w = (at.tensor(v) for v in node.inputs())
    y = at.tensor(node.result)
    shape = node.result.type.static_shape
    depth = next(iter(node.inputs())).type.static_shape[-1]
    weights = bank_pattern(node, at, w)
    if weights.dims[1].byte[0] > 1:
        SharedRows(node, at, x, y, weights, depth, shape[-1]).run(shape[:-1])
        return
    kernel = Gemv(node, at, x, y, weights, depth, shape[-1])
    for nest in rows_of(x, y, shape=shape[:-1]):
        for (source, target), _ in walk(at.emit, nest):
            kernel.run(source, target)


def lower_experts(node: Node, at: Lowering) -> None:
    """Vector by vector, each times the matrix of the expert that was chosen for it."""
    chosen = ChosenExperts.of(node, at)
    kernel = Gemv(node, at, chosen.x, chosen.y, chosen.first, chosen.depth, chosen.outputs)
    for source, target, _ in chosen.pairs(1):
        kernel.run(source, target)


class Gemv:
    """One vector of K elements times a bank matrix."""

    def __init__(
        self, node: Node, at: Lowering, x: Tensor, y: Tensor, weights: BankPattern, depth: int, outputs: int
    ) -> None:
        self.at, self.x = at, x
        self.weights, self.depth, self.outputs = weights, depth, outputs
        along, across = weights.dims
        used = across.channel[0]
        self.channels = Channels(mask_of(weights.channel, [across.channel]), used)
        self.groups = across.row
        self.chunks = along.row
        self.row_elements = along.byte[0] if along.row[0] > 1 else depth
        room = at.scratch.budget // 4
        arena = self.arena = self.scratch(at)
        stride = single(x.layout.dims[-1])
        self.regular = stride is not None
        columns = -(-min(self.row_elements, depth) // LANES)
        lot = Lot(x.space, x.dtype, (), stride or x.element_bytes)
        ragged = self.regular and depth % LANES > 0
        self.feed = Feed(at, arena, lot, self.channels, columns, ragged=ragged, room=room)
        if not self.regular:
            self.gather = Gather(at, arena, x, self.channels, columns, ragged=depth % LANES > 0)
        self.unit = used * LANES
        most = min(accumulators(at), self.groups[0])
        results = Lot(y.space, y.dtype, (), element_stride(node, y))
        self.drain = Drain(at, arena, results, self.channels, most, room=room)

    @staticmethod
    def scratch(at: Lowering) -> Arena:
        """What the kernel works in."""
        return Arena(at)

    def run(self, source: Scalar, target: Scalar) -> None:
        most = accumulators(self.at)
        whole = self.outputs // self.unit // most
        with self.at.emit.loop(whole) as i:
            self._batch(source, target, i * most, most, most * self.unit)
        rest = self.outputs - whole * most * self.unit
        if rest:
            self._batch(source, target, whole * most, -(-rest // self.unit), rest)

    def _batch(self, source: Scalar, target: Scalar, first: Scalar, groups: int, outputs: int) -> None:
        """Groups of outputs that have an accumulator each."""
        mask = self.channels.mask
        zero(self.at, mask, groups, self.x.dtype)
        for row, columns in self._vectors(source):
            with self.at.emit.loop(groups) as r:
                mac(self.at, columns, mask, self.weights.row + row + (first + r) * self.groups[1], r)
        self.drain.empty(0, target + first * (self.unit * self.drain.lot.element), outputs)

    def _vectors(self, source: Scalar) -> Iterator[tuple[Scalar, int]]:
        """Bring the vector into the global buffers, chunk by chunk: yields the chunk's row offset and columns."""
        size = self.row_elements
        whole, rest = divmod(self.depth, size)
        if not self.regular:
            yield from self._gathered(source)
            return
        with self.at.emit.loop(whole) as c:
            self.feed.fill(source + c * (size * self.feed.lot.element), size)
            yield c * self.chunks[1], -(-size // LANES)
        if rest:
            self.feed.fill(source + whole * size * self.feed.lot.element, rest)
            yield whole * self.chunks[1], -(-rest // LANES)

    def _gathered(self, source: Scalar) -> Iterator[tuple[Scalar, int]]:
        """The same for a vector whose elements do not lie at one distance."""
        for number, start in enumerate(range(0, self.depth, self.row_elements)):
            stop = min(self.depth, start + self.row_elements)
            self.gather.fill(number, source, start, stop)
            yield number * self.chunks[1], -(-(stop - start) // LANES)


# -- attention --------------------------------------------------------------------------------------------------------


@record
class Vectors:
    """Query positions and heads of a group that are in the global buffers together."""

    wave: Wave
    positions: int
    heads: int

    @property
    def count(self) -> int:
        return self.positions * self.heads

    def first(self, source: Scalar, target: Scalar, position: Scalar, head: Scalar) -> tuple[Scalar, Scalar]:
        """The first vector and the first result, for a turn's own."""
        here = source + position * self.wave.source_step + head * self.wave.source_head
        return here, target + position * self.wave.target_step + head * self.wave.target_head

    @contextmanager
    def each(self, emit: Emitter) -> Iterator[tuple[Scalar, Scalar, Scalar]]:
        """Loops over them: the number of a vector, and the bytes to it and to its result."""
        with emit.loop(self.positions) as p, emit.loop(self.heads) as h:
            near = p * self.wave.source_step + h * self.wave.source_head
            yield p * self.heads + h, near, p * self.wave.target_step + h * self.wave.target_head


def result_bytes(wave: Wave) -> int:
    """Bytes of an accumulator of every bank: what a Drain needs at least, in each of its slots."""
    return wave.channels.shares * wave.channels.unit * CELL_BYTES


class Outlet:
    """Brings the results of several vectors out in one copy, where the buffer has room for them."""

    def __init__(self, at: Lowering, arena: Arena, wave: Wave, registers: int) -> None:
        """registers: accumulators at a time, at most."""
        self.at, self.wave = at, wave
        self.size = wave.channels.shares * registers * wave.channels.unit * CELL_BYTES
        room = min(arena.left * 3 // 4, arena.left - SLOTS * padded(result_bytes(wave)))
        fits = SLOTS * padded(self.size) <= room and at.spec.dma is not None
        self.slots = [arena.take(self.size) for _ in range(SLOTS)] if fits else []
        self.turn = 0

    def takes(self, registers: int) -> bool:
        needed = self.wave.channels.shares * registers * self.wave.channels.unit * CELL_BYTES
        return bool(self.slots) and needed <= self.size

    def empty(self, block: Vectors, registers: int, target: Scalar, elements: int) -> None:
        """`registers` accumulators of each vector; `elements` of each go to their places from `target` on."""
        channels, lot = self.wave.channels, self.wave.target
        near = self.slots[self.turn % SLOTS]
        self.turn += 1
        unit, pitch = channels.unit * CELL_BYTES, registers * channels.unit * CELL_BYTES
        stride = block.count * pitch if channels.shares > 1 else 0
        with self.at.emit.loop(block.count * registers) as i:
            command = ReadMac(i, channels.mask, near + i * unit, stride, channels.share, lot.dtype)
            self.at.emit.issue("pim", command)
        vectors = (*lot.vectors, (block.positions, self.wave.target_step), (block.heads, self.wave.target_head))
        joint = Lot(lot.space, lot.dtype, tuple(d for d in vectors if d[0] > 1), lot.element)
        copy_lot(self.at, joint, target, near, pitch, elements, out=True)


def lower_scores(node: Node, at: Lowering) -> None:
    """q[B, H, S, D] times the keys [B, KV, T, D]: tokens over banks, a row opened once for all heads of a group, and
    for as many query positions as global buffers and accumulators hold."""
    q, k = (v.type.static_shape for v in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    scale = node.attribute("scale")
    assert isinstance(scale, int | float)
    vectors, results = at.tensor(next(node.inputs())), at.tensor(node.result)
    for wave in waves(node, at, vectors, results, cache, cache.dims[2].channel[0], together=True):
        kernel = _Scores(at, wave, cache, q[1] // k[1], q[3], k[2], float(scale))
        for (source, target, row), _ in wave.turns:
            kernel.run(source, target, row)


class _Scores:
    """The scores of all pairs of a wave."""

    def __init__(
        self, at: Lowering, wave: Wave, cache: BankPattern, group: int, depth: int, tokens: int, scale: float
    ) -> None:
        self.at, self.wave, self.group = at, wave, group
        self.depth, self.tokens = depth, tokens
        self.columns = -(-depth // LANES)
        token = cache.dims[2]
        self.row_step = token.row[1]
        self.slots, slot_bytes = token.byte
        self.slot_columns = slot_bytes // COLUMN_BYTES
        assert at.spec.pim is not None
        held = at.spec.pim.global_buffer_bytes // COLUMN_BYTES // self.columns
        most = min(held, accumulators(at))
        self.heads = min(group, most)
        # All slots of a row have an accumulator: results that leave in shorter stretches cost more than opening again.
        self.positions = max(1, min(wave.steps, held // group, accumulators(at) // (group * self.slots)))
        self.at_once = accumulators(at) // (self.heads * self.positions)
        room = at.scratch.budget // 4
        arena = Arena(at)
        machine = vector_machine(at) if scale != 1.0 else None
        ragged = depth % LANES > 0
        self.feed = Feed(
            at, arena, wave.source, wave.channels, self.columns, ragged=ragged, room=room, machine=machine, scale=scale
        )
        together = self.heads * self.positions * min(self.at_once, self.slots)
        self.out = Outlet(at, arena, wave, together)
        room = min(room, arena.left // 2)
        self.drain = Drain(at, arena, wave.target, wave.channels, self.slots, room=room)

    def run(self, source: Scalar, target: Scalar, row: Scalar) -> None:
        for position, positions, _ in chunks(self.at.emit, self.wave.steps, self.positions):
            for head, heads, _ in chunks(self.at.emit, self.group, self.heads):
                block = Vectors(self.wave, positions, heads)
                here, there = block.first(source, target, position, head)
                with block.each(self.at.emit) as (number, near, _):
                    self.feed.fill(here + near, self.depth, number * self.columns)
                self._rows(there, row, block)

    def _rows(self, target: Scalar, row: Scalar, block: Vectors) -> None:
        in_row = self.slots * self.wave.channels.unit
        whole, rest = divmod(self.tokens, in_row)
        step = in_row * self.wave.target.element
        with self.at.emit.loop(whole) as r:
            self._row(target + r * step, row + r * self.row_step, block, in_row)
        if rest:
            self._row(target + whole * step, row + whole * self.row_step, block, rest)

    def _row(self, target: Scalar, row: Scalar, block: Vectors, tokens: int) -> None:
        """One row index: slots in batches that have an accumulator for every vector."""
        unit, mask = self.wave.channels.unit, self.wave.channels.mask
        for first in range(0, -(-tokens // unit), self.at_once):
            here = min(tokens - first * unit, self.at_once * unit)
            slots = -(-here // unit)
            zero(self.at, mask, block.count * slots, self.wave.source.dtype)
            with self.at.emit.loop(block.count) as i, self.at.emit.loop(slots) as s:
                column = (s + first) * self.slot_columns
                mac(self.at, self.columns, mask, row, i * slots + s, column, i * self.columns)
            there = target + first * unit * self.wave.target.element
            if self.out.takes(block.count * slots):
                self.out.empty(block, slots, there, here)
                continue
            with block.each(self.at.emit) as (i, _, far):
                self.drain.empty(i * slots, there + far, here)


class Inlet:
    """Brings several vectors into global buffers by one copy, where the on-chip buffer has room for them."""

    def __init__(self, at: Lowering, arena: Arena, wave: Wave, vectors: int, columns: int) -> None:
        self.at, self.wave = at, wave
        self.size = wave.channels.shares * vectors * columns * COLUMN_BYTES
        room = min(arena.left * 3 // 4, arena.left - SLOTS * padded(result_bytes(wave)))
        fits = vectors > 1 and SLOTS * padded(self.size) <= room and at.spec.dma is not None
        self.slots = [arena.take(self.size) for _ in range(SLOTS)] if fits else []
        self.turn = 0

    def takes(self, block: Vectors, elements: int) -> bool:
        """Whether it can bring so many elements of each; only whole columns, since nothing lies behind them."""
        needed = self.wave.channels.shares * block.count * elements * CELL_BYTES
        return bool(self.slots) and elements % LANES == 0 and needed <= self.size

    def fill(self, block: Vectors, source: Scalar, elements: int) -> None:
        """Elements of all vectors, one vector's columns behind the other's."""
        channels, lot, columns = self.wave.channels, self.wave.source, elements // LANES
        near = self.slots[self.turn % SLOTS]
        self.turn += 1
        vectors = (*lot.vectors, (block.positions, self.wave.source_step), (block.heads, self.wave.source_head))
        joint = Lot(lot.space, lot.dtype, tuple(d for d in vectors if d[0] > 1), lot.element)
        copy_lot(self.at, joint, source, near, columns * COLUMN_BYTES, elements, out=False)
        stride = block.count * columns * COLUMN_BYTES if channels.shares > 1 else 0
        total = block.count * columns
        self.at.emit.issue("pim", WriteGlobalBuffer(total, near, channels.mask, 0, stride, channels.share, lot.dtype))


def lower_context(node: Node, at: Lowering) -> None:
    """p[B, H, S, T] times the values [B, KV, T, D]: dims over banks, tokens along rows."""
    p, v = (x.type.static_shape for x in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    vectors, results = at.tensor(next(node.inputs())), at.tensor(node.result)
    for wave in waves(node, at, vectors, results, cache, cache.dims[3].channel[0], together=True):
        kernel = _Context(at, wave, cache, p[1] // v[1], v[3], p[3])
        for (source, target, row), _ in wave.turns:
            kernel.run(source, target, row)


class _Context:
    """The context of all pairs of a wave."""

    def __init__(self, at: Lowering, wave: Wave, cache: BankPattern, group: int, depth: int, tokens: int) -> None:
        self.at, self.wave, self.group = at, wave, group
        self.depth, self.tokens = depth, tokens
        along, dim = cache.dims[2], cache.dims[3]
        self.row_step = along.row[1]
        self.row_tokens = along.byte[0] if along.row[0] > 1 else tokens
        self.turn_rows = dim.row[1]
        self.slots, slot_bytes = dim.byte
        self.slot_columns = slot_bytes // COLUMN_BYTES
        assert at.spec.pim is not None
        columns = -(-min(tokens, self.row_tokens) // LANES)
        units = -(-depth // wave.channels.unit)
        held = at.spec.pim.global_buffer_bytes // COLUMN_BYTES // columns
        most = max(1, min(held, accumulators(at) // max(units, self.slots)))
        self.heads = min(group, most)
        self.positions = max(1, min(wave.steps, most // group))
        self.turns = max(1, accumulators(at) // (self.heads * self.positions * self.slots))
        room = at.scratch.budget // 4
        arena = Arena(at)
        self.feed = Feed(at, arena, wave.source, wave.channels, columns, ragged=tokens % LANES > 0, room=room)
        self.inlet = Inlet(at, arena, wave, self.heads * self.positions, columns)
        room = min(room, arena.left // 2)
        self.drain = Drain(at, arena, wave.target, wave.channels, units, room=room)

    def run(self, source: Scalar, target: Scalar, row: Scalar) -> None:
        for position, positions, _ in chunks(self.at.emit, self.wave.steps, self.positions):
            for head, heads, _ in chunks(self.at.emit, self.group, self.heads):
                block = Vectors(self.wave, positions, heads)
                here, there = block.first(source, target, position, head)
                step = self.turns * self.slots * self.wave.channels.unit
                for first in range(0, self.depth, step):
                    turn_row = row + first // step * self.turns * self.turn_rows
                    dims = min(step, self.depth - first)
                    self._dims(here, there + first * self.wave.target.element, turn_row, block, dims)

    def _dims(self, source: Scalar, target: Scalar, row: Scalar, block: Vectors, dims: int) -> None:
        """As many dims as have an accumulator for every vector."""
        units = -(-dims // self.wave.channels.unit)
        turns, rest = divmod(units, self.slots)
        zero(self.at, self.wave.channels.mask, block.count * units, self.wave.source.dtype)

        def over_tokens(row: Scalar, columns: int) -> None:
            with self.at.emit.loop(block.count) as h:
                with self.at.emit.loop(turns) as t, self.at.emit.loop(self.slots) as s:
                    self._mac(columns, row + t * self.turn_rows, h, h * units + t * self.slots + s, s)
                with self.at.emit.loop(rest) as s:
                    self._mac(columns, row + turns * self.turn_rows, h, h * units + turns * self.slots + s, s)

        self._chunks(source, row, block, over_tokens)
        with block.each(self.at.emit) as (i, _, far):
            self.drain.empty(i * units, target + far, dims)

    def _chunks(self, source: Scalar, row: Scalar, block: Vectors, work: Callable[[Scalar, int], None]) -> None:
        """Bring the probabilities into the global buffers, as many tokens as a row has at a time."""
        size, element = self.row_tokens, self.wave.source.element
        whole, rest = divmod(self.tokens, size)

        def chunk(at: Scalar, row: Scalar, tokens: int) -> None:
            columns = -(-tokens // LANES)
            if self.inlet.takes(block, tokens):
                self.inlet.fill(block, at, tokens)
            else:
                with block.each(self.at.emit) as (i, near, _):
                    self.feed.fill(at + near, tokens, i * columns)
            work(row, columns)

        with self.at.emit.loop(whole) as c:
            chunk(source + c * (size * element), row + c * self.row_step, size)
        if rest:
            chunk(source + whole * size * element, row + whole * self.row_step, rest)

    def _mac(self, columns: int, row: Scalar, head: Scalar, register: Scalar, slot: Scalar) -> None:
        mac(self.at, columns, self.wave.channels.mask, row, register, slot * self.slot_columns, head * columns)
