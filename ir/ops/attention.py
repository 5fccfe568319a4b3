"""Attention, its three parts, rotary embedding and the append to a cache: the canonical forms.

Shapes: B requests, H query heads, KV key/value heads (H a multiple), S query and T key positions, D and Dv elements.
Head h of the query reads key/value head `h // (H // KV)`. All arithmetic is in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.activation import softmax_rows
from pimc.ir.ops.rules import agree, axis_of, broadcast, same_dtype, want_float, want_integer, want_rank, wide
from pimc.ir.types import Dim, DType, TensorType

Results = tuple[TensorType, ...]


def grouped(heads: Dim, kv_heads: Dim) -> None:
    """The query's heads must be a multiple of the key's."""
    if isinstance(heads, int) and isinstance(kv_heads, int):
        require(kv_heads > 0 and heads % kv_heads == 0, f"{heads} query heads do not share {kv_heads} key/value heads")


def _mask_types(scores: TensorType, mask: TensorType | None, lengths: TensorType | None) -> None:
    if mask is not None:
        require(mask.dtype.is_float or mask.dtype is DType.BOOL, f"the mask must be float or bool, but is {mask}")
        for i, (given, wanted) in enumerate(zip(broadcast(mask.shape, scores.shape), scores.shape, strict=True)):
            agree(given, wanted, f"dimension {i} of the mask")
    if lengths is not None:
        want_integer(lengths, "lengths")
        want_rank(lengths, 1, "lengths")
        agree(lengths.shape[0], scores.shape[0], "the number of lengths")


def _scores_type(q: TensorType, k: TensorType) -> TensorType:
    want_float(q, "q")
    want_rank(q, 4, "q")
    want_rank(k, 4, "k")
    agree(q.shape[0], k.shape[0], "the batch of q and k")
    agree(q.shape[3], k.shape[3], "the head size of q and k")
    grouped(q.shape[1], k.shape[1])
    return TensorType(same_dtype(q, k), (*q.shape[:3], k.shape[2]))


def _context_type(p: TensorType, v: TensorType) -> TensorType:
    want_rank(p, 4, "the weights")
    want_rank(v, 4, "v")
    agree(p.shape[0], v.shape[0], "the batch of weights and v")
    agree(p.shape[3], v.shape[2], "the key positions of weights and v")
    grouped(p.shape[1], v.shape[1])
    return TensorType(same_dtype(p, v), (*p.shape[:3], v.shape[3]))


def repeat_heads(x: Array, heads: int) -> Array:
    """Key or value heads repeated so that there is one for each query head."""
    return x if x.shape[1] == heads else np.repeat(x, heads // x.shape[1], axis=1)


def visible(
    batch: int,
    queries: int,
    keys: int,
    lengths: Array | None,
    *,
    causal: bool,
    window: int,
    offset: Array | None = None,
) -> Array | None:
    """Which keys each query may see, bool [B|1, 1, S, T], or None for all.

    Query i stands at position `offset + i`, where offset is by default the number of valid keys less that of queries.
    """
    if lengths is None and not causal and not window:
        return None
    valid = np.full(1, keys) if lengths is None else lengths.reshape(batch)
    start = valid - queries if offset is None else offset
    key = np.arange(keys)
    at = start.reshape(-1, 1, 1) + np.arange(queries).reshape(1, -1, 1)
    allowed: Array = np.broadcast_to(key < valid.reshape(-1, 1, 1), (max(len(valid), len(start)), queries, keys))
    if causal:
        allowed = allowed & (key <= at)
    if window:
        allowed = allowed & (key > at - window)
    return allowed[:, None]


def masked_softmax(scores: Array, mask: Array | None, allowed: Array | None, softcap: float) -> Array:
    """The weights of float32 scores: capped, masked, softmax over the last axis; rows without any key are 0."""
    if softcap:
        cap = scores.dtype.type(softcap)
        scores = np.tanh(scores / cap) * cap
    if mask is not None and mask.dtype != np.bool_:
        scores = scores + wide(mask)
    elif mask is not None:
        scores = np.where(mask, scores, -np.inf)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = softmax_rows(scores.astype(np.result_type(scores.dtype, np.float32), copy=False))
    if mask is None and allowed is None:
        return weights
    return np.asarray(np.where(np.isneginf(scores.max(axis=-1, keepdims=True)), 0, weights), weights.dtype)


@op("attention", cls=OpClass.COMPOSITE)
def attention(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    mask: TensorType | None = None,
    lengths: TensorType | None = None,
    *,
    scale: float,
    causal: bool = False,
    softcap: float = 0.0,
    window: int = 0,
) -> TensorType:
    """`softmax(cap(q @ k^T * scale) + mask) @ v` for q [B,H,S,D], k [B,KV,T,D], v [B,KV,T,Dv]: [B,H,S,Dv].

    mask: additive floats, or bool (True: attend), broadcast to [B,H,S,T]. lengths i64 [B]: how many keys of each
    request are valid. causal: query i sees keys `j <= i + (valid - S)`; window w > 0: only those above `.. - w`.
    softcap c > 0: scores become `c * tanh(scores / c)`. A query that sees no key gives 0.
    """
    scores = _scores_type(q, k)
    _mask_types(scores, mask, lengths)
    return _context_type(scores, v)


@attention.reference
def _(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    lengths: Array | None = None,
    *,
    scale: float,
    causal: bool = False,
    softcap: float = 0.0,
    window: int = 0,
) -> Array:
    scores = _scores(q, k, scale)
    allowed = visible(q.shape[0], q.shape[2], k.shape[2], lengths, causal=causal, window=window)
    weights = masked_softmax(scores, mask, allowed, softcap)
    return np.asarray(np.matmul(weights, repeat_heads(wide(v), q.shape[1]))).astype(q.dtype)


def _scores(q: Array, k: Array, scale: float) -> Array:
    keys = repeat_heads(wide(k), q.shape[1])
    wide_q = wide(q)
    return np.asarray(np.matmul(wide_q, np.swapaxes(keys, 2, 3)) * wide_q.dtype.type(scale))


@op("attention_scores", cls=OpClass.CONTRACTION)
def attention_scores(q: TensorType, k: TensorType, *, scale: float) -> TensorType:
    """The first part of attention: `q @ k^T * scale`, [B,H,S,T]."""
    return _scores_type(q, k)


@attention_scores.reference
def _(q: Array, k: Array, *, scale: float) -> Array:
    return _scores(q, k, scale).astype(q.dtype)


@op("attention_softmax", cls=OpClass.REDUCTION)
def attention_softmax(
    scores: TensorType,
    mask: TensorType | None = None,
    lengths: TensorType | None = None,
    *,
    causal: bool = False,
    softcap: float = 0.0,
    window: int = 0,
) -> TensorType:
    """The second part of attention: cap, mask and softmax of scores [B,H,S,T]; attributes as there."""
    want_float(scores, "the scores")
    want_rank(scores, 4, "the scores")
    _mask_types(scores, mask, lengths)
    return TensorType(scores.dtype, scores.shape)


@attention_softmax.reference
def _(
    scores: Array,
    mask: Array | None = None,
    lengths: Array | None = None,
    *,
    causal: bool = False,
    softcap: float = 0.0,
    window: int = 0,
) -> Array:
    batch, _, queries, keys = scores.shape
    allowed = visible(batch, queries, keys, lengths, causal=causal, window=window)
    return masked_softmax(wide(scores), mask, allowed, softcap).astype(scores.dtype)


@op("attention_context", cls=OpClass.CONTRACTION)
def attention_context(p: TensorType, v: TensorType) -> TensorType:
    """The third part of attention: weights [B,H,S,T] times values [B,KV,T,Dv]: [B,H,S,Dv]."""
    return _context_type(p, v)


@attention_context.reference
def _(p: Array, v: Array) -> Array:
    return np.asarray(np.matmul(wide(p), repeat_heads(wide(v), p.shape[1]))).astype(p.dtype)


SOFTMAX_FLOPS = 5
"""Per score: maximum, difference, exponential, sum, quotient."""


@attention.flops
def _(q: TensorType, k: TensorType, v: TensorType, *_: Any, results: Results, **__: Any) -> int:
    batch, heads, queries, depth = q.static_shape
    keys, width = v.static_shape[2:]
    return batch * heads * queries * keys * (2 * depth + 2 * width + SOFTMAX_FLOPS)


@attention_scores.flops
def _(q: TensorType, k: TensorType, *, results: Results, scale: float) -> int:
    return 2 * results[0].elements * q.static_shape[3]


@attention_softmax.flops
def _(scores: TensorType, *_: Any, results: Results, **__: Any) -> int:
    return SOFTMAX_FLOPS * scores.elements


@attention_context.flops
def _(p: TensorType, v: TensorType, *, results: Results) -> int:
    return 2 * results[0].elements * v.static_shape[2]


def rotated(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Rotate the first 2 * R elements of the last dimension of `x` by tables [.., R] that broadcast to it."""
    size = 2 * cos.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    if interleaved:
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = np.split(turning, 2, axis=-1)
    left, right = first * cos - second * sin, second * cos + first * sin
    if interleaved:
        turned = np.stack([left, right], axis=-1).reshape(turning.shape)
    else:
        turned = np.concatenate([left, right], axis=-1)
    return np.concatenate([turned, rest], axis=-1)


