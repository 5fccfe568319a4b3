"""Where an engine's time goes: busy, stalled by cause, idle, and when it worked for which op.

An account is a log; sums are taken when somebody asks for them, or when it has grown long. They fill the time line of
an engine from the left. A stretch that a command works in is busy, whatever else goes on; a gap before a command is
stalled, by the cause that the timer gives or by the wait that the stream was held by; what is left at the end is idle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LATENCY = "latency"
"""The cause of a gap in which the engine finishes a command before it takes the next."""
HELD = -(1 << 30)
"""In place of an op: the stream was held."""
MANY = 4096
"""Entries of which the sums are kept in their place."""
LONGEST_COPY = 2_000_000
"""Segments beyond which skipped turns are summed up in one segment for each op."""

Segments: TypeAlias = NDArray[np.int64]
"""Stretches in which an engine works for one op without being held: rows of (op, start, end, busy)."""
OP, START, END, BUSY = range(4)

Entry: TypeAlias = tuple[int, int, int, int, int, str]
"""op, when the stream was ready, start of the work, how long it lasts, when its effect is complete, what delayed it; of
a stream that was held: HELD, when it was ready, until when, 0, 0, by what."""
Chunk: TypeAlias = "list[Entry] | Repeat | Settled"


@dataclass(slots=True)
class Account:
    """The time line of one executor."""

    frontier: int = 0
    """Everything before this is accounted for."""
    held: int = 0
    """until when the stream was last held"""
    entries: list[Entry] = field(default_factory=list)
    """what happened since the last mark"""
    log: list[Chunk] = field(default_factory=list)
    """what happened before"""
    before: int = 0
    """the frontier at the last mark"""

    def mark(self) -> Mark:
        """Where the log is; what follows is what `since` gives."""
        if self.entries:
            self.log.append(self.entries)
            self.entries = []
        self.before = self.frontier
        return Mark(self.frontier, len(self.log), _last(self.log))

    def settle(self) -> None:
        """Keep sums in place of the entries since the last mark, if there are many."""
        if len(self.entries) >= MANY:
            self.log.append(_settled(self.entries, self.before))
            self.entries = []
            self.mark()

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
        self.before = self.frontier

    def sums(self, end: int | None = None) -> Sums:
        """Over all that has happened, until an end: what follows it of the last command's work is left out."""
        self.mark()
        found = _summed_up(self.log, Mark(0, 0, None))
        return found if end is None or found.frontier <= end else found.until(end)

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


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a log."""

    frontier: int
    chunks: int
    last: Last


@dataclass(frozen=True)
class Stretch:
    """A part of a log, whose times count from `base`."""

    chunks: tuple[Chunk, ...]
    begin: Mark
    base: int

    @cached_property
    def sums(self) -> Sums:
        found = _summed_up(self.chunks, self.begin)
        found.segments[:, START : END + 1] -= self.base
        return found


@dataclass(frozen=True, slots=True)
class Settled:
    """Entries of which the sums are left."""

    sums: Sums
    first: int
    """the op of the first of them"""
    last: Last


@dataclass(frozen=True, slots=True)
class Repeat:
    """A stretch that happened again and again."""

    stretch: Stretch
    base: int
    times: int
    shift: int
    unheld: bool


@dataclass(frozen=True, slots=True)
class Sums:
    busy: int
    commands: int
    stalled: Counter[str]
    segments: Segments
    """in the order of the stream"""
    frontier: int = 0
    """everything before this is accounted for"""

    def until(self, end: int) -> Sums:
        """Without the work behind an end, which is the last command's."""
        over = self.frontier - end
        segments = self.segments.copy()
        segments[-1, END] = min(segments[-1, END], end)
        segments[-1, BUSY] -= over
        return replace(self, busy=self.busy - over, segments=segments, frontier=end)


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
    op, _, start, busy, done, _ = chunk[-1]
    return (op, max(start + busy, done)) if op != HELD else None


def _summed_up(log: Sequence[Chunk], begin: Mark) -> Sums:
    """Sums over a part of a log that begins at a mark."""
    frontier, last, busy, commands = begin.frontier, begin.last, 0, 0
    stalled: Counter[str] = Counter()
    parts: list[Segments] = [np.empty((0, 4), np.int64)]
    repeated = True
    for chunk in _merged(log):
        if isinstance(chunk, Repeat):
            part, times, repeated = chunk.stretch.sums, chunk.times, True
            parts.append(_repeated(part.segments, chunk))
            frontier += chunk.shift * times
        else:
            settled = chunk if isinstance(chunk, Settled) else _settled(chunk, frontier)
            part, times, segments = settled.sums, 1, settled.sums.segments
            frontier = part.frontier
            if last is not None and last[0] == settled.first:  # what parts them parts no work, whichever is earlier
                before = np.array([[*last, last[1], 0]], np.int64)
                if not repeated:
                    before, parts[-1] = parts[-1][-1:], parts[-1][:-1]
                segments = _going_on(before, segments)
            parts.append(segments)
            repeated = False
        busy += part.busy * times
        commands += part.commands * times
        for cause, time in part.stalled.items():
            stalled[cause] += time * times
        last = _last([chunk])
    return Sums(busy, commands, stalled, np.concatenate(parts), frontier)


def _merged(log: Sequence[Chunk]) -> Iterator[Chunk]:
    """The same log with neighbouring entries in one list."""
    for is_list, chunks in groupby(log, lambda chunk: isinstance(chunk, list)):
        if is_list:
            yield [entry for chunk in chunks if isinstance(chunk, list) for entry in chunk]
        else:
            yield from chunks


def _settled(entries: list[Entry], frontier: int) -> Settled:
    """Entries before which everything up to a frontier is accounted for."""
    *numbers, causes = zip(*entries, strict=True)
    op, ready, start, busy, done = (np.array(column, np.int64) for column in numbers)
    reached = np.maximum.accumulate(np.concatenate(([frontier], start + busy)))
    before = reached[:-1]
    begun = np.maximum(before, start)
    taken = reached[1:] - begun
    late = np.maximum(before, np.minimum(ready, begun))
    waited = begun - late
    stalled = Counter({LATENCY: int((late - before).sum())})
    for cause, time in zip(causes, waited.tolist(), strict=True):
        if time:
            stalled[cause or LATENCY] += time
    segments = _segments(op, start, np.maximum(start + busy, done), taken)
    sums = Sums(int(taken.sum()), int((op != HELD).sum()), stalled, segments, int(reached[-1]))
    return Settled(sums, entries[0][0], _last([entries]))


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
        ops = np.unique(segments[:, OP])
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
