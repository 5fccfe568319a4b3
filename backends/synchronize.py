"""Splits the sequential program into one stream per engine, and lets the streams wait for each other where they must.

Two commands of different engines are ordered when they touch the same memory and one writes: the earlier engine signals
after its command, the later one waits before its own. Inside a loop, an order between one turn and the next is kept by
a token that is put down at the beginning of the program and taken up at its end, so that nobody is held up where the
loop begins or ends. Orders that follow from others are left out. Every wait is for something earlier in program order,
so the streams cannot deadlock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.hazards import carried, conflict, spread, within
from pimc.backends.isa import Command, Region, Signal, Wait
from pimc.backends.orders import Order, necessary
from pimc.backends.program import Item, Loop, Step
from pimc.record import record

Streams = dict[str, tuple[Item, ...]]


@record
class Barrier:
    """An order that no memory asks for: from item `position` on, engines wait for what others do before it."""

    position: int
    engines: frozenset[str] | None = None
    """who waits; None: all"""
    after: frozenset[str] | None = None
    """for whom; None: all"""

    def holds(self, engine: str) -> bool:
        return self.engines is None or engine in self.engines

    def covers(self, other: Barrier) -> bool:
        """Whether whoever passes this one has passed the other, an earlier one, too."""
        waiting = self.engines is None or (other.engines is not None and other.engines <= self.engines)
        return waiting and (self.after is None or (other.after is not None and other.after <= self.after))


def split_streams(
    items: Sequence[Item],
    *,
    devices: int = 1,
    instances: int = 1,
    row_stride: int = 0,
    barriers: Sequence[Barrier] = (),
) -> Streams:
    """The stream of each engine, with SIGNALs and WAITs; engines in the order of their first command.

    barriers: orders beyond those of memory.

    devices, instances: how many ranks and channels execute the program, for operands that depend on them.
    row_stride: bytes of the DRAM from one row index to the next, for commands that work on whole rows.
    """
    splitter = _Splitter(tuple(items), {DEVICE: devices, INSTANCE: instances}, row_stride, barriers)
    return {engine: tuple(stream) for engine, stream in splitter.split(tuple(items)).items()}


_Touch = tuple[Region, int, int]
"""A region that a command touches, and its first byte and the one after the last over all turns of all loops."""


@dataclass(eq=False, slots=True)
class _Unit:
    """What one item of a level is to one engine: a step, or the engine's part of a loop."""

    position: int
    engine: str
    op: int
    touched: list[_Touch]
    before: list[Step] = field(default_factory=list)
    after: list[Step] = field(default_factory=list)
    known: dict[str, int] = field(default_factory=dict)
    """How far other engines are known to have come when this unit has completed."""

    def spread(self, loop: Loop) -> _Unit:
        """The same over all turns of a loop around it."""
        return _Unit(self.position, self.engine, self.op, _spread(self.touched, loop))

    def signal(self, semaphore: int) -> Step:
        return self._step(Signal(semaphore))

    def wait(self, semaphore: int) -> Step:
        return self._step(Wait(semaphore))

    def _step(self, command: Command) -> Step:
        return Step(self.engine, command, self.op)


_Place = tuple[str, str, bool]
"""A space, who touches it, and whether by writing."""
_Span = tuple[int, int]

_Live = dict[str, dict[_Touch, _Unit]]
"""What has been touched in a space, by engine, and the last unit that did so. What was touched last, and by whom, comes
last."""


_Pair = tuple[_Unit, _Unit]
"""One that is later than the other, perhaps in a later turn of a loop around both."""


@record
class _Body:
    """The body of a loop: its units, and between which of them tokens keep the order from turn to turn."""

    units: tuple[_Unit, ...]
    tokens: tuple[_Pair, ...]
    items: tuple[Item, ...]

    def over(self, engine: str, loop: Loop) -> list[_Unit]:
        """The units of an engine over all turns of the loop."""
        return [unit.spread(loop) for unit in self.units if unit.engine == engine]

    def ordered(self, first: _Unit, engine: str) -> int:
        """The position from which on a turn of an engine follows on all earlier turns of the first."""
        taken = (
            taker.position
            for giver, taker in self.tokens
            if giver.engine == first.engine and taker.engine == engine and giver.position >= first.position
        )
        return min(taken, default=len(self.items))


