"""Canonical forms of chains of data movement: slices stand before transpositions, known scatters are concatenations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.op import Array
from pimc.passes.building import Builder, operand_at
from pimc.passes.canonical_arith import forward
from pimc.passes.match import contents_of, ints_of, operand

Rule = Callable[[Node, Rewriter], None]


def slice_of_transpose(node: Node, rewriter: Rewriter) -> None:
    """slice(transpose(x)) -> transpose(slice(x))

    What is not read is not transposed, and slices of a packed tensor meet, however an exporter turned it.
    """
    x, axes = operand_at(node, 0), ints_of(operand(node, 3))
    turn = x.owner
    if turn is None or turn.op.name != "transpose" or axes is None or any(v is None for v in node.operands):
        return
    perm = turn.attribute("perm")
    if not isinstance(perm, tuple) or not perm:
        return
    builder = Builder(rewriter, node)
    operands: list[Value | None] = list(node.operands)
    order = sorted(range(len(axes)), key=lambda i: int(perm[axes[i]]))
    for at in range(1, len(operands)):
        numbers = ints_of(operands[at])
        if numbers is None:
            return
        moved = [int(perm[axes[i]]) if at == 3 else numbers[i] for i in order]
        operands[at] = builder.ints(moved, "bounds")
    part = builder.call("slice", operand_at(turn, 0), *operands[1:])
    builder.replace(builder.call("transpose", part, perm=perm))


def slice_across_concat(node: Node, rewriter: Rewriter) -> None:
    """slice(concat(x, y, z)) of exactly y and z -> concat(y, z)"""
    x, axes = operand_at(node, 0), ints_of(operand(node, 3))
    source, starts, ends = x.owner, ints_of(operand(node, 1)), ints_of(operand(node, 2))
    if source is None or source.op.name != "concat" or starts is None or ends is None or len(node.operands) > 4:
        return
    axis = source.attribute("axis")
    if axes is None or axes != [axis] or not isinstance(axis, int):
        return
    place, kept = 0, []
    for piece in source.inputs():
        extent = piece.type.static_shape[axis]
        if starts[0] <= place and place + extent <= ends[0]:
            kept.append(piece)
        elif place < ends[0] and starts[0] < place + extent:
            return
        place += extent
    if len(kept) > 1:
        builder = Builder(rewriter, node)
        builder.replace(builder.call("concat", *kept, axis=axis))


def transposed_concat(node: Node, rewriter: Rewriter) -> None:
    """transpose(concat(transpose(x), transpose(y))) -> concat(x, y), where the transpositions cancel or join"""
    source, perm = operand_at(node, 0).owner, node.attribute("perm")
    if source is None or source.op.name != "concat" or not isinstance(perm, tuple) or not perm:
        return
    pieces, axis = list(source.inputs()), source.attribute("axis")
    turned = [v.owner is not None and v.owner.op.name == "transpose" for v in pieces]
    if not all(turned) or not isinstance(axis, int) or rewriter.graph.use_count(source.result) > 1:
        return
    builder = Builder(rewriter, node)
    order = [int(p) for p in perm]
    pieces = [builder.transpose(v, *order) for v in pieces]
    builder.replace(builder.call("concat", *pieces, axis=order.index(axis % len(order))))


def known_scatter(node: Node, rewriter: Rewriter) -> None:
    """scatter_nd(x, all places of a range of one axis, y) -> concat(slice(x), y, slice(x))"""
    x, updates = operand_at(node, 0), operand_at(node, 2)
    places = contents_of(operand_at(node, 1))
    if places is None or node.attribute("reduction") != "none" or x.role in (Role.INPUT, Role.CACHE):
        return
    box = _box(places, x.type.static_shape)
    if box is None:
        return
    shape = x.type.static_shape
    cut = [i for i, (start, stop) in enumerate(box) if (start, stop) != (0, shape[i])]
    if len(cut) > 1:
        return
    builder = Builder(rewriter, node)
    written = tuple(stop - start for start, stop in box)
    new = builder.reshape(updates, (*written, *shape[len(box) :]))
    if not cut:
        forward(node, rewriter, new)
        return
    axis = cut[0]
    start, stop = box[axis]
    bounds = [(0, start, x), (stop, shape[axis], x)]
    before, behind = (builder.slice(v, axis, low, high) if low < high else None for low, high, v in bounds)
    builder.replace(builder.call("concat", *(v for v in (before, new, behind) if v is not None), axis=axis))


def _box(places: Array, shape: Sequence[int]) -> list[tuple[int, int]] | None:
    """The ranges along the leading axes whose places index vectors [.., depth] enumerate in order; None: no such."""
    depth = places.shape[-1]
    extents = np.asarray(shape[:depth], places.dtype)
    flat = np.where(places < 0, places + extents, places).reshape(-1, depth)
    if not len(flat):
        return None
    low, high = flat.min(axis=0), flat.max(axis=0) + 1
    sizes = high - low
    if int(np.prod(sizes)) != len(flat):
        return None
    grid = np.stack(np.unravel_index(np.arange(len(flat)), tuple(int(n) for n in sizes)), axis=-1)
    if not np.array_equal(flat, grid + low):
        return None
    return [(int(a), int(b)) for a, b in zip(low, high, strict=True)]


def known_gather_nd(node: Node, rewriter: Rewriter) -> None:
    """gather_nd(x, [[3], [4]]) -> slice(x, 3, 5)"""
    x, indices = operand_at(node, 0), operand_at(node, 1)
    places = contents_of(indices)
    if places is None or node.attribute("batch_dims") or places.shape[-1] != 1:
        return
    box = _box(places, x.type.static_shape)
    if box is None:
        return
    builder = Builder(rewriter, node)
    part = builder.reshape(builder.slice(x, 0, *box[0]), node.result.type.static_shape)
    if part is x:
        forward(node, rewriter, x)
        return
    builder.replace(part)


RULES: dict[str, tuple[Rule, ...]] = {
    "slice": (slice_of_transpose, slice_across_concat),
    "transpose": (transposed_concat,),
    "scatter_nd": (known_scatter,),
    "gather_nd": (known_gather_nd,),
}
