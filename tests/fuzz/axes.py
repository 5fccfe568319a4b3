"""Nodes of random models that compute along axes: reductions, softmax, norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.builder import Builder
from tests.fuzz.drawing import sides
from tests.fuzz.eager import Rejected

REDUCTIONS = (
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip


def reduce(b: Builder) -> object:
    op_type = b.pick(REDUCTIONS)
    x = b.floats() if "Log" in op_type else b.value(lambda v: v.dtype != np.bool_)
    if not x.array.size and op_type == "ReduceMean":
        raise Rejected("the mean of nothing")
    axes = b.chance.permutation(x.rank)[: b.below(x.rank + 1)].tolist()
    axes = [a - x.rank if b.maybe(0.3) else a for a in axes]
    keep: dict[str, Any] = {"keepdims": b.below(2)} if b.maybe(0.8) else {}
    if not axes:
        return b.op(op_type, x, **keep)
    return b.listed(op_type, x, "axes", axes, 13 if op_type == "ReduceSum" else 18, **keep)


def arg(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0 and v.dtype != np.bool_)
    return b.op(b.pick(("ArgMax", "ArgMin")), x, axis=b.below(x.rank), keepdims=b.below(2))


def top_k(b: Builder) -> object:
    x = b.value(lambda v: v.is_float and v.rank > 0 and min(v.shape) > 0)
    axis = b.below(x.rank) if b.maybe(0.3) else x.rank - 1
    if np.unique(x.array).size != x.array.size:
        raise Rejected("ties")
    if b.opset < 11:
        return b.node("TopK", x, b.ints([1]), outputs=2, axis=axis)
    k = b.ints([1 + b.below(x.shape[axis])])
    return b.node("TopK", x, k, outputs=2, axis=axis, largest=b.below(2))


def cumsum(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0 and v.dtype != np.bool_)
    axis = b.constant(b.below(x.rank), b.pick((np.int64, np.int32)))
    return b.op("CumSum", x, axis, exclusive=b.below(2), reverse=b.below(2))


def softmax(b: Builder) -> object:
    x = b.floats(1)
    return b.op(b.pick(("Softmax", "Softmax", "LogSoftmax")), x, axis=b.pick((-1, -1, b.below(x.rank))))


def layer_norm(b: Builder) -> object:
    x = b.floats(1)
    axis = x.rank - 1 - (b.below(x.rank) if b.maybe(0.3) else 0)
    scale, bias = (b.fresh(x.dtype, x.shape[axis:]) for _ in range(2))
    epsilon = b.pick((1e-5, 1e-3))
    return b.op("LayerNormalization", x, scale, bias if b.maybe(0.7) else None, axis=axis, epsilon=epsilon)


def rms_norm(b: Builder) -> object:
    """As an op of its own, or written out in one of the exporters' forms."""
    x = b.floats(1)
    scale = b.fresh(x.dtype, x.shape[-1:])
    form = b.below(3)
    if form == 0:
        return b.op("RMSNormalization", x, scale, axis=-1, epsilon=1e-5)
    if form == 1:
        return b.op("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=1e-5)
    square = b.op("Pow", x, b.constant(2, x.dtype)) if b.maybe() else b.op("Mul", x, x)
    mean = b.listed("ReduceMean", square, "axes", [-1], 18)
    root = b.op("Sqrt", b.op("Add", mean, b.constant(1e-3, x.dtype)))
    normal = b.op("Div", x, root) if b.maybe() else b.op("Mul", x, b.op("Reciprocal", root))
    return b.op("Mul", *sides(b, normal, scale))


def skip_norm(b: Builder) -> object:
    x = b.value(lambda v: v.is_float and v.rank == 3)
    other = b.fresh(x.dtype, x.shape)
    scale = b.fresh(x.dtype, x.shape[-1:])
    if b.maybe():
        return b.node("SkipSimplifiedLayerNormalization", x, other, scale, domain="com.microsoft", epsilon=1e-5)
    bias = b.fresh(x.dtype, x.shape[-1:])
    return b.node("SkipLayerNormalization", x, other, scale, bias, domain="com.microsoft", epsilon=1e-5)
