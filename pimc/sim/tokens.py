"""Semaphores in time: a token is the moment from which a wait may pass."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pimc.backends.affine import Scalar
from pimc.backends.executors import Executor, reached_values

Key = tuple[int, int]
"""Device and semaphore."""


class Semaphore:
    """Who signals, who waits, and the tokens between them."""

    __slots__ = ("_filled", "_only", "blocked", "cause", "key", "signallers", "waiters")

    def __init__(self, key: Key, filled: set[Semaphore]) -> None:
        self.key = key
        self.signallers: dict[int, deque[int]] = {}
        """Tokens that still lack those of the other signallers."""
        self.waiters: dict[int, deque[int]] = {}
        self.blocked: list[int] = []
        self.cause = ""
        """what a stream that waits is said to wait for"""
        self._filled = filled
        self._only: deque[int] | None = None
        """the tokens of the one that waits, for the one that signals"""

    def close(self, executors: Sequence[Executor]) -> None:
        """All that signal and wait are known."""
        self.cause = "wait:" + ",".join(dict.fromkeys(executors[i].engine for i in self.signallers))
        if len(self.signallers) == len(self.waiters) == 1:
            (self._only,) = self.waiters.values()

    def post(self, index: int, time: int) -> Sequence[int]:
        """Add a token; returns the executors that it may set free."""
        self._filled.add(self)
        if self._only is not None:
            self._only.append(time)
        else:
            self.signallers[index].append(time)
            if not all(self.signallers.values()):
                return ()
            token = max(queue.popleft() for queue in self.signallers.values())
            for queue in self.waiters.values():
                queue.append(token)
        if not self.blocked:
            return ()
        freed, self.blocked = self.blocked, []
        return freed

    def take(self, index: int) -> int | None:
        """The next token's time; None, and the executor is remembered as blocked, while there is none."""
        queue = self.waiters[index]
        if not queue:
            self.blocked.append(index)
            return None
        token = queue.popleft()
        if not queue and not any(self.waiters.values()) and not any(self.signallers.values()):
            self._filled.discard(self)
        return token

    def queues(self) -> Iterator[tuple[int, deque[int]]]:
        """All that hold tokens, and whose they are."""
        for queues in (self.signallers, self.waiters):
            for index, queue in queues.items():
                if queue:
                    yield index, queue


class Tokens:
    """All semaphores of a program."""

    def __init__(self) -> None:
        self.semaphores: dict[Key, Semaphore] = {}
        self._filled: dict[int, set[Semaphore]] = defaultdict(set)
        """By device: semaphores that hold a token for somebody."""

    def used(
        self, executor: Executor, number: Scalar, ranges: Mapping[int, Iterable[int]], *, signals: bool
    ) -> Semaphore | None:
        """Executor signals or waits; returns the semaphore, if it is always the same."""
        numbers = (number,) if isinstance(number, int) else reached_values(number, ranges)
        for each in numbers:
            semaphore = self.of(executor, each)
            queues = semaphore.signallers if signals else semaphore.waiters
            if executor.index not in queues:
                queues[executor.index] = deque()
        return self.of(executor, number) if isinstance(number, int) else None

    def close(self, executors: Sequence[Executor]) -> None:
        """All that signal and wait are known."""
        for semaphore in self.semaphores.values():
            semaphore.close(executors)

    def of(self, executor: Executor, number: int) -> Semaphore:
        """The semaphore that an executor means by a number."""
        key = executor.rank, number
        found = self.semaphores.get(key)
        if found is None:
            found = self.semaphores[key] = Semaphore(key, self._filled[executor.rank])
        return found

    def pending(self, base: int, ranks: Iterable[int]) -> Iterator[tuple[Key, int, tuple[int, ...]]]:
        """Tokens on their way on some devices, with times as seen from `base`; those before it count as at it."""
        for semaphore in (s for rank in ranks for s in sorted(self._filled[rank], key=lambda s: s.key)):
            for index, queue in semaphore.queues():
                late = max(queue) > base
                yield semaphore.key, index, tuple([max(0, t - base) for t in queue]) if late else (0,) * len(queue)

    def shift(self, base: int, by: int, ranks: Iterable[int]) -> None:
        """Move the tokens of some devices that lie in the future of `base`."""
        for semaphore in (s for rank in ranks for s in self._filled[rank]):
            for _, queue in semaphore.queues():
                for place, time in enumerate(queue):
                    if time > base:
                        queue[place] = time + by
