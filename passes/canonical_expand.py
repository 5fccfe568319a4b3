"""Ops that are written out in others: the same values, in terms that every machine has rules for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pimc.ir.graph import Node, Rewriter, Value
from pimc.ir.types import DType
from pimc.passes.building import Builder, operand_at
from pimc.passes.match import contents_of, operand

Rule = Callable[[Node, Rewriter], None]


# -- attention whose scores are read, or that no attributes of `attention` describe ---------------------------------


def attend_openly(
    builder: Builder, q: Value, k: Value, v: Value, mask: Value | None, *, scale: float, softcap: float
) -> tuple[Value, Callable[[int], Value]]:
    """Attention of [B,H,S,D] step by step: its result, and the scores after so many steps (ONNX numbers them).

    0: q @ k^T * scale; 1: capped; 2: masked; 3: softmax.
    """
    scores = builder.call("attention_scores", q, k, scale=scale)
    capped = scores
    if softcap:
        inner = builder.call("tanh", builder.call("mul", scores, builder.number(1 / softcap, scores)))
        capped = builder.call("mul", inner, builder.number(softcap, scores))
    weights = builder.call("attention_softmax", capped, mask)

    def shown(mode: int) -> Value:
        if mode == 2 and mask is not None:
            if mask.type.dtype is DType.BOOL:
                return builder.call("where", mask, capped, builder.number(-math.inf, capped))
            return builder.call("add", capped, builder.cast(mask, capped))
        return (scores, capped, capped, weights)[mode]

    return builder.call("attention_context", weights, v), shown


def seen_keys(
    builder: Builder, queries: int, keys: int, lengths: Value | None, past: int, *, causal: bool, left: int, right: int
) -> Value | None:
    """Which keys each query sees, bool [B|1, 1, S, T]; None: all.

    Query i stands at `past + i`, or at `lengths - S + i` where lengths [B] are given. It sees keys from `left` behind
    itself to `right` ahead (negative: any), none behind the valid ones, and none ahead if causal.
    """
    right = 0 if causal else right
    if lengths is None and left < 0 and right < 0:
        return None
    key = builder.ints(range(keys), "keys")
    steps = np.arange(queries, dtype=np.int64)[:, None]
    valid: Value | None = None
    if lengths is None:
        at = builder.constant(past + steps, "positions")
    else:
        valid = builder.reshape(builder.call("cast", lengths, to="i64"), (lengths.type.elements, 1, 1, 1))
        at = builder.call("add", valid, builder.constant(steps - queries, "steps"))
    seen = [builder.call("less", key, valid)] if valid is not None else []
    if right >= 0:
        seen.append(builder.call("less_or_equal", key, _moved(builder, at, right)))
    if left >= 0:
        seen.append(builder.call("greater_or_equal", key, _moved(builder, at, -left)))
    found = seen[0]
    for other in seen[1:]:
        found = builder.call("and", found, other)
    return found


def _moved(builder: Builder, x: Value, by: int) -> Value:
    return builder.call("add", x, builder.ints([by])) if by else x


def only_seen(builder: Builder, mask: Value | None, seen: Value | None) -> Value | None:
    """The mask without the keys that are not seen."""
    if mask is None or seen is None:
        return mask if seen is None else seen
    if mask.type.dtype is DType.BOOL:
        return builder.call("and", mask, seen)
    return builder.call("where", seen, mask, builder.number(-math.inf, mask))


def with_sink(
    builder: Builder, q: Value, k: Value, v: Value, mask: Value | None, sink: Value, *, scale: float, softcap: float
) -> Value:
    """Attention with one more score per head (sink: [H]), which takes its share of the softmax and has no value."""
    batch, heads, queries, _ = q.type.static_shape
    keys = k.type.static_shape[2]
    _, shown = attend_openly(builder, q, k, v, mask, scale=scale, softcap=softcap)
    scores = shown(2)
    column = builder.expand(builder.reshape(builder.cast(sink, scores), (1, heads, 1, 1)), (batch, heads, queries, 1))
    weights = builder.call("softmax", builder.call("concat", scores, column, axis=3), axis=3)
    return builder.call("attention_context", builder.slice(weights, 3, 0, keys), v)


# -- quantized products -----------------------------------------------------------------------------------------------


def dynamic_quantize_linear(node: Node, rewriter: Rewriter) -> None:
    """dynamic_quantize_linear(x) -> quantize_linear(x, scale = (max(x) - min(x)) / 255, zero), scale, zero"""
    builder = Builder(rewriter, node)
    x = builder.call("cast", operand_at(node, 0), to="f32")
    none = builder.number(0.0, x)
    low = builder.call("min", builder.call("reduce_min", x, keepdims=0), none)
    high = builder.call("max", builder.call("reduce_max", x, keepdims=0), none)
    span = builder.call("div", builder.call("sub", high, low), builder.number(255.0, x))
    scale = builder.call("where", builder.call("equal", span, none), builder.number(1.0, x), span)
    level = builder.call("round", builder.call("div", builder.call("neg", low), scale))
    level = builder.call("clip", level, none, builder.number(255.0, x))
    zero = builder.call("cast", level, to="u8")
    builder.replace(builder.call("quantize_linear", x, scale, zero), scale, zero)


def matmul_integer(node: Node, rewriter: Rewriter) -> None:
    """matmul_integer(x, y, zx, zy) -> matmul_integer(x - zx, y) - sum(x - zx) * zy

    The zero point of y is applied behind the product, so that a weight stays in 8 bits.
    """
    x, y, zero_x, zero_y = (operand(node, i) for i in range(4))
    if x is None or y is None or (zero_x is None and zero_y is None):
        return
    builder = Builder(rewriter, node)
    if zero_x is not None and not _is_zero(zero_x):
        zero = builder.call("cast", zero_x, to="i32")
        if zero.type.rank == 1 and zero.type.elements > 1:  # one for each row
            zero = builder.reshape(zero, (zero.type.elements, 1))
        x = builder.call("sub", builder.call("cast", x, to="i32"), zero)
    out = builder.call("matmul_integer", x, y)
    if zero_y is not None and not _is_zero(zero_y):
        out = builder.call("sub", out, _sums_times(builder, x, zero_y, y, out))
    builder.replace(out)


def _is_zero(zero: Value) -> bool:
    known = contents_of(zero)
    return known is not None and not known.any()


def _sums_times(builder: Builder, x: Value, zero: Value, y: Value, out: Value) -> Value:
    """The sums of the rows of x times the zero points of y (one, or one for each column), to be taken from `out`."""
    wide = builder.call("cast", x, to="i32")
    sums = builder.call("reduce_sum", wide, builder.ints([-1]), keepdims=int(y.type.rank > 1 and x.type.rank > 1))
    levels = builder.call("cast", zero, to="i32")
    return builder.call("mul", sums, builder.reshape(levels, ()) if levels.type.elements == 1 else levels)


RULES: dict[str, tuple[Rule, ...]] = {
    "dynamic_quantize_linear": (dynamic_quantize_linear,),
    "matmul_integer": (matmul_integer,),
}
