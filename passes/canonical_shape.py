"""Canonical forms of data movement: reshape, transpose, expand, slice and concat, with constant operands, remain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.op import Array
from pimc.passes.building import Builder, operand_at
from pimc.passes.canonical_arith import forward
from pimc.passes.match import contents_of, ints_of

Rule = Callable[[Node, Rewriter], None]

_KNOWN_ELEMENTS = 1 << 22


def as_reshape(node: Node, rewriter: Rewriter) -> None:
    """squeeze, unsqueeze, flatten -> reshape to a constant shape"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    if x.type.shape == shape:
        forward(node, rewriter, x)
        return
    builder = Builder(rewriter, node)
    builder.replace(builder.reshape(x, shape))


def reshape(node: Node, rewriter: Rewriter) -> None:
    """reshape to the same shape -> nothing; reshape(reshape(x)) -> reshape(x); 0 and -1 in the shape -> numbers"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    if x.type.shape == shape:
        forward(node, rewriter, x)
        return
    if x.owner is not None and x.owner.op.name == "reshape":
        source = operand_at(x.owner, 0)
        builder = Builder(rewriter, node)
        if source.type.shape == shape:
            forward(node, rewriter, source)
            return
        builder.replace(builder.reshape(source, shape))
        return
    if ints_of(node.operands[1]) != list(shape) or node.attribute("allowzero") != int(0 in shape):
        as_reshape(node, rewriter)


def transpose(node: Node, rewriter: Rewriter) -> None:
    """transpose by the identity -> nothing; transpose(transpose(x)) -> transpose(x)"""
    x, perm = operand_at(node, 0), _perm(node)
    if list(perm) == sorted(perm):
        forward(node, rewriter, x)
        return
    if x.owner is not None and x.owner.op.name == "transpose":
        inner = _perm(x.owner)
        both = tuple(inner[p] for p in perm)
        source = operand_at(x.owner, 0)
        if list(both) == sorted(both):
            forward(node, rewriter, source)
            return
        rewriter.replace(node, node.op, (source,), {"perm": both})
    elif node.attribute("perm") != perm:
        rewriter.set_attribute(node, "perm", perm)


def _perm(node: Node) -> tuple[int, ...]:
    perm = node.attribute("perm")
    if isinstance(perm, tuple) and perm:
        return tuple(int(p) for p in perm)
    return tuple(reversed(range(operand_at(node, 0).type.rank)))


def expand(node: Node, rewriter: Rewriter) -> None:
    """expand to the same shape -> nothing; 1s in the shape -> what they keep"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    if x.type.shape == shape:
        forward(node, rewriter, x)
        return
    if ints_of(node.operands[1]) != list(shape):
        builder = Builder(rewriter, node)
        builder.replace(builder.call("expand", x, builder.ints(shape, "shape")))


def tile(node: Node, rewriter: Rewriter) -> None:
    """tile once along each axis -> nothing; tile along axes of length 1 -> expand"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    counts = ints_of(node.operands[1]) or []
    if x.type.shape == shape:
        forward(node, rewriter, x)
        return
    if all(count == 1 or extent == 1 for count, extent in zip(counts, x.type.shape, strict=True)):
        builder = Builder(rewriter, node)
        builder.replace(builder.expand(x, shape))


def split(node: Node, rewriter: Rewriter) -> None:
    """split(x) -> one slice for each part that is read"""
    x, axis = operand_at(node, 0), node.attribute("axis")
    assert isinstance(axis, int)
    builder, at, start = Builder(rewriter, node), axis % x.type.rank, 0
    parts: list[Value | None] = []
    for i, result in enumerate(node.results):
        end = start + result.type.static_shape[at]
        parts.append(builder.slice(x, at, start, end) if builder.is_read(i) else None)
        start = end
    builder.replace(*parts)


def slice_(node: Node, rewriter: Rewriter) -> None:
    """a slice of everything -> nothing; else starts, ends, axes and steps become positive, plain and complete"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    operands = [ints_of(v) if v is not None else None for v in node.operands]
    starts, ends = operands[1], operands[2]
    if starts is None or ends is None:
        return
    axes = operands[3] if len(operands) > 3 and operands[3] is not None else list(range(len(starts)))
    steps = operands[4] if len(operands) > 4 and operands[4] is not None else [1] * len(starts)
    if x.type.shape == shape and all(step == 1 for step in steps):
        forward(node, rewriter, x)
        return
    if any(step < 0 for step in steps):
        return
    plain = _plain_bounds(x.type.static_shape, starts, ends, axes, steps)
    given = [starts, ends, operands[3] if len(operands) > 3 else None]
    if given == plain[:3] and (len(operands) > 4) == bool(plain[3]):
        return
    builder = Builder(rewriter, node)
    words = ("starts", "ends", "axes", "steps")
    bounds = [builder.ints(numbers, word) for numbers, word in zip(plain, words, strict=True) if numbers]
    builder.replace(builder.call("slice", x, *bounds))


