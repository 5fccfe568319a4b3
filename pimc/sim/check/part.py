"""What the checker knows of a part, as data: its commands, what they need and leave behind, and how far apart they are.

Levels are sets of neighbouring banks: a bank, a bank group, a rank, the channel. A command's `scope` is the level of
what it acts on; at a higher level it is counted for the node that holds its bank. Commands for the whole channel name
no bank, and are counted at the level of the channel alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from pimc.record import record

CHANNEL, BANK = "channel", "bank"


class Use(Enum):
    """What a command does to the row buffers that it acts on."""

    OPENS = "opens the row, where none is open"
    JOINS = "opens the row, where none or that row is open"
    NEEDS = "needs the row open"
    NEEDS_THEN_CLOSES = "needs the row open, and closes it"
    CLOSES = "closes what is open"
    NEEDS_CLOSED = "needs all rows closed"
    DIFFERS = "needs another row than this open, or none"


class Mode(Enum):
    """Whether a channel is in register mode."""

    ARRAY = "the array mode"
    REGISTER = "the register mode"


@record
class CommandRule:
    """What a command needs and leaves behind."""

    name: str
    scope: str = BANK
    rows: tuple[tuple[str, Use], ...] = ()
    """what it does to each kind of row buffer"""
    mode: Mode | None = None
    """the mode in which it is allowed; None: both"""
    fills: tuple[str, ...] = ()
    """what holds something from it on"""
    uses: tuple[str, ...] = ()
    """what must hold something"""
    empties: tuple[str, ...] = ()
    """what holds nothing from it on"""
    on_bus: bool = True
    """it takes a cycle of the command bus"""

    @property
    def names_row(self) -> bool:
        """It cannot do without a row."""
        return any(use in (Use.OPENS, Use.JOINS) for _, use in self.rows)


@record
class Distance:
    """`next` comes at the soonest `clocks` after `previous`, where both touch one node of the level."""

    level: str
    previous: str
    next: str
    clocks: int


@record
class Window:
    """At most `most` banks of a node of the level are opened within `clocks`."""

    level: str
    clocks: int
    most: int
    opened: Mapping[str, int]
    """banks that each command opens"""


@record
class Span:
    """`last` comes at the soonest `clocks` after the first `first` since the `last` before."""

    first: str
    last: str
    clocks: int


@record
class RefreshRule:
    """Every node of the level is refreshed each `interval` clocks; a refresh may be late until the next is due."""

    command: str
    level: str
    interval: int


@record
class Part:
    """A memory part with PIM."""

    name: str
    banks: int
    channels: int
    """over all devices"""
    levels: Mapping[str, int]
    """banks of a node of each level"""
    commands: tuple[CommandRule, ...]
    distances: tuple[Distance, ...]
    switch: str | None = None
    """the command that flips between array and register mode"""
    windows: tuple[Window, ...] = ()
    spans: tuple[Span, ...] = ()
    refresh: RefreshRule | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.commands)
