"""Ops that rearrange elements: transposing, joining, cutting, repeating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast, get_args

import numpy as np

from pimc.ir.op import Array, OpClass, UnknownContents, op, require
from pimc.ir.ops.rules import agree, axes_of, axis_of, divide, known_ints, known_scalar, same_dtype
from pimc.ir.types import Dim, TensorType


@op("transpose", cls=OpClass.MOVEMENT)
def transpose(x: TensorType, *, perm: tuple[int, ...] = ()) -> TensorType:
    """Dimension i of the result is dimension `perm[i]` of `x`; without `perm`, all in reverse."""
    order = perm or tuple(reversed(range(x.rank)))
    require(sorted(order) == list(range(x.rank)), f"perm {list(order)} is not a permutation of the axes of {x}")
    return TensorType(x.dtype, tuple(x.shape[i] for i in order))


@transpose.reference
def _(x: Array, *, perm: tuple[int, ...] = ()) -> Array:
    return np.transpose(x, perm or None)


@op("hold", cls=OpClass.MOVEMENT)
def hold(x: TensorType) -> TensorType:
    """`x`, brought into the on-chip buffer, where it stays for all who read it."""
    return TensorType(x.dtype, x.shape)


hold.reference(lambda x: x)


@op("concat", cls=OpClass.MOVEMENT)
def concat(*xs: TensorType, axis: int) -> TensorType:
    """The operands one behind the other along an axis."""
    require(bool(xs), "concat needs at least one operand")
    first = xs[0]
    dtype, at = same_dtype(*xs), axis_of(axis, first.rank)
    dims = list(first.shape)
    for i, x in enumerate(xs[1:], 1):
        require(x.rank == first.rank, f"operand {i} has rank {x.rank}, the first has {first.rank}")
        for j, dim in enumerate(x.shape):
            dims[j] = dims[j] + dim if j == at else agree(dims[j], dim, f"dimension {j} of operand {i}")
    return TensorType(dtype, tuple(dims))


@concat.reference
def _(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis)


MOST_PARTS = 2**16
"""Results of one split."""


def _parts(extent: Dim, split: TensorType | None, num_outputs: int) -> list[Dim]:
    if split is not None:
        sizes = known_ints(split, "the sizes of the parts")
        agree(sum(sizes), extent, "the sizes of the parts")
        return list(sizes)
    require(num_outputs > 0, "split needs the sizes of the parts or num_outputs")
    require(num_outputs <= MOST_PARTS, f"a split into {num_outputs} parts is beyond {MOST_PARTS}")
    if not isinstance(extent, int):
        return [divide(extent, num_outputs, "the split dimension")] * num_outputs
    chunk = -(-extent // num_outputs)
    return [max(0, min(chunk, extent - i * chunk)) for i in range(num_outputs)]


@op("split", cls=OpClass.MOVEMENT)
def split(
    x: TensorType, split: TensorType | None = None, *, axis: int = 0, num_outputs: int = 0
) -> tuple[TensorType, ...]:
    """`x` cut along an axis: into parts of the sizes in `split`, or `num_outputs` equal ones (the last smaller)."""
    at = axis_of(axis, x.rank)
    parts = _parts(x.shape[at], split, num_outputs)
    return tuple(TensorType(x.dtype, (*x.shape[:at], part, *x.shape[at + 1 :])) for part in parts)


@split.reference
def _(x: Array, split: Array | None = None, *, axis: int = 0, num_outputs: int = 0) -> tuple[Array, ...]:
    if split is not None:
        cuts = np.cumsum(split)[:-1]
    else:
        chunk = -(-x.shape[axis] // num_outputs)
        cuts = np.minimum(np.arange(1, num_outputs) * chunk, x.shape[axis])
    return tuple(np.split(x, [int(c) for c in cuts], axis))


def _slice_extent(dim: Dim, start: int, end: int, step: int) -> Dim:
    """How many indices remain; a symbolic dimension is taken to be long enough for the starts and ends given."""
    require(step != 0, "a slice's step must not be 0")
    if isinstance(dim, int):
        return len(range(*slice(start, _python_end(end, dim, step), step).indices(dim)))
    if step < 0:
        if (start >= _FAR and end <= -_FAR and step == -1) or (start == -1 and end <= -_FAR and step == -1):
            return dim
        raise UnknownContents(f"the length of a slice of dimension {dim} backwards is not known")
    first = start + dim if start < 0 else start
    last = dim if end >= _FAR else end + dim if end < 0 else end
    if start <= -_FAR:
        first = 0
    if end >= 0 and end < _FAR and start >= 0:
        raise UnknownContents(f"it is not known whether dimension {dim} reaches {end}")
    extent = last - first
    return extent if step == 1 else divide(extent, step, "the slice's length by its step")


_FAR = 2**31 - 1


def _python_end(end: int, dim: int, step: int) -> int | None:
    """ONNX counts an end below -dim as "through the first element" for negative steps; Python says None."""
    return None if step < 0 and end < -dim else end


def _slice_axes(
    axes: Sequence[int] | None, steps: Sequence[int] | None, count: int, rank: int
) -> list[tuple[int, int]]:
    chosen = axes_of(axes if axes is not None else range(count), rank)
    strides = list(steps) if steps is not None else [1] * count
    require(len(chosen) == count == len(strides), "starts, ends, axes and steps of a slice must be equally many")
    return list(zip(chosen, strides, strict=True))


@op("slice", cls=OpClass.MOVEMENT)
def slice_(
    x: TensorType,
    starts: TensorType,
    ends: TensorType,
    axes: TensorType | None = None,
    steps: TensorType | None = None,
) -> TensorType:
    """Indices `starts` to `ends` (exclusive) of the given axes by `steps`; negative ones count from the end."""
    low, high = known_ints(starts, "the starts of the slice"), known_ints(ends, "the ends of the slice")
    require(len(low) == len(high), "starts and ends of a slice must be equally many")
    chosen = known_ints(axes, "the axes of the slice") if axes is not None else None
    strides = known_ints(steps, "the steps of the slice") if steps is not None else None
    dims = list(x.shape)
    for (axis, step), start, end in zip(_slice_axes(chosen, strides, len(low), x.rank), low, high, strict=True):
        dims[axis] = _slice_extent(dims[axis], start, end, step)
    return TensorType(x.dtype, tuple(dims))


@slice_.reference
def _(x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    chosen = None if axes is None else [int(a) for a in axes.reshape(-1)]
    strides = None if steps is None else [int(s) for s in steps.reshape(-1)]
    starts, ends = starts.reshape(-1), ends.reshape(-1)
    index = [slice(None)] * x.ndim
    for i, (axis, step) in enumerate(_slice_axes(chosen, strides, len(starts), x.ndim)):
        index[axis] = slice(int(starts[i]), _python_end(int(ends[i]), x.shape[axis], step), step)
    return x[tuple(index)]


@op("tile", cls=OpClass.MOVEMENT)
def tile(x: TensorType, repeats: TensorType) -> TensorType:
    """`x` repeated along each axis."""
    counts = known_ints(repeats, "the repeats")
    require(len(counts) == x.rank, f"repeats has {len(counts)} numbers for rank {x.rank}")
    require(min(counts, default=0) >= 0, f"repeats has the negative number {min(counts, default=0)}")
    return TensorType(x.dtype, tuple(d * c for d, c in zip(x.shape, counts, strict=True)))


@tile.reference
def _(x: Array, repeats: Array) -> Array:
    return np.tile(x, [int(r) for r in repeats.reshape(-1)])


@op("pad", cls=OpClass.MOVEMENT)
def pad(
    x: TensorType,
    pads: TensorType,
    constant_value: TensorType | None = None,
    axes: TensorType | None = None,
    *,
    mode: str = "constant",
) -> TensorType:
    """`x` with borders: `pads` holds the widths before each axis, then those behind; negative ones cut."""
    require(mode in _PAD_MODES, f"mode must be one of {', '.join(_PAD_MODES)}, not '{mode}'")
    widths = known_ints(pads, "the widths of the padding")
    chosen = axes_of(known_ints(axes, "the padded axes") if axes is not None else range(x.rank), x.rank)
    require(len(widths) == 2 * len(chosen), f"pads must have {2 * len(chosen)} numbers, not {len(widths)}")
    dims = list(x.shape)
    for i, axis in enumerate(chosen):
        dims[axis] = dims[axis] + widths[i] + widths[i + len(chosen)]
    return TensorType(x.dtype, tuple(dims))


_PadMode = Literal["constant", "reflect", "edge", "wrap"]
_PAD_MODES: tuple[str, ...] = get_args(_PadMode)


@pad.reference
def _(
    x: Array,
    pads: Array,
    constant_value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: str = "constant",
) -> Array:
    chosen = [int(a) for a in axes.reshape(-1)] if axes is not None else list(range(x.ndim))
    widths = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        low, high = int(pads[i]), int(pads[i + len(chosen)])
        cut = slice(max(0, -low), x.shape[axis] - max(0, -high))
        x = x[(slice(None),) * (axis % x.ndim) + (cut,)]
        widths[axis] = (max(0, low), max(0, high))
    if mode == "constant":
        return np.pad(x, widths, constant_values=0 if constant_value is None else constant_value.reshape(-1)[0])
    return np.pad(x, widths, mode=cast("_PadMode", mode))


@op("trilu", cls=OpClass.MOVEMENT)
def trilu(x: TensorType, k: TensorType | None = None, *, upper: int = 1) -> TensorType:
    """The upper (or lower) triangle of each matrix, the rest 0; diagonal `k` counts from the main one."""
    require(x.rank >= 2, f"the operand must have rank 2 or more, but is {x}")
    if k is not None:
        known_scalar(k, "the diagonal")
    return TensorType(x.dtype, x.shape)


@trilu.reference
def _(x: Array, k: Array | None = None, *, upper: int = 1) -> Array:
    diagonal = 0 if k is None else int(k.reshape(-1)[0])
    rows, columns = np.arange(x.shape[-2])[:, None], np.arange(x.shape[-1])
    kept = columns - rows >= diagonal if upper else columns - rows <= diagonal
    return np.asarray(np.where(kept, x, x.dtype.type(0)))
