"""Reading a file of issued commands: a header, then one row a command, in any order of time.

Millions of rows are read by whole columns. A row with a mistake is then looked at by itself, to say what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail, nearest
from pimc.ir.source import TextSpan
from pimc.record import record
from pimc.sim.check.issued import MOST_ROWS, NONE, Column, Issued, Mask, by_channel
from pimc.sim.check.part import CHANNEL, Part
from pimc.sim.issue_trace import HEADER

CHUNK = 1 << 22
"""About how many bytes are read at once."""
MOST_MISTAKES = 20
MOST_DIGITS = 18
LONGEST_NAME = 16
COMMA, NEWLINE, ZERO = b",\n0"


def read_issues(data: bytes, file: str, part: Part) -> Issued:
    """The commands in the text of a file. Raises CompileError (SYNTAX, NAME_UNKNOWN) with the first mistakes."""
    data = data.replace(b"\r\n", b"\n")
    if data and not data.endswith(b"\n"):
        data += b"\n"
    begin = data.find(b"\n") + 1
    order = _header(data[:begin], file)
    return by_channel(part.names, _tables(data, begin, file, order, part))


def _tables(data: bytes, begin: int, file: str, order: tuple[int, ...], part: Part) -> Iterator[tuple[Column, ...]]:
    """Columns of some lines after others; all mistakes are told at the end."""
    mistakes, line = list[Diagnostic](), 2
    while begin < len(data) and len(mistakes) < MOST_MISTAKES:
        end = data.find(b"\n", min(begin + CHUNK, len(data) - 1)) + 1
        text = _Text(data[begin:end], file, line, order, part)
        mistakes += text.mistakes()
        if not mistakes:
            yield text.columns()
        line += text.lines
        begin = end
    if mistakes:
        raise CompileError(mistakes[:MOST_MISTAKES])


def _header(line: bytes, file: str) -> tuple[int, ...]:
    """Where each column of `HEADER` stands."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    names = [name.strip() for name in text.split(",")]
    if sorted(names) != sorted(HEADER):
        span = TextSpan(file, 1, 1, text, max(1, len(text)))
        odd = next((name for name in names if name not in HEADER), "")
        message = f"the first line should name the columns {','.join(HEADER)}"
        raise fail(Kind.SYNTAX, message, span, help=nearest(odd, HEADER))
    return tuple(names.index(name) for name in HEADER)


@record
class _Cells:
    """One column: where each cell begins and ends."""

    start: Column
    end: Column


@record
class _Check:
    """A kind of mistake: the lines that have it, in which column, and what is said.

    `message` may hold {cell}, {command} and {size}, the number of banks that the command acts on.
    """

    bad: Mask
    column: str
    message: str
    help: str | None = None


