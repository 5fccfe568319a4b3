"""Ops that read or write at positions held in another tensor."""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array, OpClass, known, op, require
from pimc.ir.ops.rules import agree, axis_of, compatible, in_range, same_dtype, want_integer, want_rank
from pimc.ir.types import Dim, DType, TensorType

_COMBINE = {"none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@op("gather", cls=OpClass.MOVEMENT)
def gather(x: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    """The slices of `x` at `indices` along an axis; with axis 0 of a weight, the embedding. Negatives count back."""
    want_integer(indices, "the indices")
    at = axis_of(axis, x.rank)
    in_range(indices, x.shape[at])
    return TensorType(x.dtype, (*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))


@gather.reference
def _(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.take(x, indices, axis=axis)


@op("gather_elements", cls=OpClass.MOVEMENT)
def gather_elements(x: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    """Each element of the result is the one of `x` at its own position, but for the axis, where `indices` says."""
    want_integer(indices, "the indices")
    at = axis_of(axis, x.rank)
    require(indices.rank == x.rank, f"the indices must have rank {x.rank}, but are {indices}")
    in_range(indices, x.shape[at])
    return TensorType(x.dtype, indices.shape)


@gather_elements.reference
def _(x: Array, indices: Array, *, axis: int = 0) -> Array:
    at = axis % x.ndim
    within = x[tuple(slice(None) if i == at else slice(0, n) for i, n in enumerate(indices.shape))]
    return np.take_along_axis(within, indices, at)


@op("gather_nd", cls=OpClass.MOVEMENT)
def gather_nd(x: TensorType, indices: TensorType, *, batch_dims: int = 0) -> TensorType:
    """The slices of `x` at the index vectors in the last dimension of `indices`, behind `batch_dims` shared ones."""
    want_integer(indices, "the indices")
    require(indices.rank >= 1, "the indices must have rank 1 or more")
    depth = indices.shape[-1]
    require(isinstance(depth, int), f"the length of the index vectors must be known, but is {depth}")
    assert isinstance(depth, int)
    require(0 <= batch_dims < indices.rank, f"batch_dims is {batch_dims}, but the indices are {indices}")
    require(batch_dims + depth <= x.rank, f"index vectors of length {depth} are too long for {x}")
    in_range(indices, *x.shape[batch_dims : batch_dims + depth])
    batch = [agree(x.shape[i], indices.shape[i], f"batch dimension {i}") for i in range(batch_dims)]
    return TensorType(x.dtype, (*batch, *indices.shape[batch_dims:-1], *x.shape[batch_dims + depth :]))


@gather_nd.reference
def _(x: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    batch = np.indices(x.shape[:batch_dims])
    spread = indices.ndim - 1 - batch_dims
    lead = [b.reshape(*b.shape, *(1,) * spread) for b in batch]
    return np.asarray(x[(*lead, *np.moveaxis(indices, -1, 0))])


@op("scatter_nd", cls=OpClass.MOVEMENT)
def scatter_nd(x: TensorType, indices: TensorType, updates: TensorType, *, reduction: str = "none") -> TensorType:
    """`x` with the slices at the index vectors of `indices` replaced by (or combined with) `updates`."""
    want_integer(indices, "the indices")
    require(indices.rank >= 1, "the indices must have rank 1 or more")
    require(reduction in _COMBINE, f"reduction must be one of {', '.join(_COMBINE)}, not '{reduction}'")
    depth = indices.shape[-1]
    require(isinstance(depth, int) and depth <= x.rank, f"index vectors of length {depth} do not fit {x}")
    assert isinstance(depth, int)
    in_range(indices, *x.shape[:depth])
    expected: tuple[Dim, ...] = (*indices.shape[:-1], *x.shape[depth:])
    require(updates.rank == len(expected), f"the updates must have rank {len(expected)}, but are {updates}")
    for i, (given, wanted) in enumerate(zip(updates.shape, expected, strict=True)):
        agree(given, wanted, f"dimension {i} of the updates")
    return TensorType(same_dtype(x, updates), x.shape)


@scatter_nd.reference
def _(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    result = x.copy()
    _scatter(result, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)
    return result


@op("scatter_elements", cls=OpClass.MOVEMENT)
def scatter_elements(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int = 0, reduction: str = "none"
) -> TensorType:
    """`x` with each element of `updates` written at its own position, but for the axis, where `indices` says."""
    want_integer(indices, "the indices")
    at = axis_of(axis, x.rank)
    require(reduction in _COMBINE, f"reduction must be one of {', '.join(_COMBINE)}, not '{reduction}'")
    require(x.rank == indices.rank == updates.rank, "operand, indices and updates must have the same rank")
    in_range(indices, x.shape[at])
    for i, (left, right) in enumerate(zip(indices.shape, updates.shape, strict=True)):
        agree(left, right, f"dimension {i} of indices and updates")
    return TensorType(same_dtype(x, updates), x.shape)


@scatter_elements.reference
def _(x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none") -> Array:
    result = x.copy()
    places: list[Array] = list(np.indices(indices.shape, sparse=True))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    _scatter(result, tuple(places), updates, reduction)
    return result


@op("tensor_scatter", cls=OpClass.MOVEMENT)
def tensor_scatter(
    past: TensorType,
    update: TensorType,
    write_indices: TensorType | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> TensorType:
    """`past` with `update` written along an axis, for each request from its own index on (0 without `write_indices`).

    In mode 'circular', positions beyond the end go on at the start.
    """
    require(mode in ("linear", "circular"), f"mode must be 'linear' or 'circular', not '{mode}'")
    at = axis_of(axis, past.rank)
    require(at > 0, "the axis must not be that of the requests")
    require(update.rank == past.rank, f"past and update differ in rank: {past} and {update}")
    for i, (left, right) in enumerate(zip(past.shape, update.shape, strict=True)):
        if i != at:
            agree(left, right, f"dimension {i} of past and update")
    if write_indices is not None:
        want_integer(write_indices, "write_indices")
        want_rank(write_indices, 1, "write_indices")
        agree(write_indices.shape[0], past.shape[0], "the number of write_indices")
    return TensorType(same_dtype(past, update), past.shape)


@tensor_scatter.reference
def _(past: Array, update: Array, write_indices: Array | None = None, *, axis: int = -2, mode: str = "linear") -> Array:
    result = past.copy()
    start = np.zeros(len(past), np.int64) if write_indices is None else write_indices
    for request, new, first in zip(result, update, start, strict=True):
        rows, length = np.moveaxis(request, axis % past.ndim - 1, 0), past.shape[axis]
        places = int(first) + np.arange(update.shape[axis])
        rows[places % length if mode == "circular" else places] = np.moveaxis(new, axis % past.ndim - 1, 0)
    return result


def _scatter(target: Array, places: tuple[Array, ...], updates: Array, reduction: str) -> None:
    combine = _COMBINE[reduction]
    if combine is None:
        target[places] = updates
    else:
        combine.at(target, places, updates)


@op("one_hot", cls=OpClass.MOVEMENT)
def one_hot(indices: TensorType, depth: TensorType, values: TensorType, *, axis: int = -1) -> TensorType:
    """A new axis of `depth` with `values[1]` at the index and `values[0]` elsewhere; negatives count from the end."""
    at = axis_of(axis, indices.rank + 1)
    numbers = known(depth, "the depth is not known").reshape(-1)
    require(numbers.size == 1, f"the depth must be one number, not {numbers.size}")
    count = int(numbers[0])  # ONNX allows any type of number
    require(count > 0, f"the depth is {count}")
    compatible(values.shape, (2,), "the values")
    return TensorType(values.dtype, (*indices.shape[:at], count, *indices.shape[at:]))


@one_hot.reference
def _(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    count = int(depth.reshape(-1)[0])
    whole = indices.astype(np.int64)
    wrapped = np.where(whole < 0, whole + count, whole)
    hot = np.expand_dims(wrapped, axis) == np.arange(count).reshape(
        [count if i == axis % (indices.ndim + 1) else 1 for i in range(indices.ndim + 1)]
    )
    return np.asarray(np.where(hot, values[1], values[0])).astype(values.dtype)


@op("non_zero", cls=OpClass.MOVEMENT)
def nonzero(x: TensorType) -> TensorType:
    """The positions of all elements that are not 0; only for contents known to the compiler."""
    count = np.count_nonzero(known(x, "how many elements are not 0 depends on data"))
    return TensorType(DType.I64, (x.rank, int(count)))


@nonzero.reference
def _(x: Array) -> Array:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)[: x.ndim]
