"""CENT's schedule on GDDR6-AiM, repaired so that it is legal and computes (the mapping `cent-mapping`).

What its authors' generator does, where the part allows it: every row of a weight is one turn, whose sums leave the
accumulators and come back as the bias of the next; a row of keys meets one query head of every group at a time; scores
go to bank 0 of each bank group, where EWMUL scales them with bank 1 into bank 2, once by the scale and once by the
reciprocal sum of their exponentials; rows of values are opened again for every query head.

Repaired is: what is read from bank 2 is read, not written; rows hold whole rounds of tokens, so that nothing runs over
the end of a row; sums of products that wait for their next turn have room in the shared buffer, block by block of
outputs. As there, exponentials are those of the scores themselves, not of their distance from the largest; the vector
units add them up; and transfers, PIM and PNM take turns within a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import ALIGNMENT, Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, VectorMachine
from pimc.backends.kernels.nest import walk
from pimc.backends.kernels.places import given, operand
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_isa import MultiplyBanks, ReadMac, WriteBias, WriteGlobalBuffer
from pimc.backends.pim.aim_mac import accumulators, mac
from pimc.backends.pim.aim_transfer import Channels, clear, mask_of, zero
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.pim.layouts import FACTOR_BANK, PRODUCT_BANK, BankPattern, pattern_of, spread_of
from pimc.backends.pim.lower_aim import Gemv
from pimc.backends.pim.products import bank_pattern, rows_of, single, vector_machine
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import InternalError, Kind, fail
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.ir.types import DType


def why_no_softmax(node: Node, spec: TargetSpec) -> str:
    """Why the softmax cannot run as CENT has it; empty if it can."""
    scores = given(node, 0)
    if operand(node, 1) is not None or operand(node, 2) is not None:
        return "masks and lengths are for the PNM units"
    if node.attribute("softcap") or node.attribute("window") or scores.type.static_shape[2] > 1:
        return "queries that see different keys are for the PNM units"
    if scores.owner is None or scores.owner.op.name != "attention_scores":
        return "the scores do not come from the banks"
    return ""


# -- weights ----------------------------------------------------------------------------------------------------------


def lower_matmul(node: Node, at: Lowering) -> None:
    """x[..., K] times W[K, N] in a bank matrix, vector by vector, row by row."""
    x, w = (at.tensor(v) for v in node.inputs())
    y = at.tensor(node.result)
    depth = next(iter(node.inputs())).type.static_shape[-1]
    kernel = _RowByRow(node, at, x, y, bank_pattern(node, at, w), depth, node.result.type.static_shape[-1])
    for nest in rows_of(x, y, shape=node.result.type.static_shape[:-1]):
        for (source, target), _ in walk(at.emit, nest):
            kernel.run(source, target)


class _RowByRow(Gemv):
    """A product whose sums leave the accumulators after every row."""

    def __init__(
        self, node: Node, at: Lowering, x: Tensor, y: Tensor, weights: BankPattern, depth: int, outputs: int
    ) -> None:
        super().__init__(node, at, x, y, weights, depth, outputs)
        groups = min(accumulators(at), -(-outputs // self.unit))
        self.sums = self.arena.take(groups * self.unit * CELL_BYTES)

    @staticmethod
    def scratch(at: Lowering) -> Arena:
        """All there is: the sums of all accumulators stay here from row to row."""
        size = at.scratch.capacity // ALIGNMENT * ALIGNMENT
        return Arena.within(at.scratch.take(size), size)

    def _batch(self, source: Scalar, target: Scalar, first: Scalar, groups: int, outputs: int) -> None:
        mask, share, dtype = self.channels.mask, self.channels.share, self.x.dtype
        unit = self.unit * CELL_BYTES
        sums = self.sums
        zero(self.at, mask, groups, dtype)
        last = self.chunks[0] - 1
        for turn, (row, columns) in enumerate(self._vectors(source)):
            with self.at.emit.loop(groups) as r:
                mac(self.at, columns, mask, self.weights.row + row + (first + r) * self.groups[1], r)
            if turn < last:
                with self.at.emit.loop(groups) as r:
                    self.at.emit.issue("pim", ReadMac(r, mask, sums + r * unit, 0, share, dtype))
                with self.at.emit.loop(groups) as r:
                    self.at.emit.issue("pim", WriteBias(r, mask, "no", sums + r * unit, 0, share, dtype))
        self.drain.empty(0, target + first * (self.unit * self.drain.lot.element), outputs)

    def _vectors(self, source: Scalar) -> Iterator[tuple[Scalar, int]]:
        """Chunk by chunk, each written out."""
        size = self.row_elements
        if not self.regular:
            yield from self._gathered(source)
            return
        for c, start in enumerate(range(0, self.depth, size)):
            elements = min(size, self.depth - start)
            self.feed.fill(source + start * self.feed.lot.element, elements)
            yield c * self.chunks[1], -(-elements // LANES)


# -- attention --------------------------------------------------------------------------------------------------------


class _Bytes:
    """All of the scratch, handed out in order."""

    def __init__(self, at: Lowering) -> None:
        capacity = at.scratch.capacity // ALIGNMENT * ALIGNMENT
        self._next = at.scratch.take(capacity)
        self._end = self._next + capacity

    @property
    def left(self) -> int:
        return self._end - self._next

    def take(self, size: int) -> int:
        address = self._next
        self._next += padded(size)
        if self._next > self._end:
            raise fail(
                Kind.CAPACITY,
                f"CENT's attention needs {self._next - self._end} bytes on chip more than there are",
                help="a larger buffer (--set buffer.bytes=64KiB), or --set mapping=default",
            )
        return address


def _cut(layout: Layout, *ranges: tuple[int, int]) -> Layout:
    """Ranges of all dimensions."""
    for dim, (start, stop) in enumerate(ranges):
        cut = layout.sliced(dim, start, stop)
        if cut is None:
            raise InternalError(f"cannot take {start}:{stop} of dimension {dim} of {layout}")
        layout = cut
    return layout


def _by_group(tensor: Tensor, group: int) -> Layout:
    """[B, H, S, X] as [B, KV, G, S, X]; padding stays."""
    batch, heads, steps, last = tensor.layout.shape
    layout = tensor.layout.reshaped((batch, heads // group, group, steps, last))
    if layout is None:
        raise InternalError(f"cannot see the heads of {tensor} as groups of {group}")
    return layout


def _stretches(heads: range, spread: int) -> Iterator[range]:
    """Heads that lie side by side in channels."""
    start = heads.start
    while start < heads.stop:
        stop = min(heads.stop, (start // spread + 1) * spread)
        yield range(start, stop)
        start = stop


def _move(at: Lowering, tensor: Tensor, far: Layout, near: Scalar, pitch: int, *, out: bool) -> None:
    """Copy [rows, elements] between a tensor and rows in the buffer, `pitch` bytes apart."""
    rows, elements = far.shape[-2:]
    dims = [d for d in far.dims if d]
    outer = [digit for dim in dims[:-1] for digit in dim if digit[0] > 1]
    inner = [digit for digit in dims[-1] if digit[0] > 1] or [(1, tensor.element_bytes)]
    close: list[int] = []
    step = CELL_BYTES
    for count, _ in reversed(inner):
        close.insert(0, step)
        step *= count
    step = pitch
    ahead: list[int] = []
    for count, _ in reversed(outer):
        ahead.insert(0, step)
        step *= count
    assert step == pitch * rows or not outer
    counts = [c for c, _ in (*outer, *inner)]
    away = [s for _, s in (*outer, *inner)]
    if out:
        issue_copy(at.emit, ("buffer", tensor.space), near, far.offset, tensor.dtype, counts, ahead + close, away)
    else:
        issue_copy(at.emit, (tensor.space, "buffer"), far.offset, near, tensor.dtype, counts, away, ahead + close)
    assert elements >= 0


def lower_scores(node: Node, at: Lowering) -> None:
    """q[B, H, S, D] times the keys [B, KV, T, D], token t in bank t mod banks with all of its heads."""
    q, k = (v.type.static_shape for v in node.inputs())
    kernel = _Scores(node, at)
    for b in range(q[0]):
        for s in range(q[2]):
            for r in range(kernel.key_rows):
                kernel.run(b, s, r)
    scale = node.attribute("scale")
    assert isinstance(scale, int | float)
    _scale_all(at, at.tensor(node.result), k[1], float(scale), kernel.room)


class _Scores:
    """Unscaled scores, to bank 0 of the bank groups."""

    def __init__(self, node: Node, at: Lowering) -> None:
        self.at = at
        self.q, self.k = (v.type.static_shape for v in node.inputs())
        self.group = self.q[1] // self.k[1]
        self.source, self.target = at.tensor(next(node.inputs())), at.tensor(node.result)
        self.queries = _by_group(self.source, self.group)
        self.scores = _by_group(_raw(at, self.target), self.group)
        self.cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
        token = self.cache.dims[2]
        self.spread = spread_of(self.k[1], at.spec.dram.channels)
        self.channels = Channels(mask_of(self.cache.channel, [token.channel]), token.channel[0])
        self.round = self.channels.share * LANES
        self.columns = -(-self.q[3] // LANES)
        (self.key_rows, self.row_step), (self.packed, self.slot) = self.cache.dims[1].row, self.cache.dims[1].byte
        self.room = _Bytes(at)
        pitch = self.packed * self.columns * COLUMN_BYTES
        out = self.packed * self.round * CELL_BYTES
        self.held = min(self.group, max(1, (self.room.left - 2 * padded(out) - 4096) // pitch))
        self.near = self.room.take(self.held * pitch)
        self.out = [self.room.take(out) for _ in range(2)]

    def run(self, b: int, s: int, r: int) -> None:
        """One row index of every token's keys."""
        heads = range(r * self.packed, min((r + 1) * self.packed, self.k[1]))
        pitch = self.columns * COLUMN_BYTES
        for first in range(0, self.group, self.held):
            here = range(first, min(first + self.held, self.group))
            for i, repeat in enumerate(here):
                near = self.near + i * self.packed * pitch
                if self.q[3] % LANES:
                    self._clear(near, len(heads) * self.columns)
                part = _cut(self.queries, (b, b + 1), (heads.start, heads.stop), (repeat, repeat + 1), (s, s + 1))
                _move(self.at, self.source, _rows_of(part), near, pitch, out=False)
            for turn, token in enumerate(range(0, self.k[2], self.round)):
                tokens = range(token, min(token + self.round, self.k[2]))
                self._round(b, s, r, heads, here, turn, tokens)

    def _round(self, b: int, s: int, r: int, heads: range, repeats: range, turn: int, tokens: range) -> None:
        """A round of tokens, one in every bank: each query head of a group after the other."""
        mask, share, emit = self.channels.mask, self.channels.share, self.at.emit
        row = self.cache.row + b * self.cache.dims[0].row[1] + turn * self.cache.dims[2].row[1] + r * self.row_step
        slot_columns = self.slot // COLUMN_BYTES
        for i, repeat in enumerate(repeats):
            vector = self.near + i * self.packed * self.columns * COLUMN_BYTES
            count = len(heads) * self.columns
            emit.issue("pim", WriteGlobalBuffer(count, vector, mask, 0, 0, share, self.source.dtype))
            near = self.out[i % 2]
            with emit.loop(len(heads)) as j:
                emit.issue("pim", WriteBias(0, mask, "yes", dtype=self.source.dtype))
                mac(self.at, self.columns, mask, row, 0, j * slot_columns, j * self.columns)
                address = near + j * (self.round * CELL_BYTES)
                emit.issue("pim", ReadMac(0, mask, address, 0, share, self.source.dtype))
            for some in _stretches(heads, self.spread):
                part = _cut(
                    self.scores, (b, b + 1), (some.start, some.stop), (repeat, repeat + 1), (s, s + 1),
                    (tokens.start, tokens.stop),
                )  # fmt: skip
                first = near + (some.start - heads.start) * self.round * CELL_BYTES
                _move(self.at, self.target, _rows_of(part), first, self.round * CELL_BYTES, out=True)

    def _clear(self, near: int, columns: int) -> None:
        clear(self.at, near, columns, self.source.dtype)


