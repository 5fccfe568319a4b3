"""Timing of a channel's rows, and whether they hold up its bursts.

As a rule bursts follow each other without gaps: rows are opened ahead. There are gaps where rows come faster than a
channel may open them (tRRD, tFAW), or rows of one bank too soon after each other (tRC, and bursts of the row before).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.stretches import Ints, Stretches
from pimc.record import record

Floats = NDArray[np.float64]

AHEAD = 64
"""Bursts that a channel knows ahead, and opens rows for; with ranks that are refreshed in turn, what it chooses from.
An assumption: the depth of a controller's queue of requests."""
NEAR = 16
"""Rows over which their opening and their bursts even out."""
SLIGHT = 0.003
"""The part of a transfer's time from which on what holds up its rows is not left out."""


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

    @property
    def between(self) -> float:
        """From the opening of one row to that of the next one, on average."""
        return max(self.apart, self.four / 4)

    def again(self, bursts: Ints | int) -> Ints:
        """From the opening of a row with so many bursts to that of another one in its bank."""
        own = self.opening + (bursts - 1) * self.burst + self.after_burst
        return np.maximum(self.open, own) + self.closing


@record
class Refresh:
    """Refresh of one rank after the other, in clocks."""

    ranks: int
    rank_banks: int
    """banks of one rank"""
    interval: int
    """from one of a rank to its next one"""
    lasts: int

    @property
    def apart(self) -> int:
        """From one rank's to the next one's."""
        return self.interval // self.ranks

    def rank_of(self, row: int) -> int:
        """Where a row of a channel lies."""
        return row // self.rank_banks % self.ranks

    def ranks_of(self, rows: Ints) -> NDArray[np.int8]:
        """Where rows of a channel lie."""
        return (rows // self.rank_banks % self.ranks).astype(np.int8)


def delays(found: Stretches, times: RowTimes) -> Floats | None:
    """About how many clocks bursts of each channel wait for their rows; none: as good as none."""
    clocks = _openings(found, times) + _conflicts(found, times)
    return clocks if (clocks > SLIGHT * times.burst * found.totals).any() else None


def _openings(found: Stretches, times: RowTimes) -> Floats:
    """Clocks of each channel by which rows may be opened less often than there are bursts for."""
    opening = times.between
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
    again = times.again(found.bursts)
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
