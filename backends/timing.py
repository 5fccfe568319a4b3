"""How engines keep time. All times are integer picoseconds from the start of the program.

A `Timer` stands for one engine instance: it takes the commands of its stream in order and says when each starts and
completes. Engines share `Resource`s (a data bus, a link); who comes first in time gets it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command
from pimc.record import record


class Issued(NamedTuple):
    """When a command runs: `start` of its work, `free`: when the next command of the stream may be issued, `done`:
    when its effect is complete. `busy` is the time from `start` on for which the unit works on it; what the work on
    several commands covers together is counted once, not by the timer. `cause` names what delayed the start beyond
    the moment at which the stream was ready for it."""

    start: int
    free: int
    done: int
    busy: int
    cause: str = ""


@dataclass
class Resource:
    """Something that one transfer holds at a time, first come first served."""

    name: str
    free_at: int = 0
    busy: int = 0

    def acquire(self, at: int, duration: int) -> int:
        """Hold the resource for `duration`; returns when that starts."""
        start = max(at, self.free_at)
        self.free_at = start + duration
        self.busy += duration
        return start

    def share(self, at: int, duration: int) -> int:
        """Hold the resource for `duration`, in turns with who holds it already, who is held up as long; returns when
        that starts as if it were held alone from then on."""
        waiting = max(0, self.free_at - at)
        self.free_at = at + waiting + duration
        self.busy += duration
        return at + min(waiting, duration)


class Timer(Protocol):
    """Keeps the time of one engine instance. All its resources are looked up when it is made.

    A timer may also have `signature(command) -> Hashable`: a tuple of all operands that the command's time depends on,
    those that move with loops as they are (`Affine`). Loops whose commands have signatures without the loop's counter
    are advanced in closed form. Without it, time may depend on every operand but addresses.

    What a timer may have beyond that is declared by `Identifying`, `Refreshing`, `Ending` and
    `Stepping`.
    """

    clock_ps: int

    @property
    def counters(self) -> Counter[str]:
        """What was issued on the device level (DRAM commands, bytes, multiply-accumulates), by name."""
        ...

    def issue(self, command: Command, ready: int) -> Issued:
        """Time one command (operands are plain numbers) that the stream offers at `ready`."""
        ...

    def relative(self, now: int) -> Hashable | None:
        """The state as seen from `now`, for recognising a steady state; None where there is none to recognise."""
        ...

    def shift(self, by: int, since: int) -> None:
        """Move the state `by` picoseconds into the future: what has happened from `since` on was repeated."""
        ...


@runtime_checkable
class Binding(Protocol):
    """A timer that prepares commands which are offered again and again."""

    def bind(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        """What times a command as `issue` does, when its stream is ready for it; None: there is nothing to prepare.

        Its time does not depend on counters of loops. Its identity may: they are in `variables` then.
        """
        ...


@runtime_checkable
class Following(Protocol):
    """A timer that prepares commands whose operands move with loops."""

    def follow(self, command: Command, variables: Mapping[int, int]) -> Callable[[int], Issued] | None:
        """What times a command as `issue` does, its operands being what `variables` make them when its stream is ready
        for it; None: there is nothing to prepare."""
        ...


class Turn(NamedTuple):
    """A command of a loop of its own: when its stream was ready for it, and the rest as `Issued` has it."""

    ready: int
    start: int
    busy: int
    done: int
    cause: str


class Turns(NamedTuple):
    """Turns of a loop of one command, each of which the stream was ready for when the one before was `free`."""

    at: int
    """what all times count from"""
    turns: Sequence[Turn]
    free: int
    """when the stream is ready for the next"""
    done: int
    """when all are complete"""
    worked: int
    """when the unit's work on all of them is over"""

    def followed_by(self, more: Turns) -> Turns:
        """These, and those that come after them."""
        by = more.at - self.at
        moved = [Turn(ready + by, start + by, busy, done + by, cause) for ready, start, busy, done, cause in more.turns]
        done, worked = max(self.done, more.done + by), max(self.worked, more.worked + by)
        return Turns(self.at, [*self.turns, *moved], more.free + by, done, worked)


@runtime_checkable
class Repeating(Protocol):
    """A timer that knows what comes of loops of one command."""

    def bind_turns(
        self, command: Command, variables: dict[int, int], variable: int, time: Callable[[int], Issued]
    ) -> Callable[[int, int, int, int], Turns] | None:
        """What times turns of a loop as `issue` does, one after the other; None: there is nothing to prepare.

        time: what times one turn, whatever `variable` is then.

        It is given the number of the next turn, how many there are in all, when the stream is ready, and a time: turns
        that the stream is ready for by then are left out; there is at least one before.
        """
        ...


@runtime_checkable
class Costing(Protocol):
    """A timer that makes less of a command than its operands."""

    def cost(self, command: Command) -> Hashable:
        """What its time depends on besides the timer's state. Its operands may move, but not in what matters."""
        ...


@runtime_checkable
class Identifying(Protocol):
    """A timer for which an operand matters by being equal to that of earlier commands only (the row of a bank)."""

    def identity(self, command: Command) -> Scalar | None:
        """That operand; None for commands without."""
        ...

    def identities(self) -> tuple[int, ...]:
        """What the state remembers of it, in an order that is the same where `relative` is the same."""
        ...

    def rename(self, identities: tuple[int, ...]) -> None:
        """Remember these instead."""
        ...


@runtime_checkable
class Refreshing(Protocol):
    """A timer to which something happens at fixed times, which `relative` leaves out."""

    def deadline(self) -> int | None:
        """The next such time; until then `relative` tells all. None: there is none."""
        ...


@runtime_checkable
class Tallying(Protocol):
    """A timer that counts more than `counters` tells: what energy depends on besides commands."""

    @property
    def tallies(self) -> Counter[str]: ...


SERVED = "reads served"
"""The counter of normal reads whose data came while a stream lasted."""


@runtime_checkable
class Serving(Protocol):
    """A timer whose memory can serve normal reads beside its stream; its counters then have SERVED."""

    def serving(self, reads: int) -> Timer:
        """A timer at the start of its stream that is offered so many reads of one access each in every clock."""
        ...


@runtime_checkable
class Ending(Protocol):
    """A timer whose stream ends with something of its own."""

    def finish(self, ready: int) -> int:
        """The stream is over at `ready`; returns when everything is done."""
        ...


@runtime_checkable
class Stepping(Protocol):
    """A timer that can also step through every clock, by rules written down a second time, to be compared with."""

    def step(self) -> None:
        """Do so from the start."""
        ...


@record
class EngineDecl:
    """An engine of a target.

    kind: npu, pim, pnm, link, dma or host. instances: how many units take the same stream, each for itself (channels).
    """

    name: str
    kind: str
    clock_ps: int
    instances: int = 1
    units: frozenset[str] = field(default_factory=frozenset)
    """Which commands it takes, by their `unit`."""
    queue: str = ""
    """It is a further queue of engine `of`, for what belongs to this name (`pimc.ir.facts.Queue`)."""
    of: str = ""


Resources = Mapping[str, Resource]

_has: dict[tuple[type, object], bool] = {}


def having(timer: Timer, ability: Any) -> Any:
    """The timer, if it is what a protocol of this module asks for, else None.

    All timers of a class are alike in that: they are looked at once, as `isinstance` takes long to look at a protocol.
    """
    key = type(timer), ability
    if key not in _has:
        _has[key] = isinstance(timer, ability)
    return timer if _has[key] else None
