"""How long a memory's channels are at work on a strided transfer, refresh included.

What channels read is found by `stretches.py`, how long that takes without refresh by `banks.py`. Refresh of all banks
at once takes its part of the time; refresh of one rank after the other what `refresh.py` finds. Long transfers are told
by a part of them. Where a hash spreads accesses, rows and banks are not known, and the bursts of an even share are
taken.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pimc.backends.dma.banks import RowTimes, pace
from pimc.backends.dma.block_traffic import busiest_of, nest_in_blocks, traffic_in_blocks
from pimc.backends.dma.refresh import FOLLOWED, Losses, Refresh, losses, with_refresh
from pimc.backends.dma.stretches import Nest, cut, rows_of_block, stretches
from pimc.backends.dma.traffic import Memory, Traffic, accesses_of, split_run, traffic
from pimc.backends.target import DramSpec
from pimc.ir.layout import Digit
from pimc.record import record

MOST = 1 << 14
"""Stretches of rows that are looked at, of all channels together; of longer transfers as many."""


FEW, DEALS = MOST, 4
"""Stretches of blocks of which not one shuffle is looked at, but as many as that, up to so many."""


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

    @property
    def in_turn(self) -> Refresh | None:
        """Refresh of one rank after the other."""
        if not self.interval or self.ranks == 1:
            return None
        return Refresh(self.ranks, self.rows.banks // self.ranks, self.interval / self.ranks, self.lasts, self.rows)


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
    return _dealt_ps(dram, nest)


def chosen_ps(dram: Dram, row: tuple[Digit, ...], element_bytes: int, count: int, table: Digit) -> int:
    """The same of so many rows of elements that indices choose from a table's."""
    memory = dram.memory
    if memory.hashed:
        accesses = count * accesses_of(memory, row, element_bytes)
        return dram.derated(-(-accesses // memory.channels) * dram.rows.burst * dram.clock_ps)
    run, rest = split_run(row, element_bytes, memory.access_bytes)
    return _dealt_ps(dram, Nest(run, tuple(rest), count, table[1], table[0]))


def _dealt_ps(dram: Dram, nest: Nest) -> int:
    """The same of blocks that lie anywhere."""
    deals = max(1, min(DEALS, FEW // (nest.blocks * rows_of_block(nest, dram.memory))))
    return sum(_nest_ps(dram, replace(nest, deal=deal)) for deal in range(deals)) // deals


@lru_cache(maxsize=65536)
def _nest_ps(dram: Dram, whole: Nest) -> int:
    """The same of runs of bytes; many loop nests of elements come to the same."""
    memory, refresh = dram.memory, dram.in_turn
    if not (whole.rest or refresh or whole.block) and whole.run <= memory.row_bytes * memory.channels:
        # a row of each channel at most
        bursts = -(-min(whole.run, memory.row_bytes) // memory.access_bytes)
        return dram.derated(bursts * dram.rows.burst * dram.clock_ps)
    part = cut(whole, memory, MOST)
    if part == whole:
        found = stretches(whole, memory)
        paced = pace(found, dram.rows)
        clocks = float(paced.busy.max())
        if refresh and clocks <= FOLLOWED * refresh.apart:
            return round(with_refresh(found, paced, refresh) * dram.clock_ps)
        lost = losses(found, paced, refresh) if refresh else None
    else:
        of_burst, lost = _part(dram, part)
        clocks = busiest_of(memory, whole) * of_burst
    if refresh and lost:
        return round(lost.of(clocks, refresh) * dram.clock_ps)
    return dram.derated(round(clocks * dram.clock_ps))


@lru_cache(maxsize=4096)
def _part(dram: Dram, nest: Nest) -> tuple[float, Losses | None]:
    """Clocks of a burst of the busiest channel, and what refreshes cost, of longer transfers."""
    found = stretches(nest, dram.memory)
    paced = pace(found, dram.rows)
    of_burst = float(paced.busy.max()) / int(found.totals.max()) * found.once
    return of_burst, losses(found, paced, dram.in_turn) if dram.in_turn else None
