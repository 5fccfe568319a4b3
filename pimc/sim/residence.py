"""What lies where in the memories of one device: by role, by address, and by bank and channel of the DRAM."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pimc.backends.engines import platform_of
from pimc.backends.program import MapEntry, Program
from pimc.backends.state import DramGeometry
from pimc.ir.layout import Layout
from pimc.record import record
from pimc.sim.common_name import common_name

LARGEST = 8
"""Lines of tensors that are named."""
_NUMBER = re.compile(r"\d+")
MOST_STRETCHES = 240
TEMPORARY = "temporary"


@record
class Tensors:
    """Those of one role whose names differ in numbers alone (`layers.*.wq`), together."""

    name: str
    role: str
    count: int
    bytes: int


@record
class Stretch:
    """Addresses that tensors of one role lie within; between such stretches is room for intermediate results."""

    role: str
    start: int
    end: int


@record
class MemoryReport:
    """One space of the first device. Bytes."""

    space: str
    capacity: int | None
    """None: not known to be limited"""
    peak: int
    """used at most, from address 0"""
    roles: Mapping[str, int]
    tensors: int
    largest: Sequence[Tensors]
    stretches: Sequence[Stretch]


@record
class BanksReport:
    """How many bytes of weights, caches, inputs and outputs each bank of each channel of the first device holds."""

    channels: int
    banks: int
    resident: Sequence[Sequence[int]]
    """by bank, then by channel"""


def memories_of(program: Program) -> tuple[MemoryReport, ...]:
    """Every space that the first device uses."""
    capacity = platform_of(program).spaces
    found = []
    for space in dict.fromkeys([*capacity, *(e.space for e in program.memory)]):
        entries = _own(program, space)
        peak = program.extent.get(space, 0)
        if entries or peak:
            found.append(_memory(space, capacity.get(space), peak, entries))
    return tuple(found)


def _own(program: Program, space: str) -> list[MapEntry]:
    """What has memory of its own on the first device; the parts of a paged cache share a pool."""
    own = [e for e in program.memory if e.space == space and 0 in e.devices and e.alias is None]
    pools: set[tuple[int, int]] = set()
    found = []
    for e in own:
        pool = e.blocks.pool if e.blocks is not None else None
        if pool is None or pool not in pools:
            found.append(e)
        if pool is not None:
            pools.add(pool)
    return found


def _memory(space: str, capacity: int | None, peak: int, entries: Sequence[MapEntry]) -> MemoryReport:
    roles: Counter[str] = Counter()
    alike: dict[tuple[str, str], list[MapEntry]] = defaultdict(list)
    for e in entries:
        roles[e.role] += entry_bytes(e)
        alike[_NUMBER.sub("*", e.name), e.role].append(e)
    tensors = [_together(role, members) for (_, role), members in alike.items()]
    return MemoryReport(
        space,
        capacity,
        max([peak, *(_span(e)[1] for e in entries)]),
        dict(sorted(roles.items())),
        sum(t.count for t in tensors),
        tuple(sorted(tensors, key=lambda t: (-t.bytes, t.name))[:LARGEST]),
        tuple(_stretches(entries, max(1, peak // 1000))),
    )


def _together(role: str, members: Sequence[MapEntry]) -> Tensors:
    names = list(dict.fromkeys(e.name for e in members))  # a tensor may lie in several places
    return Tensors(common_name(names), role, len(names), sum(entry_bytes(e) for e in members))


def entry_bytes(e: MapEntry) -> int:
    """What its elements take up."""
    if e.blocks is not None:
        return e.blocks.pool[1]
    return e.layout.elements * e.dtype.bits // 8


def _span(e: MapEntry) -> tuple[int, int]:
    layout, width = e.memory
    return layout.span(width)


def _stretches(entries: Sequence[MapEntry], near: int) -> Iterator[Stretch]:
    """Neighbours of one role as one; what is too small to be seen is left out where there are many."""
    joined: list[Stretch] = []
    for e in sorted(entries, key=_span):
        low, high = _span(e)
        last = joined[-1] if joined else None
        if last is not None and last.role == e.role and low - last.end <= near:
            joined[-1] = Stretch(e.role, last.start, max(last.end, high))
        else:
            joined.append(Stretch(e.role, low, high))
    shortest = sorted((s.end - s.start for s in joined), reverse=True)[:MOST_STRETCHES][-1:] or [0]
    return (s for s in joined if s.end - s.start >= shortest[0])


# -- banks ------------------------------------------------------------------------------------------------------------

Cells = NDArray[np.int64]


def banks_of(program: Program) -> BanksReport | None:
    """Where the bytes of the map lie in the DRAM; None where nothing does."""
    geometry = platform_of(program).geometry
    total: Cells = np.zeros(geometry.channels * geometry.banks, np.int64)
    alike: dict[Layout, int] = defaultdict(int)
    period = geometry.row_bytes * total.size
    for e in _own(program, "dram"):
        taken, width = e.memory
        alike[Layout(taken.offset % period, (*taken.dims, ((width, 1),)))] += 1
    for layout, times in alike.items():
        total += times * _cells(layout, geometry)
    if not total.any():
        return None
    by_bank = total.reshape(geometry.banks, geometry.channels)
    return BanksReport(geometry.channels, geometry.banks, tuple(tuple(row) for row in by_bank.tolist()))


def _cells(layout: Layout, geometry: DramGeometry) -> Cells:
    """Bytes of a layout in each row-sized cell of the period in which banks and channels come round."""
    number = geometry.channels * geometry.banks
    period = geometry.row_bytes * number
    run, digits = _run(layout)
    starts, counts = np.array([layout.offset % period], np.int64), np.array([1], np.int64)
    for count, stride in digits:
        residues, times = _residues(count, stride, period)
        sums = ((starts[:, None] + residues[None]) % period).ravel()
        order = sums.argsort(kind="stable")
        ordered = sums[order]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))
        starts, counts = ordered[first], np.add.reduceat((counts[:, None] * times[None]).ravel()[order], first)
    whole, rest = divmod(run, period)
    cells: Cells = np.full(number, int(counts.sum()) * whole * geometry.row_bytes, np.int64)
    if rest:
        _add_runs(cells, starts, counts, rest, geometry.row_bytes)
    return cells


def _run(layout: Layout) -> tuple[int, list[tuple[int, int]]]:
    """The bytes that lie one after the other innermost, and the digits that are left; broadcasts do not count."""
    digits = sorted((abs(s), c) for dim in layout.dims for c, s in dim if s and c > 1)
    run = 1
    left: list[tuple[int, int]] = []
    for stride, count in digits:
        if stride == run and not left:
            run *= count
        else:
            left.append((count, stride))
    return run, left


def _residues(count: int, stride: int, period: int) -> tuple[Cells, Cells]:
    """Multiples of a stride within the period, and how often each comes."""
    turns = period // np.gcd(stride, period)
    first = np.arange(min(count, turns), dtype=np.int64)
    times = (count - 1 - first) // turns + 1
    return first * (stride % period) % period, times


def _add_runs(cells: Cells, starts: Cells, counts: Cells, length: int, row_bytes: int) -> None:
    """Add runs of bytes, shorter than the period, that begin at `starts`."""
    number = len(cells)
    (first, offset), (last, end) = divmod(starts, row_bytes), divmod(starts + length, row_bytes)
    rows = np.zeros(2 * number + 1, np.int64)  # how many more runs have a row to themselves than the row before
    np.add.at(rows, first, counts)
    np.add.at(rows, last, -counts)
    twice = np.cumsum(rows) * row_bytes
    np.add.at(twice, first, -offset * counts)
    np.add.at(twice, last, end * counts)
    cells += twice[:number] + twice[number : 2 * number]
