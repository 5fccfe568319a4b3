"""Values that fit others: broadcasting partners, indices, heads of attention."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder
from tests.fuzz.eager import Rejected, Value


def partner(b: Builder, x: Value) -> Value:
    """A value of the same type that broadcasts with x."""
    if b.maybe(0.6):
        same = [v for v in b.pool if v.dtype == x.dtype and broadcasts(x.shape, v.shape)]
        if same:
            return same[b.below(len(same))]
    shape = [1 if b.maybe(0.3) else d for d in x.shape[b.below(x.rank + 1) :]]
    if b.maybe(0.1):
        shape = [b.extent(), *([1] * (x.rank - len(shape))), *shape]
    return b.fresh(x.dtype, shape)


def broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == c or 1 in (a, c) for a, c in zip(reversed(one), reversed(other), strict=False))


def sides(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    return (x, y) if b.maybe(0.7) else (y, x)


def indices_below(b: Builder, extent: int, shape: tuple[int, ...]) -> Value:
    if not extent:
        raise Rejected("nothing to index")
    low = -extent if b.maybe(0.25) else 0
    drawn = b.chance.integers(low, extent, shape).astype(b.pick((np.int64, np.int64, np.int32)))
    return b.constant(drawn) if b.maybe() else b.input(drawn)


def heads_of(b: Builder, batch: int, heads: int, length: int, width: int) -> Value:
    return b.fresh(np.float32, (batch, heads, length, width))