@op("rotary", cls=OpClass.COMPOSITE)
def rotary(x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool = False) -> TensorType:
    """Rotary embedding of x [B,H,S,D] by tables cos, sin [B|1, S, R/2] with R <= D.

    The first R elements are pairs (i, i + R/2), or (2i, 2i + 1) if interleaved; pair (a, b) becomes
    (a*cos - b*sin, b*cos + a*sin). The others pass.
    """
    want_float(x, "x")
    want_rank(x, 4, "x")
    for name, table in (("cos", cos), ("sin", sin)):
        want_rank(table, 3, name)
        require(table.shape == cos.shape, f"cos and sin differ in shape: {cos} and {sin}")
        if table.shape[0] != 1:
            agree(table.shape[0], x.shape[0], f"the batch of {name}")
        agree(table.shape[1], x.shape[2], f"the positions of {name}")
        half, width = table.shape[2], x.shape[3]
        if isinstance(half, int) and isinstance(width, int):
            require(2 * half <= width, f"{name} rotates {2 * half} elements, but x has {width}")
    return TensorType(same_dtype(x, cos, sin), x.shape)


@rotary.reference
def _(x: Array, cos: Array, sin: Array, *, interleaved: bool = False) -> Array:
    return rotated(wide(x), wide(cos)[:, None], wide(sin)[:, None], interleaved).astype(x.dtype)


