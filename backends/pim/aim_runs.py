"""Turns of a loop of one command at one go: what they come to from a state is found once, turn by turn."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pimc.backends.pim.aim_channel import NEVER
from pimc.backends.pim.aim_device import AimDevice, Lane
from pimc.backends.pim.aim_states import Key, State
from pimc.backends.pim.memory_share import MemoryShare
from pimc.backends.timing import Issued, Turn, Turns

if TYPE_CHECKING:
    from pimc.backends.pim.aim_controller import Trace


class Reached(NamedTuple):
    """What turns come to. Clocks and times count from the channels' last offer before the first of them."""

    state: State
    rows: tuple[int, ...] | None
    """the rows that the state knows: places among those known before, or ~turn for the row of a turn; None: the same"""
    base: int
    clock: int
    decoded: int
    last: int | None
    """the last command, if there was one"""
    blocked: int | None
    """until when nothing could be decoded, if the front end was held"""
    free: int
    done: int
    worked: int
    """as `Turns` has them"""


@dataclass(slots=True)
class Run:
    """Turns from a state, as far as they are known."""

    left: int
    """clocks until a refresh was due; where no turn is known, the first one is not over by then"""
    turns: list[Turn] = field(default_factory=list)
    reached: list[Reached] = field(default_factory=list)
    """after each"""
    log: list[int] = field(default_factory=list)
    """the transition of each"""
    ready: list[int] = field(default_factory=list)
    """when the stream was ready for each; of the first it only matters when it was decoded"""
    finished: list[int] = field(default_factory=list)
    """the clock at which everything is completed after each; no refresh may be due by then"""