def _rows_of(part: Layout) -> Layout:
    """[1, KV, 1, 1, X] as [KV, X]."""
    return Layout(part.offset, (part.dims[1], part.dims[4]))


def _raw(at: Lowering, tensor: Tensor) -> Tensor:
    """Bank 0 of each bank group, for a tensor in bank 2."""
    return _in_bank(at, tensor, 0)


def _in_bank(at: Lowering, tensor: Tensor, bank: int) -> Tensor:
    layout = tensor.layout
    by = (bank - PRODUCT_BANK) * at.spec.dram.geometry.stride_bank
    return replace(tensor, layout=Layout(layout.offset + by, layout.dims))


def _scale_all(at: Lowering, scores: Tensor, kv: int, scale: float, room: _Bytes) -> None:
    """Scores in bank 0 times a number, which bank 1 gets for every one of them, into bank 2."""
    factors = _in_bank(at, scores, FACTOR_BANK)
    row = single(scores.layout.dims[3][-1:])
    width = scores.layout.dims[3][-1][0] if scores.layout.dims[3] else 1
    assert row in (0, CELL_BYTES)
    near = room.take(width * CELL_BYTES)
    number = Ref(near, scores.dtype, (CELL_BYTES,))
    Lanes(at.emit, vector_machine(at), None, (width,))("copy", scale, out=number)
    digits = [d for dim in factors.layout.dims for d in dim if d[0] > 1] or [(1, CELL_BYTES)]
    close = [0] * (len(digits) - 1) + [CELL_BYTES] if width > 1 else [0] * len(digits)
    issue_copy(at.emit, ("buffer", "dram"), near, factors.layout.offset, scores.dtype,
               [c for c, _ in digits], close, [s for _, s in digits])  # fmt: skip
    _multiply(at, scores)


