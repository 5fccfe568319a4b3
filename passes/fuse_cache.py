"""Recognise appending to KV caches, and writing into them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.passes.building import Builder, operand_at
from pimc.passes.manager import PassContext, PatternPass
from pimc.passes.match import opdef, operand, used_only_by
from pimc.passes.views import identity_view, joined, origins
from pimc.record import record

_AXIS = 2


@record
class FuseCachePass(PatternPass):
    """A graph input that is lengthened, or written at given positions, and handed out again is a cache, held in place.

        %present = concat(%past, %new) {axis=2}          // %past: input[B, KV, P, D], %present: output
    ->  %present = cache_append(%past, %new)             // %past: cache

        %t = scatter_nd(transpose(%past), %position, transpose(%new)), %present = transpose(%t)
    ->  %present = cache_write(%past, %new, %position)   // [B, KV, C, D] with room for C positions

    Asked for: rank 4, the sequence axis 2 (but for transpositions), nothing else that reads the past (it changes in
    place) and the result handed out. `new` may come in several pieces, which are joined first. Writes may be
    scatter_nd, scatter_elements with the same positions for all heads and elements, or tensor_scatter.
    """

    name: ClassVar[str] = "fuse-cache"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    root: ClassVar[tuple[str, ...]] = ("concat", "scatter_nd", "scatter_elements", "tensor_scatter")

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        version = graph.version
        super().run(graph, rewriter, context)
        if graph.version != version:
            rewriter.remove_dead()

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        if node.op.name == "concat":
            _append(node, rewriter)
        elif all(v.type.is_static for v in (*node.inputs(), *node.results)):
            _write(node, rewriter)


def _append(node: Node, rewriter: Rewriter) -> None:
    pieces = [v for v in node.operands if v is not None]
    axis = node.attribute("axis")
    if len(pieces) < 2 or pieces[0].type.rank != 4 or axis not in (_AXIS, _AXIS - 4):
        return
    past = pieces[0]
    if not _is_cache(past, node, rewriter.graph) or not rewriter.graph.is_output(node.result) or past in pieces[1:]:
        return
    new = pieces[1]
    if len(pieces) > 2:
        new = rewriter.add(node.op, pieces[1:], {"axis": _AXIS}, origins=(node,)).result
    rewriter.set_role(past, Role.CACHE)
    rewriter.replace(node, opdef("cache_append"), (past, new), {"axis": _AXIS})


def _is_cache(value: Value, reader: Node, graph: Graph) -> bool:
    """Whether a value is a graph input of floats that only `reader` reads."""
    if value.role not in (Role.INPUT, Role.CACHE) or not value.type.dtype.is_float:
        return False
    return graph.users(value) == [reader] and not graph.is_output(value)


# -- writing at positions --------------------------------------------------------------------------------------------


@record
class _Written:
    """A write into a cache seen along `perm`: the cache is transposed by it, written, and turned back."""

    past: Value
    perm: tuple[int, ...]
    reader: Node
    new: Value
    """in the order of axes that `perm` makes"""
    positions: Value
    """integers whose last axis, or all of them, are those of the new rows; with `starts`, each request's first one"""
    starts: bool = False


def _write(node: Node, rewriter: Rewriter) -> None:
    found = _elements(node) if node.op.name == "scatter_elements" else _slices(node)
    graph = rewriter.graph
    if found is None or found.past.type.rank != 4 or not _is_cache(found.past, found.reader, graph):
        return
    if found.reader is not node and not used_only_by(graph, found.reader.result, (node,)):
        return
    if not _handed_out(node.result, found.perm, graph):
        return
    builder = Builder(rewriter, node)
    back = tuple(int(i) for i in np.argsort(found.perm))
    new = builder.transpose(found.new, *back)
    positions = _positions(found, new.type.static_shape, builder)
    if positions is None or found.past.type.dtype is not new.type.dtype:
        return
    rewriter.set_role(found.past, Role.CACHE)
    written = builder.call("cache_write", found.past, new, positions)
    builder.replace(builder.transpose(written, *found.perm))


def _positions(found: _Written, new: tuple[int, ...], builder: Builder) -> Value | None:
    positions = found.positions
    if found.starts:
        steps = builder.constant(np.arange(new[2], dtype=positions.type.dtype.numpy)[None, :], "steps")
        return builder.call("add", builder.reshape(positions, (new[0], 1)), steps)
    if positions.type.elements == new[2]:
        return builder.reshape(positions, (new[2],))
    return builder.reshape(positions, (new[0], new[2])) if positions.type.elements == new[0] * new[2] else None


def _slices(node: Node) -> _Written | None:
    """scatter_nd of whole slices along the first axis, and tensor_scatter."""
    past, perm, reader = _turned(operand_at(node, 0), node)
    if node.op.name == "tensor_scatter":
        return _starting(node, past, perm, reader)
    indices, new = operand_at(node, 1), operand_at(node, 2)
    one_axis = indices.type.shape[-1:] == (1,) and perm[:1] == (_AXIS,)
    if node.attribute("reduction") != "none" or not one_axis or new.type.rank != 4:
        return None
    return _Written(past, perm, reader, new, indices)


def _starting(node: Node, past: Value, perm: tuple[int, ...], reader: Node) -> _Written | None:
    starts, rank = operand(node, 2), past.type.rank
    axis = node.attribute("axis")
    if not isinstance(axis, int) or starts is None or node.attribute("mode") != "linear":
        return None
    if perm[axis % rank : axis % rank + 1] != (_AXIS,) or perm[:1] != (0,):
        return None
    return _Written(past, perm, reader, operand_at(node, 1), starts, starts=True)


def _elements(node: Node) -> _Written | None:
    """scatter_elements along the axis of positions, with indices that are the same for all heads and elements."""
    past, perm, reader = _turned(operand_at(node, 0), node)
    axis, rank = node.attribute("axis"), past.type.rank
    if node.attribute("reduction") != "none" or not isinstance(axis, int) or rank != 4:
        return None
    at = axis % rank
    if perm[at] != _AXIS:
        return None
    for origin in origins(operand_at(node, 1)):
        real = [(i, f) for i, factors in enumerate(origin.view) for f in factors if not f.is_broadcast]
        in_order = joined(f for _, f in real) == joined(
            f for factors in identity_view(origin.base.type.static_shape) for f in factors
        )
        if in_order and all(i == at or perm[i] == 0 for i, _ in real) and [i for i, _ in real] in ([], [at], [0, at]):
            return _Written(past, perm, reader, operand_at(node, 2), origin.base)
    return None


def _turned(value: Value, reader: Node) -> tuple[Value, tuple[int, ...], Node]:
    """The tensor that a value is a transposition of, the permutation, and the node that reads that tensor."""
    turn = value.owner
    perm = turn.attribute("perm") if turn is not None and turn.op.name == "transpose" else None
    if turn is None or not isinstance(perm, tuple) or turn.operands[0] is None:
        return value, tuple(range(value.type.rank)), reader
    return turn.operands[0], tuple(int(p) for p in perm), turn


def _handed_out(value: Value, perm: tuple[int, ...], graph: Graph) -> bool:
    """Whether the written cache is an output of the graph, turned back."""
    if list(perm) == sorted(perm):
        return graph.is_output(value)
    back = tuple(int(i) for i in np.argsort(perm))
    turns = [u for u in graph.users(value) if u.op.name == "transpose" and u.attribute("perm") == back]
    return any(graph.is_output(u.result) for u in turns)
