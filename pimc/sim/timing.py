"""What a simulation for time gives: per engine, per op and per resource, in picoseconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pimc.record import record
from pimc.sim.accounts import BUSY, END, OP, START, Account, Segments, Sums


@dataclass(frozen=True, eq=False)
class EngineTiming:
    """One engine of a class of devices (or of a class of instances). Times in picoseconds.

    busy + stalled + idle is the time of the whole run. Sums are taken when they are asked for.
    """

    name: str
    kind: str
    devices: tuple[int, ...]
    instances: tuple[int, ...]
    clock_ps: int
    end: int
    """when its last command completed"""
    run: int
    """the time of the whole run"""
    account: Account = field(repr=False)
    counters: Mapping[str, int]
    tallies: Mapping[str, int] = field(default_factory=dict)
    """what energy depends on besides (`Tallying`)"""
    counts: Mapping[int, Mapping[str, int]] = field(default_factory=dict, repr=False)
    """counters and tallies by row of the op table; -1: of no op"""
    waited: int = 0
    """how much of the run belongs to other queries, which take turns with this one"""

    @cached_property
    def sums(self) -> Sums:
        return self.account.sums(self.end)

    @property
    def commands(self) -> int:
        """As executed, of one instance of one device."""
        return self.sums.commands

    @property
    def busy(self) -> int:
        return self.sums.busy

    @property
    def stalled(self) -> Mapping[str, int]:
        return {cause: time for cause, time in sorted({**self.sums.stalled, "turns": self.waited}.items()) if time}

    @property
    def idle(self) -> int:
        return self.run - self.busy - sum(self.stalled.values())

    @property
    def segments(self) -> Segments:
        return self.sums.segments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EngineTiming) and self._told() == other._told()

    def __hash__(self) -> int:
        return hash((self.name, self.devices, self.instances, self.end))

    def _told(self) -> tuple[object, ...]:
        """All that a report tells of it."""
        unit = self.name, self.kind, self.devices, self.instances, self.clock_ps
        counted = dict(self.counters), dict(self.tallies)
        return *unit, self.end, self.run, self.commands, self.busy, self.stalled, *counted

    @property
    def cycles(self) -> int:
        """Clocks from 0 to the last completion."""
        return -(-self.end // self.clock_ps)


@record
class ResourceTiming:
    """Something shared by engines of a class of devices: how long it was held, over all and for each op."""

    name: str
    devices: tuple[int, ...]
    busy: int
    by_op: Mapping[int, int]


@record
class OpTiming:
    """When an op was worked on. `active`: how long at least one engine worked for it (without being held)."""

    start: int
    end: int
    active: int
    busy: Mapping[str, int]
    """by engine, the busiest of its kind"""
    bound: int
    """the longest that one engine or resource worked for it"""
    limit: str = ""
    """that engine or resource"""


@record
class Timing:
    """The time of a program, in picoseconds."""

    time: int
    clock_ps: int
    """period of the main clock"""
    engines: tuple[EngineTiming, ...]
    resources: tuple[ResourceTiming, ...]
    background: int | None = None
    """normal reads that each channel with PIM work was offered in a clock; None: none were asked for"""
    turns: int = 1
    """how many times as long everything takes as for one query alone, since others take turns with it"""
    group: int = 0
    """devices of each stage of a pipeline, which work one stage after another; 0: there is one stage"""

    @property
    def cycles(self) -> int:
        """Of the main clock."""
        return -(-self.time // self.clock_ps)

    @property
    def bound(self) -> int:
        """What the run would take if its busiest engine or resource never idled."""
        return self.turns * max([0, *(e.busy for e in self.engines), *(r.busy for r in self.resources)])

    @property
    def bound_share(self) -> float:
        return self.bound / self.time if self.time else 1.0

    @cached_property
    def ops(self) -> Mapping[int, OpTiming]:
        """By row of the op table; rows without commands are absent."""
        busy: dict[int, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        for engine in self.engines:
            stage = self._stage(engine.devices)
            for op, total in _busy_by_op(engine.segments):
                own = busy[op][stage]
                own[engine.name] = max(own.get(engine.name, 0), total)
        spans = [engine.segments[:, : END + 1] for engine in self.engines]
        joined = united(np.concatenate([np.empty((0, 3), np.int64), *spans]))
        return {
            op: self._op(op, joined[joined[:, OP] == op], busy[op])
            for op in sorted({*joined[:, OP].tolist()})
            if op >= 0
        }

    def active(self, group_of: Mapping[int, str]) -> dict[str, int]:
        """How long at least one engine worked for an op of each group; `group_of` gives the group of op rows."""
        names = sorted(set(group_of.values()))
        known = np.array(sorted(group_of), np.int64)
        groups = np.array([names.index(group_of[op]) for op in sorted(group_of)], np.int64)
        spans = np.concatenate([np.empty((0, 3), np.int64), *(e.segments[:, : END + 1] for e in self.engines)])
        spans = spans[np.isin(spans[:, OP], known)]
        spans[:, OP] = groups[np.searchsorted(known, spans[:, OP])]
        joined = united(spans)
        lengths = joined[:, END] - joined[:, START]
        return {name: int(lengths[joined[:, OP] == i].sum()) for i, name in enumerate(names)}

    def _stage(self, devices: Sequence[int]) -> int:
        return devices[0] // self.group if self.group else 0

    def _op(self, op: int, spans: Segments, busy: Mapping[int, Mapping[str, int]]) -> OpTiming:
        """busy: by stage and engine. Stages that share an op's commands do them one after another."""
        bounds = [self._longest(op, stage, times) for stage, times in busy.items()]
        active = int((spans[:, END] - spans[:, START]).sum())
        bound = min(active, sum(found for found, _ in bounds))
        total: Counter[str] = Counter()
        for times in busy.values():
            total.update(times)
        limit = max(bounds, key=lambda each: each[0], default=(0, ""))[1]
        return OpTiming(int(spans[0, START]), int(spans[-1, END]), active, dict(total), bound, limit)

    def _longest(self, op: int, stage: int, busy: Mapping[str, int]) -> tuple[int, str]:
        """How long the engine or resource of a stage worked for an op that did so longest, and which that is."""
        limit = max(sorted(busy), key=lambda name: busy[name], default="")
        bound = busy.get(limit, 0)
        for r in self.resources:
            held = r.by_op.get(op, 0) if self._stage(r.devices) == stage else 0
            if held * 99 > bound * 100:  # what holds it says more, unless others do, too
                limit = r.name
            bound = max(bound, held)
        return bound, limit


def _busy_by_op(segments: Segments) -> Iterator[tuple[int, int]]:
    ops, places = np.unique(segments[:, OP], return_inverse=True)
    sums = np.zeros(len(ops), np.int64)
    np.add.at(sums, places, segments[:, BUSY])
    for op, total in zip(ops, sums, strict=True):
        yield int(op), int(total)


def united(spans: Segments) -> Segments:
    """(op, start, end) of the same stretches without overlaps, by op and then in order."""
    if not len(spans):
        return spans
    ordered = spans[np.lexsort((spans[:, START], spans[:, OP]))]
    new_op = np.diff(ordered[:, OP], prepend=ordered[0, OP] - 1) > 0
    # the furthest end so far within an op: ends are lifted by op, so that a running maximum starts anew
    lift = np.cumsum(new_op) * (int(ordered[:, END].max()) + 1)
    reached = np.maximum.accumulate(ordered[:, END] + lift)
    gap = np.ones(len(ordered), bool)
    gap[1:] = ordered[1:, START] + lift[1:] > reached[:-1]
    first = np.flatnonzero(gap)
    last = np.append(first[1:], len(ordered)) - 1
    return np.stack([ordered[first, OP], ordered[first, START], reached[last] - lift[last]], axis=1)
