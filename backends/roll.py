"""Folds repeated stretches of a sequential program into counted loops.

Identical layers emit identical commands, but for addresses that grow by a constant from layer to layer (weights,
caches) or stay (activations). Where that holds for a run of stretches, one of them is kept as the body of a loop, with
those operands affine in the loop's counter. The unrolled loop is exactly what was there before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pimc.backends.affine import Affine, Scalar, variable
from pimc.backends.isa import Command, operands_of, values_of
from pimc.backends.program import Item, Loop, Step
from pimc.record import record

Stretch = tuple[Item, ...]

LONGEST_PERIOD = 4
"""How many stretches one loop body may hold: buffers that take turns make every second layer alike."""


@record
class Rolled:
    """A run of stretches: `count` turns of `period` stretches each, starting with stretch `first`."""

    items: Stretch
    first: int
    period: int
    count: int

    @property
    def saved(self) -> int:
        """How many stretches need not be written."""
        return self.period * (self.count - 1)


def roll(stretches: Sequence[Stretch], first_variable: int) -> list[Rolled]:
    """Cover the stretches, in order, by loops that are as long as possible.

    first_variable: loop variables from this number on are free.
    """
    rolled: list[Rolled] = []
    at = 0
    while at < len(stretches):
        best = Rolled(stretches[at], at, 1, 1)
        for period in range(1, LONGEST_PERIOD + 1):
            if best.saved >= len(stretches) - at - period:  # a longer body saves no more
                break
            found = _longest(stretches, at, period, first_variable)
            if found is not None and found.saved > best.saved:
                best = found
        if best.count > 1:
            first_variable += 1
        rolled.append(best)
        at = best.first + best.period * best.count
    return rolled


def _longest(stretches: Sequence[Stretch], at: int, period: int, number: int) -> Rolled | None:
    """The longest loop with a body of `period` stretches that starts at stretch `at`."""

    def body(turn: int) -> Stretch | None:
        start = at + turn * period
        chunk = stretches[start : start + period]
        return tuple(item for stretch in chunk for item in stretch) if len(chunk) == period else None

    first, second = body(0), body(1)
    if first is None or second is None:
        return None
    merged = _merge_items(first, second, number)
    if merged is None:
        return None
    count = 2
    while (following := body(count)) is not None:
        if not _matches(merged, following, number, count, _pairing(first, following)):
            break
        count += 1
    return Rolled((Loop(number, count, merged),), at, period, count)


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
