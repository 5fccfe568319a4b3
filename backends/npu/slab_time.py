"""How long a product takes in slabs."""

from __future__ import annotations

from collections.abc import Iterator

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS
from pimc.backends.npu.candidates import RESULT, S, Search, T, cuts_rows, until_stored
from pimc.backends.npu.extents import Extents, Side
from pimc.backends.npu.strips import DRAINS, Strips, runs_for, strips_of
from pimc.backends.npu.tiles import DEEP, Tiles, move_seconds
from pimc.record import record


@record
class Slab:
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
    left_over: bool
    """whether the last tile waits for a loop over those before it, which has its place"""
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
    """seconds that it takes on any grid"""


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


def slab_of(search: Search, t: int, s: int, k: int, t_outside: bool) -> Slab | None:
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
    if e.accumulators(t, s) > search.machine.accumulator_bytes or cuts_rows(e, t, s):
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
    inner = turns_s if t_outside else turns_t
    left_over = turns_k == 1 and inner > 2 * SLOTS - 1 and inner % SLOTS > 0
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
    least = until_stored(loading, moving, ends, beside, one_out)
    return Slab(
        t, s, k, t_outside, turns, results, outer, slots, deep, rest, left_over, kept, loading, one_t + one_s, once,
        one_out, drained, memory, moving, beside, cut, least,
    )  # fmt: skip


def on_arrays(search: Search, slab: Slab, grid: tuple[int, int]) -> Tiles | None:
    """With the time of the arrays; None where that alone is longer than the best tiles take."""
    e, machine, memory, turns = search.product, search.machine, slab.moving, slab.turns
    compute = e.products * turns * machine.compute(slab.t, slab.s, slab.k, *grid) / machine.clock
    if search.beaten(compute, compute, slab.memory, compute):
        return None
    once = 0.0 if e.repeated else slab.once
    # from loading a slot until it may be loaded again
    around = (compute + slab.loading - once) / turns + search.turnaround
    steady = compute + (0.0 if e.repeated else slab.first)
    deep = slab.deep if once + turns * around / slab.slots > max(steady, memory) else slab.slots
    steady = max(steady, once + (turns + slab.left_over * (deep - 1)) * around / deep)
    # from the first product of a tile of the result until it is stored
    leaving = compute / slab.results + search.drain + slab.drained + slab.out
    queued = machine.queued(slab.results, e.commands, compute / slab.results, slab.drained)
    results = max(queued, slab.results * max(leaving / slab.slots, slab.drained if e.vector else 0.0))
    steady, among = max(steady, results), max(compute, slab.memory, turns * around / deep, results)
    # the beginning and the end of one product overlap with its neighbours in a row of them
    end, after = (0.0, 0.0) if e.repeated else (compute / turns, search.turnaround + slab.drained + slab.out)
    ending = _Ending(None, slab.first, 0.0, end, end, 1.0)
    if slab.cut and not search.beaten(max(steady, memory) + search.drain, among, slab.memory, compute):
        # arrays are at work all the time, or from when the slab before is there, which comes at once
        busy = max(steady - end, memory - slab.loading * slab.rest / e.k + compute / turns)
        ways = (ending, *_strips(search, slab, grid, ending))
        ending = min(ways, key=lambda way: max(busy + way.all, memory + way.later + way.last))
        steady, memory, end = busy + ending.all, memory + ending.later, ending.last
        after -= (1 - ending.part) * slab.drained
    end -= 0.0 if e.repeated else machine.unseen(end, ending.came)
    moved = until_stored(slab.loading, memory, end + after, slab.beside, slab.out)
    seconds = max(steady + after, moved)
    return Tiles(
        slab.t, slab.s, slab.k, slab.t_outside, slab.slots_outer, slab.slots, seconds, *grid,
        kept=slab.kept, compute=compute, memory=slab.memory, strips=ending.strips, deep=deep,
        among=among if machine.overlaps and not e.repeated else seconds,
    )  # fmt: skip


def _in_strips(e: Extents) -> bool:
    """Whether the result may be worked on in parts of a tile."""
    return e.t_group == e.s_group == 1 and not (e.led or e.doubled or e.out_bytes or e.vector)


def _strips(search: Search, slab: Slab, grid: tuple[int, int], whole: _Ending) -> Iterator[_Ending]:
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
        drains = DRAINS if slab.cut == "t" and slab.s <= wide else 1
        queued = max(0.0, search.drain - (machine.waiting - drains) * came)  # behind drains of strips before
        ends = max(last, behind) + queued
        yield _Ending(strips, came, later, ends, before + strips.count * last, strips.columns / extent)
        if later < last:
            return
