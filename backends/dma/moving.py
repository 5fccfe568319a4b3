"""How long a memory's channels are at work on a strided transfer, refresh included.

What channels read is found by `stretches.py`, how long that takes without refresh by `banks.py`. Refresh of all banks
at once takes its part of the time; refresh of one rank after the other what `refresh.py` finds. Long transfers are told
by a part of them. Where a hash spreads accesses, rows and banks are not known, and the bursts of an even share are
taken.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from statistics import mean

from pimc.backends.dma.banks import Refresh, RowTimes, delays
from pimc.backends.dma.block_traffic import busiest_of, nest_in_blocks, traffic_in_blocks
from pimc.backends.dma.refresh import FOLLOWED, MOMENTS, Losses, losses, of_one_rank, ranks_of, with_refresh
from pimc.backends.dma.stretches import Nest, cut, rows_of_block, stretches
from pimc.backends.dma.traffic import Memory, Traffic, accesses_of, split_run, traffic
from pimc.backends.dma.walk import walked
from pimc.backends.target import DramSpec
from pimc.ir.layout import Digit
from pimc.record import record

RUNS = 1 << 17
"""Stretches of rows that are told apart, of all channels together; of longer transfers as many."""
MOST, WALKED = 1 << 15, 1 << 17
"""Stretches that are walked through, of all channels or of the slowest, and from all begins together."""
LOOKED_AT = 4
"""Channels from which it is told whether bursts wait for their rows while only one rank is read."""
DEALS, DEALT = 8, 16
"""Shuffles of blocks that are followed, fewer if they have many stretches, and begins of all of them."""


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
    def in_turn(self) -> Refresh | None:
        """Refresh of one rank after the other."""
        if not self.interval or self.ranks == 1:
            return None
        return Refresh(self.ranks, self.rows.banks // self.ranks, self.interval, self.lasts)


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
def moving_ps(dram: Dram, digits: tuple[Digit, ...], element_bytes: int) -> int:
    """Picoseconds for which channels are at work on a loop nest of elements."""
    memory = dram.memory
    run, rest = split_run(digits, element_bytes, memory.access_bytes)
    if memory.hashed or (run <= memory.access_bytes and not rest):
        return dram.derated(dram.plain_ps(traffic(memory, digits, element_bytes)))
    return _nest_ps(dram, Nest(run, tuple(rest)))


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


@lru_cache(maxsize=65536)
def _nest_ps(dram: Dram, whole: Nest) -> int:
    """The same of runs of bytes; many loop nests of elements come to the same."""
    memory, refresh = dram.memory, dram.in_turn
    if not (whole.rest or whole.block) and whole.run <= memory.row_bytes * memory.channels:
        # a row of each channel at most
        bus = -(-min(whole.run, memory.row_bytes) // memory.access_bytes) * dram.rows.burst
        return dram.ps(of_one_rank(bus, refresh) if refresh else bus)
    part = cut(whole, memory, RUNS)
    if whole.block:
        deals = max(1, min(DEALS, 2 * MOST // (part.blocks * rows_of_block(part, memory))))
        bursts = busiest_of(memory, whole)
        told = [_part(dram, replace(part, deal=deal), part != whole, DEALT // deals) for deal in range(deals)]
        clocks = mean(each.clocks(bursts) for each in told)
    else:
        found = _part(dram, part, part != whole, MOMENTS)
        clocks = found.clocks(found.bursts if part == whole else busiest_of(memory, whole) * found.once)
    return dram.ps(clocks)


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

    def clocks(self, bursts: float) -> float:
        """Of a transfer whose busiest channel has so many bursts."""
        clocks = bursts * self.of_burst
        return self.lost.of(clocks) if self.lost else clocks


@lru_cache(maxsize=4096)
def _part(dram: Dram, nest: Nest, more: bool, begins: int) -> Told:
    """`more`: there is more of the transfer. It is walked through from so many begins, or fewer if it is long."""
    found, rows, refresh = stretches(nest, dram.memory), dram.rows, dram.in_turn
    bursts, once, late = int(found.totals.max()), found.once, delays(found, rows)
    if late is None and refresh is None:
        return Told(bursts, once, rows.burst)
    if late is None and refresh is not None:
        each = refresh.ranks_of(found.rows)
        ranks = ranks_of(found, each, refresh.ranks)
        if not ranks.quick or delays(found.split(each, LOOKED_AT), rows) is None:
            if more or bursts * rows.burst > FOLLOWED * refresh.apart:
                return Told(bursts, once, rows.burst, losses(ranks, rows, refresh))
            return Told(bursts, once, with_refresh(ranks, rows, refresh) / bursts)
    clocks = found.totals * rows.burst + (0 if late is None else late)
    slowest = sorted(found.unlike, key=lambda channel: -clocks[channel])
    found = found.of(slowest[: max(1, MOST * len(found.counts) // len(found.rows))])
    return Told(bursts, once, walked(found, rows, refresh, min(begins, WALKED // len(found.rows)), nest.deal) / bursts)
