"""Semaphores in time: a token is the moment from which a wait may pass."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pimc.backends.affine import DEVICE, Scalar
from pimc.backends.executors import Executor, reached_values
from pimc.backends.isa import SYNCHRONISING, Signal
from pimc.backends.program import Item, Loop

Pending = tuple[tuple[bool, int, tuple[int, ...]], ...]
"""What a semaphore holds: whether for one that waits, for which executor, and the times of the tokens."""


class Users(NamedTuple):
    """Who uses a semaphore: executors by their place among those of the device."""

    place: int
    """of the semaphore among those of the device"""
    signallers: tuple[int, ...]
    waiters: tuple[int, ...]
    cause: str
    """what a stream that waits is said to wait for"""


Plan = dict[int, Users]
"""The semaphores of a device, by number."""


class Semaphore:
    """Who signals, who waits, and the tokens between them."""

    __slots__ = ("_moved", "_only", "blocked", "cause", "place", "signallers", "waiters")

    def __init__(self, users: Users, executors: Sequence[Executor], moved: set[Semaphore]) -> None:
        self.place = users.place
        self.cause = users.cause
        self.blocked: list[int] = []
        self._moved = moved
        self._only: deque[int] | None = None
        """the tokens of the one that waits, for the one that signals"""
        self.signallers: dict[int, deque[int]] = {}
        """Tokens that still lack those of the other signallers."""
        self.waiters: dict[int, deque[int]]
        if len(users.signallers) == len(users.waiters) == 1:
            self._only = deque()
            self.waiters = {executors[users.waiters[0]].index: self._only}
        else:
            self.signallers = {executors[i].index: deque() for i in users.signallers}
            self.waiters = {executors[i].index: deque() for i in users.waiters}

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
    """The semaphores of one device, made when something first happens to them."""

    def __init__(self, plan: Plan, executors: Sequence[Executor]) -> None:
        self.semaphores: dict[int, Semaphore] = {}
        self.moved: set[Semaphore] = set()
        """Those to which something has happened since `pending` was told, or whose tokens were in the future then."""
        self._plan, self._executors = plan, executors
        self._pending: list[Pending] = [()] * len(plan)
        """what was told then"""
        self._base = 0

    def of(self, number: int) -> Semaphore:
        found = self.semaphores.get(number)
        if found is None:
            found = self.semaphores[number] = Semaphore(self._plan[number], self._executors, self.moved)
        return found

    def forget(self) -> None:
        """They are not asked for any more."""
        self.semaphores, self.moved, self._plan, self._pending = {}, set(), {}, []

    def pending(self, base: int) -> tuple[Pending, ...]:
        """Tokens on their way, by semaphore, with times as seen from `base`; those before it count as at it."""
        told = self._pending
        if base < self._base:
            self.moved.update(self.semaphores.values())
        self._base = base
        for semaphore in list(self.moved):
            told[semaphore.place] = semaphore.pending(base)
            if not semaphore.is_late(base):
                self.moved.discard(semaphore)
        return tuple(told)


Loops = tuple[tuple[int, int], ...]
"""Variables and turns of the loops around a command."""
Use = tuple[bool, Scalar, Loops]
"""Whether a semaphore is signalled, its number, and the loops that this depends on."""


def _find_uses(items: Sequence[Item], found: dict[Use, None], loops: Loops = ()) -> None:
    """In the order of the stream."""
    for item in items:
        if isinstance(item, Loop):
            if item.count > 0:
                _find_uses(item.body, found, (*loops, (item.variable, item.count)))
        elif isinstance(item.command, SYNCHRONISING):
            number = item.command.semaphore
            found[isinstance(item.command, Signal), number, () if isinstance(number, int) else loops] = None


class Tokens:
    """All semaphores of a program."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        """Executors' items are kept by the program."""
        self._members: dict[int, list[Executor]] = defaultdict(list)
        """by device"""
        for executor in executors:
            self._members[executor.rank].append(executor)
        self._uses: dict[int, dict[Use, None]] = {}
        """of streams, by the identity of their items"""
        self._plans: dict[tuple[object, ...], Plan] = {}
        """of devices that do the same"""
        self._semaphores = {rank: Semaphores(self._plan(members), members) for rank, members in self._members.items()}

    def _plan(self, members: Sequence[Executor]) -> Plan:
        for executor in members:
            if id(executor.items) not in self._uses:
                found = self._uses[id(executor.items)] = {}
                _find_uses(executor.items, found)
        uses = [self._uses[id(executor.items)] for executor in members]
        moving = [n for each in uses for _, n, _ in each if not isinstance(n, int)]
        own = any(v == DEVICE for number in moving for v, _ in number.terms)
        key = (members[0].rank if own else None, *((id(e.items), e.instance) for e in members))
        if key not in self._plans:
            self._plans[key] = _plan_of(members, uses)
        return self._plans[key]

    def forget(self, rank: int) -> None:
        """All executors of a device have come to their end."""
        self._semaphores[rank].forget()

    def of(self, executor: Executor) -> Semaphores:
        """The semaphores that an executor means."""
        return self._semaphores[executor.rank]

    def pending(self, base: int, ranks: Iterable[int]) -> tuple[tuple[Pending, ...], ...]:
        """Tokens on their way on some devices, with times as seen from `base`."""
        return tuple([self._semaphores[rank].pending(base) for rank in ranks])

    def shift(self, base: int, by: int, ranks: Iterable[int]) -> None:
        """Move the tokens of some devices that lie in the future of `base`, which `pending` was told of last."""
        for rank in ranks:
            for semaphore in self._semaphores[rank].moved:
                semaphore.shift(base, by)


def _plan_of(members: Sequence[Executor], uses: Sequence[Iterable[Use]]) -> Plan:
    """The semaphores of a device, whose executors are members with these uses."""
    users: dict[int, tuple[dict[int, None], dict[int, None]]] = {}
    for place, (executor, own) in enumerate(zip(members, uses, strict=True)):
        fixed = {v: (at,) for v, at in executor.variables.items()}
        for signals, number, loops in own:
            if isinstance(number, int):
                reached: Iterable[int] = (number,)
            else:
                reached = reached_values(number, {**fixed, **{v: range(count) for v, count in loops}})
            for each in reached:
                users.setdefault(each, ({}, {}))[0 if signals else 1][place] = None
    plan: Plan = {}
    for number, (signallers, waiters) in users.items():
        cause = "wait:" + ",".join(dict.fromkeys([members[i].engine for i in signallers]))
        plan[number] = Users(len(plan), tuple(signallers), tuple(waiters), cause)
    return plan
