"""What an engine counts (DRAM commands, bytes, operations), op by op.

Timers count over everything that they are given. When another op begins, what has come since is put down to the op
before. A controller that works behind its queue may issue the last commands of an op a little later: they are put down
to the op that is being worked for then, so that the sums over ops are always those of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pimc.backends.timing import Tallying, Timer, having

K = TypeVar("K", int, str)

Counts = dict[int, dict[str, int]]
"""By row of the op table."""


class Ledger:
    """The counts of one timer. Turns that are skipped are added as many times as they are."""

    __slots__ = ("_settled", "_tallies", "_timer", "by_op", "op")

    def __init__(self, timer: Timer) -> None:
        self.op = -1
        self.by_op: Counts = {}
        self._timer = timer
        self._tallies: Tallying | None = having(timer, Tallying)
        self._settled: dict[str, int] = {}

    def turn(self, op: int) -> None:
        """Another op begins."""
        self.settle()
        self.op = op

    def settle(self) -> None:
        """Put down what the timer has counted since the last time."""
        now = dict(self._timer.counters)
        if self._tallies is not None:
            add(now, self._tallies.tallies, 1)
        if now != self._settled:
            add(self.by_op.setdefault(self.op, {}), difference(self._settled, now), 1)
            self._settled = now

    def copy(self) -> Counts:
        """Everything up to now."""
        self.settle()
        return {op: dict(counts) for op, counts in self.by_op.items()}

    def since(self, before: Counts) -> Counts:
        """What has come since `copy` gave that."""
        self.settle()
        found = {op: difference(before.get(op, {}), counts) for op, counts in self.by_op.items()}
        return {op: counts for op, counts in found.items() if counts}

    def repeat(self, counts: Counts, times: int) -> None:
        for op, more in counts.items():
            add(self.by_op.setdefault(op, {}), more, times)

    def total(self) -> dict[str, int]:
        """Over all ops."""
        self.settle()
        found: dict[str, int] = {}
        for counts in self.by_op.values():
            add(found, counts, 1)
        return found

    def split(self) -> tuple[dict[str, int], dict[str, int]]:
        """The total of what the timer calls counters, and of its tallies."""
        total = dict(sorted(self.total().items()))
        names = set(self._tallies.tallies) if self._tallies is not None else set[str]()
        counters = {name: number for name, number in total.items() if name not in names}
        return counters, {name: number for name, number in total.items() if name in names}


def difference(before: Mapping[K, int], after: Mapping[K, int]) -> dict[K, int]:
    return {n: total - before.get(n, 0) for n, total in after.items() if total != before.get(n, 0)}


def add(sums: dict[K, int], more: Mapping[K, int], times: int) -> None:
    for name, total in more.items():
        sums[name] = sums.get(name, 0) + total * times
