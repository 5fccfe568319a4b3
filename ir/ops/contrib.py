"""Attention ops of the com.microsoft domain, as ONNX Runtime defines them, before they are made canonical."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, op, reject, require
from pimc.ir.ops.attention import SOFTMAX_FLOPS, grouped, repeat_heads, rotated, visible
from pimc.ir.ops.onnx_attention import appended, heads_first, heads_last, split_heads
from pimc.ir.ops.rules import (
    agree,
    compatible,
    divide,
    known_scalar,
    same_dtype,
    want_float,
    want_integer,
    want_rank,
    wide,
)
from pimc.ir.types import Dim, Shape, TensorType

Results = tuple[TensorType, ...]


def _attend(
    q: Array, k: Array, v: Array, bias: Array | None, allowed: Array | None, scale: float, **extra: Any
) -> Array:
    """softmax(q @ k^T * scale + bias) @ v in float32 for [B,H,S,D]; `sink` is one more score, without a value."""
    factor = np.float32(scale or 1 / math.sqrt(q.shape[3]))
    scores = np.matmul(wide(q), np.swapaxes(repeat_heads(wide(k), q.shape[1]), 2, 3)) * factor
    if extra.get("softcap"):
        scores = np.tanh(scores / np.float32(extra["softcap"])) * np.float32(extra["softcap"])
    if bias is not None:
        scores = scores + wide(bias)
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    sink = extra.get("sink")
    top = scores.max(axis=-1, keepdims=True)
    if sink is not None:
        top = np.maximum(top, sink)
    powers = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = powers.sum(axis=-1, keepdims=True)
    if sink is not None:
        total = total + np.exp(sink - top)
    weights = powers / np.where(total == 0, 1, total)
    return np.asarray(np.matmul(weights.astype(np.float32), repeat_heads(wide(v), q.shape[1])))


def _gqa_shapes(q: TensorType, k: TensorType | None, heads: int, kv_heads: int) -> tuple[Shape, Shape]:
    """Query and key as [B, heads, S, D]; without k they are packed together with v."""
    if k is None:
        require(q.rank == 3, f"packed query, key and value must have rank 3, but are {q}")
        size = divide(q.shape[2], heads + 2 * kv_heads, "the packed heads")
        return (q.shape[0], heads, q.shape[1], size), (q.shape[0], kv_heads, q.shape[1], size)
    return split_heads(q.shape, heads, "query"), split_heads(k.shape, kv_heads, "key")


@op("ms_group_query_attention", cls=OpClass.COMPOSITE)
def ms_group_query_attention(
    query: TensorType,
    key: TensorType | None = None,
    value: TensorType | None = None,
    past_key: TensorType | None = None,
    past_value: TensorType | None = None,
    seqlens_k: TensorType | None = None,
    total_sequence_length: TensorType | None = None,
    cos_cache: TensorType | None = None,
    sin_cache: TensorType | None = None,
    position_ids: TensorType | None = None,
    attention_bias: TensorType | None = None,
    head_sink: TensorType | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: int = 0,
    local_window_size: int = -1,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
) -> tuple[TensorType, ...]:
    """com.microsoft GroupQueryAttention; results: output [B,S,H*D], present_key and present_value [B,KV,T,D].

    seqlens_k i32 [B]: the number of valid keys of each request, new ones included, less one. Without key and value
    the query holds all three side by side. Causal; new keys follow directly behind a request's valid old ones.
    """
    want_float(query, "query")
    require((key is None) == (value is None), "key and value come together")
    queries, keys = _gqa_shapes(query, key, num_heads, kv_num_heads)
    grouped(num_heads, kv_num_heads)
    if seqlens_k is None or total_sequence_length is None:
        reject("seqlens_k and total_sequence_length must be given")
    want_integer(seqlens_k, "seqlens_k")
    compatible(seqlens_k.shape, (queries[0],) if seqlens_k.rank < 2 else (queries[0], 1), "seqlens_k")
    same_dtype(query, key)
    compatible(queries, (keys[0], None, keys[2], keys[3]), "query")
    _cached(keys, query, value, past_key, past_value)
    if do_rotary:
        if cos_cache is None or sin_cache is None:
            reject("do_rotary needs cos_cache and sin_cache")
        _tables(query, cos_cache, sin_cache, queries[3])
    if head_sink is not None:
        compatible(head_sink.shape, (num_heads,), "head_sink")
    if attention_bias is not None:
        want_rank(attention_bias, 4, "attention_bias")
    present = (*keys[:2], _present_length(past_key, queries[2], total_sequence_length), keys[3])
    return (
        TensorType(query.dtype, (queries[0], queries[2], queries[1] * queries[3])),
        TensorType(query.dtype, present),
        TensorType(query.dtype, present),
    )


def _cached(
    keys: Shape, query: TensorType, value: TensorType | None, past_key: TensorType | None, past_value: TensorType | None
) -> None:
    """Reject new and cached values that do not fit the new keys [B, KV, S, D]."""
    if value is not None:
        shape = (keys[0], keys[2], keys[1] * keys[3]) if value.rank == 3 else keys
        compatible(value.shape, shape, "value")
    require((past_key is None) == (past_value is None), "past_key and past_value come together")
    for past, name in ((past_key, "past_key"), (past_value, "past_value")):
        if past is not None:
            compatible(past.shape, (keys[0], keys[1], None, keys[3]), name)
    if past_key is not None and past_value is not None:
        compatible(past_value.shape, past_key.shape, "past_value")
    same_dtype(query, value, past_key, past_value)


def _tables(x: TensorType, cos: TensorType, sin: TensorType, size: Dim) -> None:
    """Reject tables of angles that are not [positions, R/2] with R at most the size of a head."""
    want_rank(cos, 2, "cos_cache")
    compatible(sin.shape, cos.shape, "sin_cache")
    same_dtype(x, cos, sin)
    half = cos.shape[1]
    fits = not isinstance(size, int) or not isinstance(half, int) or 2 * half <= size
    require(fits, f"{half} angles are too many for heads of {size}")


def _present_length(past: TensorType | None, queries: Dim, total: TensorType) -> Dim:
    if past is None and total.array is None:
        return queries
    length = known_scalar(total, "the total sequence length")
    capacity = past.shape[2] if past is not None else 0
    return max(capacity, length) if isinstance(capacity, int) else length


def _default(x: Array | None, like: Array) -> Array:
    """An absent past: no positions."""
    return np.zeros((*like.shape[:2], 0, like.shape[3]), like.dtype) if x is None else x


@ms_group_query_attention.reference
def _(
    query: Array,
    key: Array | None,
    value: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    seqlens_k: Array,
    total_sequence_length: Array,
    cos_cache: Array | None = None,
    sin_cache: Array | None = None,
    position_ids: Array | None = None,
    attention_bias: Array | None = None,
    head_sink: Array | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: int = 0,
    local_window_size: int = -1,
    rotary_interleaved: int = 0,
    scale: float = 0.0,
    smooth_softmax: int = 0,
    softcap: float = 0.0,
) -> tuple[Array, ...]:
    q, k, v = _unpacked(query, key, value, num_heads, kv_num_heads)
    batch, _, queries, _ = q.shape
    valid = seqlens_k.reshape(batch).astype(np.int64) + 1
    total = int(total_sequence_length.reshape(-1)[0])
    # a first prompt is padded on the right, so that it starts at 0 whatever its length
    start = np.zeros(batch, np.int64) if queries == total else valid - queries
    if do_rotary and cos_cache is not None and sin_cache is not None:
        at = start[:, None] + np.arange(queries) if position_ids is None else position_ids.reshape(batch, queries)
        at = np.clip(at, 0, len(cos_cache) - 1)
        cos, sin = wide(cos_cache)[at][:, None], wide(sin_cache)[at][:, None]
        q, k = (rotated(wide(x), cos, sin, bool(rotary_interleaved)).astype(query.dtype) for x in (q, k))
    keys = _written(_default(past_key, k), k, start, total)
    values = _written(_default(past_value, v), v, start, total)
    window = local_window_size if local_window_size > 0 else 0
    allowed = visible(batch, queries, keys.shape[2], valid, causal=True, window=window, offset=start)
    sink: Array | None = np.zeros((1, 1, 1, 1), np.float32) if smooth_softmax == 1 else None
    if head_sink is not None:
        sink = wide(head_sink).reshape(1, -1, 1, 1)
    bias = _fitted(attention_bias, keys.shape[2])
    out = _attend(q, keys, values, bias, allowed, scale, softcap=softcap, sink=sink)
    return heads_last(out).astype(query.dtype), keys, values


def _fitted(bias: Array | None, keys: int) -> Array | None:
    if bias is None or bias.shape[-1] == keys:
        return bias
    return np.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, keys - bias.shape[-1])])


def _unpacked(
    query: Array, key: Array | None, value: Array | None, heads: int, kv_heads: int
) -> tuple[Array, Array, Array]:
    if key is None or value is None:
        all_heads = heads_first(query, heads + 2 * kv_heads)
        return all_heads[:, :heads], all_heads[:, heads : heads + kv_heads], all_heads[:, heads + kv_heads :]
    return heads_first(query, heads), heads_first(key, kv_heads), heads_first(value, kv_heads)


def _written(past: Array, new: Array, start: Array, total: int) -> Array:
    """The cache with each request's new positions written from its own start on; what is not valid is 0."""
    batch, heads, positions, size = new.shape
    present = np.zeros((batch, heads, max(past.shape[2], total), size), new.dtype)
    for i, at in enumerate(start):
        if not 0 <= at <= present.shape[2] - positions:
            raise IndexError(f"request {i} cannot have {positions} new keys from position {at} on, of {total}")
        kept = min(int(at), past.shape[2])
        present[i, :, :kept] = past[i, :, :kept]
        present[i, :, int(at) : int(at) + positions] = new[i, :, : present.shape[2] - int(at)]
    return present