def _multiply(at: Lowering, scores: Tensor) -> None:
    """Bank 0 times bank 1 in all rows of scores."""
    geometry = at.spec.dram.geometry
    pattern = pattern_of(replace(scores, layout=_in_bank(at, scores, 0).layout).layout, geometry)
    low, high = scores.layout.span(CELL_BYTES)
    first, last = low // geometry.stride_row, (high - 1) // geometry.stride_row
    channels = [d for dim in scores.layout.dims for d in dim if d[1] and d[1] < geometry.stride_bank
                and d[1] % geometry.stride_channel == 0]  # fmt: skip
    start = low % geometry.stride_bank // geometry.stride_channel
    mask = mask_of(start, [(c, s // geometry.stride_channel) for c, s in channels])
    columns = -(-scores.layout.dims[3][-1][0] // LANES)
    assert pattern is None or pattern.row == first
    with at.emit.loop(last - first + 1) as i:
        at.emit.issue("pim", MultiplyBanks(columns, mask, first + i, 0, scores.dtype))


def lower_softmax(node: Node, at: Lowering) -> None:
    """Exponentials to bank 0, the reciprocals of their sums to bank 1, and their products, which lie in bank 2."""
    scores, target = at.tensor(given(node, 0)), at.tensor(node.result)
    batch, heads, steps, tokens = given(node, 0).type.static_shape
    room, machine, dtype = _Bytes(at), vector_machine(at), scores.dtype
    powers, factors = _in_bank(at, target, 0), _in_bank(at, target, FACTOR_BANK)
    width = scores.layout.dims[3][-1][0]
    small = 4 * padded(DType.F32.bits // 8) + 2 * padded(width * CELL_BYTES)
    # A row of scores takes its bytes, and as many again for the first round of its sums in float32.
    rows = max(1, min(-(-tokens // width), (room.left - small) // (2 * padded(width * CELL_BYTES))))
    here = room.take(rows * width * CELL_BYTES)
    halves = room.take(rows * width * CELL_BYTES + padded(1))
    found, total = (Ref(room.take(DType.F32.bits // 8), DType.F32, (0,)) for _ in range(2))
    numbers = room.take(LANES * CELL_BYTES)
    one = Lanes(at.emit, machine, None, (1,))
    for b in range(batch):
        for h in range(heads):
            one("copy", 0.0, out=total)
            for start, stop in _row_ranges(tokens, width, rows):
                part = ((b, b + 1), (h, h + 1), (0, steps), (start, stop))
                _move(at, scores, _flat(_cut(scores.layout, *part)), here, 0, out=False)
                lanes, grid = Lanes(at.emit, machine, None, (stop - start,)), Ref(here, dtype, (CELL_BYTES,))
                lanes("exp", grid, out=grid)
                _sum(at, machine, grid, stop - start, halves, found)
                one("add", total, found, out=total)
                _move(at, powers, _flat(_cut(powers.layout, *part)), here, 0, out=True)
            one("reciprocal", total, out=total)
            Lanes(at.emit, machine, None, (LANES,))("copy", total, out=Ref(numbers, dtype, (CELL_BYTES,)))
            digits = [d for d in factors.layout.dims[3] if d[0] > 1] or [(1, CELL_BYTES)]
            place = _cut(factors.layout, (b, b + 1), (h, h + 1), (0, steps), (0, 1)).offset
            issue_copy(at.emit, ("buffer", "dram"), numbers, place, dtype,
                       [c for c, _ in digits], [0] * len(digits), [s for _, s in digits])  # fmt: skip
    _multiply(at, target)


def _sum(at: Lowering, machine: VectorMachine, grid: Ref, count: int, halves: int, out: Ref) -> None:
    """Slots are added in pairs until one is left, whose lanes a tree adds (CENT's routine)."""
    size = DType.F32.bits // 8
    while count > LANES:
        half = -(-(count // 2) // LANES) * LANES
        rest = count - half
        first, second = grid, replace(grid, address=grid.address + half * grid.strides[0])
        result = Ref(halves, DType.F32, (size,))
        Lanes(at.emit, machine, None, (rest,))("add", first, second, out=result)
        if rest < half:
            tails = [replace(r, address=r.address + rest * r.strides[0]) for r in (first, result)]
            Lanes(at.emit, machine, None, (half - rest,))("copy", tails[0], out=tails[1])
        grid, count = result, half
    spread = replace(grid, strides=(0, *grid.strides))
    Lanes(at.emit, machine, None, (1, count)).reduce("sum", spread, out)


def _row_ranges(tokens: int, width: int, rows: int) -> Iterator[tuple[int, int]]:
    """Stretches of whole rows, at most so many; then what is left."""
    whole = tokens // width * width
    for start in range(0, whole, rows * width):
        yield start, min(whole, start + rows * width)
    if whole < tokens:
        yield whole, tokens


def _flat(part: Layout) -> Layout:
    """[1, 1, 1, X] as [1, X]."""
    return Layout(part.offset, (((1, 0),), part.dims[3]))


def lower_context(node: Node, at: Lowering) -> None:
    """p[B, H, S, T] times the values [B, KV, T, D]: rows of values are opened for every query head."""
    p, v = (x.type.static_shape for x in node.inputs())
    group = p[1] // v[1]
    source, target = at.tensor(next(node.inputs())), at.tensor(node.result)
    cache = bank_pattern(node, at, at.tensor(list(node.inputs())[1]))
    weights, results = _by_group(source, group), _by_group(target, group)
    width = cache.dims[2].byte[0] if cache.dims[2].row[0] > 1 else v[2]
    spread = cache.dims[1].channel
    room = _Bytes(at)
    kernel = _Context(at, cache, source, target, room, width, v[3])
    for b in range(p[0]):
        for s in range(p[2]):
            for kv in range(0, v[1], spread[0]):
                for g in range(group):
                    part = ((b, b + 1), (kv, min(kv + spread[0], v[1])), (g, g + 1), (s, s + 1))
                    kernel.run(_cut(weights, *part), _cut(results, *part), b, kv // spread[0])


class _Context:
    """The results of one query head of some groups, each in its channel."""

    def __init__(
        self, at: Lowering, cache: BankPattern, source: Tensor, target: Tensor, room: _Bytes, width: int, depth: int
    ) -> None:
        self.at, self.cache, self.source, self.target = at, cache, source, target
        self.width, self.depth = width, depth
        self.turns = -(-depth // LANES)
        most = cache.dims[1].channel[0]
        self.out = room.take(most * self.turns * COLUMN_BYTES)
        self.piece = min(-(-width // LANES), max(1, room.left // (most * COLUMN_BYTES)))
        self.near = room.take(most * self.piece * COLUMN_BYTES)

    def run(self, weights: Layout, results: Layout, b: int, turn: int) -> None:
        at, cache, dtype = self.at, self.cache, self.source.dtype
        pairs = weights.shape[1]
        mask = mask_of(cache.channel, [(pairs, cache.dims[1].channel[1])])
        first = cache.row + b * cache.dims[0].row[1] + turn * cache.dims[1].row[1]
        tokens = weights.shape[4]
        stride = self.turns * COLUMN_BYTES
        for r, start in enumerate(range(0, tokens, self.width)):
            stop = min(tokens, start + self.width)
            columns = -(-(stop - start) // LANES)
            for column in range(0, columns, self.piece):
                end = min(stop, start + (column + self.piece) * LANES)
                self._bring(weights, mask, start + column * LANES, end, column)
            with at.emit.loop(self.turns) as t:
                address, apart = self.out + t * COLUMN_BYTES, stride if pairs > 1 else 0
                if r:
                    at.emit.issue("pim", WriteBias(0, mask, "no", address, apart, 1, dtype))
                else:
                    at.emit.issue("pim", WriteBias(0, mask, "yes", dtype=dtype))
                row = first + t * cache.dims[3].row[1] + r * cache.dims[2].row[1]
                mac(at, columns, mask, row, 0)
                at.emit.issue("pim", ReadMac(0, mask, address, apart, 1, dtype))
        part = results.sliced(4, 0, self.depth)
        assert part is not None
        _move(at, self.target, _rows_of(part), self.out, stride, out=True)

    def _bring(self, weights: Layout, mask: int, start: int, stop: int, column: int) -> None:
        """Tokens of all pairs into their global buffers, from a column on; zeros behind the last ones."""
        at, dtype, pairs = self.at, self.source.dtype, weights.shape[1]
        columns = -(-(stop - start) // LANES)
        pitch = columns * COLUMN_BYTES
        if (stop - start) % LANES:
            for pair in range(pairs):
                clear(at, self.near + pair * pitch + (columns - 1) * COLUMN_BYTES, 1, dtype)
        part = weights.sliced(4, start, stop)
        assert part is not None
        _move(at, self.source, _rows_of(part), self.near, pitch, out=False)
        stride = pitch if pairs > 1 else 0
        at.emit.issue("pim", WriteGlobalBuffer(columns, self.near, mask, column, stride, 1, dtype))
