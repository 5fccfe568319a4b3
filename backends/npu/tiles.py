"""How large the tiles of a matrix product are: a small search over what fits, scored by time.

One operand is streamed through the arrays (`t` rows), the other is stationary (`s` columns); both share `k`. Where sums
stay, both stream. Two schedules are tried:

    panels  whole k. A tile of the outer operand stays on chip while pieces of the inner one pass by; the outer tile
            comes in pieces too, which the first inner piece is multiplied with as they arrive. Or k in a few layers,
            each of which goes by like that, and all of the result in the accumulators: the arrays begin when the
            first pieces of the first layer are there
    slabs   tiles [t, k] and [s, k] of any depth; the products of all k gather in the accumulators. Of a few rows all of
            k may come at once and stay meanwhile, since their tiles, one by one, would use few channels each
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from pimc.backends.dma.timing import CopyTime
from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS, chunk_of
from pimc.backends.npu.extents import Extents, Side
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.strips import Strips, runs_for, strips_of
from pimc.ir.layout import Digit
from pimc.record import record

DEEP = 4
"""Tiles on chip of small products that follow each other, which the latencies of memory and array would hold up."""


_MADE_AT_ONCE = 1 << 17
"""Elements of an operand that a prologue makes at a time, if rows are not longer."""
_LAYERS = (2, 4, 8)
"""Into how many layers k may be cut, one after the other over all of the result."""
_WORTH_LAYERS = 1.04
"""They are tried where something else than arrays and transfers takes more than that part of the time."""


@record
class Tiles:
    """Tile extents; `t_outside`: the loop over tiles of t lies around that over s."""

    t: int
    s: int
    k: int
    t_outside: bool
    slots_outer: int
    slots: int
    """tiles of the inner operand and of the result that are on chip at a time"""
    seconds: float
    down: int = 1
    across: int = 1
    """arrays of a block, one under the other and side by side"""
    piece: int = 0
    """panels: rows (or columns) of the pieces in which the outer tile comes; 0: slabs. k: that of a layer"""
    kept: str = ""
    """slabs: t or s: the operand of which all of k comes at once"""
    early: int = 1
    """panels: of so many products the operands come in parts of k, each multiplied as it arrives"""
    compute: float = 0.0
    memory: float = 0.0
    """seconds of the arrays and of the transfers alone"""
    strips: Strips | None = None
    """slabs: how the last one comes; None: like all others"""
    deep: int = SLOTS
    """slabs: those of one product that are on chip at a time"""

    @property
    def limit(self) -> str:
        return bound_of(self.seconds, self.compute, self.memory)

    @property
    def score(self) -> float:
        """What the search makes small: the time, and of tiles that take about the same time, what they move."""
        return self.seconds + self.memory / 8


def bound_of(seconds: float, compute: float, memory: float) -> str:
    """Which bound holds: that of the memory, of the arrays, or neither, where fill and latency take longer."""
    if seconds > 2 * max(compute, memory):
        return "latency"
    return "memory" if memory >= compute else "arrays"


Moved = tuple[float, float]
"""Seconds of a transfer by itself, and its share of the time of all buses."""

Limits = tuple[int, int, int]
"""The largest t, s and k of a tile."""


@dataclass(slots=True)
class _Room:
    """Bytes of the buffer; and in what other rooms all that was asked so far has the same answer."""

    size: int
    least: int = 0
    """the most that did fit"""
    below: int = sys.maxsize
    """the least that did not"""

    def holds(self, wanted: int) -> bool:
        if wanted <= self.size:
            self.least = max(self.least, wanted)
            return True
        self.below = min(self.below, wanted)
        return False


T, S, RESULT = range(3)
_NAMES = "t", "s", "result"


class _Search:
    """The best tiles so far. What candidates share is found once: there are some hundred of them."""

    def __init__(self, machine: Machine, product: Extents, room: int) -> None:
        self.machine = machine
        self.product = product
        self.room = _Room(room)
        self.best: Tiles | None = None
        self.turnaround, self.drain = machine.turnaround, machine.drain
        self.drained = product.vector + (product.products / machine.drained / machine.clock if machine.drained else 0.0)
        """seconds until an element of the result has left the accumulators"""
        self._sides = product.streamed, product.stationary, product.out
        self._moved: dict[tuple[int, int, int], Moved] = {}
        depth = product.t if machine.sums_stay else product.k
        grids = [
            (down, across)
            for down, across in machine.array.grids()
            # of which no row or column of arrays is left without work
            if depth > machine.array.rows * (down - 1) and product.s > machine.array.columns * (across - 1)
        ]
        self.grids = sorted(grids, key=lambda grid: machine.compute(product.t, product.s, product.k, *grid))

    def moved(self, operand: int, rows: int, columns: int) -> Moved:
        """How long a tile [rows, columns] of T, S or the result takes from or to memory; tiles, where there are two."""
        key = operand, rows, columns
        if key not in self._moved:
            side, size = self._sides[operand], self.product.element_bytes
            one = move_seconds(self.machine.copies, side, rows, columns, size, writes=operand == RESULT)
            times = self.product.times(_NAMES[operand])
            self._moved[key] = one if times == 1 else (times * one[0], times * one[1])
        return self._moved[key]

    def kept(self, t: int, s: int, k: int) -> str:
        """The operand whose tiles take longer one by one than all of k at once, which takes less room than one of the
        other's tiles."""
        e = self.product
        if self.machine.tiling != "search" or e.stays or e.led:
            return ""
        name, operand, rows, other = ("t", T, t, e.held("s", s, k)) if t < s else ("s", S, s, e.held("t", t, k))
        if e.held(name, rows, e.k) > other:
            return ""
        return name if self.moved(operand, rows, e.k)[0] < -(-e.k // k) * self.moved(operand, rows, k)[0] else ""

    def compute(self, t: int, s: int, k: int, grid: tuple[int, int]) -> float:
        """Seconds of the arrays, for both products where there are two."""
        return self.product.products * self.machine.compute(t, s, k, *grid) / self.machine.clock

    def hopeless(self, grid: tuple[int, int]) -> bool:
        """Whether computing alone takes longer on a grid than the best tiles do."""
        product = self.product
        return self.beaten(self.compute(product.t, product.s, product.k, grid))

    def beaten(self, score: float) -> bool:
        """Whether what has at least such a score is not better than the best."""
        return self.best is not None and score >= self.best.score

    def offer(self, found: Tiles | None) -> None:
        if found is not None and (self.best is None or found.score < self.best.score):
            self.best = found


@dataclass(slots=True)
class _Found:
    """The answers of searches: the best tiles of a product depend on the room only where another candidate fits."""

    known: dict[tuple[Machine, Extents, Limits | None], list[tuple[_Room, Tiles | None]]] = field(default_factory=dict)

    def best(self, machine: Machine, product: Extents, room: int, most: Limits | None) -> Tiles | None:
        if len(self.known) >= MOST_PRODUCTS:
            self.known.clear()
        answers = self.known.setdefault((machine, product, most), [])
        for asked, tiles in answers:
            if asked.least <= room < asked.below:
                return tiles
        search = _Search(machine, product, room)
        _run(search, most or (product.t, product.s, product.k))
        answers.append((search.room, search.best))
        return search.best


MOST_PRODUCTS = 4096
_found = _Found()


def best_tiles(machine: Machine, product: Extents, room: int, most: Limits | None = None) -> Tiles | None:
    """The fastest tiles that fit `room` bytes of the buffer, or None."""
    return _found.best(machine, product, room, most)


def _run(search: _Search, limits: Limits) -> None:
    machine, product = search.machine, search.product
    if product.led:  # panels alone make each tile once
        if limits[2] >= product.k:
            _panels(search, limits)
        return
    if machine.tiling == "whole" and limits >= (product.t, product.s, product.k):
        for grid in search.grids:
            search.offer(_panel(search, grid, True, product.t, product.t, product.s))
        if search.best is not None:
            return
    if machine.tiling == "passes" and limits >= (product.t, product.s, product.k):
        width = min(product.s, machine.array.columns)
        search.offer(_panel(search, (1, 1), True, product.t, product.t, width))
        if search.best is not None:
            return
    if limits[2] >= product.k:
        _panels(search, limits)
    if product.cuts_k and machine.tiling == "search" and not machine.sums_stay and not product.repeated:
        _layers(search, limits)
    if search.best is None or machine.tiling != "panels":
        _slabs(search, limits)
    if search.best is None:
        _slabs(search, limits, small=True)


@lru_cache(maxsize=4096)
def _sizes(extent: int, block: int, most: int, *, small: bool = False) -> tuple[int, ...]:
    """Sizes to try: the whole, and halves of it down to a block, if `small` then to one; none above `most`."""
    sizes, size = list[int](), extent
    while True:
        if size <= most:
            sizes.append(size)
        if size == 1 or (size <= block and not small and size <= most):
            return tuple(sizes)
        half = -(-size // 2)
        size = -(-half // block) * block if half > block else chunk_of(extent, half)


# -- panels -----------------------------------------------------------------------------------------------------------


def _panels(search: _Search, most: Limits) -> None:
    machine, product = search.machine, search.product
    for grid in search.grids:
        if search.hopeless(grid):
            return
        for t_outside in (True, False):
            outer, most_outer = (product.t, most[0]) if t_outside else (product.s, most[1])
            for piece, turn in _pairs(machine, product, grid, most, t_outside=t_outside):
                for tile in _sizes(outer, piece, most_outer):
                    search.offer(_panel(search, grid, t_outside, tile, min(piece, tile), turn))


def _layers(search: _Search, most: Limits) -> None:
    """Panels of a few layers of k, where fill and drain take a visible part of the time."""
    machine, product, best = search.machine, search.product, search.best
    if best is not None and best.seconds < _WORTH_LAYERS * max(best.compute, best.memory):
        return
    if product.accumulators(product.t, product.s) > machine.accumulator_bytes:
        return
    for grid in search.grids:
        if search.hopeless(grid):
            return
        high, _ = machine.block(*grid)
        layers = [n for n in _LAYERS if product.cuts_k % n == 0 and product.k % (n * high) == 0]
        depths = [product.k // n for n in layers if product.k // n <= most[2]]
        for t_outside in (True, False):
            outer, most_outer = (product.t, most[0]) if t_outside else (product.s, most[1])
            if outer > most_outer:
                continue
            for piece, turn in _pairs(machine, product, grid, most, t_outside=t_outside):
                for depth in depths:
                    search.offer(_panel(search, grid, t_outside, outer, piece, turn, depth))


def _pairs(
    machine: Machine, product: Extents, grid: tuple[int, int], most: Limits, *, t_outside: bool
) -> Iterator[tuple[int, int]]:
    """Sizes of the pieces of the outer and of the inner operand to try."""
    _, wide = machine.block(*grid)
    piece_t = machine.array.rows * grid[0] if machine.sums_stay else machine.piece(*grid) or product.t
    pieces_t, pieces_s = _pieces(piece_t, min(product.t, most[0])), _pieces(wide, min(product.s, most[1]))
    outer, inner = (pieces_t, pieces_s) if t_outside else (pieces_s, pieces_t)
    for piece in outer:
        for turn in inner:
            yield piece, turn


def _pieces(least: int, whole: int) -> list[int]:
    """Pieces as small as they may be, and larger ones, which memory may like better."""
    return list(dict.fromkeys(min(whole, size) for size in (least, 4 * least, whole)))


def _panel(
    search: _Search, grid: tuple[int, int], t_outside: bool, tile: int, piece: int, inner: int, depth: int = 0
) -> Tiles | None:
    """depth: of a layer of k, of which there are several over one outer tile (0: all of k at once).

    None for what does not fit, or is seen to be beaten before its time is known.
    """
    machine, e, room = search.machine, search.product, search.room
    if e.led and (e.led == "t") != t_outside:
        return None
    layers = e.k // depth if depth else 1
    k = depth or e.k
    micro = (piece, inner) if t_outside else (inner, piece)
    whole_outer, whole_inner = (e.t, e.s) if t_outside else (e.s, e.t)
    turns_outer, turns_inner, pieces = -(-whole_outer // tile), -(-whole_inner // inner), -(-tile // piece)
    first_name, second_name = ("t", "s") if t_outside else ("s", "t")
    if e.t_loops or e.s_loops:
        (turns_outer, pieces), (turns_inner, _) = e.cut(first_name, tile, piece), e.cut(second_name, inner, inner)
    alone = turns_outer == 1 and turns_inner == 1 and pieces == 1
    depth_held = machine.depth(k, grid[0])
    held_piece, held_inner = e.held(first_name, piece, depth_held), e.held(second_name, inner, depth_held)
    one = e.held(first_name, tile, depth_held) + held_inner + padded(piece * inner * e.of_out)
    slots = DEEP if (alone and e.repeated and room.holds(one * DEEP)) or pieces > SLOTS else SLOTS
    slots_outer = slots if e.repeated else SLOTS if turns_outer * layers > 1 else 1
    slots_inner = slots_outer * min(turns_inner, SLOTS + 2)  # those of a loop, and two before or one before and after
    slots_out = slots_inner * min(pieces, 2 * slots + 2) // (SLOTS if layers > 1 else 1)  # of the last layer alone
    held = pieces * held_piece * slots_outer + held_inner * slots_inner
    held += padded(piece * inner * e.working_bytes) + padded(made_at_once(piece, k) * k * e.led_bytes)
    if not room.holds(held + padded(piece * inner * e.of_out) * slots_out):
        return None
    if e.accumulators(piece, inner) > machine.accumulator_bytes or _cuts_rows(e, *micro):
        return None

    def clocks(outer: int, inner: int) -> float:
        t, s = (outer, inner) if t_outside else (inner, outer)
        return search.compute(t, s, k, grid)

    sides = (T, S) if t_outside else (S, T)
    outer_piece, inner_piece = search.moved(sides[0], piece, k), search.moved(sides[1], inner, k)
    out_piece = search.moved(RESULT, *micro)
    turns, begun = turns_outer * turns_inner, turns_outer * pieces
    loading = layers * (begun * outer_piece[0] + turns * inner_piece[0])
    storing = turns * pieces * out_piece[0]
    held_bus = layers * (begun * outer_piece[1] + turns * inner_piece[1]) + turns * pieces * out_piece[1]
    memory = moving = max(loading, storing, held_bus)
    drained = micro[0] * micro[1] * search.drained
    after = out_piece[0] + drained
    ends = beside = 0.0
    if not e.repeated:  # before the last piece of the result is there
        ends = search.turnaround + after
        moving = max(loading, storing - out_piece[0], held_bus - out_piece[1])
        beside = (turns * pieces - 1) * out_piece[1] / held_bus if held_bus else 0.0
    if search.beaten(_until_stored(loading, moving, ends, beside, out_piece[0]) + memory / 8):
        return None
    whole, rest = divmod(tile, piece)
    turn = whole * clocks(piece, inner) + (clocks(rest, inner) if rest else 0)
    compute = layers * turns * turn
    if search.beaten(compute + ends + memory / 8):
        return None
    parts, stationary = machine.parts(k, grid[0]), 1 if t_outside else 0
    came = [_comes(search, *side, k, parts, grid[0]) for side in ((sides[0], piece), (sides[1], inner))]
    if e.led:  # made as a whole, and the other comes in parts
        came[0] = _Comes(outer_piece[0], 0.0, 0.0)
    whole_ones = came[0].whole + came[1].whole
    first = whole_ones + came[0].part + came[1].part
    if not e.led and (parts > 1 or t_outside):  # the stationary one comes first, and is loaded while the other arrives
        first = max(whole_ones + came[stationary].part, first - machine.array.first_load / machine.clock)
    slower = came[0].slower + came[1].slower
    micros = turn / pieces
    leaving = turn / pieces + search.drain + after  # from the first product in a slot until it is stored
    stored = (out_piece[1] if layers == 1 else 0.0), leaving / max(outer_piece[0], micros)
    late = {
        n: _late(outer_piece[0], inner_piece[0], stored, pieces, turns_inner, micros, parts, n, layers) for n in (1, 2)
    }
    early = 2 if came[0].part and late[2] < late[1] else 1
    filling = max(0.0, inner_piece[0] + slower - first + late[early])
    made = piece * k * e.before  # the first of a tile before all products, the others during those of the one before
    filling += turns_outer * (made + (pieces - 1) * max(0.0, made - micros))
    around = turn + inner_piece[0] + search.turnaround  # from loading a slot until it may be loaded again
    layer = turns_inner * (turn + inner_piece[0]) + pieces * outer_piece[0] + search.turnaround
    last = micros if turns_inner == 1 else turn
    moves = inner_piece[0] if turns_inner > 1 else outer_piece[0] + inner_piece[0] if pieces == 1 else outer_piece[0]
    in_parts = came[1].part or (turns_inner == 1 and came[0].part)
    if in_parts and pieces == 1 and turns_outer == 1 and layers == 1:
        # the very last one comes in parts, the one before did not
        last = max(last / parts, 2 * micros - moves if turns_inner > 2 else 0.0)
    steady = max(
        compute + (0 if e.repeated else first + filling),
        _until_stored(loading, moving, 0.0 if e.repeated else slower + last + ends, beside, out_piece[0]) - ends,
    )
    if turns > 1:
        steady = max(steady, layers * turns * around / (2 * SLOTS if turns_outer > 1 else SLOTS))
    if layers > 1:
        steady = max(steady, layers * layer / SLOTS)
    if layers > 1:  # all results leave during the last layer
        steady = max(steady, first + filling + compute - turns * turn + micros + storing - out_piece[0])
    if pieces > slots and held_bus > max(compute, 0.9 * loading):
        # a store waits for the load that is under way, and for one that was asked for before it
        waiting = turns * pieces - layers * (begun + turns) / 2
        steady = max(steady, loading + waiting * max(micros, after))
    steady = max(steady, turns * pieces * leaving / slots, turns * pieces * drained if e.vector else 0.0)
    steady += turns_outer * made if e.repeated else 0.0
    t, s = (tile, inner) if t_outside else (inner, tile)
    return Tiles(
        t, s, k, t_outside, slots_outer, slots, steady + ends, *grid, piece, "", early, compute, memory
    )  # fmt: skip


@record
class _Comes:
    """Seconds in which the first piece of an operand comes: as a whole, or each part of it, and by how much all parts
    are later than the whole."""

    whole: float
    part: float
    slower: float


def _comes(search: _Search, operand: int, rows: int, k: int, parts: int, down: int) -> _Comes:
    whole, depth = search.moved(operand, rows, k)[0], search.machine.part(k, down)
    if parts == 1:
        return _Comes(0.0, whole, 0.0)
    part = search.moved(operand, rows, depth)[0]
    if rather_whole(k // depth, part, whole):
        return _Comes(whole, 0.0, 0.0)
    return _Comes(0.0, part, max(0.0, k / depth * part - whole))


def rather_whole(parts: int, part: float, whole: float) -> bool:
    """Whether the parts of a piece fall on so few channels each that they would take twice as long as all of it."""
    return parts * part > 2 * whole


def _until_stored(loading: float, moving: float, after: float, beside: float, out: float) -> float:
    """Seconds until all transfers are over, if nothing but them holds anything up.

    moving: all but that of the last piece of the result, which takes `out` and is over `after` seconds after the last
    load. Meanwhile those of pieces before it go on, which are a part `beside` of all.
    """
    return max(loading + after, moving + after - beside * max(0.0, after - out))


def made_at_once(rows: int, k: int) -> int:
    """How many of a tile's rows a prologue makes at a time."""
    return chunk_of(rows, max(1, _MADE_AT_ONCE // k))


def _cuts_rows(e: Extents, t: int, s: int) -> bool:
    """Whether tiles [t, s] of the result have a part of what they must have whole."""
    return bool(t % e.t_group or s % e.s_group)


def _late(
    outer: float, inner: float, stored: tuple[float, float], pieces: int, turns: int, product: float, parts: int,
    early: int, layers: int,
) -> float:  # fmt: skip
    """Seconds by which operands come later, after the first inner piece, than the arrays have got to them.

    outer, inner: seconds for a piece of both; stored: those for which a piece of the result holds up loads, and so many
    pieces later; product: for one of each; early: products whose operands come in parts, so that arrays wait for the
    last part alone.
    """
    out, behind = stored
    waiting = product - product / parts
    found = [outer - waiting] if parts > 1 and (pieces == 1 or early > 1) else []
    for j in {min(1, pieces - 1), min(2, pieces - 1), pieces - 1}:
        if j or not found:
            held_up = max(0.0, j - behind) * out
            found.append((j + 1) * outer + held_up - j * product - (waiting if 0 < j < early else 0.0))
    for i in (1, 2):
        if turns > i:
            held_up = max(0.0, i * pieces - behind) * out
            found.append(pieces * outer + i * inner + held_up - i * pieces * product)
            found[-1] -= waiting if pieces == 1 and (i < early or i == turns - 1) else 0.0
    if layers > 1:  # the pieces of the second layer
        for j in {0, pieces - 1}:
            found.append((pieces + 1 + j) * outer + turns * inner - (turns * pieces + j) * product)
    return max(found)


# -- slabs ------------------------------------------------------------------------------------------------------------


@record
class _Slab:
    """Tiles that fit, but for the arrays: what every grid of them has in common."""

    t: int
    s: int
    k: int
    t_outside: bool
    turns: int
    results: int
    """tiles of the result"""
    slots_outer: int
    slots: int
    deep: int
    """slabs that may be on chip at a time"""
    rest: int
    """k of the last slab"""
    kept: str
    loading: float
    first: float
    """seconds for the operands of one turn"""
    once: float
    """for those that come before all turns"""
    out: float
    drained: float
    """seconds until one tile of the result is stored, and has left the accumulators"""
    memory: float
    moving: float
    """seconds of all transfers, and of those before the last result is there"""
    beside: float
    """the part of them that stores tiles of the result before the last one"""
    cut: str
    """t or s: the operand whose part of the last slab may come in strips"""
    least: float
    """no grid gives a better score"""


@record
class _Ending:
    """How the last slab comes, and seconds: for each of its strips, and by how much all are later than at once; for
    products of the last one, and of all."""

    strips: Strips | None
    came: float
    later: float
    last: float
    all: float
    part: float
    """of its columns that come last"""


def _slabs(search: _Search, most: Limits, *, small: bool = False) -> None:
    machine, product = search.machine, search.product
    known: dict[tuple[int, int, int, bool], _Slab | None] = {}
    for grid in search.grids:
        if search.hopeless(grid):
            return
        high, wide = machine.block(*grid)
        for k in _sizes(product.k, machine.array.rows if machine.sums_stay else high, most[2], small=small):
            if not machine.sums_stay and k <= high - machine.array.rows:
                continue  # a row of arrays would be left without work
            for s in _sizes(product.s, wide, most[1], small=small):
                for t in _sizes(product.t, machine.array.columns, most[0], small=small):
                    if machine.sums_stay and k < product.k and (t > high or s > wide):
                        continue  # sums of several blocks cannot stay from slab to slab
                    for t_outside in (True, False) if k >= product.k else (True,):  # else both orders are the same
                        key = t, s, k, t_outside
                        if key not in known:
                            known[key] = _slab(search, *key)
                        slab = known[key]
                        if slab is not None and not search.beaten(slab.least):
                            search.offer(_on_arrays(search, slab, grid))


def _slab(search: _Search, t: int, s: int, k: int, t_outside: bool) -> _Slab | None:
    e, room = search.product, search.room
    turns_t, turns_s, turns_k = -(-e.t // t), -(-e.s // s), -(-e.k // k)
    outer = SLOTS if turns_k > 1 or (turns_t if t_outside else turns_s) > 1 else 1
    slots_t, slots_s = (outer, SLOTS) if t_outside else (SLOTS, outer)
    alone = turns_t * turns_s == 1 and not e.repeated
    cut = ("s" if s > t else "t") if alone and turns_k > 1 and search.machine.strips and _in_strips(e) else ""
    if turns_k > 1:
        slots_t = slots_s = min(turns_k, SLOTS + 1 + bool(cut or e.k % k)) * (1 if alone else SLOTS)
    turns = turns_t * turns_s * turns_k
    if e.doubled and (turns_t if t_outside else turns_s) > 1:  # the next of two large tiles comes too late
        return None
    if e.accumulators(t, s) > search.machine.accumulator_bytes or _cuts_rows(e, t, s):
        return None
    held_t, held_s = e.held("t", t, k), e.held("s", s, k)
    kept = search.kept(t, s, k) if turns_k > 1 else ""
    one = held_t + held_s + padded(t * s * e.of_out)
    slots = DEEP if turns == 1 and e.repeated and room.holds(one * DEEP) else SLOTS
    if turns == 1:
        slots_t = slots_s = slots if e.repeated else 1
    if kept:  # one place for each parity of tiles
        places = SLOTS if turns_t * turns_s > 1 or e.repeated else 1
        held_t, slots_t = (e.held("t", t, e.k), places) if kept == "t" else (held_t, slots_t)
        held_s, slots_s = (e.held("s", s, e.k), places) if kept == "s" else (held_s, slots_s)
    held = held_t * slots_t + held_s * slots_s + padded(t * s * e.working_bytes)
    if not room.holds(held + padded(t * s * e.of_out) * slots):
        return None
    deep = slots
    if alone and turns_k >= 2 * DEEP:
        more = sum((2 * DEEP - n) * size for n, size in ((slots_t, held_t), (slots_s, held_s)) if n > 1)
        deep = DEEP if room.holds(held + more + padded(t * s * e.of_out) * slots) else slots
    one_t, bus_t = search.moved(T, t, e.k if kept == "t" else k)
    one_s, bus_s = search.moved(S, s, e.k if kept == "s" else k)
    one_out, bus_out = search.moved(RESULT, t, s)
    results = turns_t * turns_s
    rest = (e.k - 1) % k + 1
    if turns_k > 1:
        # a last slab of more than half is counted as what it is. Less is not gained: it waits for the one before
        slabs = e.k / k if 2 * rest > k else turns_k
        loads_t, loads_s = (results if kept == name else results * slabs for name in ("t", "s"))
    else:
        loads_t, loads_s = (turns_t, results) if t_outside else (results, turns_s)
    loading, storing = one_t * loads_t + one_s * loads_s, one_out * results
    once = (one_t if loads_t == 1 else 0.0) + (one_s if loads_s == 1 else 0.0) if turns > 1 else 0.0
    held_bus = bus_t * loads_t + bus_s * loads_s + bus_out * results
    memory = moving = max(loading, storing, held_bus)
    drained = t * s * search.drained
    ends = beside = 0.0
    if not e.repeated:
        ends = search.turnaround + (0.0 if cut else drained + one_out)
        moving = max(loading, storing - one_out, held_bus - bus_out)
        beside = (results - 1) * bus_out / held_bus if held_bus else 0.0
    least = _until_stored(loading, moving, ends, beside, one_out) + memory / 8
    return _Slab(
        t, s, k, t_outside, turns, results, outer, slots, deep, rest, kept, loading, one_t + one_s, once,
        one_out, drained, memory, moving, beside, cut, least,
    )  # fmt: skip


def _on_arrays(search: _Search, slab: _Slab, grid: tuple[int, int]) -> Tiles | None:
    """With the time of the arrays; None where that alone is longer than the best tiles take."""
    e, machine, memory, turns = search.product, search.machine, slab.moving, slab.turns
    compute = e.products * turns * machine.compute(slab.t, slab.s, slab.k, *grid) / machine.clock
    if search.beaten(compute):
        return None
    once = 0.0 if e.repeated else slab.once
    # from loading a slot until it may be loaded again
    around = (compute + slab.loading - once) / turns + search.turnaround
    steady = compute + (0.0 if e.repeated else slab.first)
    deep = slab.deep if once + turns * around / slab.slots > max(steady, memory) else slab.slots
    steady = max(steady, once + turns * around / deep)
    # from the first product of a tile of the result until it is stored
    leaving = compute / slab.results + search.drain + slab.drained + slab.out
    steady = max(steady, slab.results * max(leaving / slab.slots, slab.drained if e.vector else 0.0))
    # the beginning and the end of one product overlap with its neighbours in a row of them
    end, after = (0.0, 0.0) if e.repeated else (compute / turns, search.turnaround + slab.drained + slab.out)
    ending = _Ending(None, slab.first, 0.0, end, end, 1.0)
    if slab.cut and not search.beaten(max(steady, memory) + search.drain + slab.memory / 8):
        # arrays are at work all the time, or from when the slab before is there, which comes at once
        busy = max(steady - end, memory - slab.loading * slab.rest / e.k + compute / turns)
        ways = (ending, *_strips(search, slab, grid, ending))
        ending = min(ways, key=lambda way: max(busy + way.all, memory + way.later + way.last))
        steady, memory, end = busy + ending.all, memory + ending.later, ending.last
        after -= (1 - ending.part) * slab.drained
    end -= 0.0 if e.repeated else machine.unseen(end, ending.came)
    moved = _until_stored(slab.loading, memory, end + after, slab.beside, slab.out)
    seconds = max(steady + after, moved)
    return Tiles(
        slab.t, slab.s, slab.k, slab.t_outside, slab.slots_outer, slab.slots, seconds, *grid,
        kept=slab.kept, compute=compute, memory=slab.memory, strips=ending.strips, deep=deep,
    )  # fmt: skip


def _in_strips(e: Extents) -> bool:
    """Whether the result may be worked on in parts of a tile."""
    return e.t_group == e.s_group == 1 and not (e.led or e.doubled or e.out_bytes or e.vector)


def _strips(search: _Search, slab: _Slab, grid: tuple[int, int], whole: _Ending) -> Iterator[_Ending]:
    """How the last slab may come rather than as a whole."""
    machine, e = search.machine, search.product
    high, wide = machine.block(*grid)
    extent, block, side, loops = slab.t, machine.array.columns, e.streamed, e.t_loops
    if slab.cut == "s":
        extent, block, side, loops = slab.s, wide, e.stationary, e.s_loops
    if side is None or machine.copies.reads is None:
        return
    depth = (slab.rest - 1) % high + 1  # of the last block
    at_once = search.moved(S if slab.cut == "s" else T, extent, depth)[0]
    pitch = side.columns[-1][1] if len(side.rows) == 1 and side.columns and not loops else 1
    one = whole.all / -(-slab.k // high)
    before = one * ((slab.rest - 1) // high)
    for strips in strips_of(slab.cut, extent, block, runs_for(machine.copies.reads.memory, pitch)):
        own = Side(strips.digits(side.rows), side.columns)
        came = move_seconds(machine.copies, own, strips.columns, depth, e.element_bytes)[0]
        if slab.cut == "s":
            last = search.compute(slab.t, strips.columns, depth, grid)
        elif slab.s <= wide:
            last = machine.array.stream(strips.columns, depth, slab.s) / machine.clock
        else:
            last = search.compute(strips.columns, slab.s, depth, grid)
        later = strips.count * came - at_once
        # the block before may still be multiplied when strips come
        behind = one - strips.count * (came - last) if before else last
        yield _Ending(strips, came, later, max(last, behind), before + strips.count * last, strips.columns / extent)
        if later < last:
            return


@lru_cache(maxsize=65536)
def move_seconds(
    copies: CopyTime,
    side: Side | None,
    rows: int,
    columns: int,
    element_bytes: int,
    turns: int = 1,
    *,
    writes: bool = False,
) -> Moved:
    """How long a tile [rows, columns] of so many products takes from or to memory."""
    if side is None:
        return 0.0, 0.0
    digits = (*_inner(side.batch, turns), *_inner(side.rows, rows), *_inner(side.columns, columns))
    return copies.of(digits, element_bytes, turns * rows * columns, writes=writes)


def _inner(digits: tuple[Digit, ...], extent: int) -> Iterator[Digit]:
    """The digits of the first `extent` elements."""
    for count, stride in reversed(digits):
        if extent <= 1:
            return
        yield min(count, extent), stride
        extent //= count
