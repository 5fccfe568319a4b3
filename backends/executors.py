"""Who executes a program's streams: one executor for each device, engine instance and stream, and their semaphores.

Devices that take the same streams, and instances that take the same commands, do the same; where only time or order
matters, one of them stands for all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from pimc.backends.affine import DEVICE, INSTANCE, Affine, Scalar
from pimc.backends.isa import Command, Signal
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop, Program, Step, Stream, steps
from pimc.record import record

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Executor:
    """One engine instance at work on one stream, standing for `devices` and `instances`."""

    index: int
    engine: str
    rank: int
    devices: tuple[int, ...]
    instance: int
    instances: tuple[int, ...]
    items: tuple[Item, ...]

    @property
    def variables(self) -> dict[int, int]:
        return {DEVICE: self.rank, INSTANCE: self.instance}

    def __str__(self) -> str:
        return f"{self.engine} of device {self.rank}" + (f", channel {self.instance}" if self.instance else "")


def device_classes(program: Program) -> list[tuple[int, ...]]:
    """Ranks that take the same streams, in order."""
    classes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for rank in range(program.devices):
        classes[tuple(i for i, s in enumerate(program.streams) if rank in s.devices)].append(rank)
    return [tuple(ranks) for ranks in classes.values()]


def all_executors(program: Program) -> list[Executor]:
    """One for each device, stream and instance."""
    return _executors(program, [(r,) for r in range(program.devices)], lambda stream: [(i,) for i in stream.instances])


def representatives(program: Program, alike: Callable[[Stream, int], bool] | None = None) -> list[Executor]:
    """One for each class of devices, stream and class of instances.

    alike(stream, variable): whether the stream is the same for all values of DEVICE or INSTANCE (default: it is);
    where it is not, each device or instance stands for itself.
    """
    same = alike or (lambda stream, variable: True)
    classes: list[tuple[int, ...]] = []
    for ranks in device_classes(program):
        whole = len(ranks) == 1 or all(same(s, DEVICE) for s in program.streams if ranks[0] in s.devices)
        classes += [ranks] if whole else [(rank,) for rank in ranks]

    def groups(stream: Stream) -> list[tuple[int, ...]]:
        if len(stream.instances) > 1 and same(stream, INSTANCE):
            return _instance_classes(stream)
        return [(i,) for i in stream.instances]

    return _executors(program, classes, groups)


def _executors(
    program: Program,
    classes: Sequence[tuple[int, ...]],
    groups: Callable[[Stream], Sequence[tuple[int, ...]]],
) -> list[Executor]:
    found: list[Executor] = []
    for ranks in classes:
        for stream in program.streams:
            if ranks[0] not in stream.devices:
                continue
            for instances in groups(stream):
                items = projected(stream.items, instances[0])
                found.append(Executor(len(found), stream.engine, ranks[0], ranks, instances[0], instances, items))
    return found


def _instance_classes(stream: Stream) -> list[tuple[int, ...]]:
    """Instances that take the same commands."""
    masks = {s.instances for s in steps(stream.items) if s.instances is not None}
    sets = [frozenset(m) for m in sorted(masks)]
    classes: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for instance in stream.instances:
        classes[tuple(instance in chosen for chosen in sets)].append(instance)
    return [tuple(c) for c in classes.values()]


def projected(items: tuple[Item, ...], instance: int) -> tuple[Item, ...]:
    """The items that an instance takes."""
    if _is_for_all(items):
        return items
    out: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            body = projected(item.body, instance)
            if body:
                out.append(Loop(item.variable, item.count, body))
        elif item.instances is None or instance in item.instances:
            out.append(item)
    return tuple(out)


def _is_for_all(items: tuple[Item, ...]) -> bool:
    """Whether all instances take all of the items."""
    for item in items:
        if not _is_for_all(item.body) if isinstance(item, Loop) else item.instances is not None:
            return False
    return True


def selected(items: tuple[Item, ...], wanted: Callable[[Command], bool]) -> tuple[Item, ...]:
    """The items with only the commands that are wanted."""
    out: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            body = selected(item.body, wanted)
            if body and item.count:
                out.append(Loop(item.variable, item.count, body))
        elif wanted(item.command):
            out.append(item)
    return tuple(out)


def reached_values(scalar: Scalar, ranges: Mapping[int, Iterable[int]]) -> Iterator[int]:
    """Every value that an operand takes; `ranges` has the values of each variable."""
    if not isinstance(scalar, Affine):
        yield scalar
        return
    names = [v for v, _ in scalar.terms]
    for values in product(*(ranges[v] for v in names)):
        yield scalar.at(dict(zip(names, values, strict=True)))


@dataclass
class _Semaphore(Generic[T]):
    """Tokens of each executor that signals, in order; waiters keep their own count of what they have taken."""

    posted: dict[int, list[T]] = field(default_factory=dict)
    taken: dict[int, int] = field(default_factory=lambda: defaultdict(int))


class Semaphores(Generic[T]):
    """All semaphores of all devices. A wait takes one token of each executor that signals the semaphore."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._all: dict[tuple[int, int], _Semaphore[T]] = defaultdict(lambda: _Semaphore[T]())
        for executor in executors:
            for number in _signalled(executor.items, {DEVICE: (executor.rank,), INSTANCE: (executor.instance,)}):
                self._all[executor.rank, number].posted[executor.index] = []

    def post(self, executor: Executor, number: int, token: T) -> None:
        self._all[executor.rank, number].posted[executor.index].append(token)

    def take(self, executor: Executor, number: int) -> list[T] | None:
        """The next token of each signalling executor, or None while one of them is missing."""
        semaphore = self._all[executor.rank, number]
        turn = semaphore.taken[executor.index]
        found: list[T] = []
        for tokens in semaphore.posted.values():
            if len(tokens) <= turn:
                return None
            found.append(tokens[turn])
        if not found:
            return None
        semaphore.taken[executor.index] = turn + 1
        return found

    def signallers(self, executor: Executor, number: int) -> list[int]:
        """The executors that signal a semaphore, by index."""
        return list(self._all[executor.rank, number].posted)


