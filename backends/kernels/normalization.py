"""Softmax, layer norm and RMS norm, with intermediate results in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from pimc.backends.kernels.lanes import Ref, VectorMachine
from pimc.backends.kernels.places import given, operand, place
from pimc.backends.kernels.registry import kernel
from pimc.backends.kernels.rows import Block, Chunk, RowKernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node
from pimc.ir.layout import Layout


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


@kernel("layer_norm", "rms_norm", "layer_normalization", "rms_normalization", "ms_simplified_layer_normalization")
def lower_norm(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Mean (layer norm alone), mean of squares, inverse root, and the scaling, all in float32."""
    shape = given(node, 0).type.static_shape
    axis = node.attribute("axis") if "axis" in node.op.attributes else -1
    epsilon = node.attribute("epsilon")
    assert isinstance(axis, int)
    assert isinstance(epsilon, float)
    cut = axis % len(shape)
    count = prod(shape[cut:])
    centred = node.op.name.startswith("layer")
    parameters = [v for v in (operand(node, 1), operand(node, 2)) if v is not None]
    scaling = [with_rank(place(at, v), len(shape)) for v in parameters]
    tensors = [place(at, given(node, 0)), *scaling, place(at, node.result)]
    last = len(tensors) - 1

    def body(b: Block) -> None:
        mean = _mean(b, count) if centred else None
        squares = b.start("sum")
        for c in b.chunks():
            x = _centred(c, mean)
            b.gather("sum", c, c.lanes("mul", x, x), squares)
        b.rows("mul", squares, 1 / count, out=squares)
        b.rows("add", squares, epsilon, out=squares)
        b.rows("rsqrt", squares, out=squares)
        for c in b.chunks():
            _scale(c, _centred(c, mean), squares, last)
            c.store(last)

    RowKernel(at, machine, tensors, shape, cut, grids=3).run(body)


def _mean(b: Block, count: int) -> Ref:
    total = b.start("sum")
    for c in b.chunks():
        b.gather("sum", c, c.load(0), total)
    return b.rows("mul", total, 1 / count, out=total)


def _centred(c: Chunk, mean: Ref | None) -> Ref:
    if mean is None:
        return c.load(0)
    return c.keep("centred", lambda: c.lanes("sub", c.load(0), mean.spread(behind=1)))


def _scale(c: Chunk, x: Ref, factor: Ref, last: int) -> None:
    """`x * factor * scale`, plus the bias if there is one: operand 1 is the scale, operand 2 the bias."""
    t = c.lanes("mul", x, factor.spread(behind=1))
    if last == 2:
        c.lanes("mul", t, c.load(1), out=c.out(last))
    else:
        c.lanes("mul_add", t, c.load(1), c.load(2), out=c.out(last))