class _Text:
    """Some whole lines of a file."""

    def __init__(self, data: bytes, file: str, first_line: int, order: tuple[int, ...], part: Part) -> None:
        self.data, self.file, self.first_line, self.part = data, file, first_line, part
        self.buffer = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(self.buffer == NEWLINE)
        self.lines = len(ends)
        self.bounds = np.concatenate([[0], ends + 1])
        separators = np.flatnonzero((self.buffer == COMMA) | (self.buffer == NEWLINE))
        widths = np.diff(np.searchsorted(separators, ends, "right"), prepend=0)
        self.ragged = widths != len(HEADER)
        if self.ragged.any():  # lines with another number of cells are left out, and told of
            separators = separators[np.repeat(~self.ragged, widths)]
        self.whole = np.flatnonzero(~self.ragged)
        stops = separators.reshape(-1, len(HEADER))
        begins = np.concatenate([self.bounds[self.whole, None], stops[:, :-1] + 1], axis=1)
        self.cells = {name: _Cells(begins[:, at], stops[:, at]) for name, at in zip(HEADER, order, strict=True)}
        self.command = self._commands(self.cells["command"])
        self.numbers: dict[str, Column] = {}
        self.no_number: dict[str, Mask] = {}
        for name in ("cycle", "channel", "bank", "row"):
            self.numbers[name], self.no_number[name] = self._numbers(self.cells[name])

    def columns(self) -> tuple[Column, ...]:
        """channel, cycle, command, bank, row of all lines that have five cells."""
        cycle, channel, bank, row = (self.numbers[name] for name in ("cycle", "channel", "bank", "row"))
        narrow = (column.astype(np.int32) for column in (bank, row))
        return channel.astype(np.int32), cycle, self.command.astype(np.int16), *narrow

    def _numbers(self, cells: _Cells) -> tuple[Column, Mask]:
        """The whole number in each cell, NONE where the cell is empty; and where there is something else."""
        length = cells.end - cells.start
        total = np.zeros(len(length), np.int64)
        bad = length > MOST_DIGITS
        for place in range(min(MOST_DIGITS, int(length.max(initial=0)))):
            inside = length > place
            digit = self.buffer[np.where(inside, cells.end - 1 - place, 0)].astype(np.int64) - ZERO
            bad |= inside & ((digit < 0) | (digit > 9))
            total += np.where(inside, digit, 0) * 10**place
        return np.where(length == 0, NONE, total), bad

    def _commands(self, cells: _Cells) -> Column:
        """The number of the command in each cell; NONE where it is unknown."""
        length = cells.end - cells.start
        letters = np.zeros((len(length), LONGEST_NAME), np.uint8)
        for place in range(min(LONGEST_NAME, int(length.max(initial=0)))):
            inside = length > place
            letters[:, place] = np.where(inside, self.buffer[np.where(inside, cells.start + place, 0)], 0)
        low, high = letters.view(np.uint64).T.copy()
        found = np.full(len(length), NONE, np.int64)
        for number, name in enumerate(self.part.names):
            first, second = np.frombuffer(name.encode().ljust(LONGEST_NAME, b"\0"), np.uint64)
            found[(low == first) & (high == second) & (length == len(name))] = number
        return found

    # -- mistakes -----------------------------------------------------------------------------------------------------

    def mistakes(self) -> list[Diagnostic]:
        """The first mistakes, by line; one a line."""
        found = {line: self._ragged(line) for line in np.flatnonzero(self.ragged)[:MOST_MISTAKES].tolist()}
        for check in self._checks():
            for place in np.flatnonzero(check.bad)[:MOST_MISTAKES].tolist():
                line = int(self.whole[place])
                if line not in found:
                    found[line] = self._diagnostic(line, place, check)
        return [found[line] for line in sorted(found)][:MOST_MISTAKES]

    def _checks(self) -> Iterator[_Check]:
        part, numbers, command = self.part, self.numbers, self.command
        yield _Check(command == NONE, "command", f"'{part.name}' has no command '{{cell}}'")
        for name, bad in self.no_number.items():
            yield _Check(bad, name, "'{cell}' is no whole number")
        for name in ("cycle", "channel"):
            yield _Check(numbers[name] == NONE, name, f"there is no {name}")
        channel, bank, row = numbers["channel"], numbers["bank"], numbers["row"]
        message = f"'{part.name}' has channels 0 to {part.channels - 1}, not {{cell}}"
        help_line = "the channels of several devices count on; --set system.devices=N says how many there are"
        yield _Check(channel >= part.channels, "channel", message, help_line)
        yield _Check(bank >= part.banks, "bank", f"'{part.name}' has banks 0 to {part.banks - 1}, not {{cell}}")
        yield _Check(row > MOST_ROWS, "row", "no part has a row {cell}")
        size = np.array([part.levels[rule.scope] for rule in part.commands])[command]
        is_whole = np.array([rule.scope == CHANNEL for rule in part.commands])[command]
        needs_row = np.array([rule.names_row for rule in part.commands])[command]
        yield _Check(is_whole & (bank != NONE), "bank", "{command} is for all banks, and names none")
        yield _Check(~is_whole & (bank == NONE), "bank", "{command} names a bank")
        yield _Check(
            ~is_whole & (bank % size != 0), "bank", "{command} names the first of its {size} banks, not {cell}"
        )
        yield _Check(needs_row & (row == NONE), "row", "{command} names a row")

    def _ragged(self, line: int) -> Diagnostic:
        text = self._line(line)
        cells = text.count(",") + 1 if text.strip() else 0
        span = TextSpan(self.file, self.first_line + line, 1, text, max(1, len(text)))
        return Diagnostic(Kind.SYNTAX, f"the line has {cells} cells, not {len(HEADER)}", span)

    def _diagnostic(self, line: int, place: int, check: _Check) -> Diagnostic:
        text, cells = self._line(line), self.cells[check.column]
        start = int(cells.start[place] - self.bounds[line])
        cell = text[start : start + int(cells.end[place] - cells.start[place])]
        rule = self.part.commands[int(self.command[place])]
        message = check.message.format(cell=cell, command=rule.name, size=self.part.levels[rule.scope])
        span = TextSpan(self.file, self.first_line + line, start + 1, text, max(1, len(cell)))
        if check.column == "command":
            return Diagnostic(Kind.NAME_UNKNOWN, message, span, (), did_you_mean(cell, self.part.names))
        return Diagnostic(Kind.SYNTAX, message, span, (), check.help)

    def _line(self, line: int) -> str:
        return self.data[self.bounds[line] : self.bounds[line + 1] - 1].decode("latin-1")
