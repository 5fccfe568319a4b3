"""What a transfer loses where the ranks of a memory are refreshed in turn.

While a rank is refreshed a channel goes on with bursts of other ranks, as far as the requests that it knows ahead have
any; then it waits. So what a refresh costs depends on where in its stretches a channel is: nothing in the midst of
another rank's, the whole of it in a long one of this rank's. That moves where the next refresh meets the channel, and
contiguous streams fall into step with refreshes. Channels are followed from refresh to refresh, from several moments at
which the first may come, and a transfer ends with its slowest channel. A transfer that begins while a refresh goes on
is not told apart: in a row of transfers the one before has waited for that.
"""

from __future__ import annotations

from math import log2

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.banks import AHEAD, Pace, RowTimes, pace
from pimc.backends.dma.stretches import Ints, Stretches
from pimc.record import record

Floats = NDArray[np.float64]

LOOKED_AT, ALONE = 4, 256
"""Channels, and stretches in each rank, from which it is told how fast they read one rank alone."""
FOLLOWED = 16
"""Refreshes through which the beginning of a long transfer is followed, over and over."""
MOMENTS = 4
"""Moments of the first refresh of short transfers; of long ones fewer, since each meets many refreshes."""


@record
class Refresh:
    """Refresh of one rank after the other, in clocks."""

    ranks: int
    rank_banks: int
    """banks of one rank"""
    apart: float
    """from one rank's to the next one's"""
    lasts: int
    rows: RowTimes

    def ranks_of(self, rows: Ints) -> Ints:
        """Where rows of a channel lie."""
        return rows // self.rank_banks % self.ranks


@record
class Ranks:
    """Where the bursts of each rank lie, over all channels, which follow each other in one count."""

    bounds: Floats
    """bursts before each change of rank"""
    of_rank: Floats
    """[ranks, bounds]: those of one rank before it; each rank's lie beyond the last one's"""
    shift: float
    """by which they do"""
    begins: Floats
    """bursts before each channel's first"""
    ends: Floats
    alone: Floats | None
    """[ranks]: clocks of a burst where a channel reads one rank only, and rows of one bank come sooner after each
    other; none: bursts follow each other without gaps there"""
    waits: Waits | None
    """none: bursts follow each other without gaps"""


