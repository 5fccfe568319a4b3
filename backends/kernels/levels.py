"""Activations between floats and 8- or 16-bit levels: quantize_linear and dequantize_linear, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.places import given, operand, place
from pimc.backends.kernels.pointwise import Recipe, pointwise
from pimc.backends.kernels.registry import kernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Digit, Layout
from pimc.ir.ops.quantization import LIMITS
from pimc.ir.types import DType

LEVELS = frozenset({"quantize_linear", "dequantize_linear"})
ONE: tuple[Digit, ...] = ((1, 0),)


def level_recipe(node: Node) -> Recipe:
    """What writes the commands of either op; sources are the operand, the scale and the zero point, if there is one."""
    return _quantize(node) if node.op.name == "quantize_linear" else _dequantize


def level_parameters(node: Node) -> list[tuple[Value, int]] | None:
    """Scale and zero point, each one number or one for each index of an axis, which comes with it; None where they are
    of blocks."""
    found = [v for v in (given(node, 1), operand(node, 2)) if v is not None]
    if found[0].type.elements > 1 and _int(node, "block_size"):
        return None
    return [(v, _int(node, "axis") % max(1, node.result.type.rank)) for v in found]


@kernel("quantize_linear", "dequantize_linear")
def lower_levels(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """One recipe over all elements."""
    _pointwise(node, at, machine, level_recipe(node))


def _quantize(node: Node) -> Recipe:
    """`round(x / scale) + zero point`, held within the result's type."""
    low, high = LIMITS[node.result.type.dtype]

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        x, scale, *zero = sources
        t = v("div", x, scale)
        v("round", t, out=t)
        for point in zero:
            v("add", t, point, out=t)
        v("max", t, float(low), out=t)
        v("min", t, float(high), out=out)

    return write


def _dequantize(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
    """`(x - zero point) * scale`; the difference is taken of integers."""
    x, scale, *zero = sources
    for point in zero:
        x = v("sub", x, point, dtype=DType.I64)
    v("mul", x, scale, out=out)


def _pointwise(node: Node, at: Lowering, machine: VectorMachine, write: Recipe) -> None:
    x, result = given(node, 0), node.result
    shape = result.type.static_shape
    parameters = [given(node, 1), *([zero] if (zero := operand(node, 2)) is not None else [])]
    block = _int(node, "block_size") if parameters[0].type.elements > 1 else 0
    axis = _int(node, "axis") % max(1, len(shape))
    sources = [place(at, x), *(_spread(at, p, axis, block, shape) for p in parameters)]
    pointwise(at, machine, sources, place(at, result), shape, write)


def _spread(at: Lowering, parameter: Value, axis: int, block: int, shape: Sequence[int]) -> Tensor:
    """A scale or zero point (one, one for each index of the axis, or one for each block) seen as of the shape.

    The last block may reach beyond the shape.
    """
    tensor = place(at, parameter)
    dims = tensor.layout.dims
    if parameter.type.elements == 1:
        return replace(tensor, layout=Layout(tensor.layout.offset, tuple(((n, 0),) for n in shape)))
    if not block:
        own = dims[0]
        return replace(
            tensor,
            layout=Layout(tensor.layout.offset, tuple(own if i == axis else ((n, 0),) for i, n in enumerate(shape))),
        )
    repeated: tuple[Digit, ...] = (*dims[axis], (block, 0))
    return replace(tensor, layout=Layout(tensor.layout.offset, (*dims[:axis], repeated, *dims[axis + 1 :])))


def _int(node: Node, name: str) -> int:
    value = node.attribute(name)
    assert isinstance(value, int)
    return value
