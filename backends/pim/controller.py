"""One memory channel under a table of pair constraints: when each DRAM command may be issued, and what is open.

A constraint is (level, previous, next, clocks): after `previous`, `next` waits so long where both touch the same node
of the level (the channel, a bank group, a bank). All that a channel needs to remember is the clock of the last command
of each kind at every node. A run of equal column commands is issued in closed form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

LONG_AGO = -(1 << 40)
CLOSED = -1

Pairs = tuple[tuple[int, int], ...]
"""(number of an earlier command, clocks) of all constraints on one command at one level."""


@dataclass(frozen=True)
class PairTable:
    """The constraints of a part, by number of command."""

    names: tuple[str, ...]
    channel: tuple[Pairs, ...]
    group: tuple[Pairs, ...]
    bank: tuple[Pairs, ...]
    longest: int
    """The largest distance of any pair."""
    numbers: Mapping[str, int]
    periods: tuple[int, ...]
    """Clocks between equal column commands in a row on one bank (or on all)."""

    @staticmethod
    def of(constraints: Mapping[tuple[str, str, str], int]) -> PairTable:
        """From clocks by (level, previous, next); levels are channel, bankgroup and bank."""
        names = tuple(sorted({name for _, previous, next_ in constraints for name in (previous, next_)}))
        number = {name: i for i, name in enumerate(names)}

        def level(wanted: str) -> tuple[Pairs, ...]:
            found: list[list[tuple[int, int]]] = [[] for _ in names]
            for (at, previous, next_), clocks in sorted(constraints.items()):
                if at == wanted:
                    found[number[next_]].append((number[previous], clocks))
            return tuple(tuple(pairs) for pairs in found)

        levels = level("channel"), level("bankgroup"), level("bank")
        periods = tuple(
            max([1, *(clocks for pairs in levels for p, clocks in pairs[at] if p == at)]) for at in range(len(names))
        )
        return PairTable(names, *levels, max(constraints.values(), default=0), number, periods)


@dataclass(frozen=True, slots=True)
class RefreshRule:
    """All banks of a channel are refreshed every `interval` clocks, by a REFab with all rows closed."""

    interval: int
    """0: never"""


class Run(NamedTuple):
    """What a request became: first and last clock of its final commands, and what held it up."""

    first: int
    last: int
    period: int
    cause: str


class Channel:
    """State of one channel (or of several with the same history)."""

    __slots__ = (
        "bank_last", "banks", "counts", "due", "group_last", "group_size", "last", "now", "opened", "refresh",
        "register_mode", "rows", "table",
    )  # fmt: skip

    def __init__(self, table: PairTable, banks: int, group_size: int, refresh: RefreshRule) -> None:
        self.table, self.banks, self.group_size, self.refresh = table, banks, group_size, refresh
        self.now = -1
        self.last = [LONG_AGO] * len(table.names)
        self.bank_last: dict[int, list[int]] = {}
        self.group_last: dict[int, list[int]] = {}
        self.opened: int | None = CLOSED
        """the row that is open in every bank, CLOSED for none, None: see `rows`"""
        self.rows: list[int] = []
        self.register_mode = False
        self.due = refresh.interval
        self.counts: Counter[str] = Counter()

    def copy(self) -> Channel:
        """A channel with the same history, whose commands are counted from here on."""
        other = Channel(self.table, self.banks, self.group_size, self.refresh)
        other.now, other.last, other.opened, other.rows = self.now, list(self.last), self.opened, list(self.rows)
        other.bank_last = {k: list(v) for k, v in self.bank_last.items()}
        other.group_last = {k: list(v) for k, v in self.group_last.items()}
        other.register_mode, other.due = self.register_mode, self.due
        return other

    # -- the table --------------------------------------------------------------------------------------------------

    def ready(self, command: int, bank: int | None, at: int) -> int:
        """The first clock from `at` on at which the command may be issued."""
        t = max(at, self.now + 1)
        last = self.last
        for previous, clocks in self.table.channel[command]:
            if last[previous] + clocks > t:
                t = last[previous] + clocks
        if bank is not None:
            for nodes, key, pairs in (
                (self.group_last, bank // self.group_size, self.table.group),
                (self.bank_last, bank, self.table.bank),
            ):
                node = nodes.get(key)
                if node is not None:
                    for previous, clocks in pairs[command]:
                        if node[previous] + clocks > t:
                            t = node[previous] + clocks
        return t

    def issue(self, command: int, bank: int | None, last: int, count: int) -> None:
        """Note `count` equal commands, the last of which was issued at a clock."""
        self.now = self.last[command] = last
        self.counts[self.table.names[command]] += count
        if bank is not None:
            for nodes, key in ((self.group_last, bank // self.group_size), (self.bank_last, bank)):
                node = nodes.get(key)
                if node is None:
                    node = nodes[key] = [LONG_AGO] * len(self.last)
                node[command] = last

    # -- rows -------------------------------------------------------------------------------------------------------

    def open_rows(self) -> list[int]:
        """The open row of every bank."""
        return self.rows if self.opened is None else [self.opened] * self.banks

    def set_row(self, bank: int | None, row: int) -> None:
        """A row (or CLOSED) is now open in a bank, or in all."""
        if bank is None:
            self.opened = row
            return
        if self.opened is not None:
            self.rows = [self.opened] * self.banks
            self.opened = None
        self.rows[bank] = row
        if row == CLOSED and all(r == CLOSED for r in self.rows):
            self.opened = CLOSED

    # -- as seen from outside ---------------------------------------------------------------------------------------

    def relative(self, now: int) -> Hashable:
        """The state seen from a clock; what is too long ago to matter is alike."""
        reach = now - self.table.longest - 1

        def seen(clocks: list[int]) -> tuple[int, ...]:
            return tuple(c - now if c > reach else LONG_AGO for c in clocks)

        nodes = tuple(
            (key, seen(node))
            for level in (self.group_last, self.bank_last)
            for key, node in sorted(level.items())
            if max(node) > reach
        )
        rows = self.opened if self.opened is not None else tuple(self.rows)
        due = self.due - now if self.refresh.interval else 0
        return max(self.now, reach) - now, seen(self.last), nodes, rows, self.register_mode, due

    def shift(self, by: int) -> None:
        """Move everything `by` clocks into the future."""
        self.now += by
        self.due += by
        self.last = [c + by for c in self.last]
        for level in (self.group_last, self.bank_last):
            for key, node in level.items():
                level[key] = [c + by for c in node]
