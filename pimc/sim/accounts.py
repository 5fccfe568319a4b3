"""Where an engine's time goes: busy, stalled by cause, idle, and when it worked for which op.

An account is a log; sums are taken when somebody asks for them, or when it has grown long. They fill the time line of
an engine from the left. A stretch that a command works in is busy, whatever else goes on; a gap before a command is
stalled, by the cause that the timer gives or by the wait that the stream was held by; what is left at the end is idle.

Parts of an engine work side by side, so that a command may begin before one that stands above it in the stream: it
fills the gap that the other left. Commands never begin before the stream is ready for them, so only gaps behind that
moment are open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pimc.backends.timing import Turn
from pimc.record import record
from pimc.sim.ledger import add

LATENCY = "latency"
"""The cause of a gap in which the engine finishes a command before it takes the next."""
HELD = -(1 << 30)
"""In place of an op: the stream was held."""
MANY = 4096
"""Entries of which the sums are kept in their place."""
MANY_TURNS = 4 * MANY
"""Likewise, of turns in runs."""
LONGEST_COPY = 2_000_000
"""Segments beyond which skipped turns are summed up in one segment for each op."""

Segments: TypeAlias = NDArray[np.int64]
"""Stretches in which an engine works for one op without being held: rows of (op, start, end, busy)."""
OP, START, END, BUSY = range(4)

Entry: TypeAlias = tuple[int, int, int, int, int, str]
"""op, when the stream was ready, start of the work, how long it lasts, when its effect is complete, what delayed it; of
a stream that was held: HELD, when it was ready, until when, 0, 0, by what."""


class Run(NamedTuple):
    """Entries of one op, the turns of a loop of one command."""

    op: int
    at: int
    """what the times of the turns count from"""
    turns: Sequence[Turn]

    def entries(self) -> list[Entry]:
        op, at = self.op, self.at
        return [(op, at + ready, at + start, busy, at + done, cause) for ready, start, busy, done, cause in self.turns]


Chunk: TypeAlias = "list[Entry | Run] | Repeat | Settled"
Gap: TypeAlias = tuple[int, int, str]
"""Start, end, and what delayed the command behind it."""


@dataclass(slots=True)
class Account:
    """The time line of one executor."""

    frontier: int = 0
    """Everything before this is accounted for."""
    held: int = 0
    """until when the stream was last held"""
    entries: list[Entry | Run] = field(default_factory=list)
    """what happened since the last mark"""
    turns: int = 0
    """how many turns are in the runs among them"""
    log: list[Chunk] = field(default_factory=list)
    """what happened before"""
    summed: int = 0
    """how many chunks of the log lie before `front`"""
    front: Front = field(default_factory=lambda: Front(0))

    def mark(self) -> Mark:
        """Where the log is; what follows is what `since` gives."""
        if self.entries:
            self.log.append(self.entries)
            self.entries, self.turns = [], 0
        return Mark(len(self.log), _last(self.log))

    def settle(self) -> None:
        """Keep sums in place of the entries since the last mark, if there are many."""
        if len(self.entries) >= MANY or self.turns >= MANY_TURNS:
            front = _summed_up(self.log[self.summed :], self.front, None).front
            settled = _settled(self.entries, front)
            self.log.append(settled)
            self.entries, self.turns = [], 0
            self.summed, self.front = len(self.log), settled.sums.front

    def since(self, mark: Mark, base: int) -> Stretch:
        """What happened since the mark, its times as seen from `base`."""
        self.mark()
        return Stretch(tuple(self.log[mark.chunks :]), mark, base)

    def repeat(self, stretch: Stretch, base: int, times: int, shift: int, *, unheld: bool = False) -> None:
        """Let a stretch happen `times` more from `base` on, each time `shift` later than before.

        unheld: nothing held the stream in it, so that work for a single op is one segment.
        """
        self.mark()
        self.log.append(Repeat(stretch, base, times, shift, unheld))
        self.frontier += shift * times
        self.held += shift * times

    def sums(self, end: int | None = None) -> Sums:
        """Over all that has happened, until an end: what follows it of the last command's work is left out."""
        self.mark()
        found = _summed_up(self.log, Front(0), None)
        return found if end is None or found.front.at <= end else found.until(end)

    @property
    def has_worked(self) -> bool:
        """Whether there was a command."""
        return any(_has_worked(chunk) for chunk in (self.entries, *self.log))


def _has_worked(chunk: Chunk) -> bool:
    if isinstance(chunk, Settled):
        return chunk.sums.commands > 0
    return isinstance(chunk, Repeat) or any(entry[0] != HELD for entry in chunk)


Last: TypeAlias = "tuple[int, int] | None"
"""Op and end of what an engine did last; None: the stream was held after it, or there was nothing."""


@record
class Mark:
    """A place in a log."""

    chunks: int
    last: Last


@record
class Front:
    """How far a time line is filled."""

    at: int
    """Everything before this is accounted for."""
    gaps: tuple[Gap, ...] = ()
    """those that commands may still fill, from left to right"""

    def moved(self, by: int) -> Front:
        """The same in a time line that begins earlier."""
        return Front(self.at + by, tuple((start + by, end + by, cause) for start, end, cause in self.gaps))


