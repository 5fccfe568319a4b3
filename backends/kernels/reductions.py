"""Reductions along axes, positions of extremes, running sums and the k largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref, VectorMachine
from pimc.backends.kernels.movement import contents, fill
from pimc.backends.kernels.normalization import axes_last
from pimc.backends.kernels.places import copy_tensor, dense_at, given, place
from pimc.backends.kernels.registry import kernel
from pimc.backends.kernels.rows import Block, Chunk, RowKernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout
from pimc.ir.ops.reduction import highest, lowest
from pimc.ir.types import DType

FUNCTIONS = {
    "reduce_sum": "sum", "reduce_mean": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "reduce_sum_square": "sum", "reduce_l1": "sum", "reduce_l2": "sum",
}  # fmt: skip


def _per_row(result: Tensor, axes: Sequence[int], rank: int, kept: bool, extents: Sequence[int]) -> Tensor:
    """A result without the reduced axes, seen as repeated along them behind all others."""
    dims = list(result.layout.dims)
    rows = [d for i, d in enumerate(dims) if i not in axes] if kept else dims
    columns: list[tuple[Digit, ...]] = [((n, 0),) for n in extents]
    return replace(result, layout=Layout(result.layout.offset, (*rows, *columns)))


def _work(dtype: DType) -> DType:
    return DType.F32 if dtype.is_float else DType.I64


@kernel(*FUNCTIONS)
def lower_reduce(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Map each element if need be, reduce, and finish each value."""
    shape = given(node, 0).type.static_shape
    given_axes = contents(node, 1)
    listed = [int(a) % len(shape) for a in given_axes.reshape(-1)] if given_axes is not None else []
    if not listed and node.attribute("noop_with_empty_axes"):
        copy_tensor(at, place(at, given(node, 0)), place(at, node.result), shape)
        return
    axes = sorted(listed or range(len(shape)))
    extents = [shape[i] for i in axes]
    rows = [n for i, n in enumerate(shape) if i not in axes]
    x = axes_last(place(at, given(node, 0)), axes)
    if 0 in extents:
        fill(at, machine, place(at, node.result), node.result.type.static_shape, _of_nothing(node))
        return
    out = _per_row(place(at, node.result), axes, len(shape), bool(node.attribute("keepdims")), extents)
    name, work = node.op.name, _work(x.dtype)

    def mapped(c: Chunk) -> Ref:
        loaded = c.load(0)
        if name in ("reduce_sum_square", "reduce_l2"):
            return c.lanes("mul", loaded, loaded, dtype=work)
        return c.lanes("abs", loaded, dtype=work) if name == "reduce_l1" else loaded

    def body(b: Block) -> None:
        total = b.start(FUNCTIONS[name], work)
        for c in b.chunks():
            b.gather(FUNCTIONS[name], c, mapped(c), total)
        result = b.result(1)
        if name == "reduce_mean":
            function, number = ("mul", 1 / prod(extents)) if work.is_float else ("div", float(prod(extents)))
            b.rows(function, total, number, out=result)
        else:
            b.rows("sqrt" if name == "reduce_l2" else "copy", total, out=result)
        b.finish(1, result)

    grids = work.bits // DType.F32.bits
    RowKernel(at, machine, [x, out], (*rows, *extents), len(rows), grids=grids).run(body)


def _of_nothing(node: Node) -> float:
    """What a reduction of no elements gives."""
    dtype = node.result.type.dtype
    match node.op.name:
        case "reduce_max" | "reduce_min" as name:
            return float((lowest if name == "reduce_max" else highest)(dtype.numpy))
        case name:
            return 1.0 if name == "reduce_prod" else 0.0


def _axis_of(node: Node) -> int:
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    return axis % given(node, 0).type.rank


