"""One channel of Newton-style PIM memory: which DRAM commands a stream's commands bring about, and when.

The controller derives activations (G_ACT, one bank group at a time), precharges and refreshes. All banks of a rank have
the same row in their PIM row buffers, or none. Ranks are refreshed in turns, one every tREFI / ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace

from pimc.backends.pim.issues import TRAFFIC, IssueSink
from pimc.backends.pim.newton_rules import Rules
from pimc.record import record

LONG_AGO = -(1 << 40)
REACH = 4096
"""Clocks after which no command matters any more."""


@dataclass(slots=True)
class Rank:
    """Row buffers of one rank."""

    first: int
    """its first bank"""
    row: int | None
    """open in the PIM row buffers of all banks"""
    acts: list[int]
    """last G_ACT of each group"""
    precharged: list[int]
    """last precharge of a bank of each group"""
    refreshed: int
    """when rows may be opened after a refresh"""
    normal: dict[int, int]
    """rows that are open in normal row buffers, by bank of the rank"""
    normal_act: int = LONG_AGO
    normal_bank: int = 0

    def relative(self, now: int) -> Hashable:
        seen = [
            t - now if t > now - REACH else LONG_AGO
            for t in (*self.acts, *self.precharged, self.refreshed, self.normal_act)
        ]
        return self.row, tuple(seen), tuple(sorted(self.normal.items())), self.normal_bank

    def shift(self, by: int) -> None:
        self.acts = [t + by for t in self.acts]
        self.precharged = [t + by for t in self.precharged]
        self.refreshed += by
        self.normal_act += by


Closing = tuple[int, Rank, int, int, bool]
"""Row buffers to close: from which clock on, their rank, first bank of the rank, how many, whether normal ones."""
MIXED = -1
"""The row of a rank of single row buffers that do not all have the same row open."""


@record
class Done:
    """One command of the stream, in clocks: the start of its work, when the next may be offered, its completion."""

    first: int
    free: int
    done: int
    busy: int
    """how long the banks (or the row buffer) work on it"""
    cause: str = ""


class NewtonChannel:
    """Issues a stream's commands, in order."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        groups = rules.groups
        self.ranks = [
            Rank(i * groups * rules.group_banks, None, [LONG_AGO] * groups, [LONG_AGO] * groups, LONG_AGO, {})
            for i in range(rules.ranks)
        ]
        self.now = 0
        self.due = rules.interval
        self.next_rank = 0
        self.compute_free = LONG_AGO
        """when the next COMP may be issued"""
        self.read_free = LONG_AGO
        """when a READRES may be issued"""
        self.precharge_free = LONG_AGO
        """when a PIM row may be closed"""
        self.vector_free = LONG_AGO
        """when GWRITE lets go of the channel"""
        self.gwrite_free = LONG_AGO
        self.is_filling = True
        """the next COMP is the first after a READRES"""
        self.counts: Counter[str] = Counter()
        self.issues: IssueSink | None = None

    # -- commands of the stream ---------------------------------------------------------------------------------------

    def global_write(self, bank: int, row: int, at: int) -> Done:
        """Open the row in the normal row buffer of the bank, and take it into the global buffer."""
        rules, cause = self.rules, ""
        number, inside = divmod(bank, rules.groups * rules.group_banks)
        rank = self.ranks[number]
        t = max(at, self.now + 1, self.vector_free)
        while True:
            open_row = rank.normal.get(inside, None if rules.is_dual else rank.row)
            extra = 0 if open_row == row else rules.trp + rules.trcd + (rules.trtp if open_row is not None else 0)
            if not self._refresh_first(t + 1, rules.gwrite + extra if rules.switches.refresh_guard else 0):
                break
            cause, t = "refresh", max(t, self.now + 1)
        if rules.is_dual and rank.row == row:  # a row is open in one of the two row buffers only
            self._precharge(self._to_precharge(None, [rank], normal=False), t)
            t = max(t, self.now + 1)
        if open_row != row:
            t = self._open_normal(rank, inside, row, open_row, t)
            cause = cause or "row"
        t = max(t, self.gwrite_free, self.now + 1, rank.normal_act + rules.trcd if rank.normal_bank == inside else t)
        self._issued("GWRITE", t, bank, row)
        self.now = t
        self.vector_free = self.gwrite_free = t + rules.gwrite
        if not rules.is_dual and inside not in rank.normal:
            self.precharge_free = max(self.precharge_free, self.vector_free)
        return Done(t, t + 1, t + rules.gwrite + rules.answer, rules.gwrite, cause)

    def header(self, row: int, comps: int, results: int, at: int) -> Done:
        """Close other rows, if the tile fits before the next refresh."""
        rules, cause = self.rules, ""
        t = max(at, self.now + 1, self.vector_free)
        while True:
            waiting = self._to_precharge(row, self.ranks)
            start = max(t, min(c[0] for c in waiting)) if waiting else t
            groups = rules.ranks * rules.groups if any(r.row != row for r in self.ranks) else 0
            estimate = (
                rules.trtp * sum(c[3] for c in waiting) + rules.trcd + rules.comp * max(power_above(comps), rules.least)
            )
            estimate += rules.twindow * (groups // 2 - 1) if groups else 0
            estimate += 2 * (power_below(results) - 1)
            # checked while the header is at the head of the queue, which it still is one clock after `start`
            if not self._refresh_first(start + 1, estimate if rules.switches.refresh_guard else 0):
                break
            cause, t = "refresh", max(t, self.now + 1)
        if waiting:
            self._precharge(waiting, t)
            t = self.now + 1
            cause = cause or "row"
        self.now = t
        return Done(t, t + 1, t + 1, 1, cause)

    def compute(self, row: int, count: int, at: int) -> Done:
        """A run of COMPs (single row buffer)."""
        whole: Done | None = None
        while True:
            cause, first = self._ready_to_compute(row, at)
            now = count
            if self.rules.interval:  # those before the next refresh
                now = min(count, -(-(self.due - first) // self.rules.comp))
            done = self._comps(row, first, now, cause)
            if whole is not None:
                done = replace(done, first=whole.first, busy=whole.busy + done.busy, cause=whole.cause)
            whole, at = done, done.free
            count -= now
            if not count:
                return whole

    def _comps(self, row: int, first: int, count: int, cause: str) -> Done:
        rules = self.rules
        last = first + rules.comp * (count - 1)
        self._issued("COMP", first, None, row, count, rules.comp)
        self.now = last
        self.compute_free = last + rules.comp
        self.read_free = max(self.read_free, last + rules.comp)
        if self.is_filling:
            self.read_free = max(self.read_free, first + rules.least)
        self.is_filling = False
        self.precharge_free = max(self.precharge_free, last + rules.trtp)
        self.gwrite_free = max(self.gwrite_free, last + rules.turn)
        return Done(first, last + 1, last + rules.comp, last + rules.comp - first, cause)

    def read_result(self, at: int) -> Done:
        """READRES (single row buffer)."""
        rules = self.rules
        t = max(at, self.now + 1, self.read_free)
        while self._refresh_first(t, 0):
            t = max(t, self.now + 1)
        self._issued("READRES", t)
        self.now = t
        self.is_filling = True
        self.compute_free = self.read_free = t + rules.comp
        self.precharge_free = max(self.precharge_free, t + rules.trtp)
        self.gwrite_free = max(self.gwrite_free, t + rules.turn)
        return Done(t, t + 1, t + rules.read + rules.answer, rules.comp)

    def compute_and_read(self, row: int, count: int, at: int) -> Done:
        """COMPS_READRES (dual row buffers)."""
        rules = self.rules
        cause, t = self._ready_to_compute(row, at)
        work = rules.comp * max(count, rules.least)
        self._issued("COMPS_READRES", t, None, row)
        self._issued("COMP", t, None, row, count, rules.comp)  # what the banks execute for it
        if self.issues is not None:
            self.issues(t + work, 0, "READRES")
        self.now = t
        self.compute_free = t + work + rules.comp
        switches = rules.switches
        macs = t + work if switches.precharge_waits_for_macs else t
        self.precharge_free = max(self.precharge_free, macs + rules.trtp)
        macs = t + work if switches.gwrite_waits_for_macs else t
        self.gwrite_free = max(self.gwrite_free, macs + rules.turn)
        macs = t + work if switches.results_wait_for_macs else t
        done = macs + rules.read + rules.answer
        return Done(t, t + 1, done, work, cause)

    def rows_lost(self) -> None:
        """Normal traffic has used the only row buffers, and closed them again."""
        if self.issues is not None:
            self.issues(self.now + 1, 0, TRAFFIC)
        for rank in self.ranks:
            rank.row = None
            rank.normal.clear()

    # -- rows -------------------------------------------------------------------------------------------------------

    def _to_precharge(self, row: int | None, ranks: list[Rank], *, normal: bool = True) -> list[Closing]:
        """Row buffers to close before `row` can be opened for PIM (None: all of them), in order."""
        rules = self.rules
        found: list[Closing] = []
        holds = rules.tras if rules.is_dual or rules.switches.keeps_row_times else LONG_AGO
        size = rules.group_banks
        for rank in ranks:
            begin = len(found)
            if rank.row is not None and rank.row != row:
                for group, act in enumerate(rank.acts):
                    found.append((max(self.precharge_free, act + holds), rank, group * size, size, False))
            if not rank.normal or not normal:
                continue
            if not rules.is_dual:
                found[begin:] = self._without(found[begin:], rank.normal)
            for bank, own in rank.normal.items():
                if row is None or (own == row if rules.is_dual else own != row):
                    ready = max(rank.normal_act + rules.tras, self.vector_free)
                    if not rules.is_dual:  # its row may have been worked on
                        ready = max(ready, self.precharge_free, rank.acts[bank // size] + holds)
                    found.append((ready, rank, bank, 1, True))
            if len(ranks) == 1:
                found.sort(key=lambda c: (not c[4], c[2]))
            else:
                found[begin:] = sorted(found[begin:], key=lambda c: c[2])
        return found

    @staticmethod
    def _without(closings: list[Closing], taken: dict[int, int]) -> list[Closing]:
        """The same for single banks, less those whose only row buffer holds a normal row."""
        return [
            (ready, rank, bank, 1, False)
            for ready, rank, first, count, _ in closings
            for bank in range(first, first + count)
            if bank not in taken
        ]

    def _precharge(self, waiting: list[Closing], at: int) -> None:
        """One bank each clock: of those that may be closed, the first in order."""
        t = max(at, self.now + 1, min(c[0] for c in waiting))
        if max(c[0] for c in waiting) <= t:
            for _, rank, bank, count, is_normal in waiting:
                t += count
                self._close(rank, bank, count, is_normal, t - 1)
            return
        left = [(c[0], c[1], bank, 1, c[4]) for c in waiting for bank in range(c[2], c[2] + c[3])]
        while left:
            chosen = next((c for c in left if c[0] <= t), None)
            if chosen is None:
                t = min(c[0] for c in left)
                continue
            self._close(*chosen[1:], t)
            left.remove(chosen)
            t += 1

    def _close(self, rank: Rank, bank: int, count: int, is_normal: bool, last: int) -> None:
        """Neighbouring banks of one group were closed, the last of them at a clock."""
        rules = self.rules
        if is_normal:
            del rank.normal[bank]
        else:
            rank.row = None
        name = "PIM_PRECHARGE" if rules.is_dual and not is_normal else "PRECHARGE"
        self.counts[name] += count
        if self.issues is not None:
            for i in range(count):
                self.issues(last - count + 1 + i, 0, name, rank.first + bank + i)
        if rules.is_dual or rules.switches.keeps_row_times:
            rank.precharged[bank // rules.group_banks] = last
        self.now = last

    def _ready_to_compute(self, row: int, at: int) -> tuple[str, int]:
        """Open a row where it is not open; what that had to wait for, and when the next COMP may be issued."""
        cause = ""
        while True:
            cause = self._activate(row, at) or cause
            t = max(at, self.now + 1, self.compute_free, self.vector_free, self._opened())
            if not self._refresh_first(t, 0):
                return cause, t

    def _activate(self, row: int, at: int) -> str:
        """Open a row in the PIM row buffers where it is not open."""
        while self._refresh_first(max(at, self.now + 1), 0):
            pass
        closed = [rank for rank in self.ranks if rank.row != row]
        if not closed:
            return ""
        waiting = self._to_precharge(row, self.ranks)
        if waiting:
            self._precharge(waiting, at)
        self._open(closed, row, max(at, self.now + 1))
        return "row"

    def _open(self, closed: list[Rank], row: int, t: int) -> None:
        """G_ACTs, group by group in each rank; the ranks take turns as they become ready."""
        groups = self.rules.groups
        following = [[self._activation(rank, 0), 0] for rank in closed]
        for _ in range(groups * len(closed)):
            soonest = 0
            for i, (ready, group) in enumerate(following):
                best = following[soonest]
                if max(ready, t) < max(best[0], t) or (max(ready, t) == max(best[0], t) and group < best[1]):
                    soonest = i
            ready, group = following[soonest]
            rank = closed[soonest]
            t = max(t, ready)
            rank.acts[group] = t
            if self.issues is not None:
                self.issues(t, 0, "G_ACT", rank.first + group * self.rules.group_banks, row)
            t += 1
            more = group + 1 < groups
            following[soonest] = [self._activation(rank, group + 1) if more else 1 << 62, group + 1]
        self.now = t - 1
        self.counts["G_ACT"] += groups * len(closed)
        for rank in closed:
            rank.row = row

    def _activation(self, rank: Rank, group: int) -> int:
        """When a group of a rank may be opened."""
        rules = self.rules
        ready = max(
            max(rank.acts) + rules.twindow,
            rank.acts[group] + rules.tras + rules.trp,
            rank.precharged[group] + rules.trp,
            rank.refreshed,
        )
        if rank.normal_act > LONG_AGO:
            apart = rules.trrd_same if rules.is_dual else rules.tras + rules.trp
            same = rank.normal_bank // rules.group_banks == group
            apart = apart if same else rules.trrd_other
            if rules.switches.counts_activates:  # a G_ACT alone opens as many banks as tFAW allows
                apart = max(apart, rules.twindow)
            ready = max(ready, rank.normal_act + apart)
        return ready

    def _opened(self) -> int:
        """When the last activation lets COMPs begin."""
        return max(max(rank.acts) for rank in self.ranks) + self.rules.trcd

    def _open_normal(self, rank: Rank, bank: int, row: int, open_row: int | None, at: int) -> int:
        """Open a row in the normal row buffer of a bank; the clock at which a GWRITE may read it."""
        rules = self.rules
        group = bank // rules.group_banks
        t = max(at, self.now + 1)
        if open_row is not None:
            t = max(t, self.precharge_free if not rules.is_dual else t, rank.normal_act + rules.tras, self.vector_free)
            if not rules.is_dual and rules.switches.keeps_row_times:
                t = max(t, rank.acts[group] + rules.tras)
            self._issued("PRECHARGE", t, rank.first + bank)
            self.now = t
            t += rules.trp
        apart = rules.trrd_same if rules.is_dual else rules.tras + rules.trp
        t = max(t, max(rank.acts) + rules.twindow, rank.acts[group] + apart, rank.refreshed)
        t = max(t, rank.normal_act + rules.trrd_same)
        self._issued("ACTIVATE", t, rank.first + bank, row)
        self.now = rank.normal_act = t
        rank.normal[bank] = row
        rank.normal_bank = bank
        if not rules.is_dual and rank.row is not None:
            rank.row = MIXED
        return t + rules.trcd

    # -- refresh ----------------------------------------------------------------------------------------------------

    def _refresh_first(self, t: int, needed: int) -> bool:
        """Refresh the next rank if it is due at a clock, or if work of `needed` clocks would not end before it is."""
        interval = self.rules.interval
        if not interval:
            return False
        if t < self.due and (not self.due - t <= needed < interval):
            return False
        rounds = (t - self.due) // interval // self.rules.ranks - 1
        is_idle = self.now < self.due and all(rank.row is None and not rank.normal for rank in self.ranks)
        if rounds > 0 and is_idle:
            self._refresh_idle(rounds)
        self._refresh()
        return True

    def _refresh_idle(self, rounds: int) -> None:
        """Refresh all ranks, while no row is open, when it is due."""
        interval, ranks = self.rules.interval, self.rules.ranks
        for i in range(ranks):
            first = self.ranks[(self.next_rank + i) % ranks].first
            self._issued("REFRESH", self.due + i * interval, first, None, rounds, ranks * interval)
        self.due += rounds * ranks * interval

    def _refresh(self) -> None:
        rules, rank = self.rules, self.ranks[self.next_rank]
        waiting = self._to_precharge(None, [rank])
        if waiting:
            self._precharge(waiting, self.due)
            self.now += rules.trp
        else:
            self.now = max(self.due, self.now + 1, max(rank.precharged) + rules.trp)
        rank.refreshed = self.now + rules.refresh
        self._issued("REFRESH", self.now, rank.first)
        self.next_rank = (self.next_rank + 1) % rules.ranks
        self.due += rules.interval

    # -- as seen from outside -----------------------------------------------------------------------------------------

    def _issued(
        self, name: str, at: int, bank: int | None = None, row: int | None = None, count: int = 1, period: int = 1
    ) -> None:
        """Count commands, and tell of them: `count` equal ones, every `period` clocks."""
        self.counts[name] += count
        if self.issues is not None:
            self.issues(at, 0, name, bank, row, count, period)

    def relative(self, now: int) -> Hashable:
        moments = (self.compute_free, self.read_free, self.precharge_free, self.vector_free, self.gwrite_free, self.now)
        seen = tuple(t - now if t > now - REACH else LONG_AGO for t in moments)
        due = self.due - now if self.rules.interval else 0
        return seen, due, self.next_rank, self.is_filling, tuple(r.relative(now) for r in self.ranks)

    def shift(self, by: int) -> None:
        for name in ("compute_free", "read_free", "precharge_free", "vector_free", "gwrite_free", "now", "due"):
            setattr(self, name, getattr(self, name) + by)
        for rank in self.ranks:
            rank.shift(by)


def power_above(count: int) -> int:
    """The power of two at or above a count, as a header's field holds it."""
    return 1 << max(0, count - 1).bit_length()


def power_below(count: int) -> int:
    """The power of two at or below a count."""
    return 1 << (max(1, count).bit_length() - 1)
