"""How long a memory's channels are at work on a strided transfer, refresh included.

What channels read is found by `stretches.py`, of loops that come to all of them alike by `regular.py`, and how long
that takes without refresh by `banks.py`. Refresh of all banks at once takes its part of the time. Refresh of one rank
after the other takes the same part of all transfers that end before the second one, that of a long contiguous stream:
pieces that follow each other take what they take as one. What longer ones lose from there on `steady.py` finds if they
are regular, and otherwise `refresh.py`, by a part of very long ones. Where a hash spreads accesses, rows and banks are
not known, and the bursts of an even share are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache
from statistics import mean

from pimc.backends.dma.banks import Refresh, RowTimes, delays
from pimc.backends.dma.block_traffic import busiest_of, nest_in_blocks, traffic_in_blocks
from pimc.backends.dma.refresh import FOLLOWED, MOMENTS, Losses, losses, mixes, ranks_of, with_refresh
from pimc.backends.dma.regular import Regular, regular_of, waits
from pimc.backends.dma.steady import cycle_of, endless, lost, quick
from pimc.backends.dma.stretches import Nest, Stretches, cut, rows_of_block, stretches
from pimc.backends.dma.traffic import Memory, Traffic, accesses_of, split_run, traffic
from pimc.backends.dma.walk import walked
from pimc.backends.target import DramSpec
from pimc.ir.layout import Digit
from pimc.record import record

RUNS = 1 << 17
"""Stretches of rows that are told apart, of all channels together; of longer transfers as many."""
MOST, WALKED = 1 << 15, 1 << 17
"""Stretches that are walked through, of all channels or of the slowest, and from all begins together."""
ALIKE, ABOUT = 8, 64
"""Of channels that come to the same rows, each from another place on, that part of them is walked through: for the time
of a transfer, and for a search that compares many."""
LOOKED_AT = 4
"""Channels from which it is told whether bursts wait for their rows while only one rank is read."""
DEALS, TOGETHER, DEALT = range(12, 33), 100_000, 1 << 17
"""Shuffles of blocks that are followed: as many as come to so many clocks, but to no more than so many stretches."""


@record
class Dram:
    """What matters of a memory for the time of transfers; times in clocks but for the clock's own."""

    memory: Memory
    rows: RowTimes
    clock_ps: int
    ranks: int = 1
    """that are refreshed one after the other; 1: all banks at once"""
    interval: int = 0
    """between refreshes of a bank; 0: there is no refresh"""
    lasts: int = 0

    @cached_property
    def _hash(self) -> int:
        return hash((self.memory, self.rows, self.clock_ps, self.ranks, self.interval, self.lasts))

    def __hash__(self) -> int:
        return self._hash

    def plain_ps(self, asked: Traffic) -> int:
        """Picoseconds of what is asked, by its sums, without refresh."""
        rows = self.rows
        opening = max(rows.apart * self.clock_ps, -(-rows.four * self.clock_ps // 4))
        one_bank = max(0, asked.one_bank - 1) * rows.cycle * self.clock_ps
        return max(asked.busiest * rows.burst * self.clock_ps, asked.rows * opening, one_bank)

    def derated(self, duration: int) -> int:
        """With the part of the time that refresh takes on average."""
        return -(-duration * self.interval // (self.interval - self.lasts)) if self.interval else duration

    def ps(self, clocks: float) -> int:
        """Picoseconds of such clocks, in which refresh of one rank after the other is, and other refresh is not."""
        return round(clocks * self.clock_ps) if self.in_turn else self.derated(round(clocks * self.clock_ps))

    @property
    def rank_banks(self) -> int:
        """Banks that are refreshed together."""
        return self.rows.banks // self.ranks

    @cached_property
    def in_turn(self) -> Refresh | None:
        """Refresh of one rank after the other."""
        if not self.interval or self.ranks == 1:
            return None
        return Refresh(self.ranks, self.rank_banks, self.interval, self.lasts)

    @cached_property
    def contiguous(self) -> float:
        """The part of a long contiguous stream's time that refresh of ranks in turn takes."""
        stream = endless(Nest(self.memory.access_bytes, ()), self.memory)
        steady = _steady(self, stream) if stream and self.in_turn and not self.memory.hashed else None
        return steady.part if steady else 0.0

    def refreshed(self, clocks: float, part: float = 0.0) -> float:
        """Such clocks of bursts with refresh of ranks in turn, which takes a part of those behind the first refresh."""
        first = min(clocks, self.in_turn.apart) if self.in_turn else 0.0
        return first / (1 - self.contiguous) + (clocks - first) / (1 - part)


def dram_of(dram: DramSpec, memory: Memory, *, writes: bool = False) -> Dram:
    """A target's memory, for reads or for writes."""
    c = dram.cycles
    open_for, opening = max(c["nRAS"], c["nRC"] - c["nRP"]), c["nRCDWR" if writes else "nRCDRD"]
    after = c["nCWL"] + c["nBL"] + c["nWR"] if writes else c["nRTP"]
    rows = RowTimes(dram.banks, c["nBL"], opening, c["nRP"], open_for, after, c["nRRDS"], c["nFAW"])
    ranks = dram.ranks if dram.refresh_order == "staggered-ranks" else 1
    refresh = (c["nREFI"], c["nRFC"]) if dram.refresh else (0, 0)
    return Dram(memory, rows, dram.clock_ps, ranks, *refresh)


@lru_cache(maxsize=65536)
def moving_ps(dram: Dram, digits: tuple[Digit, ...], element_bytes: int, *, about: bool = False) -> int:
    """Picoseconds for which channels are at work on a loop nest of elements. about: sooner told, and up to a tenth off
    where rows of a long regular loop hold up others."""
    memory = dram.memory
    run, rest = split_run(digits, element_bytes, memory.access_bytes)
    if memory.hashed or (run <= memory.access_bytes and not rest):
        return dram.derated(dram.plain_ps(traffic(memory, digits, element_bytes)))
    nest = Nest(run, tuple(rest))
    return _nest_ps(dram, nest, about=about and regular_of(nest, memory) is not None and not _undisturbed(dram, nest))


def in_blocks_ps(dram: Dram, digits: tuple[Digit, ...], element_bytes: int, block: int) -> int:
    """The same in a window whose blocks of so many bytes lie anywhere."""
    nest = nest_in_blocks(dram.memory, digits, element_bytes, block)
    if nest.blocks == 1:
        return moving_ps(dram, digits, element_bytes)
    if dram.memory.hashed:
        return dram.derated(dram.plain_ps(traffic_in_blocks(dram.memory, digits, element_bytes, block)))
    return _nest_ps(dram, nest)


def chosen_ps(dram: Dram, row: tuple[Digit, ...], element_bytes: int, count: int, table: Digit) -> int:
    """The same of so many rows of elements that indices choose from a table's."""
    memory = dram.memory
    if memory.hashed:
        accesses = count * accesses_of(memory, row, element_bytes)
        return dram.derated(-(-accesses // memory.channels) * dram.rows.burst * dram.clock_ps)
    run, rest = split_run(row, element_bytes, memory.access_bytes)
    return _nest_ps(dram, Nest(run, tuple(rest), count, table[1], table[0]))


def least_ps(dram: Dram, moved: int) -> int:
    """What a transfer of so many bytes takes at least, wherever they lie."""
    return _evenly_ps(dram, -(-moved // dram.memory.access_bytes), 0.0)


@lru_cache(maxsize=65536)
def held_ps(dram: Dram, accesses: int) -> int:
    """For how long so many accesses hold the buses, as their share of a stream that keeps all channels at work."""
    return _evenly_ps(dram, accesses, dram.contiguous)


def _evenly_ps(dram: Dram, accesses: int, part: float) -> int:
    """Of accesses spread evenly over all channels, where refresh of ranks in turn takes such a part of the time."""
    bursts_ps = -(-accesses * dram.rows.burst * dram.clock_ps // dram.memory.channels)
    return dram.ps(dram.refreshed(bursts_ps / dram.clock_ps, part))


@lru_cache(maxsize=65536)
def _nest_ps(dram: Dram, whole: Nest, *, about: bool = False) -> int:
    """The same of runs of bytes; many loop nests of elements come to the same."""
    memory, burst = dram.memory, dram.rows.burst
    stream = endless(whole, memory) if dram.in_turn and not whole.block else None
    steady = _steady(dram, stream) if stream else None
    if steady:
        return dram.ps(dram.refreshed(busiest_of(memory, whole) * steady.once * burst, steady.part))
    if not (whole.rest or whole.block) and whole.run <= memory.row_bytes * memory.channels:
        return dram.ps(busiest_of(memory, whole) * burst)  # a row of each channel at most
    part = cut(whole, memory, RUNS)
    if whole.block:
        bursts = busiest_of(memory, whole)
        deals = min(max(DEALS.start, round(TOGETHER / (bursts * burst))), DEALS.stop - 1)
        deals = max(1, min(deals, DEALT // (part.blocks * rows_of_block(part, memory))))
        told = [_part(dram, replace(part, deal=deal), part != whole, 1) for deal in range(deals)]
        clocks = mean(each.clocks(bursts) for each in told)
    else:
        found = _part(dram, part, part != whole, MOMENTS, about=about)
        bursts = found.bursts if part == whole else busiest_of(memory, whole) * found.once
        clocks = found.clocks(bursts)
    return dram.ps(max(clocks, dram.refreshed(bursts * burst)))


@record
class Steady:
    """What is known of a regular stream that goes on and on."""

    once: float
    """bursts, as a part of those where what two runs need one after the other counts twice"""
    part: float
    """of its time that refresh takes"""


@lru_cache(maxsize=4096)
def _steady(dram: Dram, stream: Nest) -> Steady | None:
    """Of a stream where ranks are refreshed in turn; none: its rows hold it up."""
    refresh, rows, regular = dram.in_turn, dram.rows, _undisturbed(dram, stream)
    if refresh is None:
        return None
    if regular:
        return Steady(1.0, lost(regular.cycle(stream.rest[0][0], rows, refresh), rows, refresh))
    found = stretches(stream, dram.memory)
    if delays(found, rows) is not None:
        return None
    ranks = refresh.ranks_of(found.rows)
    cycle = cycle_of(found, ranks, rows.burst)
    if quick(cycle, rows) and delays(found.split(ranks, LOOKED_AT), rows) is not None:
        return None
    return Steady(found.once, lost(cycle, rows, refresh))


@record
class Told:
    """What a part of a transfer tells of all of it."""

    bursts: int
    """of its busiest channel"""
    once: float
    """bursts, as a part of those where what two runs need one after the other counts twice"""
    of_burst: float
    """clocks for each of the busiest channel's"""
    lost: Losses | None = None
    """by refreshes, where those clocks are without"""

    def clocks(self, bursts: float | None = None) -> float:
        """Of the part, or of a transfer whose busiest channel has so many bursts."""
        clocks = (self.bursts if bursts is None else bursts) * self.of_burst
        return self.lost.of(clocks) if self.lost else clocks


def _undisturbed(dram: Dram, nest: Nest) -> Regular | None:
    """A loop that comes to all channels alike, if no row holds up its bursts, even while only one rank is read."""
    regular = regular_of(nest, dram.memory)
    return None if regular is None or waits(regular, dram.rows, dram.rank_banks) else regular


@lru_cache(maxsize=4096)
def _part(dram: Dram, nest: Nest, more: bool, begins: int, *, about: bool = False) -> Told:
    """`more`: there is more of the transfer. It is walked through from so many begins, or fewer if it is long."""
    rows, refresh = dram.rows, dram.in_turn
    if regular := _undisturbed(dram, nest):
        runs, _ = nest.rest[0]
        told = Told(regular.busiest(runs), 1.0, rows.burst)
        return _refreshed(dram, told, more, lambda: regular.stretches(runs, dram.rank_banks), regular.channels)
    found = stretches(nest, dram.memory)
    told, late = Told(int(found.totals.max()), found.once, rows.burst), delays(found, rows)
    each = refresh.ranks_of(found.rows) if refresh else None
    if late is None and (each is None or not mixes(found, each) or delays(found.split(each, LOOKED_AT), rows) is None):
        return _refreshed(dram, told, more, lambda: found, len(found.counts))
    clocks = found.totals * rows.burst + (0 if late is None else late)
    slowest = sorted(found.unlike, key=lambda channel: -clocks[channel])
    may_wait = refresh.lasts * (1 + clocks / refresh.apart) if refresh else clocks * 0
    last = [channel for channel in slowest if clocks[channel] + may_wait[channel] >= clocks[slowest[0]]]
    part = (ABOUT if about else ALIKE) if regular_of(nest, dram.memory) else 1
    found = found.of(last[: max(1, MOST // part * len(found.counts) // len(found.rows))])
    begun = max(1, min(begins, WALKED // part // len(found.rows)))
    return replace(told, of_burst=walked(found, rows, refresh, begun, nest.deal) / told.bursts)


def _refreshed(dram: Dram, told: Told, more: bool, read: Callable[[], Stretches], channels: int) -> Told:
    """With the refreshes of ranks that meet what so many channels read."""
    rows, refresh = dram.rows, dram.in_turn
    if refresh is None or (told.clocks() <= refresh.apart and not more):
        return told
    ranks = ranks_of(read(), refresh, channels)
    if more or told.clocks() > FOLLOWED * refresh.apart:
        return replace(told, lost=losses(ranks, rows, refresh))
    return replace(told, of_burst=with_refresh(ranks, rows, refresh) / told.bursts)
