"""The lines that the commands of a stream are for an AiM device's front end, and for its simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from operator import attrgetter, or_
from typing import Any

from pimc.backends.isa import Command, operand_names
from pimc.backends.pim import aim_isa
from pimc.backends.pim.aim_line import NO_REQUEST, NONE, TABLE_ROW, Line
from pimc.backends.pim.aim_rules import NUMBER
from pimc.backends.pim.cells import channels_of
from pimc.backends.vector import plain
from pimc.record import record

ACTIVATION = {name: number for number, name in enumerate(aim_isa.ACTIVATIONS)}
"""The value of the configuration register that chooses the table of an activation."""


EVERY_CHANNEL = Line(-1)
"""The line of a marker; its mask is made that of the device's channels."""

SHAPE = ("count", "mask", "bank", "function", "banks", "step", "channel", "channels", "groups", "pitch")
"""Operands, of any command, that its lines depend on besides its row."""


def _ordered(name: str, *, counted: bool = False) -> Callable[[Any], Iterator[Line]]:
    """One line; `counted`: for as many columns as the command has."""

    def lines(at: Any) -> Iterator[Line]:
        bank, row = plain(getattr(at, "bank", NONE)), plain(getattr(at, "row", NONE))
        yield Line(plain(at.mask), NUMBER[name], bank, row, plain(at.count) if counted else 1)

    return lines


def _columns(name: str) -> Callable[[Any], Iterator[Line]]:
    """A line for each column."""

    def lines(at: Any) -> Iterator[Line]:
        line = Line(plain(at.mask), NUMBER[name], plain(at.bank), plain(at.row))
        for _ in range(plain(at.count)):
            yield line

    return lines


def _channels(name: str) -> Callable[[Any], Iterator[Line]]:
    """A line for each channel."""

    def lines(at: Any) -> Iterator[Line]:
        for channel in channels_of(plain(at.mask)):
            yield Line(1 << channel, NUMBER[name], NONE, plain(at.row))

    return lines


def _activated(at: aim_isa.Activate) -> Iterator[Line]:
    yield Line(plain(at.mask), NUMBER["AF16"], NONE, TABLE_ROW + ACTIVATION[at.function])


def _stripe(name: str) -> Callable[[Any], Iterator[Line]]:
    """A line for each column, channel of a group, bank and group, in this order."""

    def lines(at: aim_isa.Stripe) -> Iterator[Line]:
        row, first, step = plain(at.row), plain(at.bank), plain(at.step)
        banks = range(first, first + plain(at.banks) * step, step)
        column = [
            Line(1 << channel, NUMBER[name], bank, row)
            for members in at.chosen
            for bank in banks
            for channel in members
        ]
        for _ in range(plain(at.count)):
            yield from column

    return lines


def _marker(at: Command) -> Iterator[Line]:
    """For every channel, however many there are."""
    yield EVERY_CHANNEL


def _none(at: Command) -> Iterator[Line]:
    yield from ()


def _nothing(at: Command) -> Iterator[Line]:
    yield NO_REQUEST


LINES: Mapping[type[Command], Callable[[Any], Iterator[Line]]] = {
    aim_isa.WriteGlobalBuffer: _ordered("WRGB", counted=True),
    aim_isa.WriteBias: _ordered("WRMAC16"),
    aim_isa.ReadMac: _ordered("RDMAC16"),
    aim_isa.ReadActivated: _ordered("RDAF16"),
    aim_isa.MacAllBanks: _ordered("MAC16", counted=True),
    aim_isa.MacOneBank: _ordered("MAC", counted=True),
    aim_isa.Activate: _activated,
    aim_isa.ReadBank: _columns("RD"),
    aim_isa.WriteBank: _columns("WR"),
    aim_isa.WriteAllBanks: _channels("WRA16"),
    aim_isa.CopyBankToBuffer: _ordered("RDCP", counted=True),
    aim_isa.CopyBufferToBank: _ordered("WRCP", counted=True),
    aim_isa.MultiplyBanks: _ordered("EWMUL16", counted=True),
    aim_isa.AddBuffers: _nothing,
    aim_isa.StripeWrite: _stripe("WR"),
    aim_isa.StripeRead: _stripe("RD"),
    aim_isa.Sync: _marker,
    aim_isa.BeginTrace: _none,
    aim_isa.EndTrace: _marker,
}
"""The lines of each command. Choosing an activation table takes one more, where it changes."""


def shape_of(command: Command) -> tuple[object, ...]:
    """What kind of command it is, and the operands that its time depends on besides its row."""
    kind = type(command)
    getter = _GETTERS.get(kind)
    if getter is None:
        names = [name for name in SHAPE if name in operand_names(kind)]
        getter = _GETTERS[kind] = attrgetter(*names) if names else lambda _: None
    return kind, getter(command)


_GETTERS: dict[type[Command], Callable[[Any], object]] = {}


@record
class Plan:
    """The lines of commands that differ in their row alone."""

    lines: tuple[Line, ...]
    """with the row OWN where it is the command's"""
    mask: int
    """all channels that any line is for"""
    requests: int
    """requests to one channel, counted over its lines"""


OWN = -9


class LineMaker:
    """Makes lines of commands, in the order of the stream."""

    def __init__(self, channels: int = 32) -> None:
        self.everyone = (1 << channels) - 1
        """the mask of all channels"""
        self.activation = 0
        """the configuration register that chooses the activation table"""
        self._plans: dict[tuple[object, ...], Plan] = {}

    def plan(self, command: Command) -> Plan:
        """The lines of a command, but for those that set registers."""
        key = shape_of(command)
        found = self._plans.get(key)
        if found is None:
            moved = "row" in operand_names(type(command))
            known: dict[Line, Line] = {}
            lines = tuple(self._made(line, moved, known) for line in LINES[type(command)](command))
            requests: Counter[int] = Counter()
            for line in lines:
                requests[line.mask] += line.times if line.mask else 0
            mask = reduce(or_, requests, 0)
            found = self._plans[key] = Plan(lines, mask, max(requests.values(), default=0))
        return found

    def _made(self, line: Line, moved: bool, known: dict[Line, Line]) -> Line:
        """A line as plans hold it; equal ones are one."""
        made = known.get(line)
        if made is None:
            mask = self.everyone if line.mask == EVERY_CHANNEL.mask else line.mask
            made = known[line] = line._replace(mask=mask, row=OWN if moved else line.row)
        return made

    def lines(self, command: Command, plan: Plan | None = None) -> Iterator[Line]:
        """The lines of a command; `plan`: its own, if it is at hand."""
        if isinstance(command, aim_isa.Activate) and ACTIVATION[command.function] != self.activation:
            self.activation = ACTIVATION[command.function]
            yield Line(0, row=self.activation)
        fields: Any = command
        for line in (plan or self.plan(command)).lines:
            if line[3] == OWN:
                mask, code, bank, _, count = line
                yield Line(mask, code, bank, fields.row, count)
            else:
                yield line
