"""Softmax, layer norm and RMS norm, with intermediate results in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.places import given, operand, place
from pimc.backends.kernels.pointwise import Recipe
from pimc.backends.kernels.registry import kernel
from pimc.backends.kernels.rows import Block, Chunk, Columns, RowKernel, Rows, Whole
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.record import record


def axes_last(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """The same tensor with some dimensions moved behind the others."""
    rank = len(tensor.shape)
    order = [i for i in range(rank) if i not in axes] + list(axes)
    return replace(tensor, layout=tensor.layout.permuted(order))


def with_rank(tensor: Tensor, rank: int) -> Tensor:
    """The tensor with dimensions of 1 in front."""
    missing = rank - len(tensor.shape)
    return replace(tensor, layout=Layout(tensor.layout.offset, ((((1, 0),),) * missing) + tensor.layout.dims))


@kernel("softmax", "log_softmax")
def lower_softmax(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Maximum, difference, exponential, sum; then the quotient, or the difference to the logarithm of the sum."""
    shape = given(node, 0).type.static_shape
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    axis %= len(shape)
    x, out = (axes_last(place(at, v), [axis]) for v in (given(node, 0), node.result))
    logarithm = node.op.name == "log_softmax"

    def shifted(c: Chunk, largest: Ref) -> Ref:
        return c.keep("shifted", lambda: c.lanes("sub", c.load(0), largest.spread(behind=1)))

    def body(b: Block) -> None:
        largest = b.start("max")
        for c in b.chunks():
            b.gather("max", c, c.load(0), largest)
        total = b.start("sum")
        for c in b.chunks():
            b.gather("sum", c, c.keep("power", lambda c=c: c.lanes("exp", shifted(c, largest))), total)  # type: ignore[misc]
        b.rows("log" if logarithm else "reciprocal", total, out=total)
        for c in b.chunks():
            if logarithm:
                c.lanes("sub", shifted(c, largest), total.spread(behind=1), out=c.out(1))
            else:
                power = c.keep("power", lambda c=c: c.lanes("exp", shifted(c, largest)))  # type: ignore[misc]
                c.lanes("mul", power, total.spread(behind=1), out=c.out(1))
            c.store(1)

    permuted = (*(n for i, n in enumerate(shape) if i != axis), shape[axis])
    RowKernel(at, machine, [x, out], permuted, len(shape) - 1, grids=2).run(body)


NORMS = ("layer_norm", "rms_norm", "layer_normalization", "rms_normalization", "ms_simplified_layer_normalization")


@record
class Norm:
    """What a node does to each of its rows. Mean (layer norm alone), mean of squares, inverse root, and the scaling,
    all in float32."""

    cut: int
    """columns are the dimensions from here on"""
    columns: int
    centred: bool
    epsilon: float

    @staticmethod
    def of(node: Node) -> Norm:
        shape = given(node, 0).type.static_shape
        axis = node.attribute("axis") if "axis" in node.op.attributes else -1
        epsilon = node.attribute("epsilon")
        assert isinstance(axis, int)
        assert isinstance(epsilon, float)
        cut = axis % len(shape)
        return Norm(cut, prod(shape[cut:]), node.op.name.startswith("layer"), epsilon)

    def write(self, rows: Rows, last: int) -> None:
        """The commands, for a block of rows whose result is number `last` of what it has."""
        mean = self._mean(rows) if self.centred else None
        squares = rows.start("sum")
        for c in rows.chunks():
            x = _centred(c, mean)
            rows.gather("sum", c, c.lanes("mul", x, x), squares)
        rows.rows("mul", squares, 1 / self.columns, out=squares)
        rows.rows("add", squares, self.epsilon, out=squares)
        rows.rows("rsqrt", squares, out=squares)
        for c in rows.chunks():
            _scale(c, _centred(c, mean), squares, last)
            c.store(last)

    def _mean(self, rows: Rows) -> Ref:
        total = rows.start("sum")
        for c in rows.chunks():
            rows.gather("sum", c, c.load(0), total)
        return rows.rows("mul", total, 1 / self.columns, out=total)


@kernel(*NORMS)
def lower_norm(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Block by block of rows."""
    shape = given(node, 0).type.static_shape
    norm = Norm.of(node)
    parameters = [v for v in (operand(node, 1), operand(node, 2)) if v is not None]
    scaling = [with_rank(place(at, v), len(shape)) for v in parameters]
    tensors = [place(at, given(node, 0)), *scaling, place(at, node.result)]
    RowKernel(at, machine, tensors, shape, norm.cut, grids=3).run(lambda block: norm.write(block, len(tensors) - 1))


def norm_recipe(node: Node) -> Recipe:
    """What writes the commands of a node for rows that are on chip with all of their columns."""
    norm = Norm.of(node)

    def write(v: Lanes, given: Sequence[Source], out: Ref) -> None:
        norm.write(Whole(v, given, out), len(given))

    return write


def _centred(c: Columns, mean: Ref | None) -> Ref:
    if mean is None:
        return c.load(0)
    return c.keep("centred", lambda: c.lanes("sub", c.load(0), mean.spread(behind=1)))


def _scale(c: Columns, x: Ref, factor: Ref, last: int) -> None:
    """`x * factor * scale`, plus the bias if there is one: operand 1 is the scale, operand 2 the bias."""
    t = c.lanes("mul", x, factor.spread(behind=1))
    if last == 2:
        c.lanes("mul", t, c.load(1), out=c.out(last))
    else:
        c.lanes("mul_add", t, c.load(1), c.load(2), out=c.out(last))
