"""Ops that combine the elements along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pimc.ir.op import Array, OpClass, OpDef, op, require
from pimc.ir.ops.rules import axes_of, axis_of, known_ints, known_scalar, wide
from pimc.ir.types import Dim, DType, Shape, TensorType


def reduced(shape: Shape, axes: list[int], keepdims: int) -> Shape:
    dims: list[Dim] = []
    for i, dim in enumerate(shape):
        if i not in axes:
            dims.append(dim)
        elif keepdims:
            dims.append(1)
    return tuple(dims)


def _l2(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    return np.asarray(np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims, dtype=x.dtype)))


def _mean(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Of nothing it is 0, as in ONNX Runtime; the standard leaves it open."""
    return np.asarray((np.mean if x.size else np.sum)(x, axis=axis, keepdims=keepdims))


def lowest(dtype: np.dtype[Any]) -> Any:
    """What the largest of no elements is."""
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def highest(dtype: np.dtype[Any]) -> Any:
    """What the smallest of no elements is."""
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


Reduce = Callable[[Array, tuple[int, ...], bool], Array]

REDUCTIONS: tuple[tuple[str, Reduce, str], ...] = (
    ("reduce_sum", lambda x, a, k: np.sum(x, axis=a, keepdims=k, dtype=x.dtype), "The sum along the axes."),
    ("reduce_mean", _mean, "The mean along the axes."),
    (
        "reduce_max",
        lambda x, a, k: np.max(x, axis=a, keepdims=k, initial=lowest(x.dtype)),
        "The largest element along the axes.",
    ),
    (
        "reduce_min",
        lambda x, a, k: np.min(x, axis=a, keepdims=k, initial=highest(x.dtype)),
        "The smallest element along the axes.",
    ),
    ("reduce_prod", lambda x, a, k: np.prod(x, axis=a, keepdims=k, dtype=x.dtype), "The product along the axes."),
    (
        "reduce_sum_square",
        lambda x, a, k: np.sum(x * x, axis=a, keepdims=k, dtype=x.dtype),
        "The sum of squares along the axes.",
    ),
    ("reduce_l1", lambda x, a, k: np.sum(np.abs(x), axis=a, keepdims=k, dtype=x.dtype), "The sum of magnitudes."),
    ("reduce_l2", _l2, "The square root of the sum of squares along the axes."),
)


def _declare(name: str, function: Reduce, doc: str) -> OpDef:
    def rule(
        x: TensorType, axes: TensorType | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> TensorType:
        given = known_ints(axes, "the axes") if axes is not None else []
        if not given and noop_with_empty_axes:
            return TensorType(x.dtype, x.shape)
        return TensorType(x.dtype, reduced(x.shape, axes_of(given or range(x.rank), x.rank), keepdims))

    def meaning(x: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Array:
        given = [int(a) for a in axes.reshape(-1)] if axes is not None else []
        if not given and noop_with_empty_axes:
            return x
        return np.asarray(function(wide(x), tuple(given or range(x.ndim)), bool(keepdims))).astype(x.dtype)

    rule.__doc__ = doc + " Without axes: all of them, or none if `noop_with_empty_axes`."
    return op(name, cls=OpClass.REDUCTION)(rule).reference(meaning)


for _row in REDUCTIONS:
    _declare(*_row)


def _declare_arg(name: str, function: Callable[..., Array], doc: str) -> OpDef:
    def rule(x: TensorType, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> TensorType:
        at = axis_of(axis, x.rank)
        require(x.shape[at] != 0, f"axis {at} of {x} has no elements to compare")
        return TensorType(DType.I64, reduced(x.shape, [at], keepdims))

    def meaning(x: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
        if not select_last_index:
            return np.asarray(function(x, axis=axis, keepdims=bool(keepdims)), np.int64)
        found = function(np.flip(x, axis), axis=axis, keepdims=bool(keepdims))
        return np.asarray(x.shape[axis] - 1 - found, np.int64)

    rule.__doc__ = doc + " Ties go to the first, or to the last if `select_last_index`."
    return op(name, cls=OpClass.REDUCTION)(rule).reference(meaning)


_declare_arg("arg_max", np.argmax, "The index of the largest element along an axis.")
_declare_arg("arg_min", np.argmin, "The index of the smallest element along an axis.")


@op("cum_sum", cls=OpClass.REDUCTION)
def cum_sum(x: TensorType, axis: TensorType, *, exclusive: int = 0, reverse: int = 0) -> TensorType:
    """The running sum along an axis, optionally without the element itself, or from the end."""
    axis_of(known_scalar(axis, "the axis"), x.rank)
    return TensorType(x.dtype, x.shape)


@cum_sum.reference
def _(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    at = int(axis.reshape(-1)[0])
    v = np.flip(wide(x), at) if reverse else wide(x)
    total = np.cumsum(v, axis=at, dtype=v.dtype)
    if exclusive:
        total = np.roll(total, 1, at)
        np.moveaxis(total, at, 0)[:1] = 0
    return (np.flip(total, at) if reverse else total).astype(x.dtype)


@op("top_k", cls=OpClass.REDUCTION)
def top_k(
    x: TensorType, k: TensorType, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[TensorType, TensorType]:
    """The `k` largest (or smallest) elements along an axis and their indices (i64); ties go to the lower index."""
    at, count = axis_of(axis, x.rank), known_scalar(k, "k")
    extent = x.shape[at]
    require(count >= 0, f"k is {count}")
    require(not isinstance(extent, int) or count <= extent, f"k is {count}, but dimension {axis} has only {extent}")
    dims = (*x.shape[:at], count, *x.shape[at + 1 :])
    return TensorType(x.dtype, dims), TensorType(DType.I64, dims)


@top_k.reference
def _(x: Array, k: Array, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Array, Array]:
    count = int(k.reshape(-1)[0])
    if largest:  # a stable descending order: sort the reversed array upwards and reverse again
        flipped = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
        order = x.shape[axis] - 1 - np.flip(flipped, axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    indices = np.take(order, np.arange(count), axis=axis).astype(np.int64)
    return np.take_along_axis(x, indices, axis), indices
