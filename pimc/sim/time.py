"""The time engine: executes a program's streams on the timers of its engines.

Every stream is taken in order. The executor that is ready first goes first; a signal posts a token for the moment at
which all earlier commands of its stream have completed, a wait holds its stream until that moment, an exchange between
devices starts when all of them have come to it. Executors that share no resource may run ahead of each other: only
tokens connect them. `plain` executes every command; `fast` skips turns of loops whose time is known (`steady.py`).
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from pimc.backends.affine import DEVICE, INSTANCE, value
from pimc.backends.engines import Platform, platform_of
from pimc.backends.executors import Executor, Meetings, representatives
from pimc.backends.isa import Command
from pimc.backends.link.isa import Exchange
from pimc.backends.pim.issues import TellsIssues
from pimc.backends.program import Program, Stream, steps
from pimc.backends.timing import Ending, Identifying, Issued, Refreshing, Resource, Serving, Stepping, Timer, having
from pimc.ir.diagnostics import CompileError, Diagnostic, InternalError, Kind, fail
from pimc.sim.accounts import HELD, Account, Run
from pimc.sim.code import (
    COMMAND,
    END,
    EXCHANGE,
    LOOP,
    MORE,
    RUN,
    SIGNAL,
    WAIT,
    Compiler,
    Instruction,
    Known,
    LoopTime,
    Time,
    identified_by,
    moved_by,
    resolver,
)
from pimc.sim.ledger import Ledger
from pimc.sim.steady import FOREVER, Frame, Steady
from pimc.sim.timing import EngineTiming, ResourceTiming, Timing
from pimc.sim.tokens import Semaphore, Tokens

if TYPE_CHECKING:
    from pimc.sim.issue_trace import IssueLog

Engine = Literal["fast", "plain"]

TIMER_ERRORS = (ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError)
"""What timers raise for operands that make no sense."""

Watch = Callable[[Executor, Command, int, Issued], None]
"""Sees a command as it is executed, the row of its op, and when it runs."""


def simulate(
    program: Program,
    *,
    engine: Engine = "fast",
    platform: Platform | None = None,
    issues: IssueLog | None = None,
    watch: Watch | None = None,
    background: int | None = None,
) -> Timing:
    """The time of a program. Raises CompileError: PROGRAM_BAD, DEADLOCK, UNAVAILABLE.

    issues: takes every DRAM command of the PIM engines. watch: sees every command. Nothing is skipped with either.
    background: normal reads that every channel with PIM work is offered in a clock; None: there are no such reads.
    """
    machine = platform or platform_of(program)
    clockwork = Clockwork(program, machine, engine=engine, issues=issues, watch=watch, background=background)
    return clockwork.run()


class Work:
    """The op that is being worked for."""

    __slots__ = ("op",)

    def __init__(self) -> None:
        self.op = -1


class Meter(Resource):
    """A resource that knows for which op it was held."""

    def __init__(self, name: str, work: Work) -> None:
        super().__init__(name)
        self.work = work
        self.by_op: Counter[int] = Counter()
        self.users: set[int] = set()

    def acquire(self, at: int, duration: int) -> int:
        self.by_op[self.work.op] += duration
        return super().acquire(at, duration)

    def share(self, at: int, duration: int) -> int:
        self.by_op[self.work.op] += duration
        return super().share(at, duration)


class Pool(dict[str, Resource]):
    """The resources of one class of devices, made when a timer first asks for them."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work
        self.asker: int | None = None
        self.meters: dict[str, Meter] = {}

    def __missing__(self, name: str) -> Resource:
        if self.asker is None:
            raise InternalError(f"a timer asks for resource '{name}' after it was made")
        return self.meters.setdefault(name, Meter(name, self.work))

    def __getitem__(self, name: str) -> Resource:
        meter = self.__missing__(name) if name not in self.meters else self.meters[name]
        assert isinstance(meter, Meter)
        if self.asker is not None:
            meter.users.add(self.asker)
        return meter


