"""What attention computes, and a cut of it: pairs of request and key head, queries of a block, keys of a tile."""

from __future__ import annotations

from pimc.backends.npu.extents import Side
from pimc.record import record


@record
class Attended:
    """Attention of `pairs` (request, key head), each with `group` query heads.

    causal, window: as the op has them, where they can be told without looking at lengths; limits: passes of the vector
    unit that mask scores by positions; mask: whether an operand masks them, too, of which `mask_bytes` for each come
    with a tile.
    """

    pairs: int
    group: int
    queries: int
    keys: int
    depth: int
    width: int
    element_bytes: int
    mask_bytes: int
    causal: bool
    window: int
    limits: int
    mask: bool
    lengths: bool
    softcap: bool
    q: Side | None = None
    k: Side | None = None
    v: Side | None = None
    out: Side | None = None
    """how matrices of pairs lie in memory; rows of q and out are those of queries, head by head"""

    def span(self, start: int, rows: int) -> tuple[int, int]:
        """The first key that some query of a block sees, and the one after the last."""
        before = self.keys - self.queries + start
        stop = max(1, before + rows) if self.causal else self.keys
        first = max(0, before + 1 - self.window) if self.window else 0
        return min(first, stop - 1), stop

    def visible(self, start: int, rows: int, first: int, stop: int) -> bool:
        """Whether all queries of a block see all of those keys."""
        if self.lengths:
            return False
        before = self.keys - self.queries + start
        above = not self.causal or stop <= before + 1
        return above and not (self.window and first <= before + rows - 1 - self.window)

    def seen(self, start: int, rows: int, size: int, lanes: int) -> Seen:
        """What a block of queries sees of keys in tiles of a size, for a vector unit with so many lanes."""
        first, stop = self.span(start, rows)
        first -= first % size
        whole, rest = divmod(stop - first, size)
        tiles, passes = whole + (rest > 0), whole * -(-size // lanes) + -(-rest // lanes)
        if self.lengths:
            return Seen(1, tiles, tiles, stop - first, passes)
        before = self.keys - self.queries + start
        above = (before + 1 - first) // size if self.causal and stop > before + 1 else tiles
        below = max(0, (before + rows - 1 - self.window - first) // size + 1) if self.window else 0
        return Seen(1, tiles, tiles - max(0, above - below), stop - first, passes)


@record
class Seen:
    """Blocks of queries, and the tiles of keys that they see."""

    blocks: int
    tiles: int
    masked: int
    """tiles of which positions hide a part"""
    keys: int
    """in all of them"""
    passes: int
    """in which lanes take the keys of a query"""


@record
class KeyTile:
    first: int
    count: int
    masked: bool
    """whether positions hide some of its keys from some queries"""


@record
class AttentionTiles:
    """Pairs, queries of a block and keys of a tile; the seconds of all turns."""

    pairs: int
    queries: int
    keys: int
    seconds: float
    compute: float
    vector: float
    memory: float

    def tiles(self, e: Attended, start: int, rows: int) -> list[KeyTile]:
        """Tiles of the keys that a block of queries sees: those beyond are skipped."""
        first, stop = e.span(start, rows)
        found: list[KeyTile] = []
        for at in range(first // self.keys * self.keys, stop, self.keys):
            end = min(at + self.keys, stop)
            found.append(KeyTile(at, end - at, not e.visible(start, rows, at, end)))
        return found

    @property
    def limit(self) -> str:
        bounds = {"arrays": self.compute, "vector unit": self.vector, "memory": self.memory}
        most = max(bounds.values())
        return "latency" if self.seconds > 2 * most else max(bounds, key=lambda name: bounds[name])
