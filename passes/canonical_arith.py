"""Canonical forms of element-wise ops: steps that change nothing go, special cases become the plain op."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.types import DType
from pimc.passes.building import Builder
from pimc.passes.match import contents_of, pair

Rule = Callable[[Node, Rewriter], None]


def forward(node: Node, rewriter: Rewriter, value: Value) -> None:
    """Let `value` stand for the node. An output keeps a node of its own unless another node makes the value."""
    if rewriter.graph.is_output(node.result) and value.role is not Role.RESULT:
        if node.op.name != "identity":
            Builder(rewriter, node).replace(Builder(rewriter, node).call("identity", value))
        return
    Builder(rewriter, node).replace(value)


def identity(node: Node, rewriter: Rewriter) -> None:
    """identity(x) -> x"""
    (x,) = node.inputs()
    forward(node, rewriter, x)


def cast(node: Node, rewriter: Rewriter) -> None:
    """cast(x: f32, to=f32) -> x; cast(cast(x: f16, to=f32), to=f16) -> x"""
    (x,) = node.inputs()
    if x.type.dtype is node.result.type.dtype:
        forward(node, rewriter, x)
        return
    inner = x.owner
    if inner is not None and inner.op.name == "cast":
        (source,) = inner.inputs()
        if _holds(x.type.dtype, source.type.dtype):
            rewriter.replace(node, node.op, (source,), node.attributes)


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether `wide` can represent every value of `narrow`, so that a cast to it loses nothing."""
    if wide is narrow or narrow is DType.BOOL:
        return True
    if wide is DType.BOOL:
        return False
    try:
        return bool(np.can_cast(narrow.numpy, wide.numpy, "safe"))
    except TypeError:
        return False


def neutral(number: float, *, left: bool) -> Rule:
    """x op number -> x (and number op x -> x, with `left`), where the shape stays as it is."""

    def rule(node: Node, rewriter: Rewriter) -> None:
        first, second = pair(node)
        for x, other in ((first, second), (second, first))[: 1 + left]:
            if x.type.shape == node.result.type.shape and _is_number(other, number):
                forward(node, rewriter, x)
                return

    return rule


def _is_number(value: Value, number: float) -> bool:
    """Whether a constant is one element that equals `number`. Tables that happen to hold nothing else (the cosines of
    position 0) stay: the form of a graph must not depend on such numbers."""
    array = contents_of(value) if value.role is Role.CONSTANT else None
    return array is not None and array.size == 1 and array.dtype.kind != "b" and bool(np.all(array == number))


def neutral_bool(kept: bool) -> Rule:
    """and(x, all true) -> x; or(x, all false) -> x"""

    def rule(node: Node, rewriter: Rewriter) -> None:
        first, second = pair(node)
        for x, other in ((first, second), (second, first)):
            known = contents_of(other) if other.role is Role.CONSTANT else None
            if known is not None and x.type.shape == node.result.type.shape and bool(np.all(known == kept)):
                forward(node, rewriter, x)
                return

    return rule


def power(node: Node, rewriter: Rewriter) -> None:
    """pow(x, 2) -> mul(x, x); pow(x, 0.5) -> sqrt(x); pow(x, 1) -> x"""
    x, exponent = pair(node)
    if x.type.shape != node.result.type.shape:
        return
    builder = Builder(rewriter, node)
    if _is_number(exponent, 2):
        builder.replace(builder.call("mul", x, x))
    elif _is_number(exponent, 0.5) and x.type.dtype.is_float:
        builder.replace(builder.call("sqrt", x))
    elif _is_number(exponent, 1):
        forward(node, rewriter, x)


def where(node: Node, rewriter: Rewriter) -> None:
    """where(all true, x, y) -> x; where(all false, x, y) -> y"""
    condition, x, y = (v for v in node.operands if v is not None)
    known = contents_of(condition)
    if known is None or known.size == 0:
        return
    chosen = x if known.all() else y if not known.any() else None
    if chosen is not None and chosen.type.shape == node.result.type.shape:
        forward(node, rewriter, chosen)


def variadic(binary: str) -> Rule:
    """max(x) -> x; sum(x, y, z) -> add(add(x, y), z)"""

    def rule(node: Node, rewriter: Rewriter) -> None:
        first, *others = node.inputs()
        if not others:
            forward(node, rewriter, first)
            return
        if node.op.name == binary and len(others) == 1:
            return
        builder = Builder(rewriter, node)
        for other in others:
            first = builder.call(binary, first, other)
        builder.replace(first)

    return rule


def swish(node: Node, rewriter: Rewriter) -> None:
    """swish(x, alpha=1) -> silu(x); swish(x, alpha) -> mul(x, sigmoid(mul(x, alpha)))"""
    (x,) = node.inputs()
    builder = Builder(rewriter, node)
    alpha = node.attribute("alpha")
    if alpha == 1.0 or not isinstance(alpha, (int, float)):
        builder.replace(builder.call("silu", x))
        return
    scaled = builder.call("mul", x, builder.number(alpha, x))
    builder.replace(builder.call("mul", x, builder.call("sigmoid", scaled)))


RULES: dict[str, tuple[Rule, ...]] = {
    "identity": (identity,),
    "cast": (cast,),
    "add": (neutral(0, left=True),),
    "sub": (neutral(0, left=False),),
    "mul": (neutral(1, left=True),),
    "div": (neutral(1, left=False),),
    "pow": (power,),
    "and": (neutral_bool(True),),
    "or": (neutral_bool(False),),
    "where": (where,),
    "max": (variadic("max"),),
    "min": (variadic("min"),),
    "sum": (variadic("add"),),
    "swish": (swish,),
}