@dataclass(eq=False, slots=True)
class Runner:
    """One executor at work."""

    executor: Executor
    timer: Timer
    meters: list[Meter]
    variables: dict[int, int]
    index: int
    compiler: Compiler
    code: list[Instruction]
    """so far as it has been made"""
    coupled: bool = False
    """It shares a resource with another executor, so that who comes first matters."""
    pc: int = 0
    turns: int = 0
    """how many turns of a RUN are done"""
    ready: int = 0
    done: int = 0
    blocked: bool = False
    finished: bool = False
    frames: list[Frame] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    ledger: Ledger = field(init=False)
    identifying: Identifying | None = None
    refreshing: Refreshing | None = None
    """The timer, if it is one of these."""

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.timer)
        self.identifying = having(self.timer, Identifying)
        self.refreshing = having(self.timer, Refreshing)

    def semaphore(self, instruction: Instruction, tokens: Tokens) -> Semaphore:
        """The one that a SIGNAL or WAIT means in this turn."""
        if instruction.semaphore is not None:
            return instruction.semaphore
        return tokens.of(self.executor).of(value(instruction.number, self.variables))


class Clockwork:
    """A program under execution."""

    def __init__(
        self,
        program: Program,
        platform: Platform,
        *,
        engine: Engine = "fast",
        issues: IssueLog | None = None,
        watch: Watch | None = None,
        background: int | None = None,
    ) -> None:
        self.program = program
        self.background = background
        self.is_serving = False
        self.platform = platform
        self.engine = engine
        self.plain = engine == "plain" or issues is not None or watch is not None
        self.issues = issues
        self.watch = watch
        self.work = Work()
        self.executors = representatives(program, self._alike())
        self.pools: dict[int, Pool] = {e.rank: Pool(self.work) for e in self.executors}
        self.tokens = Tokens(self.executors)
        self.unfinished = Counter(e.rank for e in self.executors)
        """executors, by device"""
        self.known: defaultdict[str, Known] = defaultdict(Known)
        """by engine"""
        self.runners = [self._runner(e) for e in self.executors]
        if background is not None and not self.is_serving:
            raise fail(
                Kind.UNAVAILABLE,
                f"there is no PIM work on {program.target_name} beside which a channel could serve normal reads",
                help="a channel of HBM with PIM could (targets neupims and newton), where the program has work for it",
            )
        for runner in self.runners:
            runner.coupled = any(len(m.users) > 1 for m in runner.meters)
        self.meetings = Meetings(self.executors)
        self.met: dict[int, Command] = {}
        self.heap: list[tuple[int, int]] = []
        self.steady = Steady(self)

    def _alike(self) -> Callable[[Stream, int], bool]:
        """Whether the time of a stream does not depend on a variable."""
        probes: dict[str, Timer] = {}
        found: dict[int, set[int]] = {}

        def alike(stream: Stream, variable: int) -> bool:
            if id(stream) not in found:
                if stream.engine not in probes:
                    probes[stream.engine] = self._timer(stream.engine, Pool(self.work), 0)
                timer = probes[stream.engine]
                moving = {c: None for s in steps(stream.items) if (c := s.command).is_affine}
                own = [c for c in moving if not isinstance(c, Exchange)]
                found[id(stream)] = {v for c in own for v in moved_by(timer, c) | identified_by(timer, c)}
            return variable not in found[id(stream)]

        return alike

    def _timer(self, engine: str, pool: Pool, index: int) -> Timer:
        decl = self.platform.engines.get(engine)
        if decl is None:
            raise fail(Kind.PROGRAM_BAD, f"the program has a stream for engine '{engine}', which its target lacks")
        pool.asker = index
        try:
            return self.platform.timer(decl, pool)
        finally:
            pool.asker = None

    def _runner(self, executor: Executor) -> Runner:
        pool = self.pools[executor.rank]
        timer = self._timer(executor.engine, pool, executor.index)
        if self.background is not None and isinstance(timer, Serving):
            self.is_serving = True
            timer = timer.serving(self.background) if self.background else timer
        if self.issues is not None and isinstance(timer, TellsIssues):
            width = self.platform.geometry.channels
            own = (device * width + i for device in executor.devices for i in executor.instances)
            timer.issues = self.issues.sink(own)
        if self.engine == "plain" and isinstance(timer, Stepping):
            timer.step()
        meters = [m for m in pool.meters.values() if executor.index in m.users]
        variables = {DEVICE: executor.rank, INSTANCE: executor.instance}
        plainly = partial(self._plainly, executor, timer, variables) if self.plain else None
        compiler = Compiler(executor, timer, self.tokens.of(executor), variables, self.known[executor.engine], plainly)
        return Runner(executor, timer, meters, variables, executor.index, compiler, compiler.code)

    def _plainly(
        self, executor: Executor, timer: Timer, variables: Mapping[int, int], command: Command, op: int
    ) -> Time:
        """What times a command of a stream with nothing prepared."""
        resolve = resolver(command)

        def time(ready: int) -> Issued:
            resolved = command if resolve is None else resolve(variables)
            issued = timer.issue(resolved, ready)
            if self.watch is not None:
                self.watch(executor, resolved, op, issued)
            return issued

        return time

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Timing:
        for runner in self.runners:
            self._offer(runner)
        while self.heap:
            _, index = heapq.heappop(self.heap)
            runner = self.runners[index]
            try:
                self._advance(runner)
            except TIMER_ERRORS as error:
                command = runner.code[runner.pc].command
                if command is None:
                    raise
                text = f"{command.mnemonic} ({runner.executor}) cannot be timed: {error}"
                raise fail(Kind.PROGRAM_BAD, text) from error
        stuck = [r for r in self.runners if not r.finished]
        if stuck:
            raise CompileError(self._deadlock(stuck))
        return self._result()

    def _offer(self, runner: Runner) -> None:
        runner.blocked = False
        heapq.heappush(self.heap, (runner.ready, runner.index))

    def _advance(self, runner: Runner) -> None:
        """Execute until the stream ends or is held, or until an executor that it may collide with is due."""
        code, variables, index = runner.code, runner.variables, runner.index
        while True:
            instruction = code[runner.pc]
            what = instruction.what
            if what == COMMAND:
                if runner.coupled and self._is_early(runner):
                    return
                assert instruction.time is not None
                self._issue(runner, instruction.op, instruction.time)
            elif what == SIGNAL:
                semaphore = instruction.semaphore or runner.semaphore(instruction, self.tokens)
                done, ready = runner.done, runner.ready
                for freed in semaphore.post(index, done if done > ready else ready):
                    self._offer(self.runners[freed])
            elif what == WAIT:
                semaphore = instruction.semaphore or runner.semaphore(instruction, self.tokens)
                token = semaphore.take(index)
                if token is None:
                    runner.blocked = True
                    return
                if token > runner.ready:
                    self._hold(runner, token, semaphore.cause)
            elif what == END:
                variables[instruction.variable] += 1
                if instruction.skips and variables[instruction.variable] < instruction.count:
                    self.steady.at_end(runner, instruction)
                if variables[instruction.variable] < instruction.count:
                    runner.pc = instruction.target
                    continue
                frame = runner.frames.pop()
                if instruction.skips:
                    self.steady.left(runner, frame)
                runner.account.settle()
            elif what == RUN:
                turns = instruction.turns
                if not (self._run(runner, instruction) if turns is None else self._run_on(runner, instruction, turns)):
                    return
            elif what == LOOP:
                variables[instruction.variable] = 0
                runner.frames.append(Frame(instruction.target))
            elif what == EXCHANGE:
                if not self._exchange(runner, instruction):
                    runner.blocked = True
                    return
                continue
            elif what == MORE:
                runner.account.settle()
                runner.compiler.go_on()
                continue
            else:
                self._stop(runner)
                return
            runner.pc += 1

    def _is_early(self, runner: Runner) -> bool:
        """Whether somebody else's turn comes first."""
        if self.heap and self.heap[0] < (runner.ready, runner.index):
            self._offer(runner)
            return True
        return False

    def _run(self, runner: Runner, instruction: Instruction) -> bool:
        """All turns of a loop of one command. False: somebody else's turn comes first."""
        time, op, variable = instruction.time, instruction.op, instruction.variable
        assert time is not None
        while runner.turns < instruction.count:
            if runner.coupled and self._is_early(runner):
                return False
            runner.variables[variable] = runner.turns
            self._issue(runner, op, time)
            runner.turns += 1
        runner.turns = 0
        return True

    def _run_on(self, runner: Runner, instruction: Instruction, time: LoopTime) -> bool:
        """The same, many turns at one go: up to the turn of somebody else."""
        heap, count, account = self.heap if runner.coupled else (), instruction.count, runner.account
        op = self.work.op = instruction.op
        if runner.ledger.op != op:
            runner.ledger.turn(op)
        number, limit, ready = runner.turns, FOREVER, runner.ready
        while number < count:
            if heap:
                limit, index = heap[0]
                limit += runner.index < index
                if ready >= limit:  # somebody else's turn comes first
                    runner.turns, runner.ready = number, ready
                    self._offer(runner)
                    return False
            at, turns, free, done, worked = time(number, count, ready, limit)
            account.entries.append(Run(op, at, turns))
            if worked + at > account.frontier:
                account.frontier = worked + at
            ready = free + at
            if done + at > runner.done:
                runner.done = done + at
            taken = len(turns)
            account.turns += taken
            number += taken
        runner.turns, runner.ready = 0, ready
        return True

    def _issue(self, runner: Runner, op: int, time: Time) -> None:
        """Time one command."""
        self.work.op = op
        if runner.ledger.op != op:
            runner.ledger.turn(op)
        ready = runner.ready
        start, free, done, busy, cause = time(ready)
        account = runner.account
        account.entries.append((op, ready, start, busy, done, cause))
        if start + busy > account.frontier:
            account.frontier = start + busy
        runner.ready = free
        if done > runner.done:
            runner.done = done

    @staticmethod
    def _hold(runner: Runner, until: int, cause: str) -> None:
        """The stream cannot go on before a time."""
        account = runner.account
        account.entries.append((HELD, runner.ready, until, 0, 0, cause))
        if until > account.frontier:
            account.frontier = until
        account.held = until
        runner.ready = until

    def _exchange(self, runner: Runner, instruction: Instruction) -> bool:
        """Come to an exchange; the last to come executes it for all. False: others are still to come."""
        command = instruction.command
        assert isinstance(command, Exchange)
        command = command.resolved(runner.variables)
        self.met[runner.index] = command
        members = self.meetings.arrive(runner.executor, command)
        if members is None:
            return False
        runners = [self.runners[m] for m in members]
        start = max(r.ready for r in runners)
        for member in runners:
            op = member.code[member.pc].op
            if start > member.ready:
                self._hold(member, start, "wait:devices")
            met = self.met.pop(member.index)
            self._issue(member, op, self._plainly(member.executor, member.timer, member.variables, met, op))
            member.pc += 1
            if member is not runner:
                self._offer(member)
        return True

    def _stop(self, runner: Runner) -> None:
        runner.finished = True
        self.unfinished[runner.executor.rank] -= 1
        if not self.unfinished[runner.executor.rank]:
            self.tokens.forget(runner.executor.rank)
        ending: Ending | None = having(runner.timer, Ending)
        if ending is not None and runner.account.has_worked:
            runner.done = ending.finish(runner.ready)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _deadlock(self, stuck: list[Runner]) -> Diagnostic:
        notes = []
        for runner in stuck[:12]:
            instruction = runner.code[runner.pc]
            row = self.program.ops[instruction.op].name if 0 <= instruction.op < len(self.program.ops) else "?"
            number = value(instruction.number, runner.variables)
            what = "an exchange" if instruction.what == EXCHANGE else f"semaphore {number}"
            notes.append(f"{runner.executor} waits for {what} (op '{row}')")
        return Diagnostic(Kind.DEADLOCK, f"{len(stuck)} streams wait for ever", notes=tuple(notes))

    def _result(self) -> Timing:
        total = max((max(r.done, r.account.held) for r in self.runners), default=0)
        total *= self.program.turns
        engines, resources = tuple(self._engines(total)), tuple(self._resources())
        stages = -(-self.program.stages // self.program.turns)
        group = self.program.devices // stages if stages > 1 else 0
        return Timing(
            total, self.platform.clock_ps, engines, resources, self.background, self.program.turns, group
        )  # fmt: skip

    def _engines(self, total: int) -> Iterator[EngineTiming]:
        for runner in self.runners:
            executor = runner.executor
            decl = self.platform.engines[executor.engine]
            counters, tallies = runner.ledger.split()
            yield EngineTiming(
                name=decl.name,
                kind=decl.kind,
                devices=executor.devices,
                instances=executor.instances,
                clock_ps=decl.clock_ps,
                end=max(runner.done, runner.account.held),
                run=total,
                account=runner.account,
                counters=counters,
                waited=total - total // self.program.turns,
                tallies=tallies,
                counts=runner.ledger.by_op,
            )

    def _resources(self) -> Iterator[ResourceTiming]:
        devices = {e.rank: e.devices for e in self.executors}
        for rank, pool in self.pools.items():
            for name, meter in sorted(pool.meters.items()):
                yield ResourceTiming(name, devices[rank], meter.busy, dict(meter.by_op))
