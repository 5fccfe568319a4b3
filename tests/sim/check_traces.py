"""Short traces for tests of the checker: entries, what it says of them, and an issuer that keeps the rules.

The issuer is an oracle of its own: it looks at every earlier command for every command, and knows neither the
simulator's controllers nor the checker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.sim.check import Issued, Verdict, check, part_of
from pimc.sim.check.issued import NONE, Lane
from pimc.sim.check.part import Part
from pimc.sim.check.violation import KINDS

REGISTER_COMMANDS = ("WRGB", "WRMAC16", "RDMAC16", "RDAF16")
ONE_BANK = ("RD", "WR", "MAC", "RDCP", "WRCP")


class Entry(NamedTuple):
    """One row of a trace of one channel."""

    cycle: int
    command: str
    bank: int | None = None
    row: int | None = None


@cache
def spec_of(target: str, *overrides: str) -> TargetSpec:
    return load_target(target, overrides)


@cache
def part(target: str, *overrides: str) -> Part:
    return part_of(spec_of(target, *overrides))


def issued(entries: Iterable[Entry], known: Part) -> Issued:
    """The columns of one channel."""
    rows = [
        (e.cycle, known.names.index(e.command), *(NONE if n is None else n for n in (e.bank, e.row))) for e in entries
    ]
    cycle, command, bank, row = np.array(rows, np.int64).reshape(-1, 4).T
    return Issued.of(known.names, [Lane.of([0], cycle, command, bank, row)])


def verdict(entries: Iterable[Entry], target: str, *kinds: str) -> Verdict:
    known = part(target)
    return check(issued(entries, known), known, kinds=kinds or tuple(KINDS))


def told(entries: Iterable[Entry], target: str, *kinds: str) -> dict[str, int]:
    """How often each rule was broken."""
    return {rule.text: count for rule, count in verdict(entries, target, *kinds).counts.items()}


def entries_of(found: Issued) -> list[Entry]:
    """The rows of the first lane."""
    columns = (column.tolist() for column in found.lanes[0].columns)
    return [
        Entry(cycle, found.names[command], *(None if n == NONE else n for n in (bank, row)))
        for cycle, command, bank, row in zip(*columns, strict=True)
    ]


class Issuer:
    """Issues AiM commands in order, each as soon as the target's table allows it, refreshes when they are due."""

    def __init__(self, target: str) -> None:
        spec = spec_of(target)
        self.table = spec.pair_constraints()
        self.group = spec.dram.banks_per_group
        self.rows: list[int | None] = [None] * spec.dram.banks
        self.registers = False
        self.interval = spec.cycles["nREFI"] if spec.dram.refresh else 0
        self.due = self.interval
        self.entries: list[Entry] = []
        self.at = 0

    def wait(self, cycles: int) -> None:
        """Nothing is asked for meanwhile; refreshes come when they are due all the same."""
        end = self.at + cycles
        while self.interval and self.due <= end:
            self.at = max(self.at, self.due)
            self._refresh()
        self.at = max(self.at, end)

    def request(self, final: str, bank: int | None = None, row: int | None = None) -> None:
        """A command, with everything that must come before it."""
        if self.interval and self.at >= self.due:
            self._refresh()
        if self.registers != (final in REGISTER_COMMANDS):
            self.issue("TMOD")
            self.registers = not self.registers
        if row is not None:
            self._open(bank, row)
        self.issue(final, bank, row)
        if final == "WRA16":
            self.rows = [None] * len(self.rows)

    def issue(self, command: str, bank: int | None = None, row: int | None = None) -> None:
        cycle = self.at
        for earlier in self.entries:
            cycle = max(cycle, earlier.cycle + self.distance(earlier, command, bank), earlier.cycle + 1)
        self.entries.append(Entry(cycle, command, bank, row))
        self.at = cycle

    def distance(self, earlier: Entry, command: str, bank: int | None) -> int:
        levels = ["channel"]
        if bank is not None and earlier.bank is not None:
            levels += ["bankgroup"] * (bank // self.group == earlier.bank // self.group)
            levels += ["bank"] * (bank == earlier.bank)
        return max(self.table.get((level, earlier.command, command), 0) for level in levels)

    def _open(self, bank: int | None, row: int) -> None:
        concerned: Sequence[int] = range(len(self.rows)) if bank is None else [bank]
        several = "16" if bank is None else ""
        if any(self.rows[b] not in (None, row) for b in concerned):
            self.issue("PREA" if bank is None else "PRE", bank)
            for b in concerned:
                self.rows[b] = None
        if any(self.rows[b] is None for b in concerned):
            self.issue(f"ACT{several}", bank, row)
            for b in concerned:
                self.rows[b] = row

    def _refresh(self) -> None:
        while self.due <= self.at:
            if any(row is not None for row in self.rows):
                self.issue("PREA")
                self.rows = [None] * len(self.rows)
            self.at, now = max(self.at, self.due), self.at
            self.issue("REFab")
            self.at = max(now, self.at)
            self.due += self.interval
