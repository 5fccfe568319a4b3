"""One channel with dual row buffers on which normal reads share the command bus with PIM work, clock by clock.

PIM work comes first. In clocks in which its next command cannot be issued, a normal one may go, as long as there is
slack: clocks between the end of the PIM work, as estimated when it was announced, and the next refresh. Banks take
turns; of one bank the oldest read goes first, but for a few of the row that is open. The rules are those of
`newton_channel.py` (which looks at PIM work alone, and jumps), written down per bank: without reads both give the same
clocks.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

from pimc.backends.pim.issues import IssueSink
from pimc.backends.pim.newton_channel import LONG_AGO, Done, power_above, power_below
from pimc.backends.pim.newton_rules import Rules
from pimc.record import record

FIRST_ROW = 20000
"""Reads count through the accesses of a row, banks and rows, from this row on."""
MOST_ACTIVATES = 4
"""Banks that may be opened within tFAW."""
MOST_ON_THEIR_WAY = 256
"""More reads than can be issued between a PIM command and its completion."""


@record
class Work:
    """A PIM command that waits for its turn."""

    name: str
    row: int
    bank: int = 0
    comps: int = 0
    results: int = 0


class Reads:
    """Reads on their way to the banks: so many are offered in every clock as long as there is room."""

    def __init__(self, rules: Rules, per_clock: int) -> None:
        self.rules = rules
        self.per_clock = per_clock
        self.banks = rules.ranks * rules.groups * rules.group_banks
        self.offered = 0
        self.waiting: deque[tuple[int, int]] = deque()
        self.queues: list[deque[int]] = [deque() for _ in range(self.banks)]
        """rows, by bank"""

    def offer(self) -> None:
        room = self.rules.sharing.transactions - len(self.waiting)
        for _ in range(min(self.per_clock, room)):
            turn, bank = divmod(self.offered // self.rules.row_accesses, self.banks)
            self.waiting.append((bank, (FIRST_ROW + turn) % self.rules.rows))
            self.offered += 1

    def queue_one(self) -> None:
        """The oldest read for whose bank there is room becomes a command."""
        for i, (bank, row) in enumerate(self.waiting):
            if len(self.queues[bank]) < self.rules.sharing.bank_commands:
                self.queues[bank].append(row)
                del self.waiting[i]
                return


class SharedChannel:
    """Issues a stream's commands in order, and normal reads beside them."""

    def __init__(self, rules: Rules, per_clock: int) -> None:
        self.rules = rules
        self.reads = Reads(rules, per_clock)
        self.banks = self.reads.banks
        self.rank_banks = self.banks // rules.ranks
        self.normal: list[int | None] = [None] * self.banks
        self.pim: list[int | None] = [None] * self.banks
        """rows that are open in the row buffers of both kinds, by bank"""
        self.hits = [0] * self.banks
        self.act_from, self.read_from, self.pre_from, self.gwrite_from, self.gact_from, self.pim_pre_from = (
            [LONG_AGO] * self.banks for _ in range(6)
        )
        """the first clock at which each command is allowed, by bank"""
        self.refresh_from = [LONG_AGO] * self.banks
        self.comps_from = LONG_AGO
        self.activated: list[deque[int]] = [deque(maxlen=MOST_ACTIVATES) for _ in range(rules.ranks)]
        """clocks of the last ACTIVATEs of each rank"""
        self.returning: deque[int] = deque(maxlen=2)
        """clocks of the last READRES that the banks execute for a composite command"""
        self.now = 0
        self.turn = self.banks - 1
        """the bank that had a turn last"""
        self.due = rules.interval
        self.next_rank = 0
        self.refreshing: deque[int] = deque()
        """ranks that must be refreshed now"""
        self.is_skipping = False
        """PIM work waits until after the refresh"""
        self.slack = 0
        self.reserved: int | None = None
        """the row that PIM works on next"""
        self.source: int | None = None
        """the bank that a GWRITE reads"""
        self.source_until: int | None = None
        self.taken = 2
        """PIM commands that are queued before the next read is"""
        self.cause = ""
        self.read_clocks: deque[int] = deque(maxlen=MOST_ON_THEIR_WAY)
        """when the last reads were issued"""
        self.counts: Counter[str] = Counter()
        self.issues: IssueSink | None = None

    # -- commands of the stream ---------------------------------------------------------------------------------------

    def global_write(self, bank: int, row: int, at: int) -> Done:
        rules = self.rules
        t = self._until_issued(Work("GWRITE", row, bank), at)
        return Done(t, t + 1, t + rules.gwrite + rules.answer, rules.gwrite, self.cause)

    def header(self, row: int, comps: int, results: int, at: int) -> Done:
        t = self._until_issued(Work("HEADER", row, comps=comps, results=results), at)
        return Done(t, t + 1, t + 1, 1, self.cause)

    def compute_and_read(self, row: int, count: int, at: int) -> Done:
        rules = self.rules
        t = self._until_issued(Work("COMPS_READRES", row, comps=count), at)
        work = rules.comp * max(count, rules.least)
        done = t + (work if rules.switches.results_wait_for_macs else 0) + rules.read + rules.answer
        return Done(t, t + 1, done, work, self.cause)

    def _until_issued(self, work: Work, at: int) -> int:
        """Step until a PIM command, offered at a clock, is issued; that clock."""
        self.cause = ""
        self.idle_until(max(at, 1))
        while not self._clock(work):
            pass
        return self.now - 1

    def idle_until(self, clock: int) -> None:
        """Step through the clocks before one, without PIM work."""
        while self.now < clock:
            self._clock(None)

    def served(self, clock: int) -> int:
        """Reads whose data have come before a clock."""
        late = sum(t + self.rules.read + self.rules.answer > clock for t in self.read_clocks)
        return self.counts["READ"] - late

    # -- one clock ----------------------------------------------------------------------------------------------------

    def _clock(self, work: Work | None) -> bool:
        """Step through one clock; whether the PIM command was issued in it."""
        t = self.now
        self.now += 1
        self.reads.offer()
        if self.due and t >= self.due:
            self.refreshing.append(self.next_rank)
            self.next_rank = (self.next_rank + 1) % self.rules.ranks
            self.due += self.rules.interval
        if self.source_until is not None and t >= self.source_until:
            self.source = self.source_until = None
            self.slack = 0
        is_issued = self._choose(t, work)
        self.taken += is_issued
        if self.taken:
            self.taken -= 1
        else:
            self.reads.queue_one()
        return is_issued

    def _choose(self, t: int, work: Work | None) -> bool:
        if self.refreshing:
            self.cause = "refresh"
            if not self._refresh(t):
                self._read(t, work)
            return False
        if work is not None and not self.is_skipping:
            before = self.counts.total()
            if self._advance(t, work):
                return True
            if self.counts.total() > before:
                self.cause = self.cause or "row"
                return False
            if self.slack < self.rules.sharing.least_slack:
                return False
        self._read(t, work)
        return False

    def _advance(self, t: int, work: Work) -> bool:
        """Issue a PIM command, or the next of what must come before it, if that is allowed; whether it was issued."""
        if work.name == "GWRITE":
            return self._global_write(t, work)
        if self.source is not None:
            return False
        if work.name == "HEADER":
            return self._header(t, work)
        return self._comps(t, work)

    # -- PIM ----------------------------------------------------------------------------------------------------------

    def _global_write(self, t: int, work: Work) -> bool:
        if self.source_until is not None:
            return False
        bank, rules = work.bank, self.rules
        if self.source is None:
            opened = self.normal[bank]
            extra = 0 if opened == work.row else rules.trp + rules.trcd + (rules.trtp if opened is not None else 0)
            if not self._fits(t, rules.gwrite + extra):
                return False
            self.source = bank
        if self.normal[bank] is None:
            if self.pim[bank] == work.row:
                self._pim_precharge(t, bank)
            else:
                self._activate(t, bank, work.row)
        elif self.normal[bank] != work.row:
            self._precharge(t, bank)
        elif t >= self.gwrite_from[bank]:
            self._tell(t, "GWRITE", bank, work.row)
            end = t + rules.gwrite
            self.source_until = end
            self.pre_from[bank] = max(self.pre_from[bank], end)
            self._later(self.gwrite_from, end, range(self.banks))
            self.comps_from = max(self.comps_from, end)
            self._after_column(t, bank, self._gwrite_apart)
            self.read_from[bank] = max(self.read_from[bank], end)
            return True
        return False

    def _header(self, t: int, work: Work) -> bool:
        if not self._fits(t, self._estimate(work)):
            return False
        self.reserved = work.row
        waits = False
        for bank in range(self.banks):
            opened = self.pim[bank]
            if opened == work.row:
                continue
            if opened is not None:
                waits = True
                if self._pim_precharge(t, bank):
                    return False
            elif self.normal[bank] == work.row:
                waits = True
                if self._precharge(t, bank):
                    return False
        return not waits

    def _estimate(self, work: Work) -> int:
        """Clocks of the work on a row, as a header announces it."""
        rules = self.rules
        precharges = groups = 0
        for first in self._groups():
            rows = self.pim[first : first + rules.group_banks]
            if any(row != work.row for row in rows):
                groups += 1
                precharges += sum(row is not None and row != work.row for row in rows)
        estimate = rules.trtp * precharges + rules.trcd + rules.comp * max(power_above(work.comps), rules.least)
        estimate += rules.twindow * (groups // 2 - 1) if groups else 0
        return estimate + 2 * (power_below(work.results) - 1)

    def _fits(self, t: int, estimate: int) -> bool:
        """Whether work that begins now is over before the next refresh; what is left is slack for normal commands."""
        interval = self.rules.interval
        left = self.due - (t + 1) if interval else 1 << 40
        self.slack = max(0, left - estimate)
        if self.rules.switches.refresh_guard and interval and left <= estimate < interval:
            self.is_skipping = True
            self.cause = "refresh"
        return not self.is_skipping

    def _comps(self, t: int, work: Work) -> bool:
        rules = self.rules
        waits = False
        for first in self._groups():
            banks = range(first, first + rules.group_banks)
            if all(self.pim[b] == work.row for b in banks):
                continue
            waits = True
            other = [b for b in banks if self.pim[b] is not None]
            same = [b for b in banks if self.normal[b] == work.row]
            if any(self._pim_precharge(t, b) for b in other) or any(self._precharge(t, b) for b in same):
                return False
            if not other and not same and self._group_activate(t, first, work.row):
                return False
        if waits or t < self.comps_from:
            return False
        macs = rules.comp * max(work.comps, rules.least)
        self._tell(t, "COMPS_READRES", None, work.row)
        self._tell(t, "COMP", None, work.row, work.comps, rules.comp)  # what the banks execute for it
        if self.issues is not None:
            self.issues(t + macs, 0, "READRES")
        switches = rules.switches
        self.comps_from = t + macs + rules.comp
        closed = t + (macs if switches.precharge_waits_for_macs else 0) + rules.trtp
        self._later(self.pim_pre_from, closed, range(self.banks))
        filled = t + (macs if switches.gwrite_waits_for_macs else 0) + rules.turn
        self._later(self.gwrite_from, filled, range(self.banks))
        self._later(self.read_from, t + rules.column_rank, range(self.banks))
        if switches.results_wait_for_macs:
            self.returning.append(t + macs)
        return True

    def _group_activate(self, t: int, first: int, row: int) -> bool:
        rules = self.rules
        banks = range(first, first + rules.group_banks)
        if any(t < self.gact_from[b] for b in banks):
            return False
        self._tell(t, "G_ACT", first, row)
        rank = self._rank_of(first)
        for b in banks:
            self.pim[b] = row
        self._later(self.pim_pre_from, t + rules.tras, banks)
        self._later(self.gact_from, t + rules.tras + rules.trp, banks)
        self._later(self.gact_from, t + rules.twindow, rank)
        self._later(self.act_from, t + max(rules.twindow, rules.trrd_same), rank)
        self.comps_from = max(self.comps_from, t + rules.trcd)
        return True

    def _pim_precharge(self, t: int, bank: int) -> bool:
        if t < self.pim_pre_from[bank]:
            return False
        self._tell(t, "PIM_PRECHARGE", bank)
        self.pim[bank] = None
        self._later(self.gact_from, t + self.rules.trp, [bank])
        self._later(self.refresh_from, t + self.rules.trp, [bank])
        return True

    # -- normal commands -----------------------------------------------------------------------------------------------

    def _read(self, t: int, work: Work | None) -> bool:
        """Let one normal command go: a read, or what it needs. Banks take turns."""
        busy = self._rank_of(self.refreshing[0] * self.rank_banks) if self.refreshing else range(0)
        for i in range(1, self.banks + 1):
            bank = (self.turn + i) % self.banks
            queue = self.reads.queues[bank]
            if not queue or bank in busy or bank == self.source:
                continue
            if self._serve(t, bank, queue, work):
                self.turn = bank
                return True
        return False

    def _serve(self, t: int, bank: int, queue: deque[int], work: Work | None) -> bool:
        row, opened = queue[0], self.normal[bank]
        if row == self.reserved:
            return False
        if opened is None:
            return (
                self._affords(self.rules.trcd, 1, work) and self._activate(t, bank, row) and self._pay(self.rules.trcd)
            )
        if row != opened:
            if self.hits[bank] >= self.rules.sharing.row_hits or opened not in queue:
                return self._affords(self.rules.trp, 2, work) and self._precharge(t, bank) and self._pay(self.rules.trp)
            row = opened
        if t < self.read_from[bank] or self._collides(t):
            return False
        queue.remove(row)
        self.hits[bank] += 1
        self._tell(t, "READ", bank, row)
        self._after_column(t, bank, self.rules.column_rank)
        self._later(self.pre_from, t + self.rules.trtp, [bank])
        self.read_clocks.append(t)
        return True

    def _affords(self, clocks: int, times: int, work: Work | None) -> bool:
        """Whether a normal command may take so many clocks of the slack (`times`: with those that follow from it)."""
        return work is None or not self.slack or self.slack > clocks * times

    def _pay(self, clocks: int) -> bool:
        self.slack = max(0, self.slack - clocks)
        return True

    def _collides(self, t: int) -> bool:
        """Whether the data of a read would come with the results that the banks return."""
        return any(abs(t - other) < self.rules.burst for other in self.returning)

    def _activate(self, t: int, bank: int, row: int) -> bool:
        rules, rank = self.rules, self._rank_of(bank)
        window = self.activated[rank.start // self.rank_banks]
        is_full = len(window) == MOST_ACTIVATES and t < window[0] + rules.twindow
        if t < self.act_from[bank] or is_full or self.pim[bank] == row:
            return False
        self._tell(t, "ACTIVATE", bank, row)
        window.append(t)
        self.normal[bank] = row
        self.hits[bank] = 0
        for column in (self.read_from, self.gwrite_from):
            self._later(column, t + rules.trcd, [bank])
        self._later(self.pre_from, t + rules.tras, [bank])
        self._later(self.act_from, t + rules.tras + rules.trp, [bank])
        apart = rules.twindow if rules.switches.counts_activates else rules.trrd_other
        for opening, other in ((self.act_from, rules.trrd_other), (self.gact_from, apart)):
            self._later(opening, t + other, rank)
            self._later(opening, t + rules.trrd_same, self._group_of(bank))
        return True

    def _precharge(self, t: int, bank: int) -> bool:
        if t < self.pre_from[bank]:
            return False
        self._tell(t, "PRECHARGE", bank)
        self.normal[bank] = None
        self._later(self.act_from, t + self.rules.trp, [bank])
        self._later(self.refresh_from, t + self.rules.trp, [bank])
        return True

    @property
    def _gwrite_apart(self) -> int:
        """Clocks between GWRITE and reads of another rank."""
        return self.rules.burst if self.rules.switches.gwrite_spans_ranks else 0

    def _after_column(self, t: int, bank: int, other_ranks: int) -> None:
        """What comes after a row buffer has been read; other_ranks: clocks to reads of those."""
        rules, rank = self.rules, self._rank_of(bank)
        for first in range(0, self.banks, self.rank_banks):
            is_own = first == rank.start
            read, gwrite = (rules.column_other,) * 2 if is_own else (other_ranks, self._gwrite_apart)
            banks = self._rank_of(first)
            self._later(self.read_from, t + read, banks)
            self._later(self.gwrite_from, t + gwrite, banks)
        self._later(self.read_from, t + rules.column_same, self._group_of(bank))
        self.comps_from = max(self.comps_from, t + rules.column_other)

    # -- refresh ------------------------------------------------------------------------------------------------------

    def _refresh(self, t: int) -> bool:
        """Close the banks of the rank that is due, and refresh it; whether a command was issued."""
        banks = self._rank_of(self.refreshing[0] * self.rank_banks)
        for bank in banks:
            if self.normal[bank] is not None:
                if self._precharge(t, bank):
                    return True
            elif self.pim[bank] is not None and self._pim_precharge(t, bank):
                return True
        if any(self.normal[b] is not None or self.pim[b] is not None or t < self.refresh_from[b] for b in banks):
            return False
        self._tell(t, "REFRESH", banks.start)
        for opening in (self.act_from, self.gact_from, self.refresh_from):
            self._later(opening, t + self.rules.refresh, banks)
        self.refreshing.popleft()
        self.is_skipping = False
        self.slack = 0
        self.reserved = None
        return True

    # -- banks --------------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[int]:
        """The first bank of each group that one G_ACT opens."""
        yield from range(0, self.banks, self.rules.group_banks)

    def _group_of(self, bank: int) -> range:
        first = bank // self.rules.bank_group * self.rules.bank_group
        return range(first, first + self.rules.bank_group)

    def _rank_of(self, bank: int) -> range:
        first = bank // self.rank_banks * self.rank_banks
        return range(first, first + self.rank_banks)

    @staticmethod
    def _later(moments: list[int], clock: int, banks: Iterable[int]) -> None:
        for bank in banks:
            if moments[bank] < clock:
                moments[bank] = clock

    def _tell(
        self,
        at: int,
        name: str,
        bank: int | None = None,
        row: int | None = None,
        count: int = 1,
        period: int = 1,
    ) -> None:
        """Count commands, and tell of them: `count` equal ones, every `period` clocks."""
        self.counts[name] += count
        if self.issues is not None:
            self.issues(at, 0, name, bank, row, count, period)
