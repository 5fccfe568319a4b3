"""Matrix products on GDDR6-AiM: a vector in the global buffers meets a row of all banks.

Weights: output n is the sum of bank (n mod banks) of its channel; up to as many groups of outputs as there are
accumulators are summed side by side while the vector passes chunk by chunk, so no partial sum ever leaves the banks.
Attention: every share of channels works on its own (request, kv head); all of them in lock-step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import chunks, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_isa import MacAllBanks, WriteGlobalBuffer
from pimc.backends.pim.aim_transfer import SLOTS, Channels, Drain, Feed, Lot, clear, mask_of, zero
from pimc.backends.pim.cells import COLUMN_BYTES, LANES
from pimc.backends.pim.experts import ChosenExperts
from pimc.backends.pim.layouts import BankPattern
from pimc.backends.pim.products import (
    bank_pattern,
    element_stride,
    gather_vector,
    rows_of,
    single,
    vector_machine,
)
from pimc.backends.pim.waves import Wave, waves
from pimc.ir.graph import Node
from pimc.ir.types import DType


def accumulators(at: Lowering) -> int:
    assert at.spec.pim is not None
    return at.spec.pim.accumulators


def mac(
    at: Lowering, count: int, mask: int, row: Scalar, register: Scalar, column: Scalar = 0, vector: Scalar = 0
) -> None:
    sums = DType.parse(at.spec.accumulator)
    command = MacAllBanks(count, mask, row, register, column, vector, "gb", at.spec.storage_dtype, sums)
    at.emit.issue("pim", command)


# -- weights ----------------------------------------------------------------------------------------------------------


def lower_matmul(node: Node, at: Lowering) -> None:
    """x[..., K] times W[K, N] in a bank matrix: vector by vector."""
    x, w = (at.tensor(v) for v in node.inputs())
    y = at.tensor(node.result)
    shape = node.result.type.static_shape
    depth = next(iter(node.inputs())).type.static_shape[-1]
    kernel = Gemv(node, at, x, y, bank_pattern(node, at, w), depth, shape[-1])
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
        arena = Arena(at)
        stride = single(x.layout.dims[-1])
        self.regular = stride is not None
        columns = -(-min(self.row_elements, depth) // LANES)
        lot = Lot(x.space, x.dtype, (), stride or x.element_bytes)
        ragged = self.regular and depth % LANES > 0
        self.feed = Feed(at, arena, lot, self.channels, columns, ragged=ragged, room=room)
        if not self.regular:
            self.gathered = [arena.take(columns * COLUMN_BYTES) for _ in range(SLOTS)]
        self.unit = used * LANES
        most = min(accumulators(at), self.groups[0])
        results = Lot(y.space, y.dtype, (), element_stride(node, y))
        self.drain = Drain(at, arena, results, self.channels, most, room=room)

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
            columns = -(-(stop - start) // LANES)
            near = self.gathered[number % SLOTS]
            if (stop - start) % LANES:
                clear(self.at, near + (columns - 1) * COLUMN_BYTES, 1, self.x.dtype)
            gather_vector(self.at, self.x, source, near, start, stop)
            mask, share = self.channels.mask, self.channels.share
            self.at.emit.issue("pim", WriteGlobalBuffer(columns, near, mask, 0, 0, share, self.x.dtype))
            yield number * self.chunks[1], columns


# -- attention --------------------------------------------------------------------------------------------------------


def lower_scores(node: Node, at: Lowering) -> None:
    """q[B, H, S, D] times the keys [B, KV, T, D]: tokens over banks, a row opened once for all heads of a group."""
    q, k = (v.type.static_shape for v in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    scale = node.attribute("scale")
    assert isinstance(scale, int | float)
    ends = at.tensor(next(node.inputs())), at.tensor(node.result)
    for wave in waves(node, *ends, cache, cache.dims[2].channel[0], at):
        kernel = _Scores(at, wave, cache, q[1] // k[1], q[3], k[2], float(scale))
        for (source, target, row), _ in wave.turns:
            kernel.run(source, target, row)


class _Scores:
    """The scores of one query position of all pairs of a wave."""

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
        self.heads = min(group, held, accumulators(at))
        self.at_once = accumulators(at) // self.heads
        room = at.scratch.budget // 4
        arena = Arena(at)
        machine = vector_machine(at) if scale != 1.0 else None
        ragged = depth % LANES > 0
        self.feed = Feed(
            at, arena, wave.source, wave.channels, self.columns, ragged=ragged, room=room, machine=machine, scale=scale
        )
        self.drain = Drain(at, arena, wave.target, wave.channels, self.slots, room=room)

    def run(self, source: Scalar, target: Scalar, row: Scalar) -> None:
        for head, heads, _ in chunks(self.at.emit, self.group, self.heads):
            with self.at.emit.loop(heads) as h:
                self.feed.fill(source + (head + h) * self.wave.source_head, self.depth, h * self.columns)
            self._rows(target + head * self.wave.target_head, row, heads)

    def _rows(self, target: Scalar, row: Scalar, heads: int) -> None:
        in_row = self.slots * self.wave.channels.unit
        whole, rest = divmod(self.tokens, in_row)
        step = in_row * self.wave.target.element
        with self.at.emit.loop(whole) as r:
            self._row(target + r * step, row + r * self.row_step, heads, in_row)
        if rest:
            self._row(target + whole * step, row + whole * self.row_step, heads, rest)

    def _row(self, target: Scalar, row: Scalar, heads: int, tokens: int) -> None:
        """One row index: slots in batches that have an accumulator for every head."""
        unit, mask = self.wave.channels.unit, self.wave.channels.mask
        for first in range(0, -(-tokens // unit), self.at_once):
            here = min(tokens - first * unit, self.at_once * unit)
            slots = -(-here // unit)
            zero(self.at, mask, heads * slots, self.wave.source.dtype)
            with self.at.emit.loop(heads) as h, self.at.emit.loop(slots) as s:
                column = (s + first) * self.slot_columns
                mac(self.at, self.columns, mask, row, h * slots + s, column, h * self.columns)
            with self.at.emit.loop(heads) as h:
                there = target + first * unit * self.wave.target.element
                self.drain.empty(h * slots, there + h * self.wave.target_head, here)


def lower_context(node: Node, at: Lowering) -> None:
    """p[B, H, S, T] times the values [B, KV, T, D]: dims over banks, tokens along rows."""
    p, v = (x.type.static_shape for x in node.inputs())
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    ends = at.tensor(next(node.inputs())), at.tensor(node.result)
    for wave in waves(node, *ends, cache, cache.dims[3].channel[0], at):
        kernel = _Context(at, wave, cache, p[1] // v[1], v[3], p[3])
        for (source, target, row), _ in wave.turns:
            kernel.run(source, target, row)


class _Context:
    """The context of one query position of all pairs of a wave."""

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
        self.heads = max(1, min(group, held, accumulators(at) // max(units, self.slots)))
        self.turns = max(1, accumulators(at) // (self.heads * self.slots))
        room = at.scratch.budget // 4
        arena = Arena(at)
        self.feed = Feed(at, arena, wave.source, wave.channels, columns, ragged=tokens % LANES > 0, room=room)
        self.drain = Drain(at, arena, wave.target, wave.channels, units, room=room)

    def run(self, source: Scalar, target: Scalar, row: Scalar) -> None:
        for head, heads, _ in chunks(self.at.emit, self.group, self.heads):
            here, there = source + head * self.wave.source_head, target + head * self.wave.target_head
            step = self.turns * self.slots * self.wave.channels.unit
            for first in range(0, self.depth, step):
                turn_row = row + first // step * self.turns * self.turn_rows
                dims = min(step, self.depth - first)
                self._dims(here, there + first * self.wave.target.element, turn_row, heads, dims)

    def _dims(self, source: Scalar, target: Scalar, row: Scalar, heads: int, dims: int) -> None:
        """As many dims as have an accumulator for every head."""
        units = -(-dims // self.wave.channels.unit)
        turns, rest = divmod(units, self.slots)
        zero(self.at, self.wave.channels.mask, heads * units, self.wave.source.dtype)

        def over_tokens(row: Scalar, columns: int) -> None:
            with self.at.emit.loop(heads) as h:
                with self.at.emit.loop(turns) as t, self.at.emit.loop(self.slots) as s:
                    self._mac(columns, row + t * self.turn_rows, h, h * units + t * self.slots + s, s)
                with self.at.emit.loop(rest) as s:
                    self._mac(columns, row + turns * self.turn_rows, h, h * units + turns * self.slots + s, s)

        self._chunks(source, row, heads, over_tokens)
        with self.at.emit.loop(heads) as h:
            self.drain.empty(h * units, target + h * self.wave.target_head, dims)

    def _chunks(self, source: Scalar, row: Scalar, heads: int, work: Callable[[Scalar, int], None]) -> None:
        """Bring the probabilities into the global buffers, as many tokens as a row has at a time."""
        size, element = self.row_tokens, self.wave.source.element
        whole, rest = divmod(self.tokens, size)

        def chunk(at: Scalar, row: Scalar, tokens: int) -> None:
            columns = -(-tokens // LANES)
            with self.at.emit.loop(heads) as h:
                self.feed.fill(at + h * self.wave.source_head, tokens, h * columns)
            work(row, columns)

        with self.at.emit.loop(whole) as c:
            chunk(source + c * (size * element), row + c * self.row_step, size)
        if rest:
            chunk(source + whole * size * element, row + whole * self.row_step, rest)

    def _mac(self, columns: int, row: Scalar, head: Scalar, register: Scalar, slot: Scalar) -> None:
        mac(self.at, columns, self.wave.channels.mask, row, register, slot * self.slot_columns, head * columns)
