"""Semaphores in time: a token is the moment from which a wait may pass."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from pimc.backends.affine import Scalar
from pimc.backends.executors import Executor, reached_values

Pending = tuple[tuple[bool, int, tuple[int, ...]], ...]
"""What a semaphore holds: whether for one that waits, for which executor, and the times of the tokens."""


class Semaphore:
    """Who signals, who waits, and the tokens between them."""

    __slots__ = ("_moved", "_only", "blocked", "cause", "place", "signallers", "waiters")

    def __init__(self, place: int, moved: set[Semaphore]) -> None:
        self.place = place
        self.signallers: dict[int, deque[int]] = {}
        """Tokens that still lack those of the other signallers."""
        self.waiters: dict[int, deque[int]] = {}
        self.blocked: list[int] = []
        self.cause = ""
        """what a stream that waits is said to wait for"""
        self._moved = moved
        self._only: deque[int] | None = None
        """the tokens of the one that waits, for the one that signals"""

    def close(self, executors: Sequence[Executor]) -> None:
        """All that signal and wait are known."""
        self.cause = "wait:" + ",".join(dict.fromkeys(executors[i].engine for i in self.signallers))
        if len(self.signallers) == len(self.waiters) == 1:
            (self._only,) = self.waiters.values()

    def post(self, index: int, time: int) -> Sequence[int]:
        """Add a token; returns the executors that it may set free."""
        self._moved.add(self)
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
        self._moved.add(self)
        return queue.popleft()

    def pending(self, base: int) -> Pending:
        """Tokens on their way, with times as seen from `base`; those before it count as at it."""
        return tuple(
            [
                (waits, index, tuple([t - base if t > base else 0 for t in queue]))
                for waits, queues in ((False, self.signallers), (True, self.waiters))
                for index, queue in queues.items()
                if queue
            ]
        )

    def is_late(self, base: int) -> bool:
        """Whether a token lies in the future of `base`."""
        return any(q and max(q) > base for queues in (self.signallers, self.waiters) for q in queues.values())

    def shift(self, base: int, by: int) -> None:
        """Move the tokens that lie in the future of `base`."""
        for queues in (self.signallers, self.waiters):
            for queue in queues.values():
                for place, time in enumerate(queue):
                    if time > base:
                        queue[place] = time + by


class Semaphores:
    """The semaphores of one device."""

    def __init__(self) -> None:
        self.semaphores: dict[int, Semaphore] = {}
        self.moved: set[Semaphore] = set()
        """Those to which something has happened since `pending` was told, or whose tokens were in the future then."""
        self._pending: list[Pending] = []
        """what was told then"""
        self._base = 0

    def of(self, number: int) -> Semaphore:
        found = self.semaphores.get(number)
        if found is None:
            found = self.semaphores[number] = Semaphore(len(self.semaphores), self.moved)
        return found

    def pending(self, base: int) -> tuple[Pending, ...]:
        """Tokens on their way, by semaphore, with times as seen from `base`; those before it count as at it."""
        told = self._pending
        if base < self._base or len(told) < len(self.semaphores):
            told = self._pending = [()] * len(self.semaphores)
            self.moved.update(self.semaphores.values())
        self._base = base
        for semaphore in list(self.moved):
            told[semaphore.place] = semaphore.pending(base)
            if not semaphore.is_late(base):
                self.moved.discard(semaphore)
        return tuple(told)


class Tokens:
    """All semaphores of a program."""

    def __init__(self) -> None:
        self._semaphores: dict[int, Semaphores] = defaultdict(Semaphores)
        """by device"""

    def used(
        self, executor: Executor, number: Scalar, ranges: Mapping[int, Iterable[int]], *, signals: bool
    ) -> Semaphore | None:
        """Executor signals or waits; returns the semaphore, if it is always the same."""
        semaphore = None
        for each in (number,) if isinstance(number, int) else reached_values(number, ranges):
            semaphore = self.of(executor, each)
            queues = semaphore.signallers if signals else semaphore.waiters
            if executor.index not in queues:
                queues[executor.index] = deque()
        return semaphore if isinstance(number, int) else None

    def close(self, executors: Sequence[Executor]) -> None:
        """All that signal and wait are known."""
        for own in self._semaphores.values():
            for semaphore in own.semaphores.values():
                semaphore.close(executors)

    def of(self, executor: Executor, number: int) -> Semaphore:
        """The semaphore that an executor means by a number."""
        return self._semaphores[executor.rank].of(number)

    def pending(self, base: int, ranks: Iterable[int]) -> tuple[tuple[Pending, ...], ...]:
        """Tokens on their way on some devices, with times as seen from `base`."""
        return tuple([self._semaphores[rank].pending(base) for rank in ranks])

    def shift(self, base: int, by: int, ranks: Iterable[int]) -> None:
        """Move the tokens of some devices that lie in the future of `base`, which `pending` was told of last."""
        for rank in ranks:
            for semaphore in self._semaphores[rank].moved:
                semaphore.shift(base, by)
