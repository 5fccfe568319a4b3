"""How attention is cut: pairs of request and key head that go together, queries of a block, keys of a tile.

Each turn brings the keys and values of one tile; the arrays multiply, and the vector unit keeps the running maximum and
sum. Turns overlap as the stages of a pipeline do (`attention.py`): the slowest of arrays, vector unit and memory sets
the pace.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS
from pimc.backends.npu.extents import Side
from pimc.backends.npu.isa import ACCUMULATOR_BYTES
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.packs import Pack, best_pack
from pimc.backends.npu.tiles import move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.ir.types import DType
from pimc.record import record

F32_BYTES = DType.F32.bits // 8
LEAST_KEYS = 128
"""Keys of a tile below which nothing is gained, but room."""
LEAST_QUERIES = 32


@record
class Attended:
    """Attention of `pairs` (request, key head), each with `group` query heads.

    causal, window: as the op has them, where they can be told without looking at lengths; masks: passes of the vector
    unit that mask scores, by positions or by an operand, of which `mask_bytes` for each come with a tile.
    """

    pairs: int
    group: int
    queries: int
    keys: int
    depth: int
    width: int
    element_bytes: int
    mask_bytes: int
    causal: bool
    window: int
    masks: int
    lengths: bool
    softcap: bool
    k: Side | None
    v: Side | None

    def span(self, start: int, rows: int) -> tuple[int, int]:
        """The first key that some query of a block sees, and the one after the last."""
        before = self.keys - self.queries + start
        stop = max(1, before + rows) if self.causal else self.keys
        first = max(0, before + 1 - self.window) if self.window else 0
        return min(first, stop - 1), stop

    def visible(self, start: int, rows: int, first: int, stop: int) -> bool:
        """Whether all queries of a block see all of those keys."""
        if self.lengths:
            return False
        before = self.keys - self.queries + start
        above = not self.causal or stop <= before + 1
        return above and not (self.window and first <= before + rows - 1 - self.window)


@record
class KeyTile:
    first: int
    count: int
    masked: bool
    """whether positions hide some of its keys from some queries"""


@record
class AttentionTiles:
    """Pairs, queries of a block and keys of a tile; the seconds of all turns."""

    pairs: int
    queries: int
    keys: int
    seconds: float
    compute: float
    vector: float
    memory: float

    def tiles(self, e: Attended, start: int, rows: int) -> list[KeyTile]:
        """Tiles of the keys that a block of queries sees: those beyond are skipped."""
        first, stop = e.span(start, rows)
        found: list[KeyTile] = []
        for at in range(first // self.keys * self.keys, stop, self.keys):
            end = min(at + self.keys, stop)
            found.append(KeyTile(at, end - at, not e.visible(start, rows, at, end)))
        return found

    @property
    def limit(self) -> str:
        bounds = {"arrays": self.compute, "vector unit": self.vector, "memory": self.memory}
        most = max(bounds.values())
        return "latency" if self.seconds > 2 * most else max(bounds, key=lambda name: bounds[name])


@record
class Sizes:
    """Bytes of what lies on chip, one slot of each."""

    q: int
    k: int
    v: int
    mask: int
    scores: int
    weights: int
    sums: int
    out: int
    row: int

    @staticmethod
    def of(e: Attended, pairs: int, queries: int, keys: int) -> Sizes:
        rows, size = pairs * e.group * queries, e.element_bytes
        return Sizes(
            rows * e.depth * size, pairs * keys * e.depth * size, pairs * keys * e.width * size,
            rows * keys * e.mask_bytes, rows * keys * F32_BYTES, rows * keys * size, rows * e.width * F32_BYTES,
            rows * e.width * size, rows * F32_BYTES,
        )  # fmt: skip

    @property
    def doubled(self) -> tuple[int, ...]:
        """Those of which two slots are held; a mask has places even where there is none."""
        return self.q, self.k, self.v, max(1, self.mask), self.weights, self.out, self.row, self.row, self.row

    @property
    def single(self) -> tuple[int, ...]:
        return self.scores, self.sums, self.sums, self.row

    def bytes(self, keys: int) -> int:
        held = SLOTS * sum(map(padded, self.doubled)) + sum(map(padded, self.single))
        return held + padded(keys * F32_BYTES)


@record
class Core:
    """The machine of the search, and its vector unit."""

    machine: Machine
    units: int
    lanes: int
    tree: int
    """clocks of a level of a reduction"""
    step: int
    exp: int
    """clocks of a pass of a simple function, and of an exponential"""
    swaps: tuple[bool, ...]
    """whether a product may be, or must be, turned round: its right operand streams past the left one then"""

    @property
    def accumulators(self) -> int:
        """Bytes of accumulators for one product of a turn; there are two, of two turns."""
        return self.machine.accumulator_bytes // (2 * SLOTS)

    def product(self, m: int, n: int, k: int, products: int) -> tuple[bool, Pack]:
        """The fastest way of `products` times [m, k] x [k, n]."""
        found = []
        for swap in self.swaps:
            t, s = (n, m) if swap else (m, n)
            pack = best_pack(self.machine, t, s, k, products, self.accumulators)
            found.append((pack.clocks(self.machine, products), swap, pack))
        _, swap, pack = min(found, key=lambda f: f[:2])
        return swap, pack

    def passes(self, rows: int, columns: int) -> int:
        return -(-rows * -(-columns // self.lanes) // self.units)

    def reduction(self, rows: int, columns: int) -> int:
        return -(-rows // self.units) * tree_levels(columns, self.lanes) * self.tree


@lru_cache(maxsize=512)
def best_attention(core: Core, e: Attended, room: int) -> AttentionTiles | None:
    """The fastest cut that fits `room` bytes of the buffer and the accumulators, or None."""
    cuts = [cut for cut in _cuts(e) if _fits(core, e, *cut, room)]
    if not cuts:
        small = (cut for cut in _small_cuts(e) if _fits(core, e, *cut, room))
        return next((_timed(core, e, *cut) for cut in small), None)
    best: tuple[float, int, AttentionTiles] | None = None
    for least, number in sorted((_timed(core, e, *cut, least=True).seconds, n) for n, cut in enumerate(cuts)):
        if best is not None and least > best[0]:
            break
        found = _timed(core, e, *cuts[number])
        if best is None or (found.seconds, number) < best[:2]:
            best = found.seconds, number, found
    return best and best[2]


def _cuts(e: Attended) -> Iterator[tuple[int, int, int]]:
    """Pairs, queries and keys to try."""
    for queries in _halves(e.queries, min(LEAST_QUERIES, e.queries)):
        for keys in _halves(e.keys, min(LEAST_KEYS, e.keys)):
            for pairs in _halves(e.pairs, 1):
                yield pairs, queries, keys


def _small_cuts(e: Attended) -> Iterator[tuple[int, int, int]]:
    """Of single pairs, where nothing else fits."""
    for queries in _halves(min(LEAST_QUERIES, e.queries), 1):
        for keys in _halves(min(LEAST_KEYS, e.keys), 1):
            yield 1, queries, keys


def _halves(extent: int, least: int) -> Iterator[int]:
    size = extent
    while size > least:
        yield size
        size = max(least, -(-size // 2))
    yield least


def _fits(core: Core, e: Attended, pairs: int, queries: int, keys: int, room: int) -> bool:
    if Sizes.of(e, pairs, queries, keys).bytes(e.keys) > room:
        return False
    rows = pairs * e.group * queries
    return rows * max(keys, e.width) * ACCUMULATOR_BYTES <= core.accumulators


def _timed(core: Core, e: Attended, pairs: int, queries: int, keys: int, *, least: bool = False) -> AttentionTiles:
    """least: no more than that, without a look at the arrays and at where keys and values lie."""
    machine, clock = core.machine, core.machine.clock
    rows, size = pairs * e.group * queries, e.element_bytes
    compute, drain = 0, 0
    products = ((e.group * queries, keys, e.depth), (e.group * queries, e.width, keys))
    for m, n, k in () if least else products:
        _, pack = core.product(m, n, k, pairs)
        compute += pack.clocks(machine, pairs)
        drain += pack.drain_clocks(machine, pairs)
    cell, row = core.passes(rows, keys), core.passes(rows, e.width)
    steps = 1 + e.masks + (3 if e.softcap else 0)
    vector = drain + (steps * core.step + core.exp) * cell + 2 * core.reduction(rows, keys) + 2 * core.step * row
    sides = ((e.k, e.depth), (e.v, e.width))
    if least:
        memory = sum(machine.copies.least(pairs * keys * n * size) for side, n in sides if _is_read_once(side))
    else:
        memory = sum(move_seconds(machine.copies, side, keys, n, size, pairs)[0] for side, n in sides)
    tiles, blocks = 0, range(0, e.queries, queries)
    for start in blocks:
        first, stop = e.span(start, min(queries, e.queries - start))
        tiles += -(-stop // keys) - first // keys
    turns = tiles * -(-e.pairs // pairs)
    pace = max(compute / clock, vector / clock, memory) + (machine.array.skew + 16) / clock
    seconds = (turns + 2 * len(blocks)) * pace + machine.turnaround
    return AttentionTiles(
        pairs, queries, keys, seconds, turns * compute / clock, turns * vector / clock, turns * memory
    )  # fmt: skip


def _is_read_once(side: Side | None) -> bool:
    """Whether a matrix is in memory, and nothing of it for several pairs."""
    return side is not None and all(stride or count == 1 for count, stride in (*side.batch, *side.rows, *side.columns))
