"""Products with weights of several outputs to a row on GDDR6-AiM: a row that is open meets several vectors.

The global buffers hold a stretch of several vectors side by side, as long as an output's part of a row. Each output of
the row is multiplied with each of them, and each pair has an accumulator of its own: so a row is opened once for all
vectors, and what is in the buffers meets as many rows as there are accumulators left. With the whole row one output's,
as `Gemv` has it, the buffers hold a single vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import Axis, chunks, walk
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_gather import Gather
from pimc.backends.pim.aim_mac import accumulators, mac
from pimc.backends.pim.aim_transfer import SLOTS, Channels, Drain, Feed, Lot, mask_of, zero
from pimc.backends.pim.cells import COLUMN_BYTES, LANES
from pimc.backends.pim.layouts import BankPattern
from pimc.backends.pim.products import element_stride, rows_of, single
from pimc.ir.graph import Node
from pimc.record import record


@record
class Block:
    """Vectors that pass together: the first one's address and its result's, how many, and the bytes from one to the
    next."""

    source: Scalar
    target: Scalar
    vectors: int
    source_step: int
    target_step: int


@record
class Batch:
    """Outputs that have an accumulator for each vector of a block: row indices from `first` on, the slots of each of
    them that count, and how many outputs."""

    first: Scalar
    rows: tuple[int, ...]
    outputs: int

    @property
    def registers(self) -> int:
        """of each vector"""
        return sum(self.rows)

    def each(self, emit: Emitter) -> Iterator[tuple[Scalar, Scalar, int]]:
        """A loop over the rows that are full, then the last one: row, its first register, and its slots."""
        most = self.rows[0]
        full = sum(slots == most for slots in self.rows)
        with emit.loop(full) as r:
            yield self.first + r, r * most, most
        if full < len(self.rows):
            yield self.first + full, full * most, self.rows[-1]


class SharedRows:
    """Vectors of K elements times a bank matrix whose rows have parts of several outputs."""

    def __init__(
        self, node: Node, at: Lowering, x: Tensor, y: Tensor, weights: BankPattern, depth: int, outputs: int
    ) -> None:
        self.at, self.x, self.y = at, x, y
        self.weights, self.depth, self.outputs = weights, depth, outputs
        assert at.spec.pim is not None
        along, across = weights.dims
        self.channels = Channels(mask_of(weights.channel, [across.channel]), across.channel[0])
        self.slots, slot_bytes = across.byte
        self.slot_columns = slot_bytes // COLUMN_BYTES
        self.stretch = along.byte[0] if along.row[0] > 1 else depth
        """elements of a vector that meet a row"""
        columns = -(-self.stretch // LANES)
        self.buffer_columns = at.spec.pim.global_buffer_bytes // COLUMN_BYTES
        self.most = max(1, min(self.buffer_columns // columns, accumulators(at) // self.slots))
        """vectors at a time"""
        room, arena = at.scratch.budget // 4, Arena(at)
        stride = single(x.layout.dims[-1])
        self.is_regular = stride is not None
        lot = Lot(x.space, x.dtype, (), stride or x.element_bytes)
        held = min(self.buffer_columns, -(-depth // LANES))
        ragged = self.is_regular and depth % LANES > 0
        self.feeds = [
            Feed(at, arena, lot, self.channels, held, ragged=ragged, room=room // SLOTS) for _ in range(SLOTS)
        ]
        if not self.is_regular:
            self.gather = Gather(at, arena, x, self.channels, held, ragged=depth % LANES > 0)
        self.unit = across.channel[0] * LANES
        results = Lot(y.space, y.dtype, (), element_stride(node, y))
        self.drain = Drain(at, arena, results, self.channels, accumulators(at), room=room)

    def run(self, shape: tuple[int, ...]) -> None:
        """All vectors; shape: of the result but for its last dimension."""
        emit = self.at.emit
        for nest in rows_of(self.x, self.y, shape=shape):
            inner = nest.axes[-1] if nest.axes else Axis(1, (0, 0))
            near, far = inner.strides
            for (source, target), _ in walk(emit, replace(nest, axes=nest.axes[:-1])):
                for first, count, _ in chunks(emit, inner.count, self.most):
                    self._block(Block(source + first * near, target + first * far, count, near, far))

    def _block(self, block: Block) -> None:
        in_row = self.slots * self.unit
        rows = max(1, accumulators(self.at) // (self.slots * block.vectors))
        whole, rest = divmod(self.outputs, rows * in_row)
        with self.at.emit.loop(whole) as i:
            self._batch(block, Batch(i * rows, (self.slots,) * rows, rows * in_row))
        if rest:
            full, left = divmod(-(-rest // self.unit), self.slots)
            self._batch(block, Batch(whole * rows, (self.slots,) * full + (left,) * (left > 0), rest))

    def _batch(self, block: Block, batch: Batch) -> None:
        zero(self.at, self.channels.mask, block.vectors * batch.registers, self.x.dtype)
        at_once = max(1, self.buffer_columns // (block.vectors * -(-self.stretch // LANES)))
        whole, rest = divmod(self.depth, self.stretch)
        if self.is_regular:
            for start, count, _ in chunks(self.at.emit, whole, at_once):
                self._stretches(block, batch, start, count, self.stretch)
        else:
            for first in range(0, whole, at_once):
                self._stretches(block, batch, first, min(at_once, whole - first), self.stretch)
        if rest:
            self._stretches(block, batch, whole, 1, rest)
        element = self.drain.lot.element
        there = block.target + batch.first * (self.slots * self.unit * element)
        for v in range(block.vectors):
            self.drain.empty(v * batch.registers, there + v * block.target_step, batch.outputs)

    def _stretches(self, block: Block, batch: Batch, start: Scalar, count: int, elements: int) -> None:
        """`count` stretches of every vector, from number `start` on, times the rows that they meet."""
        columns = -(-elements // LANES)
        held = count * columns
        for v in range(block.vectors):
            self._fill(v, block.source + v * block.source_step, start, count * elements, v * held)
        emit, mask = self.at.emit, self.channels.mask
        along, across = self.weights.dims
        with emit.loop(count) as c:
            for row, register, slots in batch.each(emit):
                here = self.weights.row + (start + c) * along.row[1] + row * across.row[1]
                with emit.loop(block.vectors) as vector, emit.loop(slots) as slot:
                    sums, near = vector * batch.registers + register + slot, vector * held + c * columns
                    mac(self.at, columns, mask, here, sums, slot * self.slot_columns, near)

    def _fill(self, number: int, source: Scalar, start: Scalar, elements: int, column: int) -> None:
        """Elements of a vector from a stretch on to the global buffers, from a column on."""
        if self.is_regular:
            feed = self.feeds[number % SLOTS]
            feed.fill(source + start * (self.stretch * feed.lot.element), elements, column)
            return
        assert isinstance(start, int)
        first = start * self.stretch
        self.gather.fill(number, source, first, first + elements, column)