@record
class Waits:
    """When bursts come where rows cannot be opened soon enough for them, over all channels."""

    starts: Floats
    """clocks before the first burst of each stretch, each channel's after the last one's"""
    begins: Floats
    """of each channel"""
    bursts: Floats
    """of each stretch"""
    ends: Floats
    ranks: NDArray[np.int8]

    def at(self, clocks: Floats, refreshed: Ints, burst: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Bursts before such clocks [moments, channels]; and whether a channel then waits for a row of the rank that
        is refreshed. What it waits for it has chosen, and is held up for all of the refresh."""
        here = clocks + self.begins
        index = self.starts.searchsorted(here, "right") - 1
        left = self.bursts.take(index) - (here - self.starts.take(index)) / burst
        held = (left < 0) & (self.ranks.take(index + 1, mode="clip") == refreshed)
        return self.ends.take(index) - np.maximum(left, 0.0), held


def with_refresh(found: Stretches, paced: Pace, refresh: Refresh) -> float:
    """Clocks of a transfer whose channels are at work like that without refresh."""
    busy, clocks = paced.busy, float(paced.busy.max())
    expected = clocks / refresh.apart
    moments = max(1, MOMENTS // max(1, round(expected)))
    _, lost = _followed(_ranks(found, paced, refresh), busy, refresh, moments, None)
    return clocks + min(1.0, expected) * (float((busy + lost).max(axis=1).mean()) - clocks)


@record
class Losses:
    """What refreshes cost a long transfer, by a part of it that stands for all."""

    rate: float
    """the part of the whole time, in the long run, of channels on average"""
    beyond: Floats
    """[moments, channels]: by how much that of one channel is more, as far as they have been followed"""
    lasting: float
    """with this power of the number of refreshes such differences grow: 1 where channels keep theirs, 0 where what one
    loses it gains later"""
    shares: Floats
    """of the busiest channel's time, by channel"""

    def of(self, clocks: float, refresh: Refresh) -> float:
        """Clocks of a transfer that takes so many without refresh."""
        again = clocks / (1 - self.rate) / refresh.apart / FOLLOWED
        rates = self.rate + self.beyond * again ** (self.lasting - 1)
        return clocks * float((self.shares / (1 - rates)).max(axis=1).mean())


def losses(found: Stretches, paced: Pace, refresh: Refresh) -> Losses:
    """What a long transfer loses: found by going through these stretches over and over."""
    early, late = _followed(_ranks(found, paced, refresh), paced.busy, refresh, 1, FOLLOWED)
    lost = early + late
    rate = float(late.mean()) / (FOLLOWED - FOLLOWED // 2) / refresh.apart
    spread = [float(of.std(axis=1).mean()) for of in (early, lost)]
    lasting = min(1.0, max(0.0, log2(spread[1] / spread[0]))) if all(spread) else 1.0
    beyond = (lost - lost.mean(axis=1, keepdims=True)) / (FOLLOWED * refresh.apart)
    return Losses(rate, beyond, lasting, paced.busy / paced.busy.max())


def _ranks(found: Stretches, paced: Pace, refresh: Refresh) -> Ranks:
    """Stretches that follow each other in one rank are one."""
    each = refresh.ranks_of(found.rows).astype(np.int8)
    last = np.empty(len(each), bool)
    np.not_equal(each[1:], each[:-1], out=last[:-1])
    last[found.lanes - 1] = True
    at = np.flatnonzero(last)
    bounds = np.concatenate([[0], found.ends[at]])
    bursts, rank = np.diff(bounds), each[at]
    shift = float(bounds[-1] + 1)
    of_rank = np.zeros((refresh.ranks, len(bounds)))
    for r in range(refresh.ranks):
        np.cumsum(np.where(rank == r, bursts, 0), out=of_rank[r, 1:])
        of_rank[r] += r * shift
    ends = found.ends[found.lanes - 1].astype(np.float64)
    waits = None
    if paced.starts is not None:
        begins = np.cumsum(paced.busy) - paced.busy
        starts = paced.starts + np.repeat(begins, found.counts)
        bursts_of, ends_of = found.bursts.astype(np.float64), found.ends.astype(np.float64)
        waits = Waits(starts, begins, bursts_of, ends_of, each)
    alone = None
    if bounds[-1] < AHEAD * len(at):  # it changes between ranks more often than requests are known ahead
        alone = _alone(found, refresh)
    return Ranks(bounds.astype(np.float64), of_rank, shift, np.concatenate([[0.0], ends[:-1]]), ends, alone, waits)


def _alone(found: Stretches, refresh: Refresh) -> Floats | None:
    """Clocks of a burst where a channel reads one rank only."""
    part = found.beginnings(LOOKED_AT, ALONE * refresh.ranks)
    rank = refresh.ranks_of(part.rows)
    apart = np.repeat(np.arange(len(part.counts)), part.counts) * refresh.ranks + rank
    order, counts = np.argsort(apart, kind="stable"), np.bincount(apart)
    there = np.flatnonzero(counts)
    each = Stretches(part.rows.take(order), part.bursts.take(order), counts[there])
    paced = pace(each, refresh.rows)
    if paced.starts is None:
        return None
    clocks = np.full(refresh.ranks, float(refresh.rows.burst))
    for r in range(refresh.ranks):
        of_rank = there % refresh.ranks == r
        if of_rank.any():
            clocks[r] = paced.busy[of_rank].sum() / each.totals[of_rank].sum()
    return clocks


def _followed(ranks: Ranks, busy: Floats, refresh: Refresh, moments: int, times: int | None) -> tuple[Floats, Floats]:
    """Clocks that refreshes cost [moments and ranks of the first one, channels], the first half of them and the others.

    So many refreshes, or (all are the others) until all channels are through. What comes after a channel's last burst
    is taken to be its first. `busy`: clocks of each channel without refresh.
    """
    bounds, flat, width, burst = ranks.bounds, ranks.of_rank.ravel(), len(ranks.bounds), refresh.rows.burst
    totals = ranks.ends - ranks.begins
    pace = busy / totals
    offsets = np.arange(refresh.ranks)[:, None] * width
    firsts, lasts = (flat.take(bounds.searchsorted(at) + offsets) for at in (ranks.begins, ranks.ends))
    numbers = np.repeat(np.arange(refresh.ranks), moments)
    span = min(refresh.apart, float(busy.max()))
    moment = np.tile((np.arange(moments) + 0.5) / moments * span, refresh.ranks)
    done = np.repeat(moment[:, None], len(busy), axis=1)
    early, lost = np.zeros_like(done), np.zeros_like(done)
    by_rank = [(at[:, None], firsts.take(at, 0), lasts.take(at, 0)) for at in _turned(numbers, refresh.ranks)]
    event, held = 0, None
    while event != times:
        rank, first, last = by_rank[event % refresh.ranks]
        offset = rank * width
        here = np.minimum(done, busy - burst / 2) if times is None else done % busy
        if ranks.waits is not None:
            here, held = ranks.waits.at(here, rank, burst)
        else:
            here /= burst
            here += ranks.begins
        index = np.minimum(bounds.searchsorted(here, "right"), width - 1)
        since = here - bounds.take(index - 1)
        index += offset
        # when the requests known ahead are all of this rank, and how many of others have been served until then
        wanted = flat.take(index - 1)
        wanted += (flat.take(index) > wanted) * since
        wanted += AHEAD
        over = wanted > last
        wanted -= over * (last - first)
        np.minimum(wanted, last, out=wanted)
        index = flat.searchsorted(wanted)
        others = bounds.take(index - offset, mode="clip") - flat.take(index, mode="clip")
        others += wanted + over * totals
        others -= here + AHEAD
        np.maximum(others, 0, out=others)
        # rows known before the refresh are open when it is over
        loss = refresh.lasts + (others >= AHEAD) * refresh.rows.opening - others * pace
        np.maximum(loss, 0, out=loss)
        if ranks.alone is not None:
            slower = np.maximum(0, ranks.alone.take(rank) - pace)
            # requests of this rank that have been left behind
            loss += AHEAD * np.minimum(1, refresh.lasts / (pace * np.maximum(others, 1))) * slower
        if held is not None:
            np.maximum(loss, held * refresh.lasts, out=loss)
        loss *= last > first
        if times is None:
            loss *= done < busy
        lost += loss
        done += refresh.apart - loss
        event += 1
        if times is None:
            if (done >= busy).all():
                break
        elif event == times // 2:
            early, lost = lost, early
    return early, lost


def _turned(numbers: Ints, count: int) -> list[Ints]:
    return [(numbers + turn) % count for turn in range(count)]
