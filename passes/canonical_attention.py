"""Canonical forms of exporters' attention and rotary embedding: `attention`, `cache_append` and `rotary`.

Queries, keys and values become [B, heads, positions, size]. Where a past precedes new keys, both are joined by
`cache_append`; a past that is a graph input is a cache from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.op import Attribute
from pimc.ir.types import DType
from pimc.passes.building import Builder, operand_at
from pimc.passes.canonical_expand import attend_openly, only_seen, seen_keys, with_sink
from pimc.passes.match import ints_of, operand

Rule = Callable[[Node, Rewriter], None]

_ROUNDING = 1e-6
"""How far a scale that was computed in float32, in a few steps, may be off."""


def _int(node: Node, name: str) -> int:
    value = node.attribute(name)
    assert isinstance(value, (int, float))
    return int(value)


def _float(node: Node, name: str) -> float:
    value = node.attribute(name)
    assert isinstance(value, (int, float))
    return float(value)


def split_heads(builder: Builder, x: Value, heads: int) -> Value:
    """[B, S, heads*D] as [B, heads, S, D]; rank 4 as it is."""
    if x.type.rank == 4:
        return x
    batch, positions, width = x.type.static_shape
    return builder.transpose(builder.reshape(x, (batch, positions, heads, width // heads)), 0, 2, 1, 3)


def join_heads(builder: Builder, x: Value) -> Value:
    """[B, heads, S, D] as [B, S, heads*D]."""
    batch, heads, positions, size = x.type.static_shape
    return builder.reshape(builder.transpose(x, 0, 2, 1, 3), (batch, positions, heads * size))


def append(builder: Builder, past: Value | None, new: Value, positions: Value | None = None) -> Value:
    """`new` behind `past`, in the memory of the cache where the past is an input that nothing else reads.

    positions: those of `new` [B, S], where requests differ.
    """
    if past is None:
        return new
    graph = builder.rewriter.graph
    if past.role in (Role.INPUT, Role.CACHE) and graph.use_count(past) == 1:
        builder.rewriter.set_role(past, Role.CACHE)
        return builder.call("cache_append", past, new, *([] if positions is None else [positions]))
    joined = builder.call("concat", past, new, axis=2)
    return joined if positions is None else builder.call("cache_write", joined, new, positions)


def attention(node: Node, rewriter: Rewriter) -> None:
    """attention(q of one query, k, v, causal) -> attention(q, k, v): the last query sees every key

    Likewise a window at least as long as the keys goes, and a scale that is 1/sqrt(D) but for rounding is just that.
    """
    usual = 1 / math.sqrt(operand_at(node, 0).type.static_shape[3])
    if abs(_float(node, "scale") / usual - 1) < _ROUNDING:
        rewriter.set_attribute(node, "scale", usual)
    queries, keys = (operand_at(node, i).type.static_shape[2] for i in (0, 1))
    if _int(node, "window") >= keys:
        rewriter.set_attribute(node, "window", 0)
    if queries == 1 and not _int(node, "window"):
        rewriter.set_attribute(node, "causal", False)


# -- ONNX -----------------------------------------------------------------------------------------------------------


def onnx_attention(node: Node, rewriter: Rewriter) -> None:
    """onnx_attention(q, k, v, mask, past_k, past_v) -> attention(q, cache_append(past_k, k), ..., mask)"""
    builder = Builder(rewriter, node)
    lengths, past = operand(node, 6), operand(node, 4)
    left, right = _int(node, "left_window_size"), _int(node, "right_window_size")
    q = split_heads(builder, operand_at(node, 0), _int(node, "q_num_heads"))
    new_k = split_heads(builder, operand_at(node, 1), _int(node, "kv_num_heads"))
    new_v = split_heads(builder, operand_at(node, 2), _int(node, "kv_num_heads"))
    k, v = append(builder, past, new_k), append(builder, operand(node, 5), new_v)
    mask = _fitting_mask(builder, operand(node, 3), k.type.static_shape[2])
    causal, window = bool(node.attribute("is_causal")), left + 1 if left >= 0 else 0
    scale = node.attribute("scale")
    scale = float(scale) if isinstance(scale, (int, float)) else 1 / math.sqrt(q.type.static_shape[3])
    softcap, rank = _float(node, "softcap"), operand_at(node, 0).type.rank
    if builder.is_read(3) or (right >= 0 and lengths is not None):
        start = past.type.static_shape[2] if past is not None else 0
        queries, keys = q.type.static_shape[2], k.type.static_shape[2]
        seen = seen_keys(builder, queries, keys, lengths, start, causal=causal, left=left, right=right)
        y, shown = attend_openly(builder, q, k, v, only_seen(builder, mask, seen), scale=scale, softcap=softcap)
        scores = shown(_int(node, "qk_matmul_output_mode")) if builder.is_read(3) else None
        builder.replace(join_heads(builder, y) if rank == 3 else y, k, v, scores)
        return
    square = q.type.shape[2] == new_k.type.shape[2] or lengths is not None
    if right >= 0 or ((causal or window) and not square):
        # the diagonal is counted from the past, not from the last key
        start = past.type.static_shape[2] if past is not None else 0
        ahead = min(right if right >= 0 else k.type.static_shape[2], 0 if causal else k.type.static_shape[2])
        mask = _with_band(builder, mask, q, k, start, left, ahead)
        causal, window = False, 0
    attributes: dict[str, Attribute] = {"scale": scale, "causal": causal, "softcap": softcap, "window": window}
    y = builder.call("attention", q, k, v, mask, lengths, **attributes)
    builder.replace(join_heads(builder, y) if rank == 3 else y, k, v)


def _with_band(builder: Builder, mask: Value | None, q: Value, k: Value, start: int, left: int, right: int) -> Value:
    """The mask, with only those keys seen at most `left` (if not negative) behind a query and `right` ahead of it."""
    queries, keys = q.type.static_shape[2], k.type.static_shape[2]
    ahead = np.arange(keys) - (start + np.arange(queries))[:, None]
    seen = (ahead <= right) & ((ahead >= -left) if left >= 0 else True)
    band = builder.constant(seen, "band")
    if mask is None:
        return band
    if mask.type.dtype is DType.BOOL:
        return builder.call("and", mask, band)
    return builder.call("where", band, mask, builder.number(-math.inf, mask))


def _fitting_mask(builder: Builder, mask: Value | None, keys: int) -> Value | None:
    """The mask, with the keys that it is too short for hidden."""
    if mask is None or mask.type.static_shape[-1] in (1, keys):
        return mask
    *rest, have = mask.type.static_shape
    hidden = False if mask.type.dtype is DType.BOOL else -np.inf
    filler = builder.constant(np.full((*rest, keys - have), hidden, mask.type.dtype.numpy), "hidden")
    return builder.call("concat", mask, filler, axis=len(rest))


def rotary_embedding(node: Node, rewriter: Rewriter) -> None:
    """rotary_embedding(x, cos, sin, positions) -> rotary(x, gather(cos, positions), gather(sin, positions))"""
    builder = Builder(rewriter, node)
    cos, sin, positions = operand_at(node, 1), operand_at(node, 2), operand(node, 3)
    if positions is not None:
        cos, sin = builder.call("gather", cos, positions), builder.call("gather", sin, positions)
    _rotate(builder, operand_at(node, 0), cos, sin, _int(node, "num_heads"), bool(node.attribute("interleaved")))


def ms_rotary_embedding(node: Node, rewriter: Rewriter) -> None:
    """ms_rotary_embedding(x, positions, cos, sin) -> rotary(x, gather(cos, positions), gather(sin, positions))"""
    if node.attribute("scale") != 1.0 or node.attribute("is_packed_batching"):
        return
    builder = Builder(rewriter, node)
    x, positions, cos, sin = (operand_at(node, i) for i in range(4))
    heads = _int(node, "num_heads")
    if not heads and x.type.rank == 3:
        size = _int(node, "rotary_embedding_dim") or 2 * cos.type.static_shape[-1]
        heads = x.type.static_shape[-1] // size
    length = x.type.static_shape[1 if x.type.rank == 3 else 2]
    if positions.type.elements == 1 and (positions.type.rank < 2 or length > 1):
        steps = builder.constant(np.arange(length, dtype=positions.type.dtype.numpy)[None, :], "steps")
        positions = builder.call("add", builder.reshape(positions, (1, 1)), steps)
    cos, sin = builder.call("gather", cos, positions), builder.call("gather", sin, positions)
    _rotate(builder, x, cos, sin, heads, bool(node.attribute("interleaved")))


def _rotate(builder: Builder, x: Value, cos: Value, sin: Value, heads: int, interleaved: bool) -> None:
    lifted = split_heads(builder, x, heads)
    cos, sin = builder.cast(cos, x), builder.cast(sin, x)
    turned = builder.call("rotary", lifted, cos, sin, interleaved=interleaved)
    builder.replace(join_heads(builder, turned) if x.type.rank == 3 else turned)


# -- com.microsoft --------------------------------------------------------------------------------------------------


def multi_head_attention(node: Node, rewriter: Rewriter) -> None:
    """ms_multi_head_attention(q, k, v, bias, mask, attention_bias) -> attention(q + bias, k + bias, v + bias, mask)"""
    q, k, v, bias, padding, added, past_k, past_v = (operand(node, i) for i in range(8))
    if q is None or k is None or v is None:
        return
    if node.attribute("unidirectional") and q.type.shape[1] != k.type.shape[1 if k.type.rank == 3 else 2]:
        return
    builder = Builder(rewriter, node)
    heads = _int(node, "num_heads")
    parts = []
    at = 0
    for x in (q, k, v):
        width = x.type.static_shape[-1]
        biased = x if bias is None else builder.call("add", x, builder.slice(bias, 0, at, at + width))
        parts.append(split_heads(builder, biased, heads))
        at += width
    keys, values = append(builder, past_k, parts[1]), append(builder, past_v, parts[2])
    scale = _float(node, "scale") or 1 / math.sqrt(parts[0].type.static_shape[3])
    mask = _padding(builder, padding, keys, parts[0], _float(node, "mask_filter_value"))
    if added is not None:
        mask = added if mask is None else builder.call("add", added, mask)
    causal = bool(node.attribute("unidirectional"))
    y = builder.call("attention", parts[0], keys, values, mask, scale=scale, causal=causal)
    builder.replace(join_heads(builder, y), keys, values)


def _padding(builder: Builder, padding: Value | None, keys: Value, like: Value, hidden: float) -> Value | None:
    """The additive mask [B, 1, 1, T] that valid lengths [B] or flags [B, T] stand for."""
    if padding is None:
        return None
    batch, _, length, _ = keys.type.static_shape
    if padding.type.rank == 1:
        places = builder.constant(np.arange(length, dtype=padding.type.dtype.numpy)[None, :], "places")
        seen = builder.call("less", places, builder.reshape(padding, (batch, 1)))
    else:
        seen = builder.call("cast", padding, to="bool")
    mask = builder.call("where", seen, builder.number(0.0, like), builder.number(hidden, like))
    return builder.reshape(mask, (batch, 1, 1, length))


def group_query_attention(node: Node, rewriter: Rewriter) -> None:
    """ms_group_query_attention(packed qkv, past, lengths, ...) -> rotary, cache_append, attention

    Requests whose lengths are known when the model runs write their new tokens behind their own cached ones; what lies
    behind those in the caches stays as it was. A prompt padded on the right is exact. A past longer than the cached
    tokens is a buffer; the part in use is cut out and put back.
    """
    builder = Builder(rewriter, node)
    total = _total(node)
    if total is None:
        return
    q, k, v = _unpacked(builder)
    _, _, length, size = q.type.static_shape
    cached = total - length
    past_k, past_v = operand(node, 3), operand(node, 4)
    if cached < 0 or (past_k.type.static_shape[2] if past_k is not None else 0) < cached:
        return
    if node.attribute("do_rotary"):
        cos, sin = _tables(builder, length, cached)
        turned = bool(node.attribute("rotary_interleaved"))
        q, k = (builder.call("rotary", x, cos, sin, interleaved=turned) for x in (q, k))
    positions = _positions(builder, length) if _may_differ(node, cached) else None
    keys, present_k = _extended(builder, past_k, k, cached, positions)
    values, present_v = _extended(builder, past_v, v, cached, positions)
    window = _int(node, "local_window_size")
    attributes: dict[str, Attribute] = {
        "scale": _float(node, "scale") or 1 / math.sqrt(size),
        "causal": True,
        "softcap": _float(node, "softcap"),
        "window": max(window, 0),
    }
    lengths = _lengths(builder) if _may_differ(node, cached) else None
    bias = operand(node, 10)
    if bias is not None and bias.type.static_shape[-1] > total:
        bias = builder.slice(bias, bias.type.rank - 1, 0, total)
    sink = operand(node, 11)
    if sink is None and _int(node, "smooth_softmax") == 1:
        sink = builder.constant(np.zeros(q.type.static_shape[1], q.type.dtype.numpy), "sink")
    if sink is None:
        y = builder.call("attention", q, keys, values, bias, lengths, **attributes)
    else:
        left = window - 1 if window > 0 else -1
        seen = seen_keys(builder, length, total, lengths, cached, causal=True, left=left, right=-1)
        scale, softcap = float(str(attributes["scale"])), _float(node, "softcap")
        mask = only_seen(builder, bias, seen)
        y = with_sink(builder, q, keys, values, mask, sink, scale=scale, softcap=softcap)
    builder.replace(join_heads(builder, y), present_k, present_v)


def _total(node: Node) -> int | None:
    numbers = ints_of(operand(node, 6))
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


def _unpacked(builder: Builder) -> tuple[Value, Value, Value]:
    """Query, key and value, [B, heads, S, D] each."""
    node = builder.node
    heads, kv_heads = _int(node, "num_heads"), _int(node, "kv_num_heads")
    query, key, value = operand_at(node, 0), operand(node, 1), operand(node, 2)
    if key is not None and value is not None:
        counts = (heads, kv_heads, kv_heads)
        q, k, v = (split_heads(builder, x, n) for x, n in zip((query, key, value), counts, strict=True))
        return q, k, v
    size = query.type.static_shape[2] // (heads + 2 * kv_heads)
    ends = [heads * size, (heads + kv_heads) * size, (heads + 2 * kv_heads) * size]
    q = split_heads(builder, builder.slice(query, 2, 0, ends[0]), heads)
    k = split_heads(builder, builder.slice(query, 2, ends[0], ends[1]), kv_heads)
    v = split_heads(builder, builder.slice(query, 2, ends[1], ends[2]), kv_heads)
    return q, k, v


def _may_differ(node: Node, cached: int) -> bool:
    """Whether the requests of the batch may have different numbers of valid keys, as far as the compiler knows."""
    batch = operand_at(node, 0).type.static_shape[0]
    known = ints_of(operand(node, 5))
    return cached > 0 and batch > 1 and (known is None or any(n + 1 != _total(node) for n in known))


def _tables(builder: Builder, length: int, cached: int) -> tuple[Value, Value]:
    """Cosine and sine [B|1, S, R/2] of the positions of the new tokens."""
    node = builder.node
    cos, sin, given = operand_at(node, 7), operand_at(node, 8), operand(node, 9)
    query = operand_at(node, 0)
    batch = query.type.static_shape[0]
    if given is not None:
        positions = builder.reshape(given, (batch, length))
    elif _may_differ(node, cached):
        positions = _positions(builder, length)
    else:
        positions = builder.constant(np.arange(cached, cached + length, dtype=np.int64)[None, :], "positions")
    return tuple(builder.cast(builder.call("gather", t, positions), query) for t in (cos, sin))  # type: ignore[return-value]


def _positions(builder: Builder, length: int) -> Value:
    """i64 [B, S]: each request's new tokens end at its own number of valid ones."""
    batch = operand_at(builder.node, 0).type.static_shape[0]
    before = builder.constant(np.arange(length, dtype=np.int64)[None, :] - length, "steps")
    return builder.call("add", builder.reshape(_lengths(builder), (batch, 1)), before)


