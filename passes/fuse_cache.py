"""Recognise appending to KV caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.passes.manager import PatternPass
from pimc.passes.match import opdef

_AXIS = 2


@dataclass(frozen=True)
class FuseCachePass(PatternPass):
    """A graph input that is lengthened and handed out again is a cache, appended in place.

        %present = concat(%past, %new) {axis=2}          // %past: input[B, KV, P, D], %present: output
    ->  %present = cache_append(%past, %new)             // %past: cache

    Asked for: rank 4, the sequence axis 2, the past as first operand, nothing else that reads the past (it changes in
    place) and the result handed out. `new` may come in several pieces, which are joined first.
    """

    name: ClassVar[str] = "fuse-cache"
    before: ClassVar[GraphStage] = GraphStage.IMPORTED
    root: ClassVar[tuple[str, ...]] = ("concat",)

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        pieces = [v for v in node.operands if v is not None]
        axis = node.attribute("axis")
        if len(pieces) < 2 or pieces[0].type.rank != 4 or axis not in (_AXIS, _AXIS - 4):
            return
        past = pieces[0]
        if not _is_cache(past) or not rewriter.graph.is_output(node.result):
            return
        if rewriter.graph.users(past) != [node] or past in pieces[1:] or rewriter.graph.is_output(past):
            return
        new = pieces[1]
        if len(pieces) > 2:
            new = rewriter.add(node.op, pieces[1:], {"axis": _AXIS}, origins=(node,)).result
        rewriter.set_role(past, Role.CACHE)
        rewriter.replace(node, opdef("cache_append"), (past, new), {"axis": _AXIS})


def _is_cache(value: Value) -> bool:
    return value.role in (Role.INPUT, Role.CACHE) and value.type.dtype.is_float
