"""How paged caches use their blocks: tables, pools, and what is left free in blocks that are not full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pimc.backends.program import MapEntry, Program
from pimc.ir.blocks import NO_BLOCK
from pimc.record import record

CACHES = ("output", "cache")
"""Roles of caches: as they are after the run, if they are handed out, or before it."""


@record
class BlocksReport:
    """The caches of the first device whose blocks hold equally many tokens."""

    block_tokens: int
    block_bytes: int
    """the largest of a cache"""
    caches: int
    """each with a pool of its own"""
    requests: int
    blocks: int
    """that the requests have, in each cache"""
    tokens: int
    """that lie in them"""
    filled: float
    """the part of those blocks that tokens fill; the rest is internal fragmentation"""
    pool_blocks: int
    """of each cache; where channels hold requests of their own, of each channel"""
    lanes: int
    """channels, or groups of them, that have blocks of their own; 1 where all work on each request"""
    tables: int
    table_bytes: int


def cache_layout(program: Program) -> str:
    """contiguous or paged; empty: there are no caches."""
    caches = [e for e in program.memory if e.role == "cache"]
    if any(e.blocks is not None for e in program.memory):
        return "paged"
    return "contiguous" if caches else ""


def paging_of(program: Program) -> tuple[BlocksReport, ...]:
    """The blocks of the first device, from the smallest on."""
    entries = [e for e in program.memory if 0 in e.devices and e.blocks is not None]
    places = next((found for role in CACHES if (found := [e for e in entries if e.role == role])), [])
    sizes = sorted({e.blocks.tokens for e in places if e.blocks is not None})
    return tuple(_report(program, [e for e in places if e.blocks is not None and e.blocks.tokens == n]) for n in sizes)


def _report(program: Program, places: Sequence[MapEntry]) -> BlocksReport:
    one = [(e, e.blocks) for e in places if e.name == places[0].name and e.blocks is not None]
    used = {blocks.table for _, blocks in one}
    tables = [
        (e, np.asarray(e.contents.array()))
        for e in program.memory
        if e.role == "table" and 0 in e.devices and e.contents is not None and e.layout.offset in used
    ]
    lengths = [n for e, _ in one for n in _lengths(e)]
    windows = {blocks.window: blocks.table for _, blocks in one}
    held = {e.layout.offset: int((entries != NO_BLOCK).sum()) for e, entries in tables}
    blocks, first = sum(held[table] for table in windows.values()), one[0][1]
    return BlocksReport(
        block_tokens=first.tokens,
        block_bytes=max(e.blocks.window.block_bytes for e in places if e.blocks is not None),
        caches=len({e.name for e in places}),
        requests=len(lengths),
        blocks=blocks,
        tokens=sum(lengths),
        filled=sum(lengths) / (blocks * first.tokens) if blocks else 0.0,
        pool_blocks=sum({b.pool: b.pool_blocks for _, b in one}.values()),
        lanes=max(window.lanes for window in windows),
        tables=len(tables),
        table_bytes=sum(entries.nbytes for _, entries in tables),
    )


def blocks_of_requests(program: Program) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """For each table of the first device: its name, a request, and the blocks of that in the order of its tokens."""
    entries = [e for e in program.memory if 0 in e.devices]
    names = {r.row: r.id for r in program.requests}
    for table in entries:
        if table.role != "table" or table.contents is None:
            continue
        held = np.asarray(table.contents.array())
        followed = [e for e in entries if e.blocks is not None and e.blocks.table == table.layout.offset]
        for e in (e for e in followed if e.name == followed[0].name):
            first = _first_sequence(e, held.shape[1])
            for i in range(e.shape[0]):
                sequence, lane = divmod(first + i, held.shape[2])
                own = held[sequence, :, lane]
                number = e.rows.rows[i] if e.rows is not None else i
                yield table.name, names.get(number, str(number)), tuple(int(b) for b in own[own != NO_BLOCK])


def _first_sequence(entry: MapEntry, blocks: int) -> int:
    """Which of its window's requests is the first that a place is for."""
    assert entry.blocks is not None
    window = entry.blocks.window
    sequence, inside = divmod(entry.layout.offset - window.start, blocks * window.block_bytes)
    lane = inside % window.lane_turn // window.lane_bytes if window.lanes > 1 else 0
    return sequence * window.lanes + lane


def _lengths(entry: MapEntry) -> tuple[int, ...]:
    """Tokens of the requests that lie in a place."""
    if entry.rows is not None and entry.rows.lengths:
        return entry.rows.lengths
    return (entry.shape[2],) * entry.shape[0]
