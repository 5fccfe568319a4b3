"""How long channels take for their stretches of rows without refresh.

As a rule bursts follow each other without gaps: rows are opened ahead. Where rows come faster than a channel may open
them (tRRD, tFAW), or rows of one bank too soon after each other (tRC, and bursts of the row before), channels are gone
through row by row: a row is opened when one of its bursts is among the requests that a channel knows ahead and its
bank, tRRD and tFAW allow it, and bursts follow in order. That is what a plain DRAM engine does, burst by burst.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.stretches import Stretches
from pimc.record import record

Floats = NDArray[np.float64]

AHEAD = 64
"""Bursts that a channel knows ahead, and opens rows for; with ranks that are refreshed in turn, what it chooses from.
An assumption: the depth of a controller's queue of requests."""
LONG_AGO = -(10**9)
NEAR = 16
"""Rows over which their opening and their bursts even out."""
SLIGHT = 0.003
"""The part of a transfer's time from which on what holds up its rows is looked at row by row."""


@record
class RowTimes:
    """Timing of one channel's rows and bursts, in clocks."""

    banks: int
    burst: int
    opening: int
    """tRCD"""
    closing: int
    """tRP"""
    open: int
    """tRAS, the least"""
    after_burst: int
    """from a burst to the closing of its row (tRTP; of writes tCWL, the burst and tWR)"""
    apart: int
    """tRRD"""
    four: int
    """tFAW"""

    @property
    def cycle(self) -> int:
        return self.open + self.closing


@record
class Pace:
    """How channels go on without refresh."""

    busy: Floats
    """clocks of each channel until its last burst"""
    starts: Floats | None
    """clocks until the first burst of each stretch; none: bursts follow each other without gaps"""


def pace(found: Stretches, times: RowTimes) -> Pace:
    """Clocks of each channel without refresh."""
    bus = (found.totals * times.burst).astype(np.float64)
    if (_openings(found, times) > SLIGHT * bus).any() or (_conflicts(found, times) > SLIGHT * bus).any():
        starts = _row_by_row(found, times)
        return Pace(starts[found.lanes - 1] + found.bursts[found.lanes - 1] * times.burst, starts)
    return Pace(bus, None)


def _openings(found: Stretches, times: RowTimes) -> Floats:
    """Clocks of each channel by which rows may be opened less often than there are bursts for."""
    opening = max(times.apart, times.four / 4)
    if found.bursts.min() * times.burst >= opening:
        return np.zeros(len(found.lanes))
    near = min(NEAR, len(found.ends))
    windows = found.ends[near - 1 :] - (found.ends - found.bursts)[: len(found.ends) - near + 1]
    longer = np.maximum(0, opening - windows * (times.burst / near))
    return found.of_channels(np.concatenate([longer, np.full(near - 1, longer[-1])]))


def _conflicts(found: Stretches, times: RowTimes) -> Floats:
    """Clocks of each channel by which rows of one bank come too early after each other."""
    rows, ends = found.rows, found.ends
    begins, banks = ends - found.bursts, (rows % times.banks).astype(np.int16)
    lost: Floats | None = None
    again = np.maximum(times.open, times.opening + (found.bursts - 1) * times.burst + times.after_burst) + times.closing
    near = -(-int(again.max()) // times.burst)
    for apart in range(1, min(len(rows), near + 1)):
        since = ends[apart - 1 : -1] - begins[:-apart]
        if since.min() >= near:
            break
        early = banks[apart:] == banks[:-apart]
        if early.any():
            early &= (since * times.burst < again[:-apart]) & (rows[apart:] != rows[:-apart])
        if early.any():
            lost = np.zeros(len(rows)) if lost is None else lost
            channel = np.repeat(np.arange(len(found.lanes)), found.counts)
            early &= channel[apart:] == channel[:-apart]
            np.maximum(lost[:-apart], early * ((again[:-apart] - since * times.burst) / apart), out=lost[:-apart])
    return np.zeros(len(found.lanes)) if lost is None else found.of_channels(lost)


def _row_by_row(found: Stretches, times: RowTimes) -> Floats:
    """When the first burst of each stretch comes, in its channel's own clocks."""
    begins = found.ends - found.bursts
    before = np.repeat(begins[found.lanes - found.counts], found.counts)
    wanted = begins - AHEAD
    known_with = found.ends.searchsorted(wanted, "right")
    known_with[wanted < before] = -1
    into = (wanted - begins[known_with]) * times.burst
    firsts = np.zeros(len(begins), bool)
    firsts[found.lanes - found.counts] = True
    starts: list[int] = []
    add = starts.append
    burst, opening, closing, least = times.burst, times.opening, times.closing, times.open
    apart, four, after = times.apart, times.four, times.after_burst - times.burst
    row_in, opened, ready = [-1], [LONG_AGO], [LONG_AGO]
    bus = first = second = third = fourth = 0
    columns = (rows.tolist() for rows in (found.rows, found.rows % times.banks, found.bursts, known_with, into, firsts))
    for row, bank, count, knows, since, begun in zip(*columns, strict=True):
        if begun:
            row_in, opened, ready = [-1] * times.banks, [LONG_AGO] * times.banks, [LONG_AGO] * times.banks
            bus, first, second, third, fourth = 0, LONG_AGO, LONG_AGO, LONG_AGO, LONG_AGO
        there = row_in[bank]
        if there == row:
            at = opened[bank]
        else:
            at = starts[knows] + since if knows >= 0 else 0
            if there >= 0:
                at += closing
            at = max(at, ready[bank], fourth + apart, first + four)
            first, second, third, fourth = second, third, fourth, at
            row_in[bank], opened[bank] = row, at
        start = at + opening
        if start < bus:
            start = bus
        add(start)
        bus = start + count * burst
        ready[bank] = max(at + least, bus + after) + closing
    # what the first row takes belongs to the latency
    return np.asarray(starts, np.float64) - opening
