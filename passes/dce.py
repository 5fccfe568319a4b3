"""Removal of what no output needs, and of what is there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.op import OpClass
from pimc.ir.ops.caches import IN_PLACE
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

_LARGEST_CONSTANT = 1 << 20
"""Bytes of constants that are compared by contents."""


@record
class DcePass(Pass):
    """Remove nodes, weights and constants that no output depends on, and let equal nodes be one.

        %a = cos(%x); %b = cos(%x); %y = mul(%a, %b)   ->   %a = cos(%x); %y = mul(%a, %a)

    Inputs stay, they are the graph's interface. Collectives and in-place updates are never merged.
    """

    name: ClassVar[str] = "dce"

    merge: bool = True
    """Whether equal nodes (and equal small constants) become one."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        rewriter.remove_dead()
        if self.merge:
            _merge_constants(graph, rewriter)
            _merge_nodes(graph, rewriter)
            rewriter.remove_dead()


def _merge_constants(graph: Graph, rewriter: Rewriter) -> None:
    first: dict[Hashable, Value] = {}
    for value in list(graph.weights):
        array = value.type.array
        if value.role is not Role.CONSTANT or array is None or array.nbytes > _LARGEST_CONSTANT:
            continue
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
        kept = first.setdefault((value.type.dtype, value.type.shape, digest), value)
        rewriter.replace_uses(value, kept)


def _merge_nodes(graph: Graph, rewriter: Rewriter) -> None:
    first: dict[Hashable, Node] = {}
    for node in graph.order():
        if node.op.cls is OpClass.COLLECTIVE or node.op.name in IN_PLACE:
            continue
        operands = tuple(v.name if v is not None else None for v in node.operands)
        kept = first.setdefault((node.op.name, operands, tuple(sorted(node.attributes.items()))), node)
        if kept is not node:
            for old, new in zip(node.results, kept.results, strict=True):
                rewriter.replace_uses(old, new)
