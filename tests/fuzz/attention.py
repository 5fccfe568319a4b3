"""Parts of random models as decoders have them: attention, rotary positions, caches."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.builder import Builder
from tests.fuzz.drawing import heads_of
from tests.fuzz.eager import Rejected


def attention(b: Builder) -> object:
    """Scores, mask, softmax, context, in one of the written-out forms, behind a cache perhaps."""
    batch, heads, width = b.pick((1, 2)), b.pick((1, 2, 4)), b.pick((4, 8, 16))
    new, past = b.pick((1, 1, 3, 5)), b.pick((0, 4, 7))
    group = b.pick((1, 1, heads))
    q = heads_of(b, batch, heads, new, width)
    k, v = (heads_of(b, batch, heads // group, new, width) for _ in range(2))
    if past:
        k, v = (
            b.op("Concat", b.input(b.array(np.float32, (batch, heads // group, past, width))), x, axis=2)
            for x in (k, v)
        )
    if group > 1:
        shape = b.ints([batch, heads // group, group, past + new, width])
        full = b.ints([batch, heads, past + new, width])
        k, v = (b.op("Reshape", b.op("Expand", b.listed("Unsqueeze", x, "axes", [2], 13), shape), full) for x in (k, v))
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    scale = b.constant(width**-0.5, np.float32)
    scores = b.op("Mul", scores, scale) if b.maybe() else b.op("Div", scores, b.constant(width**0.5, np.float32))
    if b.maybe(0.7):
        seen = np.tril(np.ones((new, past + new)), past)
        floor = b.pick((-np.inf, -1e4, np.finfo(np.float32).min))
        scores = b.op("Add", scores, b.constant(np.where(seen, 0, floor), np.float32))
    context = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    flat = b.op("Transpose", context, perm=[0, 2, 1, 3])
    return b.op("Reshape", flat, b.ints([batch, new, heads * width]))


def onnx_attention(b: Builder) -> object:
    batch, heads, width, new = b.pick((1, 2)), b.pick((2, 4)), b.pick((4, 8)), b.pick((1, 3))
    past, kv_heads = b.pick((0, 5)), b.pick((heads, heads // 2))
    q = heads_of(b, batch, heads, new, width)
    k, v = (heads_of(b, batch, kv_heads, new, width) for _ in range(2))
    more: dict[str, Any] = {"is_causal": b.below(2)}
    if b.maybe(0.3):
        more["softcap"] = 2.0
    if b.maybe(0.3):
        more["scale"] = 0.4
    if not past:
        return b.op("Attention", q, k, v, **more)
    mask = b.fresh(b.pick((np.bool_, np.float32)), (new, past + new)) if b.maybe() else None
    if mask is not None and mask.dtype == np.bool_ and not mask.array.any(-1).all():
        raise Rejected("a row without keys")
    caches = [b.input(b.array(np.float32, (batch, kv_heads, past, width))) for _ in range(2)]
    return b.node("Attention", q, k, v, mask, *caches, outputs=3, **more)


def group_query_attention(b: Builder) -> object:
    batch, heads, width, past, new = 1, b.pick((2, 4)), b.pick((8, 16)), b.pick((0, 5)), b.pick((1, 3))
    kv = b.pick((heads, heads // 2))
    if past and new > 1:
        raise Rejected("a chunk behind a past")
    q = b.fresh(np.float32, (batch, new, heads * width))
    k, v = (b.fresh(np.float32, (batch, new, kv * width)) for _ in range(2))
    caches = [b.input(b.array(np.float32, (batch, kv, past, width))) for _ in range(2)]
    lengths = b.constant(np.full((batch, 1), past + new - 1), np.int32)
    total = b.constant(past + new, np.int32)
    return b.node(
        "GroupQueryAttention", q, k, v, *caches, lengths, total,
        outputs=3, domain="com.microsoft", num_heads=heads, kv_num_heads=kv,
    )  # fmt: skip


def multi_head_attention(b: Builder) -> object:
    batch, heads, width, new, length = b.pick((1, 2)), b.pick((2, 4)), b.pick((4, 8)), b.pick((1, 3)), b.pick((1, 6))
    q = b.fresh(np.float32, (batch, new, heads * width))
    k, v = (b.fresh(np.float32, (batch, length, heads * width)) for _ in range(2))
    return b.op("MultiHeadAttention", q, k, v, domain="com.microsoft", num_heads=heads)


def rotary(b: Builder) -> object:
    """Written out, or as one of the two ops."""
    batch, heads, length, width = b.pick((1, 2)), b.pick((1, 3)), b.pick((1, 4)), b.pick((4, 8, 16))
    x = heads_of(b, batch, heads, length, width)
    angles = b.chance.random((length, width // 2)) * 6
    form = b.below(3)
    if form < 2:
        cos, sin = (b.constant(f(angles), np.float32) for f in (np.cos, np.sin))
        positions = np.broadcast_to(np.arange(length), (batch, length)).astype(np.int64)
        where = b.input(positions) if b.maybe() else b.constant(positions)
        if form == 0:
            return b.op("RotaryEmbedding", x, cos, sin, where, interleaved=b.below(2))
        return b.op("RotaryEmbedding", x, where, cos, sin, domain="com.microsoft", interleaved=b.below(2))
    both = np.concatenate([angles, angles], -1)
    cos, sin = (b.constant(f(both), np.float32) for f in (np.cos, np.sin))
    if b.opset < 13:
        raise Rejected("the split is an attribute")
    low, high = b.node("Split", x, b.ints([width // 2, width // 2]), outputs=2, axis=-1)
    turned = b.op("Concat", b.op("Neg", high), low, axis=-1)
    return b.op("Add", b.op("Mul", x, cos), b.op("Mul", turned, sin))


def cache(b: Builder) -> object:
    """An append to a cache, or a write into a static one."""
    batch, heads, past, width, new = b.pick((1, 2)), b.pick((1, 2)), b.pick((0, 3, 9)), b.pick((4, 8)), b.pick((1, 2))
    old = b.input(b.array(np.float32, (batch, heads, past, width)))
    item = b.op("Mul", heads_of(b, batch, heads, new, width), b.constant(0.5, np.float32))
    if past < new or b.maybe():
        return b.op("Concat", old, item, axis=-2)
    turned, update = (b.op("Transpose", x, perm=[2, 0, 1, 3]) for x in (old, item))
    places = (np.arange(new) + b.below(past - new + 1)).reshape(new, 1).astype(np.int64)
    where = b.input(places) if b.maybe() else b.constant(places)
    return b.op("Transpose", b.op("ScatterND", turned, where, update), perm=[1, 2, 0, 3])
