"""Skips turns of loops whose time is known, exactly.

When the state of all that a loop depends on is, seen from now, what it was some turns ago, what happened in between
happens again and again until a loop ends: the remaining whole periods are added at once. For a loop of one stream that
shares nothing and waits for nobody, that state is the timer's own. For any other loop it is the state of the whole
machine: every timer, resource, token and place in a stream.

A period is run once more after it was recognised, so that its sums (busy time, counts, bytes) are known.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from pimc.sim.accounts import Mark
from pimc.sim.code import Instruction

if TYPE_CHECKING:
    from pimc.sim.time import Clockwork, Meter, Runner

MOST_STATES = 64
"""States of one run of a loop that are remembered before recognising one is given up."""
MOST_JOINT_STATES = 24
"""The same where the state is that of the whole machine."""
MOST_FAILURES = 4
"""Runs of a loop without success before it is not tried again."""
LEAST_TURNS = 4
"""Loops with fewer turns are not worth it."""

K = TypeVar("K", int, str)

Turns = tuple[tuple[int, ...], ...]
"""The counters of the loops that each runner is in, outermost first."""


@dataclass
class Frame:
    """A loop being executed: what is known of its turns."""

    end: int
    """place of its END"""
    seen: dict[Hashable, Sighting] = field(default_factory=dict)
    trial: Trial | None = None
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Sighting:
    turns: Turns


@dataclass(frozen=True, slots=True)
class Trial:
    """The beginning of a period whose sums are being taken."""

    key: Hashable
    base: int
    turns: Turns
    steps: Turns
    """How far each counter goes in a period."""
    marks: Sequence[Mark]
    fronts: tuple[int, ...]
    counters: Sequence[Counter[str]]
    meters: Sequence[tuple[int, Counter[int]]]


class Steady:
    """The skipping of one run."""

    def __init__(self, clockwork: Clockwork) -> None:
        self._clockwork = clockwork
        self._failures: dict[tuple[int, int], int] = defaultdict(int)

    def at_end(self, runner: Runner, end: Instruction) -> None:
        """Called when a turn of a loop is over and more are to come; may advance everything by whole periods."""
        frame = runner.frames[-1]
        if frame.hopeless or end.count < LEAST_TURNS or self._failures[runner.index, frame.end] >= MOST_FAILURES:
            return
        if end.alone and not runner.coupled:
            scope, base = [runner], runner.ready
            key = _own_key(runner)
        else:
            scope = self._clockwork.runners
            base = min([runner.ready, *(ready for ready, _ in self._clockwork.heap)])
            key = self._joint_key(base)
        if key is None:
            self._give_up(runner, frame)
            return
        turns = tuple(_turns(r) for r in scope)
        if frame.trial is not None:
            self._try(runner, frame, scope, key, base, turns)
            return
        sighting = frame.seen.get(key)
        steps = _steps(sighting.turns, turns, scope) if sighting is not None else None
        if steps is not None:
            frame.trial = _trial(key, base, turns, steps, scope)
            return
        frame.seen[key] = Sighting(turns)
        if len(frame.seen) >= (MOST_STATES if len(scope) == 1 else MOST_JOINT_STATES):
            self._give_up(runner, frame)

    def _give_up(self, runner: Runner, frame: Frame) -> None:
        frame.hopeless = True
        self._failures[runner.index, frame.end] += 1

    def _try(
        self, runner: Runner, frame: Frame, scope: Sequence[Runner], key: Hashable, base: int, turns: Turns
    ) -> None:
        """Take the sums of a period and skip, if it has ended just now."""
        trial = frame.trial
        assert trial is not None
        steps = _differences(trial.turns, turns)
        mine = scope.index(runner)
        if sum(steps[mine]) < sum(trial.steps[mine]):
            return
        if steps != trial.steps or key != trial.key:  # somebody else has skipped meanwhile
            frame.trial = None
            return
        fronts = _fronts(scope, base, steps)
        if fronts != trial.fronts:
            frame.trial = _trial(key, base, turns, steps, scope)
            return
        times = min(
            _periods(r, at, step) for r, at, step in zip(scope, turns, steps, strict=True) if any(step)
        )
        frame.trial = None
        frame.hopeless = True
        if times > 0:
            self._skip(scope, trial, base, times)

    def _skip(self, scope: Sequence[Runner], trial: Trial, base: int, times: int) -> None:
        shift = base - trial.base
        total = shift * times
        for runner, mark, counters, step in zip(scope, trial.marks, trial.counters, trial.steps, strict=True):
            if not any(step):
                continue
            unheld = len(scope) == 1
            runner.account.repeat(mark, times, shift, unheld=unheld)
            _multiply(runner.skipped, counters, runner.counters(), times)
            runner.timer.shift(total)
            runner.ready += total
            runner.done += total
            for frame, by in zip(runner.frames, step, strict=True):
                runner.variables[runner.code[frame.end].variable] += by * times
        for meter, (busy, by_op) in zip(_meters(scope), trial.meters, strict=True):
            meter.busy += (meter.busy - busy) * times
            meter.seen = meter.busy
            _multiply(meter.by_op, by_op, Counter(meter.by_op), times)
            if meter.free_at > base:
                meter.free_at += total
        if len(scope) > 1:
            clockwork = self._clockwork
            clockwork.tokens.shift(base, total)
            clockwork.heap = [(clockwork.runners[i].ready, i) for _, i in clockwork.heap]
            heapq.heapify(clockwork.heap)

    def _joint_key(self, base: int) -> Hashable | None:
        """The state of everything as seen from `base`, before which nothing happens any more."""
        parts: list[Hashable] = []
        for runner in self._clockwork.runners:
            if runner.finished:
                parts.append(None)
                continue
            now = max(runner.ready, base)
            relative = runner.timer.relative(now)
            if relative is None:
                return None
            parts.append((runner.pc, runner.blocked, now - base, max(0, runner.done - now), relative))
        held = tuple(_held(list(pool.meters.values()), base) for pool in self._clockwork.pools.values())
        return (tuple(parts), held, tuple(self._clockwork.tokens.pending(base)))


def _own_key(runner: Runner) -> Hashable | None:
    relative = runner.timer.relative(runner.ready)
    if relative is None:
        return None
    return (relative, max(0, runner.done - runner.ready), _held(runner.meters, runner.ready))


def _held(meters: Sequence[Meter], base: int) -> Hashable:
    """How long resources are still held, and in which order they were set free (a timer may ask who was last)."""
    times = sorted({m.free_at for m in meters})
    return tuple((max(0, m.free_at - base), times.index(m.free_at)) for m in meters)


def _turns(runner: Runner) -> tuple[int, ...]:
    return tuple(runner.variables[runner.code[f.end].variable] for f in runner.frames)


def _differences(before: Turns, after: Turns) -> Turns:
    return tuple(
        tuple(b - a for a, b in zip(old, new, strict=False)) if len(old) == len(new) else (-1,)
        for old, new in zip(before, after, strict=True)
    )


def _steps(before: Turns, after: Turns, scope: Sequence[Runner]) -> Turns | None:
    """How far the counters have gone, if each runner went on in one loop alone, whose turns are alike; else None."""
    steps = _differences(before, after)
    for runner, step in zip(scope, steps, strict=True):
        moved = [(frame, by) for frame, by in zip(runner.frames, step, strict=False) if by]
        if len(moved) > 1 or any(by < 0 or not runner.code[frame.end].alike for frame, by in moved):
            return None
    return steps if any(any(step) for step in steps) else None


def _periods(runner: Runner, turns: tuple[int, ...], step: tuple[int, ...]) -> int:
    """How many whole periods go by before the loop that the runner is in has its last turn."""
    return min(
        (runner.code[frame.end].count - 1 - at) // by
        for frame, at, by in zip(runner.frames, turns, step, strict=True)
        if by
    )


def _trial(key: Hashable, base: int, turns: Turns, steps: Turns, scope: Sequence[Runner]) -> Trial:
    return Trial(
        key=key,
        base=base,
        turns=turns,
        steps=steps,
        marks=[r.account.mark() for r in scope],
        fronts=_fronts(scope, base, steps),
        counters=[r.counters() for r in scope],
        meters=[(m.busy, Counter(m.by_op)) for m in _meters(scope)],
    )


def _fronts(scope: Sequence[Runner], base: int, steps: Turns) -> tuple[int, ...]:
    """How far the accounts of those that take part have come."""
    return tuple(r.account.frontier - base if any(step) else 0 for r, step in zip(scope, steps, strict=True))


def _meters(scope: Sequence[Runner]) -> list[Meter]:
    found = {id(m): m for r in scope for m in r.meters}
    return list(found.values())


def _multiply(sums: Counter[K], before: Counter[K], after: Counter[K], times: int) -> None:
    """Add `times` what came between `before` and `after`."""
    for name, total in after.items():
        sums[name] += (total - before[name]) * times
