"""Ops that read or write at positions held in another tensor, by the DMA's gathers and scatters.

Indices lie in the buffer, as many at a time as the rows that they choose fit there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.dma.isa import MAX_DIGITS, Gather, Indexed, Scatter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.movement import contents, index_tensor, whole
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, Tiling, chunk_of, dense_strides, nests, tilings, walk
from pimc.backends.kernels.places import copy_cut, copy_tensor, dense_at, given, operand, place
from pimc.backends.kernels.pointwise import pointwise
from pimc.backends.kernels.registry import kernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Digit, Layout
from pimc.ir.op import Array
from pimc.ir.types import DType

TABLE, INDEX, DENSE = 0, 1, 2
ONE: tuple[Digit, ...] = ((1, 0),)
COMBINE = {"add": "add", "mul": "mul", "max": "max", "min": "min"}


@dataclass
class _Transfer:
    """Rows of a table and a dense tensor of rows, matched by indices.

    The iteration space is (outer dims, index dims, row dims): the table repeats along the index dims, the indices
    repeat along the others or not. `axis` are the digits of the indexed dimension and `extent` its size.
    """

    at: Lowering
    machine: VectorMachine
    table: Tensor
    indices: Tensor
    dense: Tensor
    axis: tuple[Digit, ...]
    extent: int
    combine: str = ""
    """scatters alone: how new and old elements are combined ("": the new ones replace the old)"""
    scatter: bool = False
    arena: Arena | None = None

    def run(self, layouts: tuple[Layout, Layout, Layout], shape: Sequence[int], outer: int, inner: int) -> None:
        """Dims before `outer` are outer ones, those from `inner` on belong to a row."""
        for nest in nests(layouts, shape):
            axes = tuple(replace(a, dim=int(a.dim >= outer) + int(a.dim >= inner)) for a in nest.axes)
            self._nest(nest.around(axes).merged(within_dims=True))

    def _nest(self, nest: Nest) -> None:
        by_dim = [tuple(a for a in nest.axes if a.dim == d) for d in range(3)]
        indexed = by_dim[1]
        looped = (*by_dim[0], *indexed[:-1])
        row = Nest((0, 0, 0), by_dim[2])
        size, index_bytes = self.dense.element_bytes, self.indices.element_bytes
        count = indexed[-1].count if indexed else 1
        arena = self.arena or Arena(self.at, SLOTS * count * (row.elements * size * 2 + index_bytes) + 8 * padded(1))
        mark = arena.mark()
        per_index = SLOTS * (index_bytes + (2 if self.combine else 1) * row.elements * size)
        most = (arena.left - 8 * padded(1)) // per_index
        limit = row.elements if most else max(1, (arena.left - 8 * padded(1)) // (SLOTS * (size * 2 + index_bytes)))
        last = indexed[-1:] or (Axis(1, (0, 0, 0), 1),)
        block = 1 if self.combine else chunk_of(count, max(1, most))
        for tile in tilings(row, limit):
            for cut in _chunks(Nest(nest.starts, (*looped, *last)), block):
                arena.reset(mark)
                self._tiles(arena, cut, tile)
        arena.reset(mark)

    def _tiles(self, arena: Arena, cut: Tiling, row: Tiling) -> None:
        """All index chunks of one size, for row tiles of one size."""
        emit = self.at.emit
        count = cut.elements
        held = [arena.take(count * row.elements * self.dense.element_bytes) for _ in range(SLOTS)]
        kept = [arena.take(count * self.indices.element_bytes) for _ in range(SLOTS)]
        old = arena.take(row.elements * self.dense.element_bytes) if self.combine else 0
        for starts, slot in walk(emit, cut.outer, SLOTS):
            index, stride = self._load_indices(starts[INDEX], cut, kept[slot])
            for moved, turn in walk(emit, row.outer, SLOTS if not cut.outer.axes else 1):
                table, dense = starts[TABLE] + moved[TABLE], starts[DENSE] + moved[DENSE]
                rows = held[turn if not cut.outer.axes else slot]
                self._transfer(cut, row, table, index, stride, dense, rows, old)

    def _load_indices(self, start: Scalar, cut: Tiling, held: int) -> tuple[Scalar, int]:
        strides = [a.strides[INDEX] for a in cut.tile]
        if self.indices.on_chip:
            return start, strides[0] if strides else 0
        counts = [a.count for a in cut.tile]
        near = list(dense_strides(counts, self.indices.element_bytes))
        issue_copy(self.at.emit, ("dram", "buffer"), start, held, self.indices.dtype, counts, strides, near)
        return held, self.indices.element_bytes

    def _transfer(
        self, cut: Tiling, row: Tiling, table: Scalar, index: Scalar, stride: int, dense: Scalar, rows: Scalar, old: int
    ) -> None:
        """One chunk: between the table and dense rows on chip, and between those and their tensor."""
        emit, size = self.at.emit, self.dense.element_bytes
        count = cut.elements
        row_bytes = row.elements * size
        outside = [(a.count, a.strides[DENSE]) for a in (*cut.tile, *row.tile)]
        inside = dense_strides([c for c, _ in outside], size)
        counts, far = [c for c, _ in outside], [s for _, s in outside]
        direct = self.dense.on_chip and self._is_dense(row)
        row_step = (cut.tile[0].strides[DENSE] if cut.tile else 0) if direct else row_bytes
        place_of_rows = dense if direct else rows
        if self.scatter and not direct:
            spaces = (self.dense.space, "buffer")
            issue_copy(emit, spaces, dense, rows, self.dense.dtype, counts, far, inside)
        if self.combine:
            self._command(Gather, row, table, index, stride, 1, old, row_bytes)
            lanes = Lanes(emit, self.machine, None, (row.elements,))
            new, before = (Ref(address, self.dense.dtype, (size,)) for address in (place_of_rows, old))
            lanes(COMBINE[self.combine], before, new, out=before)
            place_of_rows = old
        kind = Scatter if self.scatter else Gather
        self._command(kind, row, table, index, stride, count, place_of_rows, row_step)
        if not self.scatter and not direct:
            spaces = ("buffer", self.dense.space)
            issue_copy(emit, spaces, rows, dense, self.dense.dtype, counts, inside, far)

    def _is_dense(self, row: Tiling) -> bool:
        want = dense_strides([a.count for a in row.tile], self.dense.element_bytes)
        return tuple(a.strides[DENSE] for a in row.tile) == want

    def _command(
        self,
        kind: type[Indexed],
        row: Tiling,
        table: Scalar,
        index: Scalar,
        stride: int,
        count: int,
        rows: Scalar,
        step: int,
    ) -> None:
        digits = [(a.count, a.strides[TABLE]) for a in row.tile]
        if len(digits) > MAX_DIGITS or len(self.axis) > MAX_DIGITS:
            raise fail(Kind.CAPACITY, f"a table with rows of {len(digits)} digits cannot be indexed")
        command = kind(
            space=self.table.space, table=table, dtype=self.table.dtype, axis_counts=tuple(c for c, _ in self.axis),
            axis_strides=tuple(s for _, s in self.axis), row_counts=tuple(c for c, _ in digits) or (1,),
            row_strides=tuple(s for _, s in digits) or (0,), indices=index, index_type=self.indices.dtype,
            index_stride=stride, count=count, rows=rows, row_stride=step, extent=self.extent,
        )  # fmt: skip
        self.at.emit.issue("store" if self.scatter and kind is Scatter else "load", command)


def _chunks(nest: Nest, size: int) -> list[Tiling]:
    """The last axis in chunks of `size`; the others loop."""
    axis = nest.axes[-1]
    whole, rest = divmod(axis.count, size)
    turns = replace(axis, count=whole, strides=tuple(s * size for s in axis.strides))
    outer = nest.axes[:-1]
    found = [Tiling(nest.around((*outer, turns) if whole > 1 else outer), (axis.cut_to(size),))]
    if rest:
        moved = nest.moved([s * whole * size for s in axis.strides])
        found.append(Tiling(moved.around(outer), (axis.cut_to(rest),)))
    return found


def _without(layout: Layout, axis: int, instead: int = 0) -> Layout:
    """The layout with one dimension replaced by `instead` dimensions of 1."""
    return Layout(layout.offset, (*layout.dims[:axis], *(ONE,) * instead, *layout.dims[axis + 1 :]))


@kernel("gather")
def lower_gather(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Rows of the table, or parts of rows where another axis than the first is indexed."""
    table, indices, out = place(at, given(node, 0)), place(at, given(node, 1)), place(at, node.result)
    shape = given(node, 0).type.static_shape
    axis = _axis(node, len(shape))
    picks = given(node, 1).type.rank
    spread = _without(table.layout, axis, picks)
    index = Layout(indices.layout.offset, ((ONE,) * axis) + indices.layout.dims + (ONE,) * (len(shape) - axis - 1))
    transfer = _Transfer(at, machine, table, indices, out, table.layout.dims[axis], shape[axis])
    transfer.run((spread, index, out.layout), node.result.type.static_shape, axis, axis + picks)


