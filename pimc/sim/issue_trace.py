"""Recording what PIM timers issue, and writing it: `cycle,channel,command,bank,row`, one row a command.

Channels count over all devices: channel c of device d is `d * channels + c`. Cycles are those of the DRAM. The bank is
counted over all ranks and bank groups, and is the first one for commands of a bank group or a rank.
"""

from __future__ import annotations

import gzip
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pimc.backends.pim.issues import IssueSink
from pimc.ir.diagnostics import Kind, fail
from pimc.sim.check.issued import NONE, Column, Issued, Lane

HEADER = ("cycle", "channel", "command", "bank", "row")
FIELDS = 7
CHUNK = 1 << 18
"""About how many commands are put in order and written together."""


class IssueLog:
    """Everything that the timers of a run issue, in runs of equal commands."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._runs: list[tuple[tuple[int, ...], array[int]]] = []

    def sink(self, channels: Iterable[int]) -> IssueSink:
        """Takes the commands of a timer, whose channel 0 stands for each of `channels`."""
        number, runs = self._number, array("q")
        self._runs.append((tuple(channels), runs))

        def record(
            cycle: int,
            channel: int,
            command: str,
            bank: int | None = None,
            row: int | None = None,
            count: int = 1,
            period: int = 1,
            /,
        ) -> None:
            code = number.setdefault(command, len(number))
            at, opened = NONE if bank is None else bank, NONE if row is None else row
            runs.extend((cycle, channel, code, at, opened, count, period))

        return record

    def issued(self) -> Issued:
        """The commands one by one."""
        return Issued.of(tuple(self._number), self._lanes())

    def _lanes(self) -> Iterator[Lane]:
        for channels, runs in self._runs:
            table = np.array(runs, np.int64).reshape(-1, FIELDS)
            for channel in np.unique(table[:, 1]).tolist():
                own = table[table[:, 1] == channel]
                count = own[:, 5]
                turn = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
                cycle = np.repeat(own[:, 0], count) + turn * np.repeat(own[:, 6], count)
                command, bank, row = (np.repeat(own[:, field], count) for field in (2, 3, 4))
                yield Lane.of([first + channel for first in channels], cycle, command, bank, row)


def write_issues(path: Path | str, issued: Issued) -> None:
    """Write all commands by cycle, then channel; compressed if the name ends in .gz. Raises FILE_UNWRITABLE."""
    path = Path(path).resolve()
    temporary = ""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            with path.open("wb") as stream:
                _write(stream, issued, packed=path.suffix == ".gz")
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            _write(file, issued, packed=path.suffix == ".gz")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise fail(Kind.FILE_UNWRITABLE, f"cannot write {path}: {error.strerror}") from None


def _write(file: IO[bytes], issued: Issued, *, packed: bool) -> None:
    if not packed:
        file.writelines(text.encode() for text in csv_text(issued))
        return
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
        stream.writelines(text.encode() for text in csv_text(issued))


def csv_text(issued: Issued) -> Iterator[str]:
    """The text of the file, in pieces."""
    yield ",".join(HEADER) + "\n"
    for cycle, channel, command, bank, row in _in_order(issued):
        # many commands are alike: the ends of their lines are made once
        alike = np.stack([command, bank, row], axis=1)
        kinds, which = np.unique(alike @ _KEY, return_index=True, return_inverse=True)[1:]
        tails = [_tail(issued.names, *kind) for kind in alike[kinds].tolist()]
        columns = zip(cycle.tolist(), channel.tolist(), which.tolist(), strict=True)
        yield "".join([f"{at},{number},{tails[kind]}\n" for at, number, kind in columns])


_KEY = np.array([1 << 48, 1 << 32, 1], np.int64)
"""Makes one number of a command, a bank and a row."""


def _tail(names: Sequence[str], command: int, bank: int, row: int) -> str:
    return ",".join([names[command], *("" if cell == NONE else str(cell) for cell in (bank, row))])


def _in_order(issued: Issued) -> Iterator[list[Column]]:
    """All commands by cycle, then channel, a stretch of time after the other."""
    channels = sorted((channel, lane) for lane in issued.lanes for channel in lane.channels)
    end = issued.last_cycle + 1
    stretch = max(1, end * CHUNK // max(1, issued.entries))
    for begin in range(0, end, stretch):
        parts = []
        for channel, lane in channels:
            first, last = np.searchsorted(lane.cycle, [begin, begin + stretch], "left").tolist()
            columns = (lane.cycle, np.full(last - first, channel), lane.command, lane.bank, lane.row)
            parts.append([column if len(column) == last - first else column[first:last] for column in columns])
        cycle, channel_, command, bank, row = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(cycle, kind="stable")
        yield [column[order].astype(np.int64) for column in (cycle, channel_, command, bank, row)]
