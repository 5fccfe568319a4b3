"""Paged caches: how many blocks requests need, which ones they get, and the tables that say so.

Blocks are given out as a serving system gives them: to all requests in turn, one block of tokens after the other, from
a list of free ones that earlier requests have left in any order. What a request has it keeps: a later step, which knows
of more tokens, finds the same blocks for those before. Keys and values of all layers follow one table where their
blocks hold equally many tokens; each cache has a pool of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pimc.backends.pim import layouts as pim_layouts
from pimc.backends.pim.layouts import up
from pimc.backends.target import CacheSpec, TargetSpec
from pimc.ir.blocks import ENTRY_BYTES, NO_BLOCK, Blocks, Window
from pimc.ir.diagnostics import InternalError, Kind, fail
from pimc.ir.facts import Ragged
from pimc.ir.graph import Value
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.record import record


@dataclass
class Table:
    """A block table: [sequences, blocks of each, lanes], entries of 32 bits. Blocks hold `tokens`."""

    entries: NDArray[np.int32]
    tokens: int
    address: int = NO_BLOCK
    """not before it has been placed: tables lie behind what layers have, which keeps its distances"""

    @property
    def layout(self) -> Layout:
        return Layout.dense(self.entries.shape, ENTRY_BYTES, self.address)


@record
class Request:
    """As the allocator sees it: whose blocks it draws from, and the tokens that it has and may have."""

    lane: int
    tokens: int
    room: int


@record
class Part:
    """Requests of a cache that are worked on together, all with as many tokens as the longest of them.

    shape: [B, KV, T, D] with the tokens that there is room for. lengths: tokens of each request. channels: those that
    hold requests of their own, one after the other; empty: as the layout has it.
    """

    shape: tuple[int, int, int, int]
    lengths: tuple[int, ...]
    rooms: tuple[int, ...]
    channels: range = range(0)


@record
class _InBanks:
    """How a part lies in whole blocks, from row 0 on."""

    layout: Layout
    tokens: int
    """of a block"""
    rows: int
    """row indices of a block"""
    lanes: tuple[int, int]
    """requests side by side, and the channels from one to the next"""


@dataclass
class Pager:
    """Gives out the windows, pools and tables of one memory plan."""

    spec: TargetSpec
    cache: CacheSpec
    tables: list[Table] = field(default_factory=list)
    _next: int = 0

    def __post_init__(self) -> None:
        self._next = self.spec.dram.geometry.bytes
        self._of: dict[Window, int] = {}

    def linear(
        self, parts: Sequence[Part], element_bytes: int, take: Callable[[int], int]
    ) -> list[tuple[Layout, Blocks]]:
        """Parts of a cache whose blocks are stretches of memory: [block][KV, tokens of the block, D]."""
        tokens = self.cache.block
        _, heads, _, depth = parts[0].shape
        unit = self.spec.dram.access_bytes
        size = up(heads * tokens * depth * element_bytes, unit) * unit
        tables, pool_blocks = self._tables(parts, tokens, [1] * len(parts))
        pool = take(pool_blocks * size)
        found: list[tuple[Layout, Blocks]] = []
        for table in tables:
            sequences, blocks, _ = table.shape
            window = self._window(sequences * blocks, size, pool)
            row = depth * element_bytes
            layout = Layout(
                window.start,
                (
                    ((sequences, blocks * size),),
                    ((heads, tokens * row),),
                    ((blocks, size), (tokens, row)),
                    ((depth, element_bytes),),
                ),
            )
            found.append((layout, self._blocks(window, table, tokens, pool_blocks)))
        return found

    def in_banks(
        self, kind: str, parts: Sequence[Part], channels: Sequence[int], take_rows: Callable[[int], int]
    ) -> list[tuple[Layout, Blocks]]:
        """Parts of a cache whose blocks are rows of banks."""
        made = [self._bank_layout(kind, part, channels) for part in parts]
        alike: dict[object, list[int]] = defaultdict(list)
        for number, (part, one) in enumerate(zip(parts, made, strict=True)):
            own = "channels" if part.channels else one.lanes  # groups that lie differently in the channels do not share
            alike[own, one.rows, one.tokens].append(number)
        found: dict[int, tuple[Layout, Blocks]] = {}
        for numbers in alike.values():
            members = [parts[n] for n in numbers], [made[n] for n in numbers]
            found |= dict(zip(numbers, self._in_pool(*members, take_rows), strict=True))
        return [found[number] for number in range(len(parts))]

    def _in_pool(
        self, parts: Sequence[Part], made: Sequence[_InBanks], take_rows: Callable[[int], int]
    ) -> Iterator[tuple[Layout, Blocks]]:
        """Parts whose blocks are alike, with one pool."""
        geometry = self.spec.dram.geometry
        tokens, rows = made[0].tokens, made[0].rows
        tables, pool_blocks = self._tables(parts, tokens, [one.lanes[0] for one in made])
        pool = take_rows(pool_blocks * rows) * geometry.stride_row
        for one, table in zip(made, tables, strict=True):
            sequences, blocks, count = table.shape
            step = one.lanes[1] * geometry.stride_channel
            stretches = (count, step, geometry.stride_bank) if count > 1 else (1, 0, 0)
            window = self._window(sequences * blocks, rows * geometry.stride_row, pool, stretches)
            first = one.layout.offset % geometry.stride_row
            moved = one.layout.moved(window.start + first - one.layout.offset)
            if first and count > 1:
                window = Window(
                    window.start + first, window.blocks, window.block_bytes, pool + first, count, step,
                    geometry.stride_bank,
                )  # fmt: skip
            yield moved, self._blocks(window, table, tokens, pool_blocks)

    def settle(self, homes: dict[Value, Home], take: Callable[[int], int]) -> None:
        """Place the tables that have no place yet, and tell the homes of caches."""
        new = [table for table in self.tables if table.address == NO_BLOCK]
        for table in new:
            table.address = take(table.entries.nbytes)
        for value, home in homes.items() if new else ():
            if home.blocks:
                own = tuple(replace(b, table=self.tables[self._of[b.window]].address) for b in home.blocks)
                homes[value] = replace(home, blocks=own)

    def _bank_layout(self, kind: str, part: Part, channels: Sequence[int]) -> _InBanks:
        geometry = self.spec.dram.geometry
        batch, heads, room, depth = part.shape
        granule = pim_layouts.row_tokens(self.spec, kind, part.shape)
        tokens = up(self.cache.block, granule) * granule
        blocks = up(room, tokens)
        shape = (batch, heads, blocks * tokens, depth)
        if part.channels:
            layout = pim_layouts.requests_layout(self.spec, kind, 0, shape, part.channels)
        else:
            layout, _ = pim_layouts.bank_layout(self.spec, kind, 0, shape, channels, tokens_first=True)
        requests, along = (pim_layouts.digits_of(layout, dim, geometry) for dim in (0, 2))
        if requests is None or along is None:
            raise InternalError(f"requests and tokens of {layout} do not lie in banks")
        rows, step = along.row
        if rows == 1:  # one row of tokens, of all heads and dims
            one = Layout(layout.offset % geometry.stride_row, (((1, 0),), *layout.dims[1:]))
            return _InBanks(layout, tokens, up(one.span(1)[1], geometry.stride_row), requests.channel)
        return _InBanks(layout, tokens, rows // blocks * step, requests.channel)

    def _window(
        self, blocks: int, block_bytes: int, pool: int, lanes: tuple[int, int, int] = (1, 0, 0)
    ) -> Window:
        """The next addresses beyond the memory, from a row index on."""
        window = Window(self._next, blocks, block_bytes, pool, *lanes)
        row = self.spec.dram.geometry.stride_row
        self._next = up(window.end, row) * row + row
        return window

    def _blocks(self, window: Window, entries: NDArray[np.int32], tokens: int, pool_blocks: int) -> Blocks:
        """With one table for all that have the same entries."""
        known = (i for i, t in enumerate(self.tables) if t.tokens == tokens and np.array_equal(t.entries, entries))
        number = next(known, len(self.tables))
        if number == len(self.tables):
            self.tables.append(Table(entries, tokens))
        self._of[window] = number
        return Blocks(window, self.tables[number].address, tokens, pool_blocks)

    def _tables(self, parts: Sequence[Part], tokens: int, lanes: Sequence[int]) -> tuple[list[NDArray[np.int32]], int]:
        """The table of each part, and how many blocks the pool has for each lane."""
        sequences = [
            Request(part.channels.start + i % count, length, room)
            for part, count in zip(parts, lanes, strict=True)
            for i, (length, room) in enumerate(zip(part.lengths, part.rooms, strict=True))
        ]
        held, pool = given_out(sequences, tokens, self.cache)
        tables: list[NDArray[np.int32]] = []
        first = 0
        for part, count in zip(parts, lanes, strict=True):
            blocks = up(part.shape[2], tokens)
            table = np.full((up(len(part.lengths), count), blocks, count), NO_BLOCK, np.int32)
            for i, own in enumerate(held[first : first + len(part.lengths)]):
                table[i // count, : len(own), i % count] = own
            tables.append(table)
            first += len(part.lengths)
        return tables, pool


def given_out(sequences: Sequence[Request], tokens: int, cache: CacheSpec) -> tuple[list[list[int]], int]:
    """The blocks of each sequence in the order of its tokens, and how many each lane has.

    Raises CompileError (CAPACITY) where the pool is too small.
    """
    need: dict[int, int] = defaultdict(int)
    for s in sequences:
        need[s.lane] += up(s.room, tokens)
    most = max(need.values(), default=1)
    if cache.blocks is not None and cache.blocks < most:
        raise fail(
            Kind.CAPACITY,
            f"requests need {most} blocks of {tokens} tokens of each cache, and its pool has {cache.blocks}",
            help=f"a larger pool (--set cache.blocks={most}), other blocks (--set cache.block=N), or fewer tokens",
        )
    pool = cache.blocks or most
    free = {lane: iter(_free_blocks(pool, need[lane], lane, cache)) for lane in need}
    held: list[list[int]] = [[] for _ in sequences]
    for number in range(max((up(s.tokens, tokens) for s in sequences), default=0)):
        for own, s in zip(held, sequences, strict=True):
            if number * tokens < s.tokens:
                own.append(next(free[s.lane]))
    return held, pool


def _free_blocks(pool: int, need: int, lane: int, cache: CacheSpec) -> Sequence[int]:
    """As many free blocks as are needed at most, in the order in which they are given out."""
    if cache.order == "rising":
        return range(need)
    generator = np.random.Generator(np.random.PCG64([cache.seed, lane]))
    return [int(block) for block in generator.choice(pool, need, replace=False)]


def parts_of(
    shape: Sequence[int], room: int, ragged: Ragged | None, *, by_channel: bool
) -> list[Part]:
    """The parts of a cache [B, KV, T, D] with room for so many tokens."""
    batch, heads, tokens, depth = shape
    if ragged is None:
        return [Part((batch, heads, room, depth), (tokens,) * batch, (room,) * batch)]
    found: list[Part] = []
    for start, size, length in ragged.stretches():
        lengths = ragged.lengths[start : start + size]
        channels = range(0)
        if by_channel and ragged.channels:
            own = ragged.channels[start : start + size]
            channels = range(min(own), max(own) + 1)
        found.append(Part((size, heads, length, depth), lengths, lengths, channels))
    return found
