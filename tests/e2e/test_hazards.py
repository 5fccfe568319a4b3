"""What orders the engines: commands touch only what they declare, and no wait is missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import pytest

from pimc.backends.dma.isa import ROW_WINDOWS
from pimc.backends.engines import commands, platform_of
from pimc.backends.executors import Executor
from pimc.backends.isa import Command, Region, Signal, Wait
from pimc.backends.program import Program
from pimc.backends.races import check_races
from pimc.backends.state import WIDE_SCALE, DeviceState, Space
from pimc.backends.timing import Issued
from pimc.backends.verify import verify_program
from pimc.execution import time_program
from pimc.ir.diagnostics import CompileError, Kind
from pimc.sim.time import Clockwork, Runner
from pimc.sim.values import execute
from tests.e2e.breaking import Taker, broken
from tests.e2e.harness import Built, all_steps, keeping
from tests.e2e.programs import PROGRAMS, program_of

SYNCHRONISED = ("npu", "neupims", "newton", "cent", "two devices", "two stages")
ORDERS: tuple[int | str, ...] = ("reverse", *range(6))


# -- what commands touch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_commands_touch_only_what_they_declare(name: str) -> None:
    """Every window that a command opens on a memory lies in its regions, and what changes in those that it writes.

    Rows that are mapped elsewhere count as those that commands name.
    """
    built = program_of(name)
    touched: list[tuple[Space, int, int]] = []
    view = Space.view

    def watched(self: Space, address: int, digits: Sequence[tuple[int, int]], dtype: Any) -> Any:
        if all(count for count, _ in digits):
            low = address + sum(min(0, (count - 1) * stride) for count, stride in digits)
            high = address + sum(max(0, (count - 1) * stride) for count, stride in digits) + dtype.bits // 8
            touched.append((self, low, high))
        return view(self, address, digits, dtype)

    def effect(takers: Sequence[Taker], proper: Callable[[], None]) -> None:
        before = [{r: _bytes(state, r).copy() for r in _regions(command, state)} for command, state in takers]
        touched.clear()
        proper()
        for space, low, high in touched:
            where = f"{takers[0][0]}: {space.name} {low} to {high}"
            assert any(_within(space, low, high, *taker) for taker in takers), where
        for (command, state), held in zip(takers, before, strict=True):
            _check_changes(command, state, held)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Space, "view", watched))
        for mnemonic in built.mnemonics - {"SIGNAL", "WAIT"}:
            stack.enter_context(broken(commands()[mnemonic], effect))
        built.run()


def _regions(command: Command, state: DeviceState) -> list[Region]:
    flat = (region.flat(state.geometry.stride_row) for region in command.regions())
    return [region for region in flat if region.space in state.spaces and region.length > 0]


def _bytes(state: DeviceState, region: Region) -> Any:
    assert isinstance(region.start, int)
    end = region.start + region.length
    return state.spaces[region.space]._bytes[region.start * WIDE_SCALE : end * WIDE_SCALE]


def _within(space: Space, low: int, high: int, command: Command, state: DeviceState) -> bool:
    regions = [r for r in _regions(command, state) if state.spaces[r.space] is space]
    windows = state.registers.get(ROW_WINDOWS, np.zeros((0, 3), np.int64)) * state.geometry.stride_row
    shifts = [0] + [int(by) for start, size, by in windows if start <= low - by and high - by <= start + size]
    return any(
        isinstance(r.start, int) and r.start <= low - by and high - by <= r.start + r.length
        for r in regions
        for by in shifts
    )


def _check_changes(command: Command, state: DeviceState, held: dict[Region, Any]) -> None:
    """What has changed in any region lies in one that is written, on a channel of its mask."""
    geometry = state.geometry
    for region, before in held.items():
        assert isinstance(region.start, int)
        changed = np.unique(np.flatnonzero(before != _bytes(state, region)) // WIDE_SCALE) + region.start
        allowed = np.zeros(changed.shape, bool)
        for other in (r for r in held if r.write and r.space == region.space):
            assert isinstance(other.start, int)
            inside = (other.start <= changed) & (changed < other.start + other.length)
            if other.channels is not None:
                inside &= (other.channels >> (changed // geometry.row_bytes % geometry.channels)) & 1 == 1
            allowed |= inside
        assert allowed.all(), f"{command} changes {region.space} at byte {changed[~allowed][0]}"


# -- time -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Access:
    executor: Executor
    command: Command
    region: Region
    issued: Issued

    def meets(self, other: _Access) -> bool:
        one, two = self.region, other.region
        assert isinstance(one.start, int)
        assert isinstance(two.start, int)
        apart = one.start >= two.start + two.length or two.start >= one.start + one.length
        return not apart and (one.channels is None or two.channels is None or bool(one.channels & two.channels))


@dataclass
class _Spy:
    """A timer that remembers what it was asked."""

    timer: Any
    runner: Runner
    row_stride: int
    seen: list[tuple[Runner, Command, Issued]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.timer, name)

    def issue(self, command: Command, ready: int) -> Issued:
        issued: Issued = self.timer.issue(command, ready)
        self.seen.append((self.runner, command, issued))
        return issued


def _accesses(program: Program) -> Iterator[_Access]:
    """Everything that a run touches, in the order in which it is issued."""
    platform = platform_of(program)
    clockwork = Clockwork(program, platform, engine="plain")
    seen: list[tuple[Runner, Command, Issued]] = []
    for runner in clockwork.runners:
        kind: Any = type("_Spy", (_Spy,), {})  # timers of one class are alike in what they provide
        spy = kind(runner.timer, runner, platform.geometry.stride_row, seen)
        runner.timer = spy
    assert clockwork.run().time == time_program(program).time
    for runner, command, issued in seen:
        for region in (r.flat(platform.geometry.stride_row) for r in command.regions()):
            if region.length > 0:
                yield _Access(runner.executor, command, region, issued)


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_used_before_it_is_there(name: str) -> None:
    """Engines touch the same bytes at different times, unless all read; and no engine overtakes its own results.

    Inside the array and the banks, products follow each other as in a pipeline.
    """
    live: dict[tuple[int, str], list[_Access]] = defaultdict(list)
    for access in sorted(_accesses(program_of(name).program), key=lambda a: a.issued.start):
        place = live[access.executor.rank, access.region.space]
        place[:] = [a for a in place if a.issued.done > access.issued.start]
        for earlier in place:
            if earlier.command is access.command or not earlier.meets(access):
                continue
            if earlier.executor is not access.executor:
                hazard = earlier.region.write or access.region.write
            else:
                hazard = access.region.space == "buffer" and earlier.region.write and not access.region.write
            assert not hazard, f"{access.command} starts before the end of {earlier.command}"
        place.append(access)


# -- waits ------------------------------------------------------------------------------------------------------------


def _pairs(program: Program) -> dict[tuple[str, str], set[int]]:
    """The semaphores by the engine that signals and the one that waits."""
    givers: dict[int, str] = {}
    for step in all_steps(program):
        if isinstance(step.command, Signal) and isinstance(step.command.semaphore, int):
            givers[step.command.semaphore] = step.engine
    pairs: dict[tuple[str, str], set[int]] = defaultdict(set)
    for step in all_steps(program):
        if isinstance(step.command, Wait) and isinstance(step.command.semaphore, int):
            pairs[givers[step.command.semaphore], step.engine].add(step.command.semaphore)
    return pairs


def _without(program: Program, semaphores: set[int]) -> Program:
    return keeping(program, lambda _, c: not (isinstance(c, Signal | Wait) and c.semaphore in semaphores))


def _races(program: Program) -> bool:
    try:
        check_races(program)
    except CompileError as error:
        assert error.diagnostics[0].message.startswith("nothing orders")
        return True
    return False


def _goes_wrong(built: Built, program: Program) -> bool:
    """Whether some order of the engines gives other outputs."""
    right = built.run()
    for order in ORDERS:
        try:
            outputs = execute(program, built.inputs, wide=True, order=order)[0]
        except CompileError:  # an index that is not there yet may point anywhere
            return True
        if any(outputs[name].tobytes() != right[name].tobytes() for name in right):
            return True
    return False


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_an_engine_that_never_waits_computes_nonsense(name: str) -> None:
    built = program_of(name)
    pairs = _pairs(built.program)
    for engine in {waiting for _, waiting in pairs}:
        gone = {n for (_, waiting), found in pairs.items() if waiting == engine for n in found}
        without = _without(built.program, gone)
        assert _races(without), f"{name}: nobody misses the waits of {engine}"
        assert _goes_wrong(built, without), f"{name}: no order shows that {engine} has to wait"


@pytest.mark.parametrize(
    "name", [n if n in ("npu", "cent") else pytest.param(n, marks=pytest.mark.slow) for n in SYNCHRONISED]
)
def test_waits_that_are_left_out_are_races_or_make_no_difference(name: str) -> None:
    """All waits of one engine for another. Some follow from others; without those, no order gives anything else."""
    built = program_of(name)
    races = [_is_race(built, semaphores) for semaphores in _pairs(built.program).values()]
    assert sum(races) > len(races) // 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SYNCHRONISED)
def test_a_wait_that_is_left_out_is_a_race_or_makes_no_difference(name: str) -> None:
    """The same, one semaphore at a time."""
    built = program_of(name)
    races = [_is_race(built, {n}) for found in _pairs(built.program).values() for n in sorted(found)]
    assert sum(races) > len(races) // 3


def _is_race(built: Built, semaphores: set[int]) -> bool:
    """Whether something races without these semaphores; if not, every order computes the same."""
    without = _without(built.program, semaphores)
    if _races(without):
        return True
    assert not _goes_wrong(built, without), f"semaphores {semaphores} are needed, and check_races does not see it"
    return False


@pytest.mark.parametrize("name", SYNCHRONISED)
def test_a_signal_that_is_left_out_is_a_deadlock(name: str) -> None:
    built = program_of(name)
    number = min(n for found in _pairs(built.program).values() for n in found)
    without = keeping(built.program, lambda _, c: not (isinstance(c, Signal) and c.semaphore == number))
    for run in (verify_program, time_program, lambda p: execute(p, built.inputs, wide=True)):
        with pytest.raises(CompileError) as caught:
            run(without)
        assert caught.value.diagnostics[0].kind is Kind.DEADLOCK
