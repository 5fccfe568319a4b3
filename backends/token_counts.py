"""How often each semaphore is signalled and awaited, counted by loops, without executing anything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from pimc.backends.affine import DEVICE, INSTANCE, Affine
from pimc.backends.executors import Executor, reached_values
from pimc.backends.isa import SYNCHRONISING, Command, Signal
from pimc.backends.program import Item, Loop

Use = tuple[type[Command], int]
"""Signal or Wait, and the semaphore's number."""


def unbalanced(executors: Iterable[Executor]) -> Iterator[tuple[int, int, int, int]]:
    """(device, semaphore, signals, waits) where executors do not all signal or await it equally often."""
    signals: dict[tuple[int, int], set[int]] = defaultdict(set)
    waits: dict[tuple[int, int], set[int]] = defaultdict(set)
    for executor in executors:
        found: Counter[Use] = Counter()
        _count(executor.items, {DEVICE: (executor.rank,), INSTANCE: (executor.instance,)}, 1, found)
        for (kind, number), times in found.items():
            (signals if kind is Signal else waits)[executor.rank, number].add(times)
    for rank, number in sorted(signals.keys() | waits.keys()):
        posted, taken = signals[rank, number] or {0}, waits[rank, number] or {0}
        if posted != taken or len(posted) != 1:
            yield rank, number, max(posted), max(taken)


def _count(items: Sequence[Item], ranges: Mapping[int, Sequence[int]], turns: int, found: Counter[Use]) -> None:
    """turns: of all loops around the items, whose variables have these ranges."""
    for item in items:
        if isinstance(item, Loop):
            if item.count > 0:
                inner = {**ranges, item.variable: range(item.count)}
                _count(item.body, inner, turns * item.count, found)
        elif isinstance(item.command, SYNCHRONISING):
            number = item.command.semaphore
            if not isinstance(number, Affine):
                found[type(item.command), number] += turns
                continue
            each = turns // prod(len(ranges[v]) for v, _ in number.terms)
            for reached in reached_values(number, ranges):
                found[type(item.command), reached] += each
