"""Recognise rotary position embedding."""

from __future__ import annotations

from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.passes.building import Builder
from pimc.passes.last_axis import cut
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import opdef
from pimc.passes.rotary_pattern import Pairs, Rotation, find_rotation, nest_rotated
from pimc.passes.rotary_tables import HalfTables, table_shape
from pimc.record import record


@record
class FuseRotaryPass(Pass):
    """Rotary embedding becomes one op with tables of half width.

        %y = %x * %cos + concat(-%x[R/2:], %x[:R/2]) * %sin
    ->  %y = rotary(%x, %cos[..., :R/2], %sin[..., :R/2])

    Pairs may lie half the width apart or side by side (`interleaved`), and both elements of each may be written out.
    Asked for: tables that provably hold each number twice (constants, or made by a concatenation or repetition) or
    once, x of rank 4 with the tables the same for all heads. `concat(rotated, rest)` of a partial rotation is taken
    in. Tables are halved where the repetition arises, so that cosine and sine are computed once for each pair;
    x of [B,S,H,D] is transposed first. Pairs that are read side by side but written apart are sorted first.
    """

    name: ClassVar[str] = "fuse-rotary"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        tables = HalfTables(rewriter)
        version = graph.version
        for node in graph.order():
            if node.op.name == "concat":
                nest_rotated(node, rewriter)
        for node in graph.order():
            if node in graph and node.op.name == "concat":
                found = find_rotation(node, rewriter)
                if found is not None:
                    _fuse(found, tables, rewriter)
        if graph.version != version:
            rewriter.remove_dead()


def _fuse(found: Rotation, tables: HalfTables, rewriter: Rewriter) -> None:
    shape = found.x.shape
    if len(shape) != 4 or found.end.result.type.static_shape != shape or _is_scattered(found):
        return
    heads_first = _heads_first(found, shape)
    if heads_first is None:
        return
    positions = shape[2 if heads_first else 1]
    pairs = found.written is Pairs.NEIGHBOURS
    cos = tables.three_dimensional(found.cos, positions, found.width, pairs=pairs)
    sin = tables.three_dimensional(found.sin, positions, found.width, pairs=pairs)
    if cos is None or sin is None:
        return
    cos, sin = tables.equal_batch(cos, sin)
    dtype = found.x.whole.type.dtype
    if cos.type.dtype is not dtype or sin.type.dtype is not dtype or cos.type.shape != sin.type.shape:
        return
    builder = Builder(rewriter, found.end)
    x = cut(builder, found.x)
    if found.written is not found.read:
        x = _sorted(builder, x)
    x = x if heads_first else builder.transpose(x, 0, 2, 1, 3)
    origins = (found.end, *found.absorbed)
    turned = rewriter.add(opdef("rotary"), (x, cos, sin), {"interleaved": pairs}, origins=origins).result
    builder.replace(turned if heads_first else builder.transpose(turned, 0, 2, 1, 3))
    _drop(found.absorbed, rewriter)


def _is_scattered(found: Rotation) -> bool:
    """Whether pairs are read half a width apart and written side by side, which no model does."""
    return found.read is Pairs.HALVES and found.written is Pairs.NEIGHBOURS


def _sorted(builder: Builder, x: Value) -> Value:
    """x with the first elements of all its pairs in front of the second ones."""
    *rows, width = x.type.static_shape
    pairs = builder.reshape(x, (*rows, width // 2, 2))
    rank = len(rows) + 2
    return builder.reshape(builder.transpose(pairs, *range(rank - 2), rank - 1, rank - 2), (*rows, width))


def _drop(nodes: tuple[Node, ...], rewriter: Rewriter) -> None:
    """Remove what nothing reads any more, readers first."""
    for node in sorted(nodes, key=lambda n: -n.uid):
        if node in rewriter.graph and not any(rewriter.graph.use_count(r) for r in node.results):
            rewriter.remove(node)


def _heads_first(found: Rotation, x: tuple[int, ...]) -> bool | None:
    """Whether x is [B,H,S,D] (True) or [B,S,H,D] (False), by the axis that the tables do not have; None: neither."""
    tables = [_padded(table_shape(t, found.width)) for t in (found.cos, found.sin)]
    if any(t is None for t in tables):
        return None
    batch, first, second, _ = zip(*[t for t in tables if t is not None], strict=True)
    if any(b not in (1, x[0]) for b in batch):
        return None
    if set(first) == {1} and set(second) == {x[2]}:
        return True
    if set(second) == {1} and set(first) == {x[1]}:
        return False
    return None


def _padded(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (1,) * (4 - len(shape)) + shape if len(shape) <= 4 else None
