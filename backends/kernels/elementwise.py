"""Element-wise ops on vector units."""

from __future__ import annotations

from collections.abc import Sequence

from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.levels import LEVELS, level_parameters
from pimc.backends.kernels.normalization import NORMS, Norm
from pimc.backends.kernels.places import given, place
from pimc.backends.kernels.pointwise import Recipe, pointwise
from pimc.backends.kernels.recipes import RECIPES
from pimc.backends.kernels.registry import kernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node, Value
from pimc.ir.op import Attribute
from pimc.ir.types import DType


def source_of(value: Value, at: Lowering) -> Tensor | float:
    """The place of an operand, or its value where that is one number known to the compiler."""
    array = value.type.array
    if array is not None and array.size == 1 and value.type.dtype is not DType.BOOL:
        return float(array.reshape(-1)[0])
    return place(at, value)


@kernel(*(name for name in RECIPES if name not in ("cast", "identity")))
def lower_elementwise(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """One recipe over all elements; numbers that are known become immediates."""
    sources = [source_of(v, at) for v in node.inputs()]
    shape = node.result.type.static_shape
    pointwise(at, machine, sources, place(at, node.result), shape, recipe_of(node))


def recipe_of(node: Node) -> Recipe:
    """What writes the commands of a node, its attributes known."""

    def attribute(name: str) -> Attribute:
        if node.op.name == "clip":  # which of the optional bounds there are
            position = {"min": 1, "max": 2}[name]
            return position < len(node.operands) and node.operands[position] is not None
        return node.attribute(name)

    def write(v: Lanes, given: Sequence[Source], out: Ref) -> None:
        RECIPES[node.op.name](v, given, out, attribute)

    return write


def is_follower(node: Node, product: Node) -> bool:
    """Whether a node is element-wise on floats, or a norm of rows, of the very type of a product of matrices, or
    between these and levels."""
    factors = list(product.inputs())[: 1 if product.op.name == "quantized_matmul" else None]
    if len(node.results) != 1 or not all(v.type.dtype.is_float and v.type.rank >= 2 for v in factors):
        return False
    if node.op.name in LEVELS:
        return _is_by_level(node) and node.result.type.shape == product.result.type.shape
    operands = [v for v in node.inputs() if v.type.array is None or v.type.array.size != 1]
    by_row = node.op.name in NORMS and Norm.of(node).cut == product.result.type.rank - 1
    return (
        (node.op.name in RECIPES or by_row)
        and node.result.type == product.result.type
        and all(v.type.dtype.is_float for v in (*operands, node.result))
    )


def _is_by_level(node: Node) -> bool:
    """Whether a node goes between floats and levels of whole bytes, of which a tile needs no more than its rows and
    columns of scale and zero point."""
    ends = [v.type.dtype for v in (given(node, 0), node.result)]
    levels = [dtype for dtype in ends if not dtype.is_float]
    return level_parameters(node) is not None and all(dtype.bits >= 8 for dtype in levels)


def is_twin(node: Node, product: Node) -> bool:
    """Whether a node multiplies the left operand of another product of matrices of floats with a matrix of the same
    type."""
    left, right = product.operands[:2]
    other, weight = node.operands[:2]
    return (
        other is left
        and (left is not None and right is not None and weight is not None)
        and weight is not right
        and weight.type == right.type
        and weight.role is right.role
        and all(v.type.dtype.is_float and v.type.rank >= 2 for v in (left, right))
    )


def is_leader(node: Node, product: Node) -> bool:
    """Whether a node is element-wise on floats, a cast, a dequantization or a norm of rows, that makes a product's left
    operand."""
    if node.op.name == "dequantize_linear":
        left = next(iter(product.inputs()))
        matrices = all(v.type.dtype.is_float and v.type.rank >= 2 for v in product.inputs())
        return matrices and node.result.type == left.type and _is_by_level(node)
    operands = [v for v in node.inputs() if v.type.array is None or v.type.array.size != 1]
    by_row = node.op.name in NORMS and Norm.of(node).cut == node.result.type.rank - 1
    return (
        (node.op.name in RECIPES or by_row)
        and len(node.results) == 1
        and node.result.type == next(iter(product.inputs())).type
        and all(v.type.dtype.is_float for v in (*product.inputs(), node.result))
        and (node.op.name == "cast" or all(v.type.dtype.is_float for v in operands))
        and all(v.type.rank >= 2 for v in product.inputs())
    )


@kernel("cast")
def lower_cast(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Nothing where the stored types agree and the result is a view of the operand."""
    operand, result = node.operands[0], node.result
    assert operand is not None
    source, target = place(at, operand), place(at, result)
    if source.dtype is target.dtype and source.space == target.space and source.layout == target.layout:
        return
    pointwise(at, machine, [source], target, result.type.static_shape, _copy)


def _copy(v: Lanes, given: Sequence[Source], out: Ref) -> None:
    v("copy", given[0], out=out)