class _Splitter:
    def __init__(
        self, items: tuple[Item, ...], ranges: dict[int, int], row_stride: int, barriers: Sequence[Barrier]
    ) -> None:
        self._barriers: dict[int, list[Barrier]] = defaultdict(list)
        for barrier in barriers:
            self._barriers[barrier.position].append(barrier)
        self._ranges = ranges
        self._row_stride = row_stride
        self._semaphores = 0
        self._bodies: dict[int, _Body] = {}
        self._first: dict[str, list[Step]] = defaultdict(list)
        self._last: dict[str, list[Step]] = defaultdict(list)
        self._only: dict[int, str] = {}
        looked_at = [*self._look_at(items, ranges)]
        others = _Others(looked_at)
        self._touched = {id(step): others.met_by(step.engine, touched) for step, touched in looked_at}
        """what steps touch where other engines may be in the way, by the identity of the steps"""

    def split(self, items: Sequence[Item]) -> dict[str, list[Item]]:
        streams = self._level(items, None)
        return {engine: [*self._first[engine], *stream, *self._last[engine]] for engine, stream in streams.items()}

    def _level(self, items: Sequence[Item], carrier: Loop | None) -> dict[str, list[Item]]:
        """The streams of the whole program, or of the body of a loop."""
        inner = [self._parts(item) for item in items]
        levels = [self._units(position, item) for position, item in enumerate(items)]
        orders = self._order(levels, self._barriers if carrier is None else {})
        if carrier is not None:
            self._carry([unit for level in levels for unit in level], items, carrier, orders)
        streams: dict[str, list[Item]] = defaultdict(list)
        for parts, level in zip(inner, levels, strict=True):
            for unit in level:
                streams[unit.engine] += [*unit.before, *parts[unit.engine], *unit.after]
        return streams

    def _parts(self, item: Item) -> dict[str, list[Item]]:
        """What an item puts into each engine's stream."""
        if isinstance(item, Step):
            return {item.engine: [item]}
        only = self._only_engine(item)
        if only:  # nobody to wait for
            return {only: [item]}
        self._ranges[item.variable] = item.count
        parts = self._level(item.body, item)
        del self._ranges[item.variable]
        return {engine: [Loop(item.variable, item.count, tuple(body))] for engine, body in parts.items()}

    def _only_engine(self, loop: Loop) -> str:
        """The one engine that a loop is for; empty if there are several."""
        known = self._only.get(id(loop))
        if known is None:
            own = {self._only_engine(item) if isinstance(item, Loop) else item.engine for item in loop.body}
            known = self._only[id(loop)] = own.pop() if len(own) == 1 else ""
        return known

    def _units(self, position: int, item: Item) -> list[_Unit]:
        if isinstance(item, Step):
            return [_Unit(position, item.engine, item.op, self._touched[id(item)])]
        first: dict[str, int] = {}
        all_touched: dict[str, dict[_Touch, None]] = defaultdict(dict)
        for engine, op, touched in self._inside(item):
            first.setdefault(engine, op)
            all_touched[engine].update(dict.fromkeys(_spread(touched, item)))
        return [_Unit(position, engine, op, list(all_touched[engine])) for engine, op in first.items()]

    def _inside(self, loop: Loop) -> Iterator[tuple[str, int, list[_Touch]]]:
        """Engines in a turn of a loop, the ops they are at, and what they touch."""
        body = self._bodies.get(id(loop))
        if body is not None:
            yield from ((unit.engine, unit.op, unit.touched) for unit in body.units)
            return
        for item in loop.body:
            if isinstance(item, Step):
                yield item.engine, item.op, self._touched[id(item)]
            else:
                yield from ((engine, op, _spread(touched, item)) for engine, op, touched in self._inside(item))

    # -- orders within a turn -------------------------------------------------------------------------------------

    def _order(self, levels: Sequence[Sequence[_Unit]], barriers: Mapping[int, Sequence[Barrier]]) -> list[Order]:
        """Let units wait for earlier ones; returns who waits for whom."""
        orders: list[Order] = []
        live: dict[str, _Live] = defaultdict(dict)
        known: dict[str, dict[str, int]] = defaultdict(dict)
        last: dict[str, _Unit] = {}
        passed: list[tuple[Barrier, dict[str, _Unit]]] = []
        for position, level in enumerate(levels):
            for barrier in barriers.get(position, ()):
                passed = [(old, ends) for old, ends in passed if not barrier.covers(old)]
                passed.append((barrier, {e: u for e, u in last.items() if barrier.after is None or e in barrier.after}))
            for unit in level:
                held = [ends for barrier, ends in passed if barrier.holds(unit.engine)]
                if unit.touched or held:
                    orders += self._wait_for_earlier(unit, live, known[unit.engine], held)
            for unit in level:
                last[unit.engine] = unit
                unit.known = dict(known[unit.engine])
                for touch in unit.touched:
                    space = live[touch[0].space]
                    touched = space[unit.engine] = space.pop(unit.engine, {})
                    touched.pop(touch, None)
                    touched[touch] = unit
        return orders

    def _wait_for_earlier(
        self,
        unit: _Unit,
        live: Mapping[str, _Live],
        known: dict[str, int],
        held: Sequence[Mapping[str, _Unit]],
    ) -> Iterator[Order]:
        needed: dict[str, _Unit] = {}
        reached = defaultdict(lambda: -1, known)
        """how far other engines have come when those are done which are needed so far"""
        for ends in held:
            for engine, other in ends.items():
                if engine != unit.engine and reached[engine] < other.position:
                    needed[engine], reached[engine] = other, other.position
        for region, low, high in unit.touched:
            for engine, touched in live[region.space].items():
                if engine == unit.engine:
                    continue
                limit = reached[engine]
                for (earlier, start, end), other in reversed(touched.items()):
                    if other.position <= limit:
                        break
                    if start < high and low < end and conflict(earlier, region, self._ranges):
                        needed[engine], reached[engine] = other, other.position
                        break
        for giver in sorted(needed.values(), key=lambda other: -other.position):
            if known.get(giver.engine, -1) >= giver.position:
                continue
            semaphore = self._semaphore()
            giver.after.append(giver.signal(semaphore))
            unit.before.append(unit.wait(semaphore))
            yield Order(giver.engine, giver.position, unit.engine, unit.position)
            known[giver.engine] = giver.position
            for third, position in giver.known.items():
                if third != unit.engine:
                    known[third] = max(known.get(third, -1), position)

    # -- orders from one turn of a loop to a later one --------------------------------------------------------------

    def _carry(self, units: Sequence[_Unit], items: Sequence[Item], loop: Loop, orders: Sequence[Order]) -> None:
        """orders: those within a turn."""
        ranges = {v: n for v, n in self._ranges.items() if v != loop.variable}

        @cache
        def is_order(pair: _Pair) -> bool:
            return self._is_carried(*pair, items, loop, ranges)

        pairs: dict[tuple[str, str], list[_Pair]] = defaultdict(list)
        ordered: dict[tuple[str, str], None] = {}
        """engines between which there are orders"""
        for i, j in _meeting(units):
            pair = units[i], units[j]
            engines = pair[0].engine, pair[1].engine
            pairs[engines].append(pair)
            if engines not in ordered and is_order(pair):
                ordered[engines] = None
        kept = [pair for engines in ordered for pair in _strongest(pairs[engines], is_order)]
        self._bodies[id(loop)] = _Body(tuple(units), tuple(kept), tuple(items))
        units_of = {Order(a.engine, a.position, b.engine, b.position, turns=1): (a, b) for a, b in kept}
        for order in necessary(tuple(units_of), orders):
            first, second = units_of[order]
            semaphore = self._semaphore()
            first.after.append(first.signal(semaphore))
            second.before.append(second.wait(semaphore))
            self._first[first.engine].append(first.signal(semaphore))
            self._last[second.engine].append(second.wait(semaphore))

    def _is_carried(
        self, first: _Unit, second: _Unit, items: Sequence[Item], loop: Loop, ranges: dict[int, int]
    ) -> bool:
        """Whether some turn of the second must wait for an earlier turn of the first, and nothing sees to that yet.

        What lies in one inner loop may be ordered by its own tokens, which are handed on from one time that the loop
        is executed to the next.
        """
        near = _near(first.touched, second.touched)
        if not any(carried(a, b, loop.variable, loop.count, ranges) for a, b in near):
            return False
        item = items[first.position]
        if first.position != second.position or not isinstance(item, Loop):
            return True
        body = self._bodies[id(item)]
        others = body.over(second.engine, item)
        for one in body.over(first.engine, item):
            end = body.ordered(one, second.engine)
            if any(self._is_carried(one, o, body.items, loop, ranges) for o in others if o.position < end):
                return True
        return False

    # -- what is touched ------------------------------------------------------------------------------------------

    def _look_at(self, items: Sequence[Item], ranges: Mapping[int, int]) -> Iterator[tuple[Step, list[_Touch]]]:
        """What each step touches."""
        for item in items:
            if isinstance(item, Loop):
                yield from self._look_at(item.body, {**ranges, item.variable: item.count})
            else:
                regions = [region.flat(self._row_stride) for region in item.command.regions() if region.length > 0]
                yield item, [(region, *within(region, ranges)) for region in regions]

    def _semaphore(self) -> int:
        self._semaphores += 1
        return self._semaphores - 1