@kernel("arg_max", "arg_min")
def lower_arg(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """The best of each chunk against the best so far, value and position."""
    shape, axis = given(node, 0).type.static_shape, _axis_of(node)
    x = axes_last(place(at, given(node, 0)), [axis])
    out = _per_row(place(at, node.result), [axis], len(shape), bool(node.attribute("keepdims")), [shape[axis]])
    last = bool(node.attribute("select_last_index"))
    largest = node.op.name == "arg_max"
    function = "max" if largest else "min"

    def found(c: Chunk, b: Block) -> Ref:
        grid, to = c.load(0), b.rows.temp(DType.I64)
        if not last:
            return c.lanes.reduce(f"arg_{function}", grid, to)
        end = replace(grid, address=grid.address + (c.columns - 1) * grid.strides[-1],
                      strides=(*grid.strides[:-1], -grid.strides[-1]))  # fmt: skip
        c.lanes.reduce(f"arg_{function}", end, to)
        return b.rows("sub", c.columns - 1, to, out=to)

    def body(b: Block) -> None:
        if b.single:
            (whole,) = b.chunks()
            index = found(whole, b)
        else:
            best, index = b.start(function, _work(x.dtype)), b.rows("copy", 0.0, dtype=DType.I64)
            base = b.rows("copy", 0.0, dtype=DType.I64)
            for c in b.chunks():
                value = c.lanes.reduce(function, c.load(0), b.rows.temp(best.dtype))
                position = found(c, b)
                b.rows("add", position, base, out=position)
                pair = (best, value) if largest else (value, best)
                better = b.rows("less_or_equal" if last else "less", *pair, dtype=DType.BOOL)
                b.rows("select", better, position, index, out=index)
                b.rows(function, best, value, out=best)
                b.rows("add", base, float(c.columns), out=base)
        result = b.result(1)
        b.rows("copy", index, out=result)
        b.finish(1, result)

    permuted = (*(n for i, n in enumerate(shape) if i != axis), shape[axis])
    RowKernel(at, machine, [x, out], permuted, len(shape) - 1, grids=0).run(body)


@kernel("cum_sum")
def lower_cum_sum(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Running sums of a chunk, plus what earlier chunks add up to."""
    shape = given(node, 0).type.static_shape
    where = contents(node, 1)
    assert where is not None
    axis = int(np.asarray(where).reshape(-1)[0]) % len(shape)
    x, out = (axes_last(place(at, v), [axis]) for v in (given(node, 0), node.result))
    if node.attribute("reverse"):
        x, out = (replace(t, layout=_backwards(t.layout)) for t in (x, out))
    work, exclusive = _work(x.dtype), bool(node.attribute("exclusive"))

    def body(b: Block) -> None:
        carry = None if b.single else b.rows("copy", 0.0, dtype=work)
        for c in b.chunks():
            loaded, lanes = c.load(0), c.lanes
            sums = lanes.scan(loaded, lanes.temp(work))
            if carry is not None:
                lanes("add", sums, carry.spread(behind=1), out=sums)
                end = sums.address + (c.columns - 1) * sums.strides[-1]
                b.rows("copy", Ref(end, work, sums.strides[:-1]), out=carry)
            if exclusive:
                lanes("sub", sums, loaded, out=c.out(1))
            else:
                lanes("copy", sums, out=c.out(1))
            c.store(1)

    permuted = (*(n for i, n in enumerate(shape) if i != axis), shape[axis])
    grids = work.bits // DType.F32.bits
    RowKernel(at, machine, [x, out], permuted, len(shape) - 1, grids=grids).run(body)


def _backwards(layout: Layout) -> Layout:
    """The last dimension from its end: every digit counts down."""
    offset = layout.offset + sum((count - 1) * stride for count, stride in layout.dims[-1])
    return Layout(offset, (*layout.dims[:-1], tuple((count, -stride) for count, stride in layout.dims[-1])))


@kernel("top_k")
def lower_top_k(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """k times: the extreme of each row and its position, which is then taken out of the row."""
    shape, axis = given(node, 0).type.static_shape, _axis_of(node)
    count = node.result.type.static_shape[axis]
    x = axes_last(place(at, given(node, 0)), [axis])
    outs = [axes_last(place(at, r), [axis]) for r in node.results]
    columns = shape[axis]
    rows = [n for i, n in enumerate(shape) if i != axis]
    if any(len(out.layout.dims[-1]) > 1 for out in outs):
        raise fail(Kind.CAPACITY, "top_k cannot write a result whose selected axis lies in several digits")
    spread = [replace(o, layout=Layout(o.layout.offset, (*o.layout.dims[:-1], ((columns, 0),)))) for o in outs]
    steps = [o.layout.dims[-1][0][1] for o in outs]
    arena = Arena(at)
    whole = x.layout.sliced(len(rows), 0, columns)
    if whole is None or len(whole.dims[-1]) > 1:
        held = dense_at(arena.take(prod(shape) * x.element_bytes), x, (*rows, columns))
        copy_tensor(at, x, held, (*rows, columns))
        x = held
    function = "max" if node.attribute("largest") else "min"
    worst = -float("inf") if function == "max" else float("inf")

    def body(b: Block) -> None:
        if not b.single:
            raise fail(Kind.CAPACITY, f"top_k of {columns} elements does not fit on chip", node.source)
        (c,) = b.chunks()
        left = c.lanes("copy", c.load(0))
        lanes, size = c.lanes, DType.I64.bits // 8
        row = Ref(b.rows.take(columns * size), DType.I64, (size,))
        Lanes(at.emit, machine, None, (columns,))("index", 0.0, out=row)
        numbers = row.spread(before=len(b.blocks.row_counts))
        with at.emit.loop(count) as turn:
            best = [b.result(i, turn * step) for i, step in ((1, steps[0]), (2, steps[1]))]
            lanes.reduce(function, left, best[0])
            lanes.reduce(f"arg_{function}", left, best[1])
            taken = lanes("equal", numbers, best[1].spread(behind=1), dtype=DType.BOOL)
            lanes("select", taken, worst, left, out=left)
            for i in (1, 2):
                b.finish(i, best[i - 1], turn * steps[i - 1])

    RowKernel(at, machine, [x, *spread], (*rows, columns), len(rows), grids=3, arena=arena, results=2).run(body)
