"""How paged caches use their blocks: tables, pools, and what is left free in blocks that are not full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pimc.backends.program import MapEntry, Program
from pimc.ir.blocks import NO_BLOCK

CACHES = ("output", "cache")
"""Roles of caches: as they are after the run, if they are handed out, or before it."""


@dataclass(frozen=True, slots=True)
class TableReport:
    """A block table, on one device."""

    name: str
    block_tokens: int
    bytes: int
    requests: int
    blocks: int
    """that the requests have, in each cache"""
    tokens: int
    """that lie in them"""
    filled: float
    """the part of those blocks that tokens fill; the rest is internal fragmentation"""
    caches: int
    """that follow the table, each with a pool of its own"""
    pool_blocks: int
    """of each cache, for each lane"""
    lanes: int
    """channels, or groups of them, that have blocks of their own; 1 where all work on each request"""
    block_bytes: int
    """the largest block of a cache"""


def cache_layout(program: Program) -> str:
    """contiguous or paged; empty: there are no caches."""
    caches = [e for e in program.memory if e.role == "cache"]
    if any(e.blocks is not None for e in program.memory):
        return "paged"
    return "contiguous" if caches else ""


def paging_of(program: Program) -> tuple[TableReport, ...]:
    """The block tables of the first device."""
    return tuple(_reports(program, [e for e in program.memory if 0 in e.devices]))


def _reports(program: Program, entries: Sequence[MapEntry]) -> Iterator[TableReport]:
    for table in entries:
        if table.role != "table" or table.contents is None:
            continue
        followed = [e for e in entries if e.blocks is not None and e.blocks.table == table.layout.offset]
        places = next((found for role in CACHES if (found := [e for e in followed if e.role == role])), [])
        if not places:
            continue
        one = [e for e in places if e.name == places[0].name]
        blocks = int((np.asarray(table.contents.array()) != NO_BLOCK).sum())
        lengths = [n for e in one for n in _lengths(e)]
        first = one[0].blocks
        assert first is not None
        room = blocks * first.tokens
        yield TableReport(
            table.name,
            first.tokens,
            table.layout.elements * table.dtype.bits // 8,
            len(lengths),
            blocks,
            sum(lengths),
            sum(lengths) / room if room else 0.0,
            len({e.name for e in places}),
            first.pool_blocks,
            first.window.lanes,
            max(e.blocks.window.block_bytes for e in places if e.blocks is not None),
        )


def _lengths(entry: MapEntry) -> tuple[int, ...]:
    """Tokens of the requests that lie in a place."""
    if entry.rows is not None and entry.rows.lengths:
        return entry.rows.lengths
    return (entry.shape[2],) * entry.shape[0]
