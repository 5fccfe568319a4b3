"""Streams as flat code for the time engine: commands, loop heads and ends, signals, waits, exchanges. A short loop of
one command is one step (RUN). Code is made when its executor comes to it, part by part, and forgotten behind it: of the
stages of a pipeline only those at work have any.

Most operands that move with loops (addresses) do not matter for time. What does matter is the timer's business: its
`signature(command)` gives what the command's time depends on, moving operands left as they are. A timer without it
depends on every operand but addresses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from pimc.backends.affine import DEVICE, INSTANCE, Affine, Scalar
from pimc.backends.executors import Executor
from pimc.backends.isa import SYNCHRONISING, Command, Signal, Wait, operands_of, values_of
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop, Step
from pimc.backends.timing import Binding, Following, Issued, Repeating, Timer, Turns, having
from pimc.record import record
from pimc.sim.tokens import Semaphore, Semaphores

Resolver = Callable[[Mapping[int, int]], Command]
Time = Callable[[int], Issued]
"""What times a command when its stream is ready for it."""
LoopTime = Callable[[int, int, int, int], Turns]
"""What times turns of a loop of one command: the number of the next, how many there are, when the stream is ready, and
a time before which it must be ready for further ones."""

COMMAND: Final = 0
SIGNAL: Final = 1
WAIT: Final = 2
LOOP: Final = 3
END: Final = 4
EXCHANGE: Final = 5
STOP: Final = 6
RUN: Final = 7
MORE: Final = 8
"""Here goes the next part of the code."""

LEAST_PART = 32
"""Items of a stream that are made into code at one go, if there are so many."""
LEAST_TURNS = 4
"""Loops with fewer turns are not worth skipping."""
LEAST_COMMANDS = 96
"""So are loops that execute fewer commands."""


@dataclass(slots=True)
class Instruction:
    """One step of the code."""

    what: int
    op: int = -1
    command: Command | None = None
    time: Time | None = None
    """COMMAND, RUN: what times it, with its operands as they are then"""
    turns: LoopTime | None = None
    """RUN: what times turns at one go (`Repeating`)"""
    semaphore: Semaphore | None = None
    """SIGNAL, WAIT: which; None: `number` moves with loops"""
    number: Scalar = 0
    variable: int = 0
    count: int = 0
    target: int = 0
    """LOOP: where its END is. END: the first instruction of the body."""
    alone: bool = False
    """END: nothing in the body waits, signals or meets"""
    meets: bool = False
    """END: the body has an exchange"""
    families: tuple[Family, ...] = ()
    """END: the identities that commands of the body have (`Identifying`)"""
    alike: bool = False
    """END: the time of a turn does not depend on its number"""
    skips: bool = False
    """END: turns are alike, and it is worth trying to skip some"""


@dataclass(slots=True)
class Body:
    """What is known of the items of a loop, or of a stream."""

    moved: set[int] = field(default_factory=set)
    """variables that some time, semaphore or partner depends on"""
    alone: bool = True
    """nothing waits, signals or meets"""
    meets: bool = False
    """there is an exchange"""
    commands: int = 0
    """executed in one turn"""
    families: dict[Family, None] = field(default_factory=dict)
    """the identities that commands have (`Identifying`), in the order of the stream"""

    def add(self, inner: Body, variable: int, count: int) -> None:
        """A loop belongs to the body."""
        self.moved |= inner.moved - {variable}
        self.alone = self.alone and inner.alone
        self.meets = self.meets or inner.meets
        self.commands += inner.commands * count
        for family in inner.families:
            self.families.setdefault(family.over(variable, count))


@record
class Family:
    """What an operand is in the turns of a loop: a scalar, and how far inner loops move it."""

    scalar: Affine
    low: int = 0
    high: int = 0

    def over(self, variable: int, count: int) -> Family:
        """The same for all turns of an inner loop."""
        slope = self.slope(variable)
        if not slope:
            return self
        reach = slope * (count - 1)
        terms = tuple(term for term in self.scalar.terms if term[0] != variable)
        return Family(Affine(self.scalar.base, terms), self.low + min(0, reach), self.high + max(0, reach))

    def around(self, variables: Mapping[int, int]) -> tuple[int, int]:
        """The least and the largest value in the turn that the counters of loops are at."""
        at = self.scalar.base + sum(factor * variables.get(variable, 0) for variable, factor in self.scalar.terms)
        return at + self.low, at + self.high

    def slope(self, variable: int) -> int:
        return next((factor for v, factor in self.scalar.terms if v == variable), 0)


@record
class Facts:
    """What is known of a command, whoever executes it."""

    moved: frozenset[int]
    """variables that its time depends on"""
    identity: Scalar | None
    identified: frozenset[int]
    """variables that its identity depends on"""
    plain: Command | None
    """the command with plain operands, if its time and identity depend on no variable"""


class Known:
    """What is known of the commands of one engine. Devices that do the same have the same commands."""

    def __init__(self) -> None:
        self._facts: dict[int, Facts] = {}
        """by the identity of commands, which the program keeps"""

    def of(self, command: Command, timer: Timer) -> Facts:
        facts = self._facts.get(id(command))
        if facts is None:
            identify = getattr(timer, "identity", None)
            identity = None if identify is None else identify(command)
            moves = command.is_affine
            moved = _moved(timer, command) if moves else frozenset()
            identified = frozenset(_variables(identity)) if moves else frozenset()
            plain = None if moved or identified else command.resolved(_ANYWHERE) if moves else command
            facts = self._facts[id(command)] = Facts(moved, identity, identified, plain)
        return facts


_ANYWHERE: Mapping[int, int] = defaultdict(int)
"""Variables of commands that take the same time whatever these are."""


class Compiler:
    """Makes the code of one executor.

    plain: a command is timed by `plainly(command, op)`, resolved each time, and nothing is known of loops.
    """

    def __init__(
        self,
        executor: Executor,
        timer: Timer,
        semaphores: Semaphores,
        variables: dict[int, int],
        known: Known,
        plainly: Callable[[Command, int], Time] | None = None,
    ) -> None:
        self._timer = timer
        self._semaphores = semaphores
        self._variables = variables
        """the counters of loops as they are when the code is executed"""
        self._known = known
        self._plainly = plainly
        self._binding: Binding | None = having(timer, Binding)
        self._following: Following | None = having(timer, Following)
        self._repeating: Repeating | None = having(timer, Repeating)
        self._start = dict(variables)
        self._code: list[Instruction] = [Instruction(MORE)]
        self._begin = 0
        """of the part that was made last"""
        self._parts = iter(_parts(executor.items))

    @property
    def code(self) -> list[Instruction]:
        """What has been made of it; it goes on at MORE."""
        return self._code

    def go_on(self) -> None:
        """Put the next part, or a STOP, in the place of the MORE at the end."""
        code = self._code
        code.pop()
        code[self._begin :] = [_BEHIND] * (len(code) - self._begin)
        self._begin = len(code)
        part = next(self._parts, None)
        self._items(part or ())
        code.append(Instruction(STOP if part is None else MORE))

    def _items(self, items: Sequence[Item]) -> Body:
        body = Body()
        for item in items:
            if not isinstance(item, Loop):
                self._step(item, body)
            elif item.count > 0 and item.body:
                body.add(self._loop(item), item.variable, item.count)
        return body

    def _loop(self, loop: Loop) -> Body:
        head = Instruction(LOOP, variable=loop.variable, count=loop.count)
        self._code.append(head)
        start = len(self._code)
        self._start[loop.variable] = 0
        body = self._items(loop.body)
        head.target = len(self._code)
        alike = self._plainly is None and loop.variable not in body.moved
        skips = alike and loop.count >= LEAST_TURNS and loop.count * body.commands >= LEAST_COMMANDS
        if len(loop.body) == 1 and self._code[-1].what == COMMAND and not skips:
            only = self._code.pop()
            head.what, head.op, head.command, head.time = RUN, only.op, only.command, only.time
            head.turns = self._turns(only, loop.variable)
            return body
        self._code.append(
            Instruction(END, variable=loop.variable, count=loop.count, target=start, alone=body.alone, meets=body.meets,
                        families=tuple(body.families), alike=alike, skips=skips)
        )  # fmt: skip
        return body

    def _step(self, step: Step, body: Body) -> None:
        command = step.command
        if isinstance(command, SYNCHRONISING):
            what, number = SIGNAL if isinstance(command, Signal) else WAIT, command.semaphore
            known = self._semaphores.of(number) if isinstance(number, int) else None
            self._code.append(Instruction(what, step.op, semaphore=known, number=number))
            body.alone = False
            if known is None:
                body.moved.update(_variables(number))
            return
        body.commands += 1
        if isinstance(command, Exchange):
            self._code.append(Instruction(EXCHANGE, step.op, command))
            body.alone, body.meets = False, True
            body.moved |= moved_by(self._timer, command)
        elif self._plainly is not None:
            self._code.append(Instruction(COMMAND, step.op, command, self._plainly(command, step.op)))
        else:
            facts = self._known.of(command, self._timer)
            body.moved |= facts.moved
            if facts.identity is not None:
                body.families.setdefault(Family(_affine(facts.identity)))
            self._code.append(Instruction(COMMAND, step.op, command, self._time(command, facts)))

    def _time(self, command: Command, facts: Facts) -> Time:
        prepared = self._prepared(command, facts)
        bound = self._binding.bind(prepared, self._variables) if prepared and self._binding is not None else None
        if bound is None and self._following is not None:
            bound = self._following.follow(command, self._variables)
        return bound or _resolving(prepared or command, self._timer, self._variables)

    def _turns(self, only: Instruction, variable: int) -> LoopTime | None:
        command, time = only.command, only.time
        if command is None or time is None or self._repeating is None or self._plainly is not None:
            return None
        prepared = self._prepared(command, self._known.of(command, self._timer))
        return self._repeating.bind_turns(prepared, self._variables, variable, time) if prepared else None

    def _prepared(self, command: Command, facts: Facts) -> Command | None:
        """A command whose time does not depend on loops: with plain operands, unless its identity moves."""
        if facts.plain is not None:
            return facts.plain
        own = {DEVICE, INSTANCE}
        if facts.moved <= own and facts.identified <= own:
            return command.resolved(self._start)
        return None if facts.moved else command


def _affine(identity: Scalar) -> Affine:
    return identity if isinstance(identity, Affine) else Affine(identity, ())


_BEHIND = Instruction(STOP)
"""In place of all instructions that are done with."""


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """A stream in parts, each of which ends where the stream may be held."""
    begin = 0
    for end, item in enumerate(items, 1):
        if end - begin >= LEAST_PART and not isinstance(item, Loop) and isinstance(item.command, Wait | Exchange):
            yield items[begin:end]
            begin = end
    yield items[begin:]


def _resolving(command: Command, timer: Timer, variables: Mapping[int, int]) -> Time:
    resolve = resolver(command)
    if resolve is None:
        return partial(timer.issue, command)
    return lambda ready: timer.issue(resolve(variables), ready)


def resolver(command: Command) -> Resolver | None:
    """What gives the command for the counters of its loops; None for a command that does not move."""
    if not command.is_affine:
        return None
    values, cls = list(values_of(command)), type(command)
    moving = [(i, v.base, v.terms) for i, v in enumerate(values) if isinstance(v, Affine)]

    def resolve(variables: Mapping[int, int]) -> Command:
        operands = values.copy()
        for i, base, terms in moving:
            for variable, coefficient in terms:
                base += coefficient * variables[variable]
            operands[i] = base
        return cls(*operands)

    return resolve


def moved_by(timer: Timer, command: Command) -> frozenset[int]:
    """The variables that the time of a command depends on."""
    return _moved(timer, command) if command.is_affine else frozenset()


def _moved(timer: Timer, command: Command) -> frozenset[int]:
    if isinstance(command, SYNCHRONISING):
        return frozenset(_variables(command.semaphore))
    declared = operands_of(type(command))
    if isinstance(command, Exchange):  # whom it meets may depend on anything but addresses
        return frozenset(v for n, d in declared.items() if not d.address for v in _variables(getattr(command, n)))
    signature = getattr(timer, "signature", None)
    if signature is not None:
        return frozenset(_variables(signature(command)))
    return frozenset(v for n, d in declared.items() if not d.address for v in _variables(getattr(command, n)))


def identified_by(timer: Timer, command: Command) -> frozenset[int]:
    """The variables that the identity of a command depends on."""
    identity = getattr(timer, "identity", None)
    return frozenset() if identity is None else frozenset(_variables(identity(command)))


def _variables(value: object) -> Iterator[int]:
    if isinstance(value, Affine):
        yield from (v for v, _ in value.terms)
    elif isinstance(value, tuple):
        for part in value:
            if isinstance(part, Affine | tuple):
                yield from _variables(part)
