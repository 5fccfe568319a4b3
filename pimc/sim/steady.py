"""Skips turns of loops whose time is known, exactly.

When the state of all that a loop depends on is, seen from now, what it was some turns ago, what happened in between
happens again and again until a loop ends: the remaining whole periods are added at once. For a loop of one stream that
shares nothing and waits for nobody, that state is the timer's own. For any other loop it is the state of all that is
awake: every timer, resource, token and place in a stream of the devices on which something can go on. A device where
all streams are held or over is woken by an exchange alone; where a loop around has one, the whole machine counts.

A period is run once more after it was recognised, so that its sums (busy time, counts, bytes) are known. Refresh comes
at fixed times and is no part of a state: periods are added up to the next one, and again when the loop has come back to
a state that a known period begins with.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pimc.record import record
from pimc.sim.accounts import Mark, Stretch
from pimc.sim.code import Family, Instruction
from pimc.sim.ledger import Counts, add, difference

if TYPE_CHECKING:
    from pimc.sim.time import Clockwork, Meter, Runner

MOST_STATES = 64
"""States of one run of a loop that are remembered before recognising one is given up."""
MOST_JOINT_STATES = 24
"""The same where the state is that of the whole machine."""
MOST_FAILURES = 4
"""Runs of a loop without success before it is not tried again."""
FEW_TURNS = 64
"""Loops with no more turns than this are given up after one run."""

FOREVER = 1 << 60

Turns = tuple[tuple[int, ...], ...]
"""The counters of the loops that each runner is in, outermost first."""


@dataclass(slots=True)
class Frame:
    """A loop being executed: what is known of its turns."""

    end: int
    """place of its END"""
    own: set[Hashable] = field(default_factory=set)
    """states that the runner itself was in, where others have a part in the loop"""
    due: int | None = None
    """when something was to happen next to one of them"""
    seen: dict[Hashable, Sighting] = field(default_factory=dict)
    trial: Trial | None = None
    tries: int = 0
    hopeless: bool = False


@record
class Sighting:
    """A state of the machine.

    `key`: what must be the same for a period. `resting`: the states of runners that are held; they must be the same
    only for those that went on in between.
    """

    key: Hashable
    resting: Sequence[Hashable | None]
    base: int
    turns: Turns
    ranks: tuple[int, ...] = ()
    """the devices that are awake; none where it is the state of one stream alone"""

    def alike(self, other: Sighting, steps: Turns) -> bool:
        if self.key != other.key:
            return False
        both = zip(self.resting, other.resting, steps, strict=True)
        return all(mine == theirs for mine, theirs, step in both if any(step))


@record
class Trial:
    """The beginning of a period whose sums are being taken."""

    begin: Sighting
    steps: Turns
    """How far each counter goes in a period."""
    marks: Sequence[Mark]
    fronts: tuple[int, ...]
    counts: Sequence[Counts]
    meters: Sequence[tuple[int, dict[int, int]]]
    identities: Sequence[tuple[int, ...]]
    deadline: int | None


Arrangement = tuple[tuple[tuple[int, int, int], ...], ...]
"""Which identities of a loop's commands, and of what its timer remembers, may meet: for each group of them their
numbers and their least and largest values, from the least of the group on."""


@record
class Period:
    """What happens from a state to the same state again, for each runner that takes part."""

    begin: Sighting
    steps: Turns
    shift: int
    fronts: tuple[int, ...]
    stretches: Sequence[Stretch]
    counts: Sequence[Counts]
    meters: Sequence[tuple[int, dict[int, int]]]
    moves: Sequence[tuple[int, ...]]
    """how far each identity that a timer remembers goes"""
    arrangements: Sequence[Arrangement]


class Steady:
    """The skipping of one run."""

    def __init__(self, clockwork: Clockwork) -> None:
        self._clockwork = clockwork
        self._failures: dict[tuple[int, int], int] = defaultdict(int)
        self._periods: dict[tuple[int, int], dict[Hashable, Period]] = defaultdict(dict)
        """By runner and END: the periods of the loop, by the state in which they begin and end."""
        self._begins: dict[tuple[int, int], set[Hashable]] = defaultdict(set)
        """The same: the runner's own part of those states."""

    def at_end(self, runner: Runner, end: Instruction) -> None:
        """Called when a turn of a loop is over and more are to come; may advance everything by whole periods."""
        frame = runner.frames[-1]
        if frame.hopeless:
            return
        allowed = MOST_FAILURES if end.count > FEW_TURNS else 1
        if self._failures[runner.index, frame.end] >= allowed:
            return
        alone = end.alone and self._is_alone(runner)
        scope = [runner] if alone else self._awake()
        if frame.trial is not None and len(frame.trial.marks) != len(scope):  # others have come, or are held now
            frame.trial = None
        if not alone and not self._is_telling(runner, frame, scope):
            return
        now = _own_state(runner) if alone else self._joint_state(runner, scope)
        if now is None:
            self._give_up(runner, frame)
            return
        if frame.trial is not None:
            self._try(runner, frame, scope, now)
            return
        period = self._periods[runner.index, frame.end].get(now.key)
        if period is not None and _arrangements(scope, period.steps) != period.arrangements:
            period = None
        before = frame.seen.get(now.key)
        if period is not None and (before is not None or not any(map(any, period.moves))):
            self._skip(scope, period, now)
            return
        steps = _steps(before.turns, now.turns, scope) if before is not None else None
        if before is not None and steps is not None and before.alike(now, steps):
            frame.trial = _trial(now, steps, scope)
            return
        frame.seen[now.key] = now
        frame.tries += 1
        if frame.tries >= (MOST_JOINT_STATES if now.ranks else MOST_STATES):
            self._give_up(runner, frame)

    def _is_telling(self, runner: Runner, frame: Frame, scope: Sequence[Runner]) -> bool:
        """Whether it is worth looking at all that is awake: no period has a turn in which something was due, and in
        another turn, or where a period begins, the runner itself was as it is now."""
        due = min((d for r in scope if (d := _due(r)) is not None), default=None)
        if due != frame.due:
            frame.due = due
            frame.trial = None
            return False
        if frame.trial is not None:
            return True
        own = _state(runner, runner.ready)
        if own in frame.own or own in self._begins[runner.index, frame.end]:
            return True
        if len(frame.own) < MOST_STATES:
            frame.own.add(own)
        return False

    def _awake(self) -> Sequence[Runner]:
        """The runners of all devices on which somebody can go on."""
        runners = self._clockwork.runners
        ranks = {r.executor.rank for r in runners if not r.blocked and not r.finished}
        if len(ranks) == len(self._clockwork.pools):
            return runners
        scope = [r for r in runners if r.executor.rank in ranks]
        return runners if any(r.code[f.end].meets for r in scope for f in r.frames) else scope

    def _is_alone(self, runner: Runner) -> bool:
        """Whether nobody can get in the way of a loop that sets nobody free."""
        return not runner.coupled or not self._clockwork.heap

    def left(self, runner: Runner, frame: Frame) -> None:
        """Called when a loop is over."""
        if frame.seen and not self._periods[runner.index, frame.end] and not frame.hopeless:
            self._failures[runner.index, frame.end] += 1

    def _give_up(self, runner: Runner, frame: Frame) -> None:
        frame.hopeless = True
        if not self._periods[runner.index, frame.end]:
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
        if _fronts(scope, now.base, steps) != trial.fronts or _is_over(trial, scope):
            frame.trial = _trial(now, steps, scope)
            return
        frame.trial = None
        frame.tries = 0
        period = _period(trial, now, scope)
        if not all(_is_lasting(*each) for each in zip(scope, period.moves, steps, strict=True)):
            return
        if not all(_unmistaken(*each, since=1) for each in zip(scope, period.moves, steps, strict=True)):
            frame.trial = _trial(now, steps, scope)
            return
        if all(r.code[f.end].alike for r in scope for f in r.frames):
            self._periods[runner.index, frame.end][now.key] = period
            self._begins[runner.index, frame.end].add(_state(runner, runner.ready))
        self._skip(scope, period, now)

    def _skip(self, scope: Sequence[Runner], period: Period, now: Sighting) -> None:
        """Advance everything by as many of a period as are certain, from the state in which it begins."""
        steps = period.steps
        if not period.begin.alike(now, steps) or _fronts(scope, now.base, steps) != period.fronts:
            return
        times = min(_periods(r, at, step) for r, at, step in zip(scope, now.turns, steps, strict=True) if any(step))
        times = min(times, _before_deadlines(scope, period))
        if times <= 0:
            return
        times = min(times, *(_unmistaken(r, m, s) for r, m, s in zip(scope, period.moves, steps, strict=True)))
        if times <= 0:
            return
        total = period.shift * times
        for runner, stretch, counts, move, step in zip(
            scope, period.stretches, period.counts, period.moves, steps, strict=True
        ):
            if not any(step):
                continue
            runner.account.repeat(stretch, now.base, times, period.shift, unheld=not now.ranks)
            runner.ledger.repeat(counts, times)
            runner.timer.shift(total, now.base - period.shift)
            if runner.identifying is not None:
                pairs = zip(runner.identifying.identities(), move, strict=True)
                runner.identifying.rename(tuple(at + by * times for at, by in pairs))
            runner.ready += total
            runner.done += total
            for frame, by in zip(runner.frames, step, strict=True):
                runner.variables[runner.code[frame.end].variable] += by * times
        for meter, (busy, by_op) in zip(_meters(scope), period.meters, strict=True):
            meter.busy += busy * times
            add(meter.by_op, by_op, times)
            if meter.free_at > now.base:
                meter.free_at += total
        if now.ranks:
            clockwork = self._clockwork
            clockwork.tokens.shift(now.base, total, now.ranks)
            clockwork.heap = [(clockwork.runners[i].ready, i) for _, i in clockwork.heap]
            heapq.heapify(clockwork.heap)

    def _joint_state(self, runner: Runner, scope: Sequence[Runner]) -> Sighting | None:
        """The state of all that is awake as seen from the moment before which nothing happens any more."""
        clockwork = self._clockwork
        base = min([runner.ready, *(ready for ready, _ in clockwork.heap)])
        moving: list[Hashable] = []
        resting: list[Hashable | None] = []
        ranks = _ranks(scope)
        for other in scope:
            state = None if other.finished else _state(other, base)
            if state is None and not other.finished and not other.blocked:
                return None
            moving.append((other.pc, other.turns, other.blocked, None if other.blocked else state))
            resting.append(state if other.blocked else None)
        held = tuple(_held(list(clockwork.pools[rank].meters.values()), base) for rank in ranks)
        key = (ranks, tuple(moving), held, clockwork.tokens.pending(base, ranks))
        return Sighting(key, resting, base, tuple(_turns(r) for r in scope), ranks)


