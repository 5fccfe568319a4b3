"""What fusion patterns have in common: constants, commutative operands, and steps that must not be used elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pimc.ir.graph import Graph, Node, Role, Value
from pimc.ir.op import Array, OpDef, lookup
from pimc.ir.weights import Contents, External, Inline, Sliced

_READ_ELEMENTS = 1 << 22
"""Contents of weights are read, to look at their values, up to this size."""


def contents_of(value: Value | None) -> Array | None:
    """The elements of a constant, or of a weight up to a size; None where they are not known."""
    if value is None:
        return None
    if value.type.array is not None:
        return value.type.array
    if value.type.is_static and value.type.elements <= _READ_ELEMENTS and _is_readable(value.contents):
        assert value.contents is not None
        return np.asarray(value.contents.array())
    return None


def _is_readable(contents: Contents | None) -> bool:
    while isinstance(contents, Sliced):
        contents = contents.whole
    return isinstance(contents, Inline | External)


def scalar_of(value: Value | None) -> float | None:
    """The number that a constant of one element holds."""
    if value is None or any(d != 1 for d in value.type.shape):
        return None
    array = contents_of(value)
    if array is None or array.size != 1 or array.dtype.kind not in "fiu":
        return None
    return float(array.reshape(-1)[0])


def ints_of(value: Value | None) -> list[int] | None:
    """The integers that a constant holds."""
    array = contents_of(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(v) for v in array.reshape(-1)]


def is_close(value: Value | None, number: float, tolerance: float = 1e-5) -> bool:
    """Whether a constant of one element is (nearly) `number`."""
    found = scalar_of(value)
    return found is not None and abs(found - number) <= tolerance * max(1e-30, abs(number))


def is_constant(value: Value) -> bool:
    return value.role in (Role.CONSTANT, Role.WEIGHT)


def owner(value: Value | None, *ops: str) -> Node | None:
    """The node that makes a value, if it is of one of these ops."""
    if value is None or value.owner is None or value.owner.op.name not in ops:
        return None
    return value.owner


def operand(node: Node, index: int) -> Value | None:
    return node.operands[index] if index < len(node.operands) else None


def pair(node: Node) -> tuple[Value, Value]:
    """The two operands of a binary op."""
    left, right = node.operands[0], node.operands[1]
    assert left is not None
    assert right is not None
    return left, right


def scaled(value: Value | None) -> tuple[Value, float] | None:
    """`x` and `c` where the value is `x * c`, `c * x` or `x / c` with a number c, and of the shape of x."""
    node = owner(value, "mul", "div")
    if node is None:
        return None
    left, right = pair(node)
    number = scalar_of(right)
    if number is not None and left.type.shape == node.result.type.shape:
        if node.op.name == "div":
            return (left, 1.0 / number) if number else None
        return left, number
    number = scalar_of(left)
    if node.op.name == "mul" and number is not None and right.type.shape == node.result.type.shape:
        return right, number
    return None


def with_number(node: Node) -> tuple[Value, float] | None:
    """`x` and `c` of a commutative binary op on a value and a number."""
    left, right = pair(node)
    number = scalar_of(right)
    if number is not None:
        return left, number
    number = scalar_of(left)
    return (right, number) if number is not None else None


def skip(value: Value, *ops: str) -> Value:
    """The value above any chain of one-operand steps of these ops."""
    while (node := owner(value, *ops)) is not None and node.operands[0] is not None:
        value = node.operands[0]
    return value


def skip_float_casts(value: Value) -> Value:
    """The value above casts from one float type to another (or the same)."""
    while (node := owner(value, "cast", "identity")) is not None:
        source = node.operands[0]
        if source is None or not (source.type.dtype.is_float and value.type.dtype.is_float):
            break
        value = source
    return value


def used_only_by(graph: Graph, value: Value, nodes: Iterable[Node]) -> bool:
    """Whether nothing but `nodes` reads a value (it is no output of the graph either)."""
    allowed = {n.uid for n in nodes}
    return not graph.is_output(value) and all(u.uid in allowed for u in graph.users(value))


def halves_equal(table: Array) -> bool:
    """Whether both halves along the last axis hold the same."""
    width = table.shape[-1] if table.ndim else 1
    return width % 2 == 0 and bool(np.array_equal(table[..., : width // 2], table[..., width // 2 :]))


def opdef(name: str) -> OpDef:
    return lookup(name)
