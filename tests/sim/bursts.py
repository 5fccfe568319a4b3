"""A plain DRAM engine: every burst of a transfer by itself, with banks, rows, activations and refresh.

It is written from the standard's rules and shares no code with the copy engines. Bursts of a channel go in order; rows
are opened ahead of them, as far as `OUTSTANDING` bursts on, where the bank, tRRD, tFAW and refresh allow it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pimc.backends.target import DramSpec

OUTSTANDING = 64
"""Requests of a channel that are known ahead."""


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
    banks: dict[int, Bank] = field(default_factory=dict)
    acts: deque[int] = field(default_factory=lambda: deque([-(10**9)] * 4, maxlen=4))
    known: deque[int] = field(default_factory=lambda: deque([0] * OUTSTANDING, maxlen=OUTSTANDING))
    bus: int = 0

    def read(self, bank_number: int, row: int) -> None:
        """One burst. Times in clocks of the DRAM."""
        c, bank = self.dram.cycles, self.banks.setdefault(bank_number, Bank())
        known = self.known[0]
        if bank.row != row:
            closing = max(known, bank.opened + c["nRAS"], bank.last + c["nRTP"]) if bank.row >= 0 else known
            at = max(closing + (c["nRP"] if bank.row >= 0 else 0), bank.closed)
            at = max(at, self.acts[-1] + c["nRRDS"], self.acts[0] + c["nFAW"])
            at = self._beside_refresh(bank_number, at)
            self.acts.append(at)
            bank.row, bank.opened = row, at
        at = max(known, bank.opened + c["nRCDRD"], self.bus)
        at = self._beside_refresh(bank_number, at)
        bank.last = at
        self.bus = at + c["nBL"]
        self.known.append(at)

    def _beside_refresh(self, bank_number: int, at: int) -> int:
        """Not while the bank's rank is refreshed: every tREFI for tRFC, ranks one after the other."""
        if not self.dram.refresh:
            return at
        c = self.dram.cycles
        rank = bank_number // (self.dram.banks // self.dram.ranks)
        apart = c["nREFI"] // self.dram.ranks if self.dram.refresh_order == "staggered-ranks" else 0
        into = (at - (rank + 1) * apart) % c["nREFI"]
        return at + c["nRFC"] - into if into < c["nRFC"] and at >= (rank + 1) * apart else at


def addresses(start: int, digits: Sequence[tuple[int, int]]) -> Iterator[int]:
    if not digits:
        yield start
        return
    (count, stride), *rest = digits
    for i in range(count):
        yield from addresses(start + i * stride, rest)


def clocks(dram: DramSpec, digits: Sequence[tuple[int, int]], run: int) -> int:
    """Clocks until the last burst of a transfer of runs of bytes at the turns of a loop nest."""
    channels = [Channel(dram) for _ in range(dram.channels)]
    for start in addresses(0, digits):
        first, last = start // dram.access_bytes, (start + run - 1) // dram.access_bytes
        for access in range(first, last + 1):
            row_number = access * dram.access_bytes // dram.row_bytes
            rest, channel = divmod(row_number, dram.channels)
            row, bank = divmod(rest, dram.banks)
            channels[channel].read(bank, row)
    return max(c.bus for c in channels)