def _lengths(builder: Builder) -> Value:
    """i64 [B]: the number of valid keys of each request (ONNX Runtime counts one less)."""
    given = operand_at(builder.node, 5)
    wide = given if given.type.dtype is DType.I64 else builder.call("cast", given, to="i64")
    flat = builder.reshape(wide, (given.type.elements,))
    return builder.call("add", flat, builder.constant(np.asarray([1], np.int64), "one"))


def _extended(
    builder: Builder, past: Value | None, new: Value, cached: int, positions: Value | None
) -> tuple[Value, Value]:
    """The keys (or values) to attend to, and the cache to hand out, which may have room behind them.

    positions: of the new tokens [B, S], where requests differ.
    """
    capacity = past.type.static_shape[2] if past is not None else 0
    total = cached + new.type.static_shape[2]
    if past is not None and positions is not None:
        if capacity < total:
            present = append(builder, past if capacity == cached else builder.slice(past, 2, 0, cached), new, positions)
        else:
            present = builder.call("cache_write", past, new, positions)
        return builder.slice(present, 2, 0, total), present
    if past is None or capacity <= cached:
        keys = append(builder, past, new)
        return keys, keys
    used = builder.slice(past, 2, 0, cached) if cached else None
    keys = new if used is None else builder.call("concat", used, new, axis=2)
    if total >= capacity:
        return keys, keys
    return keys, builder.call("concat", keys, builder.slice(past, 2, total, capacity), axis=2)


RULES: dict[str, tuple[Rule, ...]] = {
    "attention": (attention,),
    "onnx_attention": (onnx_attention,),
    "rotary_embedding": (rotary_embedding,),
    "ms_rotary_embedding": (ms_rotary_embedding,),
    "ms_multi_head_attention": (multi_head_attention,),
    "ms_group_query_attention": (group_query_attention,),
}
