"""The time engine: executes a program's streams on the timers of its engines.

Every stream is taken in order. The executor that is ready first goes first; a signal posts a token for the moment at
which all earlier commands of its stream have completed, a wait holds its stream until that moment, an exchange between
devices starts when all of them have come to it. Executors that share no resource may run ahead of each other: only
tokens connect them. `plain` executes every command; `fast` skips turns of loops whose time is known (`steady.py`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pimc.backends.affine import DEVICE, INSTANCE, Scalar
from pimc.backends.engines import Platform, platform_of
from pimc.backends.executors import Executor, Meetings, representatives
from pimc.backends.isa import Command
from pimc.backends.link.isa import Exchange
from pimc.backends.pim.issues import TellsIssues
from pimc.backends.program import Program, Stream, steps
from pimc.backends.timing import Ending, Identifying, Issued, Refreshing, Resource, Serving, Stepping, Timer
from pimc.ir.diagnostics import CompileError, Diagnostic, InternalError, Kind, fail
from pimc.sim.accounts import Account
from pimc.sim.code import Instruction, What, compiled, identified_by, moved_by
from pimc.sim.issue_trace import IssueLog
from pimc.sim.steady import Frame, Steady
from pimc.sim.timing import EngineTiming, ResourceTiming, Timing
from pimc.sim.tokens import Tokens

Engine = Literal["fast", "plain"]


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


class Meter(Resource):
    """A resource that knows for which op it was held."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.by_op: Counter[int] = Counter()
        self.users: set[int] = set()
        self.seen = 0

    def charge(self, op: int) -> None:
        """What was added since last time was for this op."""
        if self.busy != self.seen:
            self.by_op[op] += self.busy - self.seen
            self.seen = self.busy


