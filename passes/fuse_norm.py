"""Recognise normalisations that exporters write out."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.ir.types import TensorType
from pimc.passes.manager import PassContext, PatternPass
from pimc.passes.match import (
    contents_of,
    ints_of,
    is_close,
    is_constant,
    opdef,
    operand,
    owner,
    pair,
    skip_float_casts,
    with_number,
)
from pimc.record import record


@record
class FuseNormPass(PatternPass):
    """Written-out root-mean-square and layer normalisation over the last axis become one op.

        %s = reduce_mean(pow(%x, 2)) {axis -1}, %r = sqrt(%s + epsilon), %y = %x / %r * %weight
    ->  %y = rms_norm(%x, %weight) {epsilon=...}

        %d = %x - reduce_mean(%x), ... %y = %d / sqrt(reduce_mean(pow(%d, 2)) + epsilon) * %weight + %bias
    ->  %y = layer_norm(%x, %weight, %bias) {epsilon=...}

    `x * x` for the power, `reciprocal` or `1 / r` or `pow(-0.5)` for the root, casts between the steps, and the
    weight on either side are all taken, and so is an rms_norm of centred numbers. A norm without a weight gets one of
    ones; `(1 + weight)` is any other weight.
    """

    name: ClassVar[str] = "fuse-norm"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    root: ClassVar[tuple[str, ...]] = ("reduce_mean", "rms_norm")

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        super().run(graph, rewriter, context)
        if graph.version != version:
            rewriter.remove_dead()

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        if node.op.name == "rms_norm":
            _centre(node, rewriter)
            return
        square = _squared(node)
        if square is None or not _over_last_axis(node):
            return
        found = _normalised(node, square, rewriter.graph)
        if found is None:
            return
        end, epsilon = found
        centred = _centred(square)
        if centred is not None:
            _fuse(rewriter, "layer_norm", centred, end, epsilon)
        else:
            _fuse(rewriter, "rms_norm", square, end, epsilon)


def _centre(node: Node, rewriter: Rewriter) -> None:
    """rms_norm(x - mean(x), scale) -> layer_norm(x, scale)"""
    x, scale = node.operands[0], node.operands[1]
    centred = _centred(x) if x is not None else None
    if centred is not None and centred.type.dtype is node.result.type.dtype:
        rewriter.replace(node, opdef("layer_norm"), (centred, scale), node.attributes)


def _squared(mean: Node) -> Value | None:
    """x of `reduce_mean(x * x)`."""
    inside = mean.operands[0]
    if inside is None:
        return None
    node = owner(skip_float_casts(inside), "pow", "mul")
    if node is None:
        return None
    left, right = pair(node)
    if node.op.name == "pow":
        return left if is_close(right, 2.0) else None
    return left if left is right else None


def _over_last_axis(mean: Node) -> bool:
    x = mean.operands[0]
    axes = ints_of(operand(mean, 1))
    return x is not None and mean.attribute("keepdims") == 1 and axes in ([-1], [x.type.rank - 1])


def _normalised(mean: Node, x: Value, graph: Graph) -> tuple[Node, float] | None:
    """The node that makes `x / sqrt(mean + epsilon)`, and epsilon."""
    shifted = _only_user(graph, mean.result, "add")
    plus = with_number(shifted) if shifted is not None else None
    if shifted is None or plus is None:
        return None
    root = _only_user(graph, shifted.result, "sqrt", "pow")
    if root is None or (root.op.name == "pow" and not is_close(root.operands[1], -0.5)):
        return None
    inverse = root
    if root.op.name == "sqrt":
        after = _only_user(graph, root.result, "reciprocal", "div")
        if after is None:
            return None
        if after.op.name == "div" and skip_float_casts(pair(after)[0]) is skip_float_casts(x):
            return after, plus[1]
        if after.op.name == "div" and not is_close(after.operands[0], 1.0):
            return None
        inverse = after
    product = _only_user(graph, inverse.result, "mul")
    if product is None:
        return None
    others = [v for v in pair(product) if _root_of(v) is not inverse.result]
    if len(others) == 1 and skip_float_casts(others[0]) is skip_float_casts(x):
        return product, plus[1]
    return None


def _root_of(value: Value) -> Value:
    return skip_float_casts(value)


def _centred(value: Value) -> Value | None:
    """x of `x - reduce_mean(x)` over the last axis."""
    node = owner(skip_float_casts(value), "sub")
    if node is None:
        return None
    x, mean_value = pair(node)
    mean = owner(skip_float_casts(mean_value), "reduce_mean")
    if mean is None or mean.operands[0] is None or not _over_last_axis(mean):
        return None
    return x if skip_float_casts(mean.operands[0]) is skip_float_casts(x) else None


def _fuse(rewriter: Rewriter, name: str, x: Value, end: Node, epsilon: float) -> None:
    graph = rewriter.graph
    source = skip_float_casts(x)
    weighted = _scaled_by_weight(graph, end)
    scale = weighted[1] if weighted is not None else None
    last = weighted[0] if weighted is not None else end
    operands: list[Value] = [source, scale] if scale is not None else [source, _ones(rewriter, end)]
    if name == "layer_norm" and scale is not None:
        shifted = _shifted_by_weight(graph, last)
        if shifted is not None:
            last = shifted[0]
            operands.append(shifted[1])
    if any(o.type.dtype is not last.result.type.dtype for o in operands):
        return
    rewriter.replace(last, opdef(name), operands, {"epsilon": epsilon})


def _scaled_by_weight(graph: Graph, end: Node) -> tuple[Node, Value] | None:
    product = _only_user(graph, end.result, "mul")
    return _with_vector(product, end.result.type) if product is not None else None


def _shifted_by_weight(graph: Graph, end: Node) -> tuple[Node, Value] | None:
    total = _only_user(graph, end.result, "add")
    return _with_vector(total, end.result.type) if total is not None else None


def _with_vector(node: Node, type: TensorType) -> tuple[Node, Value] | None:
    """The node and its constant operand, if that is a vector as long as the last axis."""
    for value in pair(node):
        if is_constant(value) and value.type.shape == type.shape[-1:]:
            return node, value
    return None


def _ones(rewriter: Rewriter, end: Node) -> Value:
    width = end.result.type.static_shape[-1]
    dtype = end.result.type.dtype.numpy
    for value in rewriter.graph.weights:
        array = contents_of(value) if value.name.startswith("ones") else None
        if array is not None and array.shape == (width,) and array.dtype == dtype:
            return value
    return rewriter.constant("ones", np.ones(width, dtype))


def _only_user(graph: Graph, value: Value, *ops: str) -> Node | None:
    """The only reader of a value, casts between float types not counted, if it is one of these ops."""
    users = graph.users(value)
    if len(users) != 1 or graph.is_output(value):
        return None
    if users[0].op.name in ("cast", "identity") and users[0].result.type.dtype.is_float:
        return _only_user(graph, users[0].result, *ops)
    return users[0] if users[0].op.name in ops else None
