"""Semaphores in time: a token is the moment from which a wait may pass."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.executors import Executor, reached_values
from pimc.backends.isa import Signal, Wait
from pimc.backends.program import Item, Loop

Key = tuple[int, int]
"""Device and semaphore."""


@dataclass
class Semaphore:
    """Who signals, who waits, and the tokens between them."""

    signallers: dict[int, deque[int]] = field(default_factory=dict)
    """Tokens that still lack those of the other signallers."""
    waiters: dict[int, deque[int]] = field(default_factory=dict)
    blocked: list[int] = field(default_factory=list)


class Tokens:
    """All semaphores of a program, filled by the executors that stand for it."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self.semaphores: dict[Key, Semaphore] = defaultdict(Semaphore)
        self._filled: set[Key] = set()
        """Semaphores that hold a token for somebody."""
        for executor in executors:
            ranges: dict[int, Iterable[int]] = {DEVICE: (executor.rank,), INSTANCE: (executor.instance,)}
            for signals, number in _used(executor.items, ranges):
                semaphore = self.semaphores[executor.rank, number]
                (semaphore.signallers if signals else semaphore.waiters)[executor.index] = deque()

    def post(self, executor: Executor, number: int, time: int) -> list[int]:
        """Add a token; returns the executors that it may set free."""
        semaphore = self.semaphores[executor.rank, number]
        semaphore.signallers[executor.index].append(time)
        self._filled.add((executor.rank, number))
        complete = False
        while all(semaphore.signallers.values()):
            token = max(queue.popleft() for queue in semaphore.signallers.values())
            for queue in semaphore.waiters.values():
                queue.append(token)
            complete = True
        if not complete:
            return []
        freed, semaphore.blocked = semaphore.blocked, []
        return freed

    def take(self, executor: Executor, number: int) -> int | None:
        """The next token's time; None, and the executor is remembered as blocked, while there is none."""
        semaphore = self.semaphores[executor.rank, number]
        queue = semaphore.waiters[executor.index]
        if queue:
            token = queue.popleft()
            if not any(semaphore.waiters.values()) and not any(semaphore.signallers.values()):
                self._filled.discard((executor.rank, number))
            return token
        semaphore.blocked.append(executor.index)
        return None

    def pending(self, base: int) -> Iterator[tuple[Key, int, tuple[int, ...]]]:
        """Tokens on their way, with times as seen from `base`; those before it count as at it."""
        for key in sorted(self._filled):
            semaphore = self.semaphores[key]
            for queues in (semaphore.signallers, semaphore.waiters):
                for index, queue in queues.items():
                    if queue:
                        yield key, index, tuple(max(0, time - base) for time in queue)

    def shift(self, base: int, by: int) -> None:
        """Move the tokens that lie in the future of `base`."""
        for key in self._filled:
            semaphore = self.semaphores[key]
            for queues in (semaphore.signallers, semaphore.waiters):
                for index, queue in queues.items():
                    queues[index] = deque(time + by if time > base else time for time in queue)


def _used(items: tuple[Item, ...], ranges: dict[int, Iterable[int]]) -> Iterator[tuple[bool, int]]:
    """(signals, semaphore) of every signal and wait."""
    for item in items:
        if isinstance(item, Loop):
            if item.count > 0:
                yield from _used(item.body, {**ranges, item.variable: range(item.count)})
        elif isinstance(item.command, Signal | Wait):
            signals = isinstance(item.command, Signal)
            for number in reached_values(item.command.semaphore, ranges):
                yield signals, number
