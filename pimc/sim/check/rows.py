"""Which row every bank has open, and commands that need another state.

Between two commands that open or close rows, states are constant. So the open rows are found once for each of those
stretches, in blocks of them, and every command is looked up in its stretch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pimc.sim.check.issued import NONE, Column, Lane, Mask
from pimc.sim.check.part import CommandRule, Part, Use
from pimc.sim.check.violation import Finding, Rule

CLOSED = -1
BLOCK = 1 << 15
"""Stretches that are looked at together."""
_HIGH = 1 << 40

CHANGING = (Use.OPENS, Use.JOINS, Use.NEEDS_THEN_CLOSES, Use.CLOSES)
OPENING = (Use.OPENS, Use.JOINS)


def wrong_rows(lane: Lane, part: Part, number: Mapping[str, int]) -> Iterator[Finding]:
    """Commands whose rows are not as they must be."""
    buffers = dict.fromkeys(buffer for rule in part.commands for buffer, _ in rule.rows)
    for buffer in buffers:
        uses = {
            number[rule.name]: (rule, use)
            for rule in part.commands
            for at, use in rule.rows
            if at == buffer and rule.name in number
        }
        for block in _blocks(lane, part, uses):
            for rule, use in uses.values():
                yield from _wrong(lane, part, block, number[rule.name], rule, use, buffer)


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a lane: `rows[stretch]` are the rows that are open in each bank as seen by `places`."""

    places: Column
    stretch: Column
    rows: Column


def _blocks(lane: Lane, part: Part, uses: Mapping[int, tuple[CommandRule, Use]]) -> Iterator[Block]:
    changing = np.isin(lane.command, [c for c, (_, use) in uses.items() if use in CHANGING])
    events = np.flatnonzero(changing)
    stretch: Column = np.cumsum(changing) - changing  # how many changes come before each command
    opened = [c for c, (_, use) in uses.items() if use in OPENING]
    row = np.where(np.isin(lane.command[events], opened), lane.row[events], CLOSED)
    width = {c: part.levels[rule.scope] for c, (rule, _) in uses.items()}
    size = np.array([width[c] for c in lane.command[events].tolist()], np.int64)
    first = np.where(size == part.banks, 0, lane.bank[events])
    held = np.full(part.banks, CLOSED, np.int64)
    banks = np.arange(part.banks)
    for begin in range(0, len(events) + 1, BLOCK):
        now = slice(begin, begin + BLOCK)
        low, high = first[now, None], (first[now] + size[now])[:, None]
        touched = (banks >= low) & (banks < high)
        # the last change of each bank: 0 is what was open before the block
        last = np.zeros((len(touched) + 1, part.banks), np.int64)
        last[1:] = np.maximum.accumulate(np.where(touched, np.arange(1, len(touched) + 1)[:, None], 0), axis=0)
        rows = np.where(last > 0, np.concatenate([[CLOSED], row[now]])[last], held)
        bounds = np.searchsorted(stretch, [begin, begin + BLOCK], "left")
        places: Column = np.arange(bounds[0], bounds[1])
        yield Block(places, stretch[places] - begin, rows)
        held = rows[-1]


def _wrong(
    lane: Lane, part: Part, block: Block, command: int, rule: CommandRule, use: Use, buffer: str
) -> Iterator[Finding]:
    mine = lane.command[block.places] == command
    if not mine.any() or use is Use.CLOSES:
        return
    places, stretch = block.places[mine], block.stretch[mine]
    size = part.levels[rule.scope]
    node = np.zeros(len(places), np.int64) if size == part.banks else lane.bank[places] // size
    nodes = block.rows.reshape(len(block.rows), -1, size)
    lowest, highest = nodes.min(axis=2)[stretch, node], nodes.max(axis=2)[stretch, node]
    row = lane.row[places].astype(np.int64)
    who = "a bank" if size > 1 else "its bank"
    where = f" in its {buffer}" if len({at for each in part.commands for at, _ in each.rows}) > 1 else ""

    def finding(bad: Mask, text: str, found: Column) -> Iterator[Finding]:
        if bad.any():
            yield Finding(Rule("row", f"{rule.name} {text}", rule.name), places[bad], None, found[bad])

    if use in (Use.NEEDS, Use.NEEDS_THEN_CLOSES):
        closed = lowest == CLOSED
        mixed = ~closed & (lowest != highest)
        other = ~closed & ~mixed & (row != NONE) & (lowest != row)
        yield from finding(closed, f"while {who} has no row open{where}", lowest)
        yield from finding(mixed, f"while banks have different rows open{where}", highest)
        yield from finding(other, f"while {who} has another row open{where}", lowest)
    elif use is Use.OPENS:
        yield from finding(highest != CLOSED, f"while {who} has a row open already{where}", highest)
    elif use is Use.NEEDS_CLOSED:
        yield from finding(highest != CLOSED, f"while {who} has a row open{where}", highest)
    elif use is Use.JOINS:
        least_open = np.where(nodes == CLOSED, _HIGH, nodes).min(axis=2)[stretch, node]
        other = (highest != CLOSED) & ((highest != row) | (least_open != row))
        yield from finding(other, "while a bank has another row open", np.where(highest != row, highest, least_open))
        yield from finding(~other & (lowest != CLOSED), "while every bank has the row open already", highest)
    elif use is Use.DIFFERS:
        same = (nodes[stretch, node] == row[:, None]).any(axis=1) & (row != NONE)
        yield from finding(same, f"of a row that {who} has open{where}", row)
