"""A coarse time line of a run: how busy each engine is and with what, bin by bin, and one layer in detail.

Bins are equal parts of the run. Levels are characters, `0` to `z` for 0 to 35/35 of a bin, so that a lane is a short
text; the op that has most of a bin is named by a letter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from string import ascii_lowercase, digits

import numpy as np
from numpy.typing import NDArray

from pimc.backends.assembly import ranks
from pimc.backends.program import Program
from pimc.record import record
from pimc.sim.accounts import BUSY, END, OP, START, Segments
from pimc.sim.timing import EngineTiming, Timing

BINS = 180
LEVELS = digits + ascii_lowercase
NOTHING = "."
"""In place of the letter of an op."""
MOST_KINDS = 9
OTHER = "other"
WINDOW = 10_000
"""Parts of the window of a detail."""
MOST_SLICES = 300
"""Of one lane of a detail."""
PS = 1e-12

Bins = NDArray[np.float64]


@record
class Lane:
    """An engine of some devices, its channels together. One character a bin."""

    engine: str
    devices: str
    level: str
    """how busy it is: an index in LEVELS, of which the last is all the time"""
    kind: str
    """what it does most: a letter for each of the kinds, NOTHING where it does nothing"""


@record
class DetailLane:
    engine: str
    slices: Sequence[tuple[int, int, int]]
    """row of the op table, begin and end in parts of the window"""


@record
class Detail:
    """A part of the run, of the first devices alone: as long as one of the identical layers takes there."""

    start: float
    seconds: float
    layers: int
    """how many there are; 0: there are none, and this is the whole run"""
    devices: str
    lanes: Sequence[DetailLane]


@record
class Timeline:
    kinds: Sequence[str]
    """names of ops, by letter; the longest first"""
    lanes: Sequence[Lane]
    detail: Detail | None


def timeline_of(program: Program, timing: Timing) -> Timeline:
    """The time line of a simulated program."""
    kinds = _kinds(program, timing)
    groups: dict[tuple[str, tuple[int, ...]], list[EngineTiming]] = defaultdict(list)
    for engine in timing.engines:
        groups[engine.name, engine.devices].append(engine)
    number = np.array([_number(row.op, kinds) for row in program.ops] + [len(kinds) - 1], np.int64)
    lanes = [
        lane for (name, devices), members in groups.items() if (lane := _lane(name, devices, members, number, timing))
    ]
    return Timeline(kinds, tuple(lanes), _detail(program, timing))


def _kinds(program: Program, timing: Timing) -> tuple[str, ...]:
    """The ops that take longest, and one name for all others."""
    total: dict[str, int] = defaultdict(int)
    for op, found in timing.ops.items():
        total[program.ops[op].op] += found.active
    longest = sorted(total, key=lambda name: (-total[name], name))
    return (*longest[:MOST_KINDS], OTHER)


def _number(name: str, kinds: Sequence[str]) -> int:
    return kinds.index(name) if name in kinds else len(kinds) - 1


def _lane(
    name: str, devices: tuple[int, ...], members: Sequence[EngineTiming], number: NDArray[np.int64], timing: Timing
) -> Lane | None:
    instances = sum(len(m.instances) for m in members)
    busy: Bins = np.zeros((int(number.max()) + 1, BINS))
    for member in members:
        segments = member.segments
        kinds = number[segments[:, OP]]  # a segment of no op has the last number
        for kind in sorted({*kinds.tolist()}):
            busy[kind] += _binned(segments[kinds == kind], timing.time) * len(member.instances)
    share = np.minimum(1.0, busy.sum(0) / (instances * timing.time / BINS)) if timing.time else busy.sum(0)
    if not share.any():
        return None
    level = "".join(LEVELS[round(s * (len(LEVELS) - 1))] for s in share)
    kind = "".join(
        ascii_lowercase[most] if there else NOTHING for most, there in zip(busy.argmax(0), share > 0, strict=True)
    )
    return Lane(name, ranks(devices), level, kind)


def _binned(segments: Segments, time: int) -> Bins:
    """Picoseconds of work in each bin, the work of a segment spread evenly over it."""
    edges = np.linspace(0, time, BINS + 1)
    start, end = segments[:, START].astype(np.float64), segments[:, END].astype(np.float64)
    end = np.maximum(end, start + 1)
    density = segments[:, BUSY] / (end - start)
    times = np.concatenate([start, end])
    order = np.argsort(times, kind="stable")
    slope = np.cumsum(np.concatenate([density, -density])[order])
    at = times[order]
    done = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])
    work: Bins = np.maximum(0.0, np.diff(np.interp(edges, at, done)))
    return work


# -- one layer --------------------------------------------------------------------------------------------------------


def _detail(program: Program, timing: Timing) -> Detail | None:
    first = [e for e in timing.engines if 0 in e.devices]
    if not first or not timing.time:
        return None
    layers = {row.layer for row in program.ops if row.layer >= 0 and row.engine}
    own = {op for e in first for op in e.segments[:, OP].tolist() if op >= 0}
    leaders = sorted(op for op in own if program.ops[op].layer >= 0)
    there = {program.ops[op].layer for op in leaders}
    there |= {row.layer for row in program.ops if row.shares in own and row.layer >= 0}
    if not leaders or len(there) < 2:
        start, length, number = 0, timing.time, 0
    else:
        spans = np.concatenate([e.segments[np.isin(e.segments[:, OP], leaders)] for e in first])
        low, high = int(spans[:, START].min()), int(spans[:, END].max())
        number, length = len(there & layers), (high - low) // len(there)
        begins = spans[spans[:, OP] == leaders[0], START]
        middle = low + (high - low - length) // 2
        start = int(begins[np.abs(begins - middle).argmin()]) if len(begins) else middle
    lanes = [
        DetailLane(e.name if len(e.instances) == 1 or e.instances == (0,) else f"{e.name} {ranks(e.instances)}", slices)
        for e in _one_of_each(first)
        if (slices := tuple(_slices(e.segments, start, length)))
    ]
    return Detail(start * PS, length * PS, number, ranks(first[0].devices), tuple(lanes)) if lanes else None


def _one_of_each(engines: Sequence[EngineTiming]) -> list[EngineTiming]:
    """Of an engine with channels that differ, the busiest."""
    found: dict[str, EngineTiming] = {}
    for e in engines:
        if e.name not in found or e.busy > found[e.name].busy:
            found[e.name] = e
    return list(found.values())


def _slices(segments: Segments, start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Stretches within a window, neighbours of one op that touch as one, those too short to be seen left out."""
    inside = segments[(segments[:, END] > start) & (segments[:, START] < start + length)]
    rows = inside[np.argsort(inside[:, START], kind="stable")].tolist()
    joined: list[list[int]] = []
    near = length // 1000
    for op, begin, end, _ in rows:
        if joined and joined[-1][0] == op and begin - joined[-1][2] <= near:
            joined[-1][2] = max(joined[-1][2], end)
        else:
            joined.append([op, begin, end])
    shortest = sorted((end - begin for _, begin, end in joined), reverse=True)[:MOST_SLICES][-1:] or [0]
    for op, begin, end in joined:
        if end - begin >= shortest[0]:
            low, high = (min(WINDOW, max(0, (t - start) * WINDOW // length)) for t in (begin, end))
            yield op, low, high