@dataclass(slots=True)
class Repeated:
    """A loop of one command, for channels of one history."""

    device: AimDevice
    memory: MemoryShare
    trace: Trace
    clock_ps: int
    mask: int
    shape: tuple[int, ...]
    """what the time of a turn depends on besides the state and the row"""
    row: Callable[[Mapping[int, int]], int]
    step: int
    """how far apart the rows of turns are; 0: they are the same, or the command has none"""
    variables: dict[int, int]
    variable: int
    """what counts the turns"""
    issue: Callable[[int], Issued]
    """times a turn for which the stream is ready at a time"""
    runs: dict[Key, Run] = field(init=False)
    """those of loops of this kind"""

    def __post_init__(self) -> None:
        self.runs = self.device.states.runs[self.shape, self.step != 0]

    def turns(self, number: int, count: int, ready: int, limit: int) -> Turns:
        """Some of the turns from a number on, of so many.

        limit: turns that the stream is ready for only then, or later, are left out, but for the first.
        """
        device, memory, numbers = self.device, self.memory, range(number, count)
        lane = device.of_channel[self.mask.bit_length() - 1]
        if lane.mask != self.mask:
            return self._found(None, None, numbers, 0, ready, limit, ready)
        asked, clock = ready, -(-ready // self.clock_ps) + 1
        if memory.is_disturbed:
            ready = memory.begin(ready)
            clock = -(-ready // self.clock_ps) + 1
            device.lose_rows(clock)
        if clock > device.clock:
            device.clock, device.decoded = clock, 0
        if device.clock < lane.opens:
            device.tell_of_refresh(lane, device.clock, self.shape[0])
        base, left = lane.base, lane.due - lane.base
        at = base * self.clock_ps
        self.variables[self.variable] = number
        row = self.row(self.variables)
        places = -1 if row < 0 else _places(lane.rows, row, self.step) if lane.rows else None
        key = (lane.state.number, device.clock - base, device.decoded, places)
        run = self.runs.get(key)
        if run is None or (not run.turns and run.left < left):
            run = self.runs[key] = Run(left)
            return self._found(run, lane.copy(), numbers, row, ready, limit, asked)
        known = len(run.turns)
        taken = bisect_left(run.ready, limit - at, 1, min(known, count - number)) if known else 0
        taken = min(taken, bisect_left(run.finished, left))
        if not taken:
            return self._found(None, None, numbers[:1], 0, ready, limit, asked)
        reached = run.reached[taken - 1]
        free, more = reached.free, taken == known < count - number and at + reached.free < limit
        before = lane.copy() if more else None
        _advance(device, lane, reached, run.log[:taken], row, self.step)
        self.trace.lines += taken
        memory.end(at + reached.worked)
        turns = run.turns[:taken]
        if turns[0].ready != asked - at:
            turns[0] = turns[0]._replace(ready=asked - at)
        found = Turns(at, turns, free, reached.done, reached.worked)
        if before is None:
            return found
        return found.followed_by(self._found(run, before, numbers[taken:], row, at + free, limit, at + free))

    def _found(
        self, run: Run | None, before: Lane | None, numbers: range, row: int, ready: int, limit: int, asked: int
    ) -> Turns:
        """Turns one by one. With a run, they are those after the ones it knows, are remembered in it, and end where a
        refresh comes; before: the lane as it was before the first of all; asked: when the stream was ready for the
        first, if that had to wait."""
        device, variables, variable = self.device, self.variables, self.variable
        lane, outlook = device.of_channel[self.mask.bit_length() - 1], device.states.outlook
        due, logged, remembers = lane.due, len(lane.log), before is not None
        turns: list[Turn] = []
        last = worked = 0
        for number in numbers:
            variables[variable] = number
            start, free, done, busy, cause = self.issue(ready)
            turn = Turn(asked, start, busy, done, cause)
            turns.append(turn)
            asked = ready = free
            if done > last:
                last = done
            if start + busy > worked:
                worked = start + busy
            if before is not None and lane.due != due:
                break  # from here on it may be known
            if remembers and run is not None and before is not None:
                finished = lane.base + outlook(lane.state, NEVER).done
                remembers = finished < due and len(lane.log) == logged + len(turns)
                if remembers:
                    self._remember(run, before, lane, turn, free, finished, row)
            if ready >= limit:
                break
        return Turns(0, turns, ready, last, worked)

    def _remember(
        self, run: Run, before: Lane, lane: Lane, turn: Turn, free: int, finished: int, row: int
    ) -> None:
        device, base, at = self.device, before.base, before.base * self.clock_ps
        ready, start, busy, done, cause = turn
        run.turns.append(Turn(ready - at, start - at, busy, done - at, cause))
        run.log.append(lane.log[-1])
        run.ready.append(ready - at)
        done, worked, finished = done - at, start + busy - at, finished - base
        if run.reached:
            done, worked = max(done, run.reached[-1].done), max(worked, run.reached[-1].worked)
            finished = max(finished, run.finished[-1])
        run.finished.append(finished)
        rows, known = None, before.rows
        if lane.rows != known:
            rows = tuple([known.index(r) if r in known else ~((r - row) // (self.step or 1)) for r in lane.rows])
        last = lane.last - base if lane.last > before.last else None
        blocked = lane.blocked - base if lane.blocked > before.blocked else None
        run.reached.append(
            Reached(
                lane.state, rows, lane.base - base, device.clock - base, device.decoded, last, blocked, free - at,
                done, worked,
            )
        )  # fmt: skip


def _advance(device: AimDevice, lane: Lane, reached: Reached, log: Sequence[int], row: int, step: int) -> None:
    base, known = lane.base, lane.rows
    lane.state = reached.state
    if reached.rows is not None:
        lane.rows = tuple([known[i] if i >= 0 else row + ~i * step for i in reached.rows])
    lane.base = base + reached.base
    lane.log.extend(log)
    if reached.last is not None:
        lane.last = base + reached.last
    if reached.blocked is not None:
        lane.blocked = base + reached.blocked
    device.clock, device.decoded = base + reached.clock, reached.decoded


def _places(known: tuple[int, ...], row: int, step: int) -> Hashable:
    """Which of the rows of turns are known already, and where."""
    if not step:
        return known.index(row) if row in known else None
    return tuple([_turn_of(each, row, step) for each in known])


def _turn_of(known: int, row: int, step: int) -> int | None:
    """The turn, from 0 on, whose row is known already."""
    turn, off = divmod(known - row, step)
    return None if off or turn < 0 else turn