def slice_of_concat(node: Node, rewriter: Rewriter) -> None:
    """slice(concat(x, y)) within x -> slice(x)"""
    x, shape = operand_at(node, 0), node.result.type.static_shape
    source, starts, axes = x.owner, ints_of(node.operands[1]), ints_of((*node.operands, None)[3])
    if source is None or source.op.name != "concat" or starts is None or axes is None or len(axes) != 1:
        return
    axis, at, start = source.attribute("axis"), axes[0] % x.type.rank, starts[0]
    if axis != at or start < 0 or len(node.operands) > 4:
        return
    for piece in source.inputs():
        extent = piece.type.static_shape[at]
        if start >= 0 and start + shape[at] <= extent:
            builder = Builder(rewriter, node)
            part = builder.slice(piece, at, start, start + shape[at])
            if part is piece:
                forward(node, rewriter, part)
            else:
                builder.replace(part)
            return
        start -= extent


def _plain_bounds(
    shape: Sequence[int], starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> list[list[int]]:
    """Starts, ends, axes, steps of the axes that are really cut, in order; no steps where all are 1."""
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = shape[axis % len(shape)]
        low, high, _ = slice(start, end, step).indices(extent)
        if (low, max(low, high), step) != (0, extent, 1):
            cuts.append((axis % len(shape), low, max(low, high), step))
    cuts.sort()
    plain = [[c[1] for c in cuts], [c[2] for c in cuts], [c[0] for c in cuts], [c[3] for c in cuts]]
    return [*plain[:3], [] if all(step == 1 for step in plain[3]) else plain[3]]


def concat(node: Node, rewriter: Rewriter) -> None:
    """concat(x) -> x; empty pieces go, but for inputs (an empty cache is still the cache)"""
    pieces = list(node.inputs())
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    at = axis % node.result.type.rank
    kept = [v for v in pieces if v.type.shape[at] != 0 or v.role in (Role.INPUT, Role.CACHE)] or pieces[:1]
    if len(kept) == 1:
        forward(node, rewriter, kept[0])
        return
    if len(kept) < len(pieces) or axis != at:
        rewriter.replace(node, node.op, kept, {"axis": at})


def known_gather(node: Node, rewriter: Rewriter) -> None:
    """A gather at known places that amounts to a slice, a reshape or a broadcast becomes that.

    gather(x, [3, 4, 5]) -> slice(x, 3, 6); gather_nd(mask[B, T], all pairs b, t) -> expand(reshape(mask))
    """
    x, indices = operand_at(node, 0), node.operands[1]
    shape = node.result.type.static_shape
    places = contents_of(indices)
    if node.op.name == "gather" and places is not None:
        _gather_range(node, rewriter, places)
        return
    if places is None or max(x.type.elements, math.prod(shape)) > _KNOWN_ELEMENTS or 0 in shape:
        return
    where = np.arange(x.type.elements).reshape(x.type.static_shape)
    try:
        (source,) = node.op.evaluate((where, places), node.attributes)
    except IndexError:
        return  # a mistake of the model, which is reported where it is read
    kept = _broadcast_axes(source, x.type.elements)
    if kept is not None:
        builder = Builder(rewriter, node)
        narrow = builder.reshape(x, [n if keep else 1 for n, keep in zip(shape, kept, strict=True)])
        builder.replace(builder.expand(narrow, shape))


def _broadcast_axes(source: Array, elements: int) -> list[bool] | None:
    """The axes along which flat positions `source` run through 0..elements-1 in order; the others repeat. Else None."""
    kept = [n > 1 and not bool((np.take(source, [0], i) == source).all()) for i, n in enumerate(source.shape)]
    core = source[tuple(slice(None) if keep else slice(0, 1) for keep in kept)]
    if core.size != elements or not np.array_equal(core.reshape(-1), np.arange(elements)):
        return None
    return kept


def _gather_range(node: Node, rewriter: Rewriter, places: Array) -> None:
    """gather at consecutive indices -> slice, reshaped to the shape of the indices"""
    x, axis = operand_at(node, 0), node.attribute("axis")
    assert isinstance(axis, int)
    at = axis % x.type.rank
    flat = np.where(places < 0, places + x.type.static_shape[at], places).reshape(-1)
    if flat.size == 0 or not np.array_equal(flat, np.arange(flat[0], flat[0] + flat.size)):
        return
    builder = Builder(rewriter, node)
    part = builder.slice(x, at, int(flat[0]), int(flat[0]) + flat.size)
    part = builder.reshape(part, node.result.type.static_shape)
    if part is x:
        forward(node, rewriter, x)
        return
    builder.replace(part)


RULES: dict[str, tuple[Rule, ...]] = {
    "squeeze": (as_reshape,),
    "unsqueeze": (as_reshape,),
    "flatten": (as_reshape,),
    "reshape": (reshape,),
    "transpose": (transpose,),
    "expand": (expand,),
    "tile": (tile,),
    "split": (split,),
    "slice": (slice_, slice_of_concat),
    "concat": (concat,),
    "gather": (known_gather,),
    "gather_nd": (known_gather,),
    "gather_elements": (known_gather,),
}
