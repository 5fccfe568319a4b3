"""What the front end of an AiM device decodes: lines, and the requests that they make to channels."""

from __future__ import annotations

from typing import NamedTuple

from pimc.backends.pim.aim_rules import BLOCKING, COMMANDS, RD, REGISTER, WR

NONE = -1
PLAIN = frozenset({RD, WR})
MARKER = -1
"""The command of SYNC and EOC: all channels say when everything before is done."""
LOSS = -2
"""No command: the rows of all banks are closed, by somebody else."""


class Request(NamedTuple):
    """What a channel is asked for: a final DRAM command, with the bank and the row that it needs (NONE: none)."""

    command: int
    bank: int = NONE
    row: int = NONE

    @property
    def is_plain(self) -> bool:
        """A normal read or write, which need not stay in order."""
        return self.command in PLAIN

    @property
    def needs_registers(self) -> bool:
        return self.command in REGISTER

    @property
    def is_blocking(self) -> bool:
        return self.command == MARKER or self.command in BLOCKING

    def __str__(self) -> str:
        name = "marker" if self.command == MARKER else COMMANDS[self.command]
        return name + "".join(f" {n}" for n in self[1:] if n != NONE)


class Line(NamedTuple):
    """A line: `times` equal requests to every channel of a mask (bit k: channel k); no channel: it only takes its
    clock."""

    mask: int
    command: int = MARKER
    bank: int = NONE
    row: int = NONE
    times: int = 1


NO_REQUEST = Line(0)
TABLE_ROW = 1 << 29
"""The row of the first activation table; the configuration register 2 (afm) is added to it."""
FIRST_CLOCK = 1


class Reply(NamedTuple):
    """What becomes of the requests to some channels."""

    issued: int
    """the clock of the last command that they asked for"""
    done: int
    """the clock at which everything is completed"""
    cause: str
    """what was issued right before for their sake: row, mode, refresh, or nothing"""
