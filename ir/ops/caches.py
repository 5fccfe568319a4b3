"""Caches of fixed capacity, which are written at given positions."""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.rules import agree, same_dtype, want_integer, want_rank
from pimc.ir.types import TensorType

IN_PLACE = frozenset({"cache_append", "cache_write"})
"""Ops whose result lives in the memory of their first operand."""
CACHE_AXIS = 2
"""The axis of positions of keys and values [B, KV, T, D]."""


@op("cache_write", cls=OpClass.MOVEMENT)
def cache_write(past: TensorType, new: TensorType, positions: TensorType) -> TensorType:
    """`past` [B,KV,C,D] with `new` [B,KV,S,D] at `positions` of its axis of C, written in place.

    positions: integers [S], or [B,S] where requests differ; each in 0 .. C - 1 (negatives count from the end).
    """
    want_rank(past, 4, "past")
    want_rank(new, 4, "new")
    want_rank(positions, (1, 2), "the positions")
    want_integer(positions, "the positions")
    for i in (0, 1, 3):
        agree(past.shape[i], new.shape[i], f"dimension {i} of past and new")
    agree(positions.shape[-1], new.shape[2], "the number of positions")
    if positions.rank == 2:
        agree(positions.shape[0], past.shape[0], "the requests of positions and past")
    require(not isinstance(past.shape[2], int) or past.shape[2] > 0, "the cache must have room")
    return TensorType(same_dtype(past, new), past.shape)


@cache_write.reference
def _(past: Array, new: Array, positions: Array) -> Array:
    result = past.copy()
    each = np.broadcast_to(positions, (past.shape[0], positions.shape[-1]))
    for request, places, rows in zip(result, each, new, strict=True):
        request[:, places] = rows
    return result
