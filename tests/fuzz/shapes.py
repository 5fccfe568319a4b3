"""Nodes of random models that rearrange elements, or make tensors from shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.fuzz.builder import Builder
from tests.fuzz.eager import Rejected


def _factors(b: Builder, count: int) -> list[int]:
    """A shape of so many elements."""
    dims: list[int] = []
    while count > 1 and b.maybe(0.75):
        factor = b.pick([d for d in range(1, count + 1) if count % d == 0])
        dims.append(factor)
        count //= factor
    if count != 1 or b.maybe(0.1):
        dims.append(count)
    return [d for i in b.chance.permutation(len(dims)) for d in [dims[int(i)]]]


def reshape(b: Builder) -> object:
    x = b.value()
    if x.array.size == 0:
        return b.op("Reshape", x, b.ints([0, -1]), allowzero=0) if b.maybe() else b.op("Reshape", x, b.ints([-1]))
    target = _factors(b, x.array.size)
    if target and b.maybe(0.4):
        target[b.below(len(target))] = -1
    target = [0 if i < x.rank and d == x.shape[i] and b.maybe(0.3) else d for i, d in enumerate(target)]
    return b.op("Reshape", x, b.ints(target))


def flatten(b: Builder) -> object:
    x = b.value()
    return b.op("Flatten", x, axis=b.below(2 * x.rank + 1) - x.rank)


def transpose(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    return b.op("Transpose", x) if b.maybe(0.2) else b.op("Transpose", x, perm=b.chance.permutation(x.rank).tolist())


def slices(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    count = 1 + b.below(min(x.rank, 2))
    axes = b.chance.permutation(x.rank)[:count].tolist()
    starts: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    for axis in axes:
        extent = x.shape[axis]
        if b.maybe(0.2):
            starts, ends, steps = (
                [*starts, -1],
                [*ends, b.pick((-(2**31), -1000, -extent - 1))],
                [*steps, b.pick((-1, -2))],
            )
        else:
            start = b.below(extent + 1)
            end = b.pick((start + b.below(extent - start + 1), 2**31 - 1, 2**63 - 1, extent))
            starts, ends, steps = [*starts, b.pick((start, start - extent))], [*ends, end], [*steps, b.pick((1, 1, 2))]
    if b.opset < 10:
        return b.op("Slice", x, starts=starts, ends=ends, axes=axes)
    if set(steps) == {1} and b.maybe():
        return b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints(axes))
    return b.op("Slice", x, b.ints(starts), b.ints(ends), b.ints(axes), b.ints(steps))


def concat(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    axis = b.below(x.rank)
    parts = [x]
    for _ in range(b.below(3)):
        shape = [b.extent() if i == axis else d for i, d in enumerate(x.shape)]
        fit = [v for v in b.pool if v.dtype == x.dtype and v.rank == x.rank and _equal_but(v.shape, x.shape, axis)]
        parts.append(b.pick(fit) if b.maybe(0.6) else b.fresh(x.dtype, shape))
    order = b.chance.permutation(len(parts)).tolist()
    return b.op("Concat", *[parts[i] for i in order], axis=axis - (x.rank if b.maybe(0.3) else 0))


def _equal_but(one: tuple[int, ...], other: tuple[int, ...], axis: int) -> bool:
    return all(a == c or i == axis for i, (a, c) in enumerate(zip(one, other, strict=True)))


def split(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0 and max(v.shape) > 1)
    axis = b.pick([i for i, d in enumerate(x.shape) if d > 1])
    extent = x.shape[axis]
    if b.maybe(0.4):
        count = 1 + b.below(min(extent, 4))
        more: dict[str, Any] = {"num_outputs": count} if b.opset >= 18 else {}
        if not more and extent % count:
            raise Rejected("uneven")
        return b.node("Split", x, outputs=count, axis=axis, **more)
    sizes = [b.below(extent + 1)]
    sizes.append(extent - sizes[0])
    if b.opset < 13:
        return b.node("Split", x, outputs=2, axis=axis, split=sizes)
    return b.node("Split", x, b.ints(sizes), outputs=2, axis=axis - (x.rank if b.maybe(0.3) else 0))


def squeeze(b: Builder) -> object:
    x = b.value(lambda v: 1 in v.shape)
    ones = [i for i, d in enumerate(x.shape) if d == 1]
    if b.maybe(0.2):
        return b.op("Squeeze", x)
    return b.listed("Squeeze", x, "axes", [b.pick(ones) - (x.rank if b.maybe(0.3) else 0)], 13)


def unsqueeze(b: Builder) -> object:
    x = b.value(lambda v: v.rank < 5)
    if b.maybe(0.3):
        return b.listed("Unsqueeze", x, "axes", [0, x.rank + 1], 13)
    return b.listed("Unsqueeze", x, "axes", [b.below(x.rank + 1) - (x.rank + 1 if b.maybe(0.3) else 0)], 13)


def expand(b: Builder) -> object:
    x = b.value()
    shape = [b.extent() if d == 1 else b.pick((1, d)) for d in x.shape]
    if b.maybe(0.4):
        shape = [1 + b.below(3), *shape]
    return b.op("Expand", x, b.ints(shape[b.below(len(shape) + 1) if b.maybe(0.1) else 0 :]))


def tile(b: Builder) -> object:
    x = b.value(lambda v: v.array.size < 500)
    return b.op("Tile", x, b.ints([b.pick((1, 1, 2, 3, 0) if b.maybe(0.1) else (1, 2, 3)) for _ in x.shape]))


def pad(b: Builder) -> object:
    x = b.value(lambda v: v.rank > 0)
    pads = [b.pick((0, 0, 1, 3)) for _ in range(2 * x.rank)]
    mode = b.pick(("constant", "constant", "reflect", "edge"))
    if mode != "constant":
        pads = [p if min(x.shape) > 3 else 0 for p in pads]
    if b.opset < 11:
        return b.op("Pad", x, pads=pads, mode=mode)
    value = b.constant(b.pick((0, 1, 2)), x.dtype) if b.maybe() else None
    return b.op("Pad", x, b.ints(pads), value if mode == "constant" else None, mode=mode)


def triangle(b: Builder) -> object:
    x = b.value(lambda v: v.rank >= 2)
    k = b.constant(b.below(5) - 2, np.int64) if b.maybe() else None
    return b.op("Trilu", x, k, upper=b.below(2))


def shape_of(b: Builder) -> object:
    x = b.value()
    return b.op("Size", x) if b.maybe(0.2) else b.op("Shape", x)


def shape_chain(b: Builder) -> object:
    """Reshape to a shape that is computed from another value's, as exporters write it."""
    x = b.value(lambda v: v.rank >= 2)
    shape = b.op("Shape", x)
    first = b.op("Gather", shape, b.constant(0, np.int64), axis=0)
    lead = b.listed("Unsqueeze", first, "axes", [0], 13)
    return b.op("Reshape", x, b.op("Concat", lead, b.ints([-1]), axis=0))


def constant_of_shape(b: Builder) -> object:
    value = numpy_helper.from_array(np.array([b.pick((0, 1, 3))], b.pick((np.float32, np.int64, np.bool_))))
    made = b.op("ConstantOfShape", b.op("Shape", b.value()), value=value)
    return b.op("NonZero", made) if b.maybe(0.2) else made


def arange(b: Builder) -> object:
    dtype = b.pick((np.int64, np.int32, np.float32))
    start, count, step = b.below(5), b.below(9), b.pick((1, 2, -1))
    return b.op("Range", *[b.constant(v, dtype) for v in (start, start + count * step, step)])