class Meetings:
    """Which executors have come to an exchange between devices, and whom they wait for."""

    def __init__(self, executors: Sequence[Executor]) -> None:
        self._at = {(rank, e.engine): e.index for e in executors for rank in e.devices}
        self._exact = all(len(e.devices) == 1 for e in executors)
        self._arrived: dict[int, Hashable] = {}

    def arrive(self, executor: Executor, command: Exchange) -> tuple[int, ...] | None:
        """The executors that meet, in order of rank, if this was the last one to come; operands are plain numbers.

        Where one device stands for many, an exchange among those is over at once.
        """
        meeting = command.meeting(executor.rank)
        members = tuple(dict.fromkeys(self._at.get((rank, executor.engine)) for rank in meeting.ranks))
        key: Hashable = meeting if self._exact else frozenset(members)
        self._arrived[executor.index] = key
        found = tuple(m for m in members if m is not None and self._arrived.get(m) == key)
        if len(found) < len(members):
            return None
        for member in found:
            del self._arrived[member]
        return found


def _signalled(items: tuple[Item, ...], ranges: dict[int, Iterable[int]]) -> set[int]:
    found: set[int] = set()
    for item in items:
        if isinstance(item, Loop):
            found |= _signalled(item.body, {**ranges, item.variable: range(item.count)})
        elif isinstance(item.command, Signal):
            found.update(reached_values(item.command.semaphore, ranges))
    return found


def executed(items: tuple[Item, ...], variables: dict[int, int]) -> Iterator[Step]:
    """Every command as executed, operands resolved; `variables` gives DEVICE and INSTANCE."""
    return _executed(_planned(items), variables)


@record
class _Planned:
    """An item of a stream, and what is to be known of it each time that it is executed."""

    item: Item
    moves: bool
    body: tuple[_Planned, ...] = ()
    still: tuple[Step, ...] = ()
    """one turn of a loop in which nothing moves, unless it is long"""


LONG_TURN = 4096
"""Steps of a turn beyond which they are not listed."""


def _planned(items: tuple[Item, ...]) -> tuple[_Planned, ...]:
    found: list[_Planned] = []
    for item in items:
        if isinstance(item, Loop):
            body = _planned(item.body)
            found.append(_Planned(item, False, body, _still(body)))
        else:
            found.append(_Planned(item, item.command.is_affine))
    return tuple(found)


def _still(body: tuple[_Planned, ...]) -> tuple[Step, ...]:
    """All steps of a turn; none if one of them moves, or if there are many."""
    found: list[Step] = []
    for planned in body:
        item = planned.item
        steps, times = (planned.still, item.count) if isinstance(item, Loop) else ((item,), 1)
        if planned.moves or not steps or len(found) + len(steps) * times > LONG_TURN:
            return ()
        found += steps * times
    return tuple(found)


def _executed(plan: tuple[_Planned, ...], variables: dict[int, int]) -> Iterator[Step]:
    for planned in plan:
        item = planned.item
        if isinstance(item, Loop):
            for i in range(item.count):
                variables[item.variable] = i
                yield from planned.still or _executed(planned.body, variables)
        elif planned.moves:
            yield Step(item.engine, item.command.resolved(variables), item.op, item.instances)
        else:
            yield item