def _spread(touched: Iterable[_Touch], loop: Loop) -> list[_Touch]:
    """What is touched while a loop around it goes on."""
    return [(spread(region, loop.variable, loop.count), low, high) for region, low, high in touched]


class _Others:
    """Where other engines touch memory, as seen from each engine. Weights and temporaries are its own."""

    def __init__(self, looked_at: Iterable[tuple[Step, list[_Touch]]]) -> None:
        spans: dict[_Place, list[_Span]] = defaultdict(list)
        for step, touched in looked_at:
            for (space, _, _, write, _), low, high in touched:
                spans[space, step.engine, write].append((low, high))
        own = {place: _united(found) for place, found in spans.items()}
        self._spans = {
            place: _united([span for other in _in_the_way(place, own) for span in own[other]]) for place in own
        }

    def met_by(self, engine: str, touched: Sequence[_Touch]) -> list[_Touch]:
        """What an engine touches that may conflict with what others do."""
        found: list[_Touch] = []
        for touch in touched:
            (space, _, _, write, _), low, high = touch
            spans = self._spans[space, engine, write]
            behind = bisect_left(spans, (high,))
            if behind and spans[behind - 1][1] > low:
                found.append(touch)
        return found


def _in_the_way(place: _Place, places: Iterable[_Place]) -> Iterator[_Place]:
    space, engine, writes = place
    return (other for other in places if other[0] == space and other[1] != engine and (writes or other[2]))


