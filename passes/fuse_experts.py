"""Recognise products with weights that an activation chooses: the experts of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.passes.building import Builder, operand_at
from pimc.passes.manager import PassContext, PatternPass
from pimc.passes.match import is_constant, pair, skip
from pimc.passes.views import Axis, Origin, identity_view, joined, origins
from pimc.record import record


@record
class FuseExpertsPass(PatternPass):
    """The product of gathered expert weights with one vector each becomes one op that reads the weights in place.

        %m = gather_nd(%w[E,N,K], reshape(%ids[T,J]))                    // [T*J, N, K]
        %y = matmul(%m, reshape(expand(%x[T,K])))                        // [T*J, N, 1]
    ->  %y = reshape(expert_matmul(%x[T,1,K], %w[E,N,K], %ids[T,J]))

    The vector may stand on either side, be repeated for the experts of a token or be different for each, and weights
    may be stored as [E,K,N], which a transposition of the weight turns round. Slices of the columns of a product (gate
    and up projections in one weight) become products with slices of the weight.
    """

    name: ClassVar[str] = "fuse-experts"
    before: ClassVar[GraphStage] = GraphStage.BOUND
    root: ClassVar[tuple[str, ...]] = ("matmul",)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        super().run(graph, rewriter, context)
        if graph.version != version:
            rewriter.remove_dead()

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        left, right = pair(node)
        for stack, vector, vector_left in ((left, right, False), (right, left, True)):
            chosen = _chosen(stack)
            vectors = _vectors(vector, chosen, vector_left) if chosen is not None else None
            if chosen is not None and vectors is not None:
                _fuse(node, chosen, vectors, vector_left, rewriter)
                return


@record
class _Chosen:
    """A stack of matrices [.., A, B] that were gathered from a weight [E, ., .]."""

    weight: Value
    ids: Value
    """the indices in the shape that has an axis for the experts of a token, if there is one"""
    tokens: int
    experts: int
    swapped: bool
    """whether the last two axes of the weight are exchanged in the stack"""


def _chosen(value: Value) -> _Chosen | None:
    for origin in origins(value):
        node = origin.base.owner
        if node is None or origin.scale != 1.0 or not _picks_matrices(node):
            continue
        shape = origin.base.type.static_shape
        a, b = identity_view(shape)[-2:]
        matrix = origin.view[-2:]
        if matrix not in ((a, b), (b, a)) or _rows(origin) != _straight(shape[:-2]):
            continue
        indices = operand_at(node, 1)
        ids = _as_chosen(indices)
        sizes = ids.type.static_shape
        if ids is indices and node.op.name == "gather_nd":
            sizes = sizes[:-1]
        tokens, experts = (math.prod(sizes[:-1]), sizes[-1]) if len(sizes) > 1 else (math.prod(sizes), 1)
        return _Chosen(operand_at(node, 0), ids, tokens, experts, matrix != (a, b))
    return None


def _picks_matrices(node: Node) -> bool:
    """Whether a node reads whole matrices [., .] of a weight [E, ., .] at indices that are computed."""
    if node.op.name not in ("gather", "gather_nd"):
        return False
    weight, indices = operand_at(node, 0), operand_at(node, 1)
    if weight.type.rank != 3 or not weight.type.dtype.is_float or is_constant(indices):
        return False
    if not is_constant(skip(weight, "transpose", "reshape", "cast", "dequantize_linear", "identity")):
        return False
    if node.op.name == "gather":
        return node.attribute("axis") in (0, -3)
    return not node.attribute("batch_dims") and indices.type.shape[-1:] == (1,)


def _as_chosen(indices: Value) -> Value:
    """The tensor that indices were flattened from, as high up as their order stays the same."""
    found = indices
    for origin in origins(indices):
        base = origin.base
        if base.type.elements == indices.type.elements and _rows(origin, 0) == _straight(base.type.static_shape):
            found = base
    return found


def _rows(origin: Origin, own: int = 2) -> Axis:
    """The factors of the leading axes of a value, all but the last `own`, adjacent ones joined."""
    return joined(f for axis in origin.view[: len(origin.view) - own] for f in axis)


def _straight(shape: Sequence[int]) -> Axis:
    return joined(f for axis in identity_view(shape) for f in axis)


@record
class _Vectors:
    """The tensor that the vectors of a product come from, and how many of them belong to a token."""

    base: Value
    each: int


def _vectors(value: Value, chosen: _Chosen, left: bool) -> _Vectors | None:
    """The vectors of an operand [.., 1, K] (on the left) or [.., K, 1], from as high up as can be."""
    if value.type.rank < 3 or value.type.shape[-2 if left else -1] != 1:
        return None
    best: _Vectors | None = None
    for origin in origins(value):
        each = _vectors_each(origin, chosen)
        if each is not None:
            best = _Vectors(origin.base, each)
    return best


def _vectors_each(origin: Origin, chosen: _Chosen) -> int | None:
    """1 if the base has a vector for each token, the number of experts if for each of these, else None."""
    shape = origin.base.type.static_shape
    if origin.scale != 1.0 or not shape:
        return None
    if joined(f for axis in origin.view[-2:] for f in axis) != identity_view(shape)[-1]:
        return None
    rows, count = _rows(origin), math.prod(shape[:-1])
    if rows == _straight(shape[:-1]) and count == chosen.tokens * chosen.experts:
        return chosen.experts
    repeated = rows[-1:] and rows[-1].is_broadcast and rows[-1].size == chosen.experts
    return 1 if repeated and rows[:-1] == _straight(shape[:-1]) and count == chosen.tokens else None


def _fuse(node: Node, chosen: _Chosen, vectors: _Vectors, vector_left: bool, rewriter: Rewriter) -> None:
    builder = Builder(rewriter, node)
    width = vectors.base.type.static_shape[-1]
    if chosen.weight.type.dtype is not vectors.base.type.dtype:
        return
    # in a product with the vector on the right, the matrices are [N, K]
    weight = builder.transpose(chosen.weight, 0, 2, 1) if vector_left != chosen.swapped else chosen.weight
    x = builder.reshape(vectors.base, (chosen.tokens, vectors.each, width))
    y = builder.call("expert_matmul", x, weight, builder.reshape(chosen.ids, (chosen.tokens, chosen.experts)))
    builder.replace(builder.reshape(y, node.result.type.static_shape))
