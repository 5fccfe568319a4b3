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

from pimc.backends.dma.banks import AHEAD, RowTimes, conflicts
from pimc.backends.dma.stretches import Ints, Stretches
from pimc.record import record

Floats = NDArray[np.float64]

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
    """[ranks, channels]: clocks by which a burst takes longer where a channel reads one rank only, since rows of one
    bank come sooner after each other; none: it does not"""


def with_refresh(found: Stretches, busy: Floats, refresh: Refresh) -> float:
    """Clocks of a transfer whose channels are `busy` for so many without refresh."""
    ranks, clocks = _ranks(found, refresh), float(busy.max())
    expected = clocks / refresh.apart
    moments = max(1, MOMENTS // max(1, round(expected)))
    _, lost = _followed(ranks, busy / found.totals, refresh, moments, None)
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


def losses(found: Stretches, busy: Floats, refresh: Refresh) -> Losses:
    """What a long transfer loses: found by going through these stretches over and over."""
    early, late = _followed(_ranks(found, refresh), busy / found.totals, refresh, 1, FOLLOWED)
    lost = early + late
    rate = float(late.mean()) / (FOLLOWED - FOLLOWED // 2) / refresh.apart
    spread = [float(of.std(axis=1).mean()) for of in (early, lost)]
    lasting = min(1.0, max(0.0, log2(spread[1] / spread[0]))) if all(spread) else 1.0
    beyond = (lost - lost.mean(axis=1, keepdims=True)) / (FOLLOWED * refresh.apart)
    return Losses(rate, beyond, lasting, busy / busy.max())


def _ranks(found: Stretches, refresh: Refresh) -> Ranks:
    """Stretches that follow each other in one rank are one."""
    rank = (found.rows // refresh.rank_banks % refresh.ranks).astype(np.int8)
    last = np.empty(len(rank), bool)
    np.not_equal(rank[1:], rank[:-1], out=last[:-1])
    last[found.lanes - 1] = True
    at = np.flatnonzero(last)
    bounds = np.concatenate([[0], found.ends[at]])
    bursts, each, rank = np.diff(bounds), rank, rank[at]
    shift = float(bounds[-1] + 1)
    of_rank = np.zeros((refresh.ranks, len(bounds)))
    for r in range(refresh.ranks):
        np.cumsum(np.where(rank == r, bursts, 0), out=of_rank[r, 1:])
        of_rank[r] += r * shift
    ends = found.ends[found.lanes - 1].astype(np.float64)
    alone = None
    if bounds[-1] < AHEAD * len(at):  # it changes between ranks more often than requests are known ahead
        of_one = [found.where(each == r) for r in range(refresh.ranks)]
        found_alone = [conflicts(one, refresh.rows) / one.totals if one else 0 * ends for one in of_one]
        alone = np.stack(found_alone) if any(each.any() for each in found_alone) else None
    return Ranks(bounds.astype(np.float64), of_rank, shift, np.concatenate([[0.0], ends[:-1]]), ends, alone)


def _followed(ranks: Ranks, pace: Floats, refresh: Refresh, moments: int, times: int | None) -> tuple[Floats, Floats]:
    """Clocks that refreshes cost [moments and ranks of the first one, channels], the first half of them and the others.

    So many refreshes, or (all are the others) until all channels are through. What comes after a channel's last burst
    is taken to be its first. `pace`: clocks of a burst.
    """
    bounds, flat, width = ranks.bounds, ranks.of_rank.ravel(), len(ranks.bounds)
    totals = ranks.ends - ranks.begins
    offsets = np.arange(refresh.ranks)[:, None] * width
    firsts, lasts = (flat.take(bounds.searchsorted(at) + offsets) for at in (ranks.begins, ranks.ends))
    numbers = np.repeat(np.arange(refresh.ranks), moments)
    span = min(refresh.apart, float((totals * pace).max()))
    moment = np.tile((np.arange(moments) + 0.5) / moments * span, refresh.ranks)
    done = moment[:, None] / pace
    waits = 1 - np.minimum(1, refresh.rows.burst / pace)
    held = waits if waits.any() else None  # a burst that waits for its row when the refresh begins is held up
    early, lost = np.zeros_like(done), np.zeros_like(done)
    by_rank = [((at * width)[:, None], firsts.take(at, 0), lasts.take(at, 0)) for at in _turned(numbers, refresh.ranks)]
    event = 0
    while event != times:
        offset, first, last = by_rank[event % refresh.ranks]
        here = np.minimum(done, totals - 0.5) if times is None else done % totals
        here += ranks.begins
        index = np.minimum(bounds.searchsorted(here, "right"), width - 1)
        since = here - bounds.take(index - 1)
        index += offset
        # when the requests known ahead are all of this rank, and how many of others have been served until then
        wanted = flat.take(index - 1)
        inside = flat.take(index) > wanted
        wanted += inside * since
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
            slower = np.maximum(0, refresh.rows.burst + ranks.alone.take((numbers + event) % refresh.ranks, 0) - pace)
            loss += np.minimum(np.minimum(others, refresh.lasts / pace), AHEAD) * slower
        if held is not None:
            loss += inside * held * np.maximum(0, refresh.lasts - loss)
        loss *= last > first
        if times is None:
            loss *= done < totals
        lost += loss
        done += (refresh.apart - loss) / pace
        event += 1
        if times is None:
            if (done >= totals).all():
                break
        elif event == times // 2:
            early, lost = lost, early
    return early, lost


def _turned(numbers: Ints, count: int) -> list[Ints]:
    return [(numbers + turn) % count for turn in range(count)]
