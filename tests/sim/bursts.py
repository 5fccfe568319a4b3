"""A plain DRAM engine: every burst of a transfer by itself, with banks, rows, activations and refresh.

It is written from the standard's rules and shares no code with the copy engines. A channel knows `OUTSTANDING` bursts
ahead. It takes the oldest whose rank is not refreshed just now, and opens rows as soon as bank, tRRD, tFAW and refresh
allow it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import mean

from pimc.backends.target import DramSpec

OUTSTANDING = 64
"""Requests of a channel that are known ahead."""

Request = tuple[int, int]
"""Bank and row of a burst."""


@dataclass
class Bank:
    row: int = -1
    opened: int = -(10**9)
    """when its row was activated"""
    last: int = -(10**9)
    """when its last burst was read"""
    closed: int = -(10**9)
    """from when on it may be activated again"""


@dataclass
class Channel:
    dram: DramSpec
    phase: int | None = None
    """clocks since the last refresh of the last rank began; none: there has not been any"""
    writes: bool = False
    banks: dict[int, Bank] = field(default_factory=dict)
    acts: deque[int] = field(default_factory=lambda: deque([-(10**9)] * 4, maxlen=4))
    known: deque[int] = field(default_factory=lambda: deque([0] * OUTSTANDING, maxlen=OUTSTANDING))
    bus: int = 0

    def serve(self, requests: Iterable[Request]) -> int:
        """Bursts of banks and rows, as they are asked for. Clocks until the last one."""
        coming = iter(requests)
        waiting = list(islice(coming, OUTSTANDING))
        while waiting:
            free = (i for i, (bank, _) in enumerate(waiting) if not self._since_refresh(bank, self.bus)[1])
            self.read(*waiting.pop(next(free, 0)))
            waiting += islice(coming, 1)
        return self.bus

    def read(self, bank_number: int, row: int) -> None:
        """One burst. Times in clocks of the DRAM."""
        c, bank = self.dram.cycles, self.banks.setdefault(bank_number, Bank())
        known = self.known[0]
        if bank.row != row:
            after = c["nCWL"] + c["nBL"] + c["nWR"] if self.writes else c["nRTP"]
            closing = max(known, bank.opened + c["nRAS"], bank.last + after) if bank.row >= 0 else known
            at = max(closing + (c["nRP"] if bank.row >= 0 else 0), bank.closed)
            at = max(at, self.acts[-1] + c["nRRDS"], self.acts[0] + c["nFAW"])
            at = self._beside_refresh(bank_number, at)
            self.acts.append(at)
            bank.row, bank.opened = row, at
        at = max(known, bank.opened + c["nRCDWR" if self.writes else "nRCDRD"], self.bus)
        at = self._beside_refresh(bank_number, at)
        bank.last = at
        self.bus = at + c["nBL"]
        self.known.append(at)

    def _beside_refresh(self, bank_number: int, at: int) -> int:
        into, refreshed = self._since_refresh(bank_number, at)
        return at + self.dram.cycles["nRFC"] - into if refreshed else at

    def _since_refresh(self, bank_number: int, at: int) -> tuple[int, bool]:
        """Clocks since the last refresh of the bank's rank began, and whether it goes on.

        There is one every tREFI, for tRFC; ranks may have theirs one after the other.
        """
        c = self.dram.cycles
        rank = bank_number // (self.dram.banks // self.dram.ranks)
        apart = c["nREFI"] // self.dram.ranks if self.dram.refresh_order == "staggered-ranks" else 0
        since = at + (self.phase or 0) - (rank + 1) * apart
        into = since % c["nREFI"]
        return into, self.dram.refresh and (since >= 0 or self.phase is not None) and into < c["nRFC"]


def addresses(start: int, digits: Sequence[tuple[int, int]]) -> Iterator[int]:
    if not digits:
        yield start
        return
    (count, stride), *rest = digits
    for i in range(count):
        yield from addresses(start + i * stride, rest)


def requests(
    dram: DramSpec, digits: Sequence[tuple[int, int]], run: int, places: Iterable[int] = (0,)
) -> set[tuple[Request, ...]]:
    """What channels are asked for by runs of bytes at the turns of a loop nest; those that are asked for the same once.

    An access that the next run begins with, too, is asked for once. places: where the nest begins, one after the other.
    """
    found: list[list[Request]] = [[] for _ in range(dram.channels)]
    before = -1
    for start in (address for place in places for address in addresses(place, digits)):
        first, last = start // dram.access_bytes, (start + run - 1) // dram.access_bytes
        for access in range(first + (first == before), last + 1):
            row_number = access * dram.access_bytes // dram.row_bytes
            rest, channel = divmod(row_number, dram.channels)
            row, bank = divmod(rest, dram.banks)
            found[channel].append((bank, row))
        before = last
    return set(map(tuple, found))


def clocks(
    dram: DramSpec,
    digits: Sequence[tuple[int, int]],
    run: int,
    phases: Sequence[int | None] = (None,),
    *,
    writes: bool = False,
    places: Iterable[int] = (0,),
) -> float:
    """Clocks until the last burst of a transfer, on average over its begins in the refresh interval."""
    asked = requests(dram, digits, run, places)
    return mean(max(Channel(dram, phase, writes).serve(each) for each in asked) for phase in phases)
