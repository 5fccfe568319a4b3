"""Nodes of random models that read or write at positions held in another tensor."""

from __future__ import annotations

import numpy as np

from tests.fuzz.builder import Builder
from tests.fuzz.drawing import indices_below
from tests.fuzz.eager import Rejected, Value


def gather(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    if b.maybe(0.3):
        x = b.constant(b.array(np.float32, (20, b.pick((4, 8, 16)))))
    axis = b.below(x.rank)
    return b.op("Gather", x, indices_below(b, x.shape[axis], b.shape(b.below(3))), axis=axis)


def gather_elements(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    axis = b.below(x.rank)
    shape = tuple(1 + b.below(4) if i == axis else d for i, d in enumerate(x.shape))
    return b.op("GatherElements", x, indices_below(b, x.shape[axis], shape), axis=axis)


def _vectors(b: Builder, x: Value, lead: tuple[int, ...], batch: int = 0) -> Value:
    depth = 1 + b.below(x.rank - batch)
    extents = x.shape[batch : batch + depth]
    if not all(extents):
        raise Rejected("nothing to index")
    drawn = np.stack([b.chance.integers(0, n, lead) for n in extents], -1).astype(np.int64)
    return b.constant(drawn) if b.maybe() else b.input(drawn)


def gather_nd(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    batch = b.below(x.rank) if b.maybe(0.4) else 0
    lead = (*x.shape[:batch], *b.shape(b.below(3)))
    return b.op("GatherND", x, _vectors(b, x, lead, batch), batch_dims=batch)


def scatter_nd(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0 and v.dtype != np.bool_)
    depth = 1 + b.below(x.rank)
    count = int(np.prod(x.shape[:depth]))
    if not count:
        raise Rejected("nothing to index")
    places = b.chance.permutation(count)[: 1 + b.below(min(count, 4))]
    drawn = np.stack(np.unravel_index(places, x.shape[:depth]), -1).astype(np.int64)
    indices = b.constant(drawn) if b.maybe() else b.input(drawn)
    updates = b.fresh(x.dtype, (len(places), *x.shape[depth:]))
    return b.op("ScatterND", x, indices, updates)


def scatter_elements(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0 and min(v.shape) > 0)
    axis = b.below(x.rank)
    count = 1 + b.below(x.shape[axis])
    shape = tuple(count if i == axis else d for i, d in enumerate(x.shape))
    order = np.argsort(b.chance.random(x.shape), axis)  # positions are different, so that writing them has one meaning
    drawn = order[tuple(slice(0, d) for d in shape)]
    indices = b.constant(drawn, np.int64) if b.maybe() else b.input(drawn.astype(np.int64))
    return b.op("ScatterElements", x, indices, b.fresh(x.dtype, shape), axis=axis)


def one_hot(b: Builder) -> object:
    depth = 1 + b.below(6)
    values = b.constant(b.array(b.pick((np.float32, np.int64)), (2,)))
    return b.op("OneHot", indices_below(b, depth, b.shape(b.below(3))), b.constant(depth, np.int64), values, axis=-1)


def non_zero(b: Builder) -> object:
    return b.op("NonZero", b.constant(b.array(np.bool_, b.shape(1 + b.below(2)))))
