"""Where an engine's time goes: busy, stalled by cause, idle, and when it worked for which op.

The time line of an engine is filled from the left. A stretch that a command works in is busy, whatever else goes on; a
gap before a command is stalled, by the cause that the timer gives or by the wait that the stream was held by; what is
left at the end is idle.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pimc.backends.timing import Issued

LATENCY = "latency"
"""The cause of a gap in which the engine finishes a command before it takes the next."""
LONGEST_COPY = 2_000_000
"""Segments beyond which skipped turns are summed up in one segment for each op."""

Segments = NDArray[np.int64]
"""Stretches in which an engine works for one op without being held: rows of (op, start, end, busy)."""
OP, START, END, BUSY = range(4)


@dataclass
class Account:
    """The time line of one executor."""

    frontier: int = 0
    """Everything before this has been accounted for."""
    busy: int = 0
    commands: int = 0
    stalled: Counter[str] = field(default_factory=Counter)
    _rows: list[list[int]] = field(default_factory=list)
    _chunks: list[Segments] = field(default_factory=list)
    """Segments before those in `_rows`."""
    _current: list[int] | None = None
    _last: tuple[int, int] = (-2, 0)
    """op and end of the segment before the current one"""
    _held: bool = False
    """The stream was held since the last command."""

    def work(self, op: int, ready: int, issued: Issued) -> None:
        """A command that the stream offered at `ready`."""
        start, end = issued.start, issued.start + issued.busy
        frontier = self.frontier
        if start > frontier:
            if ready > frontier:
                self.stalled[LATENCY] += ready - frontier
                frontier = ready
            if start > frontier:
                self.stalled[issued.cause or LATENCY] += start - frontier
                frontier = start
        busy = 0
        if end > frontier:
            busy = end - frontier
            self.busy += busy
            frontier = end
        self.frontier = frontier
        self.commands += 1
        current = self._current
        if current is None or current[OP] != op:
            current = self._open(op, start)
        self._held = False
        end = max(end, issued.done)
        if end > current[END]:
            current[END] = end
        if start < current[START]:
            current[START] = start
        current[BUSY] += busy

    def _open(self, op: int, start: int) -> list[int]:
        """A new segment; it covers the time to the end of the last one, if that was only closed by a mark."""
        self._close()
        last_op, last_end = self._last
        joined = last_end if last_op == op and not self._held else start
        self._current = [op, min(start, joined), max(start, joined), 0]
        self._rows.append(self._current)
        return self._current

    def _close(self) -> None:
        if self._current is not None:
            self._last = (self._current[OP], self._current[END])
            self._current = None

    def hold(self, cause: str, ready: int, until: int) -> None:
        """The stream, ready at `ready`, was held until a later time."""
        if ready > self.frontier:
            self.stalled[LATENCY] += ready - self.frontier
            self.frontier = ready
        if until > self.frontier:
            self.stalled[cause] += until - self.frontier
            self.frontier = until
        self._close()
        self._held = True

    def segments(self) -> Segments:
        """All segments, in the order of the stream."""
        self._close()
        self._flush()
        return np.concatenate([np.empty((0, 4), np.int64), *self._chunks])

    # -- skipping ---------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """The sums so far; what follows starts new segments."""
        self._close()
        self._flush()
        return Mark(self.frontier, self.busy, self.commands, Counter(self.stalled), len(self._chunks))

    def _flush(self) -> None:
        if self._rows:
            self._chunks.append(np.array(self._rows, np.int64))
            self._rows = []

    def since(self, mark: Mark, base: int) -> Stretch:
        """What happened since the mark, its times as seen from `base`."""
        self._close()
        self._flush()
        fresh = np.concatenate([np.empty((0, 4), np.int64), *self._chunks[mark.chunks :]])
        fresh[:, START : END + 1] -= base
        stalled = Counter({cause: total - mark.stalled[cause] for cause, total in self.stalled.items()})
        last = (self._last[0], self._last[1] - base)
        return Stretch(self.busy - mark.busy, self.commands - mark.commands, stalled, fresh, last, _alone(fresh))

    def repeat(self, stretch: Stretch, base: int, times: int, shift: int, *, unheld: bool = False) -> None:
        """Let a stretch happen `times` more from `base` on, each time `shift` later than before.

        unheld: nothing held the stream in it, so that work for a single op is one segment.
        """
        self._close()
        self._flush()
        self.busy += stretch.busy * times
        self.commands += stretch.commands * times
        for cause, total in stretch.stalled.items():
            if total:
                self.stalled[cause] += total * times
        self.frontier += shift * times
        fresh = stretch.segments
        if not len(fresh):
            return
        if unheld and stretch.alone is not None:
            op, start, end, busy = stretch.alone
            self._rows.append([op, base + start, base + end + shift * (times - 1), busy * times])
        elif len(fresh) * times > LONGEST_COPY:
            ops = np.unique(fresh[:, OP])
            self._chunks.append(np.stack([_summed(fresh[fresh[:, OP] == op], base, times, shift) for op in ops]))
        else:
            self._chunks.append(_copies(fresh, base, times, shift))
        self._last = (stretch.last[0], base + stretch.last[1] + shift * (times - 1))


def _alone(fresh: Segments) -> tuple[int, int, int, int] | None:
    if not len(fresh) or (fresh[:, OP] != fresh[0, OP]).any():
        return None
    return int(fresh[0, OP]), int(fresh[:, START].min()), int(fresh[:, END].max()), int(fresh[:, BUSY].sum())


def _copies(fresh: Segments, base: int, times: int, shift: int) -> Segments:
    """The segments again and again from `base` on, each time `shift` later."""
    moved = np.repeat(fresh[None], times, axis=0)
    moved[:, :, START : END + 1] += (base + np.arange(times, dtype=np.int64) * shift)[:, None, None]
    return moved.reshape(-1, 4)


def _summed(fresh: Segments, base: int, times: int, shift: int) -> Segments:
    """One segment for all that an op does."""
    start, end = base + fresh[:, START].min(), base + fresh[:, END].max() + shift * (times - 1)
    return np.array([fresh[0, OP], start, end, fresh[:, BUSY].sum() * times], np.int64)


@dataclass(frozen=True, slots=True)
class Mark:
    frontier: int
    busy: int
    commands: int
    stalled: Counter[str]
    chunks: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What an executor did in a period."""

    busy: int
    commands: int
    stalled: Counter[str]
    segments: Segments
    last: tuple[int, int]
    """op and end of the last segment"""
    alone: tuple[int, int, int, int] | None = None
    """op, start, end and busy time of all segments together, if they are for one op"""
