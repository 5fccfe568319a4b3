"""How engines keep time. All times are integer picoseconds from the start of the program.

A `Timer` stands for one engine instance: it takes the commands of its stream in order and says when each starts and
completes. Engines share `Resource`s (a data bus, a link); who comes first in time gets it first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pimc.backends.isa import Command


@dataclass(frozen=True, slots=True)
class Issued:
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


class Timer(Protocol):
    """Keeps the time of one engine instance. All its resources are looked up when it is made.

    A timer may also have `signature(command) -> Hashable`: a tuple of all operands that the command's time depends on,
    those that move with loops as they are (`Affine`). Loops whose commands have signatures without the loop's counter
    are advanced in closed form. Without it, time may depend on every operand but addresses.
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

    def shift(self, by: int) -> None:
        """Move the whole state `by` picoseconds into the future (a steady loop was skipped)."""
        ...


@dataclass(frozen=True, slots=True)
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


Resources = Mapping[str, Resource]
