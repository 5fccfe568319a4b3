"""Ops that move elements: copies between places, or nothing where the result is already a view of its operand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.nest import Nest, nests, tilings, walk
from pimc.backends.kernels.places import copy_cut, copy_nest, copy_tensor, given, operand, place, reshape_tensor
from pimc.backends.kernels.pointwise import pointwise
from pimc.backends.kernels.registry import kernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.ir.op import Array
from pimc.ir.types import DType

Range = tuple[int, int, int]
"""start, count and step of a dimension"""


def whole(shape: Sequence[int]) -> list[Range]:
    return [(0, extent, 1) for extent in shape]


def contents(node: Node, index: int) -> Array | None:
    """The contents of an operand that the op's result depends on; None where it is left out."""
    value = operand(node, index)
    if value is None:
        return None
    assert value.type.array is not None
    return value.type.array


@kernel("identity", "reshape", "flatten", "squeeze", "unsqueeze")
def lower_reshape(node: Node, at: Lowering, machine: VectorMachine) -> None:
    old, new = given(node, 0).type.static_shape, node.result.type.static_shape
    reshape_tensor(at, place(at, given(node, 0)), place(at, node.result), old, new)


HELD_BYTES = 1 << 20
"""A weight that is to stay on chip comes in pieces of at most so many, so that others have turns on the bus."""


