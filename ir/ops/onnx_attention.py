"""Attention and RotaryEmbedding as ONNX declares them (opset 23 and later), before they are made canonical."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, op, require
from pimc.ir.ops.attention import SOFTMAX_FLOPS, grouped, masked_softmax, repeat_heads, rotated, visible
from pimc.ir.ops.rules import agree, compatible, divide, same_dtype, want_float, want_integer, want_rank, wide
from pimc.ir.types import Dim, DType, Shape, TensorType

Results = tuple[TensorType, ...]


def split_heads(shape: Shape, heads: int, name: str) -> Shape:
    """[B, S, heads*D] or [B, heads, S, D] as the latter."""
    if len(shape) == 4:
        require(heads in (0, shape[1]) or not isinstance(shape[1], int), f"{name} has {shape[1]} heads, not {heads}")
        return shape
    require(len(shape) == 3 and heads > 0, f"{name} must have rank 4, or rank 3 with the number of heads given")
    return (shape[0], heads, shape[1], divide(shape[2], heads, f"the heads of {name}"))


def heads_first(x: Array, heads: int) -> Array:
    """[B, S, heads*D] as [B, heads, S, D]; rank 4 as it is."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def heads_last(x: Array) -> Array:
    """[B, heads, S, D] as [B, S, heads*D]."""
    batch, heads, positions, size = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, positions, heads * size)


def appended(past: TensorType | None, new: Shape, name: str) -> Shape:
    """The shape of a cache [B,KV,P,D] with `new` behind it."""
    if past is None:
        return new
    want_rank(past, 4, name)
    for i in (0, 1, 3):
        agree(past.shape[i], new[i], f"dimension {i} of {name}")
    return (*new[:2], past.shape[2] + new[2], new[3])


@op("onnx_attention", cls=OpClass.COMPOSITE)
def onnx_attention(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    attn_mask: TensorType | None = None,
    past_key: TensorType | None = None,
    past_value: TensorType | None = None,
    nonpad_kv_seqlen: TensorType | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
) -> tuple[TensorType, ...]:
    """ONNX Attention; results in its order: y, present_key, present_value, and the scores.

    q, k, v are [B, heads, S, D], or [B, S, heads*D] with `q_num_heads` and `kv_num_heads`. The keys of
    `past_key` [B,KV,P,D] come before those of k. A mask shorter than the keys hides the rest.
    """
    want_float(q, "q")
    same_dtype(q, k, past_key)
    same_dtype(v, past_value)
    require((past_key is None) == (past_value is None), "past_key and past_value come together")
    require(scale is None or scale >= 0, f"the scale is {scale}: its root is taken")
    queries = split_heads(q.shape, q_num_heads, "q")
    keys = appended(past_key, split_heads(k.shape, kv_num_heads, "k"), "past_key")
    values = appended(past_value, split_heads(v.shape, kv_num_heads, "v"), "past_value")
    agree(queries[0], keys[0], "the batch of q and k")
    agree(queries[3], keys[3], "the head size of q and k")
    agree(keys[2], values[2], "the positions of k and v")
    compatible(values, (keys[0], keys[1], keys[2], None), "v")
    if attn_mask is not None:
        _masks(attn_mask, (*queries[:3], keys[2]))
    if nonpad_kv_seqlen is not None:
        want_integer(nonpad_kv_seqlen, "nonpad_kv_seqlen")
        compatible(nonpad_kv_seqlen.shape, (queries[0],), "nonpad_kv_seqlen")
    grouped(queries[1], keys[1])
    out: tuple[Dim, ...] = (*queries[:3], values[3])
    if q.rank == 3:
        out = (queries[0], queries[2], queries[1] * values[3])
    return (
        TensorType(q.dtype, out),
        TensorType(k.dtype, keys),
        TensorType(v.dtype, values),
        TensorType(q.dtype, (*queries[:3], keys[2])),
    )


def _masks(mask: TensorType, scores: tuple[Dim | None, ...]) -> None:
    """Reject a mask that does not broadcast to the scores [B, H, S, keys]; it may be shorter than the keys."""
    require(mask.dtype is DType.BOOL or mask.dtype.is_float, f"a mask must be of bools or floats, but is {mask}")
    require(1 <= mask.rank <= 4, f"a mask must have a rank of 1 to 4, but is {mask}")
    wanted = [1 if given == 1 else dim for given, dim in zip(mask.shape, scores[4 - mask.rank :], strict=True)]
    keys = scores[3]
    require(
        not isinstance(keys, int) or not isinstance(mask.shape[-1], int) or mask.shape[-1] <= keys,
        f"a mask for {mask.shape[-1]} keys is too long for {keys}",
    )
    compatible(mask.shape, [*wanted[:-1], None], "the mask")


