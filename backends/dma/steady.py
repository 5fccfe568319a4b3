"""What refresh takes of a stream that goes on and on, where ranks are refreshed in turn and nothing else holds it up.

A regular stream falls into step with refreshes: where one meets a channel decides what it costs and where it meets the
next. So it loses more or less than refresh takes of the time on average, always the same in the long run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import gcd

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.banks import AHEAD, Refresh, RowTimes
from pimc.backends.dma.stretches import Nest, Stretches
from pimc.backends.dma.traffic import Memory, row_stretches
from pimc.record import record

FEWEST, MOST = 256, 128
"""Stretches of rows that are looked at; after so many of each channel a stream has come to the same banks, or it drifts
and is not regular."""
FOLLOWED = 256
"""Refreshes through which a stream is followed if it does not fall into step."""

Cycle = Sequence[tuple[int, int]]
"""Stretches of rows that a channel reads one after the other, again and again: ranks, and clocks of their bursts."""


def endless(nest: Nest, memory: Memory) -> Nest | None:
    """The beginning of a stream that goes on like a loop nest, until it comes to the same banks; none: too late."""
    around = memory.row_bytes * memory.channels * memory.banks
    if not nest.rest:
        return Nest(memory.row_bytes, ((memory.channels * memory.banks, memory.row_bytes),))
    *inner, (_, stride) = nest.rest
    turns = around // gcd(around, stride)
    looked_at = turns * row_stretches(nest.run, inner, memory.row_bytes)
    if looked_at > MOST * memory.channels:
        return None
    return Nest(nest.run, (*inner, (turns * -(-FEWEST // looked_at), stride)))


def cycle_of(found: Stretches, ranks: NDArray[np.int8], burst: int) -> Cycle:
    """Of the busiest channel."""
    channel = int(found.totals.argmax())
    end = int(found.lanes[channel])
    here = slice(end - int(found.counts[channel]), end)
    return list(zip(ranks[here].tolist(), (found.bursts[here] * burst).tolist(), strict=True))


def quick(cycle: Cycle, times: RowTimes) -> bool:
    """Whether a channel knows bursts of more than one rank ahead, as a rule, or comes to know them in a refresh."""
    changes = sum(rank != before for (rank, _), (before, _) in pairwise([*cycle, cycle[0]]))
    return sum(clocks for _, clocks in cycle) <= 2 * AHEAD * times.burst * max(1, changes)


def lost(cycle: Cycle, times: RowTimes, refresh: Refresh) -> float:
    """The part of a channel's time that refreshes take in the long run."""
    ends = list(accumulate(clocks for _, clocks in cycle))
    ranks = [_Rank.of(rank, cycle, ends) for rank in range(refresh.ranks)]
    around, at, waited = ends[-1], 0, 0
    before = {0: (0, 0)}
    for event in range(1, FOLLOWED + 1):
        loss = ranks[(event - 1) % refresh.ranks].waits(at % around, times, refresh)
        waited += loss
        at += refresh.apart - loss
        if event % refresh.ranks == 0:
            known = before.setdefault(at % around, (event, waited))
            if known[0] != event:  # in step: all goes on as it did from there
                return (waited - known[1]) / ((event - known[0]) * refresh.apart)
    return waited / (FOLLOWED * refresh.apart)


@record
class _Rank:
    """Where in a cycle a rank is read."""

    ends: list[int]
    """of each stretch, in clocks since the cycle began"""
    own: list[int]
    """clocks of this rank before each stretch, and before the next cycle"""

    @staticmethod
    def of(rank: int, cycle: Cycle, ends: list[int]) -> _Rank:
        return _Rank(ends, [0, *accumulate([clocks if of == rank else 0 for of, clocks in cycle])])

    def waits(self, at: int, times: RowTimes, refresh: Refresh) -> int:
        """Clocks for which a channel that is there in its cycle waits for a refresh of the rank: until its requests are
        all for this rank, it goes on with others."""
        if not self.own[-1]:
            return 0
        stretch = bisect_right(self.ends, at)
        served, ahead, row = self.own[stretch + 1], AHEAD * times.burst, 0
        if served > self.own[stretch]:
            row = self.ends[stretch] - at
            served -= row
        others = max(0, self._place(served + ahead) - at - ahead)
        # rows known before the refresh are open when it is over
        opening = max(0, times.opening - row) if others >= ahead else 0
        return max(0, refresh.lasts + opening - others)

    def _place(self, clocks: int) -> int:
        """Where a channel is when so many clocks of this rank are over."""
        cycles, rest = divmod(clocks - 1, self.own[-1])
        stretch = bisect_left(self.own, rest + 1)
        return cycles * self.ends[-1] + self.ends[stretch - 1] - (self.own[stretch] - rest - 1)
