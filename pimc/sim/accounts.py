"""Where an engine's time goes: busy, stalled by cause, idle, and when it worked for which op.

The time line of an engine is filled from the left. A stretch that a command works in is busy, whatever else goes on; a
gap before a command is stalled, by the cause that the timer gives or by the wait that the stream was held by; what is
left at the end is idle.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pimc.backends.timing import Issued

LATENCY = "latency"
"""The cause of a gap in which the engine finishes a command before it takes the next."""
LONGEST_COPY = 200_000
"""Segments beyond which skipped turns are summed up in one segment for each op."""


@dataclass(slots=True)
class Segment:
    """A stretch of time in which an engine works for one op without being held."""

    op: int
    start: int
    end: int
    busy: int = 0


@dataclass
class Account:
    """The time line of one executor."""

    frontier: int = 0
    """Everything before this has been accounted for."""
    busy: int = 0
    commands: int = 0
    stalled: Counter[str] = field(default_factory=Counter)
    segments: list[Segment] = field(default_factory=list)
    current: Segment | None = None
    held: bool = False
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
        segment = self.current
        if segment is None or segment.op != op:
            segment = self.current = Segment(op, self._begin(op, start), start)
            self.segments.append(segment)
        self.held = False
        if issued.done > segment.end:
            segment.end = issued.done
        if end > segment.end:
            segment.end = end
        if start < segment.start:
            segment.start = start
        segment.busy += busy

    def _begin(self, op: int, start: int) -> int:
        """Where a new segment starts: on the end of the last one, if that was only closed by a mark."""
        if self.held or not self.segments or self.segments[-1].op != op:
            return start
        return min(start, self.segments[-1].end)

    def hold(self, cause: str, ready: int, until: int) -> None:
        """The stream, ready at `ready`, was held until a later time."""
        if ready > self.frontier:
            self.stalled[LATENCY] += ready - self.frontier
            self.frontier = ready
        if until > self.frontier:
            self.stalled[cause] += until - self.frontier
            self.frontier = until
        self.current = None
        self.held = True

    # -- skipping ---------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """The sums so far; what follows starts new segments."""
        self.current = None
        return Mark(self.frontier, self.busy, self.commands, Counter(self.stalled), len(self.segments))

    def repeat(self, since: Mark, times: int, shift: int, *, unheld: bool = False) -> None:
        """Let what happened since the mark happen `times` more, each time `shift` later.

        unheld: nothing held the stream in between, so that work for a single op is one segment.
        """
        self.busy += (self.busy - since.busy) * times
        self.commands += (self.commands - since.commands) * times
        for cause, total in list(self.stalled.items()):
            self.stalled[cause] += (total - since.stalled[cause]) * times
        fresh = self.segments[since.segments :]
        single = unheld and len({s.op for s in fresh}) == 1
        if not single and len(fresh) * times <= LONGEST_COPY:
            offsets = range(shift, shift * times + 1, shift) if shift else [0] * times
            self.segments += [Segment(s.op, s.start + by, s.end + by, s.busy) for by in offsets for s in fresh]
        else:
            self._sum_up(fresh, times, shift)
        self.frontier += shift * times
        self.current = None

    def _sum_up(self, fresh: list[Segment], times: int, shift: int) -> None:
        merged: dict[int, Segment] = {}
        for s in fresh:
            into = merged.setdefault(s.op, Segment(s.op, s.start + shift, s.end))
            into.end = max(into.end, s.end + shift * times)
            into.busy += s.busy * times
        self.segments += merged.values()


@dataclass(frozen=True, slots=True)
class Mark:
    frontier: int
    busy: int
    commands: int
    stalled: Counter[str]
    segments: int
