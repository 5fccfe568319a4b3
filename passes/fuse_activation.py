"""Recognise activation functions that exporters write out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import Array, Attribute, lookup
from pimc.ir.stage import GraphStage
from pimc.ir.types import DType
from pimc.passes.manager import PassContext, PatternPass
from pimc.passes.match import opdef, operand, scalar_of
from pimc.record import record

_STEPS = frozenset({"add", "sub", "mul", "div", "pow", "neg", "reciprocal", "tanh", "erf", "sigmoid", "exp", "cast"})
_NAMED: tuple[tuple[str, Mapping[str, Attribute]], ...] = (
    ("silu", {}),
    ("gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}),
)
_PROBES = np.linspace(-4, 4, 33, dtype=np.float32)
_TALLEST = 8
"""How many steps may lie between an activation's argument and its curve, and again up to its end."""
_ROUNDING = {DType.F16: 1e-4, DType.BF16: 1e-4}
"""How far a function may be off at the probes, since its constants were rounded; the two GELUs are 5e-4 apart."""


@record
class FuseActivationPass(PatternPass):
    """Written-out GELU (both forms) and SiLU become one op.

        x * sigmoid(x)                                         -> silu(x)
        0.5 * x * (1 + erf(x / sqrt(2)))                       -> gelu(x)
        0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))  -> gelu(x) {approximate="tanh"}

    Found by what is computed, not by how it is grouped: element-wise steps with numbers around a sigmoid, erf, tanh or
    exponential, which all come from one tensor, are tried on a few numbers, and fused where they give the values of
    the op. Intermediate results that something else reads are left alone.
    """

    name: ClassVar[str] = "fuse-activation"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    root: ClassVar[tuple[str, ...]] = ("sigmoid", "erf", "tanh", "exp")

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        super().run(graph, rewriter, context)
        if graph.version != version:
            rewriter.remove_dead()

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        graph = rewriter.graph
        for x in _arguments(node):
            if len(graph.users(x)) < 2:
                continue
            for end, values in _ends(node, x, graph):
                named = _recognised(values, end.result.type.dtype)
                if named is not None and end.result.type == x.type:
                    rewriter.replace(end, opdef(named[0]), (x,), named[1], absorbing=(node,))
                    return


def _recognised(values: Array, dtype: DType) -> tuple[str, Mapping[str, Attribute]] | None:
    tolerance = _ROUNDING.get(dtype, 1e-5)
    for named, expected in zip(_NAMED, _expected(), strict=True):
        if np.abs(values - expected).max() <= tolerance:
            return named
    return None


@cache
def _expected() -> tuple[Array, ...]:
    return tuple(lookup(op).evaluate([_PROBES], attributes)[0] for op, attributes in _NAMED)


def _arguments(curve: Node) -> Iterator[Value]:
    """The tensors that a curve may be a function of, from the nearest up."""
    value = curve.operands[0]
    for _ in range(_TALLEST):
        if value is None:
            return
        yield value
        node = value.owner
        if node is None or node.op.name not in _STEPS:
            return
        above = [v for v in node.inputs() if scalar_of(v) is None]
        # of two operands, one is made from the other: that other one is further up
        above.sort(key=lambda v: v.owner.uid if v.owner is not None else -1)
        value = above[0] if above else None


def _ends(curve: Node, x: Value, graph: Graph) -> Iterator[tuple[Node, Array]]:
    """The nodes behind a curve that compute functions of x alone, with their values at the probes."""
    known: dict[Value, Array | None] = {x: _PROBES}
    node = curve
    for _ in range(_TALLEST):
        values = _values(node.result, known, _TALLEST)
        if values is None:
            return
        if node is not curve:
            yield node, values
        users = graph.users(node.result)
        if len(users) != 1 or graph.is_output(node.result):
            return
        node = users[0]


def _values(value: Value, known: dict[Value, Array | None], depth: int) -> Array | None:
    """What a value is at the probes; None where it is no function of them by known steps."""
    if value not in known:
        known[value] = _evaluated(value, known, depth)
    return known[value]


def _evaluated(value: Value, known: dict[Value, Array | None], depth: int) -> Array | None:
    number = scalar_of(value)
    if number is not None:
        return np.asarray(number, np.float32)
    node = value.owner
    if node is None or node.op.name not in _STEPS or depth == 0 or not value.type.dtype.is_float:
        return None
    if node.op.name == "cast":
        source = operand(node, 0)
        return _values(source, known, depth) if source is not None and source.type.dtype.is_float else None
    arrays = [_values(v, known, depth - 1) for v in node.inputs()]
    if any(a is None for a in arrays):
        return None
    return node.op.evaluate(arrays, node.attributes)[0]