@rotary.flops
def _(x: TensorType, cos: TensorType, sin: TensorType, *, results: Results, interleaved: bool = False) -> int:
    batch, heads, positions, _ = x.static_shape
    return batch * heads * positions * cos.static_shape[2] * 6


@op("cache_append", cls=OpClass.MOVEMENT)
def cache_append(
    past: TensorType, new: TensorType, positions: TensorType | None = None, *, axis: int = 2
) -> TensorType:
    """`new` behind `past` along an axis, written in place into the memory of the cache: [B,KV,P+S,D].

    positions: integers [B,S], where the new ones of each request go if requests have cached different numbers; what
    lies behind them means nothing (0 in the reference).
    """
    at = axis_of(axis, past.rank)
    if positions is not None:
        want_integer(positions, "the positions")
        want_rank(positions, 2, "the positions")
        agree(positions.shape[0], past.shape[0], "the requests of positions and past")
        agree(positions.shape[1], new.shape[at], "the number of positions")
    require(new.rank == past.rank, f"past and new differ in rank: {past} and {new}")
    dims = [
        left + right if i == at else agree(left, right, f"dimension {i} of past and new")
        for i, (left, right) in enumerate(zip(past.shape, new.shape, strict=True))
    ]
    return TensorType(same_dtype(past, new), tuple(dims))


@cache_append.reference
def _(past: Array, new: Array, positions: Array | None = None, *, axis: int = 2) -> Array:
    if positions is None:
        return np.concatenate([past, new], axis)
    result = np.concatenate([past, np.zeros_like(new)], axis)
    for request, places, rows in zip(result, positions.astype(np.int64), new, strict=True):
        lying, added = np.moveaxis(request, axis - 1, 0), np.moveaxis(rows, axis - 1, 0)
        lying[places] = added
        lying[places.max(initial=-1) + 1 :] = 0
    return result
