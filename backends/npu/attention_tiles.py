"""How attention is cut: a search over what fits, scored by time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import inf

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS
from pimc.backends.npu.attended import Attended, AttentionTiles
from pimc.backends.npu.attention_time import Core, timed
from pimc.backends.npu.isa import ACCUMULATOR_BYTES
from pimc.ir.types import DType
from pimc.record import record

F32_BYTES = DType.F32.bits // 8
LEAST_KEYS = 128
"""Keys of a tile below which nothing is gained, but room."""
LEAST_QUERIES = 32
_SAME = 1.01
"""Of cuts that take up to that part of the least time, that with the largest blocks of queries is taken: each block is
written out by itself."""


@record
class Sizes:
    """Bytes of what lies on chip, one slot of each."""

    q: int
    k: int
    v: int
    mask: int
    scores: int
    weights: int
    sums: int
    out: int
    row: int

    @staticmethod
    def of(e: Attended, pairs: int, queries: int, keys: int) -> Sizes:
        rows, size = pairs * e.group * queries, e.element_bytes
        return Sizes(
            rows * e.depth * size, pairs * keys * e.depth * size, pairs * keys * e.width * size,
            rows * keys * e.mask_bytes, rows * keys * F32_BYTES, rows * keys * size, rows * e.width * F32_BYTES,
            rows * e.width * size, rows * F32_BYTES,
        )  # fmt: skip

    @property
    def doubled(self) -> tuple[int, ...]:
        """Those of which two slots are held; a mask has places even where there is none."""
        return self.q, self.k, self.v, max(1, self.mask), self.weights, self.out, self.row, self.row, self.row

    @property
    def single(self) -> tuple[int, ...]:
        return self.scores, self.sums, self.sums, self.row

    def bytes(self, keys: int) -> int:
        held = SLOTS * sum(map(padded, self.doubled)) + sum(map(padded, self.single))
        return held + padded(keys * F32_BYTES)


@lru_cache(maxsize=512)
def best_attention(core: Core, e: Attended, room: int) -> AttentionTiles | None:
    """The fastest cut that fits `room` bytes of the buffer and the accumulators, or None."""
    cuts = [cut for cut in _cuts(e) if _fits(core, e, *cut, room)]
    if not cuts:
        small = (cut for cut in _small_cuts(e) if _fits(core, e, *cut, room))
        return next((timed(core, e, *cut) for cut in small), None)
    found, best = list[AttentionTiles](), inf
    for least, number in sorted((timed(core, e, *cut, least=True).seconds, n) for n, cut in enumerate(cuts)):
        if least > _SAME * best:
            break
        found.append(timed(core, e, *cuts[number]))
        best = min(best, found[-1].seconds)
    return min((f for f in found if f.seconds <= _SAME * best), key=lambda f: (-f.queries, f.seconds))


def _cuts(e: Attended) -> Iterator[tuple[int, int, int]]:
    """Pairs, queries and keys to try."""
    for queries in _halves(e.queries, min(LEAST_QUERIES, e.queries)):
        for keys in _halves(e.keys, min(LEAST_KEYS, e.keys)):
            for pairs in _halves(e.pairs, 1):
                yield pairs, queries, keys


def _small_cuts(e: Attended) -> Iterator[tuple[int, int, int]]:
    """Of single pairs, where nothing else fits."""
    for queries in _halves(min(LEAST_QUERIES, e.queries), 1):
        for keys in _halves(min(LEAST_KEYS, e.keys), 1):
            yield 1, queries, keys


def _halves(extent: int, least: int) -> Iterator[int]:
    size = extent
    while size > least:
        yield size
        size = max(least, -(-size // 2))
    yield least


def _fits(core: Core, e: Attended, pairs: int, queries: int, keys: int, room: int) -> bool:
    if Sizes.of(e, pairs, queries, keys).bytes(e.keys) > room:
        return False
    rows = pairs * e.group * queries
    return rows * max(keys, e.width) * ACCUMULATOR_BYTES <= core.accumulators