@record
class Stretch:
    """A part of a log, whose times count from `base`."""

    chunks: tuple[Chunk, ...]
    begin: Mark
    base: int
    _found: dict[Front, Sums] = field(default_factory=dict, compare=False)

    def sums(self, front: Front) -> Sums:
        """What it brings behind a front; all times as seen from `base`."""
        if front not in self._found:
            found = _summed_up(self.chunks, front.moved(self.base), self.begin.last)
            found.segments[:, START : END + 1] -= self.base
            self._found[front] = replace(found, front=found.front.moved(-self.base))
        return self._found[front]


@record
class Settled:
    """Entries of which the sums are left."""

    sums: Sums
    first: int
    """the op of the first of them"""
    last: Last


@record
class Repeat:
    """A stretch that happened again and again."""

    stretch: Stretch
    base: int
    times: int
    shift: int
    unheld: bool

    def parts(self, front: Front) -> Iterator[tuple[Repeat, Sums]]:
        """Repeats in each of which every turn finds the same gaps; and what a turn brings."""
        left = self
        while left.times:
            seen = front.moved(-left.base)
            found = left.stretch.sums(seen)
            times = left.times if found.front.moved(-left.shift) == seen else 1
            yield replace(left, times=times), found
            front = found.front.moved(left.base + left.shift * (times - 1))
            left = replace(left, base=left.base + left.shift * times, times=left.times - times)


@record
class Sums:
    busy: int
    commands: int
    stalled: Counter[str]
    """what was stalled before and is not any more counts negative"""
    segments: Segments
    """in the order of the stream"""
    front: Front

    def until(self, end: int) -> Sums:
        """Without the work behind an end, which is the last command's."""
        over = self.front.at - end
        segments = self.segments.copy()
        segments[-1, END] = min(segments[-1, END], end)
        segments[-1, BUSY] -= over
        return replace(self, busy=self.busy - over, segments=segments, front=Front(end))


def _last(log: Sequence[Chunk]) -> Last:
    if not log:
        return None
    chunk = log[-1]
    if isinstance(chunk, Settled):
        return chunk.last
    if isinstance(chunk, Repeat):
        last = _last(chunk.stretch.chunks)
        by = chunk.base - chunk.stretch.base + chunk.shift * (chunk.times - 1)
        return (last[0], last[1] + by) if last is not None else None
    entry = chunk[-1]
    op, _, start, busy, done, _ = entry.entries()[-1] if isinstance(entry, Run) else entry
    return (op, max(start + busy, done)) if op != HELD else None


def _summed_up(log: Sequence[Chunk], front: Front, last: Last) -> Sums:
    """Sums over a part of a log that begins at a front."""
    busy = commands = 0
    stalled: Counter[str] = Counter()
    parts: list[Segments] = [np.empty((0, 4), np.int64)]
    repeated = True
    for chunk in _merged(log):
        if isinstance(chunk, Repeat):
            turns = list(chunk.parts(front))
            parts += [_repeated(sums.segments, part) for part, sums in turns]
            part, sums = turns[-1]
            front, repeated = sums.front.moved(part.base + part.shift * (part.times - 1)), True
            found = [(sums, part.times) for part, sums in turns]
        else:
            settled = chunk if isinstance(chunk, Settled) else _settled(chunk, front)
            found = [(settled.sums, 1)]
            segments, front = settled.sums.segments, settled.sums.front
            if last is not None and last[0] == settled.first:  # what parts them parts no work, whichever is earlier
                before = np.array([[*last, last[1], 0]], np.int64)
                if not repeated:
                    before, parts[-1] = parts[-1][-1:], parts[-1][:-1]
                segments = _going_on(before, segments)
            parts.append(segments)
            repeated = False
        for sums, times in found:
            busy += sums.busy * times
            commands += sums.commands * times
            add(stalled, sums.stalled, times)
        last = _last([chunk])
    return Sums(busy, commands, stalled, np.concatenate(parts), front)


def _merged(log: Sequence[Chunk]) -> Iterator[Chunk]:
    """The same log with neighbouring entries in one list."""
    for is_list, chunks in groupby(log, lambda chunk: isinstance(chunk, list)):
        if is_list:
            yield [entry for chunk in chunks if isinstance(chunk, list) for entry in chunk]
        else:
            yield from chunks


def _each(entries: Sequence[Entry | Run]) -> list[Entry]:
    found: list[Entry] = []
    for entry in entries:
        if isinstance(entry, Run):
            found += entry.entries()
        else:
            found.append(entry)
    return found