def _bias(mask: Array | None, keys: int) -> Array | None:
    """The mask with the keys that it is too short for hidden."""
    if mask is None or mask.shape[-1] >= keys:
        return mask
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
    return np.pad(mask, widths, constant_values=False if mask.dtype == np.bool_ else -np.inf)


@onnx_attention.reference
def _(
    q: Array,
    k: Array,
    v: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
) -> tuple[Array, ...]:
    query, key, value = heads_first(q, q_num_heads), heads_first(k, kv_num_heads), heads_first(v, kv_num_heads)
    if past_key is not None and past_value is not None:
        key, value = np.concatenate([past_key, key], 2), np.concatenate([past_value, value], 2)
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    root = np.float32(math.sqrt(1 / math.sqrt(size) if scale is None else scale))
    scores = np.matmul(wide(query) * root, np.swapaxes(repeat_heads(wide(key), heads) * root, 2, 3))
    capped = np.tanh(scores / np.float32(softcap)) * np.float32(softcap) if softcap else scores
    past = past_key.shape[2] if past_key is not None else 0
    offset = np.array([past]) if nonpad_kv_seqlen is None else nonpad_kv_seqlen.reshape(-1) - queries
    allowed = visible(
        batch,
        queries,
        keys,
        nonpad_kv_seqlen,
        causal=bool(is_causal),
        window=left_window_size + 1 if left_window_size >= 0 else 0,
        offset=offset,
    )
    if right_window_size >= 0:
        ahead = np.arange(keys) - offset.reshape(-1, 1, 1, 1) - np.arange(queries)[:, None] <= right_window_size
        allowed = ahead if allowed is None else allowed & ahead
    mask = _bias(attn_mask, keys)
    weights = masked_softmax(capped, mask, allowed, 0.0)
    y = np.matmul(weights, repeat_heads(wide(value), heads)).astype(q.dtype)
    shown = (scores, capped, _with_mask(capped, mask, allowed), weights)[qk_matmul_output_mode]
    return heads_last(y) if q.ndim == 3 else y, key, value, shown.astype(q.dtype)


def _with_mask(scores: Array, mask: Array | None, allowed: Array | None) -> Array:
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + wide(mask)
    return scores if allowed is None else np.where(allowed, scores, -np.inf)


@onnx_attention.flops
def _(*_: Any, results: Results, **__: Any) -> int:
    _y, keys, values, scores = results
    return scores.elements * (2 * keys.static_shape[3] + 2 * values.static_shape[3] + SOFTMAX_FLOPS)


@op("rotary_embedding", cls=OpClass.COMPOSITE)
def rotary_embedding(
    x: TensorType,
    cos_cache: TensorType,
    sin_cache: TensorType,
    position_ids: TensorType | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> TensorType:
    """ONNX RotaryEmbedding of [B,H,S,D] or [B,S,H*D].

    The tables are [positions, R/2], read at `position_ids` [B,S], or [B,S,R/2] without them.
    """
    want_float(x, "x")
    want_rank(cos_cache, 3 if position_ids is None else 2, "cos_cache")
    compatible(sin_cache.shape, cos_cache.shape, "sin_cache")
    batch, _heads, positions, size = split_heads(x.shape, num_heads, "x")
    half = cos_cache.shape[-1]
    require(not isinstance(size, int) or not isinstance(half, int) or 2 * half <= size, f"{half} angles for {size}")
    if position_ids is not None:
        want_integer(position_ids, "position_ids")
        compatible(position_ids.shape, (batch, positions), "position_ids")
    else:
        compatible(cos_cache.shape, (batch, positions, None), "cos_cache")
    return TensorType(same_dtype(x, cos_cache, sin_cache), x.shape)


@rotary_embedding.reference
def _(
    x: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Array:
    cos, sin = (cos_cache, sin_cache) if position_ids is None else (cos_cache[position_ids], sin_cache[position_ids])
    turned = rotated(wide(heads_first(x, num_heads)), wide(cos)[:, None], wide(sin)[:, None], bool(interleaved))
    return (heads_last(turned) if x.ndim == 3 else turned).astype(x.dtype)


@rotary_embedding.flops
def _(x: TensorType, *_: Any, results: Results, **__: Any) -> int:
    return 3 * x.elements
