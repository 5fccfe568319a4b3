"""Where the tokens of a paged cache lie: the one place where an address of a cache is turned into one of the memory.

A cache that is cut into blocks has addresses of its own, a *window* beyond the end of the memory, in which its blocks
follow each other in the order of their tokens. Layouts, commands and what streams wait for know these addresses alone.
A *block table* in the memory says for each block of the window which block of the cache's *pool* holds it:

    window    | request 0: block 0 | block 1 | block 2 | request 1: block 0 | ...
    table           4                  0         7             2
    pool      | 0 | 1 | 2 | ..

Where channels hold requests of their own, each has its own blocks (`lanes`): the table has an entry for each of them.
A contiguous cache has no window: its addresses are those of the memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pimc.record import record

ENTRY_BYTES = 4
"""Of a block table: a 32-bit integer, NO_BLOCK where a request has no such block."""
NO_BLOCK = -1


@record
class Window:
    """The addresses of a paged cache. All sizes in bytes."""

    start: int
    """the first address"""
    blocks: int
    """in the window, of each lane"""
    block_bytes: int
    """from block to block, in the window and in the pool; over all lanes, where there are several"""
    pool: int
    """where the pool begins in the memory"""
    lanes: int = 1
    """parts of every block that belong to requests of their own"""
    lane_bytes: int = 0
    """of a stretch that belongs to one lane"""
    lane_turn: int = 0
    """from a stretch of a lane to its next one"""

    @property
    def end(self) -> int:
        return self.start + self.blocks * self.block_bytes

    @property
    def entries(self) -> int:
        """Of its table: block by block, lane by lane."""
        return self.blocks * self.lanes

    def physical(self, addresses: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
        """The memory's addresses for those of the window; NO_BLOCK where there is none. table: [blocks, lanes]."""
        block, inside = np.divmod(addresses - self.start, self.block_bytes)
        lane = 0
        if self.lanes > 1:
            lane = np.minimum(inside % self.lane_turn // self.lane_bytes, self.lanes - 1)
        held = table.reshape(self.blocks, self.lanes)[block, lane]
        return np.where(held == NO_BLOCK, NO_BLOCK, self.pool + held * self.block_bytes + inside)


@record
class Blocks:
    """How a cache, or a group of its requests, is paged."""

    window: Window
    table: int
    """where its table lies in the memory: [sequences, blocks of each, lanes]"""
    tokens: int
    """of a block"""
    pool_blocks: int
    """in the pool, for each lane"""

    @property
    def pool(self) -> tuple[int, int]:
        """First byte of the memory that the pool takes up, all lanes together, and how many."""
        w = self.window
        return w.pool - (w.pool % w.lane_turn if w.lane_turn else 0), self.pool_blocks * w.block_bytes
