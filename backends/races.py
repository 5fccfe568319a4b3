"""Finds accesses of the same memory that nothing orders, by vector clocks over the unrolled streams.

A command of one stream comes before a command of another if a chain of signals, waits and meetings leads from one to
the other. Two accesses conflict if they share a byte, one writes, and neither comes before the other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from pimc.backends.engines import Platform, platform_of
from pimc.backends.executors import Executor, Meetings, Semaphores, all_executors, executed, selected
from pimc.backends.isa import SYNCHRONISING, Signal, Wait
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Program, Step, count
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.record import record

PAGE_BYTES = 1024
MOST_COMMANDS = 200_000
MOST_RACES = 20

Clock = dict[int, int]
"""How many commands of each executor have completed for sure."""


@record
class _Access:
    executor: int
    time: int
    """number of the command in its stream"""
    low: int
    high: int
    write: bool
    channels: int | None
    text: str

    def conflicts(self, other: _Access) -> bool:
        return (
            (self.write or other.write)
            and self.low < other.high
            and other.low < self.high
            and (self.channels is None or other.channels is None or bool(self.channels & other.channels))
        )


def check_races(program: Program, platform: Platform | None = None) -> None:
    """Raise CompileError (PROGRAM_BAD) with the unordered conflicts of a program that is small enough to unroll."""
    executors = all_executors(program)
    total = sum(count(e.items) for e in executors)
    if total > MOST_COMMANDS:
        raise fail(Kind.PROGRAM_BAD, f"{total} commands are too many to look for races (at most {MOST_COMMANDS})")
    row_stride = (platform or platform_of(program)).geometry.stride_row
    found = _Detector(program, executors, row_stride).run()
    if found:
        raise CompileError([Diagnostic(Kind.PROGRAM_BAD, text) for text in found[:MOST_RACES]])


class _Detector:
    def __init__(self, program: Program, executors: list[Executor], row_stride: int) -> None:
        self._row_stride = row_stride
        self._program = program
        self._executors = executors
        self._clocks: list[Clock] = [{e.index: 0} for e in executors]
        self._tokens: Semaphores[Clock] = Semaphores(executors)
        self._pages: dict[tuple[int, str, int], list[_Access]] = defaultdict(list)
        self._at: dict[int, Step] = {}
        self._races: dict[str, None] = {}
        self._meetings = Meetings(executors)
        self._parked: dict[int, Step] = {}

    def run(self) -> list[str]:
        walks = [executed(e.items, e.variables) for e in self._executors]
        progress = True
        while progress:
            progress = False
            for executor in self._executors:
                if executor.index in self._parked:
                    continue
                while (step := self._at.pop(executor.index, None) or next(walks[executor.index], None)) is not None:
                    if not self._advance(executor, step):
                        break
                    progress = True
        return list(self._races)

    def _advance(self, executor: Executor, step: Step) -> bool:
        clock = self._clocks[executor.index]
        match step.command:
            case Signal(semaphore=int() as number):
                self._tokens.post(executor, number, dict(clock))
            case Wait(semaphore=int() as number):
                tokens = self._tokens.take(executor, number)
                if tokens is None:
                    self._at[executor.index] = step
                    return False
                for token in tokens:
                    _join(clock, token)
            case Exchange() as command:
                self._parked[executor.index] = step
                met = self._meetings.arrive(executor, command)
                if met is None:
                    return False
                self._meet([self._executors[m] for m in met])
            case _:
                self._execute(executor, step)
        return True

    def _execute(self, executor: Executor, step: Step) -> None:
        clock = self._clocks[executor.index]
        clock[executor.index] += 1
        text = f"{step.command.mnemonic} of op '{self._op(step)}' ({executor})"
        for region in (r.flat(self._row_stride) for r in step.command.regions()):
            start = region.start
            if region.length <= 0 or not isinstance(start, int):
                continue
            access = _Access(
                executor.index, clock[executor.index], start, start + region.length, region.write, region.channels, text
            )
            self._enter(executor, region.space, access, clock)

    def _enter(self, executor: Executor, space: str, access: _Access, clock: Clock) -> None:
        for page in range(access.low // PAGE_BYTES, (access.high - 1) // PAGE_BYTES + 1):
            entries = self._pages[executor.rank, space, page]
            kept: list[_Access] = []
            for earlier in entries:
                ordered = clock.get(earlier.executor, 0) >= earlier.time
                if not ordered and earlier.conflicts(access):
                    where = f"in '{space}' at byte {access.low}"
                    self._races[f"nothing orders {earlier.text} and {access.text} {where}"] = None
                inside = access.low <= earlier.low and earlier.high <= access.high and access.channels is None
                if not (ordered and inside and (access.write or not earlier.write)):
                    kept.append(earlier)
            kept.append(access)
            self._pages[executor.rank, space, page] = kept

    def _meet(self, members: list[Executor]) -> None:
        """All members know what each of them knew, and then do their part."""
        joint: Clock = {}
        for member in members:
            _join(joint, self._clocks[member.index])
        for member in members:
            _join(self._clocks[member.index], joint)
            self._execute(member, self._parked.pop(member.index))

    def _op(self, step: Step) -> str:
        return self._program.ops[step.op].name if 0 <= step.op < len(self._program.ops) else "?"


def _join(clock: Clock, other: Clock) -> None:
    for executor, time in other.items():
        if clock.get(executor, 0) < time:
            clock[executor] = time


def without_synchronisation(program: Program, semaphore: int) -> Program:
    """The program without the signals and waits of one semaphore: what tests of the detector start from."""

    def kept(command: object) -> bool:
        return not (isinstance(command, SYNCHRONISING) and command.semaphore == semaphore)

    return replace(program, streams=tuple(replace(s, items=selected(s.items, kept)) for s in program.streams))
