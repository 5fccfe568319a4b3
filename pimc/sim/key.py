"""What the time of a program depends on: programs with the same key take the same time.

A key is made of the sequence of commands before it is split into streams. Commands count by what their timers make of
them. Of the memory that they touch, what matters is which accesses meet, for that is what streams wait for. Between
items of the sequence (commands, whole loops) that follows from the order in which what they touch begins and ends.
Inside of a loop, where accesses move, those are looked at together whose spans over all turns overlap. Addresses are
counted in granules from where such a neighbourhood begins, and inside of one by their order again: an access that ends
a little later, but before and after the same others, meets the same ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from math import gcd

from pimc.backends.affine import Affine, Scalar
from pimc.backends.emission import Sequential
from pimc.backends.engines import Platform
from pimc.backends.hazards import bounds
from pimc.backends.isa import Command, Region, operands_of
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop
from pimc.backends.timing import Costing, Identifying, Resource, Resources, Timer
from pimc.record import record
from pimc.sim.code import moved_by

Key = bytes
GRANULE = 32
"""Bytes; strides that are no multiples of it make a neighbourhood count by exact addresses."""
MOST_ITEMS = 1 << 14

Span = tuple[str, int, int]
"""Space, first and last byte."""


@record
class _Part:
    """What matters of an item outside of all loops."""

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
        self._parts: dict[Item, _Part] = {}

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
        known = self._parts.get(item)
        if known is None:
            if len(self._parts) >= MOST_ITEMS:
                self._parts.clear()
            known = self._parts[item] = self._described(item)
        return known

    def _described(self, item: Item) -> _Part:
        digest = hashlib.sha256()
        moving: list[tuple[Region, Span]] = []
        spans: dict[Span, None] = {}
        for text, ranges in self._texts((item,), {}):
            if isinstance(text, Command):
                for region in (r.flat(self._row_stride) for r in text.regions()):
                    if region.length > 0:
                        low, high = bounds(region.start, ranges)
                        span = region.space, low, high + region.length - 1
                        spans.setdefault(span)
                        moving.append((region, span))
            else:
                digest.update(repr(text).encode())
        digest.update(repr([(r.space, r.write, r.channels) for r, _ in moving]).encode())
        if isinstance(item, Loop):
            digest.update(repr(_borders(moving)).encode())
        return _Part(digest.digest(), tuple(spans))

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


def _borders(regions: Sequence[tuple[Region, Span]]) -> list[tuple[object, ...]]:
    """Of accesses in a loop: their neighbourhood, how they move, and their first and last byte in the first turn.

    Two borders may come into one granule only if the strides of their neighbourhood bring them there.
    """
    areas, origins = _neighbourhoods([span for _, span in regions])
    taken = [(area, *_taken_apart(r.start), r.length) for area, (r, _) in zip(areas, regions, strict=True)]
    strides: dict[int, int] = {}
    for area, _, terms, _ in taken:
        strides[area] = gcd(strides.get(area, 0), *(factor for _, factor in terms))
    inside: dict[tuple[int, int], set[int]] = defaultdict(lambda: {0})

    def where(area: int, at: int) -> tuple[int, int]:
        apart = strides[area] // GRANULE
        return area, at // GRANULE % apart if apart else at // GRANULE

    for area, start, _, length in taken:
        for at in (start, start + length - 1):
            inside[where(area, at)].add(at % GRANULE)
    ranks = {place: {at: rank for rank, at in enumerate(sorted(found))} for place, found in inside.items()}

    def place(area: int, at: int) -> tuple[int, int]:
        whole = strides[area] % GRANULE == 0
        granules = at // GRANULE - origins[area] // GRANULE
        return granules, ranks[where(area, at)][at % GRANULE] if whole else at % GRANULE

    return [(area, terms, place(area, start), place(area, start + size - 1)) for area, start, terms, size in taken]


def _neighbourhoods(spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """For each span the number of its neighbourhood, by first appearance, and where each neighbourhood begins."""
    joined: dict[Span, Span] = {}
    area, end = ("", 0, -1), -1
    for span in sorted(set(spans)):
        space, low, high = span
        if space != area[0] or low > end:
            area, end = span, high
        end = max(end, high)
        joined[span] = area
    numbers: dict[Span, int] = {}
    found = [numbers.setdefault(joined[span], len(numbers)) for span in spans]
    return found, [low for _, low, _ in numbers]


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