@kernel("gather_elements", "scatter_elements")
def lower_elements(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Element by element along the axis, line by line along the others."""
    scatter = node.op.name == "scatter_elements"
    shape = given(node, 0).type.static_shape
    axis = _axis(node, len(shape))
    indices = place(at, given(node, 1))
    dense = place(at, given(node, 2)) if scatter else place(at, node.result)
    table = place(at, node.result) if scatter else place(at, given(node, 0))
    if scatter:
        copy_tensor(at, place(at, given(node, 0)), table, shape)
    order = [*(i for i in range(len(shape)) if i != axis), axis]
    extents = tuple(given(node, 1).type.static_shape[i] for i in order)
    spread = Layout(table.layout.offset, tuple(ONE if i == axis else table.layout.dims[i] for i in order))
    for i, extent in enumerate(extents[:-1]):  # the table may be larger along the other axes
        spread = spread.sliced(i, 0, extent) or spread
    transfer = _Transfer(
        at, machine, table, indices, dense, table.layout.dims[axis], shape[axis], _combined(node), scatter
    )
    layouts = (spread, indices.layout.permuted(order), dense.layout.permuted(order))
    transfer.run(layouts, extents, len(shape) - 1, len(shape))


@kernel("cache_append")
def lower_cache_append(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Only the new elements move where the result grows in the cache's own memory."""
    past, new, positions = given(node, 0), given(node, 1), operand(node, 2)
    axis = _axis(node, past.type.rank)
    old, added = past.type.static_shape, new.type.static_shape
    target = at.tensor(node.result)
    if at.tensor(past) != target:
        copy_cut(at, at.tensor(past), target, whole(old), whole(old))
    if 0 in added:
        return
    start = old[axis] if positions is None else _common_start(positions.type.array)
    if positions is not None and start is None:
        _append_rows(node, at, machine, positions)
        return
    to = whole(added)
    to[axis] = (start or 0, added[axis], 1)
    copy_cut(at, place(at, new), target, whole(added), to)


def _common_start(positions: Array | None) -> int | None:
    """The position from which on all requests get their new elements; None where they differ or are not known."""
    if positions is None or np.any(positions != positions[0, 0] + np.arange(positions.shape[1])):
        return None
    return int(positions[0, 0])


def _append_rows(node: Node, at: Lowering, machine: VectorMachine, positions: Value) -> None:
    """New rows of a cache [B, KV, T, D] at positions [B, S] that differ.

    Requests and positions are one index, so that the rows of all requests are on their way at once.
    """
    new, table = place(at, given(node, 1)), at.tensor(node.result)
    batch, heads, steps, depth = given(node, 1).type.static_shape
    requests, kept, tokens, row = table.layout.dims
    room = prod(count for count, _ in tokens)
    arena = Arena(at)
    ramp = index_tensor(at, machine, arena, batch)
    ramp = replace(ramp, layout=Layout(ramp.layout.offset, (*ramp.layout.dims, ONE)))
    held = dense_at(arena.take(batch * steps * ramp.element_bytes), ramp, (batch, steps))

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        position, request = sources
        v("add", position, v("mul", request, float(room), dtype=held.dtype), out=out)

    pointwise(at, machine, [place(at, positions), ramp], held, (batch, steps), write, arena)
    index = Layout(held.layout.offset, (ONE, *held.layout.dims, ONE))
    spread = Layout(table.layout.offset, (kept, ONE, ONE, row))
    transfer = _Transfer(at, machine, table, held, new, (*requests, *tokens), batch * room, scatter=True, arena=arena)
    transfer.run((spread, index, new.layout.permuted((1, 0, 2, 3))), (heads, batch, steps, depth), 1, 3)


@kernel("cache_write")
def lower_cache_write(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Only the new rows move where the result is the cache's own memory."""
    past, table = given(node, 0), at.tensor(node.result)
    if at.tensor(past) != table:
        copy_tensor(at, at.tensor(past), table, past.type.static_shape)
    if 0 not in given(node, 1).type.static_shape:
        _write_rows(node, at, machine, given(node, 2))


def _write_rows(node: Node, at: Lowering, machine: VectorMachine, positions: Value) -> None:
    """New rows of a cache [B, KV, T, D] at positions [S] or [B, S]."""
    new, table, indices = place(at, given(node, 1)), at.tensor(node.result), place(at, positions)
    spread = _without(table.layout, 2, 1)
    picks = (ONE, *indices.layout.dims)[-2:]
    index = Layout(indices.layout.offset, (picks[0], ONE, picks[1], ONE))
    extent = node.result.type.static_shape[2]
    transfer = _Transfer(at, machine, table, indices, new, table.layout.dims[2], extent, scatter=True)
    transfer.run((spread, index, new.layout), given(node, 1).type.static_shape, 2, 3)


@kernel("tensor_scatter")
def lower_tensor_scatter(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Rows at positions that the vector unit counts from each request's own."""
    past, new = given(node, 0), place(at, given(node, 1))
    shape, table = given(node, 1).type.static_shape, place(at, node.result)
    copy_tensor(at, place(at, past), table, past.type.static_shape)
    if 0 in shape:
        return
    axis = _axis(node, len(shape))
    extent = past.type.static_shape[axis]
    arena = Arena(at)
    places = index_tensor(at, machine, arena, shape[axis])
    requests, steps = ONE, places.layout.dims[0]
    starts = operand(node, 2)
    if starts is not None:
        held = dense_at(arena.take(shape[0] * shape[axis] * places.element_bytes), places, (shape[0], shape[axis]))
        first = place(at, starts)
        first = replace(first, layout=Layout(first.layout.offset, (*first.layout.dims, ONE)))

        def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
            if node.attribute("mode") == "circular":
                v("mod", v("add", *sources, dtype=DType.I64), float(extent), out=out)
            else:
                v("add", *sources, out=out)

        pointwise(at, machine, [first, places], held, (shape[0], shape[axis]), write, arena)
        places, (requests, steps) = held, held.layout.dims
    spread = _without(table.layout, axis, 1)
    behind = (ONE,) * (len(shape) - axis - 1)
    index = Layout(places.layout.offset, (requests, *(ONE,) * (axis - 1), steps, *behind))
    digits = table.layout.dims[axis]
    transfer = _Transfer(at, machine, table, places, new, digits, extent, scatter=True, arena=arena)
    transfer.run((spread, index, new.layout), shape, axis, axis + 1)


def _combined(node: Node) -> str:
    reduction = str(node.attribute("reduction")) if "reduction" in node.op.attributes else "none"
    return "" if reduction == "none" else reduction


@kernel("gather_nd", "scatter_nd")
def lower_nd(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Index vectors become single indices on the vector unit; the indexed dimensions count as one."""
    scatter = node.op.name == "scatter_nd"
    shape, index_shape = given(node, 0).type.static_shape, given(node, 1).type.static_shape
    lead = 0 if scatter else int(str(node.attribute("batch_dims")))
    depth = index_shape[-1]
    dense = place(at, given(node, 2)) if scatter else place(at, node.result)
    table = place(at, node.result) if scatter else place(at, given(node, 0))
    if scatter:
        copy_tensor(at, place(at, given(node, 0)), table, shape)
    if 0 in (*index_shape[:-1], *shape):
        return
    indexed = table.layout.dims[lead : lead + depth]
    strides = [prod(c for digits in indexed[i + 1 :] for c, _ in digits) for i in range(depth)]
    arena = Arena(at)
    flat = _linear(at, machine, arena, place(at, given(node, 1)), index_shape, shape[lead : lead + depth], strides)
    picks = len(index_shape) - 1 - lead
    rest = len(shape) - lead - depth
    dims = table.layout.dims
    spread = Layout(table.layout.offset, (*dims[:lead], *(ONE,) * picks, *dims[lead + depth :]))
    index = Layout(flat.layout.offset, (*flat.layout.dims, *(ONE,) * rest))
    axis = tuple(d for digits in indexed for d in digits) or ONE
    whole = (*index_shape[:-1], *shape[lead + depth :])
    extent = prod(c for c, _ in axis)
    transfer = _Transfer(at, machine, table, flat, dense, axis, extent, _combined(node), scatter, arena)
    transfer.run((spread, index, dense.layout), whole, lead, lead + picks)


def _linear(
    at: Lowering,
    machine: VectorMachine,
    arena: Arena,
    indices: Tensor,
    shape: Sequence[int],
    extents: Sequence[int],
    strides: Sequence[int],
) -> Tensor:
    """The sum over coordinates of index * stride, negative indices counted from the end; dense in the buffer.

    Where a coordinate is out of range, the sum is too: then index - wrapped is neither 0 nor -extent, and
    (index - wrapped) * (index - wrapped + extent) is positive.
    """
    counts = shape[:-1]
    size = DType.I64.bits // 8
    target = dense_at(arena.take(max(1, prod(counts)) * size), Tensor("buffer", Layout(0, ()), DType.I64), counts)

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        if len(sources) == 1:  # the transfer counts negative indices from the end itself
            v("copy", sources[0], out=out)
            return
        v("copy", 0.0, out=out)
        for source, extent, stride in zip(sources, extents, strides, strict=True):
            t = v("mod", source, float(extent), dtype=DType.I64)
            v("mul_add", t, float(stride), out, out=out)
            off = v("sub", source, t, dtype=DType.I64)
            beyond = v("mul", off, v("add", off, float(extent), dtype=DType.I64), dtype=DType.I64)
            v("mul_add", beyond, float(prod(extents)), out, out=out)

    coordinates: list[Tensor | float] = []
    for i in range(shape[-1]):
        layout = indices.layout.sliced(len(counts), i, i + 1)
        assert layout is not None
        coordinates.append(replace(indices, layout=Layout(layout.offset, layout.dims[:-1])))
    pointwise(at, machine, coordinates, target, counts, write, arena)
    return target


@kernel("one_hot")
def lower_one_hot(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Compare each index with the numbers of the new axis."""
    shape = node.result.type.static_shape
    axis = _axis(node, len(shape))
    depth = shape[axis]
    arena = Arena(at)
    numbers = index_tensor(at, machine, arena, depth)
    behind = (ONE,) * (len(shape) - axis - 1)
    numbers = replace(numbers, layout=Layout(numbers.layout.offset, (*numbers.layout.dims, *behind)))
    indices = place(at, given(node, 0))
    dims = indices.layout.dims
    indices = replace(indices, layout=Layout(indices.layout.offset, (*dims[:axis], ONE, *dims[axis:])))
    known = contents(node, 2) if given(node, 2).type.array is not None else None
    values: list[Tensor | float] = []
    for i in range(2):
        if known is not None:
            values.append(float(np.asarray(known).reshape(-1)[i]))
        else:
            layout = place(at, given(node, 2)).layout.sliced(0, i, i + 1)
            assert layout is not None
            values.append(replace(place(at, given(node, 2)), layout=layout))

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        index, number, off, on = sources
        negative = v("less", index, 0.0, dtype=DType.BOOL)
        wrapped = v("select", negative, v("add", index, float(depth), dtype=DType.I64), index, dtype=DType.I64)
        hot = v("equal", wrapped, number, dtype=DType.BOOL)
        v("select", hot, on, off, out=out)

    pointwise(at, machine, [indices, numbers, *values], place(at, node.result), shape, write, arena)


def _axis(node: Node, rank: int) -> int:
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    return axis % rank
