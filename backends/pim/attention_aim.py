"""Attention on GDDR6-AiM whose scores never leave the on-chip buffer.

Keys pass twice. The first time the scores of a chunk of tokens give the PNM units the largest score of every query.
The second time the accumulators begin at minus that number, so that what comes out is ready for the exponent units;
the exponentials go back into the global buffers and meet the values, and the sums that belong to the results stay in
the accumulators' place in the buffer from chunk to chunk. Only the results are divided by the sums of exponentials.

A row of keys or values is opened once for all query heads that are worked on together. While the PNM units are at one
chunk, the banks are at the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import lcm

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import ALIGNMENT, padded
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.places import given, operand
from pimc.backends.lowering import Lowering
from pimc.backends.pim.aim_isa import MacAllBanks, ReadMac, WriteBias
from pimc.backends.pim.aim_transfer import Channels, Feed, Lot, copy_lot, mask_of, zero
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.pim.layouts import BankPattern, bank_layout, pattern_of
from pimc.backends.pim.mapping import mapping_of
from pimc.backends.pim.products import bank_pattern, vector_machine
from pimc.backends.pim.waves import Wave, waves
from pimc.backends.planning import BufferSplit
from pimc.backends.target import PnmSpec, TargetSpec
from pimc.ir.diagnostics import InternalError
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node
from pimc.ir.types import DType
from pimc.record import record

F32_BYTES = DType.F32.bits // 8
LOWEST = -3.4e38
"""What the search for the largest score begins with."""
ROW_CLOCKS = 98
"""About what opening another row takes, for choosing sizes: activation, precharge and the gaps between."""
MOST_STRETCHES = 64
"""Queries that see different keys, beyond which the program would be too long: each has commands of its own."""
MODE_CLOCKS = 64
"""The same for going to registers and back."""
REGISTER_CLOCKS = 5
"""The same for writing and reading an accumulator."""


def why_not(node: Node, spec: TargetSpec) -> str:
    """Why attention cannot run as a whole; empty if it can."""
    q, k, v = (given(node, i).type for i in range(3))
    assert spec.pim is not None
    if spec.pim.style != "aim" or spec.pim.macs_per_bank != LANES or spec.dram.banks != LANES:
        return f"its banks do not work on columns of {LANES} elements, {LANES} banks to a channel"
    if mapping_of(spec).rules:
        return f"the mapping '{spec.mapping}' has its parts one by one"
    if spec.pnm is None:
        return "its softmax needs PNM units"
    if operand(node, 3) is not None or operand(node, 4) is not None or node.fact(Ragged) is not None:
        return "masks and lengths are for the softmax alone"
    if node.attribute("softcap") or node.attribute("window"):
        return "soft caps and windows are for the softmax alone"
    if operand(node, 1) is operand(node, 2):
        return "its keys are its values, which lie in the banks as one of them"
    if len(seen(node)) > MOST_STRETCHES:
        return f"more than {MOST_STRETCHES} queries see different keys"
    if not all(t.dtype.is_float and t.elements for t in (q, k, v)):
        return "there is nothing to multiply"
    if max(q.static_shape[3], v.static_shape[3]) * CELL_BYTES > spec.dram.row_bytes:
        return "a head does not fit a row"
    patterns = []
    for kind, shape in (("key", k.static_shape), ("value", v.static_shape)):
        layout, _ = bank_layout(spec, kind, 0, shape)
        patterns.append(pattern_of(layout, spec.dram.geometry))
    keys, values = patterns
    if keys is None or values is None:
        return "keys and values do not lie in patterns"
    shapes = Shapes.of(node, spec, keys, values)
    room = BufferSplit.of(spec).scratch
    return "" if shapes.sizes(room) is not None else f"chunks of scores do not fit {room} bytes on chip"


@record
class Part:
    """How much is worked on together: query heads of a group, and slots of keys (each a token of every bank)."""

    heads: int
    slots: int


@record
class Shapes:
    """What the sizes of chunks depend on."""

    group: int
    tokens: int
    pairs: int
    """(request, kv head) pairs that are worked on side by side"""
    columns: int
    """of a query"""
    unit: int
    """tokens of a slot"""
    row_slots: int
    value_unit: int
    """dims of a slot of values"""
    value_slots: int
    value_turns: int
    row_tokens: int
    """tokens of a row of values; 0: all of them"""
    accumulators: int
    held: int
    """columns of a global buffer"""
    pnm: PnmSpec
    sharing: int
    """parts of the device that the PNM units serve in turn"""

    @staticmethod
    def of(node: Node, spec: TargetSpec, keys: BankPattern, values: BankPattern) -> Shapes:
        assert spec.pim is not None and spec.pnm is not None
        q, k, v = (given(node, i).type.static_shape for i in range(3))
        along, dim = values.dims[2], values.dims[3]
        batch = min(q[0], keys.dims[0].channel[0])
        return Shapes(
            group=q[1] // k[1],
            tokens=k[2],
            pairs=batch * min(k[1], keys.dims[1].channel[0]),
            columns=-(-q[3] // LANES),
            unit=keys.dims[2].channel[0] * LANES,
            row_slots=keys.dims[2].byte[0],
            value_unit=dim.channel[0] * LANES,
            value_slots=dim.byte[0],
            value_turns=-(-v[3] // (dim.channel[0] * LANES * dim.byte[0])),
            row_tokens=along.byte[0] if along.row[0] > 1 else 0,
            accumulators=spec.pim.accumulators,
            held=spec.pim.global_buffer_bytes // COLUMN_BYTES,
            pnm=spec.pnm,
            sharing=spec.system.sharing,
        )

    @property
    def value_registers(self) -> int:
        """Accumulators of one query's results."""
        return self.value_slots * self.value_turns

    def chunk(self, part: Part) -> int:
        """Tokens of a chunk."""
        return part.slots * self.unit

    def sizes(self, room: int) -> tuple[Part, Part] | None:
        """The fastest parts for the first and the second pass that fit the buffer; None: none do."""
        first = [p for p in self._parts() if self.first_bytes(p) <= room]
        second = [p for p in self._parts() if self._is_second(p) and self.second_bytes(p) <= room]
        if not first or not second:
            return None
        return min(first, key=self._first_clocks), min(second, key=self._second_clocks)

    def _parts(self) -> Iterator[Part]:
        for heads in range(1, min(self.group, self.accumulators, self.held // self.columns) + 1):
            most = self.accumulators // heads
            for slots in range(1, most + 1):
                if self.row_slots % slots == 0 or slots % self.row_slots == 0:
                    yield Part(heads, slots)

    def _is_second(self, part: Part) -> bool:
        chunk = self.chunk(part)
        aligned = not self.row_tokens or chunk % self.row_tokens == 0 or self.row_tokens % chunk == 0
        fits = part.heads * (self.columns + chunk // LANES) <= self.held
        return aligned and fits and part.heads * self.value_registers <= self.accumulators

    def first_bytes(self, part: Part) -> int:
        rows = self.pairs * part.heads
        scores = 2 * padded(rows * self.chunk(part) * CELL_BYTES)
        return padded(self.pairs * self.group * F32_BYTES) + scores + 2 * padded(rows * F32_BYTES) + self.feeding

    def second_bytes(self, part: Part) -> int:
        rows = self.pairs * part.heads
        results = padded(rows * self.value_registers * self.value_unit * CELL_BYTES)
        biases = padded(rows * self.unit * CELL_BYTES)
        return self.first_bytes(part) + results + biases + padded(rows * F32_BYTES) + padded(self.pairs * COLUMN_BYTES)

    @property
    def feeding(self) -> int:
        """Room for queries in passing, at least."""
        return 3 * padded(self.pairs * COLUMN_BYTES)

    def _first_clocks(self, part: Part) -> tuple[int, int]:
        units = self._reduction(part) + -(-self.pairs * part.heads // self.pnm.cores) * self.pnm.core_default
        return self._times(part) * max(self._scores(part), units * self.sharing), part.slots

    def _scores(self, part: Part) -> int:
        """Clocks of the banks for the scores of a chunk."""
        rows = max(1, part.slots // self.row_slots)
        registers = part.heads * part.slots
        return rows * ROW_CLOCKS + 2 * registers * self.columns + registers * REGISTER_CLOCKS + MODE_CLOCKS

    def _reduction(self, part: Part) -> int:
        """Clocks of the reduction trees for a chunk: one round over its slots, one over what comes of each row."""
        rows = self.pairs * part.heads
        slots = rows * -(-min(self.chunk(part), self.tokens) // LANES)
        return slots + (rows if slots > rows else 0) + self._rounds(slots, self.pnm.reduction_trees) * 2

    @staticmethod
    def _rounds(slots: int, units: int) -> int:
        return -(-slots // units)

    def _second_clocks(self, part: Part) -> tuple[int, int]:
        chunk = self.chunk(part)
        rows = max(1, chunk // self.row_tokens) if self.row_tokens else 1
        registers = part.heads * self.value_registers
        columns = part.heads * self.value_registers * -(-min(chunk, self.tokens) // LANES)
        one = rows * self.value_turns * ROW_CLOCKS + 2 * columns + registers * REGISTER_CLOCKS + MODE_CLOCKS
        slots = self.pairs * part.heads * -(-min(chunk, self.tokens) // LANES)
        exponents = slots + self._rounds(slots, self.pnm.exponent_units) * (self.pnm.exponent_latency + 1)
        units = (exponents + self._reduction(part)) * self.sharing
        return self._times(part) * max(self._scores(part) + one, units), part.slots

    def _times(self, part: Part) -> int:
        return -(-self.group // part.heads) * -(-self.tokens // self.chunk(part))


def lower_attention(node: Node, at: Lowering) -> None:
    """q[B, H, S, D], keys [B, KV, T, D] and values [B, KV, T, E] in the banks: [B, H, S, E]."""
    values = list(node.inputs())
    keys, dims = (bank_pattern(node, at, at.tensor(v)) for v in values[1:3])
    shapes = Shapes.of(node, at.spec, keys, dims)
    sizes = shapes.sizes(at.scratch.capacity)
    if sizes is None:
        raise InternalError(f"%{node.name}: its chunks do not fit {at.scratch.capacity} bytes on chip")
    q, out = at.tensor(values[0]), at.tensor(node.result)
    head = given(node, 0).type.static_shape[3], given(node, 2).type.static_shape[3]
    scale = node.attribute("scale")
    assert isinstance(scale, int | float)
    for positions, tokens in seen(node):
        own = replace(shapes, tokens=tokens)
        for wave in waves(node, at, q, out, keys, keys.dims[2].channel[0], dims, positions=positions):
            kernel = _Attention(at, wave, keys, dims, own, sizes, head, float(scale))
            for (source, target, row, value_row), _ in wave.turns:
                kernel.run(source, target, row, value_row)


def seen(node: Node) -> list[tuple[range, int]]:
    """Query positions, and how many tokens they see: of a causal one those up to its own."""
    steps, tokens = given(node, 0).type.static_shape[2], given(node, 1).type.static_shape[2]
    if not node.attribute("causal"):
        return [(range(steps), tokens)]
    return [(range(p, p + 1), tokens - steps + 1 + p) for p in range(steps)]


@record
class _Chunk:
    """Where a chunk of tokens is: row and slot of its keys, row and column of its values, and which buffer it has."""

    row: Scalar
    slot: int
    value_row: Scalar
    value_column: int
    buffer: int
    tokens: int


class _Attention:
    """The attention of one query position of all pairs of a wave."""

    def __init__(
        self,
        at: Lowering,
        wave: Wave,
        keys: BankPattern,
        values: BankPattern,
        shapes: Shapes,
        sizes: tuple[Part, Part],
        head: tuple[int, int],
        scale: float,
    ) -> None:
        self.at, self.wave, self.shapes, self.sizes = at, wave, shapes, sizes
        self.depth, self.width = head
        self.scale = scale
        self.keys, self.values = keys, values
        self.pairs = wave.channels.shares
        self.machine = vector_machine(at)
        capacity = at.scratch.capacity // ALIGNMENT * ALIGNMENT
        self.base, self.room = at.scratch.take(capacity), capacity
        dim = values.dims[3]
        spread = [*wave.spread[:2], dim.channel]
        self.value_channels = Channels(mask_of(values.channel, spread), dim.channel[0])
        self.dtype = wave.source.dtype

    def run(self, source: Scalar, target: Scalar, row: Scalar, value_row: Scalar) -> None:
        largest = self._after(0)
        self._copy(self.rows(largest, self.shapes.group), LOWEST, self.shapes.group)
        for part, then in zip(self.sizes, (None, target), strict=True):
            for heads, head in self._batches(part.heads):
                stride = self.wave.source_head
                batch = _Heads(self, part, heads, head, largest, source + head * stride)
                if then is None:
                    batch.find_largest(row)
                else:
                    batch.attend(row, value_row, then + head * self.wave.target_head)

    def _batches(self, most: int) -> Iterator[tuple[int, Scalar]]:
        """How many query heads of a group are worked on together, and the first of them; in a loop what is as many."""
        group = self.shapes.group
        with self.at.emit.loop(group // most) as turn:
            yield most, turn * most
        if group % most:
            yield group % most, group // most * most

    def _after(self, size: int) -> int:
        return self.base + padded(size)

    def rows(self, address: int, pitch: int, first: Scalar = 0) -> Ref:
        """One float32 of each pair and head, of `pitch` heads of a pair."""
        return Ref(address + first * F32_BYTES, DType.F32, (pitch * F32_BYTES, F32_BYTES))

    def lanes(self, heads: int, columns: int | None = None) -> Lanes:
        counts = (self.pairs, heads) if columns is None else (self.pairs, heads, columns)
        return Lanes(self.at.emit, self.machine, None, counts)

    def _copy(self, out: Ref, number: float, heads: int) -> None:
        self.lanes(heads)("copy", number, out=out)


class _Heads:
    """Some query heads of every group, and their places in the buffer."""

    def __init__(
        self, kernel: _Attention, part: Part, heads: int, first: Scalar, largest: int, source: Scalar
    ) -> None:
        self.kernel, self.at = kernel, kernel.at
        self.shapes, self.part, self.heads, self.first = kernel.shapes, part, heads, first
        self.source = source
        shapes, pairs = self.shapes, kernel.pairs
        self.chunk = shapes.chunk(part)
        self.registers = shapes.value_registers
        self.largest = largest
        self._next = largest + padded(pairs * shapes.group * F32_BYTES)
        self.scores = [self._take(pairs * heads * self.chunk * CELL_BYTES) for _ in range(2)]
        self._next = max(self._next, self.scores[0] + shapes.feeding)  # queries pass here before there are scores
        self.found = [self._take(pairs * heads * F32_BYTES) for _ in range(2)]
        self.mask = kernel.wave.channels.mask

    def _take(self, size: int) -> int:
        address = self._next
        self._next += padded(size)
        return address

    # -- the first pass -------------------------------------------------------------------------------------------

    def find_largest(self, row: Scalar) -> None:
        """The largest score of every query."""
        self._feed_queries()
        running = self.kernel.rows(self.largest, self.shapes.group, self.first)
        for chunk in self._chunks(row, 0):
            zero(self.at, self.mask, self.heads * self._slots(chunk), self.kernel.dtype)
            self._score(chunk)
            part = self.kernel.rows(self.found[chunk.buffer], self.heads)
            self.kernel.lanes(self.heads, chunk.tokens).reduce("max", self._grid(chunk), part)
            self.kernel.lanes(self.heads)("max", running, part, out=running)

    def _chunks(self, row: Scalar, value_row: Scalar) -> Iterator[_Chunk]:
        """All chunks, the last one as long as it is."""
        period = self._period()
        whole = self.shapes.tokens // self.chunk
        turns = whole // period if whole // period > 1 else 0
        if turns:
            with self.at.emit.loop(turns) as turn:
                for k in range(period):
                    yield self._place(row, value_row, turn, k)
        for c in range(turns * period, -(-self.shapes.tokens // self.chunk)):
            yield self._place(row, value_row, c // period, c % period, c)

    # -- the second pass ------------------------------------------------------------------------------------------

    def attend(self, row: Scalar, value_row: Scalar, target: Scalar) -> None:
        """Exponentials, their sums, and the results."""
        kernel, shapes = self.kernel, self.shapes
        rows = kernel.pairs * self.heads
        self.total = self._take(rows * F32_BYTES)
        self.bias = self._take(rows * shapes.unit * CELL_BYTES)
        self.results = self._take(rows * self.registers * shapes.value_unit * CELL_BYTES)
        rest = self._take(kernel.pairs * COLUMN_BYTES)
        self._feed_queries()
        self.feed = self._probabilities(rest)
        self._begin()
        period, tokens = self._period(), shapes.tokens
        chunks = -(-tokens // self.chunk)
        steady = max(0, tokens // self.chunk - 1)
        turns = steady // period if steady // period > 1 else 0
        self._biased(self._place(row, value_row, 0, 0, 0))
        if turns:
            with self.at.emit.loop(turns) as turn:
                for k in range(period):
                    self._biased(self._place(row, value_row, turn, k + 1))
                    self._add(self._place(row, value_row, turn, k))
        for c in range(turns * period, chunks):
            if c + 1 < chunks:
                self._biased(self._place(row, value_row, c // period, c % period + 1, c + 1))
            self._add(self._place(row, value_row, c // period, c % period, c))
        self._finish(target)

    def _begin(self) -> None:
        """Minus the largest scores where the accumulators take them from; sums and results are 0."""
        kernel, shapes = self.kernel, self.shapes
        largest = kernel.rows(self.largest, shapes.group, self.first)
        width = shapes.unit * CELL_BYTES
        biases = Ref(self.bias, kernel.dtype, (self.heads * width, width, CELL_BYTES))
        kernel.lanes(self.heads, shapes.unit)("sub", 0.0, largest.spread(behind=1), out=biases)
        kernel.lanes(self.heads)("copy", 0.0, out=kernel.rows(self.total, self.heads))
        mask, count = kernel.value_channels.mask, self.heads * self.registers
        zero(self.at, mask, count, kernel.dtype)
        self._save_results()

    def _biased(self, chunk: _Chunk) -> None:
        """The scores of a chunk, less the largest of each query."""
        slots, unit = self._slots(chunk), self.shapes.unit * CELL_BYTES
        share = self.kernel.wave.channels.share
        with self.at.emit.loop(self.heads) as h, self.at.emit.loop(slots) as s:
            stride = self.heads * unit if self.kernel.pairs > 1 else 0
            address = self.bias + h * unit
            bias = WriteBias(h * slots + s, self.mask, "no", address, stride, share, self.kernel.dtype)
            self.at.emit.issue("pim", bias)
        self._score(chunk)

    def _add(self, chunk: _Chunk) -> None:
        """Exponentials of a chunk, their sums, and their products with the values."""
        kernel = self.kernel
        lanes, grid = kernel.lanes(self.heads, chunk.tokens), self._grid(chunk)
        lanes("exp", grid, out=grid)
        part, total = (kernel.rows(a, self.heads) for a in (self.found[chunk.buffer], self.total))
        lanes.reduce("sum", grid, part)
        kernel.lanes(self.heads)("add", total, part, out=total)
        self._values(chunk)

    def _values(self, chunk: _Chunk) -> None:
        shapes, emit = self.shapes, self.at.emit
        first = self.heads * shapes.columns
        columns = self.chunk // LANES
        with emit.loop(self.heads) as h:
            self.feed.fill(self.scores[chunk.buffer] + h * (self.chunk * CELL_BYTES), chunk.tokens, first + h * columns)
        self._restore_results()
        dim = self.kernel.values.dims[3]
        slot_columns = dim.byte[1] // COLUMN_BYTES
        in_row = min(self.chunk, shapes.row_tokens) if shapes.row_tokens else self.chunk
        step = self.kernel.values.dims[2].row[1]
        mask, used = self.kernel.value_channels.mask, 0
        for r, start in enumerate(range(0, chunk.tokens, in_row)):
            count = -(-min(in_row, chunk.tokens - start) // LANES)
            loop = emit.loop
            with loop(shapes.value_turns) as t, loop(self.heads) as h, loop(shapes.value_slots) as s:
                row = chunk.value_row + r * step + t * dim.row[1]
                register = h * self.registers + t * shapes.value_slots + s
                vector = first + h * columns + used
                self._mac(count, mask, row, register, s * slot_columns + chunk.value_column, vector)
            used += in_row // LANES
        self._save_results()

    def _finish(self, target: Scalar) -> None:
        """Divide the results by the sums, and bring them where they belong."""
        kernel, shapes = self.kernel, self.shapes
        pitch = self.registers * shapes.value_unit * CELL_BYTES
        total = kernel.rows(self.total, self.heads)
        kernel.lanes(self.heads)("reciprocal", total, out=total)
        grid = Ref(self.results, kernel.dtype, (self.heads * pitch, pitch, CELL_BYTES))
        kernel.lanes(self.heads, kernel.width)("mul", grid, total.spread(behind=1), out=grid)
        lot = kernel.wave.target
        vectors = (*lot.vectors, (self.heads, kernel.wave.target_head))
        lot = Lot(lot.space, lot.dtype, vectors, lot.element)
        copy_lot(self.at, lot, target, self.results, pitch, kernel.width, out=True)

    # -- what both have -------------------------------------------------------------------------------------------

    def _feed_queries(self) -> None:
        kernel, shapes = self.kernel, self.shapes
        arena = _Block(self.scores[0], self.found[0])
        ragged, scaled = kernel.depth % LANES > 0, kernel.scale != 1.0
        room = self.found[0] - self.scores[0] - padded(kernel.pairs * COLUMN_BYTES)
        machine = kernel.machine if scaled else None
        wave = kernel.wave
        feed = Feed(
            self.at, arena, wave.source, wave.channels, shapes.columns,
            ragged=ragged, room=max(room, 1), machine=machine, scale=kernel.scale,
        )  # fmt: skip
        with self.at.emit.loop(self.heads) as h:
            feed.fill(self.source + h * wave.source_head, kernel.depth, h * shapes.columns)

    def _probabilities(self, rest: int) -> Feed:
        """Brings a chunk's exponentials into the global buffers of the values' channels."""
        kernel = self.kernel
        vectors = ((kernel.pairs, self.heads * self.chunk * CELL_BYTES),)
        lot = Lot("buffer", kernel.dtype, vectors, CELL_BYTES)
        block = _Block(rest, rest + padded(kernel.pairs * COLUMN_BYTES))
        ragged = self.shapes.tokens % LANES > 0
        return Feed(self.at, block, lot, kernel.value_channels, self.chunk // LANES, ragged=ragged, room=1)

    def _score(self, chunk: _Chunk) -> None:
        """Queries times the keys of a chunk, onto what the accumulators hold, and out to the buffer."""
        shapes, emit = self.shapes, self.at.emit
        slots = self._slots(chunk)
        token = self.kernel.keys.dims[2]
        slot_columns = token.byte[1] // COLUMN_BYTES
        for r, start in enumerate(range(0, slots, shapes.row_slots)):
            here = min(shapes.row_slots, slots - start)
            with emit.loop(self.heads) as h, emit.loop(here) as s:
                column = (chunk.slot + s) * slot_columns
                row = chunk.row + r * token.row[1]
                self._mac(shapes.columns, self.mask, row, h * slots + start + s, column, h * shapes.columns)
        channels = self.kernel.wave.channels
        stride = self.heads * self.chunk * CELL_BYTES if self.kernel.pairs > 1 else 0
        with emit.loop(self.heads) as h, emit.loop(slots) as s:
            address = self.scores[chunk.buffer] + h * (self.chunk * CELL_BYTES) + s * (shapes.unit * CELL_BYTES)
            emit.issue("pim", ReadMac(h * slots + s, self.mask, address, stride, channels.share, self.kernel.dtype))

    def _grid(self, chunk: _Chunk) -> Ref:
        """The scores of a chunk, [pairs, heads, tokens]."""
        pitch = self.chunk * CELL_BYTES
        return Ref(self.scores[chunk.buffer], self.kernel.dtype, (self.heads * pitch, pitch, CELL_BYTES))

    def _slots(self, chunk: _Chunk) -> int:
        return -(-chunk.tokens // self.shapes.unit)

    def _period(self) -> int:
        """Chunks after which buffers, slots and columns begin again."""
        rows = max(1, self.shapes.row_slots // self.part.slots)
        tokens = self.shapes.row_tokens or self.chunk * -(-self.shapes.tokens // self.chunk)
        return lcm(2, rows, max(1, tokens // self.chunk))

    def _place(self, row: Scalar, value_row: Scalar, turn: Scalar, k: int, number: int = 0) -> _Chunk:
        """Chunk `turn * period + k`. number: its number where that is known, which tells whether it is cut short."""
        shapes, period, slots = self.shapes, self._period(), self.part.slots
        step, value_step = (d.row[1] for d in (self.kernel.keys.dims[2], self.kernel.values.dims[2]))
        tokens = shapes.row_tokens
        ahead = period * slots // shapes.row_slots
        there = row + turn * (ahead * step) + k * slots // shapes.row_slots * step
        values, column = value_row, k * self.chunk // LANES
        if tokens:
            values = value_row + turn * (period * self.chunk // tokens * value_step)
            values, column = values + k * self.chunk // tokens * value_step, k * self.chunk % tokens // LANES
        left = shapes.tokens - number * self.chunk
        return _Chunk(there, k * slots % shapes.row_slots, values, column, k % 2, min(self.chunk, left))

    def _restore_results(self) -> None:
        shapes, channels = self.shapes, self.kernel.value_channels
        unit, stride = shapes.value_unit * CELL_BYTES, self._results_stride()
        with self.at.emit.loop(self.heads * self.registers) as i:
            address = self.results + i * unit
            self.at.emit.issue(
                "pim", WriteBias(i, channels.mask, "no", address, stride, channels.share, self.kernel.dtype)
            )

    def _save_results(self) -> None:
        shapes, channels = self.shapes, self.kernel.value_channels
        unit, stride = shapes.value_unit * CELL_BYTES, self._results_stride()
        with self.at.emit.loop(self.heads * self.registers) as i:
            address = self.results + i * unit
            self.at.emit.issue("pim", ReadMac(i, channels.mask, address, stride, channels.share, self.kernel.dtype))

    def _results_stride(self) -> int:
        pitch = self.registers * self.shapes.value_unit * CELL_BYTES
        return self.heads * pitch if self.kernel.pairs > 1 else 0

    def _mac(self, count: int, mask: int, row: Scalar, register: Scalar, column: Scalar, vector: Scalar) -> None:
        spec = self.at.spec
        sums = DType.parse(spec.accumulator)
        command = MacAllBanks(count, mask, row, register, column, vector, "gb", spec.storage_dtype, sums)
        self.at.emit.issue("pim", command)


class _Block:
    """Bytes that are handed out in order."""

    def __init__(self, start: int, end: int) -> None:
        self._next, self._end = start, end

    def take(self, size: int) -> int:
        address = self._next
        self._next += padded(size)
        if self._next > self._end:
            raise InternalError(f"{self._next - self._end} bytes are missing")
        return address
