"""Recognise activation functions that exporters write out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.passes.manager import PassContext, PatternPass
from pimc.passes.match import is_close, opdef, owner, pair, scalar_of, scaled, used_only_by, with_number


@dataclass(frozen=True)
class FuseActivationPass(PatternPass):
    """Written-out GELU (both forms) and SiLU become one op.

        x * sigmoid(x)                                         -> silu(x)
        0.5 * x * (1 + erf(x / sqrt(2)))                       -> gelu(x)
        0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))  -> gelu(x) {approximate="tanh"}

    The products may be grouped in any way. Intermediate results that something else reads are left alone.
    """

    name: ClassVar[str] = "fuse-activation"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    root: ClassVar[tuple[str, ...]] = ("sigmoid", "erf", "tanh")

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        super().run(graph, rewriter, context)
        if graph.version != version:
            rewriter.remove_dead()

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        if node.op.name == "sigmoid":
            _fuse_silu(node, rewriter)
        else:
            _fuse_gelu(node, rewriter)


def _fuse_silu(sigmoid: Node, rewriter: Rewriter) -> None:
    x = sigmoid.operands[0]
    users = rewriter.graph.users(sigmoid.result)
    if len(users) != 1 or users[0].op.name != "mul" or rewriter.graph.is_output(sigmoid.result):
        return
    left, right = pair(users[0])
    if left is not right and x in (left, right):
        rewriter.replace(users[0], opdef("silu"), (x,), absorbing=(sigmoid,))


def _fuse_gelu(curve: Node, rewriter: Rewriter) -> None:
    inner = curve.operands[0]
    x = _erf_operand(inner) if curve.op.name == "erf" else _tanh_operand(inner)
    shifted = _only_user(curve.result, rewriter.graph, "add")
    if x is None or shifted is None:
        return
    plus = with_number(shifted)
    if plus is None or not math.isclose(plus[1], 1.0):
        return
    end = _half_product(shifted.result, x, rewriter.graph)
    if end is not None:
        approximate = "none" if curve.op.name == "erf" else "tanh"
        rewriter.replace(end, opdef("gelu"), (x,), {"approximate": approximate}, absorbing=(shifted, curve))


def _erf_operand(inner: Value | None) -> Value | None:
    found = scaled(inner)
    return found[0] if found is not None and math.isclose(found[1], math.sqrt(0.5), rel_tol=1e-5) else None


def _tanh_operand(inner: Value | None) -> Value | None:
    """x of `sqrt(2/pi) * (x + 0.044715 * x^3)`."""
    found = scaled(inner)
    if found is None or not math.isclose(found[1], math.sqrt(2 / math.pi), rel_tol=1e-5):
        return None
    total = owner(found[0], "add")
    if total is None:
        return None
    for x, rest in (pair(total), pair(total)[::-1]):
        cubic = scaled(rest)
        if cubic is not None and math.isclose(cubic[1], 0.044715, rel_tol=1e-5) and _is_cube(cubic[0], x):
            return x
    return None


def _is_cube(value: Value, x: Value) -> bool:
    power = owner(value, "pow")
    if power is not None:
        return power.operands[0] is x and is_close(power.operands[1], 3.0)
    product = owner(value, "mul")
    if product is None:
        return False
    left, right = pair(product)
    return (left is x and _is_square(right, x)) or (right is x and _is_square(left, x))


def _is_square(value: Value, x: Value) -> bool:
    power = owner(value, "pow")
    if power is not None:
        return power.operands[0] is x and is_close(power.operands[1], 2.0)
    product = owner(value, "mul")
    return product is not None and pair(product) == (x, x)


def _half_product(shifted: Value, x: Value, graph: Graph) -> Node | None:
    """The node that ends `0.5 * x * shifted`, in any grouping whose steps nothing else reads."""
    first = _only_user(shifted, graph, "mul")
    if first is None:
        return None
    left, right = pair(first)
    other = right if left is shifted else left
    half = scaled(other)
    if half is not None and half[0] is x and math.isclose(half[1], 0.5):
        return first
    if other is x:
        second = _only_user(first.result, graph, "mul", "div")
        found = scaled(second.result) if second is not None else None
        return second if found is not None and math.isclose(found[1], 0.5) else None
    number = scalar_of(other)
    if number is not None and math.isclose(number, 0.5):
        second = _only_user(first.result, graph, "mul")
        return second if second is not None and x in pair(second) else None
    return None


def _only_user(value: Value, graph: Graph, *ops: str) -> Node | None:
    users = graph.users(value)
    if len(users) != 1 or users[0].op.name not in ops or not used_only_by(graph, value, users):
        return None
    return users[0]