def _settled(entries: list[Entry | Run], front: Front) -> Settled:
    """Entries behind a front."""
    *numbers, causes = zip(*_each(entries), strict=True)
    op, ready, start, busy, done = (np.array(column, np.int64) for column in numbers)
    reached = np.maximum.accumulate(np.concatenate(([front.at], start + busy)))
    before = reached[:-1]
    begun = np.maximum(before, start)
    taken = reached[1:] - begun
    late = np.maximum(before, np.minimum(ready, begun))
    waited = begun - late
    stalled = Counter({LATENCY: int((late - before).sum())})
    for index in np.flatnonzero(waited).tolist():
        stalled[causes[index] or LATENCY] += int(waited[index])
    gaps = _Gaps(list(front.gaps), before, late, begun, causes)
    for index in gaps.filled_by(start, busy):
        for cause, time in gaps.fill(index, int(start[index]), int(start[index] + busy[index])):
            stalled[cause] -= time
            taken[index] += time
    segments = _segments(op, start, np.maximum(start + busy, done), taken)
    reach = Front(int(reached[-1]), gaps.behind(int(ready[-1])))
    sums = Sums(int(taken.sum()), int((op != HELD).sum()), stalled, segments, reach)
    return Settled(sums, entries[0][0], _last([entries]))


@dataclass(slots=True)
class _Gaps:
    """Those between entries, and those open before them."""

    open: list[Gap]
    """so far as entries have come, from left to right"""
    before: Segments
    late: Segments
    begun: Segments
    """By entry: how far the time line was filled, when the stream was ready, when the entry began to fill it."""
    causes: Sequence[str]
    come: int = 0
    """entries whose gaps are open"""

    def filled_by(self, start: Segments, busy: Segments) -> list[int]:
        """The entries that begin before the end of a gap before them."""
        first = self.open[-1][1] if self.open else int(start.min())
        ends = np.where(self.begun > self.before, self.begun, first)
        last = np.maximum.accumulate(np.concatenate(([first], ends)))[:-1]
        found: list[int] = np.flatnonzero((busy > 0) & (start < last)).tolist()
        return found

    def fill(self, entry: int, start: int, end: int) -> Iterator[tuple[str, int]]:
        """Let an entry work in the gaps before it; by cause, how much of them it takes."""
        self._come_to(entry)
        at = len(self.open)
        while at and self.open[at - 1][1] > start:
            at -= 1
            left, right, cause = self.open[at]
            low, high = max(left, start), min(right, end)
            if low < high:
                rest = [(left, low, cause), (high, right, cause)]
                self.open[at : at + 1] = [gap for gap in rest if gap[0] < gap[1]]
                yield cause, high - low

    def behind(self, time: int) -> tuple[Gap, ...]:
        """Those that end later than a time, behind all entries."""
        self._come_to(len(self.before), since=time)
        return tuple(gap for gap in self.open if gap[1] > time)

    def _come_to(self, entry: int, since: int = -1) -> None:
        """Open the gaps of the entries before one, but for those that end before a time."""
        here = slice(self.come, entry)
        for index in (np.flatnonzero(self.begun[here] > np.maximum(self.before[here], since)) + self.come).tolist():
            start, middle, end = int(self.before[index]), int(self.late[index]), int(self.begun[index])
            parts = [(start, middle, LATENCY), (middle, end, self.causes[index] or LATENCY)]
            self.open += [gap for gap in parts if gap[0] < gap[1]]
        self.come = entry


def _going_on(before: Segments, segments: Segments) -> Segments:
    """Segments of which the first goes on with one before."""
    found = segments.copy()
    found[0, START] = min(found[0, START], before[0, START])
    found[0, END] = max(found[0, END], before[0, END])
    found[0, BUSY] += before[0, BUSY]
    return found


def _segments(op: Segments, start: Segments, end: Segments, busy: Segments) -> Segments:
    """Neighbouring entries of one op are one segment, unless the stream was held between them."""
    fresh = np.ones(len(op), bool)
    fresh[1:] = op[1:] != op[:-1]
    first = np.flatnonzero(fresh)
    joined = [op[first], np.minimum.reduceat(start, first), np.maximum.reduceat(end, first)]
    segments = np.stack([*joined, np.add.reduceat(busy, first)], axis=1)
    worked: Segments = segments[segments[:, OP] != HELD]
    return worked


def _repeated(segments: Segments, repeat: Repeat) -> Segments:
    if not len(segments):
        return segments
    whole = len(segments) * repeat.times > LONGEST_COPY
    if whole or (repeat.unheld and (segments[:, OP] == segments[0, OP]).all()):
        ops = sorted({*segments[:, OP].tolist()})
        return np.stack([_joined(segments[segments[:, OP] == op], repeat) for op in ops])
    moved = np.repeat(segments[None], repeat.times, axis=0)
    shifts = repeat.base + np.arange(repeat.times, dtype=np.int64) * repeat.shift
    moved[:, :, START : END + 1] += shifts[:, None, None]
    return moved.reshape(-1, 4)


def _joined(segments: Segments, repeat: Repeat) -> Segments:
    """One segment for all that an op does."""
    end = segments[:, END].max() + repeat.shift * (repeat.times - 1)
    start, busy = segments[:, START].min(), segments[:, BUSY].sum() * repeat.times
    return np.array([segments[0, OP], repeat.base + start, repeat.base + end, busy], np.int64)