def _ranks(scope: Sequence[Runner]) -> tuple[int, ...]:
    """The devices of runners, in order."""
    return tuple(sorted({r.executor.rank for r in scope}))


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


def _before_deadlines(scope: Sequence[Runner], period: Period) -> int:
    """How many whole periods are over, with all that they have begun, before something is due."""
    room = FOREVER
    for runner, step in zip(scope, period.steps, strict=True):
        deadline = _due(runner) if any(step) else None
        if deadline is not None:
            room = min(room, (deadline - max(runner.done, runner.ready) - 1) // period.shift)
    return room


def _unmistaken(runner: Runner, move: tuple[int, ...], step: tuple[int, ...], since: int = 0) -> int:
    """How many periods go by before an identity may meet another one that moves at a different speed.

    since: counted from so many periods ago.
    """
    if runner.identifying is None or not any(step):
        return FOREVER
    variable, by, families = _moved(runner, step)
    spans: set[tuple[int, int, int]] = set()
    for at, speed in zip(runner.identifying.identities(), move, strict=True):
        spans.add((at - speed * since, at - speed * since, speed))
    for family in families:
        low, high = family.around(runner.variables)
        speed = family.slope(variable) * by
        spans.add((low - abs(speed) - speed * since, high + abs(speed) - speed * since, speed))
    if len({speed for _, _, speed in spans}) <= 1:
        return FOREVER
    ordered = sorted(spans)
    return min(_meeting(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :] if a[2] != b[2])


def _is_lasting(runner: Runner, move: tuple[int, ...], step: tuple[int, ...]) -> bool:
    """Whether identities that moved go on so: they are those of commands that move as fast."""
    if runner.identifying is None or not any(step):
        return True
    variable, by, families = _moved(runner, step)
    ranges = [(*family.around(runner.variables), family.slope(variable) * by) for family in families]
    for at, speed in zip(runner.identifying.identities(), move, strict=True):
        reach = abs(speed)
        if speed and not any(low - reach <= at <= high + reach and speed == own for low, high, own in ranges):
            return False
    return True


def _arrangements(scope: Sequence[Runner], steps: Turns) -> list[Arrangement]:
    return [_arrangement(runner, step) for runner, step in zip(scope, steps, strict=True)]


def _arrangement(runner: Runner, step: tuple[int, ...]) -> Arrangement:
    """A period of one is not that of another: where identities that were different are the same, rows are open."""
    if runner.identifying is None or not any(step):
        return ()
    variable, by, families = _moved(runner, step)
    spans = [(at, at) for at in runner.identifying.identities()]
    for family in families:
        low, high = family.around(runner.variables)
        reach = abs(family.slope(variable) * by)
        spans.append((low - reach, high + reach))
    groups: list[list[tuple[int, int, int]]] = []
    first = last = 0
    for low, high, number in sorted((low, high, number) for number, (low, high) in enumerate(spans)):
        if not groups or low > last:
            groups.append([])
            first, last = low, high
        last = max(last, high)
        groups[-1].append((number, low - first, high - first))
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def _moved(runner: Runner, step: tuple[int, ...]) -> tuple[int, int, tuple[Family, ...]]:
    """The counter that goes on, how far, and the identities in its loop."""
    return next(
        (runner.code[f.end].variable, by, runner.code[f.end].families)
        for f, by in zip(runner.frames, step, strict=True)
        if by
    )


def _meeting(a: tuple[int, int, int], b: tuple[int, int, int]) -> int:
    """Whole periods before two spans (least, largest, speed) touch, the first of which begins lower."""
    gap, closing = b[0] - a[1], a[2] - b[2]
    if gap <= 0:
        return 0
    return FOREVER if closing <= 0 else (gap - 1) // closing


def _trial(begin: Sighting, steps: Turns, scope: Sequence[Runner]) -> Trial:
    return Trial(
        begin=begin,
        steps=steps,
        marks=[r.account.mark() for r in scope],
        fronts=_fronts(scope, begin.base, steps),
        counts=[r.ledger.copy() if any(step) else {} for r, step in zip(scope, steps, strict=True)],
        meters=[(m.busy, dict(m.by_op)) for m in _meters(scope)],
        identities=[_identities(r) for r in scope],
        deadline=_deadline(scope, steps),
    )


def _period(trial: Trial, now: Sighting, scope: Sequence[Runner]) -> Period:
    """The sums of a trial that has ended."""
    base = trial.begin.base
    return Period(
        begin=trial.begin,
        steps=trial.steps,
        shift=now.base - base,
        fronts=trial.fronts,
        stretches=[r.account.since(mark, base) for r, mark in zip(scope, trial.marks, strict=True)],
        counts=[
            r.ledger.since(old) if any(step) else {}
            for r, old, step in zip(scope, trial.counts, trial.steps, strict=True)
        ],
        meters=[
            (m.busy - busy, difference(by_op, m.by_op))
            for m, (busy, by_op) in zip(_meters(scope), trial.meters, strict=True)
        ],
        arrangements=_arrangements(scope, trial.steps),
        moves=[
            tuple(b - a for a, b in zip(old, _identities(r), strict=True)) if len(old) == len(_identities(r)) else ()
            for r, old in zip(scope, trial.identities, strict=True)
        ],
    )


def _identities(runner: Runner) -> tuple[int, ...]:
    return () if runner.identifying is None else runner.identifying.identities()


def _due(runner: Runner) -> int | None:
    return None if runner.refreshing is None else runner.refreshing.deadline()


def _deadline(scope: Sequence[Runner], steps: Turns) -> int | None:
    """The next time at which something happens to a timer at work that its state does not tell."""
    times = (_due(runner) for runner, step in zip(scope, steps, strict=True) if any(step))
    return min((due for due in times if due is not None), default=None)


def _is_over(trial: Trial, scope: Sequence[Runner]) -> bool:
    """Whether something was due while the sums were taken, or is since."""
    due = trial.deadline
    if due is None:
        return _deadline(scope, trial.steps) is not None
    begun = max(max(r.done, r.ready) for r, step in zip(scope, trial.steps, strict=True) if any(step))
    return due <= begun or _deadline(scope, trial.steps) != due


def _fronts(scope: Sequence[Runner], base: int, steps: Turns) -> tuple[int, ...]:
    """How far the accounts of those that take part have come."""
    return tuple(r.account.frontier - base if any(step) else 0 for r, step in zip(scope, steps, strict=True))


def _meters(scope: Sequence[Runner]) -> list[Meter]:
    found = {id(m): m for r in scope for m in r.meters}
    return list(found.values())
