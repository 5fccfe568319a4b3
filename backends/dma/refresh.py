"""What a transfer loses where the ranks of a memory are refreshed in turn, if nothing else holds up its bursts.

While a rank is refreshed a channel goes on with bursts of other ranks, as far as the requests that it knows ahead have
any; then it waits. So what a refresh costs depends on where in its stretches a channel is: nothing in the midst of
another rank's, the whole of it in a long one of this rank's. That moves where the next refresh meets the channel, and
contiguous streams fall into step with refreshes. Channels are followed from refresh to refresh, from several moments at
which the first may come, and a transfer ends with its slowest channel.
"""

from __future__ import annotations

from functools import lru_cache
from math import log2

import numpy as np
from numpy.typing import NDArray

from pimc.backends.dma.banks import AHEAD, Floats, Refresh, RowTimes
from pimc.backends.dma.stretches import Ints, Stretches
from pimc.record import record

FOLLOWED, REPEATED = 32, 32
"""Refreshes up to which a transfer is followed to its end, and through which the part of a longer one is."""

MOMENTS, FEWEST, CASES = 16, 4, 256
"""The most and the fewest begins that are looked at, and of how many channels together."""
SOON = 1e-6
"""Bursts by which a channel stops before the next one, and not after what follows of other ranks."""
GOLDEN = 0.618
"""Parts of an interval that are this much apart cover it evenly, however many they are."""


@record
class Ranks:
    """Where the bursts of each rank lie, over all channels, which follow each other in one count; and that once for
    each rank, `apart` further on."""

    at: Floats
    """bursts before each change of rank"""
    of_rank: Floats
    """those of the one rank before it"""
    apart: float
    begins: Floats
    """bursts before each channel's first"""
    ends: Floats
    ranks: int
    channels: int
    """those behind the ones that are here read like these, in the same order"""

    @property
    def each(self) -> Ints:
        """The one that is here for each channel."""
        return np.arange(self.channels) % len(self.ends)


def _changes(found: Stretches, each: NDArray[np.int8]) -> NDArray[np.intp]:
    """The last stretches of channels, and those before another rank's."""
    last = np.empty(len(each), bool)
    np.not_equal(each[1:], each[:-1], out=last[:-1])
    last[found.lanes - 1] = True
    return np.flatnonzero(last)


def mixes(found: Stretches, each: NDArray[np.int8]) -> bool:
    """Whether a channel knows bursts of more than one rank ahead, as a rule, or comes to know them in a refresh."""
    return bool(found.ends[-1] < 2 * AHEAD * len(_changes(found, each)))


def ranks_of(found: Stretches, refresh: Refresh, channels: int) -> Ranks:
    """Of stretches, of which those that follow each other in one rank are one."""
    each, ranks = refresh.ranks_of(found.rows), refresh.ranks
    changes = _changes(found, each)
    bounds = np.zeros(len(changes) + 1)
    bounds[1:] = found.ends.take(changes)
    apart = float(bounds[-1] + 1)
    numbers = np.arange(ranks)[:, None]
    of_rank = np.zeros((ranks, len(bounds)))
    own = (bounds[1:] - bounds[:-1]) * (each.take(changes) == numbers)
    np.cumsum(own, axis=1, out=of_rank[:, 1:])
    of_rank += numbers * apart
    ends = found.ends.take(found.lanes - 1).astype(np.float64)
    at = bounds + numbers * apart
    return Ranks(at.ravel(), of_rank.ravel(), apart, ends - found.totals, ends, ranks, channels)


@record
class Begins:
    """When transfers begin: the clocks until the first refresh that matters to them (less than 0: it goes on), and the
    rank that it is of, each with its share of all."""

    moments: NDArray[np.int64]
    ranks: NDArray[np.int64]
    weights: Floats

    def mean(self, clocks: Floats, undisturbed: float) -> float:
        """Of what transfers take; no refresh matters to the others."""
        return undisturbed + float((self.weights * (clocks - undisturbed)).sum())


def _anew(refresh: Refresh, clocks: float) -> float:
    """The part of the transfers beginning in a refresh that wait for it. Short ones are some of many: those before have
    waited for it."""
    return min(1.0, clocks / refresh.apart)


@lru_cache(maxsize=1024)
def begins(refresh: Refresh, clocks: float, count: int, turn: int = 0) -> Begins:
    """So many, of transfers that take so many clocks without refresh; others in each turn."""
    span = refresh.lasts + min(refresh.apart - refresh.lasts, clocks)
    each = np.arange(count)
    moments = np.floor((each + (0.5 + turn * GOLDEN) % 1) / count * span).astype(np.int64) - refresh.lasts
    weights = np.where(moments < 0, _anew(refresh, clocks), 1.0) * (span / refresh.apart / count)
    return Begins(moments, (each + turn) % refresh.ranks, weights)


