"""Folds repeated stretches of a sequential program into counted loops.

Identical layers emit identical commands, but for addresses that grow by a constant from layer to layer (weights,
caches) or stay (activations). Where that holds for a run of stretches, one of them is kept as the body of a loop, with
those operands affine in the loop's counter. The unrolled loop is exactly what was there before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Sequence
from heapq import heappop, heappush

from pimc.backends.affine import Affine, Scalar, variable
from pimc.backends.isa import Command, operands_of, values_of
from pimc.backends.program import Item, Loop, Step
from pimc.record import record

Stretch = tuple[Item, ...]

LONGEST_PERIOD = 4
"""How many stretches one loop body may hold: buffers that take turns make every second layer alike."""


_SEARCH = -1
"""The loop variable of runs that are only looked at."""


@record
class Rolled:
    """A run of stretches: `count` turns of `period` stretches each, starting with stretch `first`."""

    items: Stretch
    first: int
    period: int
    count: int


@record
class _Run:
    """The same before it is written."""

    first: int
    period: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.period * self.count

    @property
    def saved(self) -> int:
        """How many stretches need not be written."""
        return self.period * (self.count - 1)


def roll(stretches: Sequence[Iterable[Item]], first_variable: int, again: Container[int] = ()) -> list[Rolled]:
    """Cover the stretches, in order, by loops and by single ones so that as few as possible are written.

    first_variable: loop variables from this number on are free. again: stretches that are known to be as far from the
    one before as that is from the one before it.
    """
    rolled: list[Rolled] = []
    for run in _fewest_written(stretches, again):
        items = _turn(stretches, run, 0)
        if run.count > 1:
            merged = _merge_items(items, _turn(stretches, run, 1), first_variable)
            assert merged is not None
            items = (Loop(first_variable, run.count, merged),)
            first_variable += 1
        rolled.append(Rolled(items, run.first, run.period, run.count))
    return rolled


def _fewest_written(stretches: Sequence[Iterable[Item]], again: Container[int]) -> tuple[_Run, ...]:
    """A shortest way from the first stretch behind the last one, where a run is as long as what it writes.

    The longest run is not always the best first one: two turns are at a constant distance from each other by nature.
    """
    ways: dict[int, tuple[int, tuple[_Run, ...]]] = {0: (0, ())}
    waiting = [(0, 0, 0)]
    while waiting:
        written, _, at = heappop(waiting)
        known, way = ways[at]
        shortest = ways[len(stretches)][0] if len(stretches) in ways else len(stretches) + 1
        if at == len(stretches) or written > known or written + 1 >= shortest:
            continue
        for run in _runs(stretches, at, again):
            total = written + run.period
            if run.end not in ways or total < ways[run.end][0]:
                ways[run.end] = total, (*way, run)
                heappush(waiting, (total, len(ways), run.end))
    return ways[len(stretches)][1]


def _runs(stretches: Sequence[Iterable[Item]], at: int, again: Container[int]) -> list[_Run]:
    """The longest run of each period from there on, what saves most first."""
    found = [_Run(at, 1, 1)]
    for period in range(1, LONGEST_PERIOD + 1):
        if max(run.saved for run in found) >= len(stretches) - at - period:  # a longer body saves no more
            break
        run = _longest(stretches, at, period, again)
        if run is not None:
            found.append(run)
    return sorted(found, key=lambda run: -run.saved)


def _turn(stretches: Sequence[Iterable[Item]], run: _Run, turn: int) -> Stretch:
    start = run.first + turn * run.period
    return tuple(item for stretch in stretches[start : start + run.period] for item in stretch)


def _longest(stretches: Sequence[Iterable[Item]], at: int, period: int, again: Container[int]) -> _Run | None:
    """The longest loop with a body of `period` stretches that starts at stretch `at`."""
    most = _Run(at, period, (len(stretches) - at) // period)
    if most.count < 2:
        return None
    first = _turn(stretches, most, 0)
    merged = _merge_items(first, _turn(stretches, most, 1), _SEARCH)
    if merged is None:
        return None
    for turn in range(2, most.count):
        if period == 1 and at + turn in again:
            continue
        following = _turn(stretches, most, turn)
        if not _matches(merged, following, _SEARCH, turn, _pairing(first, following)):
            return _Run(at, period, turn)
    return most


def _merge_items(first: Sequence[Item], second: Sequence[Item], number: int) -> Stretch | None:
    if len(first) != len(second):
        return None
    merged: list[Item] = []
    for a, b in zip(first, second, strict=True):
        item = _merge(a, b, number)
        if item is None:
            return None
        merged.append(item)
    return tuple(merged)


def _merge(a: Item, b: Item, number: int) -> Item | None:
    if isinstance(a, Loop) and isinstance(b, Loop):
        if a.count != b.count:
            return None
        body = _merge_items(a.body, tuple(_renamed(i, b.variable, a.variable) for i in b.body), number)
        return None if body is None else Loop(a.variable, a.count, body)
    if isinstance(a, Step) and isinstance(b, Step):
        if a.engine != b.engine or a.instances != b.instances or type(a.command) is not type(b.command):
            return None
        command = _merge_commands(a.command, b.command, number)
        return None if command is None else dataclasses.replace(a, command=command)
    return None


def _merge_commands(a: Command, b: Command, number: int) -> Command | None:
    if a == b:
        return a
    changes: dict[str, Scalar] = {}
    for name, declaration in operands_of(type(a)).items():
        left, right = getattr(a, name), getattr(b, name)
        if left == right:
            continue
        if not declaration.moves:
            return None
        step = right + left * -1 if isinstance(left, Affine) else right + -left
        if not isinstance(step, int):
            return None
        changes[name] = left + variable(number) * step
    return dataclasses.replace(a, **changes)


def _pairing(first: Sequence[Item], other: Sequence[Item]) -> dict[int, int]:
    """Loop variables of `other` by those of `first`, pairing loops in order."""
    pairs: dict[int, int] = {}
    for a, b in zip(first, other, strict=False):
        if isinstance(a, Loop) and isinstance(b, Loop):
            pairs[b.variable] = a.variable
            pairs |= _pairing(a.body, b.body)
    return pairs


def _matches(merged: Sequence[Item], actual: Sequence[Item], number: int, turn: int, names: dict[int, int]) -> bool:
    """Whether the loop body `merged`, at turn `turn`, is `actual`."""
    if len(merged) != len(actual):
        return False
    for m, a in zip(merged, actual, strict=True):
        if isinstance(m, Loop) and isinstance(a, Loop):
            if m.count != a.count or not _matches(m.body, a.body, number, turn, names):
                return False
        elif isinstance(m, Step) and isinstance(a, Step):
            if m.engine != a.engine or m.instances != a.instances or type(m.command) is not type(a.command):
                return False
            expected, found = values_of(m.command), values_of(a.command)
            if expected == found and Affine not in map(type, expected):
                continue
            for left, right in zip(expected, found, strict=True):
                if left is right and not isinstance(left, Affine):
                    continue
                if isinstance(left, Affine):
                    left = _bound(left, number, turn)
                if isinstance(right, Affine):
                    right = _rename(right, names)
                if left != right:
                    return False
        else:
            return False
    return True


def _bound(scalar: Affine, number: int, turn: int) -> Scalar:
    terms = dict(scalar.terms)
    step = terms.pop(number, 0)
    base = scalar.base + step * turn
    return Affine(base, tuple(sorted(terms.items()))) if terms else base


def _rename(scalar: Affine, names: dict[int, int]) -> Affine:
    return Affine(scalar.base, tuple(sorted((names.get(v, v), c) for v, c in scalar.terms)))


def _renamed(item: Item, old: int, new: int) -> Item:
    from pimc.backends.isa import mapped

    if old == new:
        return item
    if isinstance(item, Loop):
        return Loop(item.variable, item.count, tuple(_renamed(i, old, new) for i in item.body))
    names = {old: new}
    return dataclasses.replace(
        item, command=mapped(item.command, lambda s: _rename(s, names) if isinstance(s, Affine) else s)
    )