def _meeting(units: Sequence[_Unit]) -> list[tuple[int, int]]:
    """Pairs of units of different engines, by their numbers in order, that may touch the same memory, one writing, in
    any turns of the loops around."""
    spans: dict[str, list[tuple[int, int, int, Region]]] = defaultdict(list)
    for index, unit in enumerate(units):
        for region, low, high in unit.touched:
            spans[region.space].append((low, high, index, region))
    found: set[tuple[int, int]] = set()
    for own in spans.values():
        own.sort(key=lambda span: span[0])
        before: list[tuple[int, int, int, Region]] = []
        for span in own:
            low, _, index, region = span
            before = [other for other in before if other[1] > low]
            for _, _, number, earlier in before:
                if (region.write or earlier.write) and units[index].engine != units[number].engine:
                    masks = region.channels, earlier.channels
                    if masks[0] is None or masks[1] is None or masks[0] & masks[1]:
                        found |= {(index, number), (number, index)}
            before.append(span)
    return sorted(found)


def _near(first: Sequence[_Touch], second: Sequence[_Touch]) -> Iterator[tuple[Region, Region]]:
    """Regions of the two that may meet in any turns of the loops around."""
    for a, low, high in first:
        for b, bottom, top in second:
            if low < top and bottom < high and a.space == b.space:
                yield a, b


def _strongest(pairs: Sequence[_Pair], is_order: Callable[[_Pair], bool]) -> list[_Pair]:
    """The orders among pairs that no other implies: no other is given later and taken earlier."""
    kept: list[_Pair] = []
    for pair in sorted(pairs, key=lambda p: (-p[0].position, p[1].position)):
        if (not kept or pair[1].position < kept[-1][1].position) and is_order(pair):
            kept.append(pair)
    return kept


def _united(spans: Iterable[_Span]) -> list[_Span]:
    united: list[_Span] = []
    for low, high in sorted({*spans}):
        if united and low <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], high))
        else:
            united.append((low, high))
    return united
