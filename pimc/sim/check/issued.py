"""Issued commands as columns, one set for each channel; channels in which the same was issued share one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

NONE = -1
"""The bank or the row of a command that names none."""
MOST_ROWS = (1 << 31) - 1

Column = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Lane:
    """What was issued in one channel, in order of time; within a cycle in the order in which it takes effect."""

    channels: tuple[int, ...]
    """the channels in which exactly this was issued, over all devices"""
    cycle: Column
    """int64"""
    command: Column
    """int16: place in `Issued.names`"""
    bank: Column
    """int32, NONE where the command names none; the first one of a bank group or a rank"""
    row: Column
    """int32, NONE where the command names none"""

    @staticmethod
    def of(channels: Iterable[int], cycle: Column, command: Column, bank: Column, row: Column) -> Lane:
        """From columns in any order of time."""
        if len(cycle) and (np.diff(cycle) < 0).any():
            order = np.argsort(cycle, kind="stable")
            cycle, command, bank, row = cycle[order], command[order], bank[order], row[order]
        kinds = (np.int64, np.int16, np.int32, np.int32)
        columns = (
            column.astype(kind, copy=False) for column, kind in zip((cycle, command, bank, row), kinds, strict=True)
        )
        return Lane(tuple(channels), *columns)

    def __len__(self) -> int:
        return len(self.cycle)

    @property
    def columns(self) -> tuple[Column, Column, Column, Column]:
        return self.cycle, self.command, self.bank, self.row

    @cached_property
    def digest(self) -> bytes:
        """The same for lanes with the same commands."""
        found = hashlib.blake2b()
        for column in self.columns:
            found.update(np.ascontiguousarray(column).data)
        return found.digest()


@dataclass(frozen=True, eq=False)
class Issued:
    """Everything that was issued."""

    names: tuple[str, ...]
    lanes: tuple[Lane, ...]

    @staticmethod
    def of(names: Sequence[str], lanes: Iterable[Lane]) -> Issued:
        """Lanes with the same commands become one."""
        alike: dict[bytes, Lane] = {}
        for lane in lanes:
            if len(lane):
                known = alike.get(lane.digest)
                channels = lane.channels if known is None else tuple(sorted({*known.channels, *lane.channels}))
                alike[lane.digest] = Lane(channels, *(known or lane).columns)
        return Issued(tuple(names), tuple(sorted(alike.values(), key=lambda each: each.channels)))

    @property
    def entries(self) -> int:
        """Rows of the file that tells of them: commands over all channels."""
        return sum(len(lane) * len(lane.channels) for lane in self.lanes)

    @property
    def channels(self) -> int:
        """How many channels have commands."""
        return sum(len(lane.channels) for lane in self.lanes)

    @property
    def last_cycle(self) -> int:
        """When the last command was issued; -1 where there is none."""
        return max((int(lane.cycle[-1]) for lane in self.lanes), default=-1)


def by_channel(names: Sequence[str], tables: Iterable[tuple[Column, ...]]) -> Issued:
    """From columns (channel, cycle, command, bank, row) of all channels together, in pieces."""
    parts: dict[int, list[tuple[Column, ...]]] = defaultdict(list)
    for channel, *columns in tables:
        order = np.argsort(channel, kind="stable")
        numbers, starts = np.unique(channel[order], return_index=True)
        bounds = [*starts.tolist(), len(order)]
        for number, start, end in zip(numbers.tolist(), bounds, bounds[1:], strict=False):
            parts[number].append(tuple(column[order[start:end]] for column in columns))
    lanes = (_joined(number, parts.pop(number)) for number in sorted(parts))
    return Issued.of(names, lanes)


def _joined(channel: int, pieces: list[tuple[Column, ...]]) -> Lane:
    cycle, command, bank, row = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    return Lane.of([channel], cycle, command, bank, row)
