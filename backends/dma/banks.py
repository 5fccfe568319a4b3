"""How long channels take for their stretches of rows where rows of one bank come close after each other.

A bank opens a row tRC after the one before at the earliest, and later if bursts of that one have not passed. As long
as other banks have enough to read in the meantime, nothing is lost; where they have not, channels are gone through row
by row, all side by side: a row is opened when one of its bursts is among the requests that a channel knows ahead and
its bank, tRRD and tFAW allow it, and bursts follow in order.
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
LOOKED_AT = 256
"""Rows of a channel; it goes on with the others at the same pace."""
LONG_AGO = -(10**9)
NEAR = 16
"""Rows over which their opening and their bursts even out."""
SLIGHT = 0.003
"""The part of a transfer's time from which on bank conflicts are looked at row by row."""


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


def busy_clocks(found: Stretches, times: RowTimes) -> Floats:
    """Clocks of each channel until its last burst, without refresh."""
    if conflicts(found, times).sum() > SLIGHT * times.burst * int(found.ends[-1]):
        return _row_by_row(found, times)
    bus = (found.totals * times.burst).astype(np.float64)
    opening = max(times.apart, times.four / 4)
    if found.bursts.min() * times.burst >= opening:
        return bus
    near = min(NEAR, len(found.ends))
    windows = found.ends[near - 1 :] - (found.ends - found.bursts)[: len(found.ends) - near + 1]
    longer = np.maximum(0, opening - windows * (times.burst / near))
    return bus + found.of_lanes(np.concatenate([longer, np.full(near - 1, longer[-1])]))


def conflicts(found: Stretches, times: RowTimes) -> Floats:
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
    return np.zeros(len(found.lanes)) if lost is None else found.of_lanes(lost)


def _row_by_row(found: Stretches, times: RowTimes) -> Floats:
    bursts, rows = (_side_by_side(found, values)[:LOOKED_AT] for values in (found.bursts, found.rows))
    lanes = np.arange(len(found.lanes))
    begins = np.cumsum(bursts, axis=0) - bursts
    known_with, into = _ahead(begins)
    banks = np.where(bursts > 0, rows % times.banks, times.banks)
    opened, row_in = (np.full((len(lanes), times.banks + 1), value) for value in (LONG_AGO, -1))
    ready = np.full_like(opened, LONG_AGO)
    starts = np.zeros_like(bursts)
    before = [np.full(len(lanes), LONG_AGO)] * 4
    bus = np.zeros(len(lanes), np.int64)
    for step, (bank, row, count) in enumerate(zip(banks, rows, bursts, strict=True)):
        known = np.where(into[step] < 0, 0, starts[known_with[step], lanes] + into[step] * times.burst)
        there = row_in[lanes, bank]
        opens = (there != row) & (count > 0)
        at = np.maximum(known + np.where(there >= 0, times.closing, 0), ready[lanes, bank])
        at = np.maximum(at, np.maximum(before[3] + times.apart, before[0] + times.four))
        at = np.where(opens, at, opened[lanes, bank])
        before = [np.where(opens, new, old) for old, new in zip(before, [*before[1:], at], strict=True)]
        starts[step] = np.where(count > 0, np.maximum(np.maximum(bus, known), at + times.opening), bus)
        bus = starts[step] + count * times.burst
        opened[lanes, bank], row_in[lanes, bank] = at, row
        ready[lanes, bank] = np.maximum(at + times.open, bus - times.burst + times.after_burst) + times.closing
    # what the first row takes belongs to the latency
    return np.asarray((bus - times.opening) * (found.totals / bursts.sum(axis=0)), np.float64)


def _side_by_side(found: Stretches, values: Ints) -> Ints:
    """Values of stretches [longest channel, channels], with zeros where a channel has no more."""
    counts = found.counts
    table = np.zeros((int(counts.max()), len(counts)), np.int64)
    lane = np.repeat(np.arange(len(counts)), counts)
    table[np.arange(len(values)) - np.repeat(found.lanes - counts, counts), lane] = values
    return table


def _ahead(begins: Ints) -> tuple[Ints, Ints]:
    """For each stretch, the one with whose reading its first burst is known, and how many bursts into that; negative:
    it is known from the beginning."""
    steps, lanes = begins.shape
    wanted = begins - AHEAD
    far = int(begins.max()) + 1
    keys = (begins + np.arange(lanes) * far).T.ravel()
    at = np.searchsorted(keys, (np.maximum(wanted, 0) + np.arange(lanes) * far).T.ravel(), "right") - 1
    known_with = at.reshape(lanes, steps).T - np.arange(lanes) * steps
    return known_with, np.where(wanted < 0, -1, wanted - np.take_along_axis(begins, known_with, 0))
