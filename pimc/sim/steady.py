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
    tries: int = 0
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Sighting:
    """A state of the machine.

    `key`: what must be the same for a period. `resting`: the states of runners that are held; they must be the same
    only for those that went on in between.
    """

    key: Hashable
    resting: Sequence[Hashable | None]
    base: int
    turns: Turns

    def alike(self, other: Sighting, steps: Turns) -> bool:
        if self.key != other.key:
            return False
        both = zip(self.resting, other.resting, steps, strict=True)
        return all(mine == theirs for mine, theirs, step in both if any(step))


@dataclass(frozen=True, slots=True)
class Trial:
    """The beginning of a period whose sums are being taken."""

    begin: Sighting
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
        scope = [runner] if end.alone and not runner.coupled else self._clockwork.runners
        now = _own_state(runner) if len(scope) == 1 else self._joint_state(runner)
        if now is None:
            self._give_up(runner, frame)
            return
        if frame.trial is not None:
            self._try(runner, frame, scope, now)
            return
        before = frame.seen.get(now.key)
        steps = _steps(before.turns, now.turns, scope) if before is not None else None
        if before is not None and steps is not None and before.alike(now, steps):
            frame.trial = _trial(now, steps, scope)
            return
        frame.seen[now.key] = now
        frame.tries += 1
        if frame.tries >= (MOST_STATES if len(scope) == 1 else MOST_JOINT_STATES):
            self._give_up(runner, frame)

    def left(self, runner: Runner, frame: Frame) -> None:
        """Called when a loop is over."""
        if frame.seen and not frame.hopeless:
            self._failures[runner.index, frame.end] += 1

    def _give_up(self, runner: Runner, frame: Frame) -> None:
        frame.hopeless = True
        self._failures[runner.index, frame.end] += 1

    def _try(self, runner: Runner, frame: Frame, scope: Sequence[Runner], now: Sighting) -> None:
        """Take the sums of a period and skip, if it has ended just now."""
        trial = frame.trial
        assert trial is not None
        steps = _differences(trial.begin.turns, now.turns)
        mine = scope.index(runner)
        if sum(steps[mine]) < sum(trial.steps[mine]):
            return
        if steps != trial.steps or not trial.begin.alike(now, steps):  # somebody else has skipped meanwhile
            frame.trial = None
            return
        if _fronts(scope, now.base, steps) != trial.fronts:
            frame.trial = _trial(now, steps, scope)
            return
        times = min(_periods(r, at, step) for r, at, step in zip(scope, now.turns, steps, strict=True) if any(step))
        frame.trial = None
        frame.hopeless = True
        if times > 0:
            self._skip(scope, trial, now.base, times)

    def _skip(self, scope: Sequence[Runner], trial: Trial, base: int, times: int) -> None:
        shift = base - trial.begin.base
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

    def _joint_state(self, runner: Runner) -> Sighting | None:
        """The state of everything as seen from the moment before which nothing happens any more."""
        clockwork = self._clockwork
        base = min([runner.ready, *(ready for ready, _ in clockwork.heap)])
        moving: list[Hashable] = []
        resting: list[Hashable | None] = []
        for other in clockwork.runners:
            state = None if other.finished else _state(other, base)
            if state is None and not other.finished and not other.blocked:
                return None
            moving.append((other.pc, other.blocked, None if other.blocked else state))
            resting.append(state if other.blocked else None)
        held = tuple(_held(list(pool.meters.values()), base) for pool in clockwork.pools.values())
        key = (tuple(moving), held, tuple(clockwork.tokens.pending(base)))
        return Sighting(key, resting, base, tuple(_turns(r) for r in clockwork.runners))


def _own_state(runner: Runner) -> Sighting | None:
    state = _state(runner, runner.ready)
    if state is None:
        return None
    return Sighting((state, _held(runner.meters, runner.ready)), (None,), runner.ready, (_turns(runner),))


def _state(runner: Runner, base: int) -> Hashable | None:
    """A runner's state as seen from `base`; None where its timer has nothing to recognise."""
    now = max(runner.ready, base)
    relative = runner.timer.relative(now)
    return None if relative is None else (now - base, max(0, runner.done - now), relative)


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


def _trial(begin: Sighting, steps: Turns, scope: Sequence[Runner]) -> Trial:
    return Trial(
        begin=begin,
        steps=steps,
        marks=[r.account.mark() for r in scope],
        fronts=_fronts(scope, begin.base, steps),
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
