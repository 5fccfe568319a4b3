"""What a simulation for time gives: per engine, per op and per resource, in picoseconds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pimc.sim.accounts import Segment


@dataclass(frozen=True)
class EngineTiming:
    """One engine of a class of devices (or of a class of instances). Times in picoseconds.

    busy + stalled + idle is the time of the whole run.
    """

    name: str
    kind: str
    devices: tuple[int, ...]
    instances: tuple[int, ...]
    clock_ps: int
    end: int
    """when its last command completed"""
    commands: int
    """as executed, of one instance of one device"""
    busy: int
    stalled: Mapping[str, int]
    idle: int
    counters: Mapping[str, int]
    segments: Sequence[Segment]

    @property
    def cycles(self) -> int:
        """Clocks from 0 to the last completion."""
        return -(-self.end // self.clock_ps)


@dataclass(frozen=True)
class ResourceTiming:
    """Something shared by engines of a class of devices: how long it was held, over all and for each op."""

    name: str
    devices: tuple[int, ...]
    busy: int
    by_op: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class OpTiming:
    """When an op was worked on. `active`: how long at least one engine worked for it (without being held)."""

    start: int
    end: int
    active: int
    busy: Mapping[str, int]
    """by engine, the busiest of its kind"""
    bound: int
    """the longest that one engine or resource worked for it"""


@dataclass(frozen=True)
class Timing:
    """The time of a program, in picoseconds."""

    time: int
    clock_ps: int
    """period of the main clock"""
    engines: tuple[EngineTiming, ...]
    resources: tuple[ResourceTiming, ...]

    @property
    def cycles(self) -> int:
        """Of the main clock."""
        return -(-self.time // self.clock_ps)

    @property
    def bound(self) -> int:
        """What the run would take if its busiest engine or resource never idled."""
        return max([0, *(e.busy for e in self.engines), *(r.busy for r in self.resources)])

    @property
    def bound_share(self) -> float:
        return self.bound / self.time if self.time else 1.0

    @cached_property
    def ops(self) -> Mapping[int, OpTiming]:
        """By row of the op table; rows without commands are absent."""
        spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        busy: dict[int, dict[str, int]] = defaultdict(dict)
        for engine in self.engines:
            sums: Counter[int] = Counter()
            for s in engine.segments:
                spans[s.op].append((s.start, s.end))
                sums[s.op] += s.busy
            for op, total in sums.items():
                busy[op][engine.name] = max(busy[op].get(engine.name, 0), total)
        return {op: self._op(op, spans[op], busy[op]) for op in sorted(spans) if op >= 0}

    def _op(self, op: int, spans: list[tuple[int, int]], busy: dict[str, int]) -> OpTiming:
        united = list(_united(spans))
        held = [r.by_op.get(op, 0) for r in self.resources]
        active = sum(high - low for low, high in united)
        bound = min(active, max([0, *busy.values(), *held]))
        return OpTiming(united[0][0], united[-1][1], active, busy, bound)


def _united(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The same stretches without overlaps, in order."""
    low = high = None
    for start, end in sorted(spans):
        if low is None or high is None:
            low, high = start, end
        elif start <= high:
            high = max(high, end)
        else:
            yield low, high
            low, high = start, end
    if low is not None and high is not None:
        yield low, high