@kernel("hold")
def lower_hold(node: Node, at: Lowering, machine: VectorMachine) -> None:
    source, target = place(at, given(node, 0)), place(at, node.result)
    for nest in nests([source.layout, target.layout], node.result.type.static_shape):
        for tiling in tilings(nest.merged(), HELD_BYTES // source.element_bytes):
            for starts, _ in walk(at.emit, tiling.outer):
                copy_nest(at, source, target, Nest(starts, tiling.tile))


@kernel("transpose")
def lower_transpose(node: Node, at: Lowering, machine: VectorMachine) -> None:
    source = place(at, given(node, 0))
    perm = node.attribute("perm")
    order = [int(i) for i in perm] if isinstance(perm, tuple) and perm else range(len(source.shape))[::-1]
    turned = replace(source, layout=source.layout.permuted(order))
    copy_tensor(at, turned, place(at, node.result), node.result.type.static_shape)


@kernel("expand")
def lower_expand(node: Node, at: Lowering, machine: VectorMachine) -> None:
    copy_tensor(at, place(at, given(node, 0)), place(at, node.result), node.result.type.static_shape)


@kernel("concat")
def lower_concat(node: Node, at: Lowering, machine: VectorMachine) -> None:
    target, start = place(at, node.result), 0
    axis = _axis(node, "axis", node.result.type.rank)
    for value in node.inputs():
        shape = value.type.static_shape
        to = whole(shape)
        to[axis] = (start, shape[axis], 1)
        copy_cut(at, place(at, value), target, whole(shape), to)
        start += shape[axis]


@kernel("split")
def lower_split(node: Node, at: Lowering, machine: VectorMachine) -> None:
    source, start = place(at, given(node, 0)), 0
    axis = _axis(node, "axis", given(node, 0).type.rank)
    for result in node.results:
        shape = result.type.static_shape
        read = whole(shape)
        read[axis] = (start, shape[axis], 1)
        copy_cut(at, source, place(at, result), read, whole(shape))
        start += shape[axis]


@kernel("slice")
def lower_slice(node: Node, at: Lowering, machine: VectorMachine) -> None:
    shape, extents = node.result.type.static_shape, given(node, 0).type.static_shape
    starts, axes, steps = contents(node, 1), contents(node, 3), contents(node, 4)
    assert starts is not None
    read = whole(shape)
    for i, start in enumerate(int(s) for s in starts.reshape(-1)):
        axis = int(axes.reshape(-1)[i]) % len(shape) if axes is not None else i
        step = int(steps.reshape(-1)[i]) if steps is not None else 1
        first = start + extents[axis] if start < 0 else start
        read[axis] = (min(max(first, 0), extents[axis] if step > 0 else extents[axis] - 1), shape[axis], step)
    if 0 not in shape:
        copy_cut(at, place(at, given(node, 0)), place(at, node.result), read, whole(shape))


@kernel("tile")
def lower_tile(node: Node, at: Lowering, machine: VectorMachine) -> None:
    source, target = place(at, given(node, 0)), place(at, node.result)
    shape, total = given(node, 0).type.static_shape, node.result.type.static_shape
    if 0 in total:
        return
    repeats = [t // n for t, n in zip(total, shape, strict=True)]
    split = [n for pair in zip(repeats, shape, strict=True) for n in pair]
    apart = target.layout.reshaped(split) if target.layout.shape == total else None
    if apart is not None:
        dims = [d for pair in ((((1, 0),), dim) for dim in source.layout.dims) for d in pair]
        spread = replace(source, layout=Layout(source.layout.offset, tuple(dims)))
        copy_tensor(at, spread, replace(target, layout=apart), apart.shape)
        return
    for turn in product(*(range(r) for r in repeats)):
        copy_cut(at, source, target, whole(shape), [(t * n, n, 1) for t, n in zip(turn, shape, strict=True)])


def fill(at: Lowering, machine: VectorMachine, target: Tensor, shape: Sequence[int], value: float | Tensor) -> None:
    """Set every element to one value."""
    pointwise(at, machine, [value], target, shape, _copy)


def _copy(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
    v("copy", sources[0], out=out)


@kernel("constant_of_shape")
def lower_constant_of_shape(node: Node, at: Lowering, machine: VectorMachine) -> None:
    value = node.attribute("value")
    assert isinstance(value, int | float)
    fill(at, machine, place(at, node.result), node.result.type.static_shape, float(value))


@kernel("pad")
def lower_pad(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """The operand first; then the borders, axis by axis, each over all that earlier axes have filled."""
    source, target = place(at, given(node, 0)), place(at, node.result)
    shape, total = given(node, 0).type.static_shape, node.result.type.static_shape
    widths = _pad_widths(node, len(shape))
    mode = node.attribute("mode")
    if 0 in total:
        return
    if mode == "constant" and any(w > 0 for pair in widths for w in pair):
        value = operand(node, 2)
        fill(at, machine, target, total, 0.0 if value is None else place(at, value))
    kept = [n + min(0, low) + min(0, high) for n, (low, high) in zip(shape, widths, strict=True)]
    if 0 in kept:
        return
    read = [(max(0, -low), n, 1) for n, (low, _) in zip(kept, widths, strict=True)]
    inside = [(max(0, low), n, 1) for n, (low, _) in zip(kept, widths, strict=True)]
    copy_cut(at, source, target, read, inside)
    if mode != "constant":
        for axis in range(len(shape)):
            _borders(at, target, inside, axis, total[axis], str(mode))
            inside[axis] = (0, total[axis], 1)


def _borders(at: Lowering, target: Tensor, inside: list[Range], axis: int, total: int, mode: str) -> None:
    """Fill what lies before and behind the inner range of one axis, element layer by element layer."""
    start, count, _ = inside[axis]
    for position in [*range(start - 1, -1, -1), *range(start + count, total)]:
        before = position < start
        if mode == "edge":
            origin = start if before else start + count - 1
        elif mode == "wrap":
            origin = position + count if before else position - count
        else:
            origin = 2 * start - position if before else 2 * (start + count - 1) - position
        read, written = list(inside), list(inside)
        read[axis], written[axis] = (origin, 1, 1), (position, 1, 1)
        copy_cut(at, target, target, read, written)


def _pad_widths(node: Node, rank: int) -> list[tuple[int, int]]:
    pads, axes = contents(node, 1), contents(node, 3)
    assert pads is not None
    flat = [int(p) for p in pads.reshape(-1)]
    chosen = [int(a) % rank for a in axes.reshape(-1)] if axes is not None else list(range(rank))
    widths = [(0, 0)] * rank
    for i, axis in enumerate(chosen):
        widths[axis] = (flat[i], flat[i + len(chosen)])
    return widths


def index_tensor(at: Lowering, machine: VectorMachine, arena: Arena, count: int, start: float = 0) -> Tensor:
    """The numbers start, start + 1, ... as i32 in the buffer."""
    dtype = DType.I32
    address = arena.take(count * dtype.bits // 8)
    lanes = Lanes(at.emit, machine, arena, (count,))
    lanes("index", start, out=Ref(address, dtype, (dtype.bits // 8,)))
    return Tensor("buffer", Layout.dense((count,), dtype.bits // 8, address), dtype)


@kernel("trilu")
def lower_trilu(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Keep elements by comparing the numbers of row and column."""
    shape = node.result.type.static_shape
    if 0 in shape:
        return
    diagonal = contents(node, 1)
    k = 0 if diagonal is None else int(np.asarray(diagonal).reshape(-1)[0])
    rows, columns = shape[-2:]
    arena = Arena(at)
    by_row = index_tensor(at, machine, arena, rows, k)
    by_column = index_tensor(at, machine, arena, columns)
    by_row = replace(by_row, layout=Layout(by_row.layout.offset, (*by_row.layout.dims, ((1, 0),))))
    upper = bool(node.attribute("upper"))

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        x, row, column = sources
        v("keep", x, *((row, column) if upper else (column, row)), 0.0, out=out)

    sources = [place(at, given(node, 0)), by_row, by_column]
    pointwise(at, machine, sources, place(at, node.result), shape, write, arena)


def _axis(node: Node, name: str, rank: int) -> int:
    axis = node.attribute(name)
    assert isinstance(axis, int)
    return axis % rank
