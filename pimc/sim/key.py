"""What the time of a program depends on: programs with the same key take the same time.

A key is made of the sequence of commands before it is split into streams. Commands count by what their timers make of
them. Of the memory that they touch, what matters is which accesses meet, for that is what streams wait for. Between
items of the sequence (commands, whole loops) that follows from the order in which what they touch begins and ends.
Inside of a loop, where accesses move, addresses are counted in granules, and inside of one by their order again: an
access that ends a little later, but before and after the same others, meets the same ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

from pimc.backends.affine import Affine, Scalar
from pimc.backends.emission import Sequential
from pimc.backends.engines import Platform
from pimc.backends.hazards import bounds
from pimc.backends.isa import Command, Region, operands_of
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop
from pimc.backends.timing import Costing, Identifying, Resource, Resources, Timer
from pimc.sim.code import moved_by

Key = bytes
GRANULE = 32
"""Bytes; strides that are no multiples of it make a space count by exact addresses."""
MOST_ITEMS = 1 << 14

Span = tuple[str, int, int]
"""Space, first and last byte."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What matters of an item outside of all loops."""

    item: Item
    digest: bytes
    """of everything but where in its space it lies"""
    spans: tuple[Span, ...]
    """all that is touched"""


class KeyMaker:
    """Makes keys for one machine."""

    def __init__(self, platform: Platform) -> None:
        resources: Resources = _Anything()
        self._row_stride = platform.geometry.stride_row
        timers = {name: platform.timer(engine, resources) for name, engine in platform.engines.items()}
        self._costs = {name: _cost_of(timer) for name, timer in timers.items()}
        self._parts: dict[int, _Part] = {}

    def key(self, order: Sequential) -> Key:
        digest = hashlib.sha256()
        for part, items in zip(order.parts, order.items, strict=True):
            known = [self._part(item) for item in items]
            ranks = _ranks(span for each in known for span in each.spans)
            digest.update(repr(part.devices).encode())
            for each in known:
                digest.update(each.digest)
                places = [(ranks[space][low], ranks[space][high]) for space, low, high in each.spans]
                digest.update(repr(places).encode())
        return digest.digest()

    def _part(self, item: Item) -> _Part:
        known = self._parts.get(id(item))
        if known is None:
            if len(self._parts) >= MOST_ITEMS:
                self._parts.clear()
            known = self._parts[id(item)] = self._described(item)
        return known

    def _described(self, item: Item) -> _Part:
        digest = hashlib.sha256()
        moving: list[Region] = []
        spans: dict[Span, None] = {}
        for text, ranges in self._texts((item,), {}):
            if isinstance(text, Command):
                for region in (r.flat(self._row_stride) for r in text.regions()):
                    if region.length > 0:
                        low, high = bounds(region.start, ranges)
                        spans.setdefault((region.space, low, high + region.length - 1))
                        moving.append(region)
            else:
                digest.update(repr(text).encode())
        digest.update(repr([(r.space, r.write, r.channels) for r in moving]).encode())
        if isinstance(item, Loop):
            digest.update(repr(_borders(moving)).encode())
        return _Part(item, digest.digest(), tuple(spans))

    def _texts(self, items: tuple[Item, ...], ranges: dict[int, int]) -> Iterator[tuple[Hashable, dict[int, int]]]:
        """What items are, and every command with the turns of the loops around it."""
        for item in items:
            if isinstance(item, Loop):
                yield (item.variable, item.count), ranges
                yield from self._texts(item.body, {**ranges, item.variable: item.count})
                yield "end", ranges
            else:
                yield (item.engine, item.instances, self._costs[item.engine](item.command)), ranges
                yield item.command, ranges


class _Anything(dict[str, Resource]):
    def __missing__(self, name: str) -> Resource:
        return self.setdefault(name, Resource(name))


def _ranks(spans: Iterable[Span]) -> Mapping[str, Mapping[int, int]]:
    """For each space, the order of all places where something begins or ends."""
    found: dict[str, set[int]] = defaultdict(set)
    for space, low, high in spans:
        found[space].update((low, high))
    return {space: {at: rank for rank, at in enumerate(sorted(places))} for space, places in found.items()}


def _borders(regions: Sequence[Region]) -> list[tuple[object, ...]]:
    """How accesses in a loop move, and their first and last byte in the first turn.

    Two borders may come into one granule only if the strides of their space bring them there.
    """
    taken = [(r.space, *_taken_apart(r.start), r.length) for r in regions]
    strides: dict[str, int] = {}
    for space, _, terms, _ in taken:
        strides[space] = gcd(strides.get(space, 0), *(factor for _, factor in terms))
    inside: dict[tuple[str, int], set[int]] = defaultdict(lambda: {0})

    def where(space: str, at: int) -> tuple[str, int]:
        apart = strides[space] // GRANULE
        return space, at // GRANULE % apart if apart else at // GRANULE

    for space, start, _, length in taken:
        for at in (start, start + length - 1):
            inside[where(space, at)].add(at % GRANULE)
    ranks = {place: {at: rank for rank, at in enumerate(sorted(found))} for place, found in inside.items()}

    def place(space: str, at: int) -> tuple[int, int]:
        whole = strides[space] % GRANULE == 0
        return at // GRANULE, ranks[where(space, at)][at % GRANULE] if whole else at % GRANULE

    return [(terms, place(space, start), place(space, start + length - 1)) for space, start, terms, length in taken]


def _taken_apart(scalar: Scalar) -> tuple[int, tuple[tuple[int, int], ...]]:
    return (scalar.base, scalar.terms) if isinstance(scalar, Affine) else (scalar, ())


def _cost_of(timer: Timer) -> Callable[[Command], Hashable]:
    """What gives all that a timer makes of a command."""
    costing = timer.cost if isinstance(timer, Costing) else getattr(timer, "signature", None)
    identity = timer.identity if isinstance(timer, Identifying) else lambda _: None

    def cost(command: Command) -> Hashable:
        declared = operands_of(type(command))
        if isinstance(command, Exchange) or moved_by(timer, command):
            return command.mnemonic, tuple(getattr(command, name) for name in declared)
        if costing is not None:
            made = costing(command)
        else:
            made = tuple(getattr(command, name) for name, operand in declared.items() if not operand.address)
        return command.mnemonic, made, identity(command)

    return cost