def with_refresh(ranks: Ranks, times: RowTimes, refresh: Refresh) -> float:
    """Clocks of a transfer whose bursts lie like that."""
    busy = (ranks.ends - ranks.begins) * times.burst
    longest = min(float(busy.max()), refresh.apart)
    from_ = begins(refresh, longest, max(FEWEST, min(MOMENTS, CASES // ranks.channels)))
    _, lost = _followed(ranks, times, refresh, from_, None)
    return from_.mean((busy + lost).max(axis=1), float(busy.max()))


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
    apart: int
    """of refreshes"""

    def of(self, clocks: float) -> float:
        """Clocks of a transfer that takes so many without refresh."""
        again = clocks / (1 - self.rate) / self.apart / REPEATED
        rates = self.rate + self.beyond * again ** (self.lasting - 1)
        return clocks * float((self.shares / (1 - rates)).max(axis=1).mean())


def losses(ranks: Ranks, times: RowTimes, refresh: Refresh) -> Losses:
    """What a long transfer loses: found by going through its part over and over."""
    from_ = begins(refresh, refresh.apart, FEWEST)
    early, late = (of.take(ranks.each, axis=1) for of in _followed(ranks, times, refresh, from_, REPEATED))
    lost = early + late
    rate = float(late.mean()) / (REPEATED - REPEATED // 2) / refresh.apart
    spread = [float(of.std(axis=1).mean()) for of in (early, lost)]
    lasting = min(1.0, max(0.0, log2(spread[1] / spread[0]))) if all(spread) else 1.0
    beyond = (lost - lost.mean(axis=1, keepdims=True)) / (REPEATED * refresh.apart)
    totals = (ranks.ends - ranks.begins).take(ranks.each)
    return Losses(rate, beyond, lasting, totals / totals.max(), refresh.apart)


def _followed(
    ranks: Ranks, times: RowTimes, refresh: Refresh, from_: Begins, events: int | None
) -> tuple[Floats, Floats]:
    """Clocks that refreshes cost [begins, channels], the first half of them and the others.

    So many refreshes, channels beginning again after their last burst, or (all are the others) until all are through.
    """
    totals = ranks.ends - ranks.begins
    shifts = np.arange(refresh.ranks)[:, None] * ranks.apart
    bounds = ranks.begins + shifts, ranks.ends + shifts
    of_ranks = (*bounds, *(np.interp(at, ranks.at, ranks.of_rank) for at in bounds))
    done = np.repeat(np.maximum(from_.moments, 0.0)[:, None], len(totals), axis=1)
    busy = np.zeros_like(done) + totals * times.burst
    early, lost = np.zeros_like(done), np.zeros_like(done)
    turns = [(from_.ranks + turn) % refresh.ranks for turn in range(refresh.ranks)]
    by_rank = [tuple(of.take(at, 0) for of in of_ranks) for at in turns]
    over = np.minimum(from_.moments, 0.0)[:, None]  # clocks of the first refresh that are over, below 0
    left: Floats | int = refresh.lasts + over
    apart: Floats | int = refresh.apart + over
    event = 0
    while event != events:
        begin, end, first, last = by_rank[event % refresh.ranks]
        here = (np.minimum(done, busy) if events is None else done % busy) / times.burst + begin
        # when the requests known ahead are all of this rank, and how many of others have been served until then
        known = np.interp(here, ranks.at, ranks.of_rank)
        wanted = known + AHEAD
        beyond = wanted > last
        if events:
            wanted -= beyond * (last - first)
        np.minimum(wanted, last, out=wanted)
        stop = np.interp(wanted - SOON, ranks.of_rank, ranks.at)
        if events:
            others = stop + beyond * totals - here - AHEAD
        else:
            others = np.where(beyond, end, stop) - here - (wanted - known)
        np.maximum(others, 0, out=others)
        # rows known before the refresh are open when it is over
        loss = np.where(others >= AHEAD, left + times.opening, left) - others * times.burst
        np.maximum(loss, 0, out=loss)
        loss *= last > (first if events else known)
        lost += loss
        done += apart - loss
        left, apart = refresh.lasts, refresh.apart
        event += 1
        if events is None:
            if (done >= busy).all():
                break
        elif event == events // 2:
            early, lost = lost, early
    return early, lost
