"""Canonical forms of normalizations: `rms_norm` and `layer_norm` over the last axis, skips as plain additions."""

from __future__ import annotations

from collections.abc import Callable

from pimc.ir.graph import Node, Rewriter, Value
from pimc.passes.building import Builder, operand_at
from pimc.passes.match import operand

Rule = Callable[[Node, Rewriter], None]


def _epsilon(node: Node) -> float:
    epsilon = node.attribute("epsilon")
    assert isinstance(epsilon, float)
    return epsilon


def _vector(builder: Builder, parameter: Value | None, x: Value) -> Value | None:
    """A scale or bias as a vector as long as the last axis of x, in the type of x; None where it is no such thing."""
    if parameter is None:
        return None
    width = x.type.static_shape[-1]
    if parameter.type.elements != width:
        return None
    return builder.cast(builder.reshape(parameter, [width]), x)


def _norm(op: str) -> Rule:
    """layer_normalization(x, scale, bias, axis=-1) -> layer_norm(x, scale, bias); likewise rms_norm"""

    def rule(node: Node, rewriter: Rewriter) -> None:
        x, scale, bias = operand_at(node, 0), operand_at(node, 1), operand(node, 2)
        axis = node.attribute("axis")
        width = x.type.static_shape[-1]
        vectors = [p for p in (scale, bias) if p is not None]
        if axis not in (-1, x.type.rank - 1) or any(p.type.elements != width for p in vectors):
            return
        builder = Builder(rewriter, node)
        parameters = [_vector(builder, p, x) for p in vectors]
        builder.replace(builder.call(op, x, *parameters, epsilon=_epsilon(node)))

    return rule


def _skip_norm(op: str) -> Rule:
    """ms_skip_layer_normalization(x, skip, gamma, beta, bias) -> s = x + skip + bias; layer_norm(s, gamma, beta), s"""

    def rule(node: Node, rewriter: Rewriter) -> None:
        builder = Builder(rewriter, node)
        if builder.is_read(1) or builder.is_read(2):
            return
        x, skip, gamma = (operand_at(node, i) for i in range(3))
        beta, bias = (operand(node, 3), operand(node, 4)) if op == "layer_norm" else (None, operand(node, 3))
        total = builder.call("add", x, skip)
        if bias is not None:
            total = builder.call("add", total, bias)
        parameters = (_vector(builder, gamma, x), _vector(builder, beta, x))
        builder.replace(builder.call(op, total, *parameters, epsilon=_epsilon(node)), None, None, total)

    return rule


RULES: dict[str, tuple[Rule, ...]] = {
    "layer_normalization": (_norm("layer_norm"),),
    "rms_normalization": (_norm("rms_norm"),),
    "ms_simplified_layer_normalization": (_norm("rms_norm"),),
    "ms_skip_layer_normalization": (_skip_norm("layer_norm"),),
    "ms_skip_simplified_layer_normalization": (_skip_norm("rms_norm"),),
}
