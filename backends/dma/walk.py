"""How long channels take for their stretches of rows, one by one and with refresh: to the clock.

It is what a plain DRAM engine does burst by burst. A channel knows `AHEAD` bursts ahead and serves the oldest whose
rank is not being refreshed; where there is none, the oldest when that is over. Rows are opened as soon as a burst of
theirs is known and their bank, tRRD, tFAW and refresh allow it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from pimc.backends.dma.banks import AHEAD, Floats, Refresh, RowTimes
from pimc.backends.dma.refresh import begins
from pimc.backends.dma.stretches import Stretches

LONG_AGO = -(10**9)
NEVER = 1 << 60
ENOUGH = 64
"""Refreshes that are met from all begins together, if there are not fewer begins."""


def walked(found: Stretches, times: RowTimes, refresh: Refresh | None, count: int, turn: int = 0) -> float:
    """Clocks of a transfer of such stretches, on average over at most so many begins; over others in each turn."""
    if refresh is None:
        return float(walk(found, times).max())
    clocks = float(found.totals.max() * times.burst)
    if clocks < refresh.apart:
        clocks = float(walk(found, times).max())
    from_ = begins(refresh, clocks, max(1, min(count, round(ENOUGH * refresh.apart / clocks))), turn)
    firsts = times.opening + from_.moments - from_.ranks * refresh.apart
    return from_.mean(np.asarray([own.max() for own in _walks(found, times, refresh, firsts.tolist())]), clocks)


def walk(found: Stretches, times: RowTimes, refresh: Refresh | None = None, moment: int = 0) -> Floats:
    """Clocks of each channel from its first burst to its last, if the first rank's refresh begins at such a clock."""
    return next(_walks(found, times, refresh, [moment]))


def _walks(found: Stretches, times: RowTimes, refresh: Refresh | None, moments: Sequence[int]) -> Iterator[Floats]:
    """The same for each of several."""
    behind = [bank // refresh.rank_banks * refresh.apart if refresh else 0 for bank in range(times.banks)]
    rows, bursts, ends = found.rows.tolist(), found.bursts.tolist(), found.lanes.tolist()
    lanes = [(rows[begin:end], bursts[begin:end]) for begin, end in pairwise([0, *ends])]
    for moment in moments:
        begun = [moment + by for by in behind]
        yield np.asarray([_channel(own, left.copy(), times, refresh, begun) for own, left in lanes], np.float64)


def _channel(rows: list[int], left: list[int], times: RowTimes, refresh: Refresh | None, begun: list[int]) -> int:
    """Of one channel, with so many bursts of each row, and one of the refreshes of each bank. What the first row takes
    belongs to the latency."""
    burst, opening, closing, least = times.burst, times.opening, times.closing, times.open
    apart, four, after, banks = times.apart, times.four, times.after_burst - times.burst, times.banks
    interval, lasts = (refresh.interval, refresh.lasts) if refresh else (NEVER, 0)
    row_in, opened, ready = [-1] * banks, [LONG_AGO] * banks, [LONG_AGO] * banks
    first = second = third = fourth = LONG_AGO  # rows opened last
    behind: list[int] = []  # stretches that have been left because their rank was refreshed
    waiting = coming = served = bus = 0  # bursts of those; the next stretch; bursts served until now, and until when
    counts, ended, known, total = [0], [0], 0, len(rows)  # of what has been served: bursts until its end, and when
    while behind or coming < total:
        until, chosen = NEVER, -1
        for place, number in enumerate(behind):
            into = (bus - begun[rows[number] % banks]) % interval
            if into >= lasts:
                chosen = place
                break
            until = min(until, bus + lasts - into)
        while chosen < 0 and waiting < AHEAD and coming < total:
            behind.append(coming)
            waiting += left[coming]
            into = (bus - begun[rows[coming] % banks]) % interval
            coming += 1
            if into >= lasts:
                chosen = len(behind) - 1
            elif bus + lasts - into < until:
                until = bus + lasts - into
        if chosen < 0:
            chosen, until = 0, NEVER
        number = behind[chosen]
        row, count = rows[number], left[number]
        bank = row % banks
        refreshes = begun[bank]
        if row_in[bank] != row:
            at = ready[bank]
            if served >= AHEAD:
                of = served - AHEAD
                while counts[known] <= of:
                    known += 1
                asked = ended[known] - (counts[known] - of) * burst
                if row_in[bank] >= 0:
                    asked += closing
                if asked > at:
                    at = asked
            elif at < 0:
                at = 0
            if fourth + apart > at:
                at = fourth + apart
            if first + four > at:
                at = first + four
            into = (at - refreshes) % interval
            if into < lasts:
                at += lasts - into
            first, second, third, fourth = second, third, fourth, at
            row_in[bank], opened[bank] = row, at
        start = opened[bank] + opening
        if start < bus:
            start = bus
        into = (start - refreshes) % interval
        if into < lasts:
            start += lasts - into
            into = lasts
        if start + interval - into < until:
            until = start + interval - into
        if start + (count - 1) * burst >= until:
            count = max(1, -((start - until) // burst))
        served += count
        waiting -= count
        bus = start + count * burst
        counts.append(served)
        ended.append(bus)
        ready[bank] = max(opened[bank] + least, bus + after) + closing
        if left[number] > count:
            left[number] -= count
        else:
            del behind[chosen]
    return bus - opening
