"""Ops that make, read or change shapes and leave the elements alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pimc.ir.op import Array, OpClass, UnknownContents, known, op, reject, require
from pimc.ir.ops.rules import (
    agree,
    axes_of,
    broadcast,
    dtype_named,
    known_ints,
    product,
    quotient,
    same_dtype,
    want_integer,
)
from pimc.ir.types import Dim, DType, Shape, TensorType


@op("shape", cls=OpClass.CONSTANT)
def shape(x: TensorType, *, start: int = 0, end: int | None = None) -> TensorType:
    """The dimensions `start` to `end` of `x`, as i64."""
    dims = x.shape[start:end]
    contents = None
    if all(isinstance(d, int) for d in dims):
        contents = np.array(dims, np.int64)
    return TensorType(DType.I64, (len(dims),), contents)


@shape.reference
def _(x: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


@op("size", cls=OpClass.CONSTANT)
def size(x: TensorType) -> TensorType:
    """The number of elements of `x`, as an i64 scalar."""
    return TensorType(DType.I64, (), np.array(x.elements, np.int64) if x.is_static else None)


size.reference(lambda x: np.array(x.size, np.int64))


def reshaped(source: Shape, target: Sequence[int], allowzero: int) -> Shape:
    """Resolve the 0s (copied) and the -1 (what is left) of a reshape's target."""
    require(target.count(-1) <= 1, f"the target shape {list(target)} has more than one -1")
    dims: list[Dim] = []
    for i, extent in enumerate(target):
        require(extent >= -1, f"the target shape {list(target)} has a negative dimension")
        if extent == 0 and not allowzero:
            require(i < len(source), f"the target shape copies dimension {i}, but the operand has rank {len(source)}")
            dims.append(source[i])
        else:
            dims.append(extent)
    shown = f"cannot reshape [{', '.join(map(str, source))}] to {list(target)}"
    if -1 in target:
        hole = target.index(-1)
        dims[hole] = quotient(source, [d for i, d in enumerate(dims) if i != hole], shown)
    else:
        agree(product(source), product(dims), shown)
    return tuple(dims)


@op("reshape", cls=OpClass.MOVEMENT)
def reshape(x: TensorType, shape: TensorType, *, allowzero: int = 0) -> TensorType:
    """The same elements in row-major order under another shape; 0 copies a dimension, -1 stands for the rest."""
    want_integer(shape, "the target shape")
    target = known_ints(shape, "the dimensions of the target shape")
    return TensorType(x.dtype, reshaped(x.shape, target, allowzero))


@reshape.reference
def _(x: Array, shape: Array, *, allowzero: int = 0) -> Array:
    dims = reshaped(x.shape, [int(d) for d in shape.reshape(-1)], allowzero)
    return x.reshape([int(d) for d in dims if isinstance(d, int)])


@op("flatten", cls=OpClass.MOVEMENT)
def flatten(x: TensorType, *, axis: int = 1) -> TensorType:
    """Two dimensions: those before `axis`, and the rest."""
    require(-x.rank <= axis <= x.rank, f"axis {axis} is out of range for rank {x.rank}")
    cut = axis + x.rank if axis < 0 else axis
    return TensorType(x.dtype, (product(x.shape[:cut]), product(x.shape[cut:])))


@flatten.reference
def _(x: Array, *, axis: int = 1) -> Array:
    cut = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))


@op("squeeze", cls=OpClass.MOVEMENT)
def squeeze(x: TensorType, axes: TensorType | None = None) -> TensorType:
    """Without the given dimensions, which must be 1; without `axes`, all that are 1."""
    if axes is None:
        if not x.is_static:
            raise UnknownContents(f"it is not known which dimensions of {x} are 1")
        return TensorType(x.dtype, tuple(d for d in x.shape if d != 1))
    gone = axes_of(known_ints(axes, "the axes"), x.rank)
    for axis in gone:
        agree(x.shape[axis], 1, f"dimension {axis} of {x} cannot be squeezed")
    return TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in gone))


@squeeze.reference
def _(x: Array, axes: Array | None = None) -> Array:
    return x.squeeze() if axes is None else x.squeeze(tuple(int(a) for a in axes.reshape(-1)))


@op("unsqueeze", cls=OpClass.MOVEMENT)
def unsqueeze(x: TensorType, axes: TensorType) -> TensorType:
    """With dimensions of 1 at the given axes of the result."""
    given = known_ints(axes, "the axes")
    added = axes_of(given, x.rank + len(given))
    rest = iter(x.shape)
    return TensorType(x.dtype, tuple(1 if i in added else next(rest) for i in range(x.rank + len(given))))


@unsqueeze.reference
def _(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(a) for a in axes.reshape(-1)))


@op("expand", cls=OpClass.MOVEMENT)
def expand(x: TensorType, shape: TensorType) -> TensorType:
    """`x` broadcast together with the given shape (dimensions of 1 in it keep those of `x`)."""
    target = tuple(known_ints(shape, "the dimensions of the target shape"))
    require(min(target, default=0) >= 0, f"the shape {list(target)} has a negative dimension")
    return TensorType(x.dtype, broadcast(x.shape, target))


@expand.reference
def _(x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(d) for d in shape.reshape(-1))))


@op("constant_of_shape", cls=OpClass.CONSTANT)
def constant_of_shape(shape: TensorType, *, value: float = 0.0, dtype: str = "f32") -> TensorType:
    """A tensor of the given shape, filled with one value."""
    dims = tuple(known_ints(shape, "the dimensions of the shape"))
    require(all(d >= 0 for d in dims), f"the shape {list(dims)} has a negative dimension")
    return TensorType(dtype_named(dtype), dims)


@constant_of_shape.reference
def _(shape: Array, *, value: float = 0.0, dtype: str = "f32") -> Array:
    return np.full([int(d) for d in shape.reshape(-1)], value, DType.parse(dtype).numpy)


def _range_length(start: Array, limit: Array, delta: Array) -> int:
    if not start.size == limit.size == delta.size == 1:
        reject("the start, limit and step of a range must be one number each")
    step, span = float(delta.item()), float(limit.item()) - float(start.item())
    if step == 0 or not math.isfinite(span / step):
        reject(f"a range of {start.item()} to {limit.item()} in steps of {delta.item()} has no end")
    return max(0, math.ceil(span / step))


@op("range", cls=OpClass.CONSTANT)
def range_(start: TensorType, limit: TensorType, delta: TensorType) -> TensorType:
    """`start`, `start + delta`, ... below `limit` (scalars); for a negative `delta`, above it."""
    kind = same_dtype(start, limit, delta)
    low, high = known(start, "the start of the range is not known"), known(limit, "the limit of the range is not known")
    step = known(delta, "the step of the range is not known")
    return TensorType(kind, (_range_length(low, high, step),))


@range_.reference
def _(start: Array, limit: Array, delta: Array) -> Array:
    steps = np.arange(_range_length(start, limit, delta))
    return np.asarray(start.reshape(()) + steps * delta.reshape(())).astype(start.dtype)
