"""Streams as flat code for the time engine: commands, loop heads and ends, signals, waits, exchanges.

Most operands that move with loops (addresses) do not matter for time. What does matter is the timer's business: its
`signature(command)` gives what the command's time depends on, moving operands left as they are. A timer without it
depends on every operand but addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from pimc.backends.affine import DEVICE, INSTANCE, Affine, Scalar
from pimc.backends.isa import Command, Signal, Wait, operands_of
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop, Step, steps
from pimc.backends.timing import Timer

Identify = Callable[[Command], Scalar | None]
Resolver = Callable[[Mapping[int, int]], Command]


class What(IntEnum):
    COMMAND = 0
    SIGNAL = 1
    WAIT = 2
    EXCHANGE = 3
    LOOP = 4
    END = 5
    STOP = 6


@dataclass(slots=True)
class Instruction:
    """One step of the code."""

    what: What
    command: Command | None = None
    resolve: Resolver | None = None
    """The command must be resolved each time, by this."""
    op: int = -1
    semaphore: Scalar = 0
    variable: int = 0
    count: int = 0
    target: int = 0
    """LOOP: where its END is. END: the first instruction of the body."""
    alike: bool = False
    """LOOP, END: the time of a turn does not depend on its number."""
    alone: bool = False
    """LOOP, END: nothing in the body waits, signals or meets."""
    ops: frozenset[int] = frozenset()
    """LOOP, END: the ops whose commands are in the body."""
    families: tuple[Family, ...] = ()
    """END: the identities that commands of the body have (`Identifying`)."""


@dataclass(frozen=True, slots=True)
class Family:
    """What an operand is in the turns of a loop: a scalar, and how far inner loops move it."""

    scalar: Affine
    low: int
    high: int

    def around(self, variables: Mapping[int, int]) -> tuple[int, int]:
        """The least and the largest value in the turn that the counters of loops are at."""
        at = self.scalar.base + sum(factor * variables.get(variable, 0) for variable, factor in self.scalar.terms)
        return at + self.low, at + self.high

    def slope(self, variable: int) -> int:
        return next((factor for v, factor in self.scalar.terms if v == variable), 0)


def compiled(items: tuple[Item, ...], timer: Timer, variables: Mapping[int, int], *, plain: bool) -> list[Instruction]:
    """The code of a stream. plain: every command is resolved each time, and nothing is known of loops."""
    code: list[Instruction] = []
    _compile(items, code, timer, dict(variables), plain)
    code.append(Instruction(What.STOP))
    return code


def _compile(
    items: tuple[Item, ...], code: list[Instruction], timer: Timer, variables: dict[int, int], plain: bool
) -> None:
    for item in items:
        if not isinstance(item, Loop):
            code.append(_instruction(item, timer, variables, plain))
        elif item.count > 0 and item.body:
            head = Instruction(What.LOOP, variable=item.variable, count=item.count)
            code.append(head)
            start = len(code)
            _compile(item.body, code, timer, {**variables, item.variable: 0}, plain)
            head.target = len(code)
            if not plain:
                head.alone = not any(isinstance(s.command, Signal | Wait | Exchange) for s in steps(item.body))
                head.alike = not any(item.variable in moved_by(timer, s.command) for s in steps(item.body))
                identify = getattr(timer, "identity", None)
                if identify is not None:
                    head.families = tuple(dict.fromkeys(_families(item.body, identify, {})))
            head.ops = frozenset(s.op for s in steps(item.body))
            code.append(
                Instruction(What.END, variable=item.variable, count=item.count, target=start,
                            alike=head.alike, alone=head.alone, ops=head.ops, families=head.families)
            )  # fmt: skip


def _instruction(step: Step, timer: Timer, variables: Mapping[int, int], plain: bool) -> Instruction:
    match step.command:
        case Signal(semaphore=semaphore):
            return Instruction(What.SIGNAL, op=step.op, semaphore=semaphore)
        case Wait(semaphore=semaphore):
            return Instruction(What.WAIT, op=step.op, semaphore=semaphore)
    command = step.command
    what = What.EXCHANGE if isinstance(command, Exchange) else What.COMMAND
    if plain or what is What.EXCHANGE:
        return Instruction(what, command, resolver(command), step.op)
    if command.is_affine and not (moved_by(timer, command) | identified_by(timer, command)) - {DEVICE, INSTANCE}:
        command = command.resolved(variables)
    return Instruction(what, command, resolver(command), step.op)


def resolver(command: Command) -> Resolver | None:
    """What gives the command for the counters of its loops; None for a command that does not move."""
    values = [getattr(command, name) for name in operands_of(type(command))]
    moving = [(i, v.base, v.terms) for i, v in enumerate(values) if isinstance(v, Affine)]
    if not moving:
        return None
    cls = type(command)

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
    match command:
        case Signal(semaphore=semaphore) | Wait(semaphore=semaphore):
            return frozenset(_variables(semaphore))
    if not command.is_affine:
        return frozenset()
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


def _families(items: tuple[Item, ...], identify: Identify, inner: dict[int, int]) -> Iterator[Family]:
    """The identities in a loop's body; `inner`: turns of the loops inside, by variable."""
    for item in items:
        if isinstance(item, Loop):
            yield from _families(item.body, identify, {**inner, item.variable: item.count})
            continue
        identity = identify(item.command)
        if identity is None:
            continue
        terms = identity.terms if isinstance(identity, Affine) else ()
        base = identity.base if isinstance(identity, Affine) else identity
        spans = [factor * (inner[v] - 1) for v, factor in terms if v in inner]
        outer = tuple((v, factor) for v, factor in terms if v not in inner)
        yield Family(Affine(base, outer), sum(min(0, s) for s in spans), sum(max(0, s) for s in spans))


def _variables(value: object) -> Iterator[int]:
    if isinstance(value, Affine):
        yield from (v for v, _ in value.terms)
    elif isinstance(value, tuple):
        for part in value:
            yield from _variables(part)