class Pool(dict[str, Resource]):
    """The resources of one class of devices, made when a timer first asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.asker: int | None = None
        self.meters: dict[str, Meter] = {}

    def __missing__(self, name: str) -> Resource:
        if self.asker is None:
            raise InternalError(f"a timer asks for resource '{name}' after it was made")
        return self.meters.setdefault(name, Meter(name))

    def __getitem__(self, name: str) -> Resource:
        meter = self.__missing__(name) if name not in self.meters else self.meters[name]
        assert isinstance(meter, Meter)
        if self.asker is not None:
            meter.users.add(self.asker)
        return meter


@dataclass(eq=False)
class Runner:
    """One executor at work."""

    executor: Executor
    timer: Timer
    code: list[Instruction]
    meters: list[Meter]
    variables: dict[int, int]
    coupled: bool = False
    """It shares a resource with another executor, so that who comes first matters."""
    pc: int = 0
    ready: int = 0
    done: int = 0
    blocked: bool = False
    finished: bool = False
    frames: list[Frame] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    skipped: Counter[str] = field(default_factory=Counter)
    """What the timer would have counted in skipped turns."""
    identifying: Identifying | None = None
    refreshing: Refreshing | None = None
    """The timer, if it is one of these."""

    def __post_init__(self) -> None:
        self.identifying = self.timer if isinstance(self.timer, Identifying) else None
        self.refreshing = self.timer if isinstance(self.timer, Refreshing) else None

    def counters(self) -> Counter[str]:
        total = Counter(self.timer.counters)
        total.update(self.skipped)
        return total

    @property
    def index(self) -> int:
        return self.executor.index

    def value(self, scalar: Scalar) -> int:
        return scalar if isinstance(scalar, int) else scalar.at(self.variables)


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
        probes: dict[str, Timer] = {}

        def alike(stream: Stream, variable: int) -> bool:
            if stream.engine not in probes:
                probes[stream.engine] = self._timer(stream.engine, Pool(), 0)
            own = (s.command for s in steps(stream.items) if not isinstance(s.command, Exchange))
            timer = probes[stream.engine]
            return not any(variable in moved_by(timer, c) | identified_by(timer, c) for c in own)

        self.executors = representatives(program, alike)
        self.pools: dict[int, Pool] = {e.rank: Pool() for e in self.executors}
        self.runners = [self._runner(e) for e in self.executors]
        if background is not None and not self.is_serving:
            raise fail(
                Kind.UNAVAILABLE,
                f"there is no PIM work on {program.target_name} beside which a channel could serve normal reads",
                help="a channel of HBM with PIM could (targets neupims and newton), where the program has work for it",
            )
        for runner in self.runners:
            runner.coupled = any(len(m.users) > 1 for m in runner.meters)
        self.tokens = Tokens(self.executors)
        self.meetings = Meetings(self.executors)
        self.met: dict[int, Command] = {}
        self.heap: list[tuple[int, int]] = []
        self.steady = Steady(self)

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
        variables = {DEVICE: executor.rank, INSTANCE: executor.instance}
        if self.engine == "plain" and isinstance(timer, Stepping):
            timer.step()
        code = compiled(executor.items, timer, variables, plain=self.plain)
        meters = [m for m in pool.meters.values() if executor.index in m.users]
        return Runner(executor, timer, code, meters, variables)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> Timing:
        for runner in self.runners:
            self._offer(runner)
        while self.heap:
            _, index = heapq.heappop(self.heap)
            self._advance(self.runners[index])
        stuck = [r for r in self.runners if not r.finished]
        if stuck:
            raise CompileError(self._deadlock(stuck))
        return self._result()

    def _offer(self, runner: Runner) -> None:
        runner.blocked = False
        heapq.heappush(self.heap, (runner.ready, runner.index))

    def _advance(self, runner: Runner) -> None:
        """Execute until the stream ends or is held, or until an executor that it may collide with is due."""
        code = runner.code
        while True:
            if runner.coupled and self.heap and self.heap[0] < (runner.ready, runner.index):
                self._offer(runner)
                return
            instruction = code[runner.pc]
            match instruction.what:
                case What.COMMAND:
                    command = instruction.command
                    assert command is not None
                    if instruction.resolve is not None:
                        command = instruction.resolve(runner.variables)
                    self.issue(runner, command, instruction.op)
                    runner.pc += 1
                case What.SIGNAL:
                    number = runner.value(instruction.semaphore)
                    time = runner.done if runner.done > runner.ready else runner.ready
                    for index in self.tokens.post(runner.executor, number, time):
                        self._offer(self.runners[index])
                    runner.pc += 1
                case What.WAIT:
                    if not self._wait(runner, runner.value(instruction.semaphore)):
                        runner.blocked = True
                        return
                    runner.pc += 1
                case What.LOOP:
                    runner.variables[instruction.variable] = 0
                    runner.frames.append(Frame(instruction.target))
                    runner.pc += 1
                case What.END:
                    self._end(runner, instruction)
                case What.EXCHANGE:
                    if not self._exchange(runner, instruction):
                        runner.blocked = True
                        return
                case What.STOP:
                    runner.finished = True
                    if isinstance(runner.timer, Ending) and runner.account.commands:
                        runner.done = runner.timer.finish(runner.ready)
                    return

    def issue(self, runner: Runner, command: Command, op: int) -> None:
        """Time one command."""
        ready = runner.ready
        try:
            issued = runner.timer.issue(command, ready)
        except (ValueError, KeyError, IndexError, ZeroDivisionError, OverflowError) as error:
            raise fail(Kind.PROGRAM_BAD, f"{command.mnemonic} ({runner.executor}) cannot be timed: {error}") from error
        if self.watch is not None:
            self.watch(runner.executor, command, op, issued)
        runner.account.work(op, ready, issued)
        runner.ready = issued.free
        if issued.done > runner.done:
            runner.done = issued.done
        for meter in runner.meters:
            meter.charge(op)

    def _wait(self, runner: Runner, number: int) -> bool:
        token = self.tokens.take(runner.executor, number)
        if token is None:
            return False
        if token > runner.ready:
            runner.account.hold(self._cause(runner, number), runner.ready, token)
            runner.ready = token
        return True

    def _cause(self, runner: Runner, number: int) -> str:
        givers = self.tokens.semaphores[runner.executor.rank, number].signallers
        return "wait:" + ",".join(dict.fromkeys(self.executors[i].engine for i in givers))

    def _end(self, runner: Runner, end: Instruction) -> None:
        turn = runner.variables[end.variable] + 1
        runner.variables[end.variable] = turn
        if turn < end.count and not self.plain and end.alike:
            self.steady.at_end(runner, end)
            turn = runner.variables[end.variable]
        if turn < end.count:
            runner.pc = end.target
        else:
            self.steady.left(runner, runner.frames.pop())
            runner.pc += 1

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
                member.account.hold("wait:devices", member.ready, start)
                member.ready = start
            self.issue(member, self.met.pop(member.index), op)
            member.pc += 1
            if member is not runner:
                self._offer(member)
        return True

    # -- the end ----------------------------------------------------------------------------------------------------

    def _deadlock(self, stuck: list[Runner]) -> Diagnostic:
        notes = []
        for runner in stuck[:12]:
            instruction = runner.code[runner.pc]
            row = self.program.ops[instruction.op].name if 0 <= instruction.op < len(self.program.ops) else "?"
            number = runner.value(instruction.semaphore)
            what = "an exchange" if instruction.what is What.EXCHANGE else f"semaphore {number}"
            notes.append(f"{runner.executor} waits for {what} (op '{row}')")
        return Diagnostic(Kind.DEADLOCK, f"{len(stuck)} streams wait for ever", notes=tuple(notes))

    def _result(self) -> Timing:
        total = max((max(r.done, r.account.frontier) for r in self.runners), default=0)
        engines, resources = tuple(self._engines(total)), tuple(self._resources())
        return Timing(total, self.platform.clock_ps, engines, resources, self.background)

    def _engines(self, total: int) -> Iterator[EngineTiming]:
        for runner in self.runners:
            account, executor = runner.account, runner.executor
            decl = self.platform.engines[executor.engine]
            stalled = {cause: time for cause, time in sorted(account.stalled.items()) if time}
            yield EngineTiming(
                name=decl.name,
                kind=decl.kind,
                devices=executor.devices,
                instances=executor.instances,
                clock_ps=decl.clock_ps,
                end=max(runner.done, account.frontier),
                commands=account.commands,
                busy=account.busy,
                stalled=stalled,
                idle=total - account.busy - sum(stalled.values()),
                counters=dict(sorted(runner.counters().items())),
                segments=account.segments(),
            )

    def _resources(self) -> Iterator[ResourceTiming]:
        devices = {e.rank: e.devices for e in self.executors}
        for rank, pool in self.pools.items():
            for name, meter in sorted(pool.meters.items()):
                yield ResourceTiming(name, devices[rank], meter.busy, dict(meter.by_op))