@ms_group_query_attention.flops
def _(*_: Any, results: Results, **__: Any) -> int:
    out, keys, _values = results
    length, size = keys.static_shape[2:]
    return out.elements // size * length * (4 * size + SOFTMAX_FLOPS)


@op("ms_multi_head_attention", cls=OpClass.COMPOSITE)
def ms_multi_head_attention(
    query: TensorType,
    key: TensorType | None = None,
    value: TensorType | None = None,
    bias: TensorType | None = None,
    key_padding_mask: TensorType | None = None,
    attention_bias: TensorType | None = None,
    past_key: TensorType | None = None,
    past_value: TensorType | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[TensorType, ...]:
    """com.microsoft MultiHeadAttention; results: output [B,S,H*Dv], present_key and present_value [B,H,P+T,D].

    query [B,S,H*D], key and value [B,T,H*D] or [B,H,T,D]. key_padding_mask i32: [B] valid lengths, or [B,T] flags;
    masked keys get `mask_filter_value` added to their scores.
    """
    want_float(query, "query")
    want_rank(query, 3, "query")
    if key is None or value is None:
        reject("packed query, key and value are not supported")
    keys = appended(past_key, split_heads(key.shape, num_heads, "key"), "past_key")
    values = appended(past_value, split_heads(value.shape, num_heads, "value"), "past_value")
    same_dtype(query, key, value, bias, past_key, past_value)
    agree(keys[0], query.shape[0], "the batch of query and key")
    agree(keys[2], values[2], "the positions of key and value")
    compatible(values, (keys[0], keys[1], keys[2], None), "value")
    compatible(split_heads(query.shape, num_heads, "query"), (keys[0], num_heads, None, keys[3]), "query")
    if bias is not None:
        require(key.rank == value.rank == 3, "a bias needs key and value of rank 3")
        compatible(bias.shape, (query.shape[2] + key.shape[2] + value.shape[2],), "bias")
    if key_padding_mask is not None:
        want_integer(key_padding_mask, "key_padding_mask")
        shape = (keys[0],) if key_padding_mask.rank == 1 else (keys[0], keys[2])
        compatible(key_padding_mask.shape, shape, "key_padding_mask")
    if attention_bias is not None:
        scores = (keys[0], num_heads, query.shape[1], keys[2])
        one = [1 if d == 1 else s for d, s in zip(attention_bias.shape, scores, strict=False)]
        compatible(attention_bias.shape, one if len(one) == 4 else scores, "attention_bias")
    return (
        TensorType(query.dtype, (*query.shape[:2], num_heads * values[3])),
        TensorType(query.dtype, keys),
        TensorType(query.dtype, values),
    )


@ms_multi_head_attention.reference
def _(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    key_padding_mask: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
) -> tuple[Array, ...]:
    if bias is not None:
        width = query.shape[2]
        query, key, value = query + bias[:width], key + bias[width : 2 * width], value + bias[2 * width :]
    q, k, v = (heads_first(x, num_heads) for x in (query, key, value))
    if past_key is not None and past_value is not None:
        k, v = np.concatenate([past_key, k], 2), np.concatenate([past_value, v], 2)
    total: Array | None = None if attention_bias is None else wide(attention_bias)
    if key_padding_mask is not None:
        flags = key_padding_mask
        if flags.ndim == 1:
            flags = np.arange(k.shape[2]) < flags[:, None]
        hidden = np.where(flags.astype(bool), 0, np.float32(mask_filter_value))[:, None, None, :]
        total = hidden if total is None else total + hidden
    allowed = visible(q.shape[0], q.shape[2], k.shape[2], None, causal=bool(unidirectional), window=0)
    out = _attend(q, k, v, total, allowed, scale)
    return heads_last(out).astype(query.dtype), k, v


@ms_multi_head_attention.flops
def _(query: TensorType, *_: Any, results: Results, num_heads: int, **__: Any) -> int:
    _out, keys, values = results
    queries = query.static_shape[1]
    batch, heads, length, size = keys.static_shape
    return batch * heads * queries * length * (2 * size + 2 * values.static_shape[3] + SOFTMAX_FLOPS)


@op("ms_rotary_embedding", cls=OpClass.COMPOSITE)
def ms_rotary_embedding(
    x: TensorType,
    position_ids: TensorType,
    cos_cache: TensorType,
    sin_cache: TensorType,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> TensorType:
    """com.microsoft RotaryEmbedding of [B,H,S,D] or [B,S,H*D] by tables [positions, R/2].

    position_ids: [B,S], or one number, the position of the first element.
    """
    want_float(x, "x")
    want_integer(position_ids, "position_ids")
    want_rank(x, (3, 4), "x")
    want_rank(cos_cache, 2, "cos_cache")
    half = cos_cache.shape[1]
    heads = num_heads
    if x.rank == 3 and not heads and isinstance(half, int) and isinstance(x.shape[2], int):
        heads = x.shape[2] // max(1, rotary_embedding_dim or 2 * half)
    batch, _heads, positions, size = split_heads(x.shape, heads, "x") if heads or x.rank == 4 else (None, 0, None, 0)
    _tables(x, cos_cache, sin_cache, size or x.shape[-1])
    if not position_ids.is_static or position_ids.elements != 1:
        compatible(position_ids.shape, (batch, positions), "position_ids")
    return TensorType(x.dtype, x.shape)


@ms_rotary_embedding.reference
def _(
    x: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Array:
    # without a number of heads, one covers the whole width, unless the tables tell the size of a head
    heads = num_heads or (x.shape[-1] // (rotary_embedding_dim or 2 * cos_cache.shape[-1]) if x.ndim == 3 else 0)
    lifted = heads_first(x, heads)
    at = position_ids
    if at.size == 1:
        at = at.reshape(1, 1) + np.arange(lifted.shape[2])
    cos, sin = wide(cos_cache)[at][:, None], wide(sin_cache)[at][:, None]
    turned = rotated(wide(lifted), cos, sin, bool(interleaved))
    return (heads_last(turned) if x.ndim == 3 else turned).astype(x.dtype)


@ms_rotary_embedding.flops
def _(x: TensorType, *_: Any, results: Results, **__: Any) -> int:
    return 3 * x.elements
