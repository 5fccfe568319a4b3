"""The memory of NeuPIMs' simulator, written down a second time, plainly: every clock, every bank, every transaction.

It knows nothing of pimc: transactions of a driver go in, clocks come out. Rules and numbers are those of the published
simulator (HBM2, tCK 1 ns; what its code makes of them), in its own words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

Transaction = tuple[str, int, int, int]
"""Command, row, COMPs, results."""

RANKS, GROUPS, GROUP_BANKS = 2, 4, 4
BANKS = RANKS * GROUPS * GROUP_BANKS
RANK_BANKS = GROUPS * GROUP_BANKS
TRP, TRAS, TRCD, TRFC, TFAW, TRTP, TRRD_S, TRRD_L, GWRITE, ANSWER = 14, 34, 14, 260, 30, 5, 4, 6, 96, 16
TRC = TRAS + TRP
INTERVAL = 3900 // RANKS
PAGE, LANES, FIRST_ROW = 512, 16, 1024


# -- the driver -------------------------------------------------------------------------------------------------------


class Driver:
    """Makes the transactions of an operator; every tile takes the next row."""

    def __init__(self, mode: str) -> None:
        self.is_dual = mode == "dual"
        self.row = FIRST_ROW

    def job(self, op: str, sizes: tuple[int, ...]) -> Iterator[Transaction]:
        if op == "gemv":
            yield from self.gemv(*sizes)
        if op in ("logit", "mha"):
            yield from self.logit(*sizes)
        if op in ("attend", "mha"):
            yield from self.attend(*sizes)

    def gemv(self, k: int, n: int) -> Iterator[Transaction]:
        for start in range(0, k, PAGE):
            yield ("GWRITE", 0, 0, 0)
            for _ in range(0, n, BANKS):
                yield from self.tile(1, -(-min(PAGE, k - start) // LANES))

    def logit(self, heads: int, depth: int, tokens: int) -> Iterator[Transaction]:
        elements = heads * depth
        for start in range(0, elements, PAGE):
            yield ("GWRITE", 0, 0, 0)
            left = elements - start
            inside = PAGE // depth if left >= PAGE else -(-left // depth)
            for _ in range(0, tokens, BANKS):
                yield from self.tile(inside, -(-depth // LANES))

    def attend(self, heads: int, depth: int, tokens: int) -> Iterator[Transaction]:
        for _ in range(heads):
            for start in range(0, tokens, PAGE):
                yield ("GWRITE", 0, 0, 0)
                for _ in range(0, depth, BANKS):
                    yield from self.tile(1, -(-min(PAGE, tokens - start) // LANES))

    def tile(self, heads: int, comps: int) -> Iterator[Transaction]:
        above, below = 1, 1
        while above < comps * heads:
            above *= 2
        while below * 2 <= heads:
            below *= 2
        yield ("P_HEADER", self.row, above, below)
        for _ in range(heads):
            if self.is_dual:
                yield ("COMPS_READRES", self.row, comps, 0)
            else:
                yield from [("COMP", self.row, 0, 0)] * comps
                yield ("READRES", self.row, 0, 0)
        self.row += 1


# -- the memory -------------------------------------------------------------------------------------------------------


@dataclass
class Bank:
    """Open rows (a single row buffer is both), and when each command is allowed again."""

    normal: int | None = None
    pim: int | None = None
    allowed: dict[str, int] = field(default_factory=dict)

    def may(self, command: str, clk: int) -> bool:
        return clk >= self.allowed.get(command, 0)

    def impose(self, clk: int, **gaps: int) -> None:
        for command, gap in gaps.items():
            self.allowed[command] = max(self.allowed.get(command, 0), clk + gap)


class Memory:
    """One channel and its controller."""

    def __init__(self, mode: str) -> None:
        self.is_dual = mode == "dual"
        self.banks = [Bank() for _ in range(BANKS)]
        self.queue: deque[Transaction] = deque()
        self.gwriting_until: int | None = None
        self.is_gwriting = self.is_skipping = False
        self.first_comp = True
        self.pending: deque[int] = deque()
        self.next_rank = 0
        self.last_answer = 0

    def run(self, transactions: Iterator[Transaction]) -> int:
        """Offer two transactions a cycle; the cycles until the last answer is seen."""
        fifo, waiting, clk = deque(transactions), deque[Transaction](), 0
        while fifo or waiting or self.queue:
            for _ in range(2):
                if fifo and len(waiting) < 32:
                    waiting.append(fifo.popleft())
            self.tick(clk)
            if waiting and len(self.queue) < 128:
                self.queue.append(waiting.popleft())
            clk += 1
        return self.last_answer + 1

    def tick(self, clk: int) -> None:
        if clk and clk % INTERVAL == 0:
            self.pending.append(self.next_rank)
            self.next_rank = (self.next_rank + 1) % RANKS
        if self.gwriting_until is not None and clk >= self.gwriting_until:
            self.is_gwriting, self.gwriting_until = False, None
        if self.pending:
            self.refresh(clk)
        elif self.queue and not self.is_skipping and self.gwriting_until is None:
            command, row, comps, results = self.queue[0]
            if command == "GWRITE":
                done = self.gwrite(clk, row)
            elif command == "P_HEADER":
                done = self.header(clk, row, comps, results)
            else:
                done = self.work(clk, command, row, comps)
            if done:
                self.queue.popleft()

    def rank_of(self, bank: int) -> list[Bank]:
        first = bank // RANK_BANKS * RANK_BANKS
        return self.banks[first : first + RANK_BANKS]

    def group_of(self, bank: int) -> list[Bank]:
        first = bank // GROUP_BANKS * GROUP_BANKS
        return self.banks[first : first + GROUP_BANKS]

    def close(self, clk: int, bank: Bank, *, pim: bool) -> bool:
        """Close a row buffer of a bank, if that is allowed."""
        command = "PIM_PRECHARGE" if pim and self.is_dual else "PRECHARGE"
        if not bank.may(command, clk):
            return False
        if pim and self.is_dual:
            bank.pim = None
            bank.impose(clk, G_ACT=TRP, REFRESH=TRP)
        else:
            bank.normal = None
            if not self.is_dual:
                bank.pim = None
            bank.impose(clk, ACTIVATE=TRP, REFRESH=TRP)
        return True

    def refresh(self, clk: int) -> None:
        rank = self.rank_of(self.pending[0] * RANK_BANKS)
        for bank in rank:
            is_open = bank.normal is not None or bank.pim is not None
            if is_open and self.close(clk, bank, pim=bank.normal is None):
                return
        if all(b.normal is None and b.pim is None and b.may("REFRESH", clk) for b in rank):
            for bank in rank:
                bank.impose(clk, ACTIVATE=TRFC, G_ACT=TRFC)
            self.pending.popleft()
            self.is_skipping = False

    def fits(self, clk: int, estimate: int) -> bool:
        left = INTERVAL - (clk + 1) % INTERVAL
        self.is_skipping = estimate >= left
        return not self.is_skipping

    def gwrite(self, clk: int, row: int) -> bool:
        bank = self.banks[0]
        if not self.is_gwriting:
            estimate = GWRITE
            if bank.normal != row:
                estimate += TRP + TRCD + (TRTP if bank.normal is not None else 0)
            if not self.fits(clk, estimate):
                return False
            self.is_gwriting = True
        if bank.normal is None:
            if bank.may("ACTIVATE", clk):
                bank.normal = row
                if not self.is_dual:
                    bank.pim = row
                bank.impose(clk, ACTIVATE=TRC, GWRITE=TRCD, PRECHARGE=TRAS)
                for other in self.rank_of(0):
                    other.impose(clk, ACTIVATE=TRRD_S, G_ACT=TRRD_S)
                for other in self.group_of(0):
                    other.impose(clk, ACTIVATE=TRRD_L, G_ACT=TRRD_L)
                if not self.is_dual:
                    bank.impose(clk, G_ACT=TRC)
        elif bank.normal != row:
            self.close(clk, bank, pim=False)
        elif bank.may("GWRITE", clk):
            self.gwriting_until = clk + GWRITE
            bank.impose(clk, PRECHARGE=GWRITE)
            for other in self.banks:
                other.impose(clk, COMP=GWRITE, COMPS_READRES=GWRITE, READRES=GWRITE)
            self.last_answer = max(self.last_answer, clk + GWRITE)
            return True
        return False

    def header(self, clk: int, row: int, comps: int, results: int) -> bool:
        groups = [self.banks[i : i + GROUP_BANKS] for i in range(0, BANKS, GROUP_BANKS)]
        to_open = [g for g in groups if any(b.pim != row for b in g)]
        to_close = sum(b.pim is not None and b.pim != row for g in to_open for b in g)
        estimate = TRTP * to_close + TRCD + 2 * max(comps, 6) + 2 * (results - 1)
        estimate += TFAW * (len(to_open) // 2 - 1) if to_open else 0
        if not self.fits(clk, estimate):
            return False
        waits = False
        for bank in self.banks:
            if bank.pim is not None and bank.pim != row:
                waits = True
                if self.close(clk, bank, pim=True):
                    return False
        return not waits

    def work(self, clk: int, command: str, row: int, comps: int) -> bool:
        closed = [i for i, b in enumerate(self.banks) if b.pim is None]
        for i in closed:
            if self.banks[i].may("G_ACT", clk):
                self.open_group(clk, i, row)
                return False
        if closed or not all(b.may(command, clk) for b in self.banks):
            return False
        for bank in self.banks:
            if command == "COMPS_READRES":
                bank.impose(clk, COMPS_READRES=2 * (max(comps, 6) + 1), PIM_PRECHARGE=TRTP, GWRITE=2)
            elif command == "COMP":
                bank.impose(clk, COMP=2, READRES=6 if self.first_comp else 2, PRECHARGE=TRTP, GWRITE=2)
            else:
                bank.impose(clk, COMP=2, READRES=2, PRECHARGE=TRTP, GWRITE=2, G_ACT=TRTP + TRP)
        self.first_comp = command == "READRES"
        if command != "COMP":
            self.last_answer = max(self.last_answer, clk + ANSWER)
        return True

    def open_group(self, clk: int, bank: int, row: int) -> None:
        for other in self.rank_of(bank):
            other.impose(clk, ACTIVATE=TFAW, G_ACT=TFAW, COMP=TRCD, COMPS_READRES=TRCD)
        for other in self.group_of(bank):
            other.pim = row
            if self.is_dual:
                other.impose(clk, ACTIVATE=TRRD_L, PIM_PRECHARGE=TRAS, G_ACT=TRC)
            else:
                other.normal = row
                other.impose(clk, ACTIVATE=TRC, G_ACT=TRC)


def cycles(mode: str, op: str, sizes: tuple[int, ...]) -> int:
    """Of an operator on one channel, fresh memory, nothing else going on."""
    return Memory(mode).run(Driver(mode).job(op, sizes))
